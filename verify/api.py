"""check: a kernel through all cases, and what came of it."""

import time
from collections.abc import Callable, Iterator

import torch

from verify import guess
from verify.adapters import CannotRun, Kernel
from verify.cases import DTYPES, FORMS, Limits, Sizes, fixed_cases
from verify.judge import Result, behaviour, far, judge
from verify.report import Report


def check(
    function: Callable, form: str = "dense", *, vjp: Callable | None = None, grad: bool = True, state: bool = True,
    dtypes: str | None = None, lengths: str = "0..1000000", widths: str = "1..1000000", slots: str = "1..1000000",
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
    if form not in FORMS:
        raise CannotRun(f"the form must be one of {', '.join(FORMS)}, got {form!r}")
    kernel = Kernel(
        function, form, vjp=vjp, arrays=arrays, state=state, device=_device(device), lengths=_sizes("lengths", lengths)
    )
    chosen, notes = _dtypes(dtypes, kernel)
    if grad and not kernel.differentiable:
        grad = False
        notes.append(f"gradients ({kernel.arrays} has none of its own: give a vjp)")
    limits = Limits(form, chosen, kernel.lengths, _sizes("widths", widths), _sizes("slots", slots), packed)
    if large and form != "dense":
        raise CannotRun(f"--large is for the dense form, got {form}")
    report = Report([], notes)
    for result in _stages(kernel, limits, grad, laws, large):
        report.results.append(result)
        if show:
            show(result)
    raised = {result.raised for result in report.results}
    if None not in raised:
        raise CannotRun(f"every case raises; the first {report.results[0].raised}")
    report.guess = guess.from_pattern(report.results)
    report.seconds = time.perf_counter() - began
    return report


def _stages(kernel: Kernel, limits: Limits, grad: bool, laws: int, large: bool) -> Iterator[Result]:
    for fixed in fixed_cases(limits):
        yield judge(fixed, kernel, grad)
    if laws:
        try:
            from verify.laws import obeys
        except ImportError:
            raise CannotRun("--laws needs hypothesis: pip install hypothesis") from None
        yield from obeys(kernel, limits, grad, laws)
    yield from behaviour(kernel, limits, grad)
    if large:
        yield far(kernel)


def _dtypes(names: str | None, kernel: Kernel) -> tuple[tuple[torch.dtype, ...], list[str]]:
    """Those asked for, or all there are; and why some are left out."""
    asked = [name.strip() for name in names.split(",")] if names else [*DTYPES]
    for name in asked:
        if name not in DTYPES:
            raise CannotRun(f"dtypes must be of {', '.join(DTYPES)}, got {name!r}")
    reasons = {name: kernel.library.missing(DTYPES[name]) for name in asked}
    chosen = tuple(DTYPES[name] for name, reason in reasons.items() if reason is None)
    if not chosen:
        raise CannotRun(f"no dtype is left: {'; '.join(map(str, reasons.values()))}")
    return chosen, [f"{name} ({reason})" for name, reason in reasons.items() if reason]


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
