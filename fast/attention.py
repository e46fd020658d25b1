"""Causal softmax attention by torch's fused kernel, and the cache that decoding needs.

    q, k, v, y [B, T, H, P]   B batch, T time, H heads, P head width (even)

Positions are "rotary", "none" or "alibi"; the formulas are in reference/attention.py. With a sliding window of W tokens
a query sees W keys, its own among them. The product with a cache then takes only the last W - 1 keys before its tokens,
so the time of a step is constant. The cache keeps all of them: it is not cut.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fast import validation

POSITIONS = ("rotary", "none", "alibi")
# The keys (turned if positions are rotary) and the values of the tokens so far, [2, B, H, room, P], and how many of the
# positions are theirs. Plain data, so that torch.save, torch.load and torch.export take it as it is.
Cache = tuple[Tensor, int]


def empty_cache(batch_size: int, num_heads: int, head_width: int, **options) -> Cache:
    """A cache of no tokens; options: dtype and device."""
    return torch.empty(2, batch_size, num_heads, 0, head_width, **options), 0


def rotary(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn the pairs of x [..., T, H, P] by the angles of their positions [T] (integers).

    >>> x = torch.tensor([3.0, 4.0]).expand(2, 1, 2)             # T = 2, one head, one pair, rate 1
    >>> rotary(x, torch.tensor([0, 1]))[:, 0]                    # the second turned by one radian
    tensor([[ 3.0000,  4.0000],
            [-1.7450,  4.6856]])
    """
    _check_rotary(x, positions)
    return _turn(x, *_angles(positions, x, base))


def attention(q: Tensor, k: Tensor, v: Tensor, *, positions: str = "rotary", window: int = 0) -> Tensor:
    """q, k, v [B, T, H, P] -> y [B, T, H, P]; token t sees tokens 0 to t, or the last `window` of these.

    >>> v = torch.arange(6.0).view(1, 3, 1, 2)
    >>> attention(torch.zeros_like(v), v, v)[0, :, 0]            # a query of zeros: the mean of what it sees
    tensor([[0., 1.],
            [1., 2.],
            [2., 3.]])
    >>> attention(torch.zeros_like(v), v, v, window=2)[0, 2, 0]
    tensor([3., 4.])
    """
    _check(q, k, v, positions, window)
    q, k, v = (u.transpose(1, 2) for u in (*_placed(q, k, 0, positions), v))
    mask = _mask(q, 0, 0, positions, window)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).transpose(1, 2)


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache, *, positions: str = "rotary", window: int = 0
) -> tuple[Tensor, Cache]:
    """The same for tokens that follow those of the cache -> y, a cache with them added; the one given stays as it was.

    >>> q, k, v = torch.randn(3, 1, 9, 2, 4)
    >>> _, cache = cached_attention(*(u[:, :5] for u in (q, k, v)), empty_cache(1, 2, 4))
    >>> y, (_, length) = cached_attention(*(u[:, 5:] for u in (q, k, v)), cache)
    >>> length, torch.allclose(y, attention(q, k, v)[:, 5:], atol=1e-6)
    (9, True)
    """
    return _cached(q, k, v, cache, _append, positions, window)


@torch.no_grad()
def cached_attention_(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache, *, positions: str = "rotary", window: int = 0
) -> tuple[Tensor, Cache]:
    """`cached_attention` without gradients that writes into the cache's room: the cache given is spent."""
    return _cached(q, k, v, cache, _append_, positions, window)


def _cached(
    q: Tensor, k: Tensor, v: Tensor, cache: Cache, append: Callable, positions: str, window: int
) -> tuple[Tensor, Cache]:
    _check(q, k, v, positions, window)
    T, past = q.shape[1], cache[1]
    first = torch.sym_max(past - window + 1, 0) if window else 0  # the key that the first query sees
    q, k, v = (u.transpose(1, 2) for u in (*_placed(q, k, past, positions), v))
    kept = append(*cache, torch.stack([k, v]))
    keys, values = kept[:, :, :, first : past + T]
    mask = _mask(q, past, first, positions, window)
    y = F.scaled_dot_product_attention(q, keys, values, mask, is_causal=mask is None and not past)
    return y.transpose(1, 2), (kept, past + T)


def _append(kept: Tensor, past: int, more: Tensor) -> Tensor:
    return torch.cat([kept[:, :, :, :past], more], 3) if past else more


def _append_(kept: Tensor, past: int, more: Tensor) -> Tensor:
    end = past + more.shape[3]
    if end > kept.shape[3]:
        # Twice the need: copies then cost O(1) a token over a long decode.
        room = more.new_empty(*more.shape[:3], 2 * end, more.shape[4])
        room[:, :, :, :past] = kept[:, :, :, :past]
        kept = room
    kept[:, :, :, past:end] = more
    return kept


def _placed(q: Tensor, k: Tensor, past: int, positions: str) -> tuple[Tensor, Tensor]:
    """q and k [B, T, H, P] at the positions from past on, turned if positions are rotary."""
    if positions != "rotary":
        return q, k
    angles = _angles(torch.arange(past, past + q.shape[1], device=q.device), q)
    return _turn(q, *angles), _turn(k, *angles)


def _mask(q: Tensor, past: int, first: int, positions: str, window: int) -> Tensor | None:
    """Which of the keys from `first` on q [B, H, T, P] sees, or what is added to scores; None where none is needed.

    The kernel's own causal mask starts at the first key. So several tokens with a past need one that is written out.
    """
    H, T = q.shape[1:3]
    if positions != "alibi" and not ((past or window) and T > 1):
        return None
    steps = torch.arange(past, past + T, device=q.device)[:, None] - torch.arange(first, past + T, device=q.device)
    seen = (steps >= 0) & (steps < window) if window else steps >= 0  # [T, keys]
    if positions != "alibi":
        return seen
    slope = 2 ** (-8 * torch.arange(1, H + 1, dtype=torch.float64, device=q.device) / H)
    return (-slope[:, None, None] * steps).masked_fill(~seen, -torch.inf).to(q.dtype)


def _angles(positions: Tensor, x: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, [T, 1, P/2]."""
    pairs = x.shape[-1] // 2
    # In float64: at position 65,536 a float32 angle would be off by up to 0.004 radians.
    rate = base ** -(torch.arange(pairs, dtype=torch.float64, device=x.device) / pairs)
    angle = (positions[:, None] * rate)[:, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    return angle.cos().to(wide), angle.sin().to(wide)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, positions: str, window: int) -> None:
    validation.floating("q", q, q, "B T H P")
    validation.floating("k", k, q, "B T H P", q.shape, first="q")
    validation.floating("v", v, q, "B T H P", q.shape, first="q")
    if q.shape[-1] % 2:
        raise ValueError(f"q must have an even P, got {q.shape[-1]}")
    validation.one_of("positions", positions, POSITIONS)
    validation.count("window", window)


def _check_rotary(x: Tensor, positions: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating tensor, got {got}")
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"x must have shape [..., T, H, P], P even, got {[*x.shape]}")
    if not isinstance(positions, Tensor) or positions.shape != x.shape[-3:-2]:
        got = [*positions.shape] if isinstance(positions, Tensor) else type(positions).__name__
        raise ValueError(f"positions must have shape [T] = [{x.shape[-3]}], got {got}")
