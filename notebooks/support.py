"""What the notebooks share: how large to run, one look for figures, measurements and stored ones, checks that raise."""

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from unittest.mock import patch

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython.display import Image
from matplotlib.figure import Figure
from torch import Tensor

from experiments.frame import RESULTS
from lm.plots import TEXT

NUMPY_FLOATS = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}  # by Triton's names
SMOKE = os.environ.get("NOTEBOOK_SMOKE") == "1"  # small sizes, for tests
READER = "NOTEBOOK_SMOKE" not in os.environ  # somebody who can move a slider; notebooks/run.py and mark.py set it


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


def gap_axes(axes, gaps: list[int], what: str = "fillers") -> None:
    """Shares of right values after gaps, which stand on a log axis."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(gaps, [f"{gap:,}" for gap in gaps])
    axes.set(xlabel=f"{what} between telling and asking", ylabel="share of values that are right", ylim=(0, 1.05))
    axes.grid(axis="y", alpha=0.3)


def waits_until_half(theta: Tensor, every: int = 16) -> Tensor:
    """Tokens until half of what a slot holds is overwritten: write weights [texts, T, M] -> waits [n, M].

    Measured from every so many tokens of the first half of each text; inf where the text ends before.

    >>> theta = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2])[None, :, None]
    >>> waits_until_half(theta, every=2).T  # from the tokens 0 and 2
    tensor([[2., 1.]])
    >>> waits_until_half(theta / 9, every=2).T
    tensor([[inf, inf]])
    """
    waits = []
    for start in range(0, theta.shape[1] // 2, every):
        half = (1 - theta[:, start:]).cumprod(1) <= 0.5
        waits.append(torch.where(half.any(1), half.int().argmax(1) + 1.0, math.inf))
    return torch.cat(waits)


def smooth(losses: list[float], over: int = 20) -> Tensor:
    """The mean of the last `over` losses after every step, or of as many as there are.

    >>> smooth([8.0, 6.0, 4.0, 3.0], over=2)
    tensor([8.0000, 7.0000, 5.0000, 3.5000], dtype=torch.float64)
    """
    sums = torch.tensor([0.0, *losses], dtype=torch.float64).cumsum(0)
    end = torch.arange(1, len(losses) + 1)
    begin = (end - over).clamp_min(0)
    return (sums[end] - sums[begin]) / (end - begin)


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


def check_no_loop(what: str, function: Callable[[Tensor], object], few: Tensor, many: Tensor) -> None:
    """A call with `many` runs hardly more of Python than one with `few`; else AssertionError. A loop runs more.

    >>> check_no_loop("a sum", torch.sum, torch.ones(3), torch.ones(3000))
    ok: a sum, without a loop
    >>> check_no_loop("a sum", lambda v: sum(x for x in v), torch.ones(3), torch.ones(3000))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: a sum: there is a loop: Python takes ... steps for 3 numbers, ... for 3000
    """
    function(few)  # what a first call prepares is not counted
    short, long = (python_steps(function, numbers) for numbers in (few, many))
    if long > 2 * short:
        steps = f"Python takes {short} steps for {len(few)} numbers, {long} for {len(many)}"
        raise AssertionError(f"{what}: there is a loop: {steps}")
    print(f"ok: {what}, without a loop")


def python_steps(function: Callable, *arguments) -> int:
    """Bytecodes of the call and of all Python functions that it calls.

    >>> python_steps(sum, [1] * 1000) < 10 < python_steps(lambda v: [x + 1 for x in v], [1] * 1000)
    True
    """
    steps = 0

    def trace(frame, event, _):
        nonlocal steps
        steps += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return steps


@contextmanager
def only_within(*tensors: Tensor) -> Iterator[None]:
    """AssertionError at the end if an interpreted kernel reads elsewhere, where it gets NaN, or writes, in vain.

    A masked load without `other=` gives NaN too: a GPU promises nothing for it, and the interpreter gives 0. Kernels
    that are compiled are not watched.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    spans = [(v.data_ptr(), v.data_ptr() + v.numel() * v.element_size()) for v in tensors]
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    strays = {"read": 0, "written": 0}

    def inside(pointers: TensorHandle, mask: TensorHandle, kind: str) -> TensorHandle:
        within = sum((begin <= pointers.data) & (pointers.data < end) for begin, end in spans) > 0
        strays[kind] += int((mask.data & ~within).sum())
        return TensorHandle(mask.data & within, mask.dtype)

    def watched_load(builder, pointers, mask, other, *how):
        mask, element = inside(pointers, mask, "read"), pointers.get_element_ty()
        if other is None and element.name in NUMPY_FLOATS:
            other = TensorHandle(np.full(pointers.data.shape, np.nan, NUMPY_FLOATS[element.name]), element)
        return load(builder, pointers, mask, other, *how)

    def watched_store(builder, pointers, value, mask, *how):
        return store(builder, pointers, value, inside(pointers, mask, "written"), *how)

    with (
        patch.object(InterpreterBuilder, "create_masked_load", watched_load),
        patch.object(InterpreterBuilder, "create_masked_store", watched_store),
    ):
        yield
    for kind, count in strays.items():
        if count:
            raise AssertionError(f"{count} numbers were {kind} beyond the end of the tensors: which mask is missing?")


def stored_result(name: str) -> dict:
    """What `python -m experiments NAME` has measured and the project keeps.

    >>> sorted(stored_result("speed_sparse"))[:3]
    ['about', 'batch', 'decode']
    """
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def small(figure: Figure) -> Image:
    """The figure as a picture of 256 colours, which takes a third of the bytes."""
    full, few = io.BytesIO(), io.BytesIO()
    figure.savefig(full, bbox_inches="tight")
    plt.close(figure)
    PIL.Image.open(full).convert("RGB").quantize(256).save(few, "png", optimize=True)
    return Image(few.getvalue())


def slider(draw: Callable, **ranges: tuple[int, int, int]):
    """What draw gives for the numbers where the sliders stand: of each number its least, its largest and its first.

    Without ipywidgets, or where the output is to be stored, there is no slider: draw's picture for the first numbers.
    """
    if not (READER and find_spec("ipywidgets")):
        return draw(**{name: first for name, (_, _, first) in ranges.items()})
    from ipywidgets import IntSlider, interact

    sliders = {
        name: IntSlider(min=least, max=most, value=first, continuous_update=False)
        for name, (least, most, first) in ranges.items()
    }
    interact(draw, **sliders)
    return None
