"""A byte-level language model whose mixer is Factorization Memory, Mamba-2 or attention.

tokens -> embedding -> num_layers x [x + mixer(norm(x)), x + swiglu(norm(x))] -> norm -> embedding, transposed
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.layers import Attention, FactorizationMemory, Mamba2, check_positive, check_sizes

DOCUMENT_MARK = 256  # the token between documents, after the 256 bytes
VOCABULARY = 257

# SwiGLU widths that give the four models of default size the same number of parameters.
MLP_WIDTH = {"fm": 160, "fm-sparse": 160, "mamba2": 144, "transformer": 256}


_SLOTTED = {
    "expansion": 2, "conv": 4, "num_slots": 32, "temperature": 1.0, "rates": "token", "gate": True,
    "router_noise": 0.0, "balance": 0.0, "backend": "auto",
}  # fmt: skip
# What each mixer has besides the sizes that all have, with its default.
OPTIONS: dict[str, dict] = {
    "fm": _SLOTTED,
    "fm-sparse": {**_SLOTTED, "top_k": None},
    "mamba2": {"expansion": 2, "conv": 4, "head_width": 32, "state_width": 32},
    "transformer": {"head_width": 32},
}


def mixers_with(option: str) -> tuple[str, ...]:
    """The mixers that have an option of Config: all have one that OPTIONS does not name.

    >>> mixers_with("top_k"), mixers_with("d_model")
    (('fm-sparse',), ('fm', 'fm-sparse', 'mamba2', 'transformer'))
    """
    return tuple(mixer for mixer, options in OPTIONS.items() if option in options) or tuple(OPTIONS)


@dataclass(frozen=True)
class Config:
    """All sizes of a model; `dataclasses.asdict` of it is JSON and `Config(**json)` comes back equal.

    An option that the mixer has and that is not given gets its default from OPTIONS; one that the mixer does not have
    is None, and refused where it is given.
    """

    mixer: str = "fm-sparse"  # a name in OPTIONS
    d_model: int = 128
    num_layers: int = 4
    mlp_width: int | None = None  # None: from MLP_WIDTH, in proportion to d_model
    expansion: int | None = None  # slot width (fm) or inner width (mamba2) over d_model
    conv: int | None = None  # width of the short convolution, 0 for none
    num_slots: int | None = None
    top_k: int | None = None  # None: a quarter of the slots
    temperature: float | None = None
    rates: str | None = None
    gate: bool | None = None
    router_noise: float | None = None  # in training: of the router's logits, a standard deviation
    balance: float | None = None  # in training: weight of a loss that evens out the use of slots
    backend: str | None = None
    head_width: int | None = None
    state_width: int | None = None
    eps: float = 1e-6

    def __post_init__(self):
        if self.mixer not in tuple(OPTIONS):
            raise ValueError(f"mixer must be one of {', '.join(OPTIONS)}, got {self.mixer!r}")
        for name in (name for options in OPTIONS.values() for name in options):
            if getattr(self, name) is None:
                object.__setattr__(self, name, OPTIONS[self.mixer].get(name))
            elif name not in OPTIONS[self.mixer]:
                having = " or ".join(mixers_with(name))
                raise ValueError(f"{name} is an option of {having}, not of {self.mixer}, got {getattr(self, name)!r}")
        check_sizes(d_model=self.d_model, num_layers=self.num_layers)
        checked_here = OPTIONS[self.mixer].keys() & {"num_slots", "head_width"}  # the layers check the others
        check_sizes(**{name: getattr(self, name) for name in checked_here})
        check_positive(eps=self.eps)
        if self.mlp_width is None:
            object.__setattr__(self, "mlp_width", MLP_WIDTH[self.mixer] * self.d_model // 128)
        check_sizes(mlp_width=self.mlp_width)
        if self.mixer == "fm-sparse" and self.top_k is None:
            object.__setattr__(self, "top_k", max(1, self.num_slots // 4))
        if self.mixer == "transformer" and self.d_model % self.head_width:
            raise ValueError(f"head_width must divide d_model = {self.d_model}, got {self.head_width}")
        if self.mixer == "transformer" and self.head_width % 2:
            raise ValueError(f"head_width must be even for a transformer, got {self.head_width}")

    @classmethod
    def lenient(cls, mixer: str, **fields: object) -> "Config":
        """A Config of those options that the mixer has: for sizes that serve several, and for records that hold all."""
        lacks = {name for options in OPTIONS.values() for name in options} - OPTIONS.get(mixer, {}).keys()
        return cls(mixer, **{name: value for name, value in fields.items() if name not in lacks})

    def make_mixer(self) -> nn.Module:
        if self.mixer == "transformer":
            return Attention(self.d_model, self.d_model // self.head_width)
        options = {name: getattr(self, name) for name in OPTIONS[self.mixer]}
        return (Mamba2 if self.mixer == "mamba2" else FactorizationMemory)(self.d_model, **options, eps=self.eps)


class Activity(NamedTuple):
    """What one layer's slots do over a text, each [B, T, M]."""

    affinity: Tensor  # before any slots are dropped: sums to 1
    theta: Tensor  # write weight
    phi: Tensor  # read weight


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
        y, state = (self.mixer.step_ if step_ else self.mixer)(self.mixer_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


class LanguageModel(nn.Module):
    """tokens [B, T] (int64, in [0, 257)) -> logits [B, T, 257] for the token after each.

    The state is a tuple with one mixer state per layer. A text may be given whole, in segments or token by
    token, each from the state after the one before.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
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
        state = [None] * len(self.blocks) if state is None else state
        if len(state) != len(self.blocks):
            raise ValueError(f"state needs one entry for each of {len(self.blocks)} layers, got {len(state)}")
        x, states = self.embedding(tokens), []
        for block, old in zip(self.blocks, state, strict=True):
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

    @torch.no_grad()
    def slot_activity(self, tokens: Tensor) -> list[Activity]:
        """Affinity, write and read weights of every layer's slots over tokens [B, T], from an empty state."""
        if self.config.mixer not in ("fm", "fm-sparse"):
            raise ValueError(f"slot_activity needs a mixer with slots, fm or fm-sparse, got {self.config.mixer!r}")
        x, layers = self.embedding(tokens), []
        for block in self.blocks:
            inputs = block.mixer_norm(x)
            affinity = block.mixer.affinity(inputs)
            theta, phi, slots = block.mixer.route(inputs)
            if slots is not None:
                theta, phi = (torch.zeros_like(affinity).scatter(-1, slots, v) for v in (theta, phi))
            layers.append(Activity(affinity, theta, phi))
            x, _ = block(x, None)
        return layers
