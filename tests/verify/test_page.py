"""The examples of docs/verify.md run as they stand there."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from verify.__main__ import main
from verify.faults import FAULTS, caught
from verify.report import line

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")


def example(number: int) -> str:
    """The code of one example."""
    section = re.search(rf"^## Example {number}: .*?(?=^## )", PAGE, re.DOTALL | re.MULTILINE)[0]
    return re.search(r"^```\w+\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("my_torch", "my_jax"):
        sys.modules.pop(name, None)


def test_example_1_torch(here, capsys):
    (here / "my_torch.py").write_text(example(1), encoding="utf-8")
    assert main(["my_torch:fm"]) == 0
    assert "all 55 ok" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_example_2_jax(here, capsys):
    (here / "my_jax.py").write_text(example(2), encoding="utf-8")
    assert main(["my_jax:fm"]) == 0
    assert "left out: float64 (jax_enable_x64 is off)" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_example_3_another_language(here, capsys):
    (here / "my_kernel.c").write_text(example(3), encoding="utf-8")
    for step in re.search(r"( {4}python -m verify export .*\n(?: {4}.*\n)+)", PAGE)[1].split("\n"):
        command = step.split()
        if command[:3] == ["python", "-m", "verify"]:
            assert main(command[3:]) == 0, capsys.readouterr()
        elif command:
            subprocess.run(command, check=True)
    wrong = (here / "my_kernel.c").read_text(encoding="utf-8").replace("(1 - write) * slot[d]", "slot[d]")
    (here / "my_kernel.c").write_text(wrong, encoding="utf-8")
    subprocess.run("cc -O2 my_kernel.c -lm -o my_kernel && ./my_kernel cases mine", shell=True, check=True)
    assert main(["compare", "cases", "mine"]) == 1
    assert "the state does not decay" in capsys.readouterr().out


def test_the_lines_shown_are_those_of_the_fault():
    fault = next(fault for fault in FAULTS if fault.name == "the norm of the first tile alone")
    report = caught(fault)
    lines = PAGE.partition("## What you see")[2].partition("One line a case")[0].splitlines()
    shown = [text[4:] for text in lines if text.startswith("    ") and not re.search("…|, [0-9.]+ s$", text)]
    printed = [*map(line, report.results), *report.tail()]
    assert len(shown) == 6 and all(any(alike(one, other) for other in printed) for one in shown)


def alike(one: str, other: str) -> bool:
    """The same text, with the same numbers but for the last digit: a CPU may round the arithmetic in another order."""
    number = r"-?\d+\.\d+"
    values = [[*map(float, re.findall(number, text))] for text in (one, other)]
    return re.sub(number, "", one) == re.sub(number, "", other) and values[0] == pytest.approx(values[1], rel=1e-5)


def test_lines_are_alike_to_the_last_digit():
    one = "WRONG  y[1] is -4.64704, not 2.5: 3 of 4 wrong"
    assert alike(one, one.replace("-4.64704", "-4.64705"))
    for wrong in (one.replace("704", "714"), one.replace("3 of", "4 of"), one.replace("y[1]", "y[2]")):
        assert not alike(one, wrong)


def test_every_option_is_on_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
        assert option == "--help" or f"{option}" in PAGE, option
