"""The decode step in Triton, in the interpreter where there is no GPU: parity with the loop, what it may touch.

The interpreter is slow, so a law gets a fraction of the usual examples.
"""

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast
import reference
from verify.bounds import within
from verify.cases import lay_out
from verify.laws import gates

step_kernels = pytest.importorskip("fast.kernels.step", reason="triton is not installed")
few = hypothesis.settings(max_examples=max(5, hypothesis.settings.default.max_examples // 3))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIGURATIONS = (*step_kernels.CONFIGURATIONS, step_kernels.Blocks(2, 4, 1))  # the last has many groups, many turns
LAYOUTS = ("contiguous", "transposed", "gaps", "same in time", "same in all")
FORMS = ("step", "step_", "sparse_step", "sparse_step_")
on_every_form = pytest.mark.parametrize("form", FORMS)


@st.composite
def tokens(draw, form: str) -> list[torch.Tensor]:
    """Legal arguments of one step: theta, phi, (slots,) value, state; "time" of lay_out is the axis after the batch."""
    B, M, D = draw(st.integers(0, 3)), draw(st.integers(1, 19)), draw(st.sampled_from([1, 2, 3, 5, 8, 17, 33]))
    K = draw(st.integers(1, M)) if "sparse" in form else M
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x_dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    gate_dtype = draw(st.sampled_from([torch.float32, x_dtype]))
    theta, phi = (draw(gates((B, K), generator)).to(gate_dtype) for _ in range(2))
    value = (10.0 ** draw(st.integers(-4, 3)) * torch.randn(B, D, generator=generator)).to(x_dtype)
    state = 10.0 ** draw(st.integers(-6, 6)) * torch.randn(B, M, D, generator=generator)
    slots = (
        torch.rand(B, M, generator=generator).argsort(-1)[:, :K].to(draw(st.sampled_from([torch.int64, torch.int32])))
    )
    theta, phi, value, slots = (
        lay_out(v, draw(st.sampled_from(LAYOUTS if v.is_floating_point() else LAYOUTS[:2])))
        for v in (theta, phi, value, slots)
    )
    state = lay_out(state, draw(st.sampled_from(LAYOUTS[:3] if form.endswith("_") else LAYOUTS)))
    return [
        v.to(DEVICE) for v in ([theta, phi, slots, value, state] if "sparse" in form else [theta, phi, value, state])
    ]


def ordinary(form: str, B=2, M=19, K=11, D=37) -> list[torch.Tensor]:
    """More groups of slots than one, borders that no block meets."""
    generator = torch.Generator().manual_seed(0)
    K = K if "sparse" in form else M
    theta, phi = (torch.rand(B, K, generator=generator) for _ in range(2))
    slots = torch.rand(B, M, generator=generator).argsort(-1)[:, :K]
    value, state = torch.randn(B, D, generator=generator), torch.randn(B, M, D, generator=generator)
    return [
        v.to(DEVICE) for v in ([theta, phi, slots, value, state] if "sparse" in form else [theta, phi, value, state])
    ]


def copies(arguments: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same, the state in memory of its own; torch's clone would leave out the gaps of its layout."""
    *others, state = arguments
    if not state.numel() or 0 in state.stride():  # nothing is written
        return arguments
    numbers = 1 + sum((n - 1) * stride for n, stride in zip(state.shape, state.stride(), strict=True))
    return [*others, state.new_empty(numbers).as_strided(state.shape, state.stride()).copy_(state)]


def exactly(form: str, arguments: list[torch.Tensor], eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loop's step in float64, and the size of y had nothing cancelled, which its rounding errors come in."""
    arguments = [v.double() if v.is_floating_point() else v.long() for v in (v.cpu() for v in arguments)]
    y, after = getattr(reference, form.removesuffix("_"))(*arguments, eps=eps)
    theta, phi, *slots, value, before = arguments
    at = (torch.arange(len(value))[:, None], slots[0] if slots else torch.arange(before.shape[1]))
    h, theta = before[at], theta[..., None]
    sizes = (1 - theta) * h.abs() + theta * value[:, None].abs()
    unit = 8 * torch.finfo(torch.float32).eps
    mean_square = (after[at].square().sum(-1) - unit * sizes.square().sum(-1)).clamp(min=0) / value.shape[-1] + eps
    weight = (1 + sizes.square().mean(-1) / mean_square) * mean_square.rsqrt()
    return y, after, (phi[..., None].abs() * weight[..., None] * sizes).sum(1), before.abs().index_put(at, sizes)


@on_every_form
@pytest.mark.parametrize("blocks", CONFIGURATIONS, ids=str)
@few
@given(st.data())
def test_equals_the_loop(form, blocks, data):
    arguments = data.draw(tokens(form))
    eps = data.draw(st.sampled_from([1e-6, 1e-3, 1e-12]))
    y, after, y_size, after_size = exactly(form, arguments, eps)
    arguments = copies(arguments)
    before = arguments[-1].clone()
    got, got_after = getattr(step_kernels, form)(*arguments, eps=eps, blocks=blocks)
    assert got.dtype == arguments[-2].dtype and got_after.dtype == torch.float32
    within("y", got.cpu(), y, y_size, 1)
    within("state", got_after.cpu(), after, after_size, 1)
    if form.endswith("_"):
        assert got_after is arguments[-1]
    else:
        assert torch.equal(arguments[-1], before)


@on_every_form
@few
@given(st.data())
def test_zero_keeps_a_slot_and_one_replaces_it(form, data):
    theta, phi, *rest = data.draw(tokens(form))
    value, before = rest[-2].float(), rest[-1].clone()
    chosen = torch.rand(theta.shape, device=DEVICE) < 0.5
    _, after = getattr(step_kernels, form)(chosen.to(theta.dtype), phi, *copies(rest))
    slots = rest[0].long() if "sparse" in form else torch.arange(before.shape[1], device=DEVICE).expand(theta.shape)
    at = (torch.arange(len(value), device=DEVICE)[:, None], slots)
    assert torch.equal(after[at], torch.where(chosen[..., None], value[:, None], before[at]))


@pytest.mark.parametrize("form", ["sparse_step", "sparse_step_"])
@few
@given(st.data())
def test_slots_not_named_keep_their_bits(form, data):
    theta, phi, slots, value, state = data.draw(tokens(form))
    named = torch.zeros(state.shape[:2], dtype=torch.bool, device=DEVICE).scatter(1, slots.long(), True)
    state = state.masked_fill(~named[..., None], torch.nan)  # to read one would show as well
    bits = state.view(torch.int32).clone()
    y, after = getattr(step_kernels, form)(theta, phi, slots, value, state)
    assert torch.equal(after.view(torch.int32)[~named], bits[~named])
    assert not y.isnan().any()


@on_every_form
def test_more_groups_and_columns_than_merge_takes_at_once(form):
    arguments = ordinary(form, B=2, M=43, K=39, D=70)
    want = exactly(form, arguments, 1e-6)[:2]
    for got, exact in zip(
        getattr(step_kernels, form)(*arguments, blocks=step_kernels.Blocks(2, 70, 1)), want, strict=True
    ):
        assert (got.cpu() - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("far", [0, 1, 2], ids=["sequences", "slots", "columns"])
@pytest.mark.parametrize("form", ["step_", "sparse_step_"])
def test_offsets_beyond_two_to_the_31(form, far, tmp_path):
    """Three apart by 2^30 numbers, in a file with holes: hardly any of it is touched."""
    *others, state = ordinary(form, B=3, M=3, K=3, D=3)
    strides = [9, 3, 1]
    strides[far] = 2**30
    numbers = 2**31 + 27
    if DEVICE == "cuda":
        store = torch.zeros(numbers, device=DEVICE)
    else:
        store = torch.from_file(str(tmp_path / "store"), shared=True, size=numbers, dtype=torch.float32)
        (tmp_path / "store").unlink()  # while it is mapped it exists
    inside = store.as_strided(state.shape, strides).copy_(state)
    y, _ = getattr(step_kernels, form)(*others, inside)
    want_y, want = getattr(step_kernels, form)(*others, state)
    assert torch.equal(y, want_y) and torch.equal(inside, want)


@pytest.mark.parametrize("form", ["step_", "sparse_step_"])
def test_in_place_means_the_same_memory(form):
    """A state inside a larger one, with others beside it: written where it lies, and nowhere else."""
    *others, state = ordinary(form)
    B, M, D = state.shape
    store = torch.full((B, 3, 2 * M, D + 5), 7.0, device=DEVICE)
    inside = store[:, 1, ::2, 3:-2].copy_(state)
    y, after = getattr(step_kernels, form)(*others, inside)
    want_y, want = getattr(step_kernels, form.removesuffix("_"))(*others, state)
    assert after is inside and torch.equal(inside, want) and torch.equal(y, want_y)
    inside.fill_(7.0)
    assert (store == 7).all()


@on_every_form
def test_a_sequence_gives_the_same_bits_alone(form):
    arguments = ordinary(form)
    y, state = getattr(step_kernels, form)(*copies(arguments))
    alone, alone_state = getattr(step_kernels, form)(*(v[1:] for v in copies(arguments)))
    assert torch.equal(y[1:], alone) and torch.equal(state[1:], alone_state)


@on_every_form
@pytest.mark.parametrize("where", [-1, -2])
def test_nan_stays_in_its_sequence(form, where):
    arguments = ordinary(form, K=19)
    want, want_state = getattr(step_kernels, form)(*copies(arguments))
    arguments[where][0].view(-1)[-1] = torch.nan
    y, state = getattr(step_kernels, form)(*arguments)
    assert y[0].isnan().all() and state[0].isnan().any()
    assert torch.equal(y[1], want[1]) and torch.equal(state[1], want_state[1])


@pytest.mark.parametrize("wrong", [-1, 19, 2**31])
def test_a_slot_outside_is_not_touched_and_shows(wrong):
    """Its sequence's y is NaN; all memory but the slots that are inside stays as it was."""
    theta, phi, slots, value, state = ordinary("sparse_step_", B=3)
    store = torch.cat([state.new_zeros(1, *state.shape[1:]), state, state.new_zeros(1, *state.shape[1:])])
    slots[1, 3] = wrong
    y, _ = step_kernels.sparse_step_(theta, phi, slots, value, store[1:-1])
    assert y[1].isnan().all() and not y[[0, 2]].isnan().any()
    touched = (store != torch.cat([store[:1] * 0, state, store[:1] * 0])).any(-1)
    assert touched.sum(1).tolist() == [0, 11, 10, 11, 0]


def test_an_expanded_state_is_not_written():
    *others, state = ordinary("step_")
    with pytest.raises(ValueError, match=r"^state must not be expanded to be written in place"):
        step_kernels.step_(*others, state[:1].expand(2, -1, -1))


def test_opcheck():
    theta, phi, value, state = ordinary("step")
    operators = torch.ops.factorization_memory
    torch.library.opcheck(operators.triton_step.default, (theta, phi, value, state, 1e-6, *step_kernels.DEFAULT))
    torch.library.opcheck(operators.triton_step_.default, (theta, phi, None, value, state, 1e-6, *step_kernels.DEFAULT))
    arguments = (*ordinary("sparse_step_"), 1e-6, *step_kernels.DEFAULT)
    torch.library.opcheck(operators.triton_step_.default, arguments)


@on_every_form
def test_compiles_whole(form):
    step, arguments = getattr(step_kernels, form), ordinary(form)
    compiled = torch.compile(lambda *v: step(*v), fullgraph=True, backend="aot_eager")
    mine, theirs = copies(arguments), copies(arguments)
    for got, want in zip(compiled(*mine), step(*theirs), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(mine[-1], theirs[-1])


@on_every_form
def test_float64_gates_are_rounded(form):
    theta, phi, *rest = ordinary(form)
    want = getattr(step_kernels, form)(theta, phi, *copies(rest))
    got = getattr(step_kernels, form)(theta.double(), phi.double(), *copies(rest))
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@on_every_form
def test_public_steps_take_it_on_a_gpu_without_gradients(form, monkeypatch):
    taken = []
    monkeypatch.setattr(step_kernels, form, lambda *v, **_: taken.append(form) or (v[-2], v[-1]))
    *others, state = ordinary(form)
    gate = others[0].clone().requires_grad_()

    def takes(*arguments):
        taken.clear()
        getattr(fast, form)(*arguments)
        return taken == [form]

    assert takes(*others, state.clone()) == (DEVICE == "cuda")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert takes(*others, state.clone())
    assert not takes(*others, state.double())
    assert not takes(gate, *others[1:], state.clone())
    with torch.no_grad():
        assert takes(gate, *others[1:], state.clone())
