"""The sparse Triton kernels, in the interpreter where there is no GPU: laws, operators, limits.

As in test_triton.py a law gets a tenth of the usual examples. FEW lets chunks, runs and tokens need several programs.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from fast import packing, scan
from tests.fast import test_laws
from tests.fast.test_kernels_dense import NARROW, few
from tests.support.cases import steps
from verify.laws import cases, check

sparse_kernels = pytest.importorskip("fast.kernels.sparse", reason="triton is not installed", exc_type=ImportError)
from fast.kernels import step as step_kernels  # noqa: E402

# The interpreter stores float16 with numpy, which warns where a gradient is beyond 65,504 and becomes infinite.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")

FEW = sparse_kernels.Blocks(4, 64, 1)
LENGTHS = st.sampled_from([13, 0, 1, 2, 3, 5, 8, 16, 21])  # the first example is made of what comes first
LAWS = (
    test_laws.test_a_sequence_may_be_cut_in_time,
    test_laws.test_permuted_slots_permute_the_state,
    test_laws.test_a_permuted_batch_permutes_the_result,
    test_laws.test_packed_sequences_are_separate_sequences,
    test_laws.test_sparse_with_all_slots_is_dense,
    test_laws.test_the_future_leaves_the_past_as_it_is,
    test_laws.test_slots_not_named_stay_bit_for_bit,
    test_laws.test_every_slot_stays_in_the_hull_of_what_it_was_offered,
    test_laws.test_theta_0_keeps_and_theta_1_replaces,
)


def narrow(draw, **how):
    """A case without float64."""
    case = draw(cases(**{"form": "sparse", "dtypes": NARROW, "lengths": LENGTHS, "batches": (0, 1, 2), **how}))
    return case.map(lambda v: v.float() if v.dtype == torch.float64 else v)


def sharp(draw, **how):
    """A case in float32, where rounding hides little, with sequences in it."""
    return narrow(draw, **{"batches": (2, 1), **how, "dtypes": (torch.float32,)})


class Forms:
    """The kernels in one configuration, under the name the other forms have."""

    def __init__(self, blocks=FEW):
        self.blocks = blocks

    def sparse_factorization_memory(self, *inputs, **options):
        return sparse_kernels.sparse_factorization_memory(*inputs, blocks=self.blocks, **options)


def by_blocks(blocks=FEW):
    return lambda case, **options: case.call(Forms(blocks), **options)


@pytest.mark.parametrize("blocks", [FEW, *sparse_kernels.CONFIGURATIONS], ids=str)
@few
@given(st.data())
def test_equals_the_loop(blocks, data):
    check(narrow(data.draw), by_blocks(blocks))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
@few
@given(st.data())
def test_obeys(law, data):
    law.holds(sharp(data.draw, **law.how), by_blocks(), data.draw)


@few
@given(st.data())
def test_decode_steps_are_a_prefill(data):
    case = sharp(data.draw)
    prefill = [v.double() for v in by_blocks()(case)]
    check(case, steps(step_kernels.sparse_step), truth=lambda _: prefill, differentiate=False)


@few
@given(st.data())
def test_a_slot_of_weight_zero_may_be_left_out(data):
    case = sharp(data.draw)
    other = data.draw(st.integers(1, 9))
    slots = torch.cat([case.slots, torch.full_like(case.slots[..., :1], case.num_slots)], -1)
    theta, phi = (torch.cat([v, torch.zeros_like(v[..., :1])], -1) for v in (case.theta, case.phi))
    state = torch.cat([case.start(), torch.full_like(case.start()[:, :1], other)], 1)
    idle = replace(case, theta=theta, phi=phi, slots=slots, num_slots=case.num_slots + 1, initial_state=state)
    want = [v.double() for v in by_blocks()(case)]
    _, last = by_blocks()(idle)
    assert (last[:, -1] == other).all()
    check(case, lambda _: (by_blocks()(idle)[0], last[:, :-1]), truth=lambda _: want, differentiate=False)


@few
@given(st.data())
def test_a_sequence_does_not_depend_on_the_others(data):
    def bits(case):
        case = case.map(lambda v: v.detach().clone().requires_grad_())
        y, state = by_blocks()(case)
        return y, state, *torch.autograd.grad(y.square().sum() + state.square().sum(), case.floating().values())

    case = sharp(data.draw, batches=(2,))
    state = None if case.initial_state is None else case.initial_state[1:]
    for got, alone in zip(bits(case), bits(case.pick(batch=slice(1, 2), initial_state=state)), strict=True):
        assert torch.equal(got[1:], alone)


def ordinary(batch=1, time=20, num_slots=5, per_token=2, width=5, spread=1.0):
    """theta, phi, slots, value, num_slots, an initial state; the smaller the spread, the more use the first slots."""
    generator = torch.Generator().manual_seed(0)
    shape = batch, time, per_token
    theta, phi = (torch.rand(shape, generator=generator) for _ in range(2))
    order = spread * torch.rand(batch, time, num_slots, generator=generator) + torch.arange(num_slots)
    value = torch.randn(batch, time, width, generator=generator)
    state = torch.randn(batch, num_slots, width, generator=generator)
    return theta, phi, order.argsort(-1)[..., :per_token], value, num_slots, state


def leaves(inputs, dtype=torch.float32):
    return [
        v.to(dtype).requires_grad_() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in inputs
    ]


def with_gradients(memory, inputs, function=lambda y, state: y.square().sum() + state.square().sum(), **options):
    y, state = memory(*inputs, **options)
    wanted = [v for v in inputs if isinstance(v, torch.Tensor) and v.requires_grad]
    return y, state, *torch.autograd.grad(function(y, state), wanted, materialize_grads=True)


@pytest.mark.parametrize("spread", [2.0, 100.0], ids=["few slots in use", "all slots in use"])
@pytest.mark.parametrize("blocks", [sparse_kernels.Blocks(2, 64, 1), sparse_kernels.DEFAULT], ids=str)
def test_more_pairs_and_columns_than_a_block(blocks, spread):
    """Runs over many chunks and chunks of many runs, borders that no block meets, rows wider than a block."""
    wide = blocks == sparse_kernels.DEFAULT
    inputs = ordinary(1 if wide else 2, 43 if wide else 23, 19, 2, 1031 if wide else 37, spread)
    got = with_gradients(sparse_kernels.sparse_factorization_memory, leaves(inputs), blocks=blocks)
    want = with_gradients(scan.sparse_factorization_memory, leaves(inputs, torch.float64))
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).norm() <= 1e-6 * other.norm()


@pytest.mark.parametrize("of", ["y", "the final state"])
def test_gradients_of_one_result_alone(of):
    function = lambda y, state: (y if of == "y" else state).square().sum()  # noqa: E731
    inputs = ordinary()
    got = with_gradients(sparse_kernels.sparse_factorization_memory, leaves(inputs), function, blocks=FEW)
    want = with_gradients(scan.sparse_factorization_memory, leaves(inputs, torch.float64), function)
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).norm() <= 1e-6 * other.norm()


def test_same_input_same_bits():
    runs = [with_gradients(Forms().sparse_factorization_memory, leaves(ordinary())) for _ in range(2)]
    assert all(map(torch.equal, *runs))


def test_nan_goes_where_the_loop_takes_it():
    """To the slots its token writes to, and from there to the tokens that read them: no other, whatever the chunks."""
    theta, phi, slots, value, num_slots, state = ordinary(2, 20)
    value[0, 3] = torch.nan
    state[1, 2] = torch.nan
    inputs = theta, phi, slots, value, num_slots, state
    got, want = Forms().sparse_factorization_memory(*inputs), reference.sparse_factorization_memory(*inputs)
    for one, other in zip(got, want, strict=True):
        assert one.isnan().any() and torch.equal(one.isnan(), other.isnan())


def test_a_slot_outside_shows_and_harms_no_other():
    """Nobody looks at the slots of a GPU. The call must neither touch memory of others nor go unnoticed."""
    theta, phi, slots, value, num_slots, state = ordinary()
    outside = torch.zeros_like(slots, dtype=torch.bool)
    outside[0, 4, 1] = outside[0, 11, 0] = True
    wrong = slots.masked_fill(outside, num_slots).index_fill(1, torch.tensor(11), -(1 << 40))
    wrong = torch.where(outside, wrong, slots)
    y, got = Forms().sparse_factorization_memory(theta, phi, wrong, value, num_slots, state, check_values=False)
    told = outside.any(-1)
    assert y[told].isnan().all() and not y[~told].isnan().any()
    _, want = Forms().sparse_factorization_memory(theta.masked_fill(outside, 0), phi, slots, value, num_slots, state)
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match=r"^slots must lie in \[0, 5\), got 5"):
        Forms().sparse_factorization_memory(theta, phi, wrong, value, num_slots, state)


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(packed):
    theta, phi, slots, value, num_slots, state = leaves(ordinary(1, 18))
    cu_seqlens = torch.tensor([0, 7, 18]) if packed else None
    state = state.detach().repeat(2, 1, 1).requires_grad_() if packed else state
    arguments = (theta, phi, slots, value, num_slots, state, cu_seqlens, 1e-6, True, *FEW)
    torch.library.opcheck(torch.ops.factorization_memory.triton_sparse.default, arguments)


def test_compiles_whole():
    inputs = leaves(ordinary(1, 9))
    run = torch.compile(sparse_kernels.sparse_factorization_memory, fullgraph=True, backend="aot_eager")
    both = (with_gradients(memory, inputs) for memory in (run, sparse_kernels.sparse_factorization_memory))
    assert all(map(torch.equal, *both))


def test_without_gradients_nothing_is_kept():
    inputs = ordinary()
    y, _, *saved = torch.ops.factorization_memory.triton_sparse(*inputs, None, 1e-6, False, *FEW)
    assert all(v.numel() == 0 for v in saved)
    assert torch.equal(y, Forms().sparse_factorization_memory(*leaves(inputs))[0])


def test_what_is_kept_does_not_grow_with_the_slots():
    """Beside three integers a pair, a state for every chunk of pairs."""
    inputs = ordinary(2, 20, num_slots=50, per_token=2)
    _, _, *saved = torch.ops.factorization_memory.triton_sparse(*inputs, None, 1e-6, True, *FEW)
    assert sum(v.numel() for v in saved) == 2 * 80 + 20 * (5 + 1)


def test_the_list_is_made_without_looking_at_values():
    """On the meta device there are none: whoever waits for one fails."""
    slots, cu_seqlens = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in ((1, 7, 3), (4,)))
    for bounds in (None, cu_seqlens):
        run, order = packing.segments(slots, 5, bounds).sort(stable=True)
        assert run.shape == order.shape == sparse_kernels._place(order).shape == (21,)
        assert sparse_kernels._bounds(run, 15).shape == (16,)
