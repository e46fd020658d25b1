"""The whole layer of Factorization Memory, equations (1) to (6) and the output, as a loop over the tokens.

Start here. One token x_t of width d comes in, the state h of M slots of D numbers is read and written, one vector of
width d goes out. The layer remembers nothing else.

    alpha = softmax(W_alpha x / tau)                    affinity of the token to each slot              (1)
    eta, mu = sigmoid(W_eta x + b_eta), sigmoid(...)    update rate and merge rate                      (2)
    theta, phi = eta * alpha, mu * alpha                write weight and read weight, in [0, 1]         (3)
    value = W_in x
    h[i] = (1 - theta[i]) h[i] + theta[i] value         every slot moves towards the value          (4)
    rms(v) = sqrt(|v|^2 / D + eps)                      the size of one slot                            (5)
    y = sum_i phi[i] h[i] / rms(h[i])                   the normalised slots, merged                    (6)
    out = W_out (g * y)                                 with a learned gain g                           (7)

In the sparse form the K largest alpha are kept and divided by their sum; the others are 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.factorization_memory import step


class Weights(NamedTuple):
    """The layer's parameters. R is 1 (one rate per token) or M (one per slot)."""

    W_alpha: Tensor  # [M, d]  the router
    W_eta: Tensor  # [R, d]
    b_eta: Tensor  # [R]
    W_mu: Tensor  # [R, d]
    b_mu: Tensor  # [R]
    W_in: Tensor  # [D, d]
    gain: Tensor  # [D]
    W_out: Tensor  # [d, D]


def layer(
    x: Tensor, weights: Weights, state: Tensor | None = None, *,
    temperature: float = 1.0, top_k: int | None = None, eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x [B, T, d], already RMS-normalised, state [B, M, D] (zeros if not given) -> out [B, T, d], final state.

    >>> one, zero = torch.ones(1, 1), torch.zeros(1)
    >>> two_slots = Weights(torch.tensor([[9.0], [-9.0]]), 99 * one, zero, 99 * one, zero, one, zero + 1, one)
    >>> out, state = layer(torch.tensor([[[2.0]]]), two_slots)   # the first slot takes the token, and is read
    >>> out.round(decimals=3), state.round(decimals=3)
    (tensor([[[1.]]]), tensor([[[2.],
             [0.]]]))
    """
    w = weights
    if state is None:
        state = x.new_zeros(len(x), len(w.W_alpha), len(w.W_in))
    outs = []
    for token in x.unbind(1):  # [B, d]
        alpha = (token @ w.W_alpha.T / temperature).softmax(-1)  # (1)
        if top_k is not None:
            alpha = keep_largest(alpha, top_k)
        eta = (token @ w.W_eta.T + w.b_eta).sigmoid()  # (2)
        mu = (token @ w.W_mu.T + w.b_mu).sigmoid()  # (2)
        theta, phi = eta * alpha, mu * alpha  # (3)
        y, state = step(theta, phi, token @ w.W_in.T, state, eps=eps)  # (4), (5), (6)
        outs.append((w.gain * y) @ w.W_out.T)  # (7)
    return (torch.stack(outs, 1) if outs else torch.empty_like(x)), state


def keep_largest(alpha: Tensor, k: int) -> Tensor:
    """alpha [B, M] with all but the k largest of each row set to 0, and the rest divided by their sum.

    >>> keep_largest(torch.tensor([[0.5, 0.1, 0.3, 0.1]]), 2)
    tensor([[0.6250, 0.0000, 0.3750, 0.0000]])
    """
    kept = torch.zeros_like(alpha).scatter(-1, alpha.topk(k).indices, 1.0)
    return alpha * kept / (alpha * kept).sum(-1, keepdim=True)
