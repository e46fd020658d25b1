"""Chunked Mamba-2 against the loop: values, states, gradients, and decays at both ends of their range."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fast.mamba2 import mamba2, mamba2_step_
from reference.mamba2 import mamba2 as loop
from reference.mamba2 import mamba2_step as loop_step

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
NAMES = ("x", "dt", "A", "B", "C", "D", "initial_state")
shapes = st.tuples(  # B, T, G, heads per group, P, N
    st.integers(1, 2), st.integers(0, 40), st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)
)  # fmt: skip
decays = st.sampled_from([0.0, 1e-4, 1.0, 1e3])  # typical -dt A: none, slow, fast, all forgotten at once


def inputs(shape, decay=0.3, seed=0):
    """The seven tensors of NAMES in float64, x and B and C strided; some dt are exactly 0."""
    torch.manual_seed(seed)
    batch, T, G, per_group, P, N = shape
    H = G * per_group
    wide = torch.randn(batch, T, H * P + 2 * G * N, dtype=torch.float64)
    x, B, C = wide.split([H * P, G * N, G * N], -1)
    dt = torch.rand(batch, T, H, dtype=torch.float64) * torch.randint(0, 4, (batch, T, H)).clamp(max=1)
    A = -decay * (torch.rand(H, dtype=torch.float64) + 0.5)
    D, state = torch.randn(H, dtype=torch.float64), torch.randn(batch, H, N, P, dtype=torch.float64)
    return [x.unflatten(-1, (H, P)), dt, A, B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N)), D, state]


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@given(shapes, decays, st.integers(1, 20), st.sampled_from(list(TOLERANCE)), st.integers(0, 99))
def test_equals_loop(shape, decay, chunk_length, dtype, seed):
    args = [v.to(dtype) for v in inputs(shape, decay, seed)]
    y, state = mamba2(*args, chunk_length=chunk_length)
    want_y, want_state = loop(*(v.double() for v in args))
    assert y.shape == want_y.shape and y.dtype == state.dtype == dtype
    assert error(y, want_y) < TOLERANCE[dtype] and error(state, want_state) < TOLERANCE[dtype]


@given(shapes, decays, st.integers(1, 20), st.sampled_from(list(TOLERANCE)))
def test_gradients_equal_loop(shape, decay, chunk_length, dtype):
    wide = [v.requires_grad_() for v in inputs(shape, decay)]
    narrow = [v.detach().to(dtype).requires_grad_() for v in wide]
    on_y = torch.randn_like(wide[0])
    on_state = torch.randn_like(wide[-1])

    def gradients(function, args, **options):
        y, state = function(*args, **options)
        loss = (y * on_y.to(y.dtype)).sum() + (state * on_state.to(y.dtype)).sum()
        return torch.autograd.grad(loss, args, allow_unused=True)

    gots = gradients(mamba2, narrow, chunk_length=chunk_length)
    for name, got, want in zip(NAMES, gots, gradients(loop, wide), strict=True):
        if want is not None:
            # Behind a decay of e^-1000 a gradient of 1e-20 is what is left of terms of order 1.
            assert (got - want).norm() < 10 * TOLERANCE[dtype] * want.norm().clamp_min(1), name


@given(shapes, decays, st.integers(1, 20))
def test_chunks_at_once_are_chunks_in_turn(shape, decay, chunk_length):
    """What torch.compile and export see, run as it is."""
    args = [v.requires_grad_() for v in inputs(shape, decay)]
    with patch.object(torch.compiler, "is_compiling", lambda: True):
        y, state = mamba2(*args, chunk_length=chunk_length)
    want_y, want_state = mamba2(*args, chunk_length=chunk_length)
    assert error(y, want_y) < 1e-12 and error(state, want_state) < 1e-12
    if shape[1]:
        gots, wants = (
            torch.autograd.grad(y.square().sum() + s.square().sum(), args)
            for y, s in ((y, state), (want_y, want_state))
        )
        for got, want in zip(gots, wants, strict=True):
            assert (got - want).norm() < 1e-11 * want.norm().clamp_min(1)


@pytest.mark.parametrize("step", [False, True], ids=["sequence", "step"])
def test_every_derivative_equals_that_of_the_loop(step):
    """It is made of torch's own operators."""
    args = arguments(mamba2_step_ if step else mamba2)
    values = tuple(args.values())
    tangents = tuple(torch.randn_like(v) for v in values)

    def fast(*values):
        values = [v.clone() for v in values]  # the step works inside the state
        return (mamba2_step_ if step else mamba2)(**dict(zip(args, values, strict=True)))

    def slow(*values):
        return (loop_step if step else loop)(**dict(zip(args, values, strict=True)))

    for transform in (
        lambda f: torch.func.jvp(f, values, tangents)[1],
        lambda f: torch.autograd.functional.hvp(lambda *v: f(*v)[0].square().sum(), values, tangents)[1],
    ):
        for got, want in zip(transform(fast), transform(slow), strict=True):
            assert want.any() and error(got, want) < 1e-12


def test_may_be_mapped():
    args = [torch.stack([u, v]) for u, v in zip(*(inputs((2, 40, 1, 2, 3, 4), seed=s) for s in (0, 1)), strict=True)]
    for got, *want in zip(
        torch.func.vmap(mamba2)(*args), *(mamba2(*one) for one in zip(*args, strict=True)), strict=True
    ):
        assert error(got, torch.stack(want)) < 1e-12


def test_no_digits_are_lost_behind_a_large_decay():
    """One token forgets everything (exponent -5e4); those after it decay slowly, and must keep their digits."""
    x, dt, A, B, C, D, state = inputs((1, 32, 1, 1, 3, 3), decay=1.0)
    dt = dt.fill_(0.01)
    dt[:, 3] = 5e4
    args = [v.float() for v in (x, dt, A, B, C, D, state)]
    want, _ = loop(*(v.double() for v in args))
    assert error(mamba2(*args)[0][:, 4:], want[:, 4:]) < 1e-5


def test_optional_arguments_default_to_nothing():
    x, dt, A, B, C, D, state = inputs((2, 19, 2, 2, 3, 4))
    y, _ = mamba2(x, dt, A, B, C)
    assert error(y, mamba2(x, dt, A, B, C, 0 * D, 0 * state)[0]) < 1e-15
    assert error(y, loop(x, dt, A, B, C)[0]) < 1e-12


@given(shapes, st.data())
def test_segments_equal_whole(shape, data):
    x, dt, A, B, C, D, state = inputs(shape)
    cut = data.draw(st.integers(0, shape[1]))
    want_y, want_state = mamba2(x, dt, A, B, C, D, state)
    left, middle = mamba2(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, state)
    right, end = mamba2(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, middle)
    assert error(torch.cat([left, right], 1), want_y) < 1e-12 and error(end, want_state) < 1e-12


@given(shapes, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_steps_equal_loop(shape, dtype):
    x, dt, A, B, C, D, state = (v.to(dtype) for v in inputs(shape))
    state = state.to(torch.promote_types(dtype, torch.float32))
    slow = state.clone()
    for t in range(x.shape[1]):
        before = state
        y, state = mamba2_step_(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, state)
        want, slow = loop_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, slow)
        assert state is before and y.dtype == dtype
        assert error(y, want.double()) < {**TOLERANCE, torch.bfloat16: 1e-2}[dtype]
    assert error(state, slow.double()) < 1e-5


def test_the_callers_state_stays_as_it_was():
    args = inputs((2, 33, 1, 2, 3, 4))
    copies = [v.clone() for v in args]
    mamba2(*args)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))


def test_an_empty_sequence_returns_the_state():
    args = inputs((2, 0, 1, 2, 3, 4))
    y, state = mamba2(*args)
    assert y.shape == (2, 0, 2, 3) and torch.equal(state, args[-1])


WAYS = pytest.mark.parametrize("which", [mamba2, loop, mamba2_step_, loop_step])


def arguments(which):
    """Legal arguments by name, of a sequence or of a token."""
    args = dict(zip(NAMES, inputs((2, 3, 1, 2, 3, 4)), strict=True))
    if which in (mamba2_step_, loop_step):
        args = {name: v[:, 0] if name in ("x", "dt", "B", "C") else v for name, v in args.items()}
        args["state"] = args.pop("initial_state")
    return args


@WAYS
@pytest.mark.parametrize("name", ["x", "dt", "A", "B", "C", "D", "state"])
def test_errors_name_the_argument(which, name):
    args = arguments(which)
    name = name if name in args else "initial_state"
    value = args[name]

    def refuses(error, message, wrong):
        with pytest.raises(error, match=rf"^{name} must {message}"):
            which(**args | {name: wrong})

    refuses(ValueError, r"have shape \[.*\], got \[.*\]", value[None])
    if name not in ("x", "B"):  # the sizes that others must have
        refuses(ValueError, r"have shape \[.*\] = \[.*\], got \[.*\]", value[..., :-1])
        refuses(ValueError, "be on cpu like x, got meta", value.to("meta"))
    refuses(TypeError, "be a floating tensor, got ndarray", value.detach().numpy())
    refuses(TypeError, "have a floating dtype, got torch.int64", value.long())
    if name.endswith("state"):
        refuses(TypeError, "be float32 or float64, got torch.bfloat16", value.bfloat16())
    if name != "D" and name != "initial_state":
        refuses(TypeError, "be a floating tensor, got NoneType", None)


@WAYS
@pytest.mark.parametrize("groups", [0, 3])
def test_groups_must_divide_heads(which, groups):
    args = arguments(which)
    args["B"] = args["C"] = args["B"].new_zeros(*args["B"].shape[:-2], groups, 4)
    with pytest.raises(ValueError, match=f"^B must have a G that divides the 2 heads of x, got {groups}"):
        which(**args)


def test_chunk_length_must_be_positive():
    with pytest.raises(ValueError, match="chunk_length must be positive, got 0"):
        mamba2(*inputs((1, 3, 1, 1, 1, 1)), chunk_length=0)


def test_the_loop_checks_signs():
    args = inputs((1, 3, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="dt must be >= 0"):
        loop(args[0], args[1] - 2, *args[2:])
