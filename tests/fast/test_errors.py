"""What a caller may not pass: the error names the argument, what it got and what it needs."""

import functools
import re

import pytest
import torch

import fast
import reference
from fast import validation

B, T, M, D, K = 2, 3, 5, 4, 2


def arguments(function: str) -> dict:
    """Legal arguments of a function of `fast`, by name."""
    tokens = (B,) if "step" in function else (B, T)
    weights = K if "sparse" in function else M
    legal = {
        "theta": torch.rand(*tokens, weights),
        "phi": torch.rand(*tokens, weights),
        "value": torch.rand(*tokens, D),
    }
    if "sparse" in function:
        legal["slots"] = torch.arange(K).expand(*tokens, K)
    if "step" in function:
        return {**legal, "state": torch.rand(B, M, D)}
    if "sparse" in function:
        legal["num_slots"] = M
    return {**legal, "initial_state": torch.rand(B, M, D)}


WHOLE = ("factorization_memory", "sparse_factorization_memory")
STEPS = ("step", "step_", "sparse_step", "sparse_step_")
SPARSE = ("sparse_factorization_memory", "sparse_step", "sparse_step_")


IN_FAST_ALONE = {"backend", "cu_seqlens", "check_values"}


def refuses(error: type, message: str, function: str, **wrong):
    """By fast, and by the loop, which has neither steps in place nor some of the options."""
    modules = [fast] if function.endswith("_") or IN_FAST_ALONE & wrong.keys() else [fast, reference]
    for module in modules:
        with pytest.raises(error, match=message) as raised:
            getattr(module, function)(**{**arguments(function), **wrong})
        assert raised.type is error


@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_legal_arguments_pass(function):
    getattr(fast, function)(**arguments(function))


@pytest.mark.parametrize("name", ["theta", "phi", "value"])
@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_tokens(function, name):
    value = arguments(function)[name]
    named = rf"^{name} must "
    refuses(TypeError, named + "be a floating tensor, got list", function, **{name: value.tolist()})
    refuses(TypeError, named + "be a floating tensor, got ndarray", function, **{name: value.numpy()})
    refuses(TypeError, named + "be a floating tensor, got NoneType", function, **{name: None})
    refuses(TypeError, named + r"have a floating dtype, got torch.int64", function, **{name: value.long()})
    refuses(ValueError, named + rf"have shape \[B, .*\], got \[{D if name == 'value' else value.shape[-1]}\]",
            function, **{name: value.flatten(0, -2)[0]})  # fmt: skip
    if name != "value":
        shape = re.escape(str([*value.shape[:-1], value.shape[-1] + 1]))
        longer = torch.cat([value, value[..., :1]], -1)
        if name == "phi":
            refuses(ValueError, named + rf"have shape .* = .*, got {shape}", function, phi=longer)
        refuses(ValueError, named + rf"have shape .* = \[{B}, .*got \[1, ", function, **{name: value[:1]})
        refuses(ValueError, named + "be on cpu like value, got meta", function, **{name: value.to("meta")})


@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_no_slot_and_no_width(function):
    legal = arguments(function)
    value, theta, slots = legal["value"], legal["theta"], legal.get("slots")
    refuses(ValueError, r"^value must have D of at least 1, got \[2, .*0\]", function, value=value[..., :0])
    letter = "M" if slots is None else "K"
    none = {"theta": theta[..., :0], "phi": theta[..., :0]} | ({} if slots is None else {"slots": slots[..., :0]})
    refuses(ValueError, rf"^theta must have {letter} of at least 1, got \[2, .*0\]", function, **none)


@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_state(function):
    name = "state" if "step" in function else "initial_state"
    state, named = arguments(function)[name], rf"^{name} must "
    slots = rf"({M}|M)" if "sparse_step" in function else M  # there, the state says how many there are
    needs = rf"have shape \[B, M, D\] = \[{B}, {slots}, {D}\], got "
    refuses(ValueError, named + needs + r"\[1, 5, 4\]", function, **{name: state[:1]})
    refuses(ValueError, named + needs.replace("5", r"\d") + r"\[2, 5, 3\]", function, **{name: state[..., 1:]})
    refuses(ValueError, named + r"have shape \[B, M, D\].*, got \[5, 4\]", function, **{name: state[0]})
    refuses(TypeError, named + "be float32 or float64, got torch.bfloat16", function, **{name: state.bfloat16()})
    refuses(TypeError, named + "have a floating dtype, got torch.int64", function, **{name: state.long()})
    refuses(ValueError, named + "be on cpu like value, got meta", function, **{name: state.to("meta")})
    if function != "sparse_step" and function != "sparse_step_":  # there, the state says how many slots there are
        refuses(ValueError, named + needs + r"\[2, 6, 4\]", function, **{name: torch.rand(B, M + 1, D)})


@pytest.mark.parametrize("state", [None, [[[0.0]]]])
@pytest.mark.parametrize("function", STEPS)
def test_a_step_needs_a_state(function, state):
    refuses(TypeError, f"^state must be a floating tensor, got {type(state).__name__}", function, state=state)


@pytest.mark.parametrize("eps", [-1e-6, float("nan")])
@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_eps(function, eps):
    refuses(ValueError, f"^eps must be positive( or 0)?, got {eps}", function, eps=eps)
    refuses(TypeError, "^eps must be a number, got NoneType", function, eps=None)


@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_the_loop_alone_takes_an_eps_of_0(function):
    """Where fast would divide 0 by 0."""
    with pytest.raises(ValueError, match=r"^eps must be positive, got 0"):
        getattr(fast, function)(**arguments(function), eps=0)
    if not function.endswith("_"):
        getattr(reference, function)(**arguments(function), eps=0)


@pytest.mark.parametrize("function", WHOLE)
def test_backend(function):
    refuses(ValueError, "^backend must be one of 'auto', .*'chunked'.*, got 'cuda'", function, backend="cuda")


@pytest.mark.parametrize("function", [*WHOLE, *STEPS])
def test_unknown_keyword(function):
    refuses(TypeError, "unexpected keyword argument 'chunk'", function, chunk=16)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("function", SPARSE)
def test_slots(function, dtype):
    slots = arguments(function)["slots"].to(dtype)
    getattr(fast, function)(**arguments(function) | {"slots": slots})
    outside, twice = slots.clone(), slots.clone()
    outside[..., 1], twice[..., 1] = M, 0
    refuses(ValueError, r"^slots must lie in \[0, 5\), got 5", function, slots=outside)
    refuses(ValueError, r"^slots must differ within one token, got \[0, 0\] at \[0", function, slots=twice)
    if dtype != torch.uint8:
        refuses(ValueError, r"^slots must lie in \[0, 5\), got -1", function, slots=slots - 1)


@pytest.mark.parametrize("backend", [name for name, reason in fast.backends().items() if reason is None])
def test_every_backend_looks_at_slots_and_at_bounds(backend):
    """Whatever "auto" takes."""
    legal = {name: v[:1] if isinstance(v, torch.Tensor) else v for name, v in arguments(WHOLE[1]).items()}
    run = functools.partial(fast.sparse_factorization_memory, **legal | {"initial_state": None}, backend=backend)
    outside = legal["slots"] + M
    with pytest.raises(ValueError, match=r"^slots must lie in \[0, 5\), got"):
        run(slots=outside)
    with pytest.raises(ValueError, match=r"^slots must differ within one token"):
        run(slots=torch.zeros_like(legal["slots"]))
    with pytest.raises(ValueError, match=r"^cu_seqlens must rise from 0 to the number of tokens"):
        run(cu_seqlens=torch.tensor([0, T + 1]))
    run(slots=legal["slots"].to(torch.int8), num_slots=1000)  # more than the dtype counts


@pytest.mark.parametrize("function", SPARSE)
def test_slots_are_integers_like_theta(function):
    slots = arguments(function)["slots"]
    refuses(TypeError, "^slots must be a tensor of integers, got list", function, slots=slots.tolist())
    refuses(TypeError, "^slots must be a tensor of integers, got NoneType", function, slots=None)
    for dtype in (torch.float32, torch.complex64, torch.bool):
        refuses(TypeError, f"^slots must have an integer dtype, got {dtype}", function, slots=slots.to(dtype))
    refuses(ValueError, r"^slots must have shape .* = .*2\], got .*1\]", function, slots=slots[..., :1])
    refuses(ValueError, "^slots must be on cpu like value, got meta", function, slots=slots.to("meta"))


@pytest.mark.parametrize("num_slots", [300, 1000])
def test_a_small_dtype_of_slots_reaches_all_it_can_say(num_slots):
    """num_slots itself need not fit the dtype."""
    legal = arguments("sparse_factorization_memory") | {"num_slots": num_slots, "initial_state": None}
    slots = torch.tensor([100, 127]).expand(B, T, K)
    want = fast.sparse_factorization_memory(**legal | {"slots": slots})
    for dtype in (torch.int8, torch.uint8, torch.int16):
        got = fast.sparse_factorization_memory(**legal | {"slots": slots.to(dtype)})
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_num_slots():
    function = "sparse_factorization_memory"
    for value, kind in ((5.0, "float"), (True, "bool"), (torch.tensor(5), "Tensor")):
        refuses(TypeError, f"^num_slots must be an integer, got {kind}", function, num_slots=value)
    refuses(ValueError, "^num_slots must be at least 1, got 0", function, num_slots=0)
    refuses(ValueError, "^slots names 2 slots per token, but num_slots is 1", function, num_slots=1)


@pytest.mark.parametrize("function", ["sparse_step", "sparse_step_"])
def test_more_slots_per_token_than_slots(function):
    refuses(ValueError, "^slots names 2 slots per token, but num_slots is 1", function, state=torch.rand(B, 1, D))


@pytest.mark.parametrize("function", WHOLE)
def test_cu_seqlens(function):
    legal = arguments(function)
    row = {name: legal[name][:1] for name in ("theta", "phi", "value", "slots") if name in legal} | {
        "initial_state": None
    }

    def bad(error, message, values, **more):
        refuses(error, "^cu_seqlens " + message, function, **{**row, **more, "cu_seqlens": values})

    getattr(fast, function)(**legal | row, cu_seqlens=torch.tensor([0, 1, 3]))
    bad(TypeError, "must be a tensor of integers, got list", [0, 3])
    bad(TypeError, "must be int32 or int64, got torch.float32", torch.tensor([0.0, 3.0]))
    bad(ValueError, r"must have shape \[sequences \+ 1\], at least \[2\], got \[1\]", torch.tensor([3]))
    bad(ValueError, r"must have shape .*, got \[1, 2\]", torch.tensor([[0, 3]]))
    rise = r"must rise from 0 to the number of tokens, 3, got "
    for values in ([0, 2, 1, 3], [0, 2], [1, 3], [0, 4], [-1, 3]):
        bad(ValueError, rise + re.escape(str(values)), torch.tensor(values))
    whole = {name: legal[name] for name in row}
    bad(
        ValueError,
        r"needs all sequences in one row, B = 1, got value of shape \[2, 3, 4\]",
        torch.tensor([0, 3]),
        **whole,
    )
    refuses(ValueError, rf"^initial_state must have shape \[B, M, D\] = \[2, {M}, {D}\], got \[1, 5, 4\]", function,
            **row | {"initial_state": legal["initial_state"][:1], "cu_seqlens": torch.tensor([0, 1, 3])})  # fmt: skip


def test_values_of_slots_are_looked_at_when_asked():
    """Off a CPU nothing waits for the device; the check can be turned on and off."""
    slots = torch.zeros(B, T, K, dtype=torch.int64)
    refuses(ValueError, "^slots must differ", "sparse_factorization_memory", slots=slots, check_values=True)
    fast.sparse_factorization_memory(**arguments("sparse_factorization_memory") | {"slots": slots}, check_values=False)
    for step in ("sparse_step", "sparse_step_"):
        refuses(ValueError, "^slots must differ", step, slots=slots[:, 0], check_values=True)
        getattr(fast, step)(**arguments(step) | {"slots": slots[:, 0]}, check_values=False)


@pytest.mark.parametrize("function", WHOLE)
def test_shapes_can_be_told_without_values(function):
    """On the meta device, as tools that plan memory do."""
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in arguments(function).items()}
    y, state = getattr(fast, function)(**meta)
    assert y.shape == (B, T, D) and state.shape == (B, M, D) and y.device.type == "meta"


def test_a_tensor_says_where_it_is_wrong():
    with pytest.raises(ValueError, match=re.escape("got [1, 1] at [1, 0]")):
        validation.slot_values(torch.tensor([[[0, 1]], [[1, 1]]]), 2)


def test_a_duplicate_need_not_be_a_neighbour():
    with pytest.raises(ValueError, match=re.escape("got [2, 0, 2] at [0, 0]")):
        validation.slot_values(torch.tensor([[[2, 0, 2]]]), 3)
    with pytest.raises(ValueError, match="slots must differ"):
        reference.sparse_step(*torch.rand(2, 1, 3), torch.tensor([[2, 0, 2]]), torch.rand(1, D), torch.rand(1, 3, D))


@pytest.mark.parametrize("value", [-0.1, 1.1, torch.inf])
def test_the_loop_checks_theta(value):
    for function in ("factorization_memory", "sparse_factorization_memory"):
        legal = arguments(function)
        legal["theta"][0, 1, 0] = value
        with pytest.raises(ValueError, match=r"^theta must lie in \[0, 1\], got .* to "):
            getattr(reference, function)(**legal)


def test_the_loop_lets_nan_through():
    legal = arguments("factorization_memory")
    legal["theta"][0, 1, 0] = torch.nan
    y, _ = reference.factorization_memory(**legal)
    assert y[0, 1:].isnan().all() and y[0, 0].isfinite().all() and y[1].isfinite().all()


def test_backends_say_why_they_cannot_run():
    for name, reason in fast.backends().items():
        assert isinstance(name, str) and (reason is None or reason)
