"""The Mamba-2 recurrence in chunks (state space duality, arXiv 2405.21060, section 6): matrix products only.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_tᵀ     y_t = h_tᵀ C_t + D x_t          per head, h [N, P]

Within a chunk of L tokens that starts from the state S, with s_t = sum of dt_u A over u = 1 to t:

    y_t = exp(s_t) Sᵀ C_t + sum_{u<=t} exp(s_t - s_u) <C_t, B_u> dt_u x_u + D x_t     (1)
    S  <- exp(s_L) S + sum_u exp(s_L - s_u) dt_u B_u x_uᵀ                             (2)

Every exponent is <= 0, so nothing overflows.

    x, y [B, T, H, P]   dt [B, T, H], >= 0   A [H], < 0   B, C [B, T, G, N]   D [H]   state [B, H, N, P]
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fast import validation


def mamba2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    initial_state: Tensor | None = None, *, chunk_length: int = 32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A whole sequence of any length T -> y, final state, as in reference/mamba2.py, within rounding.

    Arithmetic is in float32, or float64 if any input is; y has the dtype of x. Differentiable by autograd.
    chunk_length trades work within chunks (L numbers per head and token) for states between them (N P / L).
    Arguments that do not fit raise TypeError or ValueError by name. Signs of dt and A are not checked.

    >>> ones = torch.ones(1, 3, 1, 1)
    >>> y, state = mamba2(ones, ones[..., 0], -torch.log(torch.tensor([2.0])), ones, ones)
    >>> y.flatten(), state.flatten()                             # 1, 1/2 + 1, 3/4 + 1
    (tensor([1.0000, 1.5000, 1.7500]), tensor([1.7500]))
    """
    _check("B T", x, dt, A, B, C, D)
    if initial_state is not None:
        _check_state("initial_state", initial_state, x, B)
    if chunk_length < 1:
        raise ValueError(f"chunk_length must be positive, got {chunk_length}")
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    state = x.new_zeros(batch, H, N, P) if initial_state is None else initial_state
    wide = _wide(x, dt, A, B, C, state)
    state = state.to(wide)
    # A graph does for any T if no size in it is compared with another: two chunks or more, each of them whole. A text
    # of no tokens is one token of padding, so that gradients flow.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    L = chunk_length if traced else max(1, min(chunk_length, T))
    n = (T + 2 * L - 1) // L if traced else max(1, -(-T // L))

    def chunks(v: Tensor, *last: int) -> Tensor:
        """[B, T, ...] -> [B n, L, *last]; tokens beyond T have dt = 0 and change nothing."""
        v = v.to(wide).flatten(2)
        return F.pad(v, (0, 0, 0, n * L - T)).reshape(batch * n, L, *last)

    dt, b, c = chunks(dt, H), chunks(B, G, N).transpose(1, 2), chunks(C, G, N).transpose(1, 2)
    u = chunks(x, H, P) * dt[..., None]
    s = (dt * A).double().cumsum(1)  # in float64, so that differences of large sums keep their digits

    starts, state = _states(b, u, s, state, n, traced)
    y = c @ starts  # [Bn, G, L, (H/G) P]
    y = y.view(batch * n, G, L, H // G, P).transpose(1, 2).reshape(batch * n, L, H, P) * s.to(wide).exp()[..., None]
    tile = (c @ b.mT)[:, :, None] * _decay(s, wide).unflatten(1, (G, -1))  # [Bn, G, H/G, L, L]
    y = y + (tile.flatten(1, 2) @ u.transpose(1, 2)).transpose(1, 2)  # (1)
    y = y.reshape(batch, n * L, H, P)
    y = y.index_select(1, torch.arange(T, device=y.device)) if traced else y[:, :T]
    if D is not None:
        y = y + D[:, None] * x
    return y.to(x.dtype), state


def _decay(s: Tensor, wide: torch.dtype) -> Tensor:
    """exp(s_t - s_u) for u <= t, 0 elsewhere: s [Bn, L, H] -> [Bn, H, L, L]."""
    s = s.transpose(1, 2)
    late = torch.ones(s.shape[-1], s.shape[-1], dtype=torch.bool, device=s.device).triu(1)
    # Masked before exp: the exponents of u > t are positive and may overflow, and inf * 0 has no gradient.
    return (s[..., :, None] - s[..., None, :]).to(wide).masked_fill(late, -torch.inf).exp()


def _states(b: Tensor, u: Tensor, s: Tensor, state: Tensor, n: int, traced: bool) -> tuple[Tensor, Tensor]:
    """The state at the start of every chunk, [Bn, G, N, (H/G) P], and the final one [B, H, N, P]: (2)."""
    batch, H, N, P = state.shape
    G = b.shape[1]
    to_end = (s[:, -1:] - s).to(state.dtype).exp()
    late = (u * to_end[..., None]).unflatten(2, (G, -1)).flatten(3).transpose(1, 2)  # [Bn, G, L, (H/G) P]
    updates = (b.mT @ late).view(batch, n, G, N, H // G, P)
    state = state.view(batch, G, H // G, N, P).transpose(2, 3)
    totals = s[:, -1].view(batch, n, H)
    starts, state = (_at_once if traced else _in_turn)(state, updates, totals)
    return starts.reshape(batch * n, G, N, H // G * P), state.transpose(2, 3).reshape(batch, H, N, P)


def _in_turn(state: Tensor, updates: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """What enters each chunk [B, n, G, N, H/G, P] and leaves the last, from what enters the first, what each adds
    and the exponents of their decays [B, n, H]."""
    G, _, per_group, _ = state.shape[1:]
    decays = totals.to(state.dtype).exp().view(*totals.shape[:2], G, 1, per_group, 1)
    starts = []
    for decay, update in zip(decays.unbind(1), updates.unbind(1), strict=True):
        starts.append(state)
        state = torch.addcmul(update, decay, state)
    return torch.stack(starts, 1), state


def _at_once(state: Tensor, updates: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one product of [n + 1, n + 1] decays, since torch.compile would write out the loop for its n."""
    ends = F.pad(totals.cumsum(1), (0, 0, 1, 0))
    decays = _decay(ends, state.dtype).unflatten(1, (state.shape[1], -1))  # [B, G, H/G, n + 1, n + 1]
    added = torch.cat([state[:, None], updates], 1).permute(0, 2, 4, 1, 3, 5)
    states = (decays @ added.flatten(4)).unflatten(4, added.shape[4:]).permute(0, 3, 1, 4, 2, 5)
    return states[:, :-1], states[:, -1]


def mamba2_step_(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token, inside the state: x [B, H, P], dt [B, H], B, C [B, G, N], state [B, H, N, P] -> y, state.

    >>> state = torch.ones(1, 1, 1, 1)
    >>> one = torch.ones(1, 1, 1)
    >>> y, _ = mamba2_step_(one, one[0], -torch.log(torch.tensor([2.0])), one, one, None, state)
    >>> y.item(), state.item()                                   # 1/2 + 1
    (1.5, 1.5)
    """
    _check("B", x, dt, A, B, C, D)
    _check_state("state", state, x, B)
    value, dt, key, query = (v.to(state.dtype) for v in (x, dt, B, C))
    G = B.shape[1]
    grouped = state.unflatten(1, (G, -1))
    grouped.mul_((dt * A).exp().unflatten(1, (G, -1))[..., None, None])
    scaled = (value * dt[..., None]).unflatten(1, (G, -1))
    grouped.addcmul_(key[:, :, None, :, None], scaled[..., None, :])
    y = (query[:, :, None, None] @ grouped).view(x.shape)
    return (y if D is None else y + D[:, None] * value).to(x.dtype), state


def _wide(*values: Tensor) -> torch.dtype:
    return torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32


def _check(lead: str, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
    """lead: the letters of a shape before a token's own, B or B T."""
    floating = partial(validation.floating, first="x")
    floating("x", x, x, f"{lead} H P")
    *tokens, heads, _ = x.shape
    floating("dt", dt, x, f"{lead} H", (*tokens, heads))
    floating("A", A, x, "H", (heads,))
    floating("B", B, x, f"{lead} G N", tokens)
    floating("C", C, x, f"{lead} G N", B.shape)
    if D is not None:
        floating("D", D, x, "H", (heads,))
    groups = B.shape[-2]
    if groups < 1 or heads % groups:
        raise ValueError(f"B must have a G that divides the {heads} heads of x, got {groups}")


def _check_state(name: str, state: Tensor, x: Tensor, B: Tensor) -> None:
    validation.state(name, state, x, "B H N P", (x.shape[0], x.shape[-2], B.shape[-1], x.shape[-1]), first="x")
