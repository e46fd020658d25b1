"""A byte-level language model whose mixer is Factorization Memory, Mamba-2 or attention.

tokens -> embedding -> num_layers x [x + mixer(norm(x)), x + swiglu(norm(x))] -> norm -> embedding, transposed
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.layers import Attention, FactorizationMemory, Mamba2

DOCUMENT_MARK = 256  # the token between documents, after the 256 bytes
VOCABULARY = 257

# SwiGLU widths that give the four models of default size the same number of parameters.
MLP_WIDTH = {"fm": 160, "fm-sparse": 160, "mamba2": 144, "transformer": 256}


@dataclass(frozen=True)
class Config:
    """All sizes of a model; `dataclasses.asdict` of it is JSON and `Config(**json)` comes back equal."""

    mixer: str = "fm-sparse"  # "fm", "fm-sparse", "mamba2" or "transformer"
    d_model: int = 128
    num_layers: int = 4
    mlp_width: int | None = None  # None: from MLP_WIDTH, in proportion to d_model
    expansion: int = 2  # slot width (fm) or inner width (mamba2) over d_model
    conv: int = 4  # width of the short convolution, 0 for none (fm, mamba2)
    num_slots: int = 32  # fm
    top_k: int = 8  # fm-sparse
    temperature: float = 1.0  # fm
    rates: str = "token"  # fm
    gate: bool = True  # fm
    router_noise: float = 0.0  # fm, in training: of the router's logits, a standard deviation
    balance: float = 0.0  # fm, in training: weight of a loss that evens out the use of slots
    backend: str = "auto"  # fm
    head_width: int = 32  # mamba2, transformer
    state_width: int = 32  # mamba2
    eps: float = 1e-6

    def __post_init__(self):
        if self.mixer not in MLP_WIDTH:
            raise ValueError(f"mixer must be one of {', '.join(MLP_WIDTH)}, got {self.mixer!r}")
        if self.mlp_width is None:
            object.__setattr__(self, "mlp_width", MLP_WIDTH[self.mixer] * self.d_model // 128)
        for name in ("d_model", "num_layers", "mlp_width", "head_width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.mixer == "transformer" and self.d_model % self.head_width:
            raise ValueError(f"head_width must divide d_model = {self.d_model}, got {self.head_width}")

    def make_mixer(self) -> nn.Module:
        if self.mixer == "transformer":
            return Attention(self.d_model, self.d_model // self.head_width)
        common = {"expansion": self.expansion, "conv": self.conv, "eps": self.eps}
        if self.mixer == "mamba2":
            return Mamba2(self.d_model, self.state_width, self.head_width, **common)
        return FactorizationMemory(
            self.d_model, self.num_slots, temperature=self.temperature, rates=self.rates, gate=self.gate,
            top_k=self.top_k if self.mixer == "fm-sparse" else None, backend=self.backend,
            router_noise=self.router_noise, balance=self.balance, **common,
        )  # fmt: skip


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
