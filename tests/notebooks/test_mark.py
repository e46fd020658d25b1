"""Marking: what is right gets its points, and what hangs, floods, cheats or peeks gets none and is told."""

import csv
import re
import shutil

import nbformat
import pytest

from notebooks import mark, run, student
from notebooks.mark import RIGHT, Limits

code, LIMITS = nbformat.v4.new_code_cell, Limits(seconds=2, gigabytes=4, characters=2000)
CHECK = """import random

def verdict(got):
    assert got is not None, "nothing yet"
    assert got == 2 * 3, f"six times one is not {got}"

verdict(twice(3))"""
MORE = "same(more(1) > 1, True)"
OPEN = "def twice(x):\n    return None"


@pytest.fixture
def original(tmp_path):
    """A notebook of two exercises, with its solutions and other answers."""
    lesson = [
        code("import math\nfrom helper import same", id="imports"),
        code(OPEN, id="twice", metadata={"tags": ["exercise"]}),
        code(CHECK, id="check-twice", metadata={"tags": ["check"], "points": 3}),
        code("def more(x):\n    return x", id="more", metadata={"tags": ["exercise"]}),
        code(MORE, id="check-more", metadata={"tags": ["check"]}),
    ]
    solved = [code("def twice(x):\n    return 2 * x", id="twice"), code("def more(x):\n    return x + 1", id="more")]
    folder = tmp_path / "teacher"
    (folder / "solutions").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=lesson), folder / "1_lesson.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=solved), folder / "solutions" / "1_lesson.ipynb")
    answers = "# %% twice, wrong: thrice\ndef twice(x):\n    return 3 * x\n# %% more, wrong: less\n"
    answers += "def more(x):\n    return 0\n"
    (folder / "solutions" / "1_lesson.py").write_text(answers, encoding="utf-8")
    (tmp_path / "copy" / "notebooks").mkdir(parents=True)
    (tmp_path / "copy" / "notebooks" / "helper.py").write_text("def same(a, b):\n    assert a == b\n", encoding="utf-8")
    return folder / "1_lesson.ipynb"


def hand_in(original, twice, more="def more(x):\n    return x + 2", extra=(), **changed):
    """A submission: the cells as handed out with two of them filled in; changed: sources by id, None deletes."""
    notebook = student.graded(nbformat.read(original, 4))
    sources = {"twice": twice, "more": more, **{name.replace("_", "-"): source for name, source in changed.items()}}
    cells = [cell for cell in notebook.cells if sources.get(cell.id, "") is not None]
    for cell in cells:
        cell.source = sources.get(cell.id, cell.source)
    notebook.cells = [*map(code, extra), *cells]
    path = original.parent.parent / "in" / "ann" / original.name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def marks(original, *arguments, **options):
    path = hand_in(original, *arguments, **options)
    return mark.mark("ann", path, original, original.parent.parent / "copy", LIMITS)


def test_what_is_right_gets_its_points(original):
    first, second = marks(original, "def twice(x):\n    return x + x")
    assert (first.points, first.of, first.what, first.note) == (3, 3, RIGHT, "")
    assert (second.points, second.of, second.exercise, second.what) == (2, 2, "more", RIGHT)


def test_one_right_and_one_wrong_answer_are_told_apart(original):
    first, second = marks(original, "def twice(x):\n    return 5", "def more(x):\n    return x + 1")
    assert first.points == 0 and first.what == "AssertionError: six times one is not 5"
    assert second.points == 2 and second.note == "word for word the solution"


def test_cells_of_ones_own_come_along(original):
    """Before the exercise and behind it; what they spoil is theirs alone."""
    path = hand_in(original, "def twice(x):\n    return own(x) + also(x)", extra=["def own(x):\n    return x"])
    notebook = nbformat.read(path, 4)
    places = [cell.id for cell in notebook.cells]
    notebook.cells.insert(places.index("twice") + 1, code("# two solutions.\ndef also(x):\n    return x"))
    notebook.cells.insert(0, code("while True:\n    pass"))
    notebook.cells.insert(0, code("an error"))
    nbformat.write(notebook, path)
    first, second = mark.mark("ann", path, original, original.parent.parent / "copy", LIMITS)
    assert first.what == second.what == RIGHT


def test_what_is_in_the_way_of_the_lesson_is_left_behind(original):
    """An answer that spoils a cell of the teacher's costs no more than itself."""
    notebook = nbformat.read(original, 4)
    notebook.cells.insert(3, code("assert math.pi > 3", id="between"))
    nbformat.write(notebook, original)
    first, second = marks(original, "def twice(x):\n    return 2 * x\nmath.pi = 0")
    assert first.what == second.what == RIGHT
    notebook.cells[3].source = "assert math.pi > 4"
    nbformat.write(notebook, original)
    first, second = marks(original, "def twice(x):\n    return 2 * x")
    assert first.what == RIGHT and second.what == "it could not be marked" and "AssertionError" in second.note


@pytest.mark.parametrize(
    "answer, what",
    [
        ("while True:\n    pass", "it ran for more than 2 s"),
        ("def twice(x):\n    while True:\n        print(x)", "it printed more than 2,000 characters"),
        ("import os\nos._exit(1)", "its kernel ended"),
        ("x = bytearray(6 * 2**30)", "MemoryError"),
        ("def twice(x):\n    return x +", "SyntaxError"),
        ("def twice(x):\n    raise ValueError('no')", "ValueError: no"),
        ("open('solutions/1_lesson.ipynb')", "it names the solutions"),
        (
            "class AssertionError(Exception): pass\nimport builtins\nbuiltins.AssertionError = AssertionError",
            "NameError",
        ),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_exercise_is_marked(original, answer, what):
    first, second = marks(original, answer)
    assert first.points == 0 and first.what.startswith(what), first
    assert second.points == 2, second


@pytest.mark.parametrize(
    "answers",
    [
        # No cell runs any more; and a function of the teacher's means something else.
        {"twice": "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass'])\ndef twice(x): pass"},
        {"twice": "def twice(x):\n    return 2 * x", "more": "def more(x):\n    return x\ndef same(*_):\n    pass"},
    ],
    ids=lambda answers: [*answers][-1],
)
def test_an_answer_that_turns_the_check_off_is_worth_nothing(original, answers):
    results = marks(original, **answers)
    for m in results:
        cheats = m.exercise == [*answers][-1]
        assert (m.points, m.note.partition(";")[0]) == ((0, "turned the check off") if cheats else (m.of, m.note))


def test_a_check_that_is_deleted_or_changed_is_the_teachers_all_the_same(original):
    first, second = marks(original, "def twice(x):\n    return 1", check_twice=None, check_more="pass")
    assert first.points == 0 and first.what.startswith("AssertionError") and "gone or changed" in first.note
    assert second.points == 2 and "gone or changed" in second.note


def test_an_exercise_that_is_gone_and_a_file_that_is_none(original):
    first, second = marks(original, None)
    assert first.what == "there is no cell for this exercise" and second.what == RIGHT
    path = hand_in(original, "")
    path.write_text("{", encoding="utf-8")
    both = mark.mark("ann", path, original, original.parent.parent / "copy", LIMITS)
    assert [m.points for m in both] == [0, 0] and both[0].what.startswith("the file cannot be read")


def test_all_students_are_marked_and_told(original, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mark, "NOTEBOOKS", [original])
    monkeypatch.setattr(mark, "hand_out", lambda folder, seed: shutil.copytree(tmp_path / "copy", folder))
    right = hand_in(original, "def twice(x):\n    return 2 * x")
    (tmp_path / "in" / "<bob>").mkdir()
    shutil.copy(right, tmp_path / "in" / "<bob>" / "1_lesson.ipynb")
    shutil.copy(right, tmp_path / "in" / "ann" / "another.ipynb")
    mark.mark_all(tmp_path / "in", tmp_path / "out", LIMITS)
    with open(tmp_path / "out" / "marks.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [(row["student"], row["exercise"], row["points"]) for row in rows] == [
        (name, exercise, points) for name in ("<bob>", "ann") for exercise, points in (("twice", "3"), ("more", "2"))
    ]
    page = (tmp_path / "out" / "<bob>.html").read_text(encoding="utf-8")
    assert "&lt;bob&gt;: 5 of 5 points" in page and "word for word" not in page
    said = capsys.readouterr().out
    assert "ann: 5 of 5 points" in said and "1_lesson.ipynb, twice: word for word the solution" in said


def test_what_is_handed_out_has_no_solutions(tmp_path):
    student.hand_out(tmp_path / "student", seed=3)
    names = {path.relative_to(tmp_path / "student").as_posix() for path in (tmp_path / "student").rglob("*")}
    assert not [name for name in names if "solutions" in name or name.endswith(("mark.py", "student.py"))]
    text = (tmp_path / "student" / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert "01_a_memory_you_can_read.ipynb" in text and not re.search(r"[Ss]olutions|course|lecturer|make mark", text)
    for path in run.NOTEBOOKS:
        before, after = nbformat.read(path, 4), nbformat.read(tmp_path / "student" / "notebooks" / path.name, 4)
        assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
        for old, new in zip(before.cells, after.cells, strict=True):
            if run.tagged(old, "check"):
                assert new.metadata.nbgrader.points > 0 and new.metadata.nbgrader.locked and not new.outputs
                for seed in student.SEED.findall(old.source):
                    assert f"manual_seed({int(seed[1]) + 3000})" in new.source
            elif old.cell_type == "code":
                assert new.source == old.source
            else:
                assert "solutions/" not in new.source and new.source in (
                    old.source,
                    student.POINTER.sub("", old.source),
                )


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["student", "--out", str(tmp_path)])
    assert student.main() == 2 and "is there already" in capsys.readouterr().err
