"""Mixers whose slots have gates of their own, around fast.gated_slots: HGRN2, gated slot attention, MoM.

They are the neighbours of Factorization Memory, so what is not the memory is that of its block. The value is W_in x,
with a short convolution and SiLU over what is written. The output is W_out (g * norm(y * silu(W_z x))). Without the
gate it is W_out (g * norm(y)). docs/decisions.md says what is simpler than in the papers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.gated_slots import gated_slot_attention, gated_slot_attention_step_, gated_slots, gated_slots_step_
from layers.mixer import Mixer, RecurrentMixer, wide
from layers.options import MixerConfig, check_not_negative, check_positive, check_sizes, is_size, option
from layers.router import route
from layers.short_convolution import ShortConvolution, check_conv


@dataclass(frozen=True)
class GatedSlotsConfig(MixerConfig):
    """Of all three. head_width divides expansion * d_model; conv and gate are off by default, as in FM's config."""

    num_slots: int = option(64, "slots of a head", flag="slots")
    head_width: int = option(64, "width of a head")
    expansion: int = option(1, "inner width over the model's")
    conv: int = option(0, "width of the short convolution, 0 for none")
    gate: bool = option(False, "the output gate")

    def __post_init__(self) -> None:
        check_sizes(num_slots=self.num_slots, head_width=self.head_width, expansion=self.expansion)
        check_conv(self.conv)
        _check_switch(gate=self.gate)

    def check_width(self, d_model: int) -> None:
        inner = self.expansion * d_model
        if inner % self.head_width:
            raise ValueError(f"head_width must divide expansion * d_model = {inner}, got {self.head_width}")


@dataclass(frozen=True)
class HGRN2Config(GatedSlotsConfig):
    """lower_bound: where the bound of every gate begins; it is learned, one for each slot."""

    lower_bound: float = option(0.5, "lower bound of the gates before training")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(lower_bound=self.lower_bound)
        if self.lower_bound >= 1:
            raise ValueError(f"lower_bound must be below 1, got {self.lower_bound}")


@dataclass(frozen=True)
class GSAConfig(GatedSlotsConfig):
    """gate_root: gates are this root of a sigmoid, so that they begin close to 1."""

    gate_root: float = option(8.0, "root of a sigmoid that gates are")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(gate_root=self.gate_root)


@dataclass(frozen=True)
class MoMConfig(HGRN2Config):
    """num_slots is of a head in each memory. A token uses the top_k memories of the largest score.

    shared_memory: one more that all tokens use. balance: the weight of an auxiliary loss a layer in training, 1 where
    all memories are used alike and more where a few are preferred.
    """

    num_memories: int = option(4, "memories to choose from", flag="memories")
    top_k: int = option(2, "memories a token uses")
    shared_memory: bool = option(True, "a memory that all tokens use")
    balance: float = option(0.0, "weight of a loss that evens out the use of memories")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(num_memories=self.num_memories)
        if not (is_size(self.top_k) and self.top_k <= self.num_memories):
            raise ValueError(f"top_k must lie in [1, num_memories = {self.num_memories}], got {self.top_k!r}")
        _check_switch(shared_memory=self.shared_memory)
        check_not_negative(balance=self.balance)


class _GatedSlots(RecurrentMixer):
    """What the three share: heads, convolution, gate and norm. `own` are the numbers that a subclass makes of x,
    `written` those of a head that go through the convolution, `table` the shape of a head's state."""

    def __init__(
        self, d_model: int, config: GatedSlotsConfig, own: int, written: int, table: tuple[int, int], eps: float
    ):
        super().__init__()
        check_positive(eps=eps)
        inner = config.expansion * d_model
        num_heads = inner // config.head_width
        self.d_model, self.eps = d_model, eps
        self.memory_shape = (num_heads, *table)
        self.sizes = [num_heads * written, inner if config.gate else 0, own]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(num_heads * written, config.conv)
        self.gain = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[tuple, Tensor, Tensor]:
        written, z, own = self.in_proj(x).split(self.sizes, -1)
        written, tail = self.conv(written, tail)
        if self.conv.width:
            written = F.silu(written)
        return self._inputs(own, written.unflatten(-1, (self.memory_shape[0], -1))), z, tail

    def _inputs(self, own: Tensor, written: Tensor) -> tuple:
        """own [B, T, ...], written [B, T, H, ...] -> what the memory takes."""
        raise NotImplementedError

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        y = y.flatten(-2)
        if self.sizes[1]:
            y = y * F.silu(z)
        return self.out_proj(F.rms_norm(y, self.gain.shape, self.gain, self.eps))


class HGRN2(_GatedSlots):
    """The mixer of arXiv 2404.07904: the key is what the gate does not keep.

        log_f = log(bound + (1 - bound) sigmoid(W_f x))   read = silu(W_q x)   y = gated_slots(log_f, read, W_in x)

    bound is learned, one number in (0, 1) for each slot.
    """

    def __init__(self, d_model: int, config: HGRN2Config | None = None, *, eps: float = 1e-6):
        config = HGRN2Config() if config is None else config
        num_heads = _heads(d_model, config)
        own = 2 * num_heads * config.num_slots
        super().__init__(d_model, config, own, config.head_width, (config.num_slots, config.head_width), eps)
        self.lower_bound = config.lower_bound
        self.bound = nn.Parameter(_logits(config.lower_bound, num_heads, config.num_slots))

    def _inputs(self, own: Tensor, written: Tensor) -> tuple:
        gate, q = own.unflatten(-1, (2, *self.memory_shape[:2])).unbind(-3)
        return _bounded(gate, self.bound), F.silu(q), written

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        log_f, read, value = inputs
        return gated_slots(log_f, read, value, memory)

    def _scan_step_(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        log_f, read, value = (v[:, 0] for v in inputs)
        return gated_slots_step_(log_f, read, value, memory)


class GSA(_GatedSlots):
    """The mixer of arXiv 2409.07146: two tables under the same gates, read by attention over their slots.

        log_f = log(sigmoid(W_f x)) / gate_root   q, k, v = silu(W x)   y = gated_slot_attention(log_f, q, k, v)

    Keys are as wide as values. The convolution is over both, which are what is written.
    """

    def __init__(self, d_model: int, config: GSAConfig | None = None, *, eps: float = 1e-6):
        config = GSAConfig() if config is None else config
        both = 2 * config.head_width  # a key and a value
        own = _heads(d_model, config) * (config.num_slots + config.head_width)
        super().__init__(d_model, config, own, both, (config.num_slots, both), eps)
        self.gate_root = config.gate_root

    def _inputs(self, own: Tensor, written: Tensor) -> tuple:
        num_heads, num_slots, both = self.memory_shape
        gate, q = own.unflatten(-1, (num_heads, -1)).split([num_slots, both // 2], -1)
        k, v = (written if self.conv.width else F.silu(written)).chunk(2, -1)
        return F.logsigmoid(gate.to(wide(gate.dtype))) / self.gate_root, F.silu(q), k, v

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        log_f, q, k, v = inputs
        return gated_slot_attention(log_f, q, k, v, memory)

    def _scan_step_(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        log_f, q, k, v = (v[:, 0] for v in inputs)
        return gated_slot_attention_step_(log_f, q, k, v, memory)


class MoM(HGRN2):
    """The mixer of arXiv 2502.13685: a router picks top_k memories, and one more is for all tokens.

        weight = softmax of the top_k of W_r x, 1 for the shared memory, 0 for the others
        log_f, q as in HGRN2, log_f of each memory   y = gated_slots(log_f if picked else 0, weight q, W_in x)

    A memory that is not picked keeps its state and is not read. All are slots of one table, memory by memory.
    """

    def __init__(self, d_model: int, config: MoMConfig | None = None, *, eps: float = 1e-6):
        config = MoMConfig() if config is None else config
        num_heads, tables = _heads(d_model, config), config.num_memories + config.shared_memory
        self.gates_shape = (num_heads, tables, config.num_slots)
        self.own = [math.prod(self.gates_shape), num_heads * config.num_slots, config.num_memories]  # gates, q, router
        table = (tables * config.num_slots, config.head_width)
        _GatedSlots.__init__(self, d_model, config, sum(self.own), config.head_width, table, eps)
        self.lower_bound, self.top_k, self.balance = config.lower_bound, config.top_k, config.balance
        self.bound = nn.Parameter(_logits(config.lower_bound, *self.gates_shape))

    def _inputs(self, own: Tensor, written: Tensor) -> tuple:
        gate, q, scores = own.split(self.own, -1)
        weight, picked = self._pick(scores.to(wide(scores.dtype)))
        log_f = _bounded(gate.unflatten(-1, self.gates_shape), self.bound)
        log_f = torch.where(picked[..., None, :, None], log_f, 0.0)
        q = F.silu(q).unflatten(-1, (self.gates_shape[0], 1, -1))
        read = weight[..., None, :, None] * q
        return log_f.flatten(-2), read.flatten(-2), written

    def _pick(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, T, memories] -> the weight of each, 0 unless picked, and which are picked, the shared one last."""
        one = torch.ones_like(scores[..., :1])
        balance = self.balance if self.training else 0.0
        weight, _, slots = route(scores, (one, one), self.top_k, balance=balance)
        picked = torch.ones_like(scores)
        if slots is not None:
            empty = torch.zeros_like(scores)
            weight, picked = empty.scatter(-1, slots, weight), empty.scatter(-1, slots, 1.0)
        if self.gates_shape[1] > scores.shape[-1]:
            weight, picked = torch.cat([weight, one], -1), torch.cat([picked, one], -1)
        return weight, picked > 0


def _heads(d_model: int, config: GatedSlotsConfig) -> int:
    check_sizes(d_model=d_model)
    config.check_width(d_model)
    return config.expansion * d_model // config.head_width


def _logits(share: float, *shape: int) -> Tensor:
    """Of which the sigmoid is that share."""
    return torch.full(shape, math.log(share) - math.log1p(-share))


def _bounded(gate: Tensor, bound: Tensor) -> Tensor:
    """log(b + (1 - b) sigmoid(gate)), b = sigmoid(bound): 0 at most, and never the logarithm of 0."""
    gate = gate.to(wide(gate.dtype))
    bound = bound.to(gate.dtype)
    return torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + F.logsigmoid(gate)).clamp(max=0.0)


def _check_switch(**switches: bool) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


_MODEL = {"conv": 4, "gate": True}
ROWS = (
    Mixer("hgrn2", "HGRN2", HGRN2, HGRN2Config, mlp_width=88, defaults=_MODEL | {"num_slots": 32, "expansion": 2}),
    Mixer("gsa", "GSA", GSA, GSAConfig, mlp_width=172, defaults=_MODEL | {"num_slots": 32, "head_width": 32}),
    Mixer("mom", "MoM", MoM, MoMConfig, mlp_width=124, defaults=_MODEL | {"num_slots": 6, "expansion": 2}),
)
