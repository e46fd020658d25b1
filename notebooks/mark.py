"""`make mark SUBMISSIONS=folder`: run what students handed in, and say what each answer is worth.

SUBMISSIONS/STUDENT/*.ipynb, under the names of the notebooks. Of a submission only the exercise cells count. Cells of
the student's own that stand before the check run as well, if they can. All else is the teacher's: a check that was
deleted or changed is there. The answers run in a copy of what was handed out, in a kernel of their own, at smoke size,
with limits of time, memory and output.

A pass is not believed at once. In the same kernel the check must still refuse the open exercise and a wrong answer of
the teacher's list: an answer that turned the check off is worth nothing. What was found is told beside the marks.
Written are marks.csv and a page of feedback for each student. The code runs as you: mark where that does no harm.
"""

import argparse
import csv
import html
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from notebooks.run import NOTEBOOKS, read_answers, read_solutions, tagged
from notebooks.student import graded, hand_out, points

RIGHT = "right"
PEEKS = re.compile(r"""solutions[/\\]|["']solutions|\.solutions|import solutions|read_solutions|read_answers""")
LIMITS = """
import resource as _resource
_resource.setrlimit(_resource.RLIMIT_AS, ({0}, {0}))
"""


@dataclass(frozen=True)
class Limits:
    seconds: int = 60  # of a cell
    gigabytes: float = 8.0  # of the kernel's address space
    characters: int = 100_000  # that a cell prints


@dataclass(frozen=True)
class Mark:
    student: str
    notebook: str
    exercise: str
    points: int
    of: int
    what: str  # RIGHT, or why not
    note: str = ""  # for the teacher


class Client(NotebookClient):
    """Kills the kernel of a cell that prints too much."""

    def __init__(self, *arguments: Any, characters: int, **options: Any):
        super().__init__(*arguments, **options)
        self.characters, self.printed = characters, 0

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> Any:
        self.printed += len(str(msg["content"].get("text", "")))
        if self.floods:
            self.km.provisioner.process.kill()
            return None
        return super().process_message(msg, cell, cell_index)

    @property
    def floods(self) -> bool:
        return self.printed > self.characters


class Session:
    """A kernel in which cells run one after the other. `lost` when nothing more can run in it."""

    def __init__(self, client: Client):
        self.client, self.lost = client, False

    def run(self, source: str) -> str | None:
        """None, or why the cell did not come to its end."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.printed = 0
        try:
            self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        except CellExecutionError as error:
            return f"{error.ename}: {error.evalue}".strip(": ")[:2000]
        except (CellTimeoutError, CellControlSignal):
            self.lost = True
            return f"it ran for more than {self.client.timeout} s"
        except DeadKernelError:
            self.lost = True
            if self.client.floods:
                return f"it printed more than {self.client.characters:,} characters"
            return "its kernel ended: perhaps it took too much memory"
        return None


@contextmanager
def session(folder: Path, limits: Limits) -> Iterator[Session]:
    """In notebooks/ of a copy of what was handed out. The kernel is killed at the end, whatever runs in it."""
    resources = {"metadata": {"path": str(folder / "notebooks")}}
    client = Client(
        nbformat.v4.new_notebook(), timeout=limits.seconds, resources=resources, characters=limits.characters,
        kernel_name="python3", shutdown_kernel="immediate",
    )  # fmt: skip
    with client.setup_kernel(cwd=str(folder / "notebooks"), env={**os.environ, "NOTEBOOK_SMOKE": "1"}):
        live = Session(client)
        if sys.platform != "win32":
            live.run(LIMITS.format(int(limits.gigabytes * 2**30)))
        yield live


def exercises(notebook: NotebookNode) -> Iterator[tuple[list[NotebookNode], list[NotebookNode], NotebookNode]]:
    """The cells before, the exercises, their check; cells of other checks left out."""
    before: list[NotebookNode] = []
    asked: list[NotebookNode] = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if tagged(cell, "exercise"):
            asked.append(cell)
        elif tagged(cell, "check"):
            yield before, asked, cell
            before, asked = [], []
        else:
            before.append(cell)


def answer(submission: NotebookNode, asked: list[NotebookNode], known: set[str]) -> tuple[list[str], str | None]:
    """Cells of the student's own up to the next that is not, and the source of the exercises; None if one is gone."""
    ids, own, found = [exercise.id for exercise in asked], [], {}
    for cell in submission.cells:
        if cell.cell_type != "code":
            continue
        name = cell.metadata.get("nbgrader", {}).get("grade_id", cell.get("id"))
        if name in ids:
            found[name] = cell.source
        elif name not in known:
            own.append(cell.source)
        elif len(found) == len(ids):  # the check, or what follows it
            break
    return own, "\n\n\n".join(found[name] for name in ids) if len(found) == len(ids) else None


def mark(student: str, handed_in: Path, original: Path, folder: Path, limits: Limits, seed: int = 0) -> list[Mark]:
    """One notebook of one student; folder is a copy of what was handed out."""
    notebook = graded(nbformat.read(original, 4), seed)
    groups = [*exercises(notebook)]

    def result(asked: list[NotebookNode], check: NotebookNode, what: str, note: str = "") -> Mark:
        of = points(check)
        return Mark(student, original.name, asked[-1].id, of if what == RIGHT else 0, of, what, note)

    try:
        submission = nbformat.read(handed_in, 4)
    except Exception as error:  # whatever was handed in
        return [result(asked, check, f"the file cannot be read: {error}"[:300]) for _, asked, check in groups]
    checks = {cell.id: cell.source for cell in submission.cells if cell.get("id")}
    known, marks, ran = {cell.id for cell in notebook.cells}, [], []
    with _Sessions(folder, limits) as sessions:
        for before, asked, check in groups:
            ran += [cell.source for cell in before]
            own, given = answer(submission, asked, known)
            if given is None:
                marks.append(result(asked, check, "there is no cell for this exercise"))
                continue
            note = "" if checks.get(check.id) == check.source else "its check is gone or changed"
            if PEEKS.search("\n".join([*own, given])):
                marks.append(result(asked, check, "it names the solutions", "names the solutions"))
                continue
            try:
                live = sessions.after(ran, own)
            except TeachersCellFailed as error:
                marks.append(result(asked, check, "it could not be marked", str(error)))
                continue
            what = live.run(given) or live.run(check.source) or RIGHT
            if what == RIGHT and _believes_anything(live, original, asked, check):
                what, note = "the check accepts anything after this answer", "turned the check off"
                live.lost = True
            elif what == RIGHT and given.strip() == _solution(original, asked):
                note = f"{note}; word for word the solution".strip("; ")
            marks.append(result(asked, check, what, note))
    return marks


def _solution(original: Path, asked: list[NotebookNode]) -> str:
    solutions = read_solutions(original)
    return "\n\n\n".join(solutions[exercise.id] for exercise in asked).strip()


class TeachersCellFailed(Exception):
    """A cell that is not the student's did not come to its end, in a kernel of its own either."""


class _Sessions:
    """A kernel in which the cells of the teacher and of the student have run so far; another once it is lost."""

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits, self.live, self.context = folder, limits, None, None
        self.done, self.touched = 0, False  # cells of the teacher's; whether any of the student's has run
        self.own: set[str] = set()  # cells of the student's that have run
        self.bad: set[str] = set()  # and those that cost a kernel

    def __enter__(self) -> "_Sessions":
        return self

    def __exit__(self, *_: object) -> None:
        if self.context is not None:
            self.context.__exit__(None, None, None)
        self.live = self.context = None

    def after(self, teachers: list[str], own: list[str]) -> Session:
        live = self._live()
        for source in teachers[self.done :]:
            if problem := live.run(source):
                if not self.touched:
                    raise TeachersCellFailed(f"{problem} in {source!r}")
                live.lost = True  # something of the student's is in its way
                return self.after(teachers, own)
            self.done += 1
        self.touched = True
        for source in own:
            if source not in self.own | self.bad:
                live.run(source)  # what it gives is seen in the answer
                if live.lost:
                    self.bad.add(source)
                    return self.after(teachers, own)
                self.own.add(source)
        return live

    def _live(self) -> Session:
        if self.live is None or self.live.lost:
            self.__exit__()
            self.done, self.touched, self.own = 0, False, set()
            self.context = session(self.folder, self.limits)
            self.live = self.context.__enter__()
        return self.live


def _believes_anything(live: Session, original: Path, asked: list[NotebookNode], check: NotebookNode) -> bool:
    """Whether the check, in this kernel, accepts what it must refuse: the open exercise, a wrong answer."""
    wrong = [other.source for other in read_answers(original) if other.exercise == asked[-1].id and not other.right]
    tries = ["\n\n\n".join(exercise.source for exercise in asked), *wrong[:1]]
    return any(live.run(source) is None and live.run(check.source) is None for source in tries)


def mark_all(submissions: Path, out: Path, limits: Limits, seed: int = 0) -> list[Mark]:
    """Every student's notebooks; marks.csv and the feedback are written as they come."""
    originals = {path.name: path for path in NOTEBOOKS}
    out.mkdir(parents=True, exist_ok=True)
    marks: list[Mark] = []
    for student in sorted(path for path in submissions.iterdir() if path.is_dir()):
        mine: list[Mark] = []
        for handed_in in sorted(student.rglob("*.ipynb")):
            if handed_in.name not in originals or ".ipynb_checkpoints" in handed_in.parts:
                continue
            with tempfile.TemporaryDirectory(prefix="mark-") as folder:  # an answer may spoil what lies there
                hand_out(Path(folder) / "copy", seed)
                original = originals[handed_in.name]
                mine += mark(student.name, handed_in, original, Path(folder) / "copy", limits, seed)
        (out / f"{student.name}.html").write_text(feedback(student.name, mine), encoding="utf-8")
        marks += mine
        _write_csv(out / "marks.csv", marks)
        print(f"{student.name}: {sum(m.points for m in mine)} of {sum(m.of for m in mine)} points", flush=True)
        for m in mine:
            if m.note:
                print(f"  {m.notebook}, {m.exercise}: {m.note}", flush=True)
    return marks


def _write_csv(path: Path, marks: list[Mark]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Mark)])
        writer.writeheader()
        writer.writerows(map(asdict, marks))
    shutil.move(part, path)


def feedback(student: str, marks: list[Mark]) -> str:
    """A page for the student; notes are for the teacher alone."""
    rows = "".join(
        f"<tr><td>{html.escape(m.notebook)}</td><td>{html.escape(m.exercise)}</td><td>{m.points} of {m.of}</td>"
        f"<td><pre>{html.escape(m.what)}</pre></td></tr>\n"
        for m in marks
    )
    total = f"{sum(m.points for m in marks)} of {sum(m.of for m in marks)} points"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(student)}</title>\n'
        "<style>body{font-family:sans-serif;max-width:60em;margin:2em auto}td{vertical-align:top;padding:.3em 1em}"
        f"pre{{white-space:pre-wrap;margin:0}}</style>\n<h1>{html.escape(student)}: {total}</h1>\n"
        f"<table><tr><th>notebook<th>exercise<th>points<th>what the check said</tr>\n{rows}</table></html>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("submissions", type=Path, help="a folder with a folder for each student")
    parser.add_argument("--out", type=Path, default=Path("out/marks"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="that of what was handed out")
    parser.add_argument("--seconds", type=int, default=Limits.seconds, help="for a cell (default: %(default)s)")
    parser.add_argument("--gigabytes", type=float, default=Limits.gigabytes, help="of memory (default: %(default)s)")
    options = parser.parse_args()
    if not options.submissions.is_dir():
        print(f"no folder {options.submissions}", file=sys.stderr)
        return 2
    limits = Limits(options.seconds, options.gigabytes)
    return 0 if mark_all(options.submissions, options.out, limits, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
