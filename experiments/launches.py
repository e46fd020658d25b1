"""What the kernels are launched with: every launch of a call on tensors without memory, of any size, on any machine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor

from fast.kernels import dense as dense_kernels
from fast.kernels import sparse as sparse_kernels
from fast.kernels import step as step_kernels

MODULES = (dense_kernels, sparse_kernels, step_kernels)
EPS = 1e-6


class Launch(NamedTuple):
    kernel: triton.JITFunction
    grid: tuple[int, ...]
    args: tuple
    options: dict
    on: torch.device | None  # the device that was current

    @property
    def name(self) -> str:
        return next(name for module in MODULES for name, value in vars(module).items() if value is self.kernel)


class _Recorder:
    """Stands where a kernel stands, and takes its launches."""

    def __init__(self, kernel, take: Callable):
        self.kernel, self.take, self.arg_names = kernel, take, kernel.arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        return lambda *args, **options: self.take(self.kernel, grid, args, options)


def launches(call: Callable[[], object]) -> list[Launch]:
    """The launches of a call, none of which takes place."""
    found: list[Launch] = []
    current: list[torch.device | None] = [None]

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        current.append(tensor.device)
        yield
        current.pop()

    def take(kernel, grid, args, options) -> None:
        found.append(Launch(kernel, grid, args, options, current[-1]))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "device_of", device_of))
        for module in MODULES:
            kernels = {n: _Recorder(v, take) for n, v in vars(module).items() if n.endswith("_kernel")}
            for name, recorder in kernels.items():
                stack.enter_context(mock.patch.object(module, name, recorder))
        call()
    return found


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def dense(batch: int, tokens: int, slots: int, width: int, dtype=torch.float32, blocks=dense_kernels.DEFAULT) -> None:
    """Forward and backward."""
    theta, phi, value = (
        empty(batch, tokens, slots),
        empty(batch, tokens, slots),
        empty(batch, tokens, width, dtype=dtype),
    )
    initial, rest = empty(batch, slots, width), (EPS, "auto", *blocks)
    forward, backward = dense_kernels._forward_op._init_fn, dense_kernels._backward_op._init_fn
    y, final, *saved = forward(theta, phi, value, initial, None, EPS, "auto", True, *blocks)
    backward(y, final, theta, phi, value, None, *saved, *rest)


def sparse(
    batch: int, tokens: int, slots: int, per_token: int, width: int, dtype=torch.float32, blocks=sparse_kernels.DEFAULT,
    initial: bool = True,
) -> None:  # fmt: skip
    """Forward and backward."""
    gates = empty(batch, tokens, per_token)
    named, value = empty(batch, tokens, per_token, dtype=torch.int64), empty(batch, tokens, width, dtype=dtype)
    state = empty(batch, slots, width) if initial else None
    forward, backward = sparse_kernels._forward_op._init_fn, sparse_kernels._backward_op._init_fn
    y, final, *saved = forward(gates, gates, named, value, slots, state, None, EPS, True, *blocks)
    backward(y, final, gates, gates, value, state, *saved, EPS, *blocks)


def step(
    batch: int, slots: int, per_token: int | None, width: int, dtype=torch.float32, blocks=step_kernels.DEFAULT
) -> None:
    """One step of the dense form, or of the sparse one if it is said how many slots a token names."""
    gates, value, state = empty(batch, per_token or slots), empty(batch, width, dtype=dtype), empty(batch, slots, width)
    if per_token is None:
        step_kernels._step_op._init_fn(gates, gates, value, state, EPS, *blocks)
    else:
        named = empty(batch, per_token, dtype=torch.int64)
        step_kernels._step_op_._init_fn(gates, gates, named, value, state, EPS, *blocks)
