"""Every notebook runs from a clean kernel, its exercises can be solved, and what is stored is whole and in order."""

import re

import nbformat
import pytest
import run_notebooks

every_notebook = pytest.mark.parametrize("path", run_notebooks.NOTEBOOKS, ids=lambda path: path.stem)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


@every_notebook
def test_it_runs_and_its_exercises_can_be_solved(path):
    if "kernel" in path.name:
        pytest.importorskip("triton", reason="triton is not installed")
    run_notebooks.run(path, smoke=True, solve=True)


@every_notebook
def test_what_is_stored_was_run_from_top_to_bottom(path):
    run = [cell for cell in cells(path) if not run_notebooks.tagged(cell, "check")]
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1)), "run `make notebooks`"
    errors = [cell.source for cell in cells(path) for out in cell.outputs if out.output_type == "error"]
    warnings = [out.text for cell in cells(path) for out in cell.outputs if out.get("name") == "stderr"]
    assert not errors and not warnings
    assert not any(cell.outputs for cell in cells(path) if run_notebooks.tagged(cell, "check"))


@every_notebook
def test_it_is_small_and_needs_no_network(path):
    assert path.stat().st_size <= 500_000
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
    assert not re.search(r"!\[[^\]]*\]\(https?:|<img[^>]*https?:|pip install|^[!%]", text, re.MULTILINE)


@every_notebook
def test_its_links_lead_somewhere(path):
    targets = [m["target"] for cell in cells(path, "markdown") for m in LINK.finditer(cell.source)]
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing, missing


@every_notebook
def test_its_cells_are_short_and_it_ends_in_exercises(path):
    lines = [cell.source.count("\n") + 1 for cell in cells(path)]
    assert max(lines) <= 30 and sorted(lines)[len(lines) // 2] <= 8
    assert 3 <= sum(run_notebooks.tagged(cell, "exercise") for cell in cells(path)) <= 5
    assert 3 <= sum(run_notebooks.tagged(cell, "check") for cell in cells(path)) <= 5
