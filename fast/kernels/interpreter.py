"""Triton's interpreter without three things that it does over and over; what it computes stays the same, bit for bit.

It prepares its language anew for each call of a function inside a kernel, though once a launch will do. It makes a
table of all types whenever it looks for numpy's name of one. And it scans number by number, where a slice takes one
step. Scans of other people's functions stay as they are: a function may look at a number, with `if`, and not understand
a slice. All are private to Triton: where it lacks them, nothing is changed.
"""

from functools import cache

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_prepared: set[int] | None = None  # the modules that this launch has prepared; None while none is on


@cache
def _language_of(function) -> frozenset[int]:
    """The modules of Triton's language that a function names."""
    return frozenset(id(value) for value in function.__globals__.values() if value is tl or value is tl.core)


def _prepare_once(prepare):
    def prepare_once(function):
        if _prepared is None:
            return prepare(function)
        if _prepared and _language_of(function) <= _prepared:
            return None  # a launch, which undoes it, is the first to call
        _prepared.update(_language_of(function))
        return prepare(function)

    return prepare_once


def _launching(launch):
    def launching(self, *args, **kwargs):
        global _prepared
        _prepared = set()
        try:
            return launch(self, *args, **kwargs)
        finally:
            _prepared = None

    return launching


def _knowing(find):
    known = {}

    def find_once(of):
        scalar = of.scalar  # a block has the type of its numbers; types of one name are the same
        if scalar.name not in known:
            known[scalar.name] = find(scalar)
        return known[scalar.name]

    return find_once


def _scanning(scan):
    def scanning(self, values: tuple) -> list:
        ours = self.combine_fn.fn.__module__.startswith(f"{__package__}.")
        return scan_slices(self, values) if ours else scan(self, values)

    return scanning


def scan_slices(self, values: tuple) -> list:
    """As `ScanOps.generic_scan`: what is before it and the next slice along the axis make the next result."""
    data = [np.moveaxis(value.handle.data, self.axis, 0) for value in values]
    results = [part.copy() for part in data]
    for i in range(1, len(data[0])):
        before, here = (
            [self.to_tensor(part[at], value.dtype) for part, value in zip(parts, values, strict=True)]
            for parts, at in ((results, i - 1), (data, i))
        )
        found = self.combine_fn.fn(*before, *here)
        for result, part in zip(results, found if isinstance(found, tuple) else (found,), strict=True):
            result[i] = part.handle.data.reshape(result[i].shape)
    return [
        self.to_tensor(np.ascontiguousarray(np.moveaxis(result, 0, self.axis)), value.dtype)
        for result, value in zip(results, values, strict=True)
    ]


def quicken() -> None:
    """Once, and only where Triton has what is replaced."""
    launch = getattr(interpreter, "GridExecutor", None)
    if hasattr(interpreter, "_patch_lang") and launch is not None:
        interpreter._patch_lang = _prepare_once(interpreter._patch_lang)
        launch.__call__ = _launching(launch.__call__)
    if hasattr(interpreter, "_get_np_dtype"):
        interpreter._get_np_dtype = _knowing(interpreter._get_np_dtype)
    if hasattr(getattr(interpreter, "ScanOps", None), "generic_scan"):
        interpreter.ScanOps.generic_scan = _scanning(interpreter.ScanOps.generic_scan)
