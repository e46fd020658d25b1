"""Every experiment runs, and pages and figures show what is stored."""

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from experiments import EXPERIMENTS, frame, short_runs, speed_sparse

ALONE = {"demo", "kernel_builds", "speed_gpu"}  # what they do depends on what Python was started with
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


def find(name):
    if name == "speed_gpu":
        pytest.importorskip("triton", reason="triton is not installed")
    return import_module(f"experiments.{name}").EXPERIMENT


def documents() -> dict:
    found = [frame.ROOT / "README.md", *(p for room in ("docs", "lm") for p in (frame.ROOT / room).rglob("*.[!p]*"))]
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in found if path.is_file()}


@every_experiment
def test_every_line_runs_tiny(name, tmp_path):
    experiment, before = find(name), documents()
    if name == "kernel_builds":
        pytest.importorskip("triton", reason="triton is not installed")
    if name in ALONE:
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        command = [sys.executable, "-X", "utf8", "-m", "experiments", name, "--tiny", "--out", str(tmp_path)]
        run = subprocess.run(command, cwd=frame.ROOT, env=environment, capture_output=True, encoding="utf-8")
        assert run.returncode == 0, run.stdout + run.stderr
    else:
        assert frame.main(experiment, ["--tiny", "--out", str(tmp_path)]) == 0
    assert documents() == before
    assert experiment.figures.keys() <= {path.name for path in tmp_path.iterdir()}
    if experiment.load is None:
        about = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["about"]
        assert {"torch", "on", "threads", "seed"} <= about.keys()


@every_experiment
def test_its_record_bears_its_name(name):
    assert find(name).name == name


@every_experiment
def test_pages_and_figures_show_what_is_stored(name):
    """`python -m experiments NAME --draw` mends it."""
    experiment = find(name)
    if experiment.load is None and experiment.folder == frame.RESULTS and not (frame.RESULTS / f"{name}.json").exists():
        assert name == "speed_gpu", "its result is gone"  # which no machine has measured yet
    elif experiment.tables or experiment.figures:
        assert not frame.stale(experiment)


def test_pages_show_no_result_that_nothing_makes():
    known = [f"{name}/{part}".rstrip("/") for name in EXPERIMENTS for part in find(name).tables]
    assert sorted(frame.markers()) == sorted(known)


def test_every_stored_result_is_an_experiments():
    names = {path.stem for path in frame.RESULTS.glob("*.json")}
    assert names <= EXPERIMENTS.keys()
    figures = {figure for name in names for figure in find(name).figures}
    assert {path.name for path in frame.RESULTS.glob("*.png")} == figures


def test_all_settings_were_tried():
    rows = short_runs.rows_of(frame.stored(short_runs.EXPERIMENT), short_runs.SETTINGS)
    assert [change for change, _ in rows] == [*short_runs.SETTINGS]


def on_one_line(page) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


def test_the_words_under_the_picture_of_the_slots_are_true():
    result = frame.stored(find("slots"))
    theta, tokens = torch.tensor(result["theta"]), torch.tensor(result["tokens"])
    space = theta[tokens == ord(" ")].sum(0)
    words = f"Runs of spaces go mostly to slot {int(space.argmax())}, "
    assert space.max() > space.sum() / 2
    assert any(words in on_one_line(page) for page in frame.pages())


def test_the_words_about_the_cost_of_a_pair_are_true():
    grid = frame.stored(speed_sparse.EXPERIMENT)["grid"]
    for form, page, words in (
        ("walk", "results.md", "a pair of the walk costs as much as {low:.1f} to {high:.1f} slots of the dense form"),
        ("scan", "results.md", "A pair of the scan costs {low:.1f} to {high:.0f}."),
        (
            "scan",
            "derivation.md",
            "a pair of the scan costs as much as {low:.1f} to {high:.0f} slots of the dense form,",
        ),
    ):
        slots = [num_slots / top_k for num_slots, top_k in speed_sparse.crossovers(grid, form).items()]
        assert words.format(low=min(slots), high=max(slots)) in on_one_line(frame.ROOT / "docs" / page)


def test_the_words_about_a_quarter_of_the_slots_are_true():
    grid = frame.stored(speed_sparse.EXPERIMENT)["grid"]
    takes = [1 / row["walk saves both"] for row in grid if 4 * row["K"] == row["M"] >= 128]
    words = f"the walk takes {min(takes):.2f} to {max(takes):.2f} times the dense form's time"
    assert words in on_one_line(frame.ROOT / "docs" / "results.md")
