"""The layer of Mamba-2 around the recurrence of fast.mamba2."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.mamba2 import mamba2, mamba2_step_
from layers.mixer import Mixer, RecurrentMixer, wide
from layers.options import MixerConfig, check_positive, check_sizes, option
from layers.short_convolution import ShortConvolution, check_conv


@dataclass(frozen=True)
class Mamba2Config(MixerConfig):
    """P = head_width divides expansion * d_model; the heads of a group share B and C."""

    state_width: int = option(64, "state numbers per channel")
    head_width: int = option(64, "width of a head")
    expansion: int = option(2, "inner width over the model's")
    conv: int = option(4, "width of the short convolution, 0 for none")
    num_groups: int = 1

    def __post_init__(self) -> None:
        check_sizes(state_width=self.state_width, head_width=self.head_width, expansion=self.expansion)
        check_sizes(num_groups=self.num_groups)
        check_conv(self.conv)

    def check_width(self, d_model: int) -> None:
        inner = self.expansion * d_model
        if inner % self.head_width:
            raise ValueError(f"head_width must divide expansion * d_model = {inner}, got {self.head_width}")
        num_heads = inner // self.head_width
        if num_heads % self.num_groups:
            raise ValueError(f"num_groups must divide the {num_heads} heads, got {self.num_groups}")


class Mamba2(RecurrentMixer):
    """The mixer of arXiv 2405.21060: heads of width P with a state of state_width x P each.

    One projection gives z, x, B, C and dt; a short convolution and SiLU go over x, B and C; A, D and the bias of dt
    are one number per head; out = W_out (g * norm(y * silu(z))). P = head_width divides expansion * d_model, and
    the heads of a group share B and C.
    """

    def __init__(self, d_model: int, config: Mamba2Config | None = None, *, eps: float = 1e-6):
        super().__init__()
        config = Mamba2Config() if config is None else config
        check_sizes(d_model=d_model)
        check_positive(eps=eps)
        config.check_width(d_model)
        inner = config.expansion * d_model
        num_heads, shared = inner // config.head_width, config.num_groups * config.state_width
        self.d_model, self.eps = d_model, eps
        self.memory_shape = (num_heads, config.state_width, config.head_width)
        self.group_shape = (config.num_groups, config.state_width)
        self.sizes = [inner, inner + 2 * shared, num_heads]  # z, xBC, dt
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(inner + 2 * shared, config.conv)
        # As its authors do: -A uniform in [1, 16], and dt log-uniform in [0.001, 0.1] where the input is 0.
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        dt = torch.empty(num_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(dt.expm1().log())  # softplus of it is dt
        self.D = nn.Parameter(torch.ones(num_heads))
        self.gain = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[tuple, Tensor, Tensor]:
        z, xBC, dt = self.in_proj(x).split(self.sizes, -1)
        xBC, tail = self.conv(xBC, tail)
        shared = math.prod(self.group_shape)
        x, B, C = F.silu(xBC).split([xBC.shape[-1] - 2 * shared, shared, shared], -1)
        x = x.unflatten(-1, self.memory_shape[::2])
        dt = F.softplus(dt.to(wide(dt.dtype)) + self.dt_bias)
        return (x, dt, B.unflatten(-1, self.group_shape), C.unflatten(-1, self.group_shape)), z, tail

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, B, C = inputs
        return mamba2(x, dt, -self.A_log.exp(), B, C, self.D, memory)

    def _scan_step_(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, B, C = (v[:, 0] for v in inputs)
        return mamba2_step_(x, dt, -self.A_log.exp(), B, C, self.D, memory)

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        y = y.flatten(-2) * F.silu(z)
        return self.out_proj(F.rms_norm(y, self.gain.shape, self.gain, self.eps))


ROWS = (
    Mixer("mamba2", "Mamba-2", Mamba2, Mamba2Config, mlp_width=144, defaults={"state_width": 32, "head_width": 32}),
)
