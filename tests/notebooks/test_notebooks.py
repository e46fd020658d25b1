"""Every notebook runs from a clean kernel, its exercises can be solved, and what is stored is whole and in order."""

import ast
import re

import nbformat
import pytest
import torch

from notebooks import run, student
from notebooks.support import check_no_loop, only_within

every_notebook = pytest.mark.parametrize("path", run.NOTEBOOKS, ids=lambda path: path.stem)
every_stored = pytest.mark.parametrize(
    "path", sorted(run.FOLDER.rglob("[0-9]*.ipynb")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


@every_notebook
def test_it_runs_and_its_exercises_can_be_solved(path):
    if "kernel" in path.name:
        pytest.importorskip("triton", reason="triton is not installed")
    run.run(path, smoke=True, solve=True)


@every_notebook
def test_what_is_stored_was_run_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in cells(path) if not run.tagged(cell, "check")]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"
    errors = [cell.source for cell in cells(path) for out in cell.outputs if out.output_type == "error"]
    warnings = [out.text for cell in cells(path) for out in cell.outputs if out.get("name") == "stderr"]
    assert not errors and not warnings
    assert not any(cell.outputs for cell in cells(path) if run.tagged(cell, "check"))


@every_notebook
def test_each_exercise_has_right_answers_and_wrong_ones(path):
    exercises = {cell.id: cell.source for cell in cells(path) if run.tagged(cell, "exercise")}
    answers = run.read_answers(path)
    assert {answer.exercise for answer in answers} == exercises.keys() <= run.read_solutions(path).keys()
    for exercise, source in exercises.items():
        of_it = [answer for answer in answers if answer.exercise == exercise]
        assert 3 <= sum(answer.right for answer in of_it) <= 6 and 3 <= sum(not answer.right for answer in of_it) <= 6
        assert len({answer.what for answer in of_it}) == len(of_it)
        (name,) = (node.name for node in ast.parse(source).body)
        for answer in of_it:  # under another name the answer before would be tried again
            assert name in (getattr(node, "name", None) for node in ast.parse(answer.source).body), answer.what


CODE = {
    "exercise": "def answer():\n    return None",
    "check": "got = answer()\nassert got, 'nothing yet'\nassert got > 1",
}


@pytest.fixture
def lesson(tmp_path):
    """A notebook of one exercise, to be solved by a number above 1; `answers` is its list of other answers."""

    def make(answers, solution="2", check=CODE["check"]):
        cell, write = nbformat.v4.new_code_cell, lambda part: f"def answer():\n    return {part}"
        exercise = cell(CODE["exercise"], id="more", metadata={"tags": ["exercise"]})
        notebook = nbformat.v4.new_notebook(cells=[exercise, cell(check, metadata={"tags": ["check"]})])
        (tmp_path / "solutions").mkdir()
        nbformat.write(notebook, tmp_path / "1.ipynb")
        solved = nbformat.v4.new_notebook(cells=[cell(write(solution), id="more")])
        nbformat.write(solved, tmp_path / "solutions" / "1.ipynb")
        text = "".join(f"# %% more, {verdict}: {part}\n{write(part)}\n" for verdict, part in answers)
        (tmp_path / "solutions" / "1.py").write_text(f'"""Answers."""\n\n{text}', encoding="utf-8")
        return tmp_path / "1.ipynb"

    return make


def test_answers_are_read_up_to_the_next(lesson):
    path = lesson([("right", "5"), ("wrong", "1")])
    assert run.read_answers(path) == [
        ("more", True, "5", "def answer():\n    return 5\n"),
        ("more", False, "1", "def answer():\n    return 1\n"),
    ]


@pytest.mark.parametrize(
    "message, lesson_of",
    [
        (None, {"answers": [("right", "3"), ("wrong", "1")]}),
        ("this answer is accepted", {"answers": [("right", "3"), ("wrong", "4")]}),
        ("this answer is refused", {"answers": [("right", "1"), ("wrong", "0")]}),
        ("the solution is refused", {"answers": [("right", "3")], "solution": "1"}),
        ("although nothing is solved", {"answers": [], "check": "answer()"}),
        ("TypeError", {"answers": [("wrong", "'text'")]}),  # a slip in the answer or the check, and no refusal
        ("NameError", {"answers": [("wrong", "unknown")]}),
    ],
)
def test_a_check_must_tell_right_from_wrong(lesson, message, lesson_of):
    path = lesson(**lesson_of)
    if message is None:
        run.run(path, smoke=True, solve=True)
    else:
        with pytest.raises((AssertionError, run.CellExecutionError), match=message):
            run.run(path, smoke=True, solve=True)


@pytest.mark.parametrize("keep_timings", [True, False])
def test_only_timings_are_kept(tmp_path, keep_timings):
    def cell(code, *tags):
        stored = [nbformat.v4.new_output("stream", text="stored\n")]
        return nbformat.v4.new_code_cell(code, metadata={"tags": [*tags]}, outputs=stored, execution_count=7)

    notebook = nbformat.v4.new_notebook(cells=[cell("print(x := 1)", "timing"), cell("print(x + 1)")])
    nbformat.write(notebook, tmp_path / "1.ipynb")
    ran = run.run(tmp_path / "1.ipynb", smoke=True, solve=False, keep_timings=keep_timings)
    assert [c.outputs[0].text for c in ran.cells] == ["stored\n" if keep_timings else "1\n", "2\n"]
    assert [c.execution_count for c in ran.cells] == [1, 2] and ran.metadata == run.METADATA


@every_stored
def test_it_can_be_turned_into_a_python_file(path):
    metadata = nbformat.read(path, 4).metadata
    assert metadata == run.METADATA
    exporters = pytest.importorskip("nbconvert.exporters")
    assert exporters.ScriptExporter().from_filename(str(path))[1]["output_extension"] == ".py"


@pytest.mark.parametrize(
    "function",
    [
        lambda v: [x for x in v],
        lambda v: list(map(lambda x: x + 1, v)),
        lambda v: torch.stack([v[i] for i in range(len(v))]),
        lambda v: _down(v, len(v) - 1),
    ],
)
def test_loops_are_found(function, capsys):
    few, many = torch.ones(8), torch.ones(400)
    with pytest.raises(AssertionError, match=r"counting: there is a loop: Python takes \d+ steps for 8 numbers"):
        check_no_loop("counting", function, few, many)
    check_no_loop("counting", lambda v: v.cumsum(0).diff(prepend=v[:1]).clamp(min=0), few, many)
    assert capsys.readouterr().out == "ok: counting, without a loop\n"


def _down(v, i):
    return v[i] + (_down(v, i - 1) if i else 0)


@every_notebook
def test_it_is_small_and_needs_no_network(path):
    assert path.stat().st_size <= 500_000
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    assert not re.search(r"!\[[^\]]*\]\(https?:|<img[^>]*https?:|pip install|^[!%]", text, re.MULTILINE)


@every_stored
def test_its_links_lead_somewhere(path):
    targets = [m["target"] for cell in cells(path, "markdown") for m in LINK.finditer(cell.source)]
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing, missing


@every_notebook
def test_its_cells_are_short_and_it_ends_in_exercises(path):
    lines = [cell.source.count("\n") + 1 for cell in cells(path)]
    assert max(lines) <= 30 and sorted(lines)[len(lines) // 2] <= 8
    assert sum(run.tagged(cell, "exercise") for cell in cells(path)) >= 3
    assert sum(run.tagged(cell, "check") for cell in cells(path)) >= 3


# One hint, with blank lines around its text: else Markdown would leave formulas and code in it as they are.
HINT = re.compile(r"<details><summary>Hint (\d)</summary>\n\n((?:(?!</?details>).)+?)\n\n</details>", re.DOTALL)


def wrong_hints(task: str) -> str | None:
    """What is wrong with the hints of a task."""
    numbers = [int(number) for number, _ in HINT.findall(task)]
    if len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        return f"hints {numbers}, want 1, 2 and so on"
    rest = HINT.sub("", task)
    return "a hint that is open or has other markup" if re.search(r"\b[Hh]ints?\b|details|summary>", rest) else None


@every_notebook
def test_hints_are_closed_and_in_steps(path):
    """Of every exercise, in the cell of text before it, and in no other cell. A student's copy has the same."""
    task, tasks, others = None, {}, []
    for cell in student.graded(nbformat.read(path, 4)).cells:
        if cell.cell_type == "markdown":
            others, task = [*others, task], cell.source
        elif run.tagged(cell, "exercise"):
            tasks[cell.id], task = task, None
    assert not {name: wrong for name, text in tasks.items() if (wrong := wrong_hints(text))}
    assert not [text for text in others if text and re.search(r"\bHint|<details", text)]


def hint(number, text):
    return f"<details><summary>Hint {number}</summary>{text}</details>\n"


GOOD = hint(1, "\n\nOne.\n\n") + hint(2, "\n\nTwo.\n\n")


@pytest.mark.parametrize(
    "task",
    [
        "A task.",
        "(Hint: try 1.)",
        hint(1, "\n\nOne.\n\n"),
        hint(1, "One.") + hint(2, "Two."),
        hint(1, "\n\nOne.\n\n") + hint(3, "\n\nThree.\n\n"),
        f"Hint 0: none.\n\n{GOOD}",
    ],
)
def test_other_hints_are_found(task):
    assert wrong_hints(task) and not wrong_hints(f"A task.\n\n{GOOD}\nGo on.")


def test_what_a_kernel_touches_beyond_its_tensors_is_found():
    triton = pytest.importorskip("triton", reason="triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("compiled kernels are not watched")
    tl = triton.language

    @triton.jit
    def copy_kernel(p_x, p_out, n, BLOCK: tl.constexpr, HOW: tl.constexpr):
        o = tl.arange(0, BLOCK)
        if HOW == 0:
            b_x = tl.load(p_x + o)
        elif HOW == 1:
            b_x = tl.load(p_x + o, mask=o < n)
        else:
            b_x = tl.load(p_x + o, mask=o < n, other=0.0)
        if HOW == 3:
            tl.store(p_out + o, b_x)
        else:
            tl.store(p_out + o, b_x + 0 * tl.sum(b_x, 0), mask=o < n)

    memory = torch.zeros(2, 8)
    x, out = memory[:, :5].unbind()
    x.fill_(1)
    for how, message in enumerate(("3 numbers were read beyond", None, None, "3 numbers were written beyond")):
        out.zero_()
        if message:
            with pytest.raises(AssertionError, match=message), only_within(x, out):
                copy_kernel[(1,)](x, out, 5, BLOCK=8, HOW=how)
        else:
            with only_within(x, out):
                copy_kernel[(1,)](x, out, 5, BLOCK=8, HOW=how)
        want = torch.ones(5) if how >= 2 else torch.full((5,), torch.nan)  # 0 or 1: what no GPU promises is NaN
        torch.testing.assert_close(out, want, equal_nan=True)
        assert not memory[:, 5:].any()  # nothing was written there
