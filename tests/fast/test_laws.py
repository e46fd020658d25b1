"""The laws of Factorization Memory, for the loop and every backend that runs here, on generated inputs.

A law that says "this way of computing is that one" is checked against the loop in float64 on the same rounded inputs:
values, final state and all gradients, number by number, to the tolerance of the dtype (tests/cases.py).
"""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast
import reference
from fast import chunked, scan
from tests.support.cases import DENSE, LOOPS, SPARSE, steps, whole
from verify.bounds import sizes, tolerance, within
from verify.cases import loop
from verify.laws import cases, check

WIDE = (torch.float64,)


def law(*backends, **how):
    """A test for each of the backends, on cases(form, **how), of what a function of (case, run, draw) asserts.

    run computes a whole sequence. The function and how stay within reach, for backends that are tested apart.
    """

    def decorate(holds):
        def test(form, backend, data):
            holds(data.draw(cases(**{"form": form, **how})), whole(backend), data.draw)

        test.__name__ = holds.__name__  # hypothesis draws by it
        test = pytest.mark.parametrize("form, backend", backends)(given(st.data())(test))
        test.holds, test.how = holds, how
        return test

    return decorate


@law(*DENSE, *SPARSE)
def test_equals_the_loop(case, run, draw):
    check(case, run)


@law(("dense", "chunked"), ("sparse", "chunked"))
def test_neither_chunk_length_nor_span_size_matters(case, run, draw):
    length = draw(st.integers(1, 20) | st.integers(1, case.value.shape[1] + 70))
    numbers = draw(st.integers(1, 10_000))
    with patch.object(chunked, "SPAN_NUMBERS", numbers):
        check(case, lambda case: case.call(chunked, chunk_length=length))


@law(("sparse", "scan"))
def test_neither_chunks_nor_lines_nor_blocks_matter(case, run, draw):
    sizes = {"CHUNK": st.integers(1, 20), "LINE_CHUNKS": st.integers(1, 5), "PART_PAIRS": st.integers(1, 200)}
    sizes["BLOCK_NUMBERS"] = st.integers(1, 3000)
    with patch.multiple(scan, **{name: draw(size) for name, size in sizes.items()}):
        check(case, run)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=(torch.float64, torch.float32))
def test_a_sequence_may_be_cut_in_time(case, run, draw):
    cut = draw(st.integers(0, case.value.shape[1]))

    def two_calls(case):
        y, state = run(case.pick(slice(cut), initial_state=case.initial_state))
        more, state = run(case.pick(slice(cut, None), initial_state=state))
        return torch.cat([y, more], 1), state

    check(case, two_calls)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_permuted_slots_permute_the_state(case, run, draw):
    order = torch.tensor(draw(st.permutations(range(case.state_shape()[1]))))

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[:, order]
        if case.slots is None:
            case = replace(case, theta=case.theta[..., order], phi=case.phi[..., order])
        else:
            case = replace(case, slots=order.argsort()[case.slots.long()])
        y, state = run(replace(case, initial_state=state))
        return y, state[:, order.argsort()]

    check(case, permuted)


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_a_permuted_batch_permutes_the_result(case, run, draw):
    order = torch.tensor(draw(st.permutations(range(len(case.value)))), dtype=torch.long)

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[order]
        y, state = run(case.pick(batch=order, initial_state=state))
        return y[order.argsort()], state[order.argsort()]

    check(case, permuted)


@law(*DENSE, *SPARSE, batches=(1, 2, 4))
def test_packed_sequences_are_separate_sequences(case, run, draw):
    batch, time, _ = case.value.shape
    lengths = torch.tensor([draw(st.sampled_from([0, 1, time]) | st.integers(0, time)) for _ in range(batch)])
    lengths = lengths.clamp(max=time)
    present = torch.arange(time) < lengths[:, None]
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(draw(st.sampled_from([torch.int32, torch.int64])))

    def packed(case):
        tokens = {name: getattr(case, name)[present][None] for name in ("theta", "phi", "value")}
        slots = None if case.slots is None else case.slots[present][None]
        y, state = run(replace(case, **tokens, slots=slots), cu_seqlens=cu_seqlens)
        return y.new_zeros(case.value.shape).index_put((present,), y[0]), state

    def absent_idle(case):
        return replace(case, theta=case.theta * present[..., None], phi=case.phi * present[..., None])

    numbers = draw(st.integers(1, 10_000))
    with patch.object(chunked, "SPAN_NUMBERS", numbers):
        check(absent_idle(case), packed, truth=lambda case: loop(absent_idle(case)))


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["loop", "step", "step_"])
@given(st.data())
def test_decode_steps_are_a_prefill(form, name, data):
    step = ("sparse_" if form == "sparse" else "") + name.replace("loop", "step")
    case = data.draw(cases(form))
    check(case, steps(getattr(reference if name == "loop" else fast, step)), differentiate=name != "step_")


@law(*SPARSE, ("sparse", "loop"), form="dense")
def test_sparse_with_all_slots_is_dense(case, run, draw):
    slots = torch.tensor(draw(st.permutations(range(case.theta.shape[-1])))).expand(case.theta.shape)

    def sparse(case):
        theta, phi = (v.gather(-1, slots) for v in (case.theta, case.phi))
        return run(replace(case, theta=theta, phi=phi, slots=slots, num_slots=slots.shape[-1]))

    check(case, sparse)


@law(*DENSE, *SPARSE, *LOOPS)
def test_the_future_leaves_the_past_as_it_is(case, run, draw):
    time = case.value.shape[1]
    cut = draw(st.integers(0, time))
    future = torch.arange(time)[:, None] >= cut
    leaves = case.map(lambda v: v.detach().requires_grad_())
    y, _ = run(leaves)
    changed = replace(
        case,
        theta=torch.where(future, 1 - case.theta, case.theta),
        phi=torch.where(future, 1 - case.phi, case.phi),
        value=torch.where(future, 3 - case.value, case.value),
    )
    assert torch.equal(run(changed)[0][:, :cut], y[:, :cut])
    if cut and len(case.value):
        for grad in torch.autograd.grad(y[:, :cut].sum(), [leaves.theta, leaves.phi, leaves.value]):
            assert not grad[:, cut:].any()


@law(*SPARSE, ("sparse", "loop"))
def test_slots_not_named_stay_bit_for_bit(case, run, draw):
    start = case.start()
    _, state = run(replace(case, initial_state=start))
    named = torch.zeros(start.shape[:2]).scatter(1, case.slots.long().flatten(1), 1).bool()
    assert torch.equal(state[~named], start[~named])


@law(*SPARSE, ("sparse", "loop"))
def test_a_slot_of_weight_0_may_be_dropped(case, run, draw):
    if case.theta.shape[-1] == 1:
        return
    at = draw(st.integers(0, case.theta.shape[-1] - 1))
    kept = torch.arange(case.theta.shape[-1]) != at
    idle = replace(case, theta=case.theta * kept, phi=case.phi * kept)

    def dropped(_):
        return run(replace(case, **{n: getattr(case, n)[..., kept] for n in ("theta", "phi", "slots")}))

    check(idle, dropped, differentiate=False)


@law(*DENSE, *SPARSE, *LOOPS)
def test_every_slot_stays_in_the_hull_of_what_it_was_offered(case, run, draw):
    start = case.start()
    _, state = run(case)
    direction = torch.randn(
        case.value.shape[-1], generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ).double()
    offers, kept, reached = (v.double() @ direction for v in (case.value, start, state))
    for sign in (1, -1):
        furthest = torch.cat([sign * offers[:, None].expand(*kept.shape, -1), sign * kept[..., None]], -1).amax(-1)
        largest = max([v.abs().max().item() for v in (case.value, start) if v.numel()], default=0)
        slack = tolerance(state.dtype, case.value.shape[1]) * direction.norm() * largest
        assert (sign * reached <= furthest + slack).all()


@law(*DENSE, *SPARSE, *LOOPS)
def test_theta_0_keeps_and_theta_1_replaces(case, run, draw):
    start = case.start()
    kept = replace(case, theta=torch.zeros_like(case.theta), initial_state=start)
    assert torch.equal(run(kept)[1], start)
    if case.value.shape[1]:
        theta = case.theta.clone()
        theta[:, -1] = 1
        case = replace(case, theta=theta)
        _, state = run(case)
        replaced = (case.dense().theta[:, -1] == 1)[..., None].expand_as(state)
        assert torch.equal(state[replaced], case.value[:, -1, None].to(state.dtype).expand_as(state)[replaced])


@law(*DENSE, *SPARSE, *LOOPS, dtypes=WIDE)
def test_the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(case, run, draw):
    case = replace(case, eps=1e-200 if case.value.dtype == torch.float64 else 1e-36)  # vanishing, not 0
    scale = draw(st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
    state = None if case.initial_state is None else case.initial_state.to(case.start().dtype)
    y, _ = run(replace(case, initial_state=state))
    scaled = replace(case, value=scale * case.value, initial_state=None if state is None else scale * state)
    size = sizes(case, torch.zeros(case.value.shape), torch.zeros(case.state_shape()))["y"]
    within("y", run(scaled)[0], y.double(), size, case.value.shape[1])
