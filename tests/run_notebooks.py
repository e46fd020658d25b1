"""`make notebooks`: run the notebooks at full size and store what they print and draw.

Tags of cells: "exercise" is for the reader to fill in, the "check" after it raises until that is done. A notebook's
solutions lie under the same name in notebooks/solutions/, in cells that have the ids of the exercises they solve.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def run(path: Path, *, smoke: bool, solve: bool) -> NotebookNode:
    """The notebook with its outputs, from a clean kernel.

    solve: every check must raise before its exercises are solved and pass after; else checks are left out.
    """
    notebook = nbformat.read(path, 4)
    solutions = {c.id: c.source for c in nbformat.read(path.parent / "solutions" / path.name, 4).cells} if solve else {}
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    environment = {**os.environ, "NOTEBOOK_SMOKE": "1" if smoke else "0"}
    open_exercises = []
    with client.setup_kernel(env=environment, cwd=str(FOLDER)):
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            cell.outputs, cell.execution_count = [], None
            if not tagged(cell, "check"):
                client.execute_cell(cell, i)
                open_exercises += [cell] if tagged(cell, "exercise") else []
            elif solve:
                _check(client, cell, i, open_exercises, solutions)
                open_exercises = []
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _check(client: NotebookClient, check: NotebookNode, at: int, exercises: list, solutions: dict[str, str]) -> None:
    try:
        client.execute_cell(check, at)
    except CellExecutionError:
        pass
    else:
        raise AssertionError(f"this check passes although nothing is solved:\n{check.source}")
    for exercise in exercises:
        solved = nbformat.v4.new_code_cell(solutions[exercise.id])
        client.nb.cells[at] = solved
        client.execute_cell(solved, at)
    client.nb.cells[at] = check
    client.execute_cell(check, at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of file names; all notebooks if none is given")
    options = parser.parse_args()
    for path in NOTEBOOKS:
        if options.names and not any(name in path.name for name in options.names):
            continue
        start = time.perf_counter()
        notebook = run(path, smoke=False, solve=False)
        part = path.with_suffix(".part")
        nbformat.write(notebook, part)
        os.replace(part, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
