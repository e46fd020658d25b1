"""The tolerances as stated, against the loop in float64: ||got - want|| / ||want||, and where they do not hold."""

from dataclasses import replace

import pytest
import torch

import fast
import reference
from fast import chunked
from tests.support.cases import DENSE, SPARSE, error, steps, whole
from verify.bounds import TOLERANCE, tolerance, unit_roundoff
from verify.cases import Case, gradients, loop


def ordinary(form: str, dtype: torch.dtype, seed: int, router: bool) -> Case:
    """What a layer computes with: slots of some width, gates uniform or of a router, vectors of unit size."""
    generator = torch.Generator().manual_seed(seed)
    B, T, M, D = 2, (130, 200, 64)[seed], (4, 16, 33)[seed], (8, 33, 16)[seed]

    def rand(*shape, function=torch.rand):
        return function(*shape, generator=generator, dtype=torch.float64)

    theta, phi = rand(2, B, T, M)
    if router:
        affinity = rand(B, T, M, function=torch.randn).softmax(-1)
        theta, phi = theta[..., :1] * affinity, phi[..., :1] * affinity
    value, state = rand(B, T, D, function=torch.randn).to(dtype), rand(B, M, D, function=torch.randn)
    case = Case(theta.to(dtype), phi.to(dtype), value, state.to(torch.promote_types(dtype, torch.float32)))
    if form == "dense":
        return case
    K = M // 3 + 1
    slots = rand(B, T, M).argsort(-1)[..., :K]
    return Case(case.theta[..., :K], case.phi[..., :K], value, case.initial_state, slots=slots, num_slots=M)


@pytest.mark.parametrize("router", [False, True], ids=["uniform", "router"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("form, backend", [*DENSE, *SPARSE])
def test_ordinary_inputs_meet_the_stated_tolerances(form, backend, dtype, seed, router):
    case = ordinary(form, dtype, seed, router)
    on_y = torch.randn(case.value.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    on_state = torch.randn(case.state_shape(), generator=torch.Generator().manual_seed(seed))
    got, want = gradients(case, whole(backend), on_y, on_state), gradients(case.double(), loop, on_y, on_state)
    for name in want:
        bound = TOLERANCE[got[name].dtype] * (1 if name in ("y", "final state") else 10)
        assert error(got[name], want[name]) < bound, name


def cancelled(delta: float, dtype: torch.dtype, width: int = 16):
    """One slot: v is written whole, then half of it gives way to -(1 + delta) v. delta v / 2 is left, read again."""
    value = torch.randn(width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = torch.stack([value, -(1 + delta) * value, value])[None].to(dtype)
    theta = torch.tensor([[[1.0], [0.5], [0.0]]], dtype=dtype)
    return theta, torch.ones_like(theta), value


@pytest.mark.parametrize("delta", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("eps", [1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_slot_that_cancels_loses_digits_in_proportion(dtype, eps, delta):
    """|h|^2 comes from products as large as s^2, s what |h| was before the terms met. Each is right to the unit
    roundoff u, 2^-24 or 2^-53. So y is right to 2 u (s^2 / (|h|^2 + eps D) + s / |h|). The loop, which squares h
    itself, loses only the second part, and so does the chunk form from the next chunk on.
    """
    inputs, unit = cancelled(delta, dtype), unit_roundoff(dtype)
    want, slot = reference.factorization_memory(*(v.double() for v in inputs), eps=eps)
    size, width = inputs[2][0, 0].double().norm(), inputs[2].shape[-1]
    of_norm, of_state = size.square() / (slot.square().sum() + eps * width), size / slot.norm()
    y, state = chunked.factorization_memory(*inputs, eps=eps, chunk_length=2)
    if 2 * unit * of_norm < 0.1:  # beyond that nothing is left of |h|^2, and 1 / rms is anything up to 1 / sqrt(eps)
        assert error(y[:, 1], want[:, 1]) < 2 * unit * (of_norm + of_state)
    assert error(y[:, 2], want[:, 2]) < 2 * unit * (2 + of_state)
    assert error(state, slot) < 2 * unit * (2 + of_state)


def test_a_slot_that_cancels_reads_as_finite():
    """The computed |h|^2 may come out as 0 or below: then rms is sqrt(eps), never the root of a negative number."""
    for seed in range(50):
        value = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(seed))
        theta = torch.tensor([[[1.0], [0.7], [0.41], [0.0]]])
        value = torch.cat([value, -3 / 7 * value, 1e-9 * value, value], 1)
        y, _ = chunked.factorization_memory(theta, torch.ones_like(theta), value, eps=1e-30)
        assert y.isfinite().all()


def test_theta_next_to_1_keeps_its_digits():
    """Nothing is divided by 1 - theta: gradients are as good at 1 - 6e-8, 1 - 1e-3 and 1 as anywhere."""
    case = ordinary("dense", torch.float32, 0, router=False)
    for near in (1.0, 1 - 2**-24, 1 - 1e-3):
        theta = torch.where(case.phi < 0.5, near, case.theta)
        gate = Case(theta, case.phi, case.value, case.initial_state)
        on_y, on_state = torch.ones_like(case.value), torch.ones(case.state_shape())
        got, want = gradients(gate, whole("chunked"), on_y, on_state), gradients(gate.double(), loop, on_y, on_state)
        assert all(error(got[name], want[name]) < 2e-6 for name in want)


@pytest.mark.parametrize("form, backend", [*DENSE, *SPARSE])
def test_an_eps_that_rounds_to_0_does_no_harm_to_slots_that_are_not_empty(form, backend):
    """Nor does a chunk that is filled up with tokens that are not there."""
    case = ordinary(form, torch.float32, 0, router=True).pick(slice(5))
    state = torch.randn(case.state_shape(), generator=torch.Generator().manual_seed(0))
    case = replace(case, initial_state=state, eps=1e-60)
    on_y, on_state = torch.ones_like(case.value), torch.ones_like(state)
    got, want = (gradients(c, run, on_y, on_state) for c, run in ((case, whole(backend)), (case.double(), loop)))
    for name in want:
        assert error(got[name], want[name]) < 1e-5, name


def test_honest_roundings_of_the_loop_pile_up_with_its_steps():
    """1 - theta is rounded, and so is every product with it, mostly to one side: no fault of the loop."""
    tokens = 1000
    theta = torch.full((1, tokens, 1), 5.454345e-06)
    inputs = theta, theta, torch.zeros(1, tokens, 1), torch.ones(1, 1, 1)
    _, got = reference.factorization_memory(*inputs)
    _, want = reference.factorization_memory(*(v.double() for v in inputs))
    assert 4 * TOLERANCE[torch.float32] < error(got, want) < tolerance(torch.float32, tokens)


EVERY_WAY = {
    **{f"{form}-{backend}": (form, whole(backend)) for form, backend in [*DENSE, *SPARSE]},
    "step": ("dense", steps(fast.step)),
    "sparse_step": ("sparse", steps(fast.sparse_step)),
}


def scaled(case: Case, size: float) -> Case:
    """The longest token, and the longest slot at the start, become this long."""
    value, state = (v * (size / v.norm(dim=-1).max()) for v in (case.value, case.initial_state))
    return replace(case, value=value, initial_state=state)


@pytest.mark.parametrize("share", [1e-25, 1e-12, 1e-6, 1e-3, 0.1, 0.99], ids="{:g} of the range".format)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("way", EVERY_WAY)
def test_tolerances_hold_over_the_whole_range(way, dtype, share):
    """Squares of lengths up to half the largest number. The truth is of the same vectors at length 1."""
    form, run = EVERY_WAY[way]
    size = (share * torch.finfo(dtype).max / 2) ** 0.5
    case = scaled(ordinary(form, dtype, 1, router=True), size)
    on_y = torch.randn(case.value.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    on_state = torch.randn(case.state_shape(), generator=torch.Generator().manual_seed(1)).to(dtype) / size
    got = gradients(case, run, on_y, on_state)
    short = replace(scaled(case.double(), 1.0), eps=case.eps / size**2)
    want = gradients(short, loop, on_y, on_state * size)
    for name in want:
        by = {"final state": size, "dvalue": 1 / size, "dinitial_state": 1 / size}.get(name, 1.0)
        bound = TOLERANCE[dtype] * (1 if name in ("y", "final state") else 10)
        assert error(got[name].double() / by, want[name]) < bound, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("way", EVERY_WAY)
def test_beyond_the_range_a_slot_reads_as_0_or_shows(way, dtype):
    """|v|^2 is four times the largest number."""
    form, run = EVERY_WAY[way]
    value = torch.ones(1, 40, 4, dtype=dtype) * torch.finfo(dtype).max ** 0.5
    one = torch.ones(1, 40, 1, dtype=dtype)
    slots = {} if form == "dense" else {"slots": torch.zeros(1, 40, 1, dtype=torch.int64), "num_slots": 1}
    y, _ = run(Case(one, one, value, None, **slots))
    assert ((y == 0) | ~y.isfinite()).all()
    if way == "dense-chunked":
        assert y.isnan().any()
