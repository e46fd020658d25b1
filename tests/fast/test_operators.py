"""What torch expects of an operator: gradcheck, opcheck, compile, autocast, no side effects, bounded memory."""

import importlib
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.library import opcheck
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fast
import reference
from fast import chunked, compiled, packing, scan, walk
from fast.backends import dense_kernels, sparse_form, sparse_kernels
from tests.support.cases import DENSE, SPARSE, whole
from verify.cases import lay_out
from verify.laws import cases

NAMES = ["theta", "phi", "value", "initial_state"]
every_backend = pytest.mark.parametrize("form, backend", [*DENSE, *SPARSE])
# torch's own warning, when it loads what forward mode needs
OPERATORS = torch.ops.factorization_memory


def inputs(form: str, B=2, T=9, M=5, D=4, K=3, dtype=torch.float32):
    """(theta, phi, value, state), slots: with gradients, some gates 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    weights = M if form == "dense" else K
    shapes = (B, T, weights), (B, T, weights), (B, T, D), (B, M, D)
    theta, phi, value, state = (torch.rand(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    theta[0, ::3], theta[-1, ::4] = 0, 1
    slots = None if form == "dense" else torch.rand(B, T, M, generator=generator).argsort(-1)[..., :K]
    return [v.requires_grad_() for v in (theta, phi, value - 0.5, state - 0.5)], slots


def function(form: str, slots, **options):
    """Of theta, phi, value, state alone."""
    if form == "dense":
        return lambda theta, phi, value, state: fast.factorization_memory(theta, phi, value, state, **options)
    return lambda theta, phi, value, state: fast.sparse_factorization_memory(
        theta, phi, slots, value, state.shape[1], state, **options
    )


def results(run, floating):
    """y, final state and all gradients."""
    leaves = [v.detach().requires_grad_() for v in floating]
    y, state = run(*leaves)
    return [y, state, *torch.autograd.grad(y.square().sum() + state.sin().sum(), leaves)]


@pytest.mark.parametrize("packed", [False, True], ids=["batch", "packed"])
@every_backend
def test_gradcheck(form, backend, packed):
    options = {"cu_seqlens": torch.tensor([0, 2, 2, 7])} if packed else {}
    floating, slots = inputs(form, B=1 if packed else 2, T=7, M=3, D=2, K=2, dtype=torch.float64)
    if packed:
        floating[3] = torch.rand(3, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(function(form, slots, eps=1e-2, backend=backend, **options), floating)


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 9]])
def test_opcheck(save, cu_seqlens):
    floating, _ = inputs("dense", B=1 if cu_seqlens else 2)
    *tokens, state = floating if save else [v.detach() for v in floating]
    state = torch.rand(3, 5, 4, requires_grad=save) if cu_seqlens else state
    packing = cu_seqlens and torch.tensor(cu_seqlens)
    opcheck(OPERATORS.chunked, (*tokens, state, packing, 1e-6, 4, save))
    if save:
        y, final, *saved = (v.detach() for v in OPERATORS.chunked(*tokens, state, packing, 1e-6, 4, save))
        tokens = [v.detach() for v in tokens]
        opcheck(OPERATORS.chunked_backward, (y, final, *tokens, packing, *saved, 1e-6, 4))


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 9]])
def test_opcheck_of_the_sparse_form(save, cu_seqlens):
    (theta, phi, value, state), slots = inputs("sparse", B=1 if cu_seqlens else 2)
    state = torch.rand(3, 5, 4, requires_grad=True) if cu_seqlens else state
    floating = [v if save else v.detach() for v in (theta, phi, value, state)]
    packing = cu_seqlens and torch.tensor(cu_seqlens)
    theta, phi, value, state = floating
    arguments = (theta, phi, slots, value, 5, state, packing)
    opcheck(OPERATORS.scan, (*arguments, 1e-6, save))
    if save:
        arguments = [v.detach() if isinstance(v, torch.Tensor) else v for v in arguments]
        y, final, *saved = OPERATORS.scan(*arguments, 1e-6, save)
        opcheck(OPERATORS.scan_backward, (y, final, *arguments, *saved, 1e-6))


def test_opcheck_of_slots():
    opcheck(OPERATORS.checked_slots, (torch.tensor([[[1, 0]]], dtype=torch.int32), 3, True))


@pytest.mark.parametrize("packed", [False, True], ids=["batch", "packed"])
@every_backend
def test_compiles_whole(form, backend, packed):
    """The graph that torch.compile traces, without the time that code generation takes."""
    floating, slots = inputs(form, B=1 if packed else 2)
    options = {"cu_seqlens": torch.tensor([0, 4, 9])} if packed else {}
    if packed:
        floating[3] = floating[3].detach().repeat(2, 1, 1)
    run = function(form, slots, backend=backend, **options)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for got, want in zip(results(compiled, floating), results(run, floating), strict=True):
        assert torch.equal(got, want)


def test_a_sparse_step_compiles_whole_if_it_need_not_look_at_slots():
    (theta, phi, value, state), slots = inputs("sparse")
    step = torch.compile(fast.sparse_step, fullgraph=True, backend="aot_eager")
    theta, phi, value = (v[:, 0].detach() for v in (theta, phi, value))
    arguments = theta, phi, slots[:, 0], value, state.detach()
    by_torch = importlib.import_module("fast.step").sparse_step  # what a graph is made of
    for got, want in zip(step(*arguments, check_values=False), by_torch(*arguments, eps=1e-6), strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inside its code generator
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiles_with_what_is_around_it():
    floating, _ = inputs("dense")

    def layer(theta, phi, value, state):
        y, state = fast.factorization_memory(theta.square(), phi, 2 * value, state)
        return y.tanh(), state

    for got, want in zip(
        results(torch.compile(layer, fullgraph=True), floating), results(layer, floating), strict=True
    ):
        torch.testing.assert_close(got, want)


LENGTHS = (3, 4, 17, 31, 32, 33, 64, 100)  # none is another size of inputs: torch.compile takes equals for the same


@every_backend
def test_two_graphs_do_for_any_length(form, backend):
    """One of them for a single chunk. Before 2 come two more, of torch itself: 0 and 1 are constants in its graphs."""
    counter, graphs = CompileCounterWithBackend("aot_eager"), set()
    run = function_of_all(form, backend=backend)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for T in LENGTHS:
        floating, slots = inputs(form, T=T, M=6, D=8, K=5)
        got = results(lambda *v, slots=slots: compiled(slots, *v), floating)
        want = results(lambda *v, slots=slots: run(slots, *v), floating)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        graphs.add(counter.frame_count)  # tracing may start twice for one graph
    assert len(graphs) <= 2


def function_of_all(form, **options):
    return lambda slots, *floating: function(form, slots, **options)(*floating)


class Module(torch.nn.Module):
    """A function, for torch.export."""

    def __init__(self, run):
        super().__init__()
        self.forward = run


@every_backend
def test_exports_for_any_length(form, backend):
    run = function_of_all(form, backend=backend)
    floating, slots = inputs(form, T=20)
    length = {1: torch.export.Dim("T", min=2, max=4096)}
    sizes = (None if slots is None else length, length, length, length, None)
    exported = torch.export.export(
        Module(lambda slots, theta, phi, value, state: run(slots, theta, phi, value, state)),
        (slots, *(v.detach() for v in floating)),
        dynamic_shapes=sizes,
    ).module()
    for T in LENGTHS:
        floating, slots = inputs(form, T=T)
        arguments = slots, *(v.detach() for v in floating)
        assert all(torch.equal(a, b) for a, b in zip(exported(*arguments), run(*arguments), strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@every_backend
def test_what_is_traced_does_for_any_length(form, backend):
    def arguments(T):
        floating, slots = inputs(form, T=T)
        theta, phi, value, state = (v.detach() for v in floating)
        return (theta, phi, value, state) if slots is None else (theta, phi, slots, value, state)

    def run(*arguments):
        if form == "dense":
            return fast.factorization_memory(*arguments, backend=backend)
        *tokens, state = arguments
        return fast.sparse_factorization_memory(*tokens, 5, state, backend=backend)

    traced = torch.jit.trace(run, arguments(20), check_trace=False)
    for T in (1, *LENGTHS):
        for got, want in zip(traced(*arguments(T)), run(*arguments(T)), strict=True):
            torch.testing.assert_close(got, want)


@every_backend
def test_autocast_changes_nothing(form, backend):
    floating, slots = inputs(form)
    run = function(form, slots, backend=backend)
    want = results(run, floating)
    with torch.autocast("cpu", torch.bfloat16):
        got = results(run, floating)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@settings(max_examples=20)
@given(st.sampled_from([*DENSE, *SPARSE]), st.data())
def test_the_callers_tensors_stay_as_they_are(which, data):
    case = data.draw(cases(which[0], batches=(1, 2)))
    tensors = [*case.map(lambda v: v.requires_grad_()).floating().values()]
    copies = [v.detach().clone() for v in tensors]
    y, state = whole(which[1])(case)
    on_y, on_state = torch.ones_like(y), torch.ones_like(state)
    torch.autograd.backward([y, state], [on_y, on_state])
    assert (on_y == 1).all() and (on_state == 1).all()
    assert all(torch.equal(v, copy) for v, copy in zip(tensors, copies, strict=True))


@every_backend
def test_the_same_input_gives_the_same_bits(form, backend):
    floating, slots = inputs(form, T=70)
    run = function(form, slots, backend=backend)
    first = results(run, floating)
    assert all(torch.equal(a, b) for a, b in zip(results(run, floating), first, strict=True))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert all(torch.equal(a, b) for a, b in zip(run(*floating), first, strict=False))


@every_backend
def test_backward_twice(form, backend):
    floating, slots = inputs(form)
    y, state = function(form, slots, backend=backend)(*floating)
    loss = y.square().sum() + state.sum()
    first = torch.autograd.grad(loss, floating, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, floating), strict=True))


@every_backend
def test_gradients_of_one_result_or_one_input_alone(form, backend):
    floating, slots = inputs(form)
    run = function(form, slots, backend=backend)
    for which in range(2):
        one = torch.autograd.grad(run(*floating)[which].sum(), floating, materialize_grads=True)
        results_ = run(*floating)
        both = torch.autograd.grad(
            results_[which].sum() + 0 * results_[1 - which].sum(), floating, materialize_grads=True
        )
        torch.testing.assert_close(one, both)
        for i, leaf in enumerate(floating):
            alone = [v if v is leaf else v.detach() for v in floating]
            grad = torch.autograd.grad(run(*alone)[which].sum(), leaf, materialize_grads=True)[0]
            assert torch.equal(grad, one[i])


@pytest.mark.parametrize("position", range(4), ids=NAMES)
@every_backend
def test_a_second_derivative_is_refused(form, backend, position):
    floating, slots = inputs(form)
    run = function(form, slots, backend=backend)
    grad = torch.autograd.grad(run(*floating)[0].square().sum(), floating[position], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="must not be differentiated again"):
        grad.sum().backward()
    grad = torch.autograd.grad(run(*floating)[0].sum(), floating[position], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="must not be differentiated again"):
        grad.sum().backward()
    direction = torch.ones_like(grad)
    alone = one_input(run, floating, position)
    for transform in (torch.autograd.functional.jvp, torch.autograd.functional.hvp):
        with pytest.raises(NotImplementedError, match="must not be differentiated again"):
            transform(lambda v: alone(v).sum(), floating[position].detach(), direction)


def one_input(run, floating, position):
    """y as a function of one of the inputs."""
    rest = [v.detach() for v in floating]
    return lambda v: run(*rest[:position], v, *rest[position + 1 :])[0]


@pytest.mark.parametrize("position", range(4), ids=NAMES)
@every_backend
def test_forward_mode_is_refused_by_name(form, backend, position):
    """An operator without a rule for tangents drops them: a derivative of 0, and no error."""
    floating, slots = inputs(form)
    alone = one_input(function(form, slots, backend=backend), floating, position)
    value = floating[position].detach()
    ones, ones1 = torch.ones_like(value), (torch.ones(1),)

    def dual(leaf):
        with forward_ad.dual_level():
            alone(forward_ad.make_dual(leaf, ones))

    ways = [
        lambda: torch.func.jvp(alone, (value,), (ones,)),
        lambda: torch.func.jacfwd(alone)(value),
        lambda: torch.func.jvp(torch.func.vmap(alone), (value[None],), (ones[None],)),
        lambda: torch.func.vmap(lambda v: torch.func.jvp(alone, (v,), (ones,)))(value[None]),
        lambda: torch.func.jvp(lambda v: torch.func.jvp(lambda u: alone(v) + u, ones1, ones1), (value,), (ones,)),
        lambda: torch.no_grad()(torch.func.jvp)(alone, (value,), (ones,)),
        lambda: dual(value),
        lambda: dual(value.clone().requires_grad_()),
    ]  # fmt: skip
    for way in ways:
        with pytest.raises(NotImplementedError, match=f"^{NAMES[position]} must not carry a tangent"):
            way()


@pytest.mark.parametrize("before", [False, True], ids=["compiled there", "compiled before"])
@every_backend
def test_what_is_compiled_refuses_forward_mode(form, backend, before):
    floating, slots = inputs(form)
    floating = [v.detach() for v in floating]
    run = torch.compile(function(form, slots, backend=backend), backend="aot_eager")
    if before:
        run(*floating)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(floating[2], torch.ones_like(floating[2]))
        with pytest.raises(NotImplementedError, match=r"must not (be compiled under|carry a tan)"):
            run(*floating[:2], dual, floating[3])


@every_backend
def test_a_tangent_of_the_gradients_is_refused(form, backend):
    floating, slots = inputs(form)
    for which, name in enumerate(("dy", "dfinal")):
        result = function(form, slots, backend=backend)(*floating)[which]
        with forward_ad.dual_level():
            on_it = forward_ad.make_dual(torch.ones_like(result), torch.ones_like(result))
            with pytest.raises(NotImplementedError, match=f"^{name} must not carry a tangent"):
                torch.autograd.grad(result, floating[2], on_it)


@every_backend
def test_torch_func_is_refused_by_name(form, backend):
    """It asks for another kind of operator, and says so in words of its own."""
    floating, slots = inputs(form)
    for position, value in enumerate(floating):
        alone = one_input(function(form, slots, backend=backend), floating, position)
        total, value = (lambda v, alone=alone: alone(v).sum()), value.detach()
        for way in (
            lambda total=total, value=value: torch.func.grad(total)(value),
            lambda total=total, value=value: torch.func.vmap(torch.func.grad(total))(value[None]),
            lambda total=total, value=value: torch.func.grad(lambda v: torch.func.vmap(total)(v).sum())(value[None]),
            lambda alone=alone, value=value: torch.func.vjp(alone, value),
            lambda total=total, value=value: torch.func.hessian(total)(value),
        ):
            with pytest.raises(NotImplementedError, match=f"^{NAMES[position]} must not be tracked by torch.func"):
                way()


@pytest.mark.parametrize("name", ["step", "sparse_step"])
def test_a_step_has_every_derivative(name):
    """It is made of torch's own operators: forward mode, torch.func and second derivatives are those of the loop."""
    floating, slots = inputs("sparse" if name == "sparse_step" else "dense", dtype=torch.float64)
    tokens = [v[:, 0].detach() for v in floating[:3]]
    leaves = (*tokens, floating[3].detach())
    tangents = tuple(torch.randn_like(v) for v in leaves)

    def run(module, **options):
        def call(theta, phi, value, state):
            weights = (theta, phi) if slots is None else (theta, phi, slots[:, 0])
            return getattr(module, name)(*weights, value, state, **options)

        return call

    for transform in (
        lambda f: torch.func.jvp(f, leaves, tangents)[1],
        lambda f: torch.autograd.functional.hvp(lambda *v: f(*v)[0].square().sum(), leaves, tangents)[1],
    ):
        for got, want in zip(transform(run(fast)), transform(run(reference)), strict=True):
            assert want.any()
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps an operator of ours one by one
@every_backend
def test_forward_may_be_mapped(form, backend):
    """By torch.func.vmap; torch.autograd finds its way back through it."""
    floating, slots = inputs(form)
    run = function(form, slots, backend=backend)
    many = [torch.stack([v.detach(), v.detach().flip(0)]).requires_grad_() for v in floating]

    def each(*values):
        return [torch.stack(v) for v in zip(*(run(*one) for one in zip(*values, strict=True)), strict=True)]

    for got, want in zip(results(torch.func.vmap(run), many), results(each, many), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("position", range(4), ids=["theta", "phi", "value", "state"])
@every_backend
def test_nan_in_nan_out(form, backend, position):
    """From its token on, in its own sequence alone. It may also reach earlier tokens of its chunk, which are near in
    time but for the scan, whose chunks follow slots: there, any of its row."""
    floating, slots = inputs(form, T=150)
    floating = [v.detach().clone() for v in floating]
    if position < 3:
        floating[position][0, 100] = torch.nan
    else:
        floating[position][0] = torch.nan
    floating[0].clamp_(max=0.9)
    y, state = function(form, slots, backend=backend)(*floating)
    assert y[0, 100].isnan().all() and y[1].isfinite().all() and state[1].isfinite().all()
    assert position == 3 or backend == "scan" or y[0, :64].isfinite().all()
    if position != 1:
        touched = [[]] if form == "dense" else slots[0, 100]
        assert state[0, touched].isnan().all()
    grads = results(function(form, slots, backend=backend), floating)[2:]
    assert grads[2][0].isnan().any() and grads[2][1].isfinite().all()


@pytest.mark.parametrize("row", [0, 1])
def test_nan_stays_in_its_row_where_rows_are_several_lines(row):
    floating, slots = inputs("sparse", T=150)
    floating = [v.detach().clone() for v in floating]
    floating[3][row] = torch.nan
    with patch.object(scan, "LINE_CHUNKS", 4):
        for v in results(function("sparse", slots, backend="scan"), floating):
            assert v[row].isnan().any() and v[1 - row].isfinite().all()


@pytest.mark.parametrize(
    "form, backend, states",
    [("dense", "chunked", 2 * 1024 // 32 * 16), ("sparse", "scan", 2 * 1024 * 3 // 16), ("sparse", "walk", 0)],
)
def test_what_is_saved_grows_with_chunks_not_with_tokens(form, backend, states):
    """Beside the inputs: a state per chunk, and inner products, which do not depend on the width of a slot."""

    def saved(width: int) -> int:
        floating, slots = inputs(form, B=2, T=1024, M=16, D=width)
        given, sizes = {v.data_ptr() for v in floating}, []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda v: sizes.append(0 if v.data_ptr() in given else v.numel()), lambda v: v
        ):
            function(form, slots, backend=backend)(*floating)
        return sum(sizes)

    assert saved(200) - saved(100) == 100 * states
    assert saved(100) - 100 * states < 5 * 2 * 1024 * 16


def largest(form: str, B: int, T: int, M: int, D: int, K: int) -> int:
    """Numbers of the largest tensor that one pass of the scan makes."""
    (theta, phi, value, state), slots = inputs("sparse", B=B, T=T, M=M, D=D, K=K)
    operator = scan._forward_op if form == "forward" else scan._backward_op
    arguments = [v.detach() if isinstance(v, torch.Tensor) else v for v in (theta, phi, slots, value, M, state, None)]
    y, final, *saved = scan._forward_op(*arguments, 1e-6, True)
    rest = (*arguments, 1e-6, True) if form == "forward" else (y, final, *arguments, *saved, 1e-6)
    with Largest() as seen:
        operator._init_fn(*rest)
    return seen.numbers


@pytest.mark.parametrize("form", ["forward", "backward"])
def test_the_scan_allocates_nothing_of_the_size_of_all_slots_of_all_tokens(form):
    """No tensor has B T M numbers, let alone D times as many."""
    B, T, M, D, K = 2, 600, 1000, 2, 3
    assert B * M * D <= largest(form, B, T, M, D, K) < B * T * K * 32 < B * T * M / 4


@pytest.mark.parametrize("form", ["forward", "backward"])
def test_blocks_and_parts_bound_what_the_scan_works_on(form):
    """No tensor has D numbers, nor a row of decays, for each of the B T K pairs: value is the largest."""
    with patch.multiple(scan, BLOCK_NUMBERS=2048, PART_PAIRS=512):
        assert largest(form, B=2, T=600, M=16, D=16, K=8) == 2 * 600 * 16


@pytest.mark.parametrize("width", [1, 64, 512, 100_000])
@pytest.mark.parametrize("pairs", [0, 1, 16, 17, 2050, 100_000])
def test_lines_and_blocks_are_no_larger_than_asked_for(pairs, width):
    row, line, block = scan._row_length(pairs, width)
    assert 0 <= row - pairs < max(row // line, 1) * scan.CHUNK
    assert row % line == block % line == line % scan.CHUNK == 0 and line in (row, block, scan.CHUNK)
    assert line <= scan.LINE_CHUNKS * scan.CHUNK and block <= max(scan.BLOCK_NUMBERS / width, scan.CHUNK)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest new tensor holds."""

    numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **kwargs or {})
        for v in pytree.tree_leaves(result):
            if isinstance(v, torch.Tensor):
                self.numbers = max(self.numbers, v.untyped_storage().nbytes() // v.element_size())
        return result


@every_backend
def test_nothing_is_saved_without_gradients(form, backend):
    floating, slots = inputs(form)
    module = {"chunked": chunked, "scan": scan, "walk": walk}[backend]
    with torch.no_grad(), patch.object(module, "_forward_op", wraps=module._forward_op) as operator:
        function(form, slots, backend=backend)(*floating)
        _, _, *saved = operator(*operator.call_args.args)
    assert not any(v.numel() for v in saved)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
@every_backend
def test_nothing_in_nothing_out(form, backend, shape):
    B, T = shape
    floating, slots = inputs(form, B=2, T=5)
    floating = [v[:B, :T] for v in floating[:3]] + [floating[3][:B]]
    slots = slots if slots is None else slots[:B, :T]
    y, state, *grads = results(function(form, slots, backend=backend), floating)
    assert y.shape == (B, T, 4) and torch.equal(state, floating[3])
    assert [g.shape for g in grads] == [v.shape for v in floating]
    torch.testing.assert_close(grads[3], floating[3].cos())


@pytest.mark.parametrize("layout", ["transposed", "gaps"])
@every_backend
def test_inputs_of_a_whole_chunk_may_lie_in_any_order(form, backend, layout):
    """Nothing is filled up, cut or cast, so that what is given comes to the products as it lies."""
    floating, slots = inputs(form, B=2, T=32)
    want = results(function(form, slots, backend=backend), floating)
    laid_out = [lay_out(v.detach(), layout).requires_grad_() for v in floating]
    got = results(function(form, slots, backend=backend), laid_out)
    assert all(map(torch.equal, got, want))


def test_default_chunk_lengths_are_32_or_64_or_what_a_short_sequence_needs():
    lengths = (0, 1, 2, 3, 31, 33, 63, 5000)
    for state, most in ((torch.zeros(4, 8), 32), (torch.zeros(64, 512), 64)):
        slots, width = state.shape
        got = [chunked.default_chunk_length(torch.zeros(1, T, width), slots) for T in lengths]
        assert got == [max(1, min(T, most)) for T in lengths]


@pytest.mark.parametrize("length", [1, 5, 20, 32])
def test_nothing_is_saved_of_tokens_that_are_not_there(length):
    """A chunk that is not a power of two is padded to one, and what is saved is not."""
    floating, _ = inputs("dense", B=2, T=40)
    _, _, states, *saved = chunked._forward_op(*floating, None, 1e-6, length, True)
    chunks = -(-40 // length)
    assert states.shape == (2, chunks, 5, 4)
    shapes = [(length, 5), (length + 1, 5), (length, length)]
    assert [v.shape for v in saved] == [(2, chunks, *shape) for shape in shapes]


@pytest.mark.parametrize(
    "on_gpu, numba, dtype, per_token, chosen",
    [
        (False, True, torch.float32, 4, "walk"),
        (False, True, torch.float64, 16, "walk"),
        (False, True, torch.float32, 32, "dense"),
        (False, False, torch.float32, 4, "scan"),
        (False, False, torch.float32, 16, "dense"),
        (True, True, torch.float32, 4, "triton"),
        (True, True, torch.float64, 4, "scan"),
        (True, True, torch.float64, 16, "dense"),
        (True, True, torch.float32, 16, "dense triton"),
    ],
)
def test_auto_takes_the_form_that_fits(monkeypatch, on_gpu, numba, dtype, per_token, chosen):
    if sparse_kernels is None and "triton" in chosen:
        pytest.skip("triton is not installed")
    if chosen == "walk" and compiled.why_not() is not None:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(torch.Tensor, "is_cuda", on_gpu)
    monkeypatch.setattr(torch.Tensor, "is_cpu", not on_gpu)
    if not numba:
        monkeypatch.setattr(compiled, "why_not", lambda: "numba is not installed")
    form = sparse_form("auto", per_token, 32, torch.zeros(1, dtype=dtype), None)
    if chosen == "dense triton":
        assert form.func is packing.over_zeros and form.args == (dense_kernels.factorization_memory,)
    else:
        module = {"walk": walk, "scan": scan, "dense": chunked, "triton": sparse_kernels}[chosen]
        assert form is module.sparse_factorization_memory


def test_the_dense_form_over_zeros_is_the_sparse_one():
    floating, slots = inputs("sparse")
    arguments = (*floating[:2], slots, floating[2], floating[3].shape[1], floating[3])
    got = packing.over_zeros(fast.factorization_memory, *arguments, eps=1e-6, cu_seqlens=None, check_values=True)
    for a, b in zip(got, chunked.sparse_factorization_memory(*arguments), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("M, D, C", [(96, 160, 64), (32, 64, 32)])
def test_the_matrix_products_are_those_that_the_page_counts(M, D, C):
    """docs/derivation.md, section 5: per token 6MD + 4CD + 2CM forward, 12MD + 6CD + 6CM backward.

    Sums of one or two terms are no matrix products (`_product`), and the corners of a tile have C - 1 columns in all:
    5 M and 14 M fewer.
    """
    theta, phi, value = torch.rand(1, C, M), torch.rand(1, C, M), torch.randn(1, C, D)
    states, dstate = torch.zeros(1, 1, M, D), torch.zeros(1, M, D)

    def counted(function, *arguments):
        def add_product(_, a, b, *, out_val=None, **options):
            return 2 * a[0] * a[1] * a[2] * b[2]

        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: add_product}) as counter:
            results = function(*arguments, lambda chunk, state: None, 1e-6)
        return counter.get_total_flops() / C, results

    forward, (_, _, start, norms, gram) = counted(chunked._forward_span, theta, phi, value, states)
    assert forward == 6 * M * D + 4 * C * D + 2 * C * M - 5 * M
    backward, _ = counted(chunked._backward_span, theta, phi, value, value, states, start, norms, gram, dstate)
    assert backward == 12 * M * D + 6 * C * D + 6 * C * M - 14 * M
    page = (Path(__file__).parents[2] / "docs" / "derivation.md").read_text(encoding="utf-8")
    assert "| forward | 6·M·D, in three products | 4·C·D + 2·C·M |" in page
    assert "| backward | 12·M·D | 6·C·D + 6·C·M |" in page
