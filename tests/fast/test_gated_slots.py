"""Chunked gated slots against the loop: values, states, gradients, and gates at both ends of their range."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast
from fast.gated_slots import (
    gated_slot_attention,
    gated_slot_attention_step_,
    gated_slots,
    gated_slots_step_,
)
from reference import gated_slots as reference
from reference.factorization_memory import factorization_memory as fm_loop

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
FLAT = 1e12  # an eps beside which the mean square of a slot is nothing
FORMS = {  # the fast form, the loop, a step of each, and the arguments
    "slots": (
        gated_slots, reference.gated_slots, gated_slots_step_, reference.gated_slots_step,
        ("log_f", "read", "value", "initial_state"),
    ),
    "attention": (
        gated_slot_attention, reference.gated_slot_attention, gated_slot_attention_step_,
        reference.gated_slot_attention_step, ("log_f", "q", "k", "v", "initial_state"),
    ),
}  # fmt: skip
BOTH = pytest.mark.parametrize("form", FORMS)
shapes = st.tuples(  # B, T, H, M, P, D
    st.integers(1, 2), st.integers(0, 40), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)
)  # fmt: skip
gates = st.sampled_from([0.0, 1e-6, 0.3, 10.0, 1e4])  # typical -log f: all kept, slow, fast, all forgotten at once
lengths = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


def inputs(form, shape, gate=0.3, seed=0):
    """The arguments of a form in float64, gates and tokens strided; a quarter of the gates is exactly 1."""
    torch.manual_seed(seed)
    batch, T, H, M, P, D = shape
    log_f = -gate * torch.rand(batch, T, H, M, dtype=torch.float64) * torch.randint(0, 4, (batch, T, H, M)).clamp(max=1)
    if form == "slots":
        tokens = torch.randn(batch, T, H, M + D, dtype=torch.float64).split([M, D], -1)
        width = D
    else:
        tokens = torch.randn(batch, T, H, 2 * P + D, dtype=torch.float64).split([P, P, D], -1)
        width = P + D
    return [log_f, *tokens, torch.randn(batch, H, M, width, dtype=torch.float64)]


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@BOTH
@given(shapes, gates, lengths, st.sampled_from(list(TOLERANCE)), st.integers(0, 99))
def test_equals_loop(form, shape, gate, chunk_length, dtype, seed):
    fast_form, loop, *_ = FORMS[form]
    args = [v.to(dtype) for v in inputs(form, shape, gate, seed)]
    y, state = fast_form(*args, chunk_length=chunk_length)
    want_y, want_state = loop(*(v.double() for v in args))
    assert y.shape == want_y.shape and y.dtype == state.dtype == dtype
    assert error(y, want_y) < TOLERANCE[dtype] and error(state, want_state) < TOLERANCE[dtype]


@BOTH
@given(shapes, gates, lengths, st.sampled_from(list(TOLERANCE)))
def test_gradients_equal_loop(form, shape, gate, chunk_length, dtype):
    fast_form, loop, _, _, names = FORMS[form]
    wide = [v.requires_grad_() for v in inputs(form, shape, gate)]
    narrow = [v.detach().to(dtype).requires_grad_() for v in wide]
    on_y, on_state = torch.randn_like(wide[-2]), torch.randn_like(wide[-1])

    def gradients(function, args, **options):
        y, state = function(*args, **options)
        loss = (y * on_y.to(y.dtype)).sum() + (state * on_state.to(y.dtype)).sum()
        return torch.autograd.grad(loss, args, allow_unused=True)

    gots = gradients(fast_form, narrow, chunk_length=chunk_length)
    for name, got, want in zip(names, gots, gradients(loop, wide), strict=True):
        if want is not None:
            # Behind a gate of e^-10000 a gradient of 1e-20 is what is left of terms of order 1.
            assert (got - want).norm() < 10 * TOLERANCE[dtype] * want.norm().clamp_min(1), name


@BOTH
@given(shapes, gates, lengths)
def test_chunks_at_once_are_chunks_in_turn(form, shape, gate, chunk_length):
    """What torch.compile and export see, run as it is."""
    fast_form = FORMS[form][0]
    args = [v.requires_grad_() for v in inputs(form, shape, gate)]
    with patch.object(torch.compiler, "is_compiling", lambda: True):
        y, state = fast_form(*args, chunk_length=chunk_length)
    want_y, want_state = fast_form(*args, chunk_length=chunk_length)
    assert error(y, want_y) < 1e-12 and error(state, want_state) < 1e-12
    gots, wants = (
        torch.autograd.grad(y.square().sum() + s.square().sum(), args, allow_unused=True)
        for y, s in ((y, state), (want_y, want_state))
    )
    for got, want in zip(gots, wants, strict=True):
        assert (got - want).norm() < 1e-11 * want.norm().clamp_min(1)


@BOTH
@given(shapes, st.data())
def test_segments_equal_whole(form, shape, data):
    fast_form = FORMS[form][0]
    *tokens, state = inputs(form, shape)
    cut = data.draw(st.integers(0, shape[1]))
    want_y, want_state = fast_form(*tokens, state)
    left, middle = fast_form(*(v[:, :cut] for v in tokens), state)
    right, end = fast_form(*(v[:, cut:] for v in tokens), middle)
    assert error(torch.cat([left, right], 1), want_y) < 1e-12 and error(end, want_state) < 1e-12


@BOTH
@given(shapes, gates, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_steps_equal_loop(form, shape, gate, dtype):
    """And both steps are the sequence, whose loop is made of them."""
    fast_form, _, step_, loop_step, _ = FORMS[form]
    *tokens, state = (v.to(dtype) for v in inputs(form, shape, gate))
    state = state.to(torch.promote_types(dtype, torch.float32))
    whole, end = fast_form(*tokens, state)
    slow, ys = state.clone(), []
    for token in zip(*(v.unbind(1) for v in tokens), strict=True):
        before = state
        y, state = step_(*token, state)
        want, slow = loop_step(*token, slow)
        assert state is before and y.dtype == dtype
        assert error(y, want.double()) < {**TOLERANCE, torch.bfloat16: 1e-2}[dtype]
        ys.append(y)
    assert error(state, slow.double()) < 1e-5 and error(end, slow.double()) < 1e-5
    if ys and dtype != torch.bfloat16:
        assert error(whole, torch.stack(ys, 1).double()) < 2e-5


@BOTH
def test_a_gate_of_1_keeps_a_slot_bit_by_bit(form):
    fast_form = FORMS[form][0]
    log_f, *rest, state = inputs(form, (2, 37, 2, 3, 4, 5))
    log_f[..., 0] = 0
    assert torch.equal(fast_form(log_f, *rest, state)[1][:, :, 0], state[:, :, 0])


@BOTH
@pytest.mark.parametrize("chunk_length", [1, 16])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_no_digits_are_lost_behind_a_small_gate(form, chunk_length, dtype):
    """One token forgets everything; those after it decay slowly and must keep their digits, also of gradients."""
    fast_form, loop, *_ = FORMS[form]
    args = inputs(form, (1, 32, 1, 2, 3, 3))
    args[0].fill_(-0.01)[:, 3] = -1e4
    args = [v.to(dtype).requires_grad_() for v in args]
    wide = [v.detach().double().requires_grad_() for v in args]
    y, want = fast_form(*args, chunk_length=chunk_length)[0], loop(*wide)[0]
    assert error(y[:, 4:], want[:, 4:]) < TOLERANCE[dtype]
    gots, wants = (torch.autograd.grad(v.square().sum(), a) for v, a in ((y, args), (want, wide)))
    for got, want in zip(gots, wants, strict=True):
        assert got.isfinite().all() and (got - want).norm() < 10 * TOLERANCE[dtype] * want.norm().clamp_min(1)


@given(st.integers(1, 2), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_one_head_is_factorization_memory_without_its_norm(batch, T, M, D, seed):
    """log_f = log(1 - theta), read = phi: rms(v) is the root of eps where eps is FLAT."""
    torch.manual_seed(seed)
    theta, phi = torch.rand(2, batch, T, M, dtype=torch.float64).mul(0.9)
    value, state = (torch.randn(*shape, dtype=torch.float64) for shape in ((batch, T, D), (batch, M, D)))
    one_head = [v.unsqueeze(2) for v in ((-theta).log1p(), phi, value)]
    for slots in (gated_slots, reference.gated_slots):
        y, end = slots(*one_head, state[:, None])
        for memory in (fast.factorization_memory, fm_loop):
            want, want_end = memory(theta, phi, value, state, eps=FLAT)
            assert error(y[:, :, 0], FLAT**0.5 * want) < 1e-10 and error(end[:, 0], want_end) < 1e-12


@BOTH
@pytest.mark.parametrize("step", [False, True], ids=["sequence", "step"])
def test_every_derivative_equals_that_of_the_loop(form, step):
    """It is made of torch's own operators."""
    fast_form, loop, step_, loop_step, _ = FORMS[form]
    args = tuple(arguments(form, step).values())
    args = (args[0] - 0.1, *args[1:])  # at 0, which is the most, the loop refuses what differences need
    tangents = tuple(torch.randn_like(v) for v in args)

    def quick(*values):
        values = [v.clone() for v in values]  # the step works inside the state
        return (step_ if step else fast_form)(*values)

    for transform in (
        lambda f: torch.func.jvp(f, args, tangents)[1],
        lambda f: torch.autograd.functional.hvp(lambda *v: f(*v)[0].square().sum(), args, tangents)[1],
    ):
        for got, want in zip(transform(quick), transform(loop_step if step else loop), strict=True):
            assert want.any() and error(got, want) < 1e-11


@BOTH
def test_may_be_mapped(form):
    fast_form, shape = FORMS[form][0], (2, 40, 1, 2, 3, 4)
    args = [torch.stack(pair) for pair in zip(*(inputs(form, shape, seed=s) for s in (0, 1)), strict=True)]
    wants = (fast_form(*one) for one in zip(*args, strict=True))
    for got, *want in zip(torch.func.vmap(fast_form)(*args), *wants, strict=True):
        assert error(got, torch.stack(want)) < 1e-12


@BOTH
def test_the_callers_state_stays_as_it_was(form):
    args = inputs(form, (2, 33, 2, 2, 3, 4))
    copies = [v.clone() for v in args]
    FORMS[form][0](*args)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))


@BOTH
def test_an_empty_sequence_returns_the_state_and_none_is_zero(form):
    fast_form = FORMS[form][0]
    args = inputs(form, (2, 0, 2, 2, 3, 4))
    y, state = fast_form(*args)
    assert y.shape == (2, 0, 2, 4) and torch.equal(state, args[-1])
    *tokens, state = inputs(form, (2, 19, 2, 2, 3, 4))
    assert torch.equal(fast_form(*tokens)[0], fast_form(*tokens, 0 * state)[0])


def arguments(form, step):
    """Legal arguments by name, of a sequence or of a token."""
    args = dict(zip(FORMS[form][-1], inputs(form, (2, 3, 2, 5, 3, 4)), strict=True))
    if step:
        args["state"] = args.pop("initial_state")
        args = {name: v if name == "state" else v[:, 0] for name, v in args.items()}
    return args


@BOTH
@pytest.mark.parametrize("which", range(4), ids=["fast", "loop", "fast step", "loop step"])
def test_errors_name_the_argument(form, which):
    call, args = FORMS[form][which], arguments(form, which > 1)
    for at, (name, value) in enumerate(args.items()):

        def refuses(error, message, wrong, at=at, name=name):
            values = [*args.values()]
            values[at] = wrong
            with pytest.raises(error, match=rf"^{name} must {message}"):
                call(*values)

        refuses(ValueError, r"have shape \[.*\], got \[.*\]", value[None])
        if name not in ("value", "v", "log_f", "q"):  # the sizes that others must have
            refuses(ValueError, r"have shape \[.*\] = \[.*\], got \[.*\]", value[..., :-1])
        if name not in ("value", "v"):
            refuses(ValueError, "be on cpu like (value|v), got meta", value.to("meta"))
        refuses(TypeError, "be a floating tensor, got ndarray", value.numpy())
        refuses(TypeError, "have a floating dtype, got torch.int64", value.long())
        if name.endswith("state"):
            refuses(TypeError, "be float32 or float64, got torch.bfloat16", value.bfloat16())
        if name != "initial_state":
            refuses(TypeError, "be a floating tensor, got NoneType", None)


@BOTH
def test_what_else_is_refused(form):
    fast_form, loop, _, loop_step, _ = FORMS[form]
    for length in (0, 3, -4):
        with pytest.raises(ValueError, match=f"^chunk_length must be a power of two, got {length}"):
            fast_form(*inputs(form, (1, 3, 1, 1, 1, 1)), chunk_length=length)
    for call, step in ((loop, False), (loop_step, True)):
        log_f, *rest = arguments(form, step).values()
        with pytest.raises(ValueError, match=r"^log_f must be <= 0, got up to 2"):
            call(log_f.abs() * 0 + 2, *rest)
