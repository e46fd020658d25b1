"""Causal softmax attention, one query at a time (arXiv 1706.03762), with positions of three kinds.

A token looks back at every token so far and mixes their values by how well its query meets their keys. What
grows is the list of keys and values: there is no state of fixed size.

    rate_p = base^(-2p / P)                  pair p of a head turns by this angle per position        (1)
    a', b' = a cos - b sin, a sin + b cos    the pair (a, b) turned by position * rate                (2)
    score_s = <q_t, k_s> / sqrt(P)           s = 0 to t, queries and keys both turned                 (3)
    weight = softmax(score)                                                                           (4)
    y_t = sum_s weight_s v_s                                                                          (5)

Turning both q and k makes their product depend on t - s alone. Pair p is (x[p], x[p + P/2]). So it is with positions
"rotary" (arXiv 2104.09864). With "none" and "alibi" nothing is turned. With "alibi" (arXiv 2108.12409) head j of 1 to H
has

    score_s = <q_t, k_s> / sqrt(P) - 2^(-8 j / H) (t - s)                                             (6)

With a sliding window of W tokens (arXiv 2004.05150) s goes from max(0, t - W + 1) to t in (3) to (6): a token sees W
tokens, itself among them. A window of 0 stands for all.

Symbols: B batch, T time, H heads, P head width (even).   q, k, v, y [B, T, H, P]

Inputs may have any floating dtype. Arithmetic is in float32, or float64 if any is float64; y has q's dtype.
Everything here is differentiable by autograd.
"""

import torch
from torch import Tensor

from reference import checks


def rotary(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn the pairs of x [..., T, H, P] by the angles of their positions [T] (integers).

    >>> x = torch.tensor([3.0, 4.0]).expand(2, 1, 2)             # T = 2, one head, one pair, rate 1
    >>> rotary(x, torch.tensor([0, 1]))[:, 0]                    # the second turned by one radian
    tensor([[ 3.0000,  4.0000],
            [-1.7450,  4.6856]])
    """
    _check_rotary(x, positions)
    pairs = x.shape[-1] // 2
    rate = base ** -(torch.arange(pairs, dtype=torch.float64) / pairs)  # (1)
    # In float64: at position 65,536 a float32 angle would be off by up to 0.004 radians.
    angle = (positions.double()[:, None] * rate)[:, None].to(x.device)  # [T, 1, P/2]
    cos, sin = angle.cos().to(_wide(x)), angle.sin().to(_wide(x))
    a, b = x.to(_wide(x)).split(pairs, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)  # (2)


def attention(q: Tensor, k: Tensor, v: Tensor, *, positions: str = "rotary", window: int = 0) -> Tensor:
    """q, k, v [B, T, H, P] -> y [B, T, H, P]; token t sees tokens 0 to t, or the last `window` of these.

    positions: "rotary", "none" or "alibi".

    >>> v = torch.arange(6.0).view(1, 3, 1, 2)
    >>> attention(torch.zeros_like(v), v, v)[0, :, 0]            # a query of zeros: the mean of what it sees
    tensor([[0., 1.],
            [1., 2.],
            [2., 3.]])
    >>> attention(torch.zeros_like(v), v, v, window=2)[0, 2, 0]
    tensor([3., 4.])
    """
    checks.floating({}, q=(q, "B T H P"), k=(k, "B T H P"), v=(v, "B T H P"))
    if q.shape[-1] % 2:
        raise ValueError(f"q must have an even P, got {q.shape[-1]}")
    if positions not in ("rotary", "none", "alibi"):
        raise ValueError(f"positions must be one of 'rotary', 'none', 'alibi', got {positions!r}")
    checks.count("window", window)
    dtype, wide, place = q.dtype, _wide(q, k, v), torch.arange(q.shape[1], device=q.device)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    if positions == "rotary":
        q, k = rotary(q, place), rotary(k, place)
    slope = 2 ** (-8 * torch.arange(1, q.shape[2] + 1, device=q.device, dtype=wide) / q.shape[2])
    ys = []
    for t in range(q.shape[1]):
        seen = slice(max(0, t - window + 1) if window else 0, t + 1)
        query, keys, values = q[:, t], k[:, seen], v[:, seen]
        score = (query[:, None] * keys).sum(-1) / q.shape[-1] ** 0.5  # (3) [B, tokens seen, H]
        if positions == "alibi":
            score = score - slope * (t - place[seen, None])  # (6)
        weight = score.softmax(1)  # (4)
        ys.append((weight[..., None] * values).sum(1))  # (5)
    return (torch.stack(ys, 1) if ys else torch.empty_like(q)).to(dtype)


def _wide(*values: Tensor) -> torch.dtype:
    return torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32


def _check_rotary(x: Tensor, positions: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating tensor, got {got}")
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"x must have shape [..., T, H, P], P even, got {[*x.shape]}")
    if not isinstance(positions, Tensor) or positions.shape != x.shape[-3:-2]:
        got = [*positions.shape] if isinstance(positions, Tensor) else type(positions).__name__
        raise ValueError(f"positions must have shape [T] = [{x.shape[-3]}], got {got}")
