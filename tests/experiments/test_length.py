"""Length on text: what is trained, measured, passed over, refused, and what the table says of it."""

import json
from copy import deepcopy
from dataclasses import asdict, replace
from statistics import fmean

import pytest
from safetensors.torch import save

from experiments import frame, length
from experiments.length import FULL, STUDIED, TINY, Model
from layers import MIXERS
from lm import checkpoint, pretrained
from lm.data import read_corpus
from lm.evaluate import bucket_edges, loss_sums, summarise
from lm.model import Config
from lm.run import Buckets, Description, Run, Settings
from lm.train import train
from tests.support.processes import in_this_process


@pytest.fixture(scope="module")
def corpus():
    return length.text(TINY.context, TINY.per_file)[0]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls of the tiny study with two mixers, in this process, and the jobs that they took."""
    ran = in_this_process(monkeypatch)
    monkeypatch.setattr(length, "STUDIED", ("fm", "transformer"))

    def run(*arguments):
        ran.clear()
        code = frame.main(length.EXPERIMENT, ["--tiny", "--seeds", "2", "--out", str(tmp_path), *arguments])
        assert code == 0
        result = json.loads((tmp_path / "length.json").read_text(encoding="utf-8"))
        return result["rows"], [(model.name, model.seed, windows) for model, windows, _ in ran]

    return run


def test_what_is_missing_is_trained_and_measured_once(study, tmp_path, capsys):
    rows, jobs = study()
    assert jobs == [("fm", 0, None), ("fm", 1, None), ("transformer", 0, None), ("transformer", 1, None)]
    assert [length.key(row) for row in rows] == [
        ("fm", 0, 0), ("fm", 1, 0),
        ("transformer", 0, 0), ("transformer", 0, 8), ("transformer", 1, 0), ("transformer", 1, 8),
    ]  # fmt: skip
    assert "Transformer, sliding window of 8, seed 1: " in capsys.readouterr().out
    assert study() == (rows, [])
    for path in (tmp_path / "runs").iterdir():
        assert checkpoint.read_run(checkpoint.latest(path)).step == 2, path


def test_a_row_is_measured_again_where_it_is_missing_or_the_weights_are_others(study, tmp_path, corpus):
    rows, _ = study()
    path = tmp_path / "length.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["rows"] = [row for row in stored["rows"] if length.key(row) != ("transformer", 0, 8)]
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert study() == (rows, [("transformer", 0, [8])])
    run = checkpoint.latest(tmp_path / "runs" / "fm-1")
    _, record, model = checkpoint.read(run)
    model.norm.weight.data *= 1.5
    checkpoint.remove(run)
    files = {"model.safetensors": save(checkpoint.weights(model)), "run.json": checkpoint.run_json(record)}
    checkpoint.place(files.items(), run.with_name(".part"), run)
    again, jobs = study()
    assert jobs == [("fm", 1, [0])]
    changed = [a["model"] for a, b in zip(again, rows, strict=True) if a != b]
    assert changed == ["fm"] and again[1]["weights"] != rows[1]["weights"]


def test_an_unfinished_run_is_passed_over_or_gone_on_with(study, tmp_path, corpus, capsys, monkeypatch):
    class Stop(Exception):
        """As a kill would stop it."""

    (config, settings), whole = Model("fm", 0, tmp_path).asked(TINY), tmp_path / "whole"
    train(config, settings, corpus, whole, quiet=True)
    written = checkpoint.write

    def stopped(folder, model, optimizer, run):
        path = written(folder, model, optimizer, run)
        if run.step == 1:
            raise Stop
        return path

    folder = tmp_path / "runs" / "fm-0"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "write", stopped)
        train(config, replace(settings, evaluate_every=1), corpus, folder, quiet=True)
    at = checkpoint.latest(folder)
    record = checkpoint.read_run(at)
    (at / "run.json").write_bytes(checkpoint.run_json(replace(record, settings=settings)))

    assert frame.main(length.EXPERIMENT, ["--tiny", "--no-training", "--out", str(tmp_path)]) == 2
    assert f"nothing is measured: no run in {tmp_path / 'runs'} is finished" in capsys.readouterr().err
    train(*Model("fm", 1, tmp_path).asked(TINY), corpus, tmp_path / "runs" / "fm-1", quiet=True)
    rows, jobs = study("--no-training")
    assert jobs == [("fm", 1, [0])] and [length.key(row) for row in rows] == [("fm", 1, 0)]
    said = capsys.readouterr().out
    assert f"passed over: {folder} is at step 1 of 2" in said
    assert f"passed over: {tmp_path / 'runs' / 'transformer-0'} is not there" in said
    rows, jobs = study()
    assert jobs[0] == ("fm", 0, None) and len(jobs) == 3 and len(rows) == 6
    assert rows[0]["weights"] == length.rounded(whole)[2]  # as if it had never stopped


def test_a_run_that_another_process_trains_is_passed_over(study, tmp_path, capsys, monkeypatch):
    claim = checkpoint.claim

    def taken(folder, *rest):
        if folder.name == "fm-1":
            raise checkpoint.CheckpointError(f"--out {folder}: another run is writing here (pid 1)")
        return claim(folder, *rest)

    monkeypatch.setattr(checkpoint, "claim", taken)
    rows, jobs = study()
    assert len(jobs) == 4 and len(rows) == 5
    assert "passed over: --out" in capsys.readouterr().out


def test_a_run_of_another_text_or_with_other_settings_is_refused(tmp_path, corpus, capsys):
    def said():
        assert frame.main(length.EXPERIMENT, ["--tiny", "--out", str(tmp_path), "--no-training"]) == 2
        return capsys.readouterr().err

    model = Model("fm", 1, tmp_path / "runs" / "fm-1")
    config, settings = model.asked(TINY)
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox " * 100, encoding="utf-8")
    train(config, settings, read_corpus(text), model.path, quiet=True)
    error = said()
    assert "fm-1 was trained on text.txt (" in error and "losses of two texts are not compared" in error
    train(config, replace(settings, lr=0.1, seed=2), corpus, model.path, quiet=True, overwrite=True)
    assert "fm-1 is no run of this study: lr is 0.1, not 0.003, seed is 2, not 1" in said()
    other = replace(config, num_layers=2)
    train(other, settings, corpus, model.path, quiet=True, overwrite=True)
    assert "no run of this study: num_layers is 2, not 1" in said()
    assert not (tmp_path / "length.json").exists()


def test_a_row_is_of_the_rounded_model_and_its_gain_is_paired(tmp_path, corpus):
    model = Model("transformer", 1, tmp_path / "run")
    rows = length.rows_of(model, None, TINY)
    _, record, whole = checkpoint.read(model.path)
    assert record.config == model.asked(TINY)[0] and record.settings == Settings(seed=1, **TINY.settings)
    pretrained.round_weights(whole)
    _, (tokens, paths) = length.text(TINY.context, TINY.per_file)
    edges = bucket_edges(TINY.context)
    for row, window in zip(rows, (0, 8), strict=True):
        read = length.with_window(whole, window)
        assert read.blocks[0].mixer.window == row["window"] == window
        stateful, reset = (loss_sums(read, tokens, 8, reset=reset) for reset in (False, True))
        assert Buckets(**row["stateful"]) == summarise(stateful, paths, edges)
        assert Buckets(**row["reset"]) == summarise(reset, paths, edges)
        assert Buckets(**row["gain"]) == summarise(reset - stateful, paths, edges)
        assert row["training loss"] == record.smoothed and row["seconds"] == round(record.seconds, 1)
    assert rows[0]["reset"] == rows[1]["reset"] and rows[0]["stateful"] != rows[1]["stateful"]


def test_a_model_is_read_with_the_window_it_has_and_with_its_training_length():
    def readings(config):
        return length.readings(Run(config, Settings(length=64), Description("x", "0", "3.11", 1, 1), None))

    assert readings(Config.of("transformer")) == [0, 64] and readings(Config.of("fm")) == [0]
    assert readings(Config.of("transformer", window=16)) == [16]


def test_the_study_is_of_the_mixers_with_a_bundled_model():
    """A mixer that is added to the table is not trained for hours by surprise."""
    assert {*STUDIED} == {*MIXERS} & {*pretrained.names()} == {"fm", "fm-sparse", "mamba2", "transformer"}


def test_seed_0_is_the_bundled_model_and_variants_come_last(tmp_path):
    found = length.models(tmp_path, 2)
    assert [model[:2] for model in found[: 2 * len(STUDIED)]] == [(name, seed) for name in STUDIED for seed in (0, 1)]
    for model in found:
        bundled = model.name in pretrained.names() and not (model.name in STUDIED and model.seed)
        assert model.path == (pretrained.FOLDER / model.name if bundled else tmp_path / f"{model.name}-{model.seed}")
    assert {model.name for model in found[2 * len(STUDIED) :]} == {*pretrained.names()} - {*STUDIED}


def rows_like(**means):
    """Rows of models by name, a list of the mean losses of each seed; the gain is a tenth of them."""
    first = [129, 257, 1025, 8193]

    def buckets(mean):
        mean, low, high = ([mean + more] * 4 for more in (0, -1, 1))
        return asdict(Buckets(first, [*length.SHOWN], mean, low, high, files=2, windows=3))

    rows = [
        {"model": name, "mixer": name, "seed": seed, "length": 256, "window": 0}
        | {part: buckets(share * mean) for part, share in (("stateful", 1), ("reset", 1.1), ("gain", 0.1))}
        for name, seeds in means.items()
        for seed, mean in enumerate(seeds)
    ]
    return {"references": {}, "rows": rows}


def test_the_table_has_the_mean_and_the_range_over_seeds():
    result = rows_like(fm=[1.0, 2.0, 1.2], mamba2=[1.5])
    head, _, fm, mamba2 = length.table(result).splitlines()
    assert head.endswith("| 8,193–16,384 | gain over reset, 1,025–2,048 | gain over reset, 8,193–16,384 |")
    assert fm == "| FM (dense) | 3 |" + 4 * " 1.40 (1.00–2.00) |" + 2 * " 0.140 (0.100–0.200) |"
    assert mamba2 == "| Mamba-2 | 1 |" + 4 * " 1.50 |" + 2 * " 0.150 |"
    head, _, fm, mamba2 = length.gains(result).splitlines()
    assert fm.startswith("| FM (dense) | 0.100 (-0.900 to 1.100) | 0.200 (") and mamba2.endswith("1.150) | – | – |")


def test_variants_and_windows_are_rows_of_their_own():
    result = rows_like(transformer=[1.0, 2.0])
    more = [row | {"window": 256} for row in deepcopy(result["rows"])]
    other = deepcopy(result["rows"][0]) | {"model": "transformer-1024", "length": 1024}
    result["rows"] = [other, *result["rows"], *more]
    assert [(name, len(rows)) for name, rows in length.by_model(result).items()] == [
        ("Transformer", 2), ("Transformer, sliding window of 256", 2), ("Transformer, trained on windows of 1,024", 1)
    ]  # fmt: skip


def test_the_figure_has_the_range_of_three_seeds_and_no_variant(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(length.plots, "draw_lengths", lambda loss, path, **rest: drawn.update(loss=loss, **rest))
    result = rows_like(fm=[1.0, 2.0, 1.2], mamba2=[1.5, 2.5])
    result["rows"].append(deepcopy(result["rows"][0]) | {"model": "fm-long", "length": 1024})
    length.draw(result, tmp_path / "length.png")
    loss, gain = drawn["loss"], drawn["gain"]
    assert [*loss] == ["FM (dense)", "Mamba-2"] and drawn["train_length"] == 256
    assert (loss["FM (dense)"].low[0], loss["FM (dense)"].high[0]) == (1.0, 2.0)
    assert loss["Mamba-2"].low == loss["Mamba-2"].mean == loss["Mamba-2"].high == [2.0] * 4
    assert gain["FM (dense)"].mean[0] == pytest.approx(0.14)


def test_what_is_stored_is_of_the_models_that_are_bundled():
    """`python -m experiments length --no-training` measures those that are others."""
    rows = {length.key(row): row for row in frame.stored(length.EXPERIMENT)["rows"]}
    for name in pretrained.names():
        record, _, weights = length.rounded(pretrained.FOLDER / name)
        seed = record.settings.seed if name not in STUDIED else 0
        for window in length.readings(record):
            row = rows[name, seed, window]
            assert row["weights"] == weights, name
            if window == 0:
                for part in ("stateful", "reset"):  # measured twice, perhaps on two machines
                    assert row[part]["mean"] == pytest.approx(getattr(record.results, part).mean, abs=1e-3)


def test_the_words_about_what_is_behind_the_level_curves_are_true():
    """Of every run that is stored; docs/results.md, README.md and docs/course.md say it without a number."""
    rows = frame.stored(length.EXPERIMENT)["rows"]

    def ends(row, part):
        return [row[part]["mean"][row[part]["last"].index(last)] for last in length.SHOWN]

    full = [row for row in rows if row["mixer"] == "transformer" and not row["window"]]
    level = [row for row in rows if row["model"] in STUDIED and row not in full]
    assert any(row["window"] for row in level) and len(full) == sum(row["window"] > 0 for row in level)
    for row in level:
        assert max(ends(row, "stateful")) < ends(row, "stateful")[0] + 0.06, length.key(row)
        assert all(0.02 < gain < 0.06 for gain in ends(row, "gain")[1:]), length.key(row)  # "a few hundredths"
    windowed, recurrent = ([ends(row, "gain")[-1] for row in level if bool(row["window"]) == w] for w in (True, False))
    assert fmean(windowed) > fmean(recurrent)  # "no less"
    for row in full:
        at_first, *beyond = ends(row, "stateful")
        assert min(beyond) > at_first + 1 and max(ends(row, "reset")) < at_first + 0.06
    shorter = [ends(row, "stateful") for row in level if row["model"] == "fm-sparse"]
    (longer,) = (ends(row, "stateful") for row in rows if row["model"] == "fm-sparse-1024")
    assert all(bits > max(others) for bits, *others in zip(longer, *shorter, strict=True))


def test_a_stored_study_is_what_full_sizes_ask_for():
    about = frame.stored(length.EXPERIMENT)["about"]
    assert about["context"] == FULL.context and about["threads"] == 1
    assert about["corpus"]["manifest_hash"] == checkpoint.read_run(pretrained.FOLDER / "fm").corpus.manifest_hash
