"""`make student`: a folder to hand out, without solutions and without the lists of answers.

It holds what the notebooks need, so that it runs by itself. Exercises and their checks bear nbgrader's metadata, with
the points that a check is worth (its own metadata "points", else POINTS). With a seed, the checks draw other numbers:
for another year. `python -m notebooks.mark` marks what comes back, with the same seed.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from notebooks.run import FOLDER, NOTEBOOKS, tagged

ROOT = FOLDER.parent
# What a reader of the notebooks needs; solutions and the tools of a teacher are not among it.
HANDED_OUT = ("reference", "fast", "layers", "lm", "verify", "experiments", "notebooks", "docs", "README.md", "LICENSE",
              "pyproject.toml", "requirements.txt")  # fmt: skip
KEPT_BACK = (
    "solutions", "student.py", "mark.py", "slides*", "site", "course.md", "__pycache__", ".ipynb_checkpoints", "*.part",
)  # fmt: skip
POINTS = 2
SEED = re.compile(r"(manual_seed\()(\d+)(\))")
POINTER = re.compile(r"\s*Solutions:\s*\[solutions/[^\]]*\]\([^)]*\)\.")


def graded(notebook: NotebookNode, seed: int = 0) -> NotebookNode:
    """The notebook as it is handed out: exercises open, checks locked and worth points, no output of either."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = POINTER.sub("", cell.source)
        if tagged(cell, "exercise"):
            cell.metadata["nbgrader"] = _cell(cell, solution=True)
        elif tagged(cell, "check"):
            cell.metadata["nbgrader"] = _cell(cell, grade=True, locked=True) | {"points": points(cell)}
            cell.source = SEED.sub(lambda found: f"{found[1]}{int(found[2]) + 1000 * seed}{found[3]}", cell.source)
        else:
            continue
        cell.outputs, cell.execution_count = [], None
    return notebook


def points(check: NotebookNode) -> int:
    return check.metadata.get("points", POINTS)


def _cell(cell: NotebookNode, *, grade: bool = False, solution: bool = False, locked: bool = False) -> dict:
    return {"schema_version": 3, "grade_id": cell.id, "grade": grade, "solution": solution, "locked": locked,
            "task": False}  # fmt: skip


def start() -> str:
    """How a student begins, with the version of torch that the requirements name."""
    (torch,) = re.findall(r"^torch==(.+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return (ROOT / "docs/site/student.md").read_text(encoding="utf-8").replace("{torch}", torch)


def hand_out(folder: Path, seed: int = 0) -> None:
    """Fill a folder that is not there yet."""
    folder.mkdir(parents=True)
    for name in HANDED_OUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(*KEPT_BACK))
        else:
            shutil.copy(source, folder / name)
    (folder / "START.md").write_text(f"# Start\n\n{start()}", encoding="utf-8")
    readme = folder / "notebooks" / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").partition("\n## For lecturers")[0], encoding="utf-8")
    for path in NOTEBOOKS:
        nbformat.write(graded(nbformat.read(path, 4), seed), folder / "notebooks" / path.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/student"), help="a new folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other numbers in the checks, such as a year")
    options = parser.parse_args()
    if options.out.exists():
        print(f"{options.out} is there already: name another folder with --out", file=sys.stderr)
        return 2
    hand_out(options.out, options.seed)
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
