"""Recall inside text: names are defined, text follows, and the names come again.

A sequence begins with definitions, each a line such as `#k=v`: a letter and its value, another letter. Then text of the
standard library passes, at most 64 bytes of it in training. The letters then come again with their values, in another
order, and text fills the rest. A model is trained on all bytes, as a language model is, and the values that come again
count as much as all bytes together. (Where they count as bytes alone, one in thirty, FM learns the text and not one
value in 2,000 steps.) It is asked after up to 16,384 bytes of files that it has not seen. This is text that needs a
memory, as plain text of this kind does not (experiments/length.py).

The models are those of experiments/recall.py, over bytes. Every run is stored as it ends, and a later call goes on.
"""

import argparse
import math
import string
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from experiments.frame import Experiment, Run, about, asked_for, study, study_options
from experiments.length import spread
from experiments.recall import (
    FAINT,
    LONG,
    Model,
    Rival,
    by_rival,
    cell,
    gap_axes,
    key,
    learn,
    rival_of,
    without_faint_writes,
)  # fmt: skip
from layers import MIXERS, FactorizationMemory
from lm.data import read_corpus
from lm.plots import STYLES, TEXT

BYTES = 256
LETTERS = torch.tensor([*string.ascii_letters.encode()])
LINE = 5  # bytes of #k=v and a new line
VALUE = 3  # the place of the value in it
PAIRS = 4  # of the tests
_ASKED = tuple(map(rival_of, ("fm", "fm-sparse 8 of 32", "mamba2", "rotary", "none conv")))
_FAR = tuple(
    replace(
        rival, name=f"{rival.name} far", title=f"{rival.title}, every tenth batch has gaps up to 1,024", stretched=1024
    )
    for rival in _ASKED[:4]
)
_HELPED = tuple(map(rival_of, ("fm-sparse 8 of 32 warm", "fm longer", "fm-sparse longer")))
ASKED = {rival.name: rival for rival in _ASKED + _HELPED + _FAR}


class Sizes(NamedTuple):
    steps: int
    batch: int
    length: int  # bytes of a sequence in training
    pairs: tuple[int, ...]  # that training goes through in turn
    gap: int  # the longest in training
    gaps: tuple[int, ...]
    sequences: int  # of a test; a quarter as many where gaps are long


FULL = Sizes(3000, 32, 128, (2, 4), 64, (16, 64, 256, 1024, 4096, 16384), 64)
TINY = Sizes(2, 4, 40, (1, 2), 8, (8, 16), 4)


@cache
def text(split: str) -> Tensor:
    """All bytes of a split."""
    return torch.frombuffer(bytearray(read_corpus().text(split)), dtype=torch.uint8).long()


def passages(generator: torch.Generator, source: Tensor, count: int, length: int) -> Tensor:
    """[count, length], each from a place of its own."""
    first = torch.randint(len(source) - length + 1, (count, 1), generator=generator)
    return source[first + torch.arange(length)]


def sequences(generator: torch.Generator, source: Tensor, count: int, pairs: int, gap: int, length: int = 0) -> Tensor:
    """Bytes [count, length]: definitions, a gap of text, the definitions again, text. length 0: nothing after them.

    >>> source = torch.tensor([*b"text " * 9])
    >>> row = bytes(sequences(torch.Generator().manual_seed(0), source, 1, pairs=1, gap=4, length=18)[0].tolist())
    >>> row[:5] == row[9:14], row[:1], len(row)
    (True, b'#', 18)
    """
    order = torch.rand(count, len(LETTERS), generator=generator).argsort(-1)
    keys, values = LETTERS[order[:, :pairs]], LETTERS[torch.randint(len(LETTERS), (count, pairs), generator=generator)]
    mark, equals, end = (torch.full_like(keys, ord(c)) for c in "#=\n")
    lines = torch.stack([mark, keys, equals, values, end], -1)  # [count, pairs, LINE]
    again = torch.rand(count, pairs, generator=generator).argsort(-1)
    later = lines.gather(1, again[..., None].expand_as(lines))
    before = passages(generator, source, count, gap)
    after = passages(generator, source, count, max(0, length - 2 * pairs * LINE - gap))
    return torch.cat([lines.flatten(1), before, later.flatten(1), after], 1)


def asked(pairs: int, gap: int) -> slice:
    """The places of the bytes before the values that come again.

    >>> text = b"#a=7;#b=8;" + b"gap" + b"#b=8;#a=7;"
    >>> text[1:][asked(pairs=2, gap=3)]
    b'87'
    """
    first = pairs * LINE + gap
    return slice(first + VALUE - 1, first + pairs * LINE, LINE)


def train(rival: Rival, seed: int, sizes: Sizes) -> Iterator[tuple[int, float, Model]]:
    """`recall.learn`, from all bytes and once more from the values; what is shown is in bits per byte."""
    source = text("train")

    def losses_of(model: Model, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs = sizes.pairs[step % len(sizes.pairs)]
        far = rival.stretched > 0 and step % 10 == 0
        gap = int(torch.randint((rival.stretched if far else sizes.gap) + 1, (), generator=generator))
        tokens = sequences(generator, source, sizes.batch // (4 if far else 1), pairs, gap, sizes.length)
        x, _ = model(tokens[:, :-1])
        each = F.cross_entropy(model.head(x).transpose(1, 2), tokens[:, 1:], reduction="none")
        return each.mean() + each[:, asked(pairs, gap)].mean(), each.mean() / math.log(2)

    return learn(rival, seed, rival.times * sizes.steps, losses_of, BYTES)


class Answers(NamedTuple):
    """Over all values that come again, and all bytes of the gap."""

    share: float  # of values that are right
    bits: float  # of a value
    text: float  # bits per byte of the gap


@torch.no_grad()
def answers(model: Model, gap: int, count: int) -> Answers:
    """What a model makes of PAIRS definitions and a gap of text that it was not trained on."""
    tokens = sequences(torch.Generator().manual_seed(10**6 + gap), text("test"), count, PAIRS, gap)
    told, state, losses = PAIRS * LINE, None, []
    for first in range(0, told + gap, LONG):
        part = tokens[:, first : min(first + LONG, told + gap)]
        x, state = model(part, state)
        right = tokens[:, first + 1 : first + 1 + part.shape[1]]
        losses.append(F.cross_entropy(model.head(x).transpose(1, 2), right, reduction="none"))
    x, _ = model(tokens[:, -told:-1], state)
    right = tokens[:, 1:][:, asked(PAIRS, gap)]
    logits = model.head(x[:, VALUE - 1 :: LINE])
    bits = F.cross_entropy(logits.transpose(1, 2), right).item() / math.log(2)
    passed = torch.cat(losses, 1)[:, told - 1 : told + gap - 1].mean().item() / math.log(2)
    return Answers((logits.argmax(-1) == right).double().mean().item(), bits, passed)


def by_gap(model: Model, gaps: list[int], sizes: Sizes) -> dict[str, dict[str, float]]:
    """Answers after each gap."""
    return {
        str(gap): answers(model, gap, sizes.sequences // (4 if gap >= LONG else 1))._asdict() for gap in gaps
    }  # fmt: skip


def one_run(name: str, seed: int, sizes: Sizes) -> dict:
    """Train a rival and test it."""
    rival, began, curve, model = ASKED[name], time.perf_counter(), [], None
    for step, loss, model in train(rival, seed, sizes):
        curve.append([step, loss, answers(model, sizes.gap, sizes.sequences).share])
    assert model is not None
    gaps = [gap for gap in sizes.gaps if gap <= rival.farthest]
    row: dict[str, Any] = {
        "rival": name, "seed": seed, "parameters": model.num_parameters(), "state": model.state_numbers(1024),
        "seconds": round(time.perf_counter() - began, 1), "curve": curve, "answers": by_gap(model, gaps, sizes),
    }  # fmt: skip
    if MIXERS[rival.mixer].module is FactorizationMemory:
        with without_faint_writes(model):
            row["without faint writes"] = by_gap(model, gaps, sizes)
    return row


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes, corpus = (TINY if run.tiny else FULL), asdict(read_corpus().description())
    names, seeds = asked_for(run, ASKED, ("fm", "rotary"))
    known = about(corpus, threads=1, **{"steps": sizes.steps, "bytes a step": sizes.batch * sizes.length})
    wanted = [(name, seed) for seed in seeds for name in names]
    return study(run, known, wanted, partial(one_run, sizes=sizes), key, place, said, run.options.processes)


def options(parser: argparse.ArgumentParser) -> None:
    study_options(parser, "rival")


def place(row: dict) -> tuple[int, int]:
    return [*ASKED].index(row["rival"]), row["seed"]


def said(row: dict) -> str:
    shares = "  ".join(f"{gap} {found['share']:.2f}" for gap, found in row["answers"].items())
    return f"{row['rival']}, seed {row['seed']}, {row['seconds']:.0f} s: {shares}"


def table(result: dict) -> str:
    """Shares of right values by the bytes of text between, and the loss on that text, mean and range over seeds."""
    gaps = [gap for gap in result["rows"][0]["answers"]]
    head = ["", "parameters", "seeds", *(f"{int(gap):,}" for gap in gaps), "bits per byte of 1,024 between"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rival, rows in by_rival(result, (*ASKED.values(),)):
        cells = [rival.title, f"{rows[0]['parameters']:,}", str(len(rows))]
        cells += [cell([row["answers"].get(gap, {}).get("share") for row in rows]) for gap in gaps]
        between = [row["answers"]["1024"]["text"] for row in rows if "1024" in row["answers"]]
        lines.append(f"| {' | '.join([*cells, spread(between)])} |")
        if all("without faint writes" in row for row in rows):
            cells = [f"the same, no writes below {FAINT:g}", "", ""]
            cells += [cell([row["without faint writes"][gap]["share"] for row in rows]) for gap in gaps]
            between = [row["without faint writes"].get("1024", {}).get("text") for row in rows]
            lines.append(f"| {' | '.join([*cells, spread([bits for bits in between if bits])])} |")
    return "\n".join(lines)


@matplotlib.rc_context(TEXT)
def draw(result: dict, path: Path) -> None:
    """The share of right values by the bytes of text between: the mean over seeds, and each seed."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    axes = figure.subplots()
    found = by_rival(result, _ASKED)
    for (rival, rows), (colour, dash, marker) in zip(found, STYLES, strict=False):
        gaps = [*rows[0]["answers"]]
        columns = [[row["answers"][gap]["share"] for row in rows] for gap in gaps]
        at = [int(gap) for gap in gaps]
        axes.plot(at, [*map(fmean, columns)], color=colour, ls=dash, marker=marker, lw=2.5, label=rival.title)
        axes.plot(at, columns, color=colour, linewidth=0.8)
    gap_axes(axes, [*FULL.gaps], FULL.gap, PAIRS, luck=1 / len(LETTERS))
    axes.set(xlabel="bytes of text between a definition and its use")
    rival, rows = found[0]
    shown = {int(gap): fmean(row["answers"][gap]["share"] for row in rows) for gap in rows[0]["answers"]}
    lost = next((gap for gap, share in shown.items() if share < max(shown.values()) / 2), None)
    finding = "the names are held" if lost is None else f"half of the names are lost by {lost:,} bytes"
    axes.set_title(f"{rival.title}: {finding}")
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, title="thick: the mean; thin: each seed")
    figure.savefig(path, dpi=110, format="png")


EXPERIMENT = Experiment("recall_in_text", measure, {"": table}, {"recall_in_text.png": draw}, options=options)
