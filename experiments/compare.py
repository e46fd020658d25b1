"""--base REV: a git revision timed beside the working tree, in one run and on the same inputs.

Each tree has a process of its own (experiments/worker.py), and the two take turns. A ratio is that of one turn; what
is claimed is the median, and only where the ratios of all turns lie on one side of 1: with this many turns, chance
alone says so of one row in a thousand.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments import frame
from experiments.frame import UsageError

TURNS = 11
WORKER = Path(__file__).with_name("worker.py")
SAME = 1e-3  # how far norms of results may be apart, relative: revisions may differ in how they round


class Case(NamedTuple):
    """A call of one function of fast."""

    what: str
    function: str
    arguments: Sequence[Tensor | int]  # with gradients of y for those that require one
    backends: tuple[str, ...] = ()  # names that one backend has had; none: the function has no such option
    calls: int = 1  # that are timed as one, for what takes microseconds


class Row(NamedTuple):
    """Seconds of both, and how many times as fast the working tree is, turn by turn; or why there are none."""

    what: str
    base: float = 0.0
    here: float = 0.0
    ratios: tuple[float, ...] = ()
    problem: str = ""


def measure(cases: Iterable[Case], revision: str, root: Path = frame.ROOT) -> list[Row]:
    commit = commit_of(revision, root)
    print(f"base {commit[:12]} ({revision}) beside the working tree, {TURNS} turns", flush=True)
    print(", ".join(f"{name} {value}" for name, value in frame.about().items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        unpack(commit, root, Path(folder) / "base")
        with Side(Path(folder) / "base") as base, Side(root) as here:
            for case in cases:
                rows.append(compare(case, base, here, Path(folder) / "inputs.pt"))
                print(line(rows[-1]), flush=True)
    return rows


def commit_of(revision: str, root: Path) -> str:
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("--base needs git") from None
    if found.returncode:
        raise UsageError(f"--base {revision}: {root} knows no such git revision")
    return found.stdout.strip()


def unpack(commit: str, root: Path, folder: Path) -> None:
    archive = subprocess.run(["git", "archive", "--format=zip", commit], cwd=root, capture_output=True, check=True)
    folder.mkdir()
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(folder)


class Side:
    """A worker on one tree."""

    def __init__(self, tree: Path):
        environment = os.environ | {"PYTHONPATH": str(tree)}
        # -P: the folder of the worker, full of names like "settings", stays off the path.
        command = [sys.executable, "-X", "utf8", "-P", str(WORKER), str(tree)]
        self.tree = tree
        self.process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, request: dict | str) -> dict:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UsageError(f"the worker on {self.tree} has ended; what it said is above")
        return json.loads(answer)


def compare(case: Case, base: Side, here: Side, path: Path) -> Row:
    torch.save(case.arguments, path)
    backward = any(isinstance(v, Tensor) and v.requires_grad for v in case.arguments)
    request = {
        "function": case.function, "inputs": str(path), "backends": case.backends, "backward": backward,
        "calls": case.calls,
    }  # fmt: skip
    sides = {"base": base, "here": here}
    loaded = {name: side.ask(request) for name, side in sides.items()}
    for name, answer in loaded.items():
        if "error" in answer:
            return Row(case.what, problem=f"{name}: {answer['error']}")
    norms = [torch.tensor(answer["norms"]) for answer in loaded.values()]
    if len(norms[0]) != len(norms[1]) or not norms[0].allclose(norms[1], rtol=SAME):
        return Row(case.what, problem="the results differ")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS):
        for name in sorted(sides, reverse=turn % 2 == 1):  # neither is always the second
            times[name].append(sides[name].ask("go")["seconds"])
    ratios = tuple(b / h for b, h in zip(times["base"], times["here"], strict=True))
    base_time, here_time = (statistics.median(found) for found in times.values())
    return Row(case.what, base_time, here_time, ratios)


def verdict(ratios: tuple[float, ...]) -> str:
    """What may be claimed.

    >>> verdict((1.2, 1.1, 1.3)), verdict((0.9, 0.8)), verdict((0.99, 1.2))
    ('faster', 'slower', 'within the noise')
    """
    if min(ratios) > 1:
        return "faster"
    return "slower" if max(ratios) < 1 else "within the noise"


def cells(row: Row) -> tuple[str, ...]:
    if row.problem:
        return row.what, "–", "–", "–", row.problem
    spread = f"{statistics.median(row.ratios):.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})"
    return row.what, f"{1e3 * row.base:#.4g} ms", f"{1e3 * row.here:#.4g} ms", spread, verdict(row.ratios)


def line(row: Row) -> str:
    what, base, here, spread, said = cells(row)
    return f"{what:<52} {base:>10} {here:>10}   {spread:<22} {said}"


def table(rows: list[Row]) -> str:
    """For a change's description."""
    head = ["", "| what | base | here | times as fast (lowest to highest) | |", "| --- " * 5 + "|"]
    return "\n".join([*head, *(f"| {' | '.join(cells(row))} |" for row in rows)])
