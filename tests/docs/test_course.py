"""docs/course.md: its counts are those of the notebooks, it knows every exercise, and its setup cell runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from notebooks import slides, student
from notebooks.run import NOTEBOOKS, tagged

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
COUNTS = PAGE.partition("<!-- counts -->")[2].partition("<!-- counts end -->")[0]
ROW = re.compile(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \| (.+) \|$", re.MULTILINE)
ROWS = {
    int(m[1]): (int(m[2].replace(",", "")), int(m[3].replace(",", "")), int(m[4]), m[5]) for m in ROW.finditer(COUNTS)
}
WORDS_A_MINUTE, LINES_A_MINUTE = 100, 10


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def words(path: Path) -> int:
    text = re.sub(r"<details>.*?</details>", "", "\n".join(cells(path, "markdown")), flags=re.DOTALL)  # hints
    return len(re.sub(r"[|#*`$\[\]()]", " ", text).split())


def lines(path: Path) -> int:
    return sum(bool(line.strip()) for source in cells(path, "code") for line in source.splitlines())


def exercises(path: Path) -> int:
    return sum(tagged(cell, "exercise") for cell in nbformat.read(path, 4).cells)


def covered() -> list[tuple[Path, int]]:
    """The notebooks that the page counts; those that it calls planned may come later."""
    return [(path, int(path.name.split("_")[0])) for path in NOTEBOOKS if int(path.name.split("_")[0]) in ROWS]


def test_the_page_counts_the_notebooks():
    assert [number for _, number in covered()] == list(ROWS) and len(ROWS) >= 6


@pytest.mark.parametrize("path, number", covered(), ids=lambda value: getattr(value, "name", value))
def test_counts_are_those_of_the_notebook(path, number):
    """To a tenth: a sentence more is no reason to change the page."""
    of_words, of_lines, minutes, of_exercises = ROWS[number]
    assert abs(words(path) - of_words) <= 0.1 * of_words, f"{path.name} has {words(path)} words"
    assert abs(lines(path) - of_lines) <= 0.1 * of_lines, f"{path.name} has {lines(path)} lines of code"
    exact = of_words / WORDS_A_MINUTE + of_lines / LINES_A_MINUTE
    assert minutes == 5 * -(-exact // 5)
    assert len(of_exercises.split(",")) == exercises(path)


@pytest.mark.parametrize("path, number", covered(), ids=lambda value: getattr(value, "name", value))
def test_every_exercise_has_its_mistakes(path, number):
    section = PAGE.partition(f"\n### Notebook {number}\n")[2].partition("\n#")[0]
    names = [row.split("|")[1].strip() for row in section.splitlines() if row.startswith("| ")][2:]
    in_counts = [re.sub(r" \d+$", "", part.strip()) for part in ROWS[number][3].split(",")]
    assert [name for name in names if name] == in_counts


def test_the_minutes_of_a_lecture_are_those_of_its_notes_and_questions():
    lines = PAGE.partition("| lecture 1: A memory you can read |")[2].partition("\n\n")[0].splitlines()[2:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for number, column in ((1, 0), (2, 2)):
        minutes = {row[column]: int(row[column + 1]) for row in table}
        notes = (ROOT / "docs" / "slides" / f"lecture_{number}.md").read_text(encoding="utf-8")
        assert sum(minutes.values()) == 90
        assert 90 - minutes["questions"] == sum(map(int, re.findall(r"^Note: (\d+) min", notes, re.MULTILINE)))


def minutes_of_slides(number: int) -> dict[str, int]:
    """By the heading of a slide, in order."""
    parts = slides.slides((ROOT / "docs" / "slides" / f"lecture_{number}.md").read_text(encoding="utf-8"))
    heads = [part.partition("\n")[0].lstrip("# ").replace("$", "") for part in parts]
    return dict(zip(heads, (int(re.search(r"^Note: (\d+) min", part, re.MULTILINE)[1]) for part in parts), strict=True))


def test_the_minutes_of_a_unit_are_those_of_its_slides_and_35_in_all():
    section = PAGE.partition("### Four units of 90 minutes")[2].partition("\n### ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == ["1", "2", "3", "4"]
    for _, _, lecture, *_ in rows[2:]:
        assert sum(map(int, re.findall(r"\((\d+)\)", lecture))) == 35
        known = minutes_of_slides(int(re.match(r"lecture (\d)", lecture)[1]))
        heads, named = [*known], re.findall(r'"([^"]+)"(?: to "([^"]+)")? \((\d+)\)', lecture)
        assert named
        for first, last, minutes in named:
            shown = heads[heads.index(first) : heads.index(last or first) + 1]
            assert sum(known[head] for head in shown) == int(minutes), (first, last)


def test_what_it_says_of_points_and_seeds():
    checks, changed = 0, 0
    for path, _ in covered():
        plain, other = (student.graded(nbformat.read(path, 4), seed) for seed in (0, 1))
        pairs = [(a, b) for a, b in zip(plain.cells, other.cells, strict=True) if tagged(a, "check")]
        checks += len(pairs)
        changed += sum(a.source != b.source for a, b in pairs)
    points = sum(student.points(c) for p, _ in covered() for c in nbformat.read(p, 4).cells if tagged(c, "check"))
    assert f"numbers that {changed} of the {checks} checks draw" in PAGE
    assert f"A check is worth {student.POINTS} points: {points} in all" in PAGE


def test_students_do_not_get_it(tmp_path):
    student.hand_out(tmp_path / "student")
    assert (tmp_path / "student" / "docs" / "README.md").exists()
    assert not (tmp_path / "student" / "docs" / "course.md").exists()
    start = (tmp_path / "student" / "START.md").read_text(encoding="utf-8")
    assert f"torch=={version('torch').partition('+')[0]}" in start and "{" not in start


@pytest.mark.parametrize("source", ["student.zip", "https://example.org/clone.git"])
def test_the_setup_cell_finds_the_folder(tmp_path, monkeypatch, source):
    """pip, git and the check are only called by name here; what they would do is done by hand."""
    (cell,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    packed = tmp_path / "to pack" / "student"
    (packed / "notebooks").mkdir(parents=True)
    (packed / "pyproject.toml").touch()
    (packed / "docs").mkdir()
    calls = []

    def call(command, **_):
        calls.append(command)
        if command[0] == "git":
            shutil.copytree(packed, command[-1])
        return subprocess.CompletedProcess(command, 0, stdout="all parts work")

    shutil.make_archive(str(tmp_path / "student"), "zip", packed.parent)
    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    for _ in range(2):  # twice in one kernel: the second time it stands in another folder
        exec(compile(cell.replace('"student.zip"', repr(source)), "cell", "exec"), {})
        root = Path(sys.path[0])
        assert (root / "pyproject.toml").exists() and Path(os.getcwd()) == root / "notebooks"
    assert sum(command[0] == "git" for command in calls) == (not source.endswith(".zip"))
    assert [sys.executable, "-m", "pip", "install", "--quiet", f"{root}[walk,verify]"] in calls
