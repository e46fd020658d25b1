"""The backends that the laws run over, and ways to compute a case with them."""

from collections.abc import Callable

import torch
from torch import Tensor

import fast
from verify.cases import Case, loop

SPARSE_ONLY = ("scan", "walk")
APART = ("triton",)  # no float64, and slow where it is interpreted: its laws are in test_kernels_dense.py
RUNNABLE = [name for name, reason in fast.backends().items() if reason is None and name not in APART]
DENSE = [("dense", name) for name in RUNNABLE if name not in SPARSE_ONLY]
SPARSE = [("sparse", name) for name in RUNNABLE]
LOOPS = [("dense", "loop"), ("sparse", "loop")]


def error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||"""
    got, want = got.detach().double(), want.detach().double()
    assert got.shape == want.shape
    return ((got - want).norm() / want.norm().clamp_min(1e-300)).item()


def whole(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A whole sequence in one call."""
    return loop if backend == "loop" else lambda case, **options: case.call(fast, backend=backend, **options)


def steps(step: Callable) -> Callable[[Case], tuple[Tensor, Tensor]]:
    """A call of step for every token; if its name says so, it writes into the state."""

    def way(case):
        state, ys = case.start().clone(), []
        for t in range(case.value.shape[1]):
            weights = (case.theta[:, t], case.phi[:, t]) + (() if case.slots is None else (case.slots[:, t],))
            before = state
            y, state = step(*weights, case.value[:, t], state, eps=case.eps)
            assert (state is before) == step.__name__.endswith("_")
            ys.append(y)
        return torch.stack(ys, 1) if ys else case.value, state

    return way
