"""The loss of the bundled models by position in the text, as `python -m lm publish` measured it.

The result lies with the models, in lm/checkpoints/*/run.json; here it becomes a table and a figure.
"""

from dataclasses import asdict
from pathlib import Path

from experiments.frame import Experiment, Run
from layers import MIXERS
from lm import checkpoint, plots, pretrained
from lm.run import Buckets

SHOWN = (256, 512, 2048, 16384)  # where the buckets in the table end


def load() -> dict:
    """By model: its mixer, the bytes of the windows that it was trained on, and what was measured."""
    folder = pretrained.FOLDER
    found = {}
    for name in pretrained.names(folder):
        run = checkpoint.read_run(folder / name)
        assert run.results is not None, f"{name} was put there without results"
        parts = {part: asdict(run.results)[part] for part in ("stateful", "reset", "references")}
        found[name] = {"mixer": run.config.mixer, "window": run.settings.length, **parts}
    return found


def comparable(result: dict) -> dict:
    """The models that differ in their mixer alone: trained on the shortest windows, measured as far as any of them."""
    shortest = min(model["window"] for model in result.values())
    found = {name: model for name, model in result.items() if model["window"] == shortest}
    farthest = max(model["stateful"]["last"][-1] for model in found.values())
    return {name: model for name, model in found.items() if model["stateful"]["last"][-1] == farthest}


def table(result: dict) -> str:
    """Bits per byte, with 95 % intervals over files."""
    places = [f"{last // 2 + 1:,}–{last:,}" for last in SHOWN]
    head = ["position", *places, "the last, with the state reset every window"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, model in result.items():
        stateful, reset = (Buckets(**model[part]) for part in ("stateful", "reset"))
        label = MIXERS[model["mixer"]].title
        if name not in comparable(result):
            label += f", trained on windows of {model['window']:,}"
        cells = [cell(stateful, last) for last in SHOWN]
        lines.append(f"| {' | '.join([label, *cells, f'{reset.mean[-1]:.2f}'])} |")
    return "\n".join(lines)


def cell(buckets: Buckets, last: int) -> str:
    if last not in buckets.last:  # the model was measured over shorter texts
        return "–"
    k = buckets.last.index(last)
    return f"{buckets.mean[k]:.2f} ({buckets.low[k]:.2f}–{buckets.high[k]:.2f})"


def draw(result: dict, path: Path) -> None:
    models = comparable(result)
    stateful, reset = ({name: Buckets(**m[part]) for name, m in models.items()} for part in ("stateful", "reset"))
    some = next(iter(models.values()))
    plots.draw_lengths(stateful, path, train_length=some["window"], reset=reset, references=some["references"])


def measure(run: Run) -> dict:
    return load()


EXPERIMENT = Experiment("length", measure, {"": table}, {"length.png": draw}, folder=pretrained.FOLDER, load=load)
