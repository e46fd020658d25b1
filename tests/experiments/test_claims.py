"""The table of claims says what the stored results say, and what is not there."""

from copy import deepcopy

import pytest

from experiments import claims, frame
from experiments.claims import Text, Told


def told(**runs):
    rows = [
        {"rival": rival, "shares": {"64": share}} for rival, shares in runs.items() for share in shares
    ]  # fmt: skip
    return Told({"rows": rows}, lambda row: row["shares"])


def test_shares_are_means_with_their_range():
    found = told(fm=[0.5, 1.0, 0.75], mamba2=[0.1], rotary=[0.2, 0.2])
    assert found.at(64, "fm", "mamba2", "rotary") == "FM 0.75 (0.50–1.00), Mamba-2 0.10, rotary 0.20"
    assert found.at(64, "alibi") == "ALiBi not measured" and found.at(4096, "fm") == "FM not measured"


def test_the_fewest_seeds_count():
    found = told(fm=[0.5, 1.0, 0.75], mamba2=[0.1], rotary=[0.2, 0.2])
    assert found.seeds("fm", "rotary").startswith("at least 2 seeds each")
    assert found.seeds("fm", "mamba2").startswith("at least 1 seed each") and found.seeds("fm", "none").startswith(
        "at least 0 seeds"
    )


def text(**runs):
    def row(model, mean, window=0):
        buckets = {part: {"last": [256], "mean": [share * mean]} for part, share in (("stateful", 1), ("gain", 0.01))}
        return {"model": model, "window": window, **buckets}

    rows = [row(model, mean) for model, means in runs.items() for mean in means]
    return Text({"rows": [*rows, *(row("transformer", 7.0 + i, 256) for i in range(2))]})


def test_losses_are_means_over_seeds_and_the_window_stands_apart():
    found = text(fm=[1.0, 2.0, 1.5], transformer=[5.0])
    assert found.at(256, "fm", "transformer") == "FM 1.50 (1.00–2.00), Transformer 5.00"
    assert found.at(256, "fm", part="gain") == "FM 0.015 (0.010–0.020)"
    assert found.at(512, "fm") == found.at(256, "fm-sparse").replace("sparse ", "") == "FM –"
    assert found.windowed(256) == "read with a sliding window of 256 7.50 (7.00–8.00)"
    assert found.seeds("fm").startswith("at least 3 seeds each")
    assert found.seeds("fm", "transformer").startswith("at least 1 seed each")


def test_what_is_said_without_a_number_is_true_of_the_stored_runs():
    runs = Told(claims.load()["recall"], lambda row: row["recall"]["8"]).runs
    assert round(min(run["4096"] for run in runs["none conv"]), 2) == 0.84  # "it keeps 0.84 or more"
    readme = " ".join((frame.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "FM with 32 slots then recalls them after 65,536, with every seed." in readme
    assert len(runs["fm"]) >= 3 and all(run["65536"] > 0.95 for run in runs["fm"])


def test_ratios_on_a_card_are_of_equal_sizes():
    def row(form, size, ms):
        return {"part": "decode", "form": form, "B": size, "M": 4, "D": 8} | ({"ms": ms} if ms else {"failed": {}})

    rows = [row("dense", 1, 2.0), row("Mamba-2 step", 1, 3.0), row("dense", 2, 4.0), row("Mamba-2 step", 2, 2.0)]
    rows += [row("Mamba-2 step", 3, 9.0), row("dense", 4, None), row("Mamba-2 step", 4, 1.0)]
    assert claims.Card(rows).of_step("dense") == "0.50× to 1.50×"
    assert claims.Card(rows).of_step("sparse") == claims.Card(rows).of_sparse() == "not measured"


@pytest.mark.parametrize("change", claims.SOURCES)
def test_every_source_is_in_the_table(change):
    result = claims.load()
    before, result = claims.table(result), deepcopy(result)
    if change == "length":
        for row in result["length"]["rows"]:
            row["stateful"]["mean"] = [mean + 1 for mean in row["stateful"]["mean"]]
    elif change == "compute":
        for row in result["compute"]["rows"]:
            row["bits per byte"] += 1
    elif change == "speed_gpu":
        result["speed_gpu"]["rows"] = []
    elif change in ("mqar", "recall", "recall_in_text"):
        result[change]["rows"] = []
    elif change == "short_runs":
        for row in result["short_runs"]["rows"]:
            row["129-256"][0] += 1
    elif change == "speed_dense":
        for row in result["speed_dense"]["rows"]:
            row["measured"] *= 2
    else:
        for row in result["speed_sparse"]["grid"]:
            row["walk both"] /= 2
    changed = claims.table(result)
    assert changed != before and len(changed.splitlines()) == len(before.splitlines()) == 2 + 7


def test_hours_are_those_of_runs_on_a_cpu():
    result = {name: {"rows": []} for name in claims.STUDIES}
    result["recall"]["rows"] = [{"seconds": 1800}, {"seconds": 3600}, {"seconds": 9999, "made on": "a card"}]
    result["compute"] = {"rows": [{"seconds": 7200}], "again": [{"seconds": 1, "made on": "a card"}]}
    lines = claims.hours(result).splitlines()[2:]
    assert lines[0] == "| `recall` | 2 | 1.5 | 1 |" and lines[2] == "| `compute` | 1 | 2.0 | 1 |"
    assert lines[1] == "| `length` | 0 | 0.0 | – |" and lines[-1] == "| all | | 3.5 | |"
    makefile = (frame.ROOT / "Makefile").read_text(encoding="utf-8")
    studies = makefile.split("\nstudies:")[1].split("\n\n")[0]
    assert [line.split()[-1] for line in studies.splitlines()[1:]] == [*claims.STUDIES]  # in the order of the Makefile
