"""The Mamba-2 recurrence in chunks (state space duality, arXiv 2405.21060, section 6): matrix products only.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_tᵀ     y_t = h_tᵀ C_t + D x_t          per head, h [N, P]

Within a chunk of L tokens that starts from the state H, with s_t = sum of dt_u A for u up to t:

    y_t = exp(s_t) Hᵀ C_t + sum_{u<=t} exp(s_t - s_u) <C_t, B_u> dt_u x_u
    H  <- exp(s_L) H + sum_u exp(s_L - s_u) dt_u B_u x_uᵀ

Every exponent is <= 0, so nothing overflows. Shapes and dtypes as in reference/mamba2.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mamba2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    initial_state: Tensor | None = None, *, chunk_length: int = 64,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x [B,T,H,P], dt [B,T,H], A [H], B, C [B,T,G,N], D [H] -> y [B,T,H,P], final state [B,H,N,P]."""
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    state = x.new_zeros(batch, H, N, P, dtype=wide) if initial_state is None else initial_state.to(wide)
    L = min(chunk_length, max(T, 1))
    n = -(-T // L)
    if T == 0:
        return torch.empty_like(x), state

    def chunks(v: Tensor, heads: int) -> Tensor:  # [B, T, heads, W] -> [B, n, heads, L, W], zeros beyond T
        v = F.pad(v.to(wide), (0, 0, 0, 0, 0, n * L - T))
        return v.view(batch, n, L, heads, -1).transpose(2, 3)

    u, b, c = chunks(x * dt[..., None], H), chunks(B, G), chunks(C, G)
    s = chunks(dt[..., None] * A[:, None], H)[..., 0].double().cumsum(-1)  # [B, n, H, L]
    late = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
    decay = (s[..., :, None] - s[..., None, :]).to(wide).masked_fill(late, -torch.inf).exp()
    tile = (c @ b.mT)[:, :, :, None] * decay.unflatten(2, (G, -1))
    inside = tile.flatten(2, 3) @ u  # [B, n, H, L, P]
    to_end = (s[..., -1:] - s).to(wide).exp()  # [B, n, H, L]
    update = (b.mT[:, :, :, None] @ (u * to_end[..., None]).unflatten(2, (G, -1))).flatten(2, 3)
    whole = s[..., -1].to(wide).exp()[..., None, None]
    starts = []
    for i in range(n):
        starts.append(state)
        state = whole[:, i] * state + update[:, i]
    starts = torch.stack(starts, 1)  # [B, n, H, N, P]
    before = (c[:, :, :, None] @ starts.unflatten(2, (G, -1))).flatten(2, 3)
    y = inside + before * s.to(wide).exp()[..., None]
    y = y.transpose(2, 3).reshape(batch, n * L, H, P)[:, :T]
    if D is not None:
        y = y + D[:, None] * x
    return y.to(x.dtype), state


def mamba2_step_(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: x [B,H,P], dt [B,H], B, C [B,G,N]; state [B,H,N,P] changes in place -> y [B,H,P], state."""
    heads = state.shape[1] // B.shape[1]
    b, c = B.repeat_interleave(heads, 1), C.repeat_interleave(heads, 1)
    state.mul_((dt * A).exp()[..., None, None]).add_(b[..., None] * (dt[..., None] * x)[..., None, :])
    y = (c[..., None, :] @ state)[..., 0, :]
    return (y if D is None else y + D[:, None] * x).to(x.dtype), state
