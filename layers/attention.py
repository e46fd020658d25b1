"""The layer of attention around the cache of keys and values of fast.attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fast.attention import POSITIONS, Cache, cached_attention, cached_attention_, empty_cache
from fast.validation import one_of
from layers.mixer import Mixer, check_input, check_one_token, check_state, pair
from layers.options import MixerConfig, check_sizes, is_size, option


@dataclass(frozen=True)
class AttentionConfig(MixerConfig):
    """head_width is even, for rotary positions turn pairs of numbers, and divides d_model.

    A model may be read with another window than it was trained with: no weight depends on it.
    """

    head_width: int = option(32, "width of a head")
    positions: str = option("rotary", "how attention knows where a token stands", choices=POSITIONS)
    window: int = option(0, "tokens that a query of attention sees, its own included, or 0 for all")

    def __post_init__(self) -> None:
        check_sizes(head_width=self.head_width)
        one_of("positions", self.positions, POSITIONS)
        if not (is_size(self.window) or self.window == 0):
            raise ValueError(f"window must be a number of tokens, or 0 for all, got {self.window!r}")

    def check_width(self, d_model: int) -> None:
        if d_model % self.head_width:
            raise ValueError(f"head_width must divide d_model = {d_model}, got {self.head_width}")
        if self.head_width % 2:
            raise ValueError(f"head_width must be even for a transformer, got {self.head_width}")


class Attention(nn.Module):
    """Causal softmax attention in d_model / head_width heads.

    eps is taken because all mixers are made alike: attention has no norm of its own.
    """

    def __init__(self, d_model: int, config: AttentionConfig | None = None, *, eps: float = 1e-6):
        super().__init__()
        config = AttentionConfig() if config is None else config
        check_sizes(d_model=d_model)
        config.check_width(d_model)
        self.d_model, self.head_width, self.num_heads = d_model, config.head_width, d_model // config.head_width
        self.positions, self.window = config.positions, config.window
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache]:
        return self._attend(cached_attention, x, state)

    @torch.no_grad()
    def step_(self, x: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        check_one_token(x)
        return self._attend(cached_attention_, x, state)

    def initial_state(self, batch_size: int) -> Cache:
        w = self.in_proj.weight
        return empty_cache(batch_size, self.num_heads, self.head_width, dtype=w.dtype, device=w.device)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        """Bytes of the keys and values of `position` tokens (a cache may have room for up to twice as many).

        With a window too: the cache is not cut.
        """
        return 2 * batch_size * position * self.d_model * self.in_proj.weight.element_size()

    def _attend(self, attend: Callable, x: Tensor, state: Cache | None) -> tuple[Tensor, Cache]:
        cache = self._checked(x, state)
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.num_heads, self.head_width)).unbind(-3)
        y, cache = attend(q, k, v, cache, positions=self.positions, window=self.window)
        return self.out_proj(y.flatten(-2)), cache

    def _checked(self, x: Tensor, state: Cache | None) -> Cache:
        check_input(x, self.d_model)
        if state is None:
            return self.initial_state(x.shape[0])
        kept, length = pair(state, (int, torch.SymInt), "keys and values, and their number")
        room = kept.shape[3] if kept.ndim == 5 else 0
        check_state(kept.shape, (2, x.shape[0], self.num_heads, room, self.head_width), batch=1)
        if not 0 <= length <= room:
            raise ValueError(f"state has room for {room} tokens, but is said to hold {length}")
        return kept, length


ROWS = (Mixer("transformer", "Transformer", Attention, AttentionConfig, mlp_width=256),)
