"""Short runs on text, one change at a time: settings, parts, numbers of slots, other memories.

Every run reads 200 steps of 4,096 bytes on one core. That shows how fast a model learns, not what it ends with. Losses
are on the validation split, which no figure of a finished model uses. Runs of one seed see the same bytes in the same
order, so a change is compared with the run of its seed that has no change. Each row is stored as it comes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from experiments.frame import Experiment, Run, about, asked_for, study, study_options
from experiments.length import spread
from experiments.variants import NoGateNorm, NoMergeRate, NoNorm, NoUpdateRate, OneNorm, TwoRouters, ValuePerSlot
from layers import MIXERS, DenseConfig, FactorizationMemory
from lm.data import read_corpus
from lm.evaluate import Windows, evaluate, file_windows
from lm.memory import entropies, slot_activity
from lm.model import Config, LanguageModel
from lm.run import Settings
from lm.train import train

NEAR, FAR = "129-256", "1025-2048"  # positions
BYTES = 4096  # of the validation split, of which it is told what the slots do
DEAD = 1e-3  # a slot is dead if it takes less than this share of an even one


@dataclass(frozen=True)
class Change:
    """A run that differs from others in the options given: of the model and of its training."""

    name: str
    title: str
    options: dict[str, Any]
    seeds: int = 3
    module: type[nn.Module] | None = None  # in place of the mixer's, of which it is a variant


class Sizes(NamedTuple):
    steps: int
    context: int
    windows: int | None  # None: all there are
    options: dict[str, Any]


FULL = Sizes(200, 2048, None, {})
TINY = Sizes(1, 2048, 2, {"d_model": 16, "num_layers": 1, "num_slots": 8, "top_k": 2, "head_width": 8})

_CHOSEN = {"mixer": "fm-sparse", "num_slots": 32, "top_k": 8, "temperature": 0.5}
SETTINGS = tuple(
    Change(f"settings {title}", title, _CHOSEN | options, seeds=1)
    for title, options in (
        ("fm-sparse, K 8 of 32, τ 0.5", {}),
        ("mixer mamba2", {"mixer": "mamba2"}),
        ("mixer transformer", {"mixer": "transformer"}),
        ("mixer transformer, rate 0.001", {"mixer": "transformer", "lr": 1e-3}),
        ("τ 0.25", {"temperature": 0.25}),
        ("τ 1", {"temperature": 1.0}),
        ("τ 2", {"temperature": 2.0}),
        ("K 4", {"top_k": 4}),
        ("64 slots, τ 0.3", {"num_slots": 64, "temperature": 0.3}),
        ("rates for each slot", {"rates": "slot"}),
        ("slots as wide as the model", {"expansion": 1}),
        ("no convolution", {"conv": 0}),
        ("no gate", {"gate": False}),
        ("burn-in of 256 bytes", {"burn_in": 256}),
        ("windows of 1,024, 4 a step", {"length": 1024, "batch": 4}),
    )
)
_FM = {"mixer": "fm"}
_BASE = Change("fm", "FM, 32 slots", _FM)
_PARTS = (
    _BASE,
    Change("no update rate", "η = 1", _FM, module=NoUpdateRate),
    Change("no merge rate", "μ = 1", _FM, module=NoMergeRate),
    Change("two routers", "an affinity of its own for reading", _FM, module=TwoRouters),
    Change("rates per slot", "η and μ for each slot", _FM | {"rates": "slot"}),
    Change("no norm", "slots are read without their norm", _FM, module=NoNorm),
    Change("one norm", "one norm for all slots", _FM, module=OneNorm),
    Change("value per slot", "the value is scaled for each slot", _FM, module=ValuePerSlot),
    Change("no conv", "no convolution", _FM | {"conv": 0}),
    Change("no gate", "no gate", _FM | {"gate": False}),
    Change("no conv, no gate", "no convolution, no gate", _FM | {"conv": 0, "gate": False}),
    Change("no gate norm", "no norm after the gate", _FM, module=NoGateNorm),
)


def _dense(slots: int) -> Change:
    return Change(f"fm {slots}", f"FM, {slots} slots", _FM | {"num_slots": slots})


def _sparse(kept: int, slots: int, name: str = "", title: str = "", **options: Any) -> Change:
    given = {"mixer": "fm-sparse", "num_slots": slots, "top_k": kept} | options
    return Change(f"{kept} of {slots}{name}", f"FM, {kept} of {slots} slots{title}", given)


_SLOTS = (
    _BASE,
    *(_sparse(kept, 32) for kept in (8, 4, 1)),
    _dense(64),
    *(_sparse(kept, 64) for kept in (16, 8, 4)),
    _dense(128),
    *(_sparse(kept, 128) for kept in (32, 8, 4)),
    _sparse(8, 128, ", balance", ", a balance loss of weight 0.01", balance=0.01),
    _sparse(8, 128, ", τ 0.5", ", τ = 0.5", temperature=0.5),
    _sparse(8, 128, ", τ 2", ", τ = 2", temperature=2.0),
    _dense(256),
    *(_sparse(kept, 256) for kept in (64, 8, 4)),
)
_OTHERS = (  # fm-sparse is 8 of 32
    _BASE,
    *(Change(name, MIXERS[name].title, {"mixer": name}) for name in MIXERS if name not in ("fm", "fm-sparse")),
)
CHANGES = {change.name: change for change in (*_PARTS, *_SLOTS, *_OTHERS, *SETTINGS)}


def one_run(name: str, seed: int, sizes: Sizes) -> dict:
    """Bits per byte on the validation split, by position, after a short run with one change; and what slots do."""
    change, corpus = CHANGES[name], read_corpus()
    given: dict[str, Any] = (
        change.options | sizes.options | {"evaluate_every": sizes.steps, "steps": sizes.steps, "seed": seed}
    )
    settings = {key: given.pop(key) for key in asdict(Settings()) if key in given}
    config, row = Config.lenient(**given), MIXERS[change.options["mixer"]]
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(MIXERS, {row.name: replace(row, module=change.module or row.module)}),
    ):
        model = train(config, Settings(**settings), corpus, folder, quiet=True)
    seconds = time.perf_counter() - began
    windows, paths = file_windows(corpus, "validation", sizes.context)
    windows, paths = windows[: sizes.windows], paths[: sizes.windows]
    buckets = evaluate(model, Windows(windows, paths)).stateful
    result: dict[str, Any] = {
        "change": name, "seed": seed, "parameters": model.num_parameters(),
        "state bytes": model.state_bytes(1, FULL.context), "seconds": round(seconds, 1),
    }  # fmt: skip
    for k, (first, last) in enumerate(zip(buckets.first, buckets.last, strict=True)):
        if (at := f"{first}-{last}") in (NEAR, FAR):
            result[at] = [buckets.mean[k], buckets.low[k], buckets.high[k]]
    if isinstance(model.blocks[0].mixer, FactorizationMemory):
        result["slots"] = slots_of(model, windows[:, :-1].long())
    return result


def slots_of(model: LanguageModel, tokens: Tensor) -> dict[str, list[float]]:
    """By layer, over some windows of 512 bytes: dead slots, the router's entropy in bits, and the bits that a byte's
    strongest slot tells about it, less what it tells about bytes in another order."""
    tokens = tokens[: max(1, BYTES // 512), :512]
    shuffled = tokens.flatten()[torch.randperm(tokens.numel(), generator=torch.Generator().manual_seed(0))]
    found: dict[str, list[float]] = {"dead": [], "entropy": [], "tells": []}
    for layer in slot_activity(model, tokens):
        affinity, theta = layer.affinity.flatten(0, 1), layer.theta.flatten(0, 1)
        use = theta.double().mean(0)
        found["dead"].append((use < DEAD * use.mean()).sum().item())
        found["entropy"].append(float(entropies(affinity.numpy()).mean()))
        strongest = affinity.argmax(-1)
        told = mutual_information(strongest, tokens.flatten()) - mutual_information(strongest, shuffled)
        found["tells"].append(told)
    return found


def mutual_information(a: Tensor, b: Tensor) -> float:
    """In bits, of the pairs of two lists of integers.

    >>> one = torch.tensor([0, 0, 1, 1])
    >>> mutual_information(one, 5 - one), mutual_information(one, torch.tensor([3, 4, 3, 4]))
    (1.0, 0.0)
    """
    _, counts = torch.stack([a, b]).unique(dim=1, return_counts=True)

    def entropy(counts: Tensor) -> float:
        share = counts.double() / counts.sum()
        return -(share * share.log2()).sum().item()

    return entropy(a.unique(return_counts=True)[1]) + entropy(b.unique(return_counts=True)[1]) - entropy(counts)


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes = TINY if run.tiny else FULL
    names, seeds = asked_for(run, CHANGES, ("fm", "no norm", "8 of 32", "mamba2"))
    known = about(asdict(read_corpus().description()), threads=1, **{"steps": sizes.steps, "bytes a step": 4096})
    wanted = [(name, seed) for seed in seeds for name in names if seed < CHANGES[name].seeds]
    return study(run, known, wanted, partial(one_run, sizes=sizes), key, place, said, run.options.processes)


def options(parser: argparse.ArgumentParser) -> None:
    study_options(parser, "change")


def key(row: dict) -> tuple[str, int]:
    return row["change"], row["seed"]


def place(row: dict) -> tuple[int, int]:
    return [*CHANGES].index(row["change"]), row["seed"]


def said(row: dict) -> str:
    return f"{row['change']}, seed {row['seed']}, {row['seconds']:.0f} s: " + ", ".join(
        f"{row[at][0]:.3f} at {at}" for at in (NEAR, FAR) if at in row
    )


# --- what shows it ---------------------------------------------------------------------------------------------


def rows_of(result: dict, changes: tuple[Change, ...]) -> list[tuple[Change, list[dict]]]:
    """Those of these changes that have runs, in their order."""
    rows = [(change, [row for row in result["rows"] if row["change"] == change.name]) for change in changes]
    return [(change, of_it) for change, of_it in rows if of_it]


def settings(result: dict) -> str:
    """The runs that chose the settings, one seed each."""
    lines = ["| change | parameters | state bytes | 129–256 | 1,025–2,048 |", "| --- " * 5 + "|"]
    for change, rows in rows_of(result, SETTINGS):
        cells = [change.title, f"{rows[0]['parameters']:,}", f"{rows[0]['state bytes']:,}"]
        cells += [spread([row[at][0] for row in rows], 3) for at in (NEAR, FAR)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def compared(result: dict, changes: tuple[Change, ...], more: dict[str, Callable[[list[dict]], str]]) -> str:
    """Bits per byte, and what they are above those of the first change with the same seed."""
    base = {row["seed"]: row for row in result["rows"] if row["change"] == changes[0].name}
    head = ["", "parameters", "state bytes", "seeds", "129–256", "1,025–2,048", "above the first, 129–256", *more]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for change, rows in rows_of(result, changes):
        above = [row[NEAR][0] - base[row["seed"]][NEAR][0] for row in rows if row["seed"] in base]
        cells = [change.title, f"{rows[0]['parameters']:,}", f"{rows[0]['state bytes']:,}", str(len(rows))]
        cells += [spread([row[at][0] for row in rows], 3) for at in (NEAR, FAR)]
        cells += ["–" if change is changes[0] else spread(above, 3), *(column(rows) for column in more.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(result: dict) -> str:
    """What a part of the layer is worth."""
    return compared(result, _PARTS, {})


def touched(rows: list[dict]) -> str:
    """Bytes of the state that a token reads and writes, over all layers, without the convolution's."""
    config = Config.lenient(**CHANGES[rows[0]["change"]].options)
    options = cast(DenseConfig, config.options)
    return f"{4 * config.num_layers * (options.top_k or options.num_slots) * options.width(config.d_model):,}"


def slots(result: dict) -> str:
    """What numbers of slots give, and what the slots do; means over layers, then over seeds."""

    def over_layers(name: str, digits: int) -> Callable[[list[dict]], str]:
        return lambda rows: spread([fmean(row["slots"][name]) for row in rows], digits)

    columns = {
        "bytes that a token touches": touched,
        "dead slots a layer": over_layers("dead", 1),
        "router's entropy, bits": over_layers("entropy", 2),
        "bits that the strongest slot tells of the byte": over_layers("tells", 2),
    }
    return compared(result, _SLOTS, columns)


def others(result: dict) -> str:
    """Other memories in the same block."""
    return compared(result, _OTHERS, {})


TABLES = {"settings": settings, "parts": parts, "slots": slots, "others": others}
EXPERIMENT = Experiment("short_runs", measure, TABLES, options=options)
