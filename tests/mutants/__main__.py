"""Plants the faults of this package one at a time; each must be noticed.

`python -m tests.mutants [part of a name ...]` copies the project, applies a fault and runs the tests that should catch
it. It exits with 1 if one survives. A fault that survives means that a test is missing.
"""

import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import ROOT, all_faults
from tests.mutants.fault import Fault
from tests.mutants.runs import passes

ROOMS = (
    "reference",
    "fast",
    "layers",
    "lm",
    "verify",
    "experiments",
    "notebooks",
    "docs",
    "tests",
    "pyproject.toml",
    "LICENSE",
    "README.md",
    "requirements.txt",
)


def copy() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="mutants-")
    for room in ROOMS:
        source, target = ROOT / room, Path(folder.name) / room
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def plant(fault: Fault) -> tuple[str, str, float]:
    """What became of the fault: "killed", "SURVIVED" or "NOT FOUND"; by which test; seconds."""
    start = time.monotonic()
    with copy() as folder:
        path = Path(folder) / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            return "NOT FOUND", f"old text occurs {text.count(fault.old)} times", 0.0
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        passed, what = passes(Path(folder), fault.tests)
    return ("SURVIVED", fault.tests, time.monotonic() - start) if passed else ("killed", what, time.monotonic() - start)


def main() -> int:
    faults = [f for f in all_faults() if all(word in f.name for word in sys.argv[1:])]
    with ThreadPoolExecutor(2) as pool, copy() as folder:
        clean = sorted({f.tests for f in faults})
        for tests, (passed, what) in zip(clean, pool.map(lambda t: passes(Path(folder), t), clean), strict=True):
            if not passed:
                print(f"Without a fault, {tests} must pass: {what}")
                return 1
        print(f"{'fault':<56} {'outcome':<9} {'s':>5}  by", flush=True)
        outcomes = []
        for fault, (outcome, by, seconds) in zip(faults, pool.map(plant, faults), strict=True):
            print(f"{fault.name:<56} {outcome:<9} {seconds:5.1f}  {by}", flush=True)
            outcomes.append(outcome)
    killed = outcomes.count("killed")
    print(f"{killed} of {len(faults)} faults killed")
    return 0 if killed == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
