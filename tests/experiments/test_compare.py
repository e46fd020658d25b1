"""--base: two trees, each with its own fast/, timed in turns."""

import subprocess

import pytest
import torch

from experiments import compare, frame, speed_dense, speed_sparse
from experiments.compare import Case
from experiments.frame import UsageError

OLD = """
import time
import torch

def backends():
    return {"sorted": None}

def factorization_memory(theta, phi, x, initial_state=None, *, backend="auto"):
    time.sleep(0.02)
    return theta * phi * x, x

def sparse_factorization_memory(theta, phi, slots, x, num_slots, *, backend):
    assert backend == "sorted" and num_slots == 7
    return theta * phi * x, x

def step_(theta, phi, x, state):
    return x, state
"""
NEW = """
def backends():
    return {"scan": None}

def factorization_memory(theta, phi, value, initial_state=None, *, backend="auto"):
    return theta * phi * value, value

def sparse_factorization_memory(theta, phi, slots, value, num_slots, *, backend):
    assert backend == "scan" and num_slots == 7
    return theta * phi * value, value

def step_(theta, phi, value, state):
    return 2 * value, state
"""


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path):
    """A repository whose last commit is slow and has the names of before."""
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast" / "__init__.py").write_text(OLD, encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "slow")
    (tmp_path / "fast" / "__init__.py").write_text(NEW, encoding="utf-8")
    return tmp_path


def test_each_side_runs_its_own_tree_on_the_same_inputs(tree, capsys):
    leaf, state = torch.ones(1, 3, 2, requires_grad=True), torch.zeros(1, 3, 2)
    cases = [
        Case("dense", "factorization_memory", [leaf, leaf.detach(), leaf.detach()], ("auto",)),
        Case("sparse", "sparse_factorization_memory", [leaf, leaf, leaf, leaf, 7], ("scan", "sorted")),
        Case("step", "step_", [state + 1, state + 1, state + 1, state], calls=3),
        Case("missing", "sparse_step_", [state]),
    ]
    dense, sparse, step, missing = compare.measure(cases, "HEAD", tree)
    assert len(dense.ratios) == compare.TURNS and dense.base > 0.02 > dense.here
    assert compare.verdict(dense.ratios) == "faster"
    assert sparse.problem == "" and sparse.here > 0
    assert step.problem == "the results differ"  # a speed is nothing without the result
    assert missing.problem.startswith("base: AttributeError")
    said = capsys.readouterr().out
    assert "faster" in said and "(HEAD) beside the working tree, 11 turns" in said
    assert "| missing | – | – | – | base: AttributeError" in compare.table([missing])


def test_a_revision_that_is_not_there_is_said(tree, tmp_path_factory):
    for revision in ("nowhere", "--all"):
        with pytest.raises(UsageError, match=f"--base {revision}: .* knows no such git revision"):
            compare.measure([], revision, tree)
    with pytest.raises(UsageError, match="knows no such git revision"):
        compare.measure([], "HEAD", tmp_path_factory.mktemp("no repository"))


def test_a_tree_without_fast_is_said(tree):
    git(tree, "rm", "-rqf", "fast")
    git(tree, "commit", "-qm", "nothing left")
    (tree / "fast").mkdir()
    (tree / "fast" / "__init__.py").write_text(NEW, encoding="utf-8")
    with pytest.raises(UsageError, match=r"the worker on .*base has ended"):
        compare.measure([Case("step", "step_", [torch.zeros(1)])], "HEAD", tree)


@pytest.mark.parametrize("module", [speed_dense, speed_sparse])
def test_the_cases_run_here(module, tmp_path):
    """Both sides are the working tree: no claim is looked at, only that every case can be loaded and timed."""
    with compare.Side(frame.ROOT) as here:
        for case in module.cases(True):
            row = compare.compare(case, here, here, tmp_path / "inputs.pt")
            assert not row.problem and row.here > 0, row
