"""Factorization Memory in matrix products: one chunk of tokens after another, and no state per token.

Equation (4) is linear in the state. So after token t of a chunk that starts from the state H,

    h_t[i] = P_t[i] H[i] + sum over s <= t of D[t, s, i] theta_s[i] x_s

with a = 1 - theta, the decay of a slot at one token, and its products

    D[t, s, i] = a_{s+1}[i] ... a_t[i]        what is left at t of what token s wrote, 1 for s = t
    P_t[i]     = a_1[i] ... a_t[i]            what is left at t of H

The output (6) needs the norms of all h_t, but not h_t itself: |h_t|^2 is a sum of inner products of H and the values.
docs/derivation.md derives every line. fast/chunked.py computes the same without the table D.

    C tokens of the chunk   theta, phi [B, C, M]   value [B, C, D] (x above)   state [B, M, D] (H above)

Products, not differences of logarithms: theta may be 1, and the logarithm of 0 is no number.
"""

import torch
from torch import Tensor


def factorization_memory(
    theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None = None, *,
    eps: float = 1e-6, chunk_length: int = 16,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The dense form of reference/factorization_memory.py, within rounding; the last chunk may be short.

    >>> theta = torch.tensor([[[1.0], [0.0]]])                  # write, then keep
    >>> factorization_memory(theta, torch.ones(1, 2, 1), torch.tensor([[[5.0], [9.0]]]), eps=1e-12)
    (tensor([[[1.],
             [1.]]]), tensor([[[5.]]]))
    """
    state = initial_state
    if state is None:
        state = value.new_zeros(len(value), theta.shape[-1], value.shape[-1])
    ys = [value[:, :0]]
    for begin in range(0, value.shape[1], chunk_length):
        at = slice(begin, begin + chunk_length)
        y, state = chunk(theta[:, at], phi[:, at], value[:, at], state, eps=eps)
        ys.append(y)
    return torch.cat(ys, 1), state


def chunk(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """One chunk: theta, phi [B, C, M], value [B, C, D], state [B, M, D] -> y [B, C, D], the state after it."""
    decay = decays(theta)  # D [B, C, C, M]
    from_start = (1 - theta).cumprod(1)  # P [B, C, M]
    written = decay * theta[:, None]  # [B, t, s, M]: what is left at t of the share that s wrote

    # <h_t, x_t> from inner products: with the state, one product; with the values, the Gram matrix of the chunk.
    gram = value @ value.mT  # [B, C, C]
    h_dot_v = from_start * (value @ state.mT) + torch.einsum("btsm,bts->btm", written, gram)

    # |h_t|^2 = a_t^2 |h_{t-1}|^2 + gain_t, a recurrence of one number per slot: here unrolled like (4).
    gain = 2 * theta * h_dot_v - theta.square() * gram.diagonal(dim1=1, dim2=2)[..., None]
    norm = from_start.square() * state.square().sum(-1)[:, None]
    norm = norm + torch.einsum("btsm,bsm->btm", decay.square(), gain)

    psi = phi / (norm.clamp(min=0) / value.shape[-1] + eps).sqrt()  # (5), and the weights of (6)
    attention = torch.einsum("btm,btsm->bts", psi, written)  # A [B, C, C]: how much of x_s token t reads
    y = (psi * from_start) @ state + attention @ value  # (6)
    state = from_start[:, -1, :, None] * state + written[:, -1].mT @ value  # (4), for the whole chunk
    return y, state


def decays(theta: Tensor) -> Tensor:
    """D [B, C, C, M] of theta [B, C, M]: down each column s, 1 as far as t = s, then times 1 - theta_t.

    >>> decays(torch.tensor([[[0.5], [0.5], [1.0]]]))[0, :, :, 0]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    token = torch.arange(theta.shape[1], device=theta.device)
    t, s = token[:, None, None], token[None, :, None]
    return torch.where(t > s, (1 - theta)[:, :, None], 1.0).cumprod(1) * (t >= s)
