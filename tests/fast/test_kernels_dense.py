"""The dense Triton kernels, in the interpreter where there is no GPU: laws, operators, refusals.

The interpreter takes a second for what a GPU does in microseconds, so a law gets a tenth of the usual examples; every
configuration of the kernels gets all of them.
"""

from dataclasses import replace
from functools import partial

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast
from fast import chunked
from tests.fast import test_laws
from tests.support.cases import steps, whole
from verify.laws import cases, check

dense_kernels = fast.kernels.dense
pytestmark = [
    pytest.mark.skipif(dense_kernels is None, reason="triton is not installed"),
    # The interpreter stores float16 with numpy, which warns where a gradient is beyond 65,504 and becomes infinite.
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
]
if dense_kernels is not None:
    import triton
    import triton.language as tl

NARROW = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = st.sampled_from([33, 0, 1, 2, 5, 15, 16, 17, 31, 47])  # the first example is made of what comes first
few = hypothesis.settings(max_examples=max(3, hypothesis.settings.default.max_examples // 10))
LAWS = (
    test_laws.test_a_sequence_may_be_cut_in_time,
    test_laws.test_permuted_slots_permute_the_state,
    test_laws.test_a_permuted_batch_permutes_the_result,
    test_laws.test_packed_sequences_are_separate_sequences,
    test_laws.test_the_future_leaves_the_past_as_it_is,
    test_laws.test_every_slot_stays_in_the_hull_of_what_it_was_offered,
    test_laws.test_theta_0_keeps_and_theta_1_replaces,
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def narrow(draw, **how):
    """A dense case without float64."""
    case = draw(cases("dense", **{"dtypes": NARROW, "lengths": LENGTHS, "batches": (0, 1, 2), **how}))
    return case.map(lambda v: v.float() if v.dtype == torch.float64 else v)


def sharp(draw, **how):
    """A dense case in float32, where rounding hides little, with sequences in it."""
    return narrow(draw, **{"batches": (2, 1), **how, "dtypes": (torch.float32,)})


def by_blocks(blocks):
    return lambda case: case.call(Forms(blocks))


class Forms:
    """The kernels in one configuration, under the name the other forms have."""

    def __init__(self, blocks):
        self.blocks = blocks

    def factorization_memory(self, *inputs, **options):
        return dense_kernels.factorization_memory(*inputs, blocks=self.blocks, **options)


def test_the_interpreter_adds_right():
    """A broken interpreter should not look like a broken kernel."""
    value = torch.tensor([2.5, 2.0, -1.0, 0.25], device=DEVICE)
    out = torch.empty_like(value)
    add_kernel[(1,)](value, out, 4)
    assert out.tolist() == [5.0, 4.0, -2.0, 0.5]


if dense_kernels is not None:

    @triton.jit
    def add_kernel(p_x, p_out, n: tl.constexpr):
        o = tl.arange(0, n)
        tl.store(p_out + o, tl.load(p_x + o) + tl.load(p_x + o))


@pytest.mark.parametrize("blocks", [] if dense_kernels is None else dense_kernels.CONFIGURATIONS, ids=str)
@few
@given(st.data())
def test_equals_the_loop(blocks, data):
    check(narrow(data.draw), by_blocks(blocks))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
@few
@given(st.data())
def test_obeys(law, data):
    law.holds(sharp(data.draw, **law.how), whole("triton"), data.draw)


@few
@given(st.data())
def test_the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(data):
    """Numbers near 1, no gate between 0 and 1e-3: float32 has no eps that vanishes beside the squares of less."""
    law = test_laws.test_the_scale_of_what_is_written_does_not_matter_as_eps_vanishes
    case = sharp(data.draw, **law.how)
    scale, state_scale = case.made_of["scales"]
    state = None if case.initial_state is None else case.initial_state / state_scale
    theta = case.theta.masked_fill(case.theta < 1e-3, 0)
    law.holds(replace(case, theta=theta, value=case.value / scale, initial_state=state), whole("triton"), data.draw)


@pytest.mark.parametrize("name", ["step", "step_"])
@few
@given(st.data())
def test_decode_steps_are_a_prefill(name, data):
    case = sharp(data.draw)
    prefill = [v.double() for v in whole("triton")(case)]
    check(case, steps(getattr(fast.kernels.step, name)), truth=lambda _: prefill, differentiate=False)


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
    value, state = torch.randn(batch, time, width, generator=generator), torch.randn(
        batch, slots, width, generator=generator
    )  # fmt: skip
    return [v.to(**how).requires_grad_(requires_grad) for v in (theta, phi, value, state)]


def test_more_slots_and_columns_than_a_block():
    """Sums over several blocks of slots and of columns, several chunks, borders that no block meets."""
    blocks = dense_kernels.Blocks(16, 16, 16, 4)
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
    theta, phi, value, state = ordinary(1, 18, 3, 5, requires_grad=True)
    cu_seqlens = torch.tensor([0, 7, 18]) if packed else None
    state = state.detach().repeat(2, 1, 1).requires_grad_() if packed else state
    arguments = (theta, phi, value, state, cu_seqlens, 1e-6, "ieee", True, 16, 16, 16, 4)
    torch.library.opcheck(torch.ops.factorization_memory.triton_dense.default, arguments)


def test_compiles_whole():
    inputs = ordinary(1, 18, 3, 5, requires_grad=True)
    run = torch.compile(lambda *v: fast.factorization_memory(*v, backend="triton"), fullgraph=True, backend="aot_eager")
    for got, want in zip(run(*inputs), fast.factorization_memory(*inputs, backend="triton"), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "dtype, setting, precision",
    [(torch.float32, "highest", "ieee"), (torch.float32, "high", "tf32"), (torch.bfloat16, "highest", "tf32")],
    ids=str,
)
def test_float32_is_multiplied_as_torch_is_told(monkeypatch, dtype, setting, precision):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: setting)
    value = torch.zeros(1, dtype=dtype)
    assert [dense_kernels._precision(asked, value) for asked in ("auto", "ieee", "tf32")] == [precision, "ieee", "tf32"]


def test_the_fastest_blocks_are_those_that_fit_and_take_least_time(monkeypatch):
    tried = []

    def measure(run):
        run()
        tried.append(run.args[0])
        if run.args[0] == small:
            raise triton.OutOfResources(200_000, 100_000, "shared memory")
        return {large: 1.0, middle: 2.0}[run.args[0]]

    small, middle, large = (dense_kernels.Blocks(16, 16, width, 4) for width in (16, 32, 64))
    monkeypatch.setattr(dense_kernels, "CONFIGURATIONS", (small, middle, large))
    theta, phi, value, _ = ordinary(1, 18, 3, 5)
    assert dense_kernels.fastest(theta, phi, value, measure) == large and tried == [small, middle, large]
    with pytest.raises(ValueError, match="x must be on the GPU that is to be measured, got cpu"):
        dense_kernels.fastest(theta, phi, value)


def test_without_gradients_nothing_is_kept():
    inputs = ordinary(1, 20, 3, 5)
    arguments = (*inputs, None, 1e-6, "ieee", False, *dense_kernels.DEFAULT)
    y, _, *saved = torch.ops.factorization_memory.triton_dense(*arguments)
    assert all(v.numel() == 0 for v in saved)
    with_gradients, _ = fast.factorization_memory(*[v.clone().requires_grad_() for v in inputs], backend="triton")
    assert torch.equal(y, with_gradients)


def test_nan_in_gives_nan_out():
    theta, phi, value, state = ordinary(2, 20, 3, 5)
    value[0, 18] = torch.nan
    y, state = fast.factorization_memory(theta, phi, value, state, backend="triton")
    assert y[0, 18:].isnan().all() and state[0].isnan().all()
    assert not y[1].isnan().any() and not state[1].isnan().any()


def test_float64_is_refused():
    theta, phi, value, state = ordinary(1, 2, 3, 5, dtype=torch.float64)
    message = r"^backend 'triton' needs float32 or half precision, got torch.float64"
    with pytest.raises(TypeError, match=message):
        fast.factorization_memory(theta, phi, value, state, backend="triton")
    slots = torch.arange(3).expand(theta.shape)
    with pytest.raises(TypeError, match=message):
        fast.sparse_factorization_memory(theta, phi, slots, value, 3, state, backend="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="nobody looks at the bounds of a GPU")
@pytest.mark.parametrize("bounds", [[0, 0, 7, 24, 17], [1, 17], [0, 16]])
def test_bounds_that_can_be_seen_are_looked_at(bounds):
    one = torch.rand(1, 17, 1)
    for call in (
        partial(fast.factorization_memory, one, one, one),
        partial(fast.sparse_factorization_memory, one, one, torch.zeros(1, 17, 1, dtype=torch.int64), one, 1),
    ):
        with pytest.raises(ValueError, match=r"^cu_seqlens must rise from 0 to the number of tokens, 17, got"):
            call(backend="triton", cu_seqlens=torch.tensor(bounds))
