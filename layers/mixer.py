"""The interface of all mixers, what the recurrent ones share, and the checks of an input and of a state.

    y, state = mixer(x)                   x, y [B, T, d]; the state starts empty
    y, state = mixer(x, state)            goes on from a state; the one passed in stays as it was
    y, state = mixer.step_(x, state)      one token, x [B, 1, d], without gradients, inside the state: it is spent
    mixer.initial_state(batch_size)       the empty state
    mixer.state_bytes(batch_size, n)      its size after n tokens: constant, or growing for attention

A state is a plain pair, so that torch.save, torch.load and torch.export take it as it is: of a recurrent mixer its
memory [B, M, D] or [B, H, N, P], in float32 or wider, and the last inputs of its short convolution [B, width - 1,
channels]; of attention its keys and values [2, B, H, room, P] and how many of the positions are filled.

A mixer expects RMS-normalised input and adds no residual: lm/model.py does both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layers.options import MixerConfig
from layers.short_convolution import ShortConvolution

State = tuple[Tensor, Tensor]  # of a recurrent mixer: memory, tail


@dataclass(frozen=True)
class Mixer:
    """One row of layers.MIXERS."""

    name: str  # on the command line and in records
    title: str  # in figures and tables
    module: type[nn.Module]  # module(d_model, config, eps=...)
    config: type[MixerConfig]
    mlp_width: int  # of the SwiGLU beside it that makes the blocks of all mixers as large, at a width of 128
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of a language model, where the config has others

    def options(self, **given: Any) -> MixerConfig:
        """The config of a language model, with the options given in place of its defaults."""
        return self.config(**{**self.defaults, **given})


class RecurrentMixer(nn.Module):
    """What recurrent mixers share: a projection in, a memory of fixed size, a projection out.

    A subclass has in_proj, d_model, conv, memory_shape, and says how x becomes the memory's inputs (`_project`), what
    the memory makes of them (`_scan`, `_scan_step_`) and how that becomes the output (`_output`).
    """

    in_proj: nn.Linear
    d_model: int
    conv: ShortConvolution
    memory_shape: tuple[int, ...]

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        memory, tail = self._checked(x, state)
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._step_(x, memory.clone(), tail)
        inputs, z, tail = self._project(x, tail)
        y, memory = self._scan(inputs, memory)
        return self._output(y, z), (memory, tail)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One token, x [B, 1, d_model] -> y, state, in the memory of the state passed in."""
        check_one_token(x)
        return self._step_(x, *self._checked(x, state))

    def initial_state(self, batch_size: int) -> State:
        w = self.in_proj.weight
        memory = w.new_zeros(batch_size, *self.memory_shape, dtype=wide(w.dtype))
        return memory, w.new_zeros(batch_size, *self.conv.tail_shape)

    def state_bytes(self, batch_size: int = 1, position: int = 0) -> int:
        """Bytes of the state after `position` tokens: the same for any."""
        w = self.in_proj.weight
        memory = math.prod(self.memory_shape) * wide(w.dtype).itemsize
        return batch_size * (memory + math.prod(self.conv.tail_shape) * w.element_size())

    def _checked(self, x: Tensor, state: State | None) -> State:
        check_input(x, self.d_model)
        if state is None:
            return self.initial_state(x.shape[0])
        memory, tail = pair(state, Tensor, "memory and tail")
        for value, shape in ((memory, self.memory_shape), (tail, self.conv.tail_shape)):
            check_state(value.shape, (x.shape[0], *shape))
        return memory, tail

    def _step_(self, x: Tensor, memory: Tensor, tail: Tensor) -> tuple[Tensor, State]:
        inputs, z, tail = self._project(x, tail)
        y, memory = self._scan_step_(inputs, memory)
        return self._output(y[:, None], z), (memory, tail)

    def _project(self, x: Tensor, tail: Tensor) -> tuple[tuple, Tensor, Tensor]:
        """x [B, T, d_model], tail of the convolution -> the memory's inputs, the gate's input z, the next tail."""
        raise NotImplementedError

    def _scan(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of T tokens -> y [B, T, ...], the final memory; the one passed in stays as it was."""
        raise NotImplementedError

    def _scan_step_(self, inputs: tuple, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of one token, T = 1 -> y [B, ...], the memory, written in place."""
        raise NotImplementedError

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        """y [B, T, ...] as read from the memory -> [B, T, d_model]."""
        raise NotImplementedError


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 if that is what comes in: the dtype of a memory."""
    return torch.promote_types(dtype, torch.float32)


def check_input(x: Tensor, d_model: int) -> None:
    if x.ndim != 3 or x.shape[-1] != d_model:
        raise ValueError(f"x needs shape [B, T, {d_model}], got {[*x.shape]}")


def check_one_token(x: Tensor) -> None:
    if x.ndim == 3 and x.shape[1] != 1:
        raise ValueError(f"step_ takes one token, x [B, 1, d_model], got {[*x.shape]}")


def pair(state: tuple, second: type | tuple[type, ...], what: str) -> tuple:
    """The state as a pair of a tensor and something of the second type, or a TypeError."""
    is_pair = isinstance(state, (tuple, list)) and len(state) == 2
    if not (is_pair and isinstance(state[0], Tensor) and isinstance(state[1], second)):
        raise TypeError(f"state must be the pair that this mixer returned, {what}, got {_described(state)}")
    return tuple(state)


def _described(state: object) -> str:
    name = type(state).__name__
    return f"a {name} of {', '.join(type(v).__name__ for v in state)}" if isinstance(state, (tuple, list)) else name


def check_state(got: tuple[int, ...], needs: tuple[int, ...], batch: int = 0) -> None:
    """Two shapes that must be the same; `batch` says where the size of the batch stands."""
    if len(got) == len(needs) and got[batch] != needs[batch]:
        raise ValueError(f"state holds a batch of {got[batch]}, but x has {needs[batch]}")
    if got != needs:
        raise ValueError(f"state needs a tensor of shape {[*needs]} here, got {[*got]}")
