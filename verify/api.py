"""check: a kernel through all cases, and what came of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import torch

from verify import guess
from verify.adapters import CannotRun, Kernel
from verify.cases import ANY_LENGTH, ANY_SIZE, DTYPES, FORMS, Limits, Sizes, fixed_cases
from verify.judge import Result, behaviour, far, judge
from verify.report import Report

LENGTHS, SIZES = ANY_LENGTH.text, ANY_SIZE.text


def check(
    function: Callable, form: str = "dense", *, vjp: Callable | None = None, grad: bool = True, state: bool = True,
    dtypes: str | None = None, lengths: str = LENGTHS, widths: str = SIZES, slots: str = SIZES,
    packed: bool = False, arrays: str | None = None, device: str = "cpu", laws: int = 0, large: bool = False,
    show: Callable[[Result], None] | None = None,
) -> Report:  # fmt: skip
    """Hold a function to the loop of `reference` in float64, in fixed cases, and say what is wrong.

    Args:
        function: by form "dense" (theta, phi, value, initial_state, eps) -> y, final_state; by form "sparse"
            (theta, phi, slots, value, num_slots, initial_state, eps); by form "step" (theta, phi, value, state, eps).
        vjp: the gradients, of (the same arguments, dy, dfinal_state) -> dtheta, dphi, dvalue, dinitial_state. Without
            it they are torch's or JAX's own.
        grad: False leaves gradients out.
        state: False for a function that gives y alone.
        dtypes: "float32,bfloat16"; by default all that the library of arrays has.
        lengths, widths, slots: what T, D and M may be: "64*n", "1..512" or "16,32".
        packed: the function takes cu_seqlens.
        arrays: "torch", "numpy", "jax" or another library with DLPack; by default found from the code.
        device: of torch's and JAX's arrays.
        laws: how many generated examples each law gets; needs hypothesis.
        large: also more numbers than an int32 counts; about 20 GB.
        show: called with each result as it comes.

    Raises:
        CannotRun: nothing can be said, for a reason of one sentence.

    >>> import reference
    >>> check(reference.factorization_memory, dtypes="float32", lengths="17", widths="8", slots="3").ok
    True
    """
    began = time.perf_counter()
    asked = limits(form, dtypes, lengths, widths, slots, packed)
    kernel = Kernel(
        function, form, vjp=vjp, arrays=arrays, state=state, device=_device(device), lengths=asked.lengths
    )  # fmt: skip
    within, notes = _possible(asked, kernel)
    if grad and not kernel.differentiable:
        grad = False
        notes.append(f"gradients ({kernel.arrays} has none of its own: give a vjp)")
    if laws and find_spec("hypothesis") is None:
        raise CannotRun("--laws needs hypothesis: pip install hypothesis")
    if large and form != "dense":
        raise CannotRun(f"--large is for the dense form, got {form}")
    report = Report([], notes)
    for result in _stages(kernel, within, grad, laws, large):
        report.results.append(result)
        if show:
            show(result)
    report.guess = guess.from_pattern(report.results)
    report.seconds = time.perf_counter() - began
    return report


def _stages(kernel: Kernel, limits: Limits, grad: bool, laws: int, large: bool) -> Iterator[Result]:
    raised = []
    for fixed in fixed_cases(limits):
        result = judge(fixed, kernel, grad)
        raised.append(result.raised)
        yield result
    if all(raised):
        raise CannotRun(f"every case raises; the first {raised[0]}")
    if laws:
        from verify.laws import obeys

        yield from obeys(kernel, limits, grad, laws)
    yield from behaviour(kernel, limits, grad)
    if large:
        yield far(kernel)


def limits(form: str, dtypes: str | None, lengths: str, widths: str, slots: str, packed: bool) -> Limits:
    """The limits that these options name."""
    if form not in FORMS:
        raise CannotRun(f"the form must be one of {', '.join(FORMS)}, got {form!r}")
    if packed and form == "step":
        raise CannotRun("a step has no packed sequences")
    names = [name.strip() for name in dtypes.split(",")] if dtypes else [*DTYPES]
    for name in names:
        if name not in DTYPES:
            raise CannotRun(f"dtypes must be of {', '.join(DTYPES)}, got {name!r}")
    sizes = (_sizes(*option) for option in (("lengths", lengths), ("widths", widths), ("slots", slots)))
    return Limits(form, tuple(DTYPES[name] for name in names), *sizes, packed)


def _possible(asked: Limits, kernel: Kernel) -> tuple[Limits, list[str]]:
    """The limits without dtypes that the arrays of the kernel lack, and why."""
    reasons = {dtype: kernel.library.missing(dtype) for dtype in asked.dtypes}
    left = tuple(dtype for dtype, reason in reasons.items() if reason is None)
    if not left:
        raise CannotRun(f"no dtype is left: {'; '.join(map(str, reasons.values()))}")
    notes = [f"{str(dtype).removeprefix('torch.')} ({reason})" for dtype, reason in reasons.items() if reason]
    return replace(asked, dtypes=left), notes


def _sizes(option: str, text: str) -> Sizes:
    try:
        return Sizes(text)
    except ValueError as error:
        raise CannotRun(f"{option}: {error}") from None


def _device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CannotRun(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name
