"""How loops in Python become machine code for a CPU, by numba, and share threads.

A loop is a function `loop(begin, stride, *workspaces, *arguments)` of arrays and numbers. It does units begin,
begin + stride, ... of its work. There are as many threads as torch has, from a pool of our own: those of numba must not
be used by two threads at once, nor after a fork.

numba is imported when a loop is first called. What it makes is kept in the user's cache folder, or in NUMBA_CACHE_DIR.
Where nothing can be written, every process compiles anew.
"""

import ctypes
import functools
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SMALL = 1 << 16  # numbers that a loop passes: for fewer, waking a thread takes longer than their work
# A product and a sum may become one instruction, and the numbers of a sum may be added in any order, that of a vector's
# lanes. No flag says that numbers are finite or zeros have no sign: NaN and infinity go where they go in Python, and
# (1 - theta) h + theta v is not made into h + theta (v - h), which is not v where theta is 1.
FASTMATH = {"contract", "reassoc"}

_helpers: list[Callable] = []
_known: dict[tuple[Callable, torch.dtype], Callable] = {}
_own = threading.local()  # .space: bytes of each thread
_lock = threading.RLock()
_pool: ThreadPoolExecutor | None = None
_announced = False


def why_not() -> str | None:
    """The reason why loops cannot be compiled here."""
    return _why_not()


# All that torch.compiler.assume_constant_result does, but it imports torch.compile's tracer first: 1.6 seconds, which
# most programs never need.
why_not._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _why_not() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    try:
        importlib.import_module("numba")
    except Exception as error:  # one for another numpy says so
        return f"numba cannot be imported: {error}"
    return None


def helper(function: Callable) -> Callable:
    """A function that loops may call."""
    _helpers.append(function)
    return function


def run(
    loop: Callable, *arguments, units: int, work: int, dtype: torch.dtype, rows: Sequence[tuple[int, int]] = ()
) -> None:
    """All units of a loop, which passes `work` numbers. rows: shapes of the workspaces that each thread has."""
    threads = min(units, torch.get_num_threads() if work > SMALL else 1)

    def part(begin: int) -> None:
        call(loop, begin, threads, *_workspaces(rows, dtype), *arguments, dtype=dtype)

    if threads > 1:
        _release_cores()
    others = [_workers().submit(part, begin) for begin in range(1, threads)]
    try:
        if threads:
            part(0)
    finally:
        for other in others:
            other.result()


def call(loop: Callable, *arguments, dtype: torch.dtype):
    """loop(*arguments) by machine code. Of a loop, the dtype tells all types."""
    return (_known.get((loop, dtype)) or _compile(loop, arguments, dtype))(*arguments)


def _compile(loop: Callable, arguments: tuple, dtype: torch.dtype) -> Callable:
    import numba
    from numba.core import config, event
    from numba.extending import register_jitable

    types = tuple(map(numba.typeof, arguments))
    options = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
    with _lock, event.install_listener("numba:compile", _listener(event.Listener)):
        if (loop, dtype) in _known:
            return _known[loop, dtype]
        if config.DISABLE_JIT:  # by whoever wants to step through the loops
            return loop
        while _helpers:
            register_jitable(_helpers.pop())
        chosen = config.CACHE_DIR
        try:
            config.CACHE_DIR = str(_folder(chosen, dtype))
            function = numba.njit(loop, cache=True, **options)
            function.compile(types)
        except Exception:  # the disk's, or of what was found on it
            function = numba.njit(loop, **options)
            function.compile(types)
        finally:
            config.CACHE_DIR = chosen
        _known[loop, dtype] = function
        return function


def _folder(chosen: str, dtype: torch.dtype) -> Path:
    """Where to keep what is compiled: a folder that can be written to."""
    base = Path(chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # numba does not look at FASTMATH; and two processes that store two dtypes at once would mix them up in one folder
    folder = base / "factorization_memory" / "-".join([str(dtype).removeprefix("torch."), *sorted(FASTMATH)])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _listener(base: type):
    class Announce(base):
        """Says once that something is compiled (not found on the disk), if somebody is there and waits."""

        def on_start(self, _):
            global _announced
            if not _announced and (sys.stderr.isatty() or "ipykernel" in sys.modules):
                print("Compiling loops for this CPU, once: about 10 seconds.", file=sys.stderr, flush=True)
            _announced = True

        def on_end(self, _):
            pass

    return Announce()


def _workspaces(rows: Sequence[tuple[int, int]], dtype: torch.dtype) -> list:
    """Unwritten arrays of these shapes, in memory that the thread keeps."""
    if not rows:
        return []
    sizes = [count * width for count, width in rows]
    need = sum(sizes) * dtype.itemsize
    if not hasattr(_own, "space") or _own.space.numel() < need:
        _own.space = torch.empty(need, dtype=torch.uint8)
    parts = _own.space[:need].view(dtype).split(sizes)
    return [part.view(shape).numpy() for part, shape in zip(parts, rows, strict=True)]


def _release_cores() -> None:
    """Ends this thread's OpenMP workers. After torch's work they wait by spinning, for milliseconds, on cores that ours
    need; torch starts new ones in a tenth of a millisecond."""
    if pause := _pause_openmp():
        pause(1)  # omp_pause_soft


@functools.cache
def _pause_openmp() -> Callable | None:
    """omp_pause_resource_all of OpenMP 5.0, if torch has brought an OpenMP that knows it."""
    try:
        return ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):
        return None


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        _pool = _pool or ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1))
        return _pool


def _after_fork() -> None:
    """A child has none of its parent's threads, and cannot open a lock that one of them held."""
    global _pool, _lock
    _pool, _lock = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
