"""Multi-query associative recall (MQAR, arXiv 2312.04927): how many pairs a state of fixed size holds.

A sequence of L tokens tells N pairs of a key and a value. Then every key comes once more, at places of which near ones
are likelier: the distance g has a probability in proportion to g^(a - 1), a = 0.01. All other tokens are 0. Where a key
comes again, the model must name its value, which is not told again. It is the task by which such layers are compared;
recall over a gap (experiments/recall.py) asks how long a memory holds, this one how much.

The models are those of experiments/recall.py. Every run is stored as it ends, and a later call goes on from there.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from experiments.frame import Experiment, Run, about, asked_for, study, study_options
from experiments.recall import Model, Rival, by_rival, cell, key, learn, place, rival_of, steps_to
from lm.plots import STYLES, TEXT

VOCABULARY = 256  # 0 is the filler; keys lie below the half, values from it on
HALF = VOCABULARY // 2
POWER = 0.01  # a
LONGEST = 256  # tokens of a sequence in training
CAPACITY = ("fm 16", "fm", "fm 64", "fm 128")  # what a larger state holds
RIVALS = (
    "fm", "fm-sparse 8 of 32", "fm-sparse 8 of 32 warm", "mamba2", "rotary", "none conv", "hgrn2", "gsa", "mom",
    "fm 16", "fm 64", "fm 128",
)  # fmt: skip
ASKED = tuple(map(rival_of, RIVALS))
DRAWN = ("fm", "fm-sparse 8 of 32", "mamba2", "rotary", "gsa")


class Sizes(NamedTuple):
    steps: int
    batch: int
    trained: tuple[tuple[int, int], ...]  # L and N that training goes through in turn
    asked: tuple[tuple[int, int], ...]  # and those of the tests
    sequences: int  # of a test


FULL = Sizes(
    1500, 32, ((64, 4), (64, 8), (128, 16), (256, 32), (256, 64)),
    ((64, 4), (64, 8), (128, 16), (256, 32), (256, 64), (1024, 16)), 64,
)  # fmt: skip
TINY = Sizes(2, 4, ((16, 2), (32, 4)), ((16, 2), (32, 4)), 4)


def sequences(generator: torch.Generator, count: int, length: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Tokens [count, length], and the values that are right where a key is asked, -100 elsewhere.

    >>> tokens, right = sequences(torch.Generator().manual_seed(0), 1, length=8, pairs=1)
    >>> tokens.shape, (right >= 0).sum().item(), tokens[right >= 0].item() == tokens[0, 0].item()
    (torch.Size([1, 8]), 1, True)
    """
    most = min(length // 4, HALF - 1)
    if not 1 <= pairs <= most:
        raise ValueError(f"pairs must lie in [1, {most}] at a length of {length}, got {pairs}")
    places = (length - 2 * pairs) // 2
    keys = 1 + torch.rand(count, HALF - 1, generator=generator).argsort(-1)[:, :pairs]
    values = HALF + torch.randint(HALF, (count, pairs), generator=generator)
    weights = torch.arange(1, places + 1, dtype=torch.float64).pow(POWER - 1)
    at = 2 * pairs + 2 * weights.expand(count, -1).multinomial(pairs, generator=generator)  # no place twice
    tokens, right = torch.zeros(count, length, dtype=torch.long), torch.full((count, length), -100)
    tokens[:, : 2 * pairs] = torch.stack([keys, values], -1).flatten(1)
    return tokens.scatter(1, at, keys), right.scatter(1, at, values)


def train(rival: Rival, seed: int, sizes: Sizes) -> Iterator[tuple[int, float, Model]]:
    """`recall.learn`, from the loss of the values."""

    def losses_of(model: Model, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        length, pairs = sizes.trained[(step - 1) % len(sizes.trained)]
        tokens, right = sequences(generator, sizes.batch, length, pairs)
        x, _ = model(tokens)
        asked = right >= 0
        loss = F.cross_entropy(model.head(x[asked]), right[asked])
        return loss, loss

    return learn(rival, seed, sizes.steps, losses_of, VOCABULARY)


@torch.no_grad()
def accuracy(model: Model, length: int, pairs: int, count: int) -> float:
    """The share of values that are right."""
    tokens, right = sequences(torch.Generator().manual_seed(10**6 + 1000 * pairs + length), count, length, pairs)
    x, _ = model(tokens)
    asked = right >= 0
    return (model.head(x[asked]).argmax(-1) == right[asked]).double().mean().item()


def one_run(name: str, seed: int, sizes: Sizes) -> dict:
    """Train a rival and test it."""
    rival, began, curve, model = rival_of(name), time.perf_counter(), [], None
    middle = sizes.asked[len(sizes.asked) // 2 - 1]
    for step, loss, model in train(rival, seed, sizes):
        curve.append([step, loss, accuracy(model, *middle, sizes.sequences)])
    assert model is not None
    return {
        "rival": name, "seed": seed, "parameters": model.num_parameters(), "state": model.state_numbers(256),
        "seconds": round(time.perf_counter() - began, 1), "curve": curve,
        "accuracy": [[*task, accuracy(model, *task, sizes.sequences)] for task in sizes.asked],
    }  # fmt: skip


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes = TINY if run.tiny else FULL
    names, seeds = asked_for(run, RIVALS, ("fm", "mamba2"))
    known = about(None, threads=1, **{"steps": sizes.steps, "sequences a step": sizes.batch})
    wanted = [(name, seed) for seed in seeds for name in names]
    return study(run, known, wanted, partial(one_run, sizes=sizes), key, place, said, run.options.processes)


def options(parser: argparse.ArgumentParser) -> None:
    study_options(parser, "rival")


def said(row: dict) -> str:
    shares = "  ".join(f"{pairs} in {length} {share:.2f}" for length, pairs, share in row["accuracy"])
    return f"{row['rival']}, seed {row['seed']}, {row['seconds']:.0f} s: {shares}"


def table(result: dict) -> str:
    """Shares of right values: the mean over seeds, lowest to highest; last, of who knows values alone."""
    tasks = [task[:2] for task in result["rows"][0]["accuracy"]]
    head = ["", "parameters", "state", "seeds", "steps to 0.95", *(f"{n} pairs in {L:,}" for L, n in tasks)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rival, rows in by_rival(result, ASKED):
        state = "grows" if rival.mixer == "transformer" else f"{rows[0]['state']:,}"
        cells = [rival.title, f"{rows[0]['parameters']:,}", state, str(len(rows)), steps_to(0.95, rows)]
        cells += [cell([row["accuracy"][i][2] for row in rows]) for i in range(len(tasks))]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["one who knows which values were told, not whose", *"––––", *(f"{1 / pairs:.2f}" for _, pairs in tasks)]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


@matplotlib.rc_context(TEXT)
def draw(result: dict, path: Path) -> None:
    """Accuracy by the number of pairs, and of most pairs by the state; mean and range over seeds."""
    figure = Figure(figsize=(14, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
    found = [(rival, rows) for rival, rows in by_rival(result, ASKED) if rival.name in DRAWN]
    for (rival, rows), (colour, dash, marker) in zip(found, STYLES, strict=False):
        tasks = [i for i, (length, _, _) in enumerate(rows[0]["accuracy"]) if length <= LONGEST]
        pairs = [rows[0]["accuracy"][i][1] for i in tasks]
        columns = [[row["accuracy"][i][2] for row in rows] for i in tasks]
        left.plot(pairs, [*map(fmean, columns)], color=colour, linestyle=dash, marker=marker, label=rival.title)
        left.fill_between(pairs, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.15, linewidth=0)
    left.plot(pairs, [1 / n for n in pairs], color="black", linewidth=1, linestyle=":", label="which values, not whose")
    left.set_xscale("log", base=2)
    left.set(xlabel="pairs told", ylabel="share of values that are right", ylim=(-0.02, 1.04))
    left.set_xticks(pairs, [str(n) for n in pairs])
    rival, rows = found[0]
    share = fmean(row["accuracy"][tasks[-1]][2] for row in rows)
    left.set_title(f"{rival.title}: {share:.0%} of {pairs[-1]} values are right")
    fixed = [(rival, rows) for rival, rows in by_rival(result, ASKED) if rival.mixer != "transformer"]
    for rival, rows in fixed:
        shares = [row["accuracy"][tasks[-1]][2] for row in rows]
        colour, _, marker = STYLES[0] if rival.name in CAPACITY else STYLES[1]
        right.plot([rows[0]["state"]] * len(shares), shares, color=colour, linestyle="", marker=marker)
    sizes = sorted(
        {
            rows[0]["state"]: fmean(row["accuracy"][tasks[-1]][2] for row in rows)
            for rival, rows in fixed
            if rival.name in CAPACITY
        }.items()
    )
    right.plot(*zip(*sizes, strict=True), color=STYLES[0][0], label="FM by its number of slots, mean")
    right.plot([], [], color=STYLES[1][0], linestyle="", marker=STYLES[1][2], label="others with a fixed state")
    right.set_xscale("log", base=2)
    right.set_xticks([size for size, _ in sizes], [f"{size:,}" for size, _ in sizes])
    right.set(xlabel="numbers of state a layer, one mark a seed", title=f"{pairs[-1]} pairs by the size of the state")
    of_both = (a + b for a, b in zip(left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True))
    figure.legend(*of_both, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110, format="png")


EXPERIMENT = Experiment("mqar", measure, {"": table}, {"mqar.png": draw}, options=options)
