"""One run of tests in a process of its own, forked from a server that has imported torch but nothing of the project.

torch takes longer to import than most faults take to be noticed.
"""

import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.mutants import ROOT

LONGEST = 600  # seconds
os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "mutants", "PYTHONUTF8": "1"}  # before the server starts
CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if CAN_FORK else "spawn")
if CAN_FORK:
    # Not what imports triton, which looks at TRITON_INTERPRET when it is imported.
    PROCESSES.set_forkserver_preload(["torch", "numpy", "matplotlib.figure"])


def passes(project: Path, tests: str) -> tuple[bool, str]:
    """Whether the tests of a copy of the project pass, and what failed first."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        said = Path(folder) / "said"
        said.touch()
        process = PROCESSES.Process(target=_run, args=(project, said, shlex.split(tests)))
        process.start()
        process.join(LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
            return False, f"no end after {LONGEST} s"
        text = said.read_text(encoding="utf-8", errors="replace")
    if process.exitcode < 0:  # an access outside of memory ends the interpreter
        return False, signal.Signals(-process.exitcode).name
    lines = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return process.exitcode == 0, lines[0].split(" - ")[0].split("::", 1)[-1] if lines else text[-300:]


def _run(project: Path, said: Path, tests: list[str]) -> None:
    """The tests of the copy, on the code of the copy."""
    file = os.open(said, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(project)
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    sys.path[:] = [str(project), *(path for path in sys.path if path not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(project)  # of what the tests start
    os.environ["NUMBA_CACHE_DIR"] = str(project / "numba")
    import pytest

    sys.exit(int(pytest.main(["-x", "--no-header", "--tb=no", "-rfE", *tests])))
