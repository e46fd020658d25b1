"""How a loop in Python becomes machine code for a CPU (by numba, imported when it is first needed) and shares threads.

A loop is a function `loop(begin, stride, *workspaces, *arguments)` of arrays that does units begin, begin + stride, ...
of its work. Its threads are torch's in number and ours in kind: numba's own cannot be used from two threads at once,
nor after a fork. Compiled code is kept in the user's cache folder (NUMBA_CACHE_DIR names another); where nothing can be
written, it is compiled again in every process.
"""

import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SMALL = 1 << 16  # numbers that a loop passes: below it, waking another thread takes longer than the work
HELPERS: list[Callable] = []  # functions that loops call

_own = threading.local()  # .space: each thread's bytes
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


@torch.compiler.assume_constant_result
def why_not() -> str | None:
    """The reason why nothing can be compiled here."""
    return _why_not()


@functools.cache
def _why_not() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    try:
        import numba  # noqa: F401
    except Exception as error:  # for another numpy, say
        return f"numba cannot be imported: {error}"
    return None


def helper(function: Callable) -> Callable:
    """A function that loops may call."""
    HELPERS.append(function)
    return function


def run(loop: Callable, *arguments, units: int, work: int, dtype: torch.dtype, rows: Sequence[tuple[int, int]] = ()):
    """All units of a loop. rows: shapes of workspaces, which every thread has for itself. Returns what unit 0 returns."""
    threads = min(units, torch.get_num_threads()) if work > SMALL else 1
    function = compiled(loop, dtype, (0, 1, *_workspaces(rows, dtype), *arguments))

    def part(begin: int):
        return function(begin, threads, *_workspaces(rows, dtype), *arguments)

    others = [_workers().submit(part, begin) for begin in range(1, threads)]
    try:
        return part(0)
    finally:
        for other in others:
            other.result()


def compiled(loop: Callable, dtype: torch.dtype, arguments: tuple) -> Callable:
    """The loop as machine code for arguments like these; their types follow from the dtype."""
    return _known.get((loop, dtype)) or _compile(loop, dtype, arguments)


_known: dict[tuple[Callable, torch.dtype], Callable] = {}


def _compile(loop: Callable, dtype: torch.dtype, arguments: tuple) -> Callable:
    import numba
    from numba.core import config, event
    from numba.extending import register_jitable

    with _lock, event.install_listener("numba:compile", _listener(event.Listener)):
        for function in HELPERS:
            register_jitable(function)
        types = tuple(map(numba.typeof, arguments))
        # No "nnan", no "ninf": NaN and infinity go where they go in the loop. No "nsz", "arcp", "afn".
        options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
        before = config.CACHE_DIR
        try:
            # A folder for every dtype: processes that store two of them at once would mix them up in one.
            config.CACHE_DIR = str(_cache(before) / str(dtype).removeprefix("torch."))
            function = numba.njit(loop, cache=True, **options)
            function.compile(types)
        except Exception:  # of the disk, or of what was found there
            function = numba.njit(loop, **options)
            function.compile(types)
        finally:
            config.CACHE_DIR = before
        _known[loop, dtype] = function
    return function


def _cache(chosen: str) -> Path:
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "factorization_memory"


def _listener(base: type):
    """Says so, once, if something is compiled, not found in the cache, and somebody is there to wait for it."""

    class Announce(base):
        def on_start(self, event):
            global _announced
            if not _announced and (sys.stderr.isatty() or "ipykernel" in sys.modules):
                print("Compiling the loops of fast/walk.py for this CPU, once: some seconds.", file=sys.stderr, flush=True)
            _announced = True

        def on_end(self, event):
            pass

    return Announce()


_announced = False


def _workspaces(rows: Sequence[tuple[int, int]], dtype: torch.dtype) -> list:
    """Unwritten arrays of these shapes, in memory that the thread keeps for the next call."""
    sizes = [n * width for n, width in rows]
    need = sum(sizes) * dtype.itemsize
    if getattr(_own, "space", None) is None or _own.space.numel() < need:
        _own.space = torch.empty(need, dtype=torch.uint8)
    parts = _own.space[:need].view(dtype).split(sizes)
    return [part.view(shape).numpy() for part, shape in zip(parts, rows, strict=True)]


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        _pool = _pool or ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="walk")
        return _pool


def _after_fork() -> None:
    """A child has none of its parent's threads, nor can it open locks that they held."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
