"""What a kernel gives beside what is right: per case, in units of the bound; then how a kernel behaves as a whole."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from verify.adapters import Kernel
from verify.bounds import bounds, in_bounds, sizes, unit_roundoff, worst
from verify.cases import Case, Fixed, Limits, fixed_cases, gradients, loop

VALUES = ("y", "final state")
TIMED = ("y", "dtheta", "dphi", "dvalue")  # [B, T, ...]


@dataclass(frozen=True)
class Wrong:
    """One result of one case that is out of bounds, or of the wrong dtype or shape."""

    name: str
    text: str
    units: float = float("inf")  # the largest error over its bound
    mask: Tensor | None = None  # which numbers are wrong
    first_token: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of one case. worst is the largest error over its bound of what is right."""

    name: str
    kind: str
    fixed: Fixed | None = None
    wrong: tuple[Wrong, ...] = ()
    raised: str | None = None
    worst: tuple[float, str] = (0.0, "")
    got: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        return not self.wrong and self.raised is None


@dataclass(frozen=True)
class Truth:
    """What is right in float64, how far each number may be off, and the dtype it should come back in."""

    want: dict[str, Tensor]
    bound: dict[str, Tensor]
    dtype: dict[str, torch.dtype]


@cache
def truth(fixed: Fixed) -> Truth:
    case = fixed.case
    want = gradients(case.double(), loop, fixed.on_y.double(), fixed.on_state.double())
    size = sizes(case, fixed.on_y, fixed.on_state)
    dtype = {"y": case.value.dtype, "final state": case.start().dtype}
    dtype |= {f"d{name}": v.dtype for name, v in case.floating().items()}
    coarsest = max((case.value.dtype, case.theta.dtype), key=unit_roundoff)
    bound = {name: bounds(dtype[name], size[name], case.value.shape[1], coarsest) for name in want}
    return Truth(want, bound, dtype)


def judge(fixed: Fixed, kernel: Kernel, grad: bool = True) -> Result:
    """One fixed case. Where a slot cancels, gradients are beyond any dtype, and only values count."""
    try:
        got = _run(kernel, fixed, grad and fixed.kind != "cancels")
    except WrongShape as error:
        return Result(fixed.name, fixed.kind, fixed, (Wrong("shape", str(error)),))
    except Exception as error:  # whatever a user's kernel raises
        return Result(fixed.name, fixed.kind, fixed, raised=_first_line(error))
    if not kernel.state:
        del got["final state"]
    return compare(fixed, got)


def compare(fixed: Fixed, got: dict[str, Tensor], dtypes: bool = True) -> Result:
    """got by name, beside what is right. dtypes: whether they count."""
    right = truth(fixed)
    wrong, top = [], (0.0, "")
    for name, v in got.items():
        want, bound, dtype = right.want[name], right.bound[name], right.dtype[name]
        if v.shape != want.shape:
            wrong.append(Wrong("shape", f"{name} has shape {[*v.shape]}, not {[*want.shape]}"))
            continue
        if dtypes and v.dtype != dtype:
            wrong.append(Wrong(name, f"{name} has dtype {_short(v.dtype)}, not {_short(dtype)}"))
        excess = in_bounds(v, want, bound)
        if name in VALUES:  # an infinite bound excuses no NaN here
            excess = excess.masked_fill(v.isnan() & want.isfinite(), torch.inf)
        if excess.numel():
            if excess.max() > 1:
                wrong.append(_out_of_bounds(name, v, want, excess))
            else:
                top = max(top, (excess.max().item(), name))
    if fixed.case.slots is not None and "final state" in got:
        wrong += _unnamed_slots(fixed.case, got["final state"])
    wrong.sort(key=lambda w: (w.name != "y", w.name not in VALUES, -w.units))  # y tells the first wrong token
    return Result(fixed.name, fixed.kind, fixed, tuple(wrong), worst=top, got=got)


def _out_of_bounds(name: str, got: Tensor, want: Tensor, excess: Tensor) -> Wrong:
    mask, at, token = excess > 1, worst(excess), None
    text = f"{name}{[*at]} is {got[at]:.6g}, not {want[at]:.6g}: {excess[at]:.2g} bounds off"
    text += f"; {mask.sum()} of {mask.numel()} wrong"
    if name in TIMED:
        wrong = wrong_tokens(mask)
        token, period = wrong[0], math.gcd(*wrong)
        if len(wrong) > 1 and period > 1:
            text += f", at tokens {token}, {wrong[1]}{', ...' if len(wrong) > 2 else ''} alone: multiples of {period}"
        else:
            text += f", first at token {token}"
    return Wrong(name, text, excess.max().item(), mask, token)


def wrong_tokens(mask: Tensor) -> list[int]:
    """The tokens at which any number of [B, T, ...] is wrong."""
    return mask.transpose(0, 1).flatten(1).any(1).nonzero()[:, 0].tolist()


def _unnamed_slots(case: Case, state: Tensor) -> list[Wrong]:
    """Slots that no token names come out bit for bit as they went in."""
    if case.cu_seqlens is not None:
        return []
    start = case.start()
    named = torch.zeros(start.shape[:2]).scatter(1, case.slots.long().flatten(1), 1).bool()
    mask = (state != start) & ~named[..., None]
    if not mask.any():
        return []
    at = tuple(int(i) for i in mask.nonzero()[0])
    text = f"final state{[*at]} is {state[at]:.9g}, not {start[at]:.9g} bit for bit: no token names slot {at[1]}"
    return [Wrong("unnamed slots", text, mask=mask)]


# How a kernel behaves as a whole. Each check says what is wrong, or nothing.


def _same_bits(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """The same input gives the same bits."""
    runs = [_run(kernel, fixed, grad) for _ in range(3)]
    for name in runs[0]:
        if not all(torch.equal(run[name], runs[0][name]) for run in runs):
            return f"{name} differs between calls with the same input"
    return None


def _inputs_stay(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """A caller's arrays are not changed."""
    before = fixed.case.map(Tensor.clone)
    mine = fixed.case.copy()
    with torch.no_grad():
        kernel(mine)
    if grad:
        gradients(mine, kernel, fixed.on_y, fixed.on_state)
    for name, v in mine.floating().items():
        if not torch.equal(v, before.floating()[name]):
            return f"{name} is changed by the call"
    return None


def _all_written(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """Every number of the results is written: memory that nobody wrote is NaN here."""
    with memory(poison=False):
        before = _run(kernel, fixed, grad)
    with memory(poison=True):
        got = _run(kernel, fixed, grad)
    for name, v in got.items():
        stray = v.isnan() & truth(fixed).want[name].isfinite() & ~before[name].isnan()
        if stray.any():
            return f"{name}{stray.nonzero()[0].tolist()} is never written ({stray.sum()} of {stray.numel()})"
    return None


def _batch_is_independent(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """A sequence does not depend on its neighbours: they are NaN here."""
    case = fixed.case.copy()
    others = torch.arange(len(case.value)) != len(case.value) - 1

    def spoil(v: Tensor) -> Tensor:
        return v.masked_fill(others.view(-1, *[1] * (v.dim() - 1)), torch.nan)

    spoiled = replace(case, value=spoil(case.value), initial_state=spoil(case.initial_state))
    with torch.no_grad():
        got = zip(VALUES, kernel(spoiled), strict=True)
    for name, v in got:
        if not v[-1].isfinite().all():
            return f"{name} of the last sequence is NaN when the sequences before it are"
    return None


def _continues(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """Two calls, the second from the state of the first, are one call."""
    case, cut = fixed.case.copy(), _cut(kernel, fixed)

    def both(case: Case) -> tuple[Tensor, Tensor]:
        y, state = kernel(case.pick(slice(cut), initial_state=case.initial_state))
        more, state = kernel(case.pick(slice(cut, None), initial_state=state))
        return torch.cat([y, more], 1), state

    with torch.no_grad():
        result = compare(fixed, dict(zip(VALUES, both(case), strict=True)))
    return None if result.ok else f"cut at token {cut}: {result.wrong[0].text}"


def _without_gradients(kernel: Kernel, fixed: Fixed, grad: bool) -> str | None:
    """The same values where no gradient is asked for."""
    result = compare(fixed, _run(kernel, fixed, grad=False))
    return None if result.ok else result.wrong[0].text


BEHAVIOUR: dict[str, Callable[[Kernel, Fixed, bool], str | None]] = {
    "same input, same bits": _same_bits,
    "inputs stay as they are": _inputs_stay,
    "all results are written": _all_written,
    "sequences are independent": _batch_is_independent,
    "two calls are one": _continues,
    "without gradients": _without_gradients,
}


def behaviour(kernel: Kernel, limits: Limits, grad: bool) -> Iterator[Result]:
    """Each check on a case that is otherwise ordinary, so that it says something of its own."""
    ordinary = max((f for f in fixed_cases(limits) if f.kind == "length"), key=_suits)
    for name, check in BEHAVIOUR.items():
        if name == "without gradients" and not grad:
            continue  # nothing else was asked for before
        if name == "two calls are one" and (_cut(kernel, ordinary) is None or not kernel.state):
            continue
        try:
            found, raised = check(kernel, ordinary, grad), None
        except Exception as error:  # whatever a user's kernel raises
            found, raised = None, _first_line(error)
        wrong = (Wrong(name, found),) if found else ()
        yield Result(name, "behaviour", ordinary, wrong, raised)


def _suits(fixed: Fixed) -> int:
    """A length near 33, which no chunk divides."""
    return -abs(fixed.case.value.shape[1] - 33)


def _cut(kernel: Kernel, fixed: Fixed) -> int | None:
    """Where to cut a case so that both lengths are allowed."""
    T, allowed = fixed.case.value.shape[1], kernel.lengths
    return next((t for t in (T // 3, *range(1, T)) if 0 < t < T and t in allowed and T - t in allowed), None)


class WrongShape(Exception):
    """A result that nothing can be compared with."""


def _run(kernel: Kernel, fixed: Fixed, grad: bool) -> dict[str, Tensor]:
    """All results by name, from memory that the kernel may spoil."""

    def run(case: Case) -> tuple[Tensor, Tensor]:
        out = kernel(case)
        for name, v, shape in zip(VALUES, out, (case.value.shape, case.state_shape()), strict=True):
            if tuple(v.shape) != tuple(shape):
                raise WrongShape(f"{name} has shape {[*v.shape]}, not {[*shape]}")
        return out

    case = fixed.case.copy()
    if grad:
        return gradients(case, run, fixed.on_y, fixed.on_state)
    with torch.no_grad():
        return dict(zip(VALUES, run(case), strict=True))


@contextmanager
def memory(poison: bool) -> Iterator[None]:
    """Memory that is asked for without a value holds NaN, or 0, until it is written."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    fill = np.nan if poison else 0.0

    def filling(make: Callable) -> Callable:
        def made(*arguments, **options):
            v = make(*arguments, **options)
            floating = v.is_floating_point() if isinstance(v, Tensor) else v.dtype.kind == "f"
            if floating and isinstance(v, Tensor):
                v.detach().fill_(fill)
            elif floating:
                v.fill(fill)
            return v

        return made

    names = [(torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"), (np, "empty"), (np, "empty_like")]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = poison  # for what no Python asks for
    try:
        with ExitStack() as patches:
            for owner, name in names:
                patches.enter_context(patch.object(owner, name, filling(getattr(owner, name))))
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled


def far(kernel: Kernel, numbers: int = 2**31) -> Result:
    """More numbers in value than an int32 counts: the first and the last sequence, each as when it is alone."""
    T, M, D = kernel.lengths.nearest(64), 2, 128
    B = numbers // (T * D) + 2
    generator = torch.Generator(kernel.device).manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, device=kernel.device).to(torch.bfloat16)

    value, theta = rand(B, T, D), rand(B, T, M)
    case = Case(theta, theta, value, torch.zeros(B, M, D, device=kernel.device), made_of={"name": "far"})
    try:
        with torch.no_grad():
            y, state = kernel(case)
            for row in (0, B - 1):
                alone = kernel(case.pick(batch=slice(row, row + 1), initial_state=case.initial_state[:1]))
                for name, v, want in zip(VALUES, (y, state), alone, strict=True):
                    if not (v[row] - want[0]).norm() <= 1e-2 * want.norm():
                        text = f"{name} of sequence {row} of {B} is not what it is alone"
                        return Result("beyond 2^31 numbers", "large", wrong=(Wrong(name, text),))
    except Exception as error:  # whatever a user's kernel raises
        return Result("beyond 2^31 numbers", "large", raised=_first_line(error))
    return Result("beyond 2^31 numbers", "large")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".strip()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
