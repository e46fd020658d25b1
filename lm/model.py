"""A byte-level language model around any mixer of layers.MIXERS.

tokens -> embedding -> num_layers x [x + mixer(norm(x)), x + swiglu(norm(x))] -> norm -> embedding, transposed
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import MIXERS, Mixer, mixers_with
from layers.options import MixerConfig, check_positive, check_sizes, option

DOCUMENT_MARK = 256  # the token between documents, after the 256 bytes
VOCABULARY = 257


@dataclass(frozen=True)
class Config:
    """All sizes of a model: of the blocks here, of the mixer in `options`."""

    mixer: str = option("fm-sparse", "what mixes the tokens", choices=tuple(MIXERS))
    d_model: int = option(128, "model width", flag="width")
    num_layers: int = option(4, "number of blocks", flag="layers")
    mlp_width: int = option(None, "width of the SwiGLU", shown="in proportion")  # None: as the mixer's row says
    eps: float = 1e-6
    # None: the mixer's defaults
    options: MixerConfig = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        row = _row(self.mixer)
        check_sizes(d_model=self.d_model, num_layers=self.num_layers)
        check_positive(eps=self.eps)
        if self.mlp_width is None:
            object.__setattr__(self, "mlp_width", row.mlp_width * self.d_model // 128)
        check_sizes(mlp_width=self.mlp_width)
        if self.options is None:
            object.__setattr__(self, "options", row.options())
        if type(self.options) is not row.config:
            needs, got = row.config.__name__, type(self.options).__name__
            raise TypeError(f"options of {self.mixer} must be of type {needs}, got {got}")
        self.options.check_width(self.d_model)

    @classmethod
    def of(cls, mixer: str = "fm-sparse", **given: Any) -> "Config":
        """From fields of the blocks and of the mixer side by side; an option of other mixers alone is a ValueError.

        None stands for an option that was not given.

        >>> Config.of("fm", d_model=64, num_slots=8).options.num_slots
        8
        """
        given = {name: value for name, value in given.items() if value is not None}
        own = {name: given.pop(name) for name in [*given] if name not in BLOCK_FIELDS}
        row = _row(mixer)
        for name, value in own.items():
            having = mixers_with(name)
            if not having:
                raise TypeError(f"{name} is no field of Config and no option of a mixer, got {value!r}")
            if mixer not in having:
                raise ValueError(f"{name} is an option of {' or '.join(having)}, not of {mixer}, got {value!r}")
        return cls(mixer, **given, options=row.options(**own))

    @classmethod
    def lenient(cls, mixer: str, **given: Any) -> "Config":
        """`of` without what only other mixers have: for sizes that serve several, and for records that hold all."""
        foreign = {name for name in given if (having := mixers_with(name)) and mixer not in having}
        return cls.of(mixer, **{name: value for name, value in given.items() if name not in foreign})

    def as_dict(self) -> dict:
        """Side by side, as `of` takes them and as JSON holds them."""
        return {name: getattr(self, name) for name in ("mixer", *BLOCK_FIELDS)} | asdict(self.options)

    def make_mixer(self) -> Any:
        """A module with the interface of layers/mixer.py."""
        return MIXERS[self.mixer].module(self.d_model, self.options, eps=self.eps)


BLOCK_FIELDS = tuple(field.name for field in fields(Config) if field.name not in ("mixer", "options"))


def _row(mixer: str) -> Mixer:
    if mixer not in tuple(MIXERS):
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
    return MIXERS[mixer]


class SwiGLU(nn.Module):
    def __init__(self, d_model: int, width: int):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.in_proj(x).chunk(2, -1)
        return self.out_proj(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model, config.eps)
        self.mixer = config.make_mixer()
        self.mlp_norm = nn.RMSNorm(config.d_model, config.eps)
        self.mlp = SwiGLU(config.d_model, config.mlp_width)

    def forward(self, x: Tensor, state: tuple | None, step_: bool = False) -> tuple[Tensor, tuple]:
        y, new = (self.mixer.step_ if step_ else self.mixer)(self.mixer_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), new


class LanguageModel(nn.Module):
    """tokens [B, T] (int64, in [0, 257)) -> logits [B, T, 257] for the token after each.

    The state is a tuple with one mixer state per layer. A text may be given whole, in segments or token by
    token, each from the state after the one before.
    """

    blocks: Sequence[Block]

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.d_model)
        self.blocks = cast(Any, nn.ModuleList(Block(config) for _ in range(config.num_layers)))
        self.norm = nn.RMSNorm(config.d_model, config.eps)
        self._initialise()

    def _initialise(self) -> None:
        # Rows of norm 1. Rows a quarter as long cost 0.14 bits per byte after 300,000 tokens.
        nn.init.normal_(self.embedding.weight, std=self.config.d_model**-0.5)
        for block in self.blocks:
            for proj in (block.mixer.out_proj, block.mlp.out_proj):
                proj.weight.data /= (2 * self.config.num_layers) ** 0.5

    def forward(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self._run(tokens, state)

    @torch.no_grad()
    def step_(self, tokens: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """One token, tokens [B, 1], without gradients, working inside `state`: use the state returned."""
        return self._run(tokens, state, step_=True)

    def _run(self, tokens: Tensor, state: tuple | None, step_: bool = False) -> tuple[Tensor, tuple]:
        if tokens.dtype != torch.int64 or tokens.ndim != 2:
            raise ValueError(f"tokens must be int64 [B, T], got {tokens.dtype}, {[*tokens.shape]}")
        before = [None] * len(self.blocks) if state is None else state
        if len(before) != len(self.blocks):
            raise ValueError(f"state needs one entry for each of {len(self.blocks)} layers, got {len(before)}")
        x, states = self.embedding(tokens), []
        for block, old in zip(self.blocks, before, strict=True):
            x, new = block(x, old, step_)
            states.append(new)
        return F.linear(self.norm(x), self.embedding.weight), tuple(states)

    def initial_state(self, batch_size: int) -> tuple:
        return tuple(block.mixer.initial_state(batch_size) for block in self.blocks)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        """Bytes of the state after `position` tokens."""
        return sum(block.mixer.state_bytes(batch_size, position) for block in self.blocks)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())
