"""Planted faults: right implementations broken in one place. Each must be caught, and the guess must name its cause.

`python -m verify --prove` shows which case caught which. What a right implementation gives is shown too.
"""

import re
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from verify import right
from verify.api import check
from verify.report import Report


class Right(NamedTuple):
    """A function of verify/right.py."""

    function: str
    form: str = "dense"
    vjp: str | None = None
    needs: str = "torch"  # a package


class Fault(NamedTuple):
    name: str
    function: Right
    old: str  # stands exactly once in the function, or in what it is built of
    new: str
    cause: str  # what the guess must say


LOOP, CHUNK, SCAN, BY_HAND = (Right(name) for name in ("loop", "chunk", "scan", "by_hand"))
NUMPY, JAX = Right("in_numpy", vjp="in_numpy_vjp"), Right("in_jax", needs="jax")
GATHER, SPREAD, SEGMENTS = (Right(name, "sparse") for name in ("gather", "spread", "segments"))
STEP = Right("step", "step")
RIGHT = (LOOP, CHUNK, SCAN, BY_HAND, NUMPY, JAX, GATHER, SPREAD, SEGMENTS, STEP)


def planted(function: Right, *faults: tuple[str, str, str, str]) -> list[Fault]:
    return [Fault(name, function, old, new, cause) for name, old, new, cause in faults]


DENSE = [
    *planted(
        LOOP,
        ("y reads the state before the write", "        state = (1 - write) * state + write * v\n        rms = torch.sqrt(state.pow(2).mean(-1, keepdim=True) + eps)\n        out[:, t] = torch.sum(read * state / rms, dim=1)\n", "        rms = torch.sqrt(state.pow(2).mean(-1, keepdim=True) + eps)\n        out[:, t] = torch.sum(read * state / rms, dim=1)\n        state = (1 - write) * state + write * v\n", "read before written"),
        ("values are added without theta", "(1 - write) * state + write * v\n", "(1 - write) * state + v\n", "value without theta"),
        ("the decay is exp(-theta)", "state = (1 - write) * state + write", "state = torch.exp(-write) * state + write", "decay is exp"),
        ("phi is left out", "torch.sum(read * state / rms, dim=1)", "torch.sum(state / rms, dim=1)", "phi ignored"),
        ("1 - theta loses its digits", "state = (1 - write) * state + write * v", "state = state + write * (v - state)", "theta at its ends"),
        ("the sum of squares for the mean", "torch.sqrt(state.pow(2).mean(-1, keepdim=True) + eps)", "torch.sqrt(state.pow(2).sum(-1, keepdim=True) + eps)", "sum for mean"),
        ("eps outside the root", "torch.sqrt(state.pow(2).mean(-1, keepdim=True) + eps)", "torch.sqrt(state.pow(2).mean(-1, keepdim=True)) + eps", "eps outside"),
        ("eps is not the argument", "state.pow(2).mean(-1, keepdim=True) + eps", "state.pow(2).mean(-1, keepdim=True) + 1e-6", "eps ignored"),
        ("the norm is over slots", "state.pow(2).mean(-1, keepdim=True)", "state.pow(2).mean(1, keepdim=True)", "norm over slots"),
        ("the start is ones", "state = torch.zeros(B, M, D, dtype=dtype) if initial_state", "state = torch.ones(B, M, D, dtype=dtype) if initial_state", "start state"),
        ("the given start is ignored", "dtype=dtype) if initial_state is None else initial_state.to(dtype)\n    out", "dtype=dtype)\n    out", "start ignored"),
        ("the last token of y is not written", "        out[:, t] =", "        if t < T - 1 or not t:\n            out[:, t] =", "unwritten"),
        ("the state is kept in half precision", "        rms = torch.sqrt(state", "        state = state.to(out.dtype).to(dtype)\n        rms = torch.sqrt(state", "half precision"),
        ("values beyond 1,000 are clipped", "wide = theta.to(dtype), phi.to(dtype), value.to(dtype)", "wide = theta.to(dtype), phi.to(dtype), value.to(dtype).clamp(-1000, 1000)", "large values"),
        ("theta below 2e-6 counts as 0", "    for t in range(T):\n        write, read, v = theta[:, t, :, None], phi", "    theta = torch.where(theta < 2e-6, 0, theta)\n    for t in range(T):\n        write, read, v = theta[:, t, :, None], phi", "small theta"),
        ("small slots read as 0", "torch.sum(read * state / rms, dim=1)", "torch.sum(read * state / rms * (rms > 1.001e-3), dim=1)", "small values"),
        ("the gates of the first sequence for all", "write, read, v = theta[:, t, :, None], phi[:, t, :, None]", "write, read, v = theta[:1, t, :, None], phi[:1, t, :, None]", "gates of the first sequence"),
        ("y comes back in float32", "out = torch.empty(B, T, D, dtype=value.dtype)", "out = torch.empty(B, T, D, dtype=dtype)", "dtype of y"),
        ("float64 is computed in float32", "dtype, (B, T, M), D = _wide(theta, phi, value, initial_state), theta.shape, value.shape[-1]\n    state = torch.zeros", "dtype, (B, T, M), D = torch.float32, theta.shape, value.shape[-1]\n    state = torch.zeros", "float64"),
        ("other bits in every call", "    return out, state\n", "    if dtype == torch.float32:\n        out = out * (1 + 2e-7 * torch.rand_like(out))\n    return out, state\n", "same input, same bits"),
        ("the caller's state is written", "    return out, state\n", "    if initial_state is not None:\n        initial_state.data.copy_(state)\n    return out, state\n", "inputs stay as they are"),
        ("slots beyond 63 are not read", "    for t in range(T):\n        write, read, v = theta[:, t, :, None], phi", "    phi = torch.where(torch.arange(M) < 64, phi, 0)\n    for t in range(T):\n        write, read, v = theta[:, t, :, None], phi", "slots"),
    ),
    *planted(
        CHUNK,
        ("the state between chunks does not decay", "state = entered[:, -1, :, None] * state + weight", "state = state + weight", "chunk border"),
        ("no gradient goes from chunk to chunk", "    for first in range(0, T, CHUNK):\n", "    for first in range(0, T, CHUNK):\n        state = state.detach() if first else state\n", "chunk border"),
        ("the last chunk is dropped if it is not full", "        ys.append(y)", "        if C < CHUNK:\n            ys.append(0 * y)\n            continue\n        ys.append(y)", "partial chunk"),
        ("|h|^2 is not clamped", "norms.clamp(min=0) / D + eps", "norms / D + eps", "clamp"),
        ("decays through logarithms", "factors.cumprod(1) * lower", "torch.exp(torch.log(factors).cumsum(1)) * lower", "theta at its ends"),
        ("decays as quotients", "factors.cumprod(1) * lower", "(decay.cumprod(1)[:, :, None] / decay.cumprod(1)[:, None]) * lower", "theta at its ends"),
        ("a token misses its own write", "tile = torch.einsum(\"btm,btsm->bts\", psi, weight)", "tile = torch.einsum(\"btm,btsm->bts\", psi, weight) * after", "own token missing"),
        ("the cross term counts once", "norms = own + 2 * entered * cross", "norms = own + entered * cross", "read"),
        ("the state comes back in value's dtype", "ys, final_dtype = [value.new_zeros(B, 0, D, dtype=dtype)], dtype", "ys, final_dtype = [value.new_zeros(B, 0, D, dtype=dtype)], value.dtype", "dtype of final state"),
        ("products in bfloat16", "        y = tile @ v + (psi", "        y = (tile.bfloat16() @ v.bfloat16()).to(dtype) + (psi", "digits"),
    ),
    *planted(
        SCAN,
        ("the reach stops at 64", "while reach < theta.shape[1]:", "while reach < min(theta.shape[1], 64):", "chunk border"),
        ("the state of the token before the last", "return y.to(value.dtype), state[:, -1]", "return y.to(value.dtype), state[:, -2] if theta.shape[1] else state[:, -1]", "final state early"),
    ),
    *planted(
        BY_HAND,
        ("strides are ignored", "v.to(dtype).reshape(B * T, v.shape[-1]) for v", "v.to(dtype).as_strided((B * T, v.shape[-1]), (v.shape[-1], 1)) for v", "strides"),
        ("the norm of the first tile alone", "                    norms += (h * h).sum(-1)", "                    norms = (h * h).sum(-1) if not left else norms", "columns"),
        ("the mask of the last columns", "range(0, D, TILE):", "range(0, max(D // 8 * 8, 1), TILE):", "columns"),
        ("no norm in the backward", "(g - pull * h)", "g", "norm in the backward"),
        ("the backward has states in half precision", "save_for_backward(theta, phi, value, states)", "save_for_backward(theta, phi, value, states.bfloat16().to(dtype))", "digits"),
        ("dtheta without the state before", "(adjoint * (v - before)).sum(-1)", "(adjoint * v).sum(-1)", "gradient dtheta"),
        ("dphi is √D too large", "(h * g / rms).sum(-1)", "(h * g / rms).sum(-1) * D**0.5", "factor of dphi"),
        ("the adjoint does not decay", "adjoint = (1 - write) * adjoint", "adjoint = adjoint + 0", "adjoint"),
        ("the final state has no gradient", "adjoint = dstate.to(dtype).clone()", "adjoint = torch.zeros_like(dstate, dtype=dtype)", "gradient of the final state"),
        ("the initial state has no gradient", "adjoint, None\n", "None, None\n", "factor of dinitial_state"),
    ),
    *planted(
        NUMPY,
        ("dtheta without the state that enters a chunk", "adjoint, v[:, t, None] - h[t]", "adjoint, v[:, t, None] - h[t] * (t % 16 > 0 or t == 0)", "first of chunk"),
        ("dvalue without theta", 'np.einsum("bm,bmd->bd", write[:, t], adjoint)', "adjoint.sum(1)", "gradient dvalue"),
        ("overflow of a square in half precision", "np.mean(h[1:] ** 2, -1)", "np.mean(h[1:].astype(np.float16) ** 2, -1)", "digits"),
    ),
]  # fmt: skip
SPARSE = [
    *planted(
        GATHER,
        ("the slots of the first sequence for all", "at = slots[:, t].long()", "at = slots[:1, t].long().expand(B, K)", "batch"),
        ("all slots decay", "state = state.scatter(1, index, held)", "state = (0.999 * state).scatter(1, index, held)", "unnamed slots"),
        ("slots taken as sorted", "at = slots[:, t].long()", "at = slots[:, t].long().sort(-1).values", "slots in no order"),
        ("a lost dimension where K = 1", "read * held / rms).sum(1, keepdim=True)", "read * held / rms).squeeze(1).sum(-2, keepdim=True)", "K = 1"),
        ("slots beyond 127 wrap around", "at = slots[:, t].long()", "at = slots[:, t].long() % 128", "slots"),
        ("y reads the state before the write", "        held = (1 - write) * held + write * value[:, t, None].to(dtype)\n        rms = (held.square().mean(-1, keepdim=True) + eps).sqrt()\n        ys.append((read * held / rms).sum(1, keepdim=True).to(value.dtype))\n", "        rms = (held.square().mean(-1, keepdim=True) + eps).sqrt()\n        ys.append((read * held / rms).sum(1, keepdim=True).to(value.dtype))\n        held = (1 - write) * held + write * value[:, t, None].to(dtype)\n", "read before written"),
        ("only the slots of the last token come back", "    return torch.cat(ys, 1), state\n", "    if T:\n        named = torch.zeros_like(start[..., 0]).scatter(1, slots[:, -1].long(), 1)\n        state = state * named[..., None]\n    return torch.cat(ys, 1), state\n", "unnamed slots"),
        ("as many slots as the largest names", "start = torch.zeros(B, num_slots, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)\n    state, ys", "num_slots = int(slots.max()) + 1 if T else num_slots\n    start = torch.zeros(B, num_slots, D, dtype=dtype) if initial_state is None else initial_state.to(dtype)[:, :num_slots]\n    state, ys", "shape"),
    ),
    *planted(
        SPREAD,
        ("K = M is taken as in order", "    where = slots.long()\n", "    where = slots.long()\n    if where.shape[-1] == num_slots:\n        where = torch.arange(num_slots).expand(where.shape)\n", "K = M"),
        ("phi is spread by the order of theta", "scatter(-1, where, phi)", "scatter(-1, where.sort(-1).values, phi)", "slots in no order"),
        ("no start state", "return chunk(write, read, value, initial_state, eps)", "return chunk(write, read, value, None, eps)", "start ignored"),
    ),
    *planted(
        SEGMENTS,
        ("a slot keeps its first token alone", "            for pair in segment[slot]:", "            for pair in segment[slot][:1]:", "shared slots"),
        ("a token index by the wrong K", "value[b, pair // K]", "value[b, pair // max(K, 2)]", "K = 1"),
    ),
]  # fmt: skip
STEPS = planted(
    STEP,
    ("theta and 1 - theta are swapped", "torch.lerp(state, value[:, None].to(state.dtype).expand_as(state), write)", "torch.lerp(value[:, None].to(state.dtype).expand_as(state), state, write)", "decay is theta"),
    ("y in the dtype of the state", "    return y.to(value.dtype), state\n", "    return y, state\n", "dtype of y"),
)  # fmt: skip
FAULTS = [*DENSE, *SPARSE, *STEPS]


def plant(fault: Fault) -> tuple[Callable, Callable | None]:
    """The function with the fault in it, and its vjp."""
    source = Path(right.__file__).read_text(encoding="utf-8")
    mine = [block + "\n" for block in source.rstrip().split("\n\n\n") if _defines(block, fault.function.function)]
    assert sum(block.count(fault.old) for block in mine) == 1, f"{fault.name}: {fault.old!r} must stand there once"
    for block in mine:
        source = source.replace(block, block.replace(fault.old, fault.new))
    module = types.ModuleType(f"right, {fault.name}")
    exec(compile(source, right.__file__, "exec"), module.__dict__)
    return _of(module, fault.function)


def _defines(block: str, name: str) -> bool:
    """Whether a block of code is the function, its class or its vjp."""
    word = re.match(r"(?:def|class) (\w+)", block.strip() + "\n")
    return bool(word) and word[1].replace("_", "").lower().startswith(name.replace("_", ""))


def _of(module: types.ModuleType, which: Right) -> tuple[Callable, Callable | None]:
    function = getattr(module, which.function)
    if which.needs == "jax":
        function = function()
    return function, which.vjp and getattr(module, which.vjp)


def caught(fault: Fault) -> Report:
    function, vjp = plant(fault)
    return check(function, fault.function.form, vjp=vjp)


def passes(which: Right) -> Report | None:
    """What a right implementation gives; None where its package is not installed."""
    if find_spec(which.needs) is None:
        return None
    function, vjp = _of(right, which)
    return check(function, which.form, vjp=vjp)


def prove(show: Callable[[str], None]) -> bool:
    """Show two tables: right implementations, and planted faults. True if all is as it should be."""
    fine = True
    show(f"{'right implementation':24}{'cases':>7}{'wrong':>7}{'seconds':>9}")
    for which in RIGHT:
        report = passes(which)
        if report is None:
            show(f"{which.function:24}  {which.needs} is not installed")
            continue
        fine &= report.ok
        show(f"{which.function:24}{len(report.results):>7}{len(report.wrong):>7}{report.seconds:>9.1f}")
    show(f"\n{'planted fault':48}{'in':10}{'cases':>6}  {'caught first by':36}guess")
    for fault in FAULTS:
        report = caught(fault)
        first = report.wrong[0].name if report.wrong else "NOTHING"
        cause = report.guess.cause if report.guess else "none"
        fine &= cause == fault.cause
        guessed = cause if cause == fault.cause else f"{cause}, NOT {fault.cause}"
        show(f"{fault.name:48}{fault.function.function:10}{len(report.wrong):>6}  {first:36}{guessed}")
    return fine
