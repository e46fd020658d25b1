"""The command line, files and what is shown."""

import json
import subprocess
import sys

import numpy as np
import pytest

import reference
import verify
from verify import right
from verify.__main__ import main
from verify.adapters import CannotRun, Kernel
from verify.faults import FAULTS, caught
from verify.files import compare_files
from verify.judge import far

SMALL = ["--dtypes", "float32", "--lengths", "17", "--widths", "8", "--slots", "3"]


def test_exit_code_0_and_a_line_a_case(capsys):
    assert main(["verify.right:chunk", *SMALL]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:3] == ["ok", "length", "17"] and out[-1].startswith("all ")


def test_exit_code_1_and_one_guess(capsys, tmp_path, monkeypatch):
    (tmp_path / "bad_kernel.py").write_text(
        "from verify import right\n\n\n"
        "def fm(theta, phi, value, initial_state, eps):\n"
        "    return right.loop(phi, theta, value, initial_state, eps)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["bad_kernel:fm", *SMALL]) == 1
    out = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("WRONG  length 17") and "bounds off" in line and "first at token 0" in line for line in out
    )
    assert out[-1] == "guess: the numbers are those of another formula: theta and phi are swapped"
    assert main(["bad_kernel:fm", "--json", *SMALL]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and told["guess"].endswith("swapped") and told["cases"][0]["wrong"][0]["first_token"] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere:fm"], "nowhere cannot be imported"),
        ([], "one of MODULE:FUNCTION, export FILE, compare FILE FILE or --prove is needed"),
        (["compare", "absent.npz", "absent.npz"], "absent.npz cannot be read"),
        (["verify.right:gather", "--form", "step"], "value is not where"),
        (["verify.right:chunk", "--dtypes", "int8"], "dtypes must be of"),
        (["verify.right:gather", "--form", "sparse", "--large"], "--large is for the dense form"),
        (["verify.right:in_numpy", "--dtypes", "bfloat16"], "no dtype is left: NumPy has no bfloat16"),
    ],
)
def test_exit_code_2_and_one_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"could not run: {message}") and err.count("\n") == 1


def test_a_bad_option_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--form", "thick"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_function_that_always_raises_could_not_run():
    def broken(theta, phi, value, initial_state, eps):
        raise RuntimeError("no such device")

    with pytest.raises(CannotRun, match="every case raises; the first RuntimeError: no such device"):
        verify.check(broken)


def test_it_runs_as_a_module(tmp_path):
    (tmp_path / "mine.py").write_text("from verify.right import chunk as fm\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "verify", "mine:fm", *SMALL], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0 and "ok" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["cases.npz", "cases"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_cases_as_files(name, form, tmp_path, capsys):
    path = str(tmp_path / name)
    assert main(["export", path, "--form", form, "--packed"]) == 0
    assert main(["compare", path, path]) == 0  # what is right passes
    arrays = {f.stem: np.load(f) for f in tmp_path.glob("cases/*.npy")} or dict(np.load(path))
    arrays["03_y"] = arrays["03_y"] + 3 * arrays["03_y_bound"]
    del arrays["05_dtheta"]
    np.savez(tmp_path / "mine.npz", **arrays)
    results = compare_files(path, str(tmp_path / "mine.npz"))
    assert [i for i, result in enumerate(results) if not result.ok] == [3, 5]
    assert results[3].wrong[0].name == "y" and results[5].wrong[0].text == "05_dtheta is absent"
    np.savez(tmp_path / "empty.npz", nothing=np.zeros(1))
    assert main(["compare", path, str(tmp_path / "empty.npz")]) == 2
    assert main(["compare", str(tmp_path / "empty.npz"), path]) == 2


def test_without_gradients_or_state_files_have_none(tmp_path):
    path = str(tmp_path / "cases.npz")
    assert main(["export", path, "--no-grad", "--no-state", *SMALL]) == 0
    assert not [name for name in np.load(path).files if name.endswith(("dtheta", "_final_state"))] or all(
        name.endswith("dfinal_state") for name in np.load(path).files if "final_state" in name
    )


def test_jupyter_shows_a_table():
    report = verify.check(right.chunk, dtypes="float32", lengths="17", widths="8", slots="3")
    assert report._repr_html_().count("<tr>") == len(report.results) + 1
    wrong = caught(FAULTS[9])
    assert "<b>WRONG</b>" in wrong._repr_html_() and "guess: only when no state is given" in wrong._repr_html_()
    with pytest.raises(AssertionError, match="WRONG  no state given"):
        wrong.raise_if_wrong()


def test_laws_on_request(capsys):
    assert main(["verify.right:chunk", "--laws", "5", *SMALL]) == 0
    assert "ok     the future leaves the past as it is" in capsys.readouterr().out
    assert main(["verify.right:gather", "--form", "sparse", "--no-grad", "--laws", "5", *SMALL]) == 0
    assert "ok     slots not named stay bit for bit" in capsys.readouterr().out


def test_a_law_finds_what_no_fixed_case_has():
    def only_here(theta, phi, value, initial_state, eps):
        y, state = reference.factorization_memory(theta, phi, value, initial_state, eps=eps)
        return (y * 1.01 if value.shape[-1] == 5 else y), state

    report = verify.check(only_here, dtypes="float64", laws=30)
    assert {result.kind for result in report.wrong} == {"law"}
    assert report.guess.cause == "law" and "D=5" in report.guess.text


def test_laws_stay_within_the_limits():
    seen = set()

    def watched(theta, phi, value, initial_state, eps):
        seen.add((value.shape[1], theta.shape[2], value.shape[2]))
        return reference.factorization_memory(theta, phi, value, initial_state, eps=eps)

    verify.check(watched, dtypes="float64", lengths="8*n", widths="4", slots="2,3", laws=10)
    assert all(T % 8 == 0 and M in (2, 3) and D == 4 for T, M, D in seen)


def test_far_offsets():
    """At a size that fits here: as if an int32 counted to 2^20."""
    assert far(Kernel(right.chunk), numbers=2**17).ok

    def wraps(theta, phi, value, initial_state, eps):
        y, state = right.chunk(theta, phi, value, initial_state, eps)
        y.view(-1)[2**17 :] = y.view(-1)[: y.numel() - 2**17].clone()
        return y, state

    assert "of sequence 17 of 18 is not what it is alone" in far(Kernel(wraps), numbers=2**17).wrong[0].text
