"""The backends: what each computes, why it cannot run here, and which of them "auto" takes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fast import chunked, compiled, operators, packing, scan, step, walk
from fast.validation import one_of

try:
    from fast.kernels import blocks
    from fast.kernels import dense as dense_kernels
    from fast.kernels import sparse as sparse_kernels
    from fast.kernels import step as step_kernels
except ImportError:  # no triton: everything else works without it
    blocks = dense_kernels = sparse_kernels = step_kernels = None


class Backend(NamedTuple):
    """The functions of one backend; None where it has no such form."""

    dense: Callable | None
    sparse: Callable | None
    why_not: Callable[[], str | None]  # None if it can run here
    wide: bool = True  # whether it computes in float64
    on_gpu: bool = True  # whether it computes there


def _why_not_triton() -> str | None:
    return "triton is not installed" if blocks is None else blocks.why_not()


BACKENDS = {
    "chunked": Backend(chunked.factorization_memory, chunked.sparse_factorization_memory, lambda: None),
    "scan": Backend(None, scan.sparse_factorization_memory, lambda: None),
    "walk": Backend(None, walk.sparse_factorization_memory, compiled.why_not, on_gpu=False),
    "triton": Backend(
        dense_kernels and dense_kernels.factorization_memory,
        sparse_kernels and sparse_kernels.sparse_factorization_memory,
        _why_not_triton,
        wide=False,
    ),
}
SPARSE_ONLY = ("scan", "walk")
WALKED = 1 << 17  # numbers of a state whose step on all slots is the walk's
DENSE_BACKENDS = ("auto", *(name for name in BACKENDS if name not in SPARSE_ONLY))
SPARSE_BACKENDS = ("auto", *BACKENDS)


def backends() -> dict[str, str | None]:
    """Every backend by name: None if it can run here, else the reason why not.

    >>> backends()["chunked"] is None
    True
    """
    return {name: backend.why_not() for name, backend in BACKENDS.items()}


def dense_form(name: str, *inputs: Tensor | None) -> Callable:
    """The function that computes the dense form of floating inputs, the first of them a tensor."""
    one_of("backend", name, DENSE_BACKENDS)
    if name == "auto":
        name = "triton" if _suits_triton(*inputs) else "chunked"
    return _runnable(name, *inputs).dense


def sparse_form(name: str, slots_per_token: int, num_slots: int, *inputs: Tensor | None) -> Callable:
    """The function that computes the sparse form. From some share of the slots on, the dense form is faster."""
    one_of("backend", name, SPARSE_BACKENDS)
    if name == "auto":
        if inputs[0].is_cpu:
            name = cpu_form(slots_per_token, num_slots)
        elif not _suits_triton(*inputs):
            name = "scan" if scan_is_cheaper(slots_per_token, num_slots) else "chunked"
        elif scan_is_cheaper(slots_per_token, num_slots):
            name = "triton"
        else:
            return partial(packing.over_zeros, dense_kernels.factorization_memory)
    return _runnable(name, *inputs).sparse


def step_functions(*inputs: Tensor, slots: Tensor | None = None):
    """The module whose step functions compute a step, on K slots if given: torch's own where a gradient is asked for.

    Else Triton's on a GPU, in float32. On a CPU the walk's, but torch's where all slots of a large state are written:
    for 1 × 128 × 512 numbers torch takes 1.7 times as long as the walk; for 32 × 32 × 256 the walk takes 1.4 times as
    long as torch (two cores). The state is the last of the inputs.
    """
    state = inputs[-1]
    if step_kernels is not None and state.is_cuda and state.dtype == torch.float32:
        return step if _differentiated(*inputs) else step_kernels
    small = slots is not None or state.numel() <= WALKED
    walks = small and state.is_cpu and operators.plain(*inputs, *(() if slots is None else (slots,)))
    return walk if walks and not _differentiated(*inputs) and compiled.why_not() is None else step


def cpu_form(slots_per_token: int, num_slots: int) -> str:
    """The backend of the sparse form that "auto" takes on a CPU."""
    if compiled.why_not() is None:
        return "walk" if walk_is_cheaper(slots_per_token, num_slots) else "chunked"
    return "scan" if scan_is_cheaper(slots_per_token, num_slots) else "chunked"


def walk_is_cheaper(slots_per_token: int, num_slots: int) -> bool:
    """Whether the walk takes less time than the dense form over zeros, forward + backward on a CPU.

    Times are equal at about K = 64 of M = 128, 103 of 256, 212 of 512; at K = 16 of 32 and 32 of 64 the walk wins
    (docs/results/speed_sparse.json, between the K measured; two cores, T = 4096, D = 512).
    """
    return slots_per_token <= 8 + 5 * num_slots / 12


def scan_is_cheaper(slots_per_token: int, num_slots: int) -> bool:
    """Whether the scan takes less time than the dense form over zeros, forward + backward on a CPU.

    The rule was measured on another machine, where memory was quicker: K = 5 of M = 32, 13 of 128, 37 of 512. On that
    of docs/results/speed_sparse.json times are equal at about 4 of 32, 7 of 128 and 26 of 512. Both have two cores;
    T = 4096, D = 512.
    """
    return slots_per_token <= 2 + num_slots / 16


def _differentiated(*inputs: Tensor) -> bool:
    return operators.needs_grad(*inputs) or any(map(operators.has_tangent, inputs))


def _runnable(name: str, *inputs: Tensor | None) -> Backend:
    backend = BACKENDS[name]
    if reason := backend.why_not():
        raise ValueError(f"backend {name!r} cannot run here: {reason}")
    if _is_wide(*inputs) and not backend.wide:
        raise TypeError(f"backend {name!r} needs float32 or half precision, got torch.float64")
    if inputs[0].is_cuda and not backend.on_gpu:
        raise ValueError(f"backend {name!r} needs tensors on a CPU, got {inputs[0].device}")
    return backend


def _suits_triton(*inputs: Tensor | None) -> bool:
    """Whether "auto" takes Triton: on a GPU, where float32 is enough."""
    return blocks is not None and inputs[0].is_cuda and not _is_wide(*inputs)


def _is_wide(*inputs: Tensor | None) -> bool:
    return any(v is not None and v.dtype == torch.float64 for v in inputs)
