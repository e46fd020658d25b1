"""The dense Triton kernels, in the interpreter where there is no GPU: laws, operators, refusals.

The interpreter takes a second for what a GPU does in microseconds, so a law gets a tenth of the usual examples; every
configuration of the kernels gets all of them.
"""

import hypothesis
import pytest
import torch
from cases import cases, check, whole
from hypothesis import given
from hypothesis import strategies as st

import fast
from fast import chunked

triton_dense = fast.triton_dense
pytestmark = [
    pytest.mark.skipif(triton_dense is None, reason="triton is not installed"),
    # The interpreter stores float16 with numpy, which warns where a gradient is beyond 65,504 and becomes infinite.
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
]
if triton_dense is not None:
    import triton
    import triton.language as tl

NARROW = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = st.sampled_from([0, 1, 2, 5, 15, 16, 17, 31, 33, 47])
few = hypothesis.settings(max_examples=max(3, hypothesis.settings.default.max_examples // 10))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def narrow(draw, **how):
    """A dense case without float64, on the device the kernels run on."""
    case = draw(cases("dense", **{"dtypes": NARROW, "lengths": LENGTHS, "batches": (0, 1, 2), **how}))
    return case.map(lambda v: v.float() if v.dtype == torch.float64 else v)


def by_blocks(blocks):
    return lambda case: case.call(Forms(blocks))


class Forms:
    """The kernels in one configuration, under the name the other forms have."""

    def __init__(self, blocks):
        self.blocks = blocks

    def factorization_memory(self, *inputs, **options):
        return triton_dense.factorization_memory(*inputs, blocks=self.blocks, **options)


def test_the_interpreter_adds_right():
    """A broken interpreter should not look like a broken kernel."""
    x = torch.tensor([2.5, 2.0, -1.0, 0.25], device=DEVICE)
    out = torch.empty_like(x)
    add_kernel[(1,)](x, out, 4)
    assert out.tolist() == [5.0, 4.0, -2.0, 0.5]


if triton_dense is not None:

    @triton.jit
    def add_kernel(p_x, p_out, n: tl.constexpr):
        o = tl.arange(0, n)
        tl.store(p_out + o, tl.load(p_x + o) + tl.load(p_x + o))


@pytest.mark.parametrize("blocks", [] if triton_dense is None else triton_dense.CONFIGURATIONS, ids=str)
@few
@given(st.data())
def test_equals_the_loop(blocks, data):
    check(narrow(data.draw), by_blocks(blocks))


@few
@given(st.data())
def test_a_sequence_may_be_cut_in_time(data):
    case = narrow(data.draw, dtypes=(torch.float32,))
    cut = data.draw(st.integers(0, case.x.shape[1]))

    def two_calls(case):
        y, state = whole("triton")(case.pick(slice(cut), initial_state=case.initial_state))
        more, state = whole("triton")(case.pick(slice(cut, None), initial_state=state))
        return torch.cat([y, more], 1), state

    check(case, two_calls)


@few
@given(st.data())
def test_packed_sequences_are_separate_sequences(data):
    case = narrow(data.draw, batches=(1,), dtypes=(torch.float32,))
    total = case.x.shape[1]
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=4)))
    bounds = [0, *cuts, total]
    states = torch.randn(len(bounds) - 1, *case.state_shape()[1:], generator=torch.Generator().manual_seed(2))
    cu_seqlens = torch.tensor(bounds)
    inputs = [v.detach().clone().requires_grad_() for v in (case.theta, case.phi, case.x, states)]
    got = fast.factorization_memory(*inputs, eps=case.eps, backend="triton", cu_seqlens=cu_seqlens)
    copies = [v.detach().double().requires_grad_() for v in inputs]
    want = chunked.factorization_memory(*copies, eps=case.eps, cu_seqlens=cu_seqlens)
    grads = [
        torch.autograd.grad(sum(v.sum() for v in pair), leaves) for pair, leaves in ((got, inputs), (want, copies))
    ]
    for mine, theirs in (*zip(got, want, strict=True), *zip(*grads, strict=True)):
        scale = theirs.abs().max().item() if theirs.numel() else 0.0
        assert torch.allclose(mine.double(), theirs, rtol=1e-4, atol=1e-5 * scale)


@few
@given(st.data())
def test_a_sequence_does_not_depend_on_the_others(data):
    case = narrow(data.draw, batches=(2,), dtypes=(torch.float32,))
    y, state = whole("triton")(case)
    alone, alone_state = whole("triton")(case.pick(batch=slice(1, 2), initial_state=None if case.initial_state is None
                                                   else case.initial_state[1:]))  # fmt: skip
    assert torch.equal(y[1:], alone) and torch.equal(state[1:], alone_state)


def ordinary(*shape, requires_grad=False, **how):
    generator = torch.Generator().manual_seed(0)
    batch, time, slots, width = shape
    theta, phi = (torch.rand(batch, time, slots, generator=generator) for _ in range(2))
    x, state = torch.randn(batch, time, width, generator=generator), torch.randn(
        batch, slots, width, generator=generator
    )  # fmt: skip
    return [v.to(**how).requires_grad_(requires_grad) for v in (theta, phi, x, state)]


def test_more_slots_and_columns_than_a_block():
    """Sums over several blocks of slots and of columns, several chunks, borders that no block meets."""
    blocks = triton_dense.Blocks(16, 16, 16, 4)
    inputs = ordinary(1, 35, 37, 41, requires_grad=True)
    exact = [v.detach().double().requires_grad_() for v in inputs]
    results = []
    for memory, leaves in ((Forms(blocks).factorization_memory, inputs), (chunked.factorization_memory, exact)):
        y, state = memory(*leaves)
        results.append((y, state, *torch.autograd.grad(y.square().sum() + state.square().sum(), leaves)))
    for got, want in zip(*results, strict=True):
        assert (got.double() - want).norm() <= 1e-6 * want.norm()


def test_same_input_same_bits():
    inputs = ordinary(1, 20, 3, 5, requires_grad=True)
    runs = [fast.factorization_memory(*inputs, backend="triton") for _ in range(2)]
    grads = [torch.autograd.grad(y.sum() + state.sum(), inputs) for y, state in runs]
    for one, two in zip((*runs[0], *grads[0]), (*runs[1], *grads[1]), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(packed):
    theta, phi, x, state = ordinary(1, 18, 3, 5, requires_grad=True)
    cu_seqlens = torch.tensor([0, 7, 18]) if packed else None
    state = state.detach().repeat(2, 1, 1).requires_grad_() if packed else state
    arguments = (theta, phi, x, state, cu_seqlens, 1e-6, "ieee", True, 16, 16, 16, 4)
    torch.library.opcheck(torch.ops.factorization_memory.triton_dense.default, arguments)


def test_compiles_whole():
    inputs = ordinary(1, 18, 3, 5, requires_grad=True)
    run = torch.compile(lambda *v: fast.factorization_memory(*v, backend="triton"), fullgraph=True, backend="aot_eager")
    for got, want in zip(run(*inputs), fast.factorization_memory(*inputs, backend="triton"), strict=True):
        assert torch.equal(got, want)


def test_without_gradients_nothing_is_kept():
    inputs = ordinary(1, 20, 3, 5)
    arguments = (*inputs, None, 1e-6, "ieee", False, *triton_dense.DEFAULT)
    y, _, *saved = torch.ops.factorization_memory.triton_dense(*arguments)
    assert all(v.numel() == 0 for v in saved)
    with_gradients, _ = fast.factorization_memory(*[v.clone().requires_grad_() for v in inputs], backend="triton")
    assert torch.equal(y, with_gradients)


def test_nan_in_gives_nan_out():
    theta, phi, x, state = ordinary(2, 20, 3, 5)
    x[0, 18] = torch.nan
    y, state = fast.factorization_memory(theta, phi, x, state, backend="triton")
    assert y[0, 18:].isnan().all() and state[0].isnan().all()
    assert not y[1].isnan().any() and not state[1].isnan().any()


def test_float64_is_refused():
    inputs = ordinary(1, 2, 3, 5, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"^backend 'triton' needs float32 or half precision, got torch.float64"):
        fast.factorization_memory(*inputs, backend="triton")


def test_a_machine_without_gpu_is_told(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU was found" in fast.backends()["triton"]
    with pytest.raises(ValueError, match=r"^backend 'triton' cannot run here: no GPU was found"):
        fast.factorization_memory(*ordinary(1, 2, 3, 5), backend="triton")
