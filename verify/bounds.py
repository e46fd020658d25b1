"""How large an error may be: in the unit that rounding comes in, growing with the steps of the recurrence."""

from itertools import pairwise

import torch
from torch import Tensor

from verify.cases import Case

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
PRODUCTS = 4  # roundings of the coarsest input's dtype, where float32 results come from products of half precision
ROUNDINGS_A_STEP = 3  # of 1 - theta, of its product with the state, and of the sum
UNDERFLOW = 1e-25  # below 1e-38 float32 has few digits left, and 1 / rms may be 1e6


def tolerance(dtype: torch.dtype, steps: int) -> float:
    """How far a number of this dtype may be off after a recurrence of so many steps, relative to its size.

    The loop itself is not exact. A step multiplies what stood in a slot by (1 + d)^3, with |d| <= u, the unit roundoff
    of the state (2^-24 in float32, 2^-53 in float64). All of them may have one sign. So after T steps the state, and y
    which is read from it, are off by up to 3 T u of their size; at T = 130 in float32 that is 2.3e-5. Gradients pass
    through as many steps on the way back. TOLERANCE is for all roundings that do not pile up with T.
    """
    return TOLERANCE[dtype] + ROUNDINGS_A_STEP * steps * unit_roundoff(torch.promote_types(dtype, torch.float32))


def unit_roundoff(dtype: torch.dtype) -> float:
    """How far a number may be off once it is rounded to dtype, relative to its size: 2^-24 for float32."""
    return torch.finfo(dtype).eps / 2


def within(name: str, got: Tensor, want: Tensor, size: Tensor, steps: int) -> None:
    """Every number of got is want, up to the tolerance of its dtype after so many steps times its size."""
    assert got.shape == want.shape, name
    bound = bounds(got.dtype, size, steps)
    excess = in_bounds(got, want, bound)
    if excess.numel() and excess.max() > 1:
        at = worst(excess)
        raise AssertionError(f"{name}{[*at]} is {got[at]:.9g}, not {want[at]:.9g} within {bound[at]:.2g}")


def bounds(dtype: torch.dtype, size: Tensor, steps: int, inputs: torch.dtype | None = None) -> Tensor:
    """How far each number of this dtype may be off; infinite where dtype cannot hold its size.

    inputs: the coarsest dtype of what the number is made of. A GPU multiplies half-precision inputs on units that round
    both factors to bfloat16, float16 or TF32, and adds in float32. So a float32 state of bfloat16 values is right to
    some roundings of bfloat16, unless a kernel takes more care.
    """
    kind, relative = torch.finfo(dtype), tolerance(dtype, steps)
    if inputs in (torch.bfloat16, torch.float16):
        relative = max(relative, PRODUCTS * unit_roundoff(inputs))
    bound = relative * size + UNDERFLOW + kind.tiny * kind.eps
    return bound.masked_fill(size > kind.max, torch.inf)


def in_bounds(got: Tensor, want: Tensor, bound: Tensor) -> Tensor:
    """The errors of got in units of their bounds. NaN counts as infinitely wrong, except where all is allowed."""
    excess = (got.double() - want).abs() / bound
    return excess.masked_fill(bound.isinf(), 0).nan_to_num(nan=torch.inf)


def worst(excess: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))


def sizes(case: Case, on_y: Tensor, on_state: Tensor) -> dict[str, Tensor]:
    """How large each result and gradient would be had nothing cancelled: the loop with every minus made a plus.

    The unit that rounding errors come in. The fast forms take |h|^2 from inner products, right to some u of what
    |h|^2 would be without cancellation, s^2. So a slot's weight grows by s^2 / (|h|^2 + eps D), where |h|^2 is the
    least that may be left of it.
    """
    if case.cu_seqlens is not None:
        ends = list(pairwise(case.cu_seqlens.tolist()))
        parts = [
            sizes(part, on_y[:, first:last], on_state[i : i + 1])
            for i, (part, (first, last)) in enumerate(zip(case.unpacked(), ends, strict=True))
        ]
        return {n: torch.cat([part[n] for part in parts], 0 if n.endswith("state") else 1) for n in parts[0]}
    unit = 16 * unit_roundoff(case.start().dtype)
    case = case.double()
    dense = case.dense()
    h = dense.initial_state if dense.initial_state is not None else torch.zeros(case.state_shape()).double()
    leaves = (dense.theta, 1 - dense.theta, dense.phi, dense.value.abs(), h.abs())
    write, keep, phi, value, start = leaves = [v.detach().clone().requires_grad_() for v in leaves]
    gates = keep[..., None]
    with torch.no_grad():
        lengths = torch.cat([dense.value, dense.value.norm(dim=-1, keepdim=True)], -1)  # h, and s beside it
        first = torch.cat([h, h.norm(dim=-1, keepdim=True)], -1)
        h, s = _recurrence(gates, write[..., None] * lengths[:, :, None], first).split([h.shape[-1], 1], -1)
        mean_square = (h.square().sum(-1) - unit * s[..., 0].square()).clamp(min=0) / h.shape[-1] + case.eps
        weight = (1 + s[..., 0].square() / h.shape[-1] / mean_square) * mean_square.rsqrt()
    totals = _recurrence(gates, write[..., None] * value[:, :, None], start)
    total = totals[:, -1] if totals.shape[1] else start
    y = ((phi * weight)[..., None] * totals).sum(-2)
    anywhere = on_y.norm(dim=-1, keepdim=True)  # the norm couples all numbers of a slot
    loss = (y * anywhere).sum() + (total * on_state.abs()).sum()
    dwrite, dkeep, dphi, dvalue, dstart = torch.autograd.grad(loss, leaves, materialize_grads=True)
    dtheta = dwrite + dkeep
    if case.slots is not None:
        dtheta, dphi = (v.gather(-1, case.slots.long()) for v in (dtheta, dphi))
    return {
        "y": y.detach(),
        "final state": total.detach(),
        "dtheta": dtheta,
        "dphi": dphi,
        "dvalue": dvalue,
        "dinitial_state": dstart,
    }


def _recurrence(keep: Tensor, written: Tensor, state: Tensor) -> Tensor:
    """What a state is after each token: keep [B, T, M, 1], written [B, T, M, D], state [B, M, D] -> [B, T, M, D]."""
    states = []
    for k, w in zip(keep.unbind(1), written.unbind(1), strict=True):
        states.append(state := torch.addcmul(w, k, state))
    return torch.stack(states, 1) if states else torch.zeros_like(written)
