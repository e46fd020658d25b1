"""What the notebooks share: how large to run, one look for figures, checks that raise."""

import os

import matplotlib
import torch
from torch import Tensor

from lm.plots import TEXT

SMOKE = os.environ.get("NOTEBOOK_SMOKE") == "1"  # small sizes, for tests


def pick(full, smoke):
    """`full` for a reader, `smoke` where NOTEBOOK_SMOKE=1 is set.

    >>> pick("full", "smoke") == ("smoke" if SMOKE else "full")
    True
    """
    return smoke if SMOKE else full


def look() -> None:
    """Large type and lines that can be told apart in grey, as in lm/plots.py."""
    matplotlib.rcParams.update(TEXT)
    matplotlib.rcParams.update({"figure.figsize": (9, 4), "figure.constrained_layout.use": True, "figure.dpi": 80})


def check_close(what: str, got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Every number of got is want, up to tolerance times the largest |want|; else AssertionError names the worst.

    >>> check_close("a half", torch.tensor([0.5]), torch.tensor([0.5]))
    ok: a half (1 numbers, worst error 0 <= 1e-05)
    >>> check_close("a half", torch.tensor([0.5, 0.7]), torch.tensor([0.5, 0.5]))
    Traceback (most recent call last):
    ...
    AssertionError: a half: at [1] got 0.7, want 0.5 (error 0.4 of the largest, 1e-05 allowed)
    """
    got, want = (torch.as_tensor(v).detach().double() for v in (got, want))
    if got.shape != want.shape:
        raise AssertionError(f"{what}: got shape {[*got.shape]}, want {[*want.shape]}")
    error = (got - want).abs() / want.abs().max().clamp_min(1e-300) if want.numel() else torch.zeros(1)
    error = error.nan_to_num(nan=torch.inf)
    if error.max() > tolerance:
        at = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        raise AssertionError(
            f"{what}: at {[*at]} got {got[at]:.6g}, want {want[at]:.6g} "
            f"(error {error[at]:.2g} of the largest, {tolerance:g} allowed)"
        )
    print(f"ok: {what} ({want.numel()} numbers, worst error {error.max():.2g} <= {tolerance:g})")
