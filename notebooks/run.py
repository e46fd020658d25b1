"""`make notebooks`: run the notebooks at full size and store what they print and draw.

Tags of cells: "exercise" is for the reader to fill in, the "check" after it raises until that is done; "timing"
measures the machine, or draws what was measured. A notebook's solutions lie under the same name in
notebooks/solutions/, in cells that have the ids of the exercises they solve. Beside them, in a .py file, are other
answers: right ones, which the check must accept, and wrong ones, which it must refuse.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
METADATA = {  # no version of Python, which would change with the machine
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
ANSWER = re.compile(r"^# %% (?P<exercise>[\w-]+), (?P<verdict>right|wrong): (?P<what>.+)\n", re.MULTILINE)


class Answer(NamedTuple):
    exercise: str  # id of its cell
    right: bool
    what: str
    source: str


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def read_solutions(path: Path) -> dict[str, str]:
    """By the id of the exercise."""
    return {cell.id: cell.source for cell in nbformat.read(path.parent / "solutions" / path.name, 4).cells}


def read_answers(path: Path) -> list[Answer]:
    """From `# %% exercise, right: what` or `# %% exercise, wrong: what` to the next such line."""
    _, *parts = ANSWER.split((path.parent / "solutions" / path.with_suffix(".py").name).read_text(encoding="utf-8"))
    cells = zip(*(parts[i::4] for i in range(4)), strict=True)
    return [Answer(exercise, verdict == "right", what, source) for exercise, verdict, what, source in cells]


def run(path: Path, *, smoke: bool, solve: bool, keep_timings: bool = False) -> NotebookNode:
    """The notebook with its outputs, from a clean kernel.

    solve: every check must refuse the open exercise and the wrong answers, and accept the right ones and the solution;
    else checks are left out. keep_timings: cells that measure the machine are run, but keep the outputs they had.
    """
    notebook = nbformat.read(path, 4)
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    environment = {**os.environ, "NOTEBOOK_SMOKE": "1" if smoke else "0"}
    open_exercises = []
    with client.setup_kernel(env=environment, cwd=str(FOLDER)):
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            stored, cell.outputs, cell.execution_count = cell.outputs, [], None
            if not tagged(cell, "check"):
                client.execute_cell(cell, i)
                open_exercises += [cell] if tagged(cell, "exercise") else []
                if keep_timings and tagged(cell, "timing"):
                    cell.outputs = stored
            elif solve:
                _try_answers(client, cell, i, open_exercises, path)
                open_exercises = []
    notebook.metadata = METADATA
    return notebook


def _try_answers(client: NotebookClient, check: NotebookNode, at: int, exercises: list, path: Path) -> None:
    def accepted() -> bool:
        client.nb.cells[at] = check
        try:
            client.execute_cell(check, at)
        except CellExecutionError as error:
            if error.ename != "AssertionError":  # the reader must be told what is wrong, and a slip here is no refusal
                raise
            return False
        return True

    def answer(source: str) -> None:
        client.nb.cells[at] = nbformat.v4.new_code_cell(source)
        client.execute_cell(client.nb.cells[at], at)

    if accepted():
        raise AssertionError(f"this check passes although nothing is solved:\n{check.source}")
    solutions, ids = read_solutions(path), [exercise.id for exercise in exercises]
    for other in (other for other in read_answers(path) if other.exercise in ids):
        for exercise in ids:  # also the others that this check needs
            answer(solutions[exercise])
        answer(other.source)
        if accepted() != other.right:
            raise AssertionError(
                f"{other.exercise}: this answer is {'refused' if other.right else 'accepted'}:\n{other}"
            )
    for exercise in ids:
        answer(solutions[exercise])
    if not accepted():
        raise AssertionError(f"the solution is refused:\n{check.source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of file names; all notebooks if none is given")
    parser.add_argument(
        "--keep-timings",
        action="store_true",
        help='on a busy machine: cells tagged "timing" keep the outputs that are stored (if you did not change them)',
    )
    options = parser.parse_args()
    for path in NOTEBOOKS:
        if options.names and not any(name in path.name for name in options.names):
            continue
        start = time.perf_counter()
        notebook = run(path, smoke=False, solve=False, keep_timings=options.keep_timings)
        part = path.with_suffix(".part")
        nbformat.write(notebook, part)
        os.replace(part, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
