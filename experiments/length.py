"""Length on text: the loss by position far beyond the training length, and what a state that is kept gains, with seeds.

Each mixer with a bundled model is trained from several seeds, with the settings of that model, which is seed 0. The
others are runs in a folder, MIXER-SEED. All are read as `python -m lm publish` reads them: weights rounded to float16,
windows of 16,384 bytes of files not trained on. Attention is also read with a sliding window of its training length.
The measure of far context is the gain over a reset every training length, file by file: texts get easier by themselves.

What is finished is measured first, then what is missing is trained. Every row is stored as it is measured, and a later
call goes on from there, also within a training. A row is measured again only where the weights have changed.
"""

import argparse
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor

from experiments.frame import Experiment, Run, UsageError, about, also_here, in_processes
from layers import MIXERS, mixers_with
from lm import checkpoint, plots, pretrained
from lm.checkpoint import CheckpointError
from lm.data import Corpus, DataError, read_corpus, reference_lines
from lm.evaluate import Windows, evaluate, file_windows
from lm.model import Config, LanguageModel
from lm.run import Buckets, Settings
from lm.run import Run as Record
from lm.train import Diverged, resume, train

SHOWN = (256, 512, 2048, 16384)  # where the buckets in the table end
GAINS = (2048, 16384)  # and those whose gain it has
BAND = 3  # seeds that make a range worth drawing


class Sizes(NamedTuple):
    config: dict[str, Any]  # in place of defaults
    settings: dict[str, Any]
    context: int  # the longest position
    per_file: int  # windows


FULL = Sizes({}, {}, 16384, 8)
TINY = Sizes(
    {"d_model": 16, "num_layers": 1, "num_slots": 4, "top_k": 2, "head_width": 8, "state_width": 4},
    {"steps": 2, "batch": 2, "length": 8, "warmup": 1}, 32, 1,
)  # fmt: skip
STUDIED = tuple(name for name in MIXERS if name in pretrained.names())  # the mixers with a bundled model


class Model(NamedTuple):
    """One of the study: a bundled one, or a run in the folder, which may not be there yet."""

    name: str  # its mixer's, or that of a bundled variant
    seed: int
    path: Path

    def asked(self, sizes: Sizes) -> tuple[Config, Settings]:
        """What a run of the study is trained with."""
        return Config.lenient(self.name, **sizes.config), Settings(seed=self.seed, **sizes.settings)

    def record(self) -> Record | None:
        """Of the run so far."""
        return checkpoint.read(self.path)[1] if checkpoint.holds_run(self.path) else None


def models(runs: Path, seeds: int, *, tiny: bool = False) -> list[Model]:
    """All of the study: every mixer with every seed, then the bundled variants."""
    bundled = [] if tiny else pretrained.names()
    found = [
        Model(name, seed, pretrained.FOLDER / name if name in bundled and not seed else runs / f"{name}-{seed}")
        for name in STUDIED
        for seed in range(seeds)
    ]
    variants = [(name, pretrained.FOLDER / name) for name in bundled if name not in STUDIED]
    return found + [Model(name, checkpoint.read_run(path).settings.seed, path) for name, path in variants]


def check(model: Model, record: Record, corpus: Corpus, sizes: Sizes) -> None:
    """A UsageError where a run is of another text, or is no run of this study: its loss could not be compared."""
    was = record.corpus
    if was.manifest_hash != corpus.manifest_hash:
        raise UsageError(
            f"{model.path} was trained on {was.name} ({was.manifest_hash}), this is {corpus.name} "
            f"({corpus.manifest_hash}): losses of two texts are not compared"
        )
    if model.name not in STUDIED:
        return  # a variant is what its name says
    config, settings = model.asked(sizes)
    wanted = config.as_dict() | asdict(settings)
    found = record.config.as_dict() | asdict(record.settings)
    unlike = [f"{name} is {found.get(name)}, not {wanted[name]}" for name in wanted if found.get(name) != wanted[name]]
    if unlike:
        raise UsageError(f"{model.path} is no run of this study: {', '.join(unlike)}")


# --- one model -------------------------------------------------------------------------------------------------


@cache
def text(context: int, per_file: int) -> tuple[Corpus, Windows]:
    """What all are trained on, and the windows that all are measured on."""
    corpus = read_corpus()
    return corpus, file_windows(corpus, "test", context, per_file)


def rounded(path: Path) -> tuple[Record, LanguageModel, str]:
    """A run's record, its model rounded to float16, and a fingerprint of these weights."""
    _, record, model = checkpoint.read(path)
    return record, model, fingerprint(pretrained.round_weights(model))


def fingerprint(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def readings(record: Record) -> list[int]:
    """The windows of attention that a model is read with: as it was trained, then with its training length."""
    own = getattr(record.config.options, "window", 0)
    return [own, record.settings.length] if record.config.mixer in mixers_with("window") and not own else [own]


def with_window(model: LanguageModel, window: int) -> LanguageModel:
    """The same weights, read with another sliding window."""
    if window == getattr(model.config.options, "window", 0):
        return model
    other = LanguageModel(replace(model.config, options=replace(model.config.options, window=window)))
    other.load_state_dict(model.state_dict())
    return other.eval()


def rows_of(model: Model, windows: list[int] | None, sizes: Sizes) -> list[dict]:
    """Measure a model, once for each sliding window; without windows, train it before, as far as it is missing."""
    corpus, parts = text(sizes.context, sizes.per_file)
    if windows is None:
        if checkpoint.holds_run(model.path):
            resume(model.path, corpus, quiet=True)
        else:
            train(*model.asked(sizes), corpus, model.path, quiet=True)
    record, found, weights = rounded(model.path)
    rows = []
    for window in readings(record) if windows is None else windows:
        measured = evaluate(with_window(found, window), parts, record.settings.length, reset=True)
        assert measured.reset is not None and measured.gain is not None
        rows.append({
            "model": model.name, "mixer": record.config.mixer, "seed": model.seed, "length": record.settings.length,
            "window": window, "weights": weights, "parameters": found.num_parameters(),
            "training loss": record.smoothed, "seconds": round(record.seconds, 1),
            "stateful": asdict(measured.stateful), "reset": asdict(measured.reset), "gain": asdict(measured.gain),
        })  # fmt: skip
    return rows


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes, options = (TINY if run.tiny else FULL), run.options
    runs = options.runs or (run.folder / "runs" if run.tiny else Path("out/length"))
    try:
        corpus, windows = text(sizes.context, sizes.per_file)
        all_of_it = models(runs, options.seeds, tiny=run.tiny)
        records = {model: model.record() for model in all_of_it}
    except (DataError, CheckpointError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    for model, record in records.items():
        if record is not None:
            check(model, record, corpus, sizes)
    measured = {"context": sizes.context, "files": len({*windows.paths}), "windows": len(windows.paths)}
    empty = {"about": about(asdict(corpus.description()), threads=1, **measured)}
    result = run.resume(empty | {"references": reference_lines(corpus.text("test")), "rows": []}, anywhere=True)
    order = {(model.name, model.seed): i for i, model in enumerate(all_of_it)}
    for ended in in_processes(rows_of, jobs(records, result["rows"], sizes, options.training), options.processes):
        try:
            more = ended.result()
        except (CheckpointError, Diverged) as error:
            print(f"passed over: {' '.join(str(error).split())}", flush=True)
            continue
        keys = [key(row) for row in more]
        result["rows"] = [row for row in result["rows"] if key(row) not in keys] + more
        result["rows"].sort(key=lambda row: (order.get(key(row)[:2], len(order)), row["window"]))
        also_here(result)
        run.save(result)
        for row in more:
            end, gain = row["stateful"]["mean"][-1], row["gain"]["mean"][-1]
            print(f"{title(row)}, seed {row['seed']}: {end:.3f} at the end, gain over reset {gain:+.3f}", flush=True)
    if not result["rows"]:
        raise UsageError(f"nothing is measured: no run in {runs} is finished")
    return result


def key(row: dict) -> tuple[str, int, int]:
    return row["model"], row["seed"], row["window"]


def jobs(records: dict[Model, Record | None], rows: list[dict], sizes: Sizes, training: bool) -> Iterator[tuple]:
    """First what is finished and not measured with these weights, then what is missing and was never measured."""
    have, missing = {key(row): row["weights"] for row in rows}, []
    for model, record in records.items():
        if record is None or record.step < record.settings.steps:
            if not any(known[:2] == (model.name, model.seed) for known in have):
                missing.append((model, record))
            continue
        weights = rounded(model.path)[2]
        for window in readings(record):
            if have.get((model.name, model.seed, window)) != weights:
                yield model, [window], sizes
    for model, record in missing:
        if training:
            yield model, None, sizes
        else:
            at = "is not there" if record is None else f"is at step {record.step:,} of {record.settings.steps:,}"
            print(f"passed over: {model.path} {at}", flush=True)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, help="folder of the runs, MIXER-SEED (default: out/length)")
    parser.add_argument("--seeds", type=int, default=3, help="of each mixer, from 0 (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at a time (default: %(default)s)")
    parser.add_argument("--no-training", dest="training", action="store_false", help="measure what is finished")


# --- what shows it ---------------------------------------------------------------------------------------------


def by_model(result: dict) -> dict[str, list[dict]]:
    """By title, the rows of all seeds."""
    found: dict[str, list[dict]] = {}
    for row in sorted(result["rows"], key=lambda row: row["model"] not in STUDIED):
        found.setdefault(title(row), []).append(row)
    return found


def title(row: dict) -> str:
    words = [MIXERS[row["mixer"]].title]
    if row["model"] not in STUDIED:
        words.append(f"trained on windows of {row['length']:,}")
    if row["window"]:
        words.append(f"sliding window of {row['window']:,}")
    return ", ".join(words)


def at(rows: list[dict], part: str, last: int) -> list[float]:
    """Of each seed: the mean of the bucket that ends there, none where the texts were shorter."""
    return [row[part]["mean"][row[part]["last"].index(last)] for row in rows if last in row[part]["last"]]


def spread(values: list[float], digits: int = 2) -> str:
    """The mean over seeds, lowest to highest where they differ.

    >>> spread([1.0, 2.0]), spread([-0.5, 0.1]), spread([0.04321, 0.043], 3), spread([])
    ('1.50 (1.00–2.00)', '-0.20 (-0.50 to 0.10)', '0.043', '–')
    """
    if not values:
        return "–"
    mean, low, high = (f"{value:.{digits}f}" for value in (fmean(values), min(values), max(values)))
    between = "–" if min(values) >= 0 else " to "
    return mean + (f" ({low}{between}{high})" if low != high else "")


def table(result: dict) -> str:
    """Bits per byte and gain over reset by position: the mean over seeds, lowest to highest."""
    head = ["", "seeds", *map(place, SHOWN), *(f"gain over reset, {place(last)}" for last in GAINS)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, rows in by_model(result).items():
        cells = [spread(at(rows, "stateful", last)) for last in SHOWN]
        cells += [spread(at(rows, "gain", last), 3) for last in GAINS]
        lines.append(f"| {' | '.join([name, str(len(rows)), *cells])} |")
    return "\n".join(lines)


def place(last: int) -> str:
    return f"{last // 2 + 1:,}–{last:,}"


def gains(result: dict) -> str:
    """The gain over reset at the end of the windows, run by run, with 95 % intervals over files."""
    seeds = sorted({row["seed"] for row in result["rows"]})
    lines = [f"| {' | '.join(['', *(f'seed {seed}' for seed in seeds)])} |", "| --- " * (1 + len(seeds)) + "|"]
    for name, rows in by_model(result).items():
        ends = {row["seed"]: [row["gain"][part][-1] for part in ("mean", "low", "high")] for row in rows}
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*ends[seed]) if seed in ends else "–" for seed in seeds]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def over_seeds(rows: list[dict], part: str) -> Buckets:
    """The mean over seeds; from three seeds on with their range, else without."""
    columns = [*zip(*(row[part]["mean"] for row in rows), strict=True)]
    mean = [fmean(column) for column in columns]
    low, high = ([side(c) for c in columns] if len(rows) >= BAND else mean for side in (min, max))
    return Buckets(**rows[0][part] | {"mean": mean, "low": low, "high": high})


def draw(result: dict, path: Path) -> None:
    """Loss and gain by position of the models that differ in their mixer, or in how it is read, alone."""
    shown = {name: rows for name, rows in by_model(result).items() if rows[0]["model"] in STUDIED}
    loss, gain = ({name: over_seeds(rows, part) for name, rows in shown.items()} for part in ("stateful", "gain"))
    length = result["rows"][0]["length"]
    plots.draw_lengths(loss, path, train_length=length, gain=gain, references=result["references"])


EXPERIMENT = Experiment("length", measure, {"": table, "gain": gains}, {"length.png": draw}, options=options)
