"""Causal softmax attention with rotary positions, and the cache of keys and values that decoding needs.

    q, k, v, y [B, T, H, P]   B batch, T time, H heads, P head width (even)

The same functions as reference/attention.py, by torch's fused kernel.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Buffer:
    """Room for keys and values [2, B, H, capacity, P]; `filled` positions of it belong to some cache."""

    def __init__(self, data: Tensor, filled: int):
        self.data, self.filled = data, filled


class Cache(NamedTuple):
    """The keys (rotated) and values of the first `length` tokens. Never changes once made.

    Caches that continue one another share a buffer: each sees its first `length` positions. Only a cache that
    ends where the buffer's filled part ends appends in place; any other would overwrite a sibling, and copies.
    """

    buffer: _Buffer
    length: int

    @staticmethod
    def empty(batch_size: int, num_heads: int, head_width: int, **options) -> "Cache":
        return Cache(_Buffer(torch.empty(2, batch_size, num_heads, 0, head_width, **options), 0), 0)

    @property
    def keys(self) -> Tensor:
        """[B, H, length, P]"""
        return self.buffer.data[0, :, :, : self.length]

    @property
    def values(self) -> Tensor:
        """[B, H, length, P]"""
        return self.buffer.data[1, :, :, : self.length]

    def append(self, keys: Tensor, values: Tensor) -> "Cache":
        """A cache with keys and values [B, H, T, P] after this one's."""
        items = torch.stack([keys, values])
        old, end = self.buffer, self.length + items.shape[3]
        if torch.is_grad_enabled() and (items.requires_grad or old.data.requires_grad):
            # Writing in place would change what autograd has saved of earlier tokens.
            return Cache(_Buffer(torch.cat([old.data[:, :, :, : self.length], items], 3), end), end)
        if self.length != old.filled or end > old.data.shape[3]:
            # Doubling makes the copies of a long decode cost O(1) a token.
            room = items.new_empty(*items.shape[:3], max(end, 2 * self.length), items.shape[4])
            room[:, :, :, : self.length] = old.data[:, :, :, : self.length]
            old = _Buffer(room, self.length)
        old.data[:, :, :, self.length : end] = items
        old.filled = end
        return Cache(old, end)


def rotary(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn the pair (x[p], x[p + P/2]) by positions * base^(-2p/P) radians: x [..., T, H, P], positions [T]."""
    half = x.shape[-1] // 2
    # float64: at position 65,536 a float32 angle would be off by 0.004 radians.
    rate = base ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = positions.to(torch.float64)[:, None, None] * rate
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angle.cos().to(wide), angle.sin().to(wide)
    a, b = x.to(wide).split(half, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, T, H, P] -> y [B, T, H, P]; token t sees tokens 0 to t."""
    return cached_attention(q, k, v)[0]


def cached_attention(q: Tensor, k: Tensor, v: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """The same for tokens that follow those in the cache -> y, the cache with them added."""
    T = q.shape[1]
    if cache is None:
        cache = Cache.empty(len(q), q.shape[2], q.shape[3], dtype=q.dtype, device=q.device)
    past = cache.length
    positions = torch.arange(past, past + T, device=q.device)
    q, k = rotary(q, positions).transpose(1, 2), rotary(k, positions).transpose(1, 2)
    cache = cache.append(k, v.transpose(1, 2))
    mask = None
    if past and T > 1:
        mask = torch.ones(T, past + T, dtype=torch.bool, device=q.device).tril(past)
    y = F.scaled_dot_product_attention(q, cache.keys, cache.values, mask, is_causal=not past and T > 1)
    return y.transpose(1, 2), cache
