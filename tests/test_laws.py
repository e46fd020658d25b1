"""The laws of Factorization Memory, for the loop and every backend that runs here, on generated inputs.

A law that says "this way of computing is that one" is checked against the loop in float64 on the same rounded inputs:
values, final state and all gradients, number by number, to the tolerance of the dtype (tests/cases.py).
"""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from cases import DENSE, LOOPS, SPARSE, cases, check, loop, sizes, whole, within
from hypothesis import given
from hypothesis import strategies as st

import fast
import reference
from fast import chunked

WIDE = (torch.float64,)


def law(*backends):
    """A test of (form, backend, data) for each of the backends, with generated data."""
    return lambda test: pytest.mark.parametrize("form, backend", backends)(given(st.data())(test))


@law(*DENSE, *SPARSE)
def test_equals_the_loop(form, backend, data):
    check(data.draw(cases(form)), whole(backend))


@law(("dense", "chunked"), ("sparse", "chunked"))
def test_neither_chunk_length_nor_segment_size_matters(form, backend, data):
    case = data.draw(cases(form))
    length = data.draw(st.integers(1, 20) | st.integers(1, case.x.shape[1] + 70))
    numbers = data.draw(st.integers(1, 10_000))
    with patch.object(chunked, "SEGMENT_NUMBERS", numbers):
        check(case, lambda case: case.call(chunked, chunk_length=length))


@law(*DENSE, *SPARSE, *LOOPS)
def test_a_sequence_may_be_cut_in_time(form, backend, data):
    case = data.draw(cases(form, dtypes=(torch.float64, torch.float32)))
    cut = data.draw(st.integers(0, case.x.shape[1]))

    def two_calls(case):
        y, state = whole(backend)(case.pick(slice(cut), initial_state=case.initial_state))
        more, state = whole(backend)(case.pick(slice(cut, None), initial_state=state))
        return torch.cat([y, more], 1), state

    check(case, two_calls)


@law(*DENSE, *SPARSE, *LOOPS)
def test_permuted_slots_permute_the_state(form, backend, data):
    case = data.draw(cases(form, dtypes=WIDE))
    order = torch.tensor(data.draw(st.permutations(range(case.state_shape()[1]))))

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[:, order]
        if form == "dense":
            case = replace(case, theta=case.theta[..., order], phi=case.phi[..., order])
        else:
            case = replace(case, slots=order.argsort()[case.slots.long()])
        y, state = whole(backend)(replace(case, initial_state=state))
        return y, state[:, order.argsort()]

    check(case, permuted)


@law(*DENSE, *SPARSE, *LOOPS)
def test_a_permuted_batch_permutes_the_result(form, backend, data):
    case = data.draw(cases(form, dtypes=WIDE))
    order = torch.tensor(data.draw(st.permutations(range(len(case.x)))), dtype=torch.long)

    def permuted(case):
        state = None if case.initial_state is None else case.initial_state[order]
        y, state = whole(backend)(case.pick(batch=order, initial_state=state))
        return y[order.argsort()], state[order.argsort()]

    check(case, permuted)


@law(*DENSE, *SPARSE)
def test_packed_sequences_are_separate_sequences(form, backend, data):
    case = data.draw(cases(form, batches=(1, 2, 4)))
    batch, time, _ = case.x.shape
    lengths = torch.tensor([data.draw(st.sampled_from([0, 1, time]) | st.integers(0, time)) for _ in range(batch)])
    lengths = lengths.clamp(max=time)
    present = torch.arange(time) < lengths[:, None]
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(
        data.draw(st.sampled_from([torch.int32, torch.int64]))
    )

    def packed(case):
        tokens = {name: getattr(case, name)[present][None] for name in ("theta", "phi", "x")}
        slots = None if case.slots is None else case.slots[present][None]
        y, state = replace(case, **tokens, slots=slots).call(fast, backend=backend, cu_seqlens=cu_seqlens)
        return y.new_zeros(case.x.shape).index_put((present,), y[0]), state

    def absent_idle(case):
        return replace(case, theta=case.theta * present[..., None], phi=case.phi * present[..., None])

    numbers = data.draw(st.integers(1, 10_000))
    with patch.object(chunked, "SEGMENT_NUMBERS", numbers):
        check(absent_idle(case), packed, truth=lambda case: loop(absent_idle(case)))


@law(*((form, name) for form in ("dense", "sparse") for name in ("loop", "step", "step_")))
def test_decode_steps_are_a_prefill(form, backend, data):
    case = data.draw(cases(form))
    name = ("sparse_" if form == "sparse" else "") + backend.replace("loop", "step")
    step = getattr(reference if backend == "loop" else fast, name)

    def steps(case):
        state, ys = case.start().clone(), []
        for t in range(case.x.shape[1]):
            weights = (case.theta[:, t], case.phi[:, t]) + (() if case.slots is None else (case.slots[:, t],))
            before = state
            y, state = step(*weights, case.x[:, t], state, eps=case.eps)
            assert (state is before) == (name[-1] == "_")
            ys.append(y)
        return torch.stack(ys, 1) if ys else case.x, state

    check(case, steps, differentiate=name[-1] != "_")


@law(*SPARSE, ("sparse", "loop"))
def test_sparse_with_all_slots_is_dense(form, backend, data):
    case = data.draw(cases("dense"))
    slots = torch.tensor(data.draw(st.permutations(range(case.theta.shape[-1])))).expand(case.theta.shape)

    def sparse(case):
        theta, phi = (v.gather(-1, slots) for v in (case.theta, case.phi))
        return whole(backend)(replace(case, theta=theta, phi=phi, slots=slots, num_slots=slots.shape[-1]))

    check(case, sparse)


@law(*DENSE, *SPARSE, *LOOPS)
def test_the_future_leaves_the_past_as_it_is(form, backend, data):
    case = data.draw(cases(form))
    time = case.x.shape[1]
    cut = data.draw(st.integers(0, time))
    future = torch.arange(time)[:, None] >= cut
    leaves = case.map(lambda v: v.detach().requires_grad_())
    y, _ = whole(backend)(leaves)
    changed = replace(
        case,
        theta=torch.where(future, 1 - case.theta, case.theta),
        phi=torch.where(future, 1 - case.phi, case.phi),
        x=torch.where(future, 3 - case.x, case.x),
    )
    assert torch.equal(whole(backend)(changed)[0][:, :cut], y[:, :cut])
    if cut and len(case.x):
        for grad in torch.autograd.grad(y[:, :cut].sum(), [leaves.theta, leaves.phi, leaves.x]):
            assert not grad[:, cut:].any()


@law(*SPARSE, ("sparse", "loop"))
def test_slots_not_named_stay_bit_for_bit(form, backend, data):
    case = data.draw(cases("sparse"))
    start = case.start()
    _, state = whole(backend)(replace(case, initial_state=start))
    named = torch.zeros(start.shape[:2]).scatter(1, case.slots.long().flatten(1), 1).bool()
    assert torch.equal(state[~named], start[~named])


@law(*DENSE, *SPARSE, *LOOPS)
def test_every_slot_stays_in_the_hull_of_what_it_was_offered(form, backend, data):
    case = data.draw(cases(form))
    start = case.start()
    _, state = whole(backend)(case)
    direction = torch.randn(
        case.x.shape[-1], generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ).double()
    offers, kept, reached = (v.double() @ direction for v in (case.x, start, state))
    for sign in (1, -1):
        furthest = torch.cat([sign * offers[:, None].expand(*kept.shape, -1), sign * kept[..., None]], -1).amax(-1)
        slack = 1e-5 * direction.norm() * max([v.abs().max().item() for v in (case.x, start) if v.numel()], default=0)
        assert (sign * reached <= furthest + slack).all()


@law(*DENSE, *SPARSE, *LOOPS)
def test_theta_0_keeps_and_theta_1_replaces(form, backend, data):
    case = data.draw(cases(form))
    start = case.start()
    kept = replace(case, theta=torch.zeros_like(case.theta), initial_state=start)
    assert torch.equal(whole(backend)(kept)[1], start)
    if case.x.shape[1]:
        theta = case.theta.clone()
        theta[:, -1] = 1
        _, state = whole(backend)(replace(case, theta=theta))
        last = case.dense().double() if form == "dense" else replace(case, theta=theta).dense()
        replaced = (
            torch.ones_like(state).bool() if form == "dense" else (last.theta[:, -1] == 1)[..., None].expand_as(state)
        )
        assert torch.equal(state[replaced], case.x[:, -1, None].to(state.dtype).expand_as(state)[replaced])


@law(*DENSE, *SPARSE, *LOOPS)
def test_the_scale_of_what_is_written_does_not_matter_as_eps_vanishes(form, backend, data):
    case = replace(data.draw(cases(form, dtypes=WIDE)), eps=1e-200)
    scale = data.draw(st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
    state = None if case.initial_state is None else case.initial_state.double()
    y, _ = whole(backend)(replace(case, initial_state=state))
    scaled = replace(case, x=scale * case.x, initial_state=None if state is None else scale * state)
    size = sizes(case, torch.zeros(case.x.shape), torch.zeros(case.state_shape()))["y"]
    within("y", whole(backend)(scaled)[0], y.double(), size)
