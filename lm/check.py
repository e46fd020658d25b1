"""`python -m lm check`: what is missing on this machine, and what still works.

Whatever is looked at may be missing, so nothing but the standard library is imported at the top of this file, and an
older Python can read it. Every look is guarded: what fails becomes a line.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

HELP = "What is missing on this machine, and what works without it. 0 if all needed parts work, else 1."
OK, MISSING, BROKEN = "ok", "missing", "broken"
PYTHON = (3, 11)
SIZES = {"B": 1, "T": 20, "M": 6, "K": 2, "D": 8}  # of the tiny forward
FORMS, TOLERANCE = ("dense", "sparse"), 1e-5  # of float32, relative to the norm
WITHOUT_BACKEND = {
    "walk": "the quick sparse form; auto takes the scan",
    "triton": "notebook 3 and tests of the kernels",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Line(NamedTuple):
    """What one look found."""

    status: str
    what: str
    found: str
    needed: bool = True  # whether something that every command of lm wants does not work without it
    without: str = ""  # what does not work without it
    get: str = ""  # how to get it

    def __str__(self) -> str:
        detail = self.found
        if self.status != OK:
            detail += f"; does not work: {self.without}" if self.without else ""
            detail += f"; to get it: {self.get}" if self.get else ""
        return f"{self.status:8} {'needed' if self.needed else 'optional':9} {self.what:17} {detail}"


class Package(NamedTuple):
    name: str  # of the distribution, as pip knows it
    module: str
    least: str  # as in pyproject.toml
    needed: bool
    without: str


PACKAGES = (
    Package("torch", "torch", "2.11", True, "everything"),
    Package("numpy", "numpy", "2.0", True, "everything"),
    Package("safetensors", "safetensors", "0.5", True, "models on disk: python -m lm, the demo, notebooks 5 and 6"),
    Package("matplotlib", "matplotlib", "3.9", True, "figures: python -m lm, the demo, the notebooks"),
    Package("tqdm", "tqdm", "4.66", True, "progress bars: python -m lm, the demo"),
    Package("triton", "triton", "3.6", False, "the Triton kernels and notebook 3"),
    Package("numba", "numba", "0.61", False, "the backend walk"),
    Package("hypothesis", "hypothesis", "6.170", False, "the tests, the laws of verify, notebook 3"),
    Package("jupyterlab", "jupyterlab", "4", False, "make lab"),
    Package("ipykernel", "ipykernel", "6", False, "running a notebook"),
    Package("nbclient", "nbclient", "0.10", False, "make notebooks and make mark"),
    Package("nbformat", "nbformat", "5.10", False, "make notebooks, make student and make mark"),
    Package("ipywidgets", "ipywidgets", "8.1", False, "sliders in notebook 5"),
    Package("mistune", "mistune", "3", False, "make slides"),
    Package("math-core", "math_core", "0.9", False, "make slides and make site"),
    Package("pytest", "pytest", "9", False, "make test"),
    Package("pytest-xdist", "xdist", "3.8", False, "make test on several cores"),
    Package("ruff", "ruff", "0.17", False, "make lint"),
    Package("pyright", "pyright", "1.1.414", False, "make lint"),
)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each look; 0 if all needed parts work, else 1."""
    argparse.ArgumentParser(prog="python -m lm check", description=HELP).parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is none
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a ?
    found: list[Line] = []
    try:
        for line in look():
            found.append(line)
            print(line, flush=True)
        print(summary(found), flush=True)
    except BrokenPipeError:  # the reader, head for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(any(line.needed and line.status != OK for line in found))


def look() -> Iterator[Line]:
    """All lines, each as soon as it is known."""
    _interpret()
    yield python()
    for part in PACKAGES:
        yield package(part)
    for what, (probe, needed) in PROBES.items():
        yield from guarded(probe, what, needed)


def summary(found: list[Line]) -> str:
    bad = [line for line in found if line.status != OK]
    needed, optional = (", ".join(line.what for line in bad if line.needed == need) for need in (True, False))
    if needed:
        return f"needed and not working: {needed}"
    return f"all needed parts work; optional and not here: {optional}" if optional else "all parts work"


def guarded(probe: Callable[[], Iterator[Line]], what: str, needed: bool) -> Iterator[Line]:
    """Its lines; what it raises becomes the last of them."""
    try:
        yield from probe()
    except ModuleNotFoundError as error:
        yield Line(MISSING, what, f"not tried: {_reason(error)}", needed)
    except Exception as error:
        yield Line(BROKEN, what, _reason(error), needed)


# --- Python and packages ------------------------------------------------------------------------------------------


def python() -> Line:
    version, least = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, PYTHON))
    if sys.version_info[:2] < PYTHON:
        return Line(
            BROKEN, "Python", f"{version}, needs {least} or newer", True, "everything", "https://www.python.org"
        )
    return Line(OK, "Python", f"{version}, {sys.executable}")


def package(part: Package) -> Line:
    """Whether it is there, new enough, and can be imported."""
    bad = functools.partial(Line, needed=part.needed, without=part.without, get=_pip(part))
    try:
        if importlib.util.find_spec(part.module) is None:
            return bad(MISSING, part.name, "not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(part.module)
    except Exception as error:  # one for another numpy, or for another system, says so
        return bad(BROKEN, part.name, f"cannot be imported: {_reason(error)}")
    try:
        version = importlib.metadata.version(part.name)
    except importlib.metadata.PackageNotFoundError:
        version = str(getattr(module, "__version__", "of no known version"))
    if _numbers(version) < _numbers(part.least):
        return bad(BROKEN, part.name, f"{version}, needs {part.least} or newer")
    return Line(OK, part.name, version, part.needed)


def _pip(part: Package) -> str:
    if part.name == "triton" and not sys.platform.startswith("linux"):
        return "it exists for Linux only"
    return f'python -m pip install "{part.name}>={part.least}"'


def _numbers(version: str) -> list[int]:
    """Of a version, as far as it has any: one without is as new as can be.

    >>> _numbers("2.13.0+cpu") > _numbers("2.9")
    True
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(number) for number in found[0].split(".")] if found else [1 << 30]


# --- what the packages are for ------------------------------------------------------------------------------------


def _interpret() -> None:
    """Without a GPU the kernels can run in Triton's interpreter, if that is said before triton is imported."""
    if "triton" not in sys.modules:
        try:
            gpu = importlib.import_module("torch").cuda.is_available()
        except Exception:  # the line of torch will say so
            gpu = False
        if not gpu:
            os.environ.setdefault("TRITON_INTERPRET", "1")


def _gpu() -> Iterator[Line]:
    import torch

    if torch.cuda.is_available():
        yield Line(OK, "GPU", torch.cuda.get_device_name(), False)
    else:
        yield Line(MISSING, "GPU", "none", False, "fast Triton kernels; the interpreter runs them slowly")


def _backends() -> Iterator[Line]:
    """Each backend that can run here, dense and sparse, beside one token after the other."""
    from fast import backends
    from fast.backends import BACKENDS

    for name, why_not in backends().items():
        what, without = f"backend {name}", WITHOUT_BACKEND.get(name, "")
        if why_not:
            yield Line(MISSING, what, why_not, False, without)
            continue
        try:
            errors = {form: _error(name, form) for form in FORMS if getattr(BACKENDS[name], form)}
        except Exception as error:
            yield Line(BROKEN, what, _reason(error), True, without)
            continue
        off = ", ".join(f"{form} off by {error:.0e}" for form, error in errors.items())
        if all(error <= TOLERANCE for error in errors.values()):  # NaN is not
            interpreted = ", interpreted on this CPU" if name == "triton" and _device(name) == "cpu" else ""
            yield Line(OK, what, f"agrees with the loop over tokens: {off}{interpreted}")
        else:
            yield Line(BROKEN, what, f"DISAGREES with the loop over tokens: {off}; at most {TOLERANCE:.0e} is right")


def _device(name: str) -> str:
    import torch

    return "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"


def _error(name: str, form: str) -> float:
    """How far a backend is from the loop over tokens, relative to the norm: the larger of y and the last state.

    The loop is `step` in float64, on all slots: those that the sparse form leaves alone have weights of 0.
    """
    import torch

    import fast
    from fast.step import step

    B, T, M, K, D = SIZES.values()
    numbers = torch.Generator().manual_seed(0)
    affinity, slots = torch.randn(B, T, M, generator=numbers).softmax(-1).topk(K)
    value = torch.randn(B, T, D, generator=numbers)
    of_all = torch.zeros(B, T, M).scatter(-1, slots, affinity)
    theta, phi = ((rate * (affinity if form == "sparse" else of_all)).to(_device(name)) for rate in (0.9, 0.5))
    if form == "sparse":
        arguments = (theta, phi, slots.to(theta.device), value.to(theta.device), M)
        got = fast.sparse_factorization_memory(*arguments, backend=name)
    else:
        got = fast.factorization_memory(theta, phi, value.to(theta.device), backend=name)
    state, readings = torch.zeros(B, M, D, dtype=torch.float64), []
    for weight, v in zip(of_all.double().unbind(1), value.double().unbind(1)):  # noqa: B905  # for an older Python
        y, state = step(0.9 * weight, 0.5 * weight, v, state, eps=1e-6)
        readings.append(y)
    wanted = (torch.stack(readings, 1), state)
    errors = [(a.cpu().double() - b).norm() / b.norm() for a, b in zip(got, wanted)]  # noqa: B905
    return float(torch.stack(errors).max())


def _bundled_models() -> Iterator[Line]:
    """Each is read; one folder that cannot be read does not hide the others."""
    from lm import pretrained

    names, bad = pretrained.names(), []
    for name in names:
        try:
            pretrained.load(name)
        except Exception as error:
            bad.append(f"{name}: {_reason(error)}")
    how = (True, "generate, evaluate, the demo and notebooks 5 and 6", "clone again, or pip install again")
    if bad or not names:
        yield Line(BROKEN if bad else MISSING, "bundled models", "; ".join(bad) or f"none in {pretrained.FOLDER}", *how)
    else:
        yield Line(OK, "bundled models", f"{len(names)} can be read: {', '.join(names)}")


def _kernel() -> Iterator[Line]:
    """Notebooks ask for the kernel python3, which must be this Python."""
    specs = importlib.import_module("jupyter_client.kernelspec")  # which comes with ipykernel
    how = (False, "running a notebook", "python -m ipykernel install --sys-prefix")
    try:
        program = specs.KernelSpecManager().get_kernel_spec("python3").argv[0]
    except specs.NoSuchKernel:
        yield Line(MISSING, "Jupyter kernel", "there is none by the name python3", *how)
        return
    plain = {"python", *(f"python{'.'.join(map(str, sys.version_info[:n]))}" for n in (1, 2))}
    if program in plain or _same(program, sys.executable):  # a plain name means the Python that asks
        yield Line(OK, "Jupyter kernel", "python3 is this Python", False)
    else:
        yield Line(BROKEN, "Jupyter kernel", f"python3 starts {program}, not this Python", *how)


def _compiler() -> Iterator[Line]:
    """By the names that torch looks for."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if found := shutil.which(name):
        yield Line(OK, "C++ compiler", found, False)
    else:
        get = {"darwin": "xcode-select --install", "win32": "the Build Tools of Visual Studio"}
        without = "torch.compile on a CPU, and Triton on a GPU; nothing here calls them by itself"
        yield Line(MISSING, "C++ compiler", f"no {name}", False, without, get.get(sys.platform, "apt install g++"))


def _out() -> Iterator[Line]:
    """A file can be made where out/ is or would be; nothing is left there."""
    folder = Path("out")
    place = folder if folder.exists() else Path()
    try:
        with tempfile.TemporaryFile(dir=str(place)) as probe:
            probe.write(b"a full disk makes files, but nothing goes into them")
    except OSError as error:
        where = f"nothing can be written to {place.resolve()} ({error.strerror})"
        yield Line(BROKEN, "out/", where, True, "what train, evaluate and the demo write", "--out names another folder")
    else:
        yield Line(OK, "out/", f"can be written to, in {Path().resolve()}")


def _browser() -> Iterator[Line]:
    if found := next(filter(None, map(shutil.which, BROWSERS)), None):
        yield Line(OK, "Chromium", found, False)
    else:
        yield Line(
            MISSING, "Chromium", "not found", False, "tests that open pages in a browser", "apt install chromium"
        )


def _machine() -> Iterator[Line]:
    from lm import machine

    size = machine.memory()
    held = "memory unknown" if size is None else f"{size / 2**30:.1f} GiB of memory"
    yield Line(OK, "machine", f"{machine.cores()} cores, {held}", False)


PROBES = {  # by the name of the line if it fails, and whether what it looks at is needed
    "GPU": (_gpu, False),
    "backends": (_backends, True),
    "bundled models": (_bundled_models, True),
    "Jupyter kernel": (_kernel, False),
    "C++ compiler": (_compiler, False),
    "out/": (_out, True),
    "Chromium": (_browser, False),
    "machine": (_machine, False),
}


def _same(one: str, other: str) -> bool:
    """Whether two paths are of one program in one environment: links to one Python from two environments are not."""
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))


def _reason(error: BaseException) -> str:
    """The first line of what it says; which package is missing, if that is it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name.partition('.')[0]} is missing"
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
