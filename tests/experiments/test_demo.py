"""The demo: it runs twice, keeps off the reader's own runs, and says what it measured."""

import json
from pathlib import Path

import pytest

from experiments import demo, frame
from lm import cli, plots, pretrained
from lm.checkpoint import latest, read_run
from lm.run import Buckets

SMALL = ["--width", "16", "--layers", "1", "--steps", "3", "--batch", "2", "--length", "16", "--warmup", "1", "--quiet"]
SLOTS = ["--slots", "4", "--top-k", "2"]
HEADS = ["--head-width", "8"]
OPTIONS = {"fm": SLOTS[:2], "fm-sparse": SLOTS, "mamba2": HEADS, "transformer": HEADS}  # of the bundled mixers


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 180)
    return path


@pytest.fixture
def models(text, tmp_path, monkeypatch):
    """Small models in place of the bundled ones: one for each mixer, and one that was trained on longer windows."""
    folder = tmp_path / "models"
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    for name in (*OPTIONS, "fm-long"):
        mixer = name.removesuffix("-long")
        longer = ["--length", "32"] if name == "fm-long" else []
        run, where = str(tmp_path / name), ["--text", str(text), "--folder", str(folder)]
        train = ["train", "--mixer", mixer, *SMALL, *longer, *OPTIONS[mixer]]
        assert cli.main([*train, "--text", str(text), "--out", run]) == 0
        assert cli.main(["publish", run, name, "--context", "32", *where]) == 0


def test_it_runs_twice_and_says_what_it_measured(models, text, tmp_path, capsys):
    out = tmp_path / "out"
    mine = ["train", *SMALL, *SLOTS, "--text", str(text), "--out", str(out / "fm-sparse")]  # where it goes by default
    assert cli.main(mine) == 0
    before = read_run(latest(out / "fm-sparse"))
    capsys.readouterr()
    for _ in range(2):
        assert frame.main(demo.EXPERIMENT, ["--tiny", "--text", str(text), "--out", str(out)]) == 0
    said = capsys.readouterr()
    for part in (
        "Python 3.",
        "bfloat16",
        "within tolerance",
        "Bits per byte by position",
        "goes on from",
        "Recall over a gap",
        "FM, 32 slots, trained here",
        "held out",
    ):
        assert part in said.out
    assert all(f"{plots.NAMES[mixer]} by position" in said.err for mixer in OPTIONS)  # progress bars
    result = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert read_run(latest(out / "demo")).to_json()["history"] == result["history"]
    assert read_run(latest(out / "fm-sparse")) == before
    assert result["lengths"]["stateful"].keys() == OPTIONS.keys()  # the one on longer windows is no match
    assert result["about"]["corpus"]["name"] == "fox.txt"
    assert {row["form"] for row in result["rows"]} == {"dense", "sparse"}
    assert all(
        (out / name).stat().st_size > 10_000 for name in ("slots.png", "slot_use.png", "length.png", "recall.png")
    )


def test_models_that_differ_in_their_mixer_alone_are_compared(models):
    assert {*pretrained.names()} - {*pretrained.comparable()} == {"fm-long"}
    assert {run.settings.length for run in pretrained.comparable().values()} == {16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "argument --seconds: must be greater than 0, got 0"),
        (["--seconds", "nan"], "argument --seconds: must be greater than 0, got nan"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--seed", "-1"], "seed must not be negative, got -1"),
        (["--seed", str(2**63)], "seed must be below 2**63, got 9223372036854775808"),
        (["--text", "/nowhere"], "/nowhere: no such file or folder"),
    ],
)
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = frame.main(demo.EXPERIMENT, arguments)
    except SystemExit as stop:
        code = stop.code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("usage:", " "))]
    assert code == 2 and len(said) == 1 and message in said[0] and said[0].startswith("python -m experiments demo: ")
    assert not list(Path(tmp_path).iterdir())


def test_what_cannot_be_written_is_found_before_the_work(models, text, tmp_path, monkeypatch, capsys):
    def worked(*_, **__):
        raise AssertionError("work was done")

    monkeypatch.setattr(demo.agreement, "check", worked)
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert frame.main(demo.EXPERIMENT, ["--tiny", "--text", str(text), "--out", str(tmp_path / "file")]) == 2
    assert f"--out {tmp_path / 'file'}: nothing can be written there (it is a file)" in capsys.readouterr().err


def test_its_own_run_is_no_text(models, tmp_path, capsys):
    assert frame.main(demo.EXPERIMENT, ["--tiny", "--text", str(tmp_path / "demo"), "--out", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "demo").mkdir()
    assert frame.main(demo.EXPERIMENT, ["--tiny", "--text", str(tmp_path / "demo"), "--out", str(tmp_path)]) == 2
    assert "a run is written there, which is never text" in capsys.readouterr().err


def test_the_verdict_is_the_measured_one():
    def said(mean, low, high):
        return demo.verdict(Buckets([1], [1], [mean], [low], [high], 3, 3), ("fm-sparse", "transformer"), 1)

    assert said(-0.2, -0.3, -0.1) == "at 1: FM (sparse) is ahead of Transformer by 0.100 to 0.300"
    assert said(0.2, 0.1, 0.3) == "at 1: Transformer is ahead of FM (sparse) by 0.100 to 0.300"
    assert said(0.1, -0.1, 0.3) == "at 1: no clear difference of FM (sparse) and Transformer (-0.100 to +0.300)"
