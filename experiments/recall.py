"""Recall over a gap: what a memory was told once, asked for after so many tokens of something else.

A sequence names N different keys, each followed by its value. G random fillers come next, then the N keys again, in
another order and each followed by its value. What counts are the N values at the end. A model is trained on gaps of 0
to 64 tokens, and asked after up to 65,536. All models have two layers and no MLP, and about as many parameters. They
are also asked what none was trained for: a phrase that repeats, other pairs between, keys whose value changes.

Every run is stored as it ends, and a later call goes on from there. Runs differ in their seed: of the weights, and of
the sequences that they are trained on. All are tested on the same sequences.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from experiments.frame import Experiment, Run, about, asked_for, made_on, study, study_options
from experiments.variants import (
    LongDt,
    NoGateNorm,
    NoMergeRate,
    NoNorm,
    NoUpdateRate,
    OneNorm,
    TwoRouters,
    ValuePerSlot,
)
from layers import MIXERS, FactorizationMemory
from layers.router import Routing
from layers.short_convolution import ShortConvolution
from lm.plots import STYLES, TEXT
from lm.run import Settings
from lm.train import optimizer_for

KEYS = VALUES = FILLERS = 64  # tokens of each kind; they follow one another in the vocabulary
VOCABULARY = KEYS + VALUES + FILLERS
KINDS = ("key", "value", "filler")
SHOWN = 8  # the pairs of the table and the figure
DRAWN = ("fm", "fm-sparse 8 of 32", "mamba2", "rotary", "none conv")
LAYERS = 2
FAINT = 1e-3  # a write weight below it is nothing, where that is tried


@dataclass(frozen=True)
class Rival:
    """A mixer with its options, and how it is trained. conv: tokens of a short convolution before it.

    of: the rival that this one is but for its learning rate. It has one run, by which the rate was chosen.
    times: the steps that it trains for, over those of all. stretched: gaps of every tenth batch reach this far.
    shrinks: its tokens touch all slots at first, and fewer and fewer until half of the training is over.
    """

    name: str
    title: str
    mixer: str
    options: dict[str, Any] = field(default_factory=dict)
    width: int = 64
    conv: int = 0
    lr: float = 3e-3
    times: int = 1
    stretched: int = 0
    shrinks: bool = False
    farthest: int = 1 << 16  # attention looks at all tokens, so its time grows with the square
    of: str = ""
    module: type[nn.Module] | None = None  # in place of the mixer's, of which it is a variant

    def model(self, vocabulary: int = VOCABULARY) -> "Model":
        return Model(self, vocabulary)

    def kept(self, progress: float) -> int:
        """Of one that shrinks: the slots that a token touches where this share of the training is over.

        >>> [rival_of("fm-sparse 4 of 16 warm").kept(progress) for progress in (0, 0.25, 0.49, 0.5, 1)]
        [16, 8, 4, 4, 4]
        """
        slots, few = self.options["num_slots"], self.options["top_k"]
        return round(slots * (few / slots) ** min(1, 2 * progress))


# As many parameters take more width where there are fewer projections.
_NEAR: dict[str, Any] = {"farthest": 1 << 12, "width": 80}
_PLAIN = {"num_slots": 32, "conv": 0, "gate": False, "expansion": None, "slot_width": 128}
_FM = {"num_slots": 32}
_MAMBA = {"state_width": 32, "head_width": 32}
_COMPARED = (
    Rival("fm", "FM, 32 slots", "fm", _FM),
    Rival("fm-sparse 8 of 32", "FM, 8 of 32 slots", "fm-sparse", _FM | {"top_k": 8}),
    Rival("mamba2", "Mamba-2, state 4 × 32 × 32", "mamba2", _MAMBA),
    *(
        Rival(
            f"{kind}{' conv' if conv else ''}",
            f"Transformer, {title}{', a convolution before it' if conv else ''}",
            "transformer", {"head_width": 20, "positions": kind}, conv=conv, **_NEAR,
        )
        for conv in (0, 4)
        for kind, title in (("rotary", "rotary positions"), ("none", "no positions"), ("alibi", "ALiBi"))
    ),
    Rival("fm plain", "FM, 32 slots, no convolution, no gate", "fm", _PLAIN, width=80),
    Rival("fm 16", "FM, 16 slots", "fm", {"num_slots": 16}),
    Rival("fm-sparse 4 of 16", "FM, 4 of 16 slots", "fm-sparse", {"num_slots": 16, "top_k": 4}),
)  # fmt: skip
_NEIGHBOURS = (
    Rival("hgrn2", "HGRN2", "hgrn2", {"num_slots": 32, "head_width": 128}),
    Rival("gsa", "GSA", "gsa", {"num_slots": 32, "head_width": 68}, width=68),
    Rival("mom", "MoM, 2 of 4 memories and a shared one", "mom", {"num_slots": 6, "head_width": 128}),
)
_VARIANTS = (
    Rival("no update rate", "FM with η = 1", "fm", _FM, module=NoUpdateRate),
    Rival("no merge rate", "FM with μ = 1", "fm", _FM, module=NoMergeRate),
    Rival("two routers", "FM with an affinity of its own for reading", "fm", _FM, module=TwoRouters),
    Rival("no norm", "FM that reads slots as they are, without their norm", "fm", _FM, module=NoNorm),
    Rival("one norm", "FM with one norm for all slots", "fm", _FM, module=OneNorm),
    Rival("value per slot", "FM that scales the value for each slot", "fm", _FM, module=ValuePerSlot),
    Rival("rates per slot", "FM with η and μ for each slot", "fm", _FM | {"rates": "slot"}),
    Rival("no conv", "FM without the convolution", "fm", _FM | {"conv": 0}),
    Rival("no gate", "FM without the gate", "fm", _PLAIN | {"conv": 4}, width=80),
    Rival("conv first", "FM with the convolution before the router", "fm", _FM | {"conv": 0}, conv=4),
    Rival("no conv, no gate", "FM without the convolution and the gate, no wider", "fm", _PLAIN),
    Rival("no gate norm", "FM without the norm after the gate", "fm", _FM, module=NoGateNorm),
    Rival(
        "no conv, no gate norm",
        "FM without the convolution and the norm after the gate",
        "fm",
        _FM | {"conv": 0},
        module=NoGateNorm,
    ),
)
SLOTS = (
    *(Rival(f"fm {slots}", f"FM, {slots} slots", "fm", {"num_slots": slots}) for slots in (8, 64, 128)),
    *(
        Rival(
            f"fm-sparse {kept} of {slots}", f"FM, {kept} of {slots} slots",
            "fm-sparse", {"num_slots": slots, "top_k": kept},
        )
        for slots, few in ((16, (1, 2, 8)), (32, (1, 2, 4, 16)), (64, (1, 2, 4, 8, 16)), (128, (4, 8, 32)))
        for kept in few
    ),
)  # fmt: skip
_HELPED = (
    *(
        Rival(
            f"fm-sparse 4 of 16 {name}", f"FM, 4 of 16 slots, {title}",
            "fm-sparse", {"num_slots": 16, "top_k": 4} | option,
        )
        for name, title, option in (
            ("noise", "noise of 1 on the router's logits", {"router_noise": 1.0}),
            ("balance", "a balance loss of weight 0.01", {"balance": 0.01}),
            ("hot", "τ = 2", {"temperature": 2.0}),
            ("cold", "τ = 0.5", {"temperature": 0.5}),
        )
    ),
    *(
        Rival(
            f"fm-sparse {few} of {slots} warm", f"FM, first all {slots} slots, from half of the training on {few}",
            "fm-sparse", {"num_slots": slots, "top_k": few}, shrinks=True,
        )
        for slots, few in ((16, 4), (32, 8))
    ),
)  # fmt: skip
_TRAINED = (
    *(
        Rival(f"{name} {word}", f"{title}, {how}", mixer, given, lr=lr, times=times, stretched=stretched)
        for name, title, mixer, given, lr in (
            ("fm", "FM", "fm", _FM, 3e-3),
            ("fm-sparse", "FM, 8 of 32 slots", "fm-sparse", _FM | {"top_k": 8}, 3e-3),
            ("mamba2", "Mamba-2 at a rate of 0.01", "mamba2", _MAMBA, 1e-2),
        )
        for word, how, times, stretched in (
            ("stretched", "every tenth batch has gaps up to 1,024", 1, 1024),
            ("longer", "twice the steps", 2, 0),
        )
    ),
    Rival("mamba2 long dt", "Mamba-2 with dt from 0.00001 at first", "mamba2", _MAMBA, module=LongDt),
    *(
        Rival(
            f"mamba2 long dt stretched{'' if rate == 1e-2 else f' {rate:g}'}",
            f"Mamba-2 with dt from 0.00001, at {rate:g}, every tenth batch has gaps up to 1,024",
            "mamba2", _MAMBA, lr=rate, stretched=1024, module=LongDt,
        )
        for rate in (3e-3, 1e-2)
    ),
    Rival(
        "rotary stretched", "Transformer, rotary, every tenth batch has gaps up to 1,024",
        "transformer", {"head_width": 20}, stretched=1024, **_NEAR,
    ),
)  # fmt: skip
LARGE = tuple(
    Rival(
        f"{name} large{'' if rate == 3e-3 else f' {rate:g}'}", f"{title}, rate {rate:g}",
        mixer, given, width=width, lr=rate, farthest=farthest,
    )
    for name, title, mixer, given, width, farthest in (
        ("fm", "FM, 32 slots", "fm", _FM, 240, 1 << 16),
        ("fm-sparse 8 of 32", "FM, 8 of 32 slots", "fm-sparse", _FM | {"top_k": 8}, 240, 1 << 16),
        ("mamba2", "Mamba-2, state 15 × 32 × 32", "mamba2", _MAMBA, 240, 1 << 16),
        ("rotary", "Transformer, rotary positions", "transformer", {"head_width": 20}, 300, 1 << 12),
    )
    for rate in (1e-3, 3e-3)
)  # fmt: skip
RATES = (1e-3, 3e-3, 1e-2)  # searched; all learn at 3e-3, which in the mean over seeds is best for Mamba-2 too
_SEARCHED = ("fm", "fm-sparse 8 of 32", "mamba2", "rotary", "hgrn2", "gsa", "mom")
RIVALS = (
    _COMPARED
    + _NEIGHBOURS
    + _VARIANTS
    + _TRAINED
    + SLOTS
    + _HELPED
    + LARGE
    + tuple(
        replace(rival, name=f"{rival.name} {rate:g}", lr=rate, of=rival.name)
        for rival in _COMPARED + _NEIGHBOURS
        for rate in RATES
        if rival.name in _SEARCHED and rate != rival.lr
    )
)


NAMES = [rival.name for rival in RIVALS]
WORDS = {  # what no model was trained for
    "phrase": "8 pairs, a phrase of 8 fillers repeats for {gap:,} tokens",
    "pairs": "4 pairs, then {others} pairs of other keys",
    "told again": "4 pairs told twice, the last value counts; {gap} fillers",
}


class Sizes(NamedTuple):
    steps: int
    batch: int
    pairs: tuple[int, ...]  # that training goes through in turn
    gap: int  # the longest in training
    asked: tuple[int, ...]  # pairs of the tests
    gaps: tuple[int, ...]
    sequences: int  # of a test; a quarter as many where gaps are long


FULL = Sizes(2000, 64, (2, 4, 8), 64, (4, 8, 16), (0, 16, 64, 256, 1024, 4096, 16384, 65536), 64)
TINY = Sizes(2, 4, (2, 3), 5, (2, 8), (0, 9), 4)
LIVE = Rival("live", "FM, 32 slots, trained here", "fm", _FM, lr=1e-2)  # what a minute of one core is enough for
LIVE_SIZES = Sizes(1000, 32, (2, 4), 64, (4,), (64, 256, 1024, 4096, 16384), 64)
LONG = 4096
HARDER = (  # kind, pairs, gap
    ("phrase", 8, 1024), ("pairs", 4, 8), ("pairs", 4, 32), ("pairs", 4, 128), ("told again", 4, 64),
)  # fmt: skip


# --- sequences -------------------------------------------------------------------------------------------------


def sequences(generator: torch.Generator, count: int, pairs: int, gap: int, kind: str = "fillers") -> Tensor:
    """Tokens [count, 4 pairs + gap]: pairs, a gap, the pairs in another order.

    kind: what the gap is. "fillers" are random, a "phrase" of eight fillers repeats, "pairs" are of other keys, and
    "told again" are random fillers after all keys have been told twice: the sequence is 2 pairs longer.

    >>> tokens = sequences(torch.Generator().manual_seed(0), 1, pairs=2, gap=3)
    >>> tokens.shape, sorted(tokens[0, 0:4:2].tolist()) == sorted(tokens[0, 7::2].tolist())
    (torch.Size([1, 11]), True)
    """

    def shuffled(size: int) -> Tensor:
        return torch.rand(count, size, generator=generator).argsort(-1)

    def of(first: int, *shape: int) -> Tensor:
        return first + torch.randint(VALUES, (count, *shape), generator=generator)

    order = shuffled(KEYS)
    told = torch.stack([order[:, :pairs], of(KEYS, pairs)], -1)
    if kind == "pairs":
        others = order[:, pairs:].repeat(1, 1 + gap // KEYS)[:, : (gap + 1) // 2]
        between = torch.stack([others, of(KEYS, others.shape[1])], -1).flatten(1)[:, :gap]
    elif kind == "phrase":
        between = of(KEYS + VALUES, 8).repeat(1, 1 + gap // 8)[:, :gap]
    else:
        between = of(KEYS + VALUES, gap)
    parts = [told.flatten(1), between, told.gather(1, shuffled(pairs)[..., None].expand_as(told)).flatten(1)]
    if kind == "told again":
        before = told.gather(1, shuffled(pairs)[..., None].expand_as(told))
        parts.insert(0, torch.stack([before[..., 0], of(KEYS, pairs)], -1).flatten(1))
    return torch.cat(parts, 1)


def answers(tokens: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """The last 2 pairs - 1 tokens, which ask; and the values [count, pairs] that are right after every second one."""
    return tokens[:, -2 * pairs : -1], tokens[:, 1 - 2 * pairs :: 2]


# --- the model -------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, rival: Rival):
        super().__init__()
        row = MIXERS[rival.mixer]
        self.norm = nn.RMSNorm(rival.width, 1e-6)
        self.conv = ShortConvolution(rival.width, rival.conv)
        self.mixer = cast(Any, rival.module or row.module)(rival.width, row.options(**rival.options))

    def forward(self, x: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        before, tail = state
        y, tail = self.conv(self.norm(x), tail)
        y, after = self.mixer(y, before)
        return x + y, (after, tail)


class Model(nn.Module):
    """tokens [B, T] -> what the last norm gives [B, T, width], and the state; `head` makes logits of it."""

    def __init__(self, rival: Rival, vocabulary: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, rival.width)
        nn.init.normal_(self.embedding.weight, std=rival.width**-0.5)
        self.blocks = nn.ModuleList(Block(rival) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(rival.width, 1e-6)
        self.head = nn.Linear(rival.width, vocabulary, bias=False)  # tied to the embedding, some seeds never learn

    def forward(self, tokens: Tensor, state: list | None = None) -> tuple[Tensor, list]:
        x, states = self.embedding(tokens), []
        blocks = cast("list[Block]", self.blocks)
        before = state or [(None, x.new_zeros(len(x), *block.conv.tail_shape)) for block in blocks]
        for block, old in zip(blocks, before, strict=True):
            x, new = block(x, old)
            states.append(new)
        return self.norm(x), states

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def state_numbers(self, position: int) -> int:
        """Numbers that a layer keeps of one sequence after so many tokens."""
        block = cast(Block, self.blocks[0])
        return block.mixer.state_bytes(1, position) // 4 + math.prod(block.conv.tail_shape)


# --- one run ---------------------------------------------------------------------------------------------------


def learn(
    rival: Rival, seed: int, steps: int, losses_of: Callable[[Model, int, torch.Generator], tuple[Tensor, Tensor]],
    vocabulary: int = VOCABULARY, device: str = "cpu",
) -> Iterator[tuple[int, float, Model]]:  # fmt: skip
    """Every hundred steps and at the end: the step, the mean loss since the last, the model.

    losses_of(model, step, generator) -> the loss that is learned from, and the one that is shown.
    """
    torch.manual_seed(seed)
    model, generator = rival.model(vocabulary).to(device), torch.Generator().manual_seed(1000 + seed)
    settings = Settings(steps=steps, lr=rival.lr, warmup=min(100, steps // 2))
    optimizer = optimizer_for(cast(Any, model), settings)
    scheduler, losses = LambdaLR(optimizer, settings.rate), []
    for step in range(1, steps + 1):
        if rival.shrinks:
            for block in cast("list[Block]", model.blocks):
                block.mixer.top_k = rival.kept((step - 1) / steps)
        loss, shown = losses_of(model.train(), step, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        scheduler.step()
        losses.append(shown.item())
        if step % 100 == 0 or step == steps:
            yield step, fmean(losses), model.eval()  # without noise on the router
            losses = []


def train(rival: Rival, seed: int, sizes: Sizes, device: str = "cpu") -> Iterator[tuple[int, float, Model]]:
    """`learn`, from the loss of the answers."""

    def losses_of(model: Model, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs = sizes.pairs[step % len(sizes.pairs)]
        far = rival.stretched > 0 and step % 10 == 0
        gap = int(torch.randint((rival.stretched if far else sizes.gap) + 1, (), generator=generator))
        tokens = sequences(generator, sizes.batch // (4 if far else 1), pairs, gap).to(device)
        _, right = answers(tokens, pairs)
        x, _ = model(tokens[:, :-1])
        loss = F.cross_entropy(model.head(x[:, 1 - 2 * pairs :: 2]).flatten(0, 1), right.flatten())
        return loss, loss

    return learn(rival, seed, rival.times * sizes.steps, losses_of, device=device)


@torch.no_grad()
def recall(model: Model, pairs: int, gap: int, count: int, kind: str = "fillers") -> float:
    """The share of values that are right."""
    tokens = sequences(torch.Generator().manual_seed(10**6 + 1000 * pairs + gap), count, pairs, gap, kind)
    tokens = tokens.to(model.device)
    asks, right = answers(tokens, pairs)
    state = None
    for part in tokens[:, : -2 * pairs].split(LONG, 1):
        _, state = model(part, state)
    x, _ = model(asks, state)
    return (model.head(x[:, ::2]).argmax(-1) == right).double().mean().item()


@torch.no_grad()
def routings(model: nn.Module, tokens: Tensor) -> list[Routing]:
    """The write and read weights of each layer of a model with FM layers, over tokens [B, T]."""
    inputs: list[Tensor] = []
    blocks = cast("list[Block]", list(cast(nn.ModuleList, model.blocks)))
    hooks = [block.mixer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in blocks]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return [block.mixer.route(x) for block, x in zip(blocks, inputs, strict=True)]


@contextmanager
def rewritten(model: nn.Module, layer: int, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within, a layer of a model with FM layers writes with change(theta, kinds) in place of theta.

    theta [B, T, M], or [B, T, K] where it is sparse; kinds [B, T] is 0 for a key, 1 for a value, 2 for a filler.
    """
    mixer, kinds = cast("list[Block]", model.blocks)[layer].mixer, []
    route = mixer._route
    hook = model.register_forward_pre_hook(lambda _, given: kinds.append(given[0] // KEYS))

    def changed(logits: Tensor, rates: tuple[Tensor, Tensor]) -> Routing:
        routing = route(logits, rates)
        return routing._replace(theta=change(routing.theta, kinds[-1]))

    try:
        with patch.object(mixer, "_route", changed):
            yield
    finally:
        hook.remove()


@contextmanager
def without_faint_writes(model: nn.Module) -> Iterator[None]:
    """Within, no layer writes where theta is below FAINT. Nothing is trained for it."""
    with ExitStack() as layers:
        for layer in range(LAYERS):
            layers.enter_context(rewritten(model, layer, lambda theta, _: theta * (theta >= FAINT)))
        yield


@torch.no_grad()
def gates(model: Model, pairs: int = 8, gap: int = 256, count: int = 16) -> list[dict[str, list[float]]]:
    """By layer and kind of token: the mean theta of every slot, while pairs are told and fillers pass."""
    tokens = sequences(torch.Generator().manual_seed(10**6), count, pairs, gap)[:, : 2 * pairs + gap]
    tokens = tokens.to(model.device)
    kinds, rows = tokens.div(KEYS, rounding_mode="floor"), []  # 0, 1, 2 as in KINDS
    for block, (theta, _, slots) in zip(cast("list[Block]", model.blocks), routings(model, tokens), strict=True):
        if slots is not None:
            theta = theta.new_zeros(*theta.shape[:2], block.mixer.num_slots).scatter(-1, slots, theta)
        rows.append({kind: theta[kinds == i].mean(0).tolist() for i, kind in enumerate(KINDS)})
    return rows


def half_life(layer: dict[str, list[float]]) -> float:
    """Fillers until half of what values wrote is gone, if every filler took theta as the mean one does; at most 1e12.

    >>> round(half_life({"value": [0.5, 0.0], "filler": [0.001, 0.9]}), 2)
    692.8
    """

    def left(fillers: float) -> float:
        return sum(v * (1 - f) ** fillers for v, f in zip(layer["value"], layer["filler"], strict=True))

    low, high = 0.0, 12.0  # powers of ten
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(10**middle) > sum(layer["value"]) / 2 else (low, middle)
    return 10**high


def one_run(name: str, seed: int, sizes: Sizes, device: str = "cpu") -> dict:
    """Train a rival and test it."""
    rival, began, curve = rival_of(name), time.perf_counter(), []
    model = None
    for step, loss, model in train(rival, seed, sizes, device):
        curve.append([step, loss, recall(model, SHOWN, sizes.gap, sizes.sequences)])
    assert model is not None
    shares = {
        str(pairs): {
            str(gap): recall(model, pairs, gap, sizes.sequences // (4 if gap >= LONG else 1))
            for gap in sizes.gaps if gap <= (rival.farthest if pairs == SHOWN else LONG)
        }
        for pairs in sizes.asked
    }  # fmt: skip
    harder = [
        {"kind": kind, "pairs": pairs, "gap": gap, "recall": recall(model, pairs, gap, sizes.sequences, kind)}
        for kind, pairs, gap in HARDER if gap <= max(sizes.gaps)
    ]  # fmt: skip
    row = {
        "rival": name, "seed": seed, "parameters": model.num_parameters(), "state": model.state_numbers(1024),
        "seconds": round(time.perf_counter() - began, 1), "curve": curve, "recall": shares,
        "harder": harder, **made_on(device),
    }  # fmt: skip
    if isinstance(cast(Block, model.blocks[0]).mixer, FactorizationMemory):
        row["gates"] = gates(model)
        with without_faint_writes(model):
            row["without faint writes"] = {
                str(gap): recall(model, SHOWN, gap, sizes.sequences // (4 if gap >= LONG else 1))
                for gap in sizes.gaps if gap >= sizes.gap
            }  # fmt: skip
    return row


def rival_of(name: str) -> Rival:
    return RIVALS[NAMES.index(name)]


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes = TINY if run.tiny else FULL
    names, seeds = asked_for(run, NAMES, ("fm", "mamba2", "none conv"))
    if not run.options.only and run.options.device == "cpu":
        names = [name for name in names if rival_of(name) not in LARGE]  # on a CPU they take a day
    training = {"steps": sizes.steps, "sequences a step": sizes.batch}
    wanted = [(name, seed) for seed in seeds for name in names if not (rival_of(name).of and seed)]
    one = partial(one_run, sizes=sizes, device=run.options.device)
    return study(run, about(None, threads=1, **training), wanted, one, key, place, said, run.options.processes)


def key(row: dict) -> tuple[str, int]:
    return row["rival"], row["seed"]


def place(row: dict) -> tuple[int, int]:
    return NAMES.index(row["rival"]), row["seed"]


def said(row: dict) -> str:
    shares = "  ".join(f"{gap} {share:.2f}" for gap, share in row["recall"][str(SHOWN)].items())
    return f"{row['rival']}, seed {row['seed']}, {row['seconds']:.0f} s: {shares}"


def options(parser: argparse.ArgumentParser) -> None:
    study_options(parser, "rival", device=True)


def by_rival(result: dict, rivals: tuple[Rival, ...] = _COMPARED) -> list[tuple[Rival, list[dict]]]:
    """Those of these rivals that have runs, in their order."""
    rows = [(rival, [row for row in result["rows"] if row["rival"] == rival.name]) for rival in rivals]
    return [(rival, of_it) for rival, of_it in rows if of_it]


def table(result: dict, rivals: tuple[Rival, ...] = _COMPARED) -> str:
    """Shares of right values at 8 pairs: the mean over seeds, lowest to highest."""
    gaps = [str(gap) for gap in (64, 256, 1024, 4096, 16384, 65536)]
    head = ["", "parameters", "state", "seeds", "steps to 0.95", *(f"{int(gap):,}" for gap in gaps)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rival, rows in by_rival(result, rivals):
        shares = [[row["recall"][str(SHOWN)].get(gap) for row in rows] for gap in gaps]
        state = "grows" if rival.mixer == "transformer" else f"{rows[0]['state']:,}"
        cells = [rival.title, f"{rows[0]['parameters']:,}", state, str(len(rows)), steps_to(0.95, rows)]
        cells += map(cell, shares)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_to(share: float, rows: list[dict]) -> str:
    """Steps until recall after the longest gap of training is this large, lowest to highest over runs.

    >>> steps_to(0.95, [{"curve": [[100, 4.2, 0.5], [200, 0.3, 0.96]]}, {"curve": [[100, 4.2, 0.5]]}])
    '200, 1 never'
    """
    found = [next((step for step, _, recalled in row["curve"] if recalled >= share), None) for row in rows]
    reached, never = sorted(step for step in found if step), found.count(None)
    words = [f"{never} never"] if never else []
    if reached:
        words.insert(0, f"{reached[0]:,}" + (f"–{reached[-1]:,}" if reached[-1] > reached[0] else ""))
    return ", ".join(words)


def rates(result: dict) -> str:
    """What learning rates give: recall after the longest gap of training and after a long one, with so many seeds."""
    rows = {rival.name: of_it for rival, of_it in by_rival(result, RIVALS)}
    searched = dict.fromkeys(rival.of for rival in RIVALS if rival.of and rival.name in rows and rival.of in rows)
    head = ["recall after 64; after 4,096 (seeds)", *(f"{rate:g}" for rate in RATES)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name in searched:
        cells = [rival_of(name).title]
        for rate in RATES:
            found = rows.get(name if rate == rival_of(name).lr else f"{name} {rate:g}", [])
            near, far = ([row["recall"][str(SHOWN)][gap] for row in found] for gap in ("64", "4096"))
            cells.append(f"{cell(near)}; {cell(far)} ({len(found)})" if found else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def matters(result: dict) -> str:
    """The same of FM with a part changed, FM itself above; last, without convolution and gate but wider for it."""
    return table(result, (rival_of("fm"), *_VARIANTS, rival_of("fm plain")))


def trained(result: dict) -> str:
    """What longer training, and training with longer gaps, make of those that forget."""
    return table(result, _TRAINED)


def slots(result: dict) -> str:
    """What numbers of slots hold, dense and sparse, also of twice the pairs of training."""
    asked = ((SHOWN, "64"), (SHOWN, "65536"), (2 * SHOWN, "64"), (2 * SHOWN, "4096"))
    head = ["", "parameters", "state", "seeds", "steps to 0.95"]
    head += [f"{pairs} pairs after {int(gap):,}" for pairs, gap in asked]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rival, rows in sorted(by_rival(result, _COMPARED + SLOTS), key=_by_slots):
        if rival.mixer in ("fm", "fm-sparse") and rival.name != "fm plain":
            cells = [rival.title, f"{rows[0]['parameters']:,}", f"{rows[0]['state']:,}", str(len(rows))]
            cells += [steps_to(0.95, rows)]
            cells += [cell([row["recall"].get(str(pairs), {}).get(gap) for row in rows]) for pairs, gap in asked]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@matplotlib.rc_context(TEXT)
def draw_slots(result: dict, path: Path) -> None:
    """Recall by the slots that a token touches, a line for each number of slots: near, far, and of twice the pairs."""
    shapes: dict[int, dict[int, list[dict]]] = {}
    for rival, rows in sorted(by_rival(result, _COMPARED + SLOTS), key=_by_slots):
        if rival.mixer in ("fm", "fm-sparse") and rival.name != "fm plain":
            slots = rival.options["num_slots"]
            shapes.setdefault(slots, {})[rival.options.get("top_k", slots)] = rows
    begun_dense = {rival.options["top_k"]: rows for rival, rows in by_rival(result, _HELPED) if rival.shrinks}
    lines = [(f"{slots} slots", kept, STYLES[i % len(STYLES)]) for i, (slots, kept) in enumerate(shapes.items())]
    figure = Figure(figsize=(14, 5.6), layout="constrained")
    asked = ((SHOWN, FULL.gap), (SHOWN, max(FULL.gaps)), (2 * SHOWN, FULL.gap))
    for axes, (pairs, gap) in zip(figure.subplots(1, 3, sharey=True), asked, strict=True):

        def shares(kept: dict[int, list[dict]], pairs=str(pairs), gap=str(gap)) -> dict[int, list[float]]:
            rows = {k: [row["recall"].get(pairs, {}).get(gap) for row in kept[k]] for k in sorted(kept)}
            return {k: found for k, of_it in rows.items() if (found := [v for v in of_it if v is not None])}

        for label, kept, (colour, dash, marker) in [*lines, ("begun dense", begun_dense, ("black", "", "*"))]:
            found = shares(kept)
            size = 13 if marker == "*" else None
            axes.plot(
                [*found], [*map(fmean, found.values())],
                color=colour, linestyle=dash, marker=marker, markersize=size, label=label,
            )  # fmt: skip
            for k, values in found.items():
                axes.plot([k] * len(values), values, marker, color=colour, alpha=0.35, markersize=4)
        axes.axhline(unbound(pairs), color="black", linewidth=1, linestyle=":")
        axes.set(xlabel="slots that a token touches", xlim=(0.85, 150), ylim=(-0.02, 1.04))
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(8)]
        axes.set_xticks(ticks, [*map(str, ticks)])
        axes.set_title(f"{pairs} pairs after {gap:,} fillers")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of values that are right")
    words = "which values, not whose"
    figure.axes[0].annotate(words, (128, unbound(SHOWN)), ha="right", va="bottom", fontsize="small")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=110, format="png")


def _by_slots(found: tuple[Rival, list[dict]]) -> tuple[int, int]:
    """Few slots first; of as many, those of which a token touches most."""
    options = found[0].options
    return options.get("num_slots", 0), -options.get("top_k", options.get("num_slots", 0))


def neighbours(result: dict) -> str:
    """FM, and memories of gated slots with a state as large, in the same block."""
    return table(result, (rival_of("fm"), rival_of("fm-sparse 8 of 32"), *_NEIGHBOURS))


def large(result: dict) -> str:
    """Ten times the parameters, at two learning rates."""
    return table(result, LARGE)


def helped(result: dict) -> str:
    """What noise, balance, temperature and a dense beginning do for sparse slots that learn badly."""
    *few, many = _HELPED
    return table(result, (rival_of("fm-sparse 4 of 16"), *few, rival_of("fm-sparse 8 of 32"), many))


def harder(result: dict) -> str:
    """Shares of right values where the gap or the telling is of a kind that no model was trained for."""
    asked = result["rows"][0]["harder"]
    head = [WORDS[row["kind"]].format(gap=row["gap"], others=row["gap"] // 2) for row in asked]
    lines = [f"| {' | '.join(['', *head])} |", "| --- " * (1 + len(head)) + "|"]
    for rival, rows in by_rival(result):
        cells = [[row["harder"][i]["recall"] for row in rows] for i in range(len(asked))]
        lines.append(f"| {' | '.join([rival.title, *map(cell, cells)])} |")
    return "\n".join(lines)


def waste(result: dict) -> str:
    """What fillers do to the slots of each FM, by layer, beside what was measured."""
    head = ["run", "half-life by layer, from θ", "fillers' writing that one slot takes", "recall after 1,024", "65,536"]
    head.append(f"65,536, no writes below {FAINT:g}")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rival, rows in by_rival(result):
        for row in rows:
            if "gates" in row:
                lives = ", ".join(f"{half_life(layer):,.3g}" for layer in row["gates"])
                shares = ", ".join(f"{max(layer['filler']) / sum(layer['filler']):.0%}" for layer in row["gates"])
                far = [row["recall"][str(SHOWN)].get(gap) for gap in ("1024", "65536")]
                far.append(row.get("without faint writes", {}).get("65536"))
                cells = [f"{rival.title}, seed {row['seed']}", lives, shares, *(cell([share]) for share in far)]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(shares: list[float | None]) -> str:
    found = [share for share in shares if share is not None]
    if not found:
        return "–"
    low, high = min(found), max(found)
    return f"{fmean(found):.2f}" + (f" ({low:.2f}–{high:.2f})" if len(found) > 1 else "")


@matplotlib.rc_context(TEXT)
def draw(result: dict, path: Path) -> None:
    """Recall by gap, mean and range over seeds; and what one run's slots let fillers write."""
    figure = Figure(figsize=(14, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    found = [(rival, rows) for rival, rows in by_rival(result) if rival.name in DRAWN]
    for (rival, rows), (colour, dash, marker) in zip(found, STYLES, strict=False):
        shares = [row["recall"][str(SHOWN)] for row in rows]
        gaps = [gap for gap in shares[0] if int(gap)]
        columns = [[share[gap] for share in shares] for gap in gaps]
        at = [int(gap) for gap in gaps]
        left.plot(at, [*map(fmean, columns)], color=colour, linestyle=dash, marker=marker, label=rival.title)
        left.fill_between(at, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.15, linewidth=0)
    gap_axes(left, [gap for gap in FULL.gaps if gap], FULL.gap, SHOWN)
    left.set_title(f"Who still knows {SHOWN} pairs, and for how long")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    row = next(row for row in result["rows"] if "gates" in row)
    layer = row["gates"][-1]
    order = sorted(range(len(layer["filler"])), key=lambda slot: -layer["filler"][slot])
    for kind, (colour, dash, marker) in zip(KINDS, STYLES, strict=False):
        theta = [layer[kind][slot] for slot in order]
        right.plot(range(1, 1 + len(order)), theta, color=colour, linestyle=dash, marker=marker, label=f"of a {kind}")
    share = layer["filler"][order[0]] / sum(layer["filler"])
    right.set_yscale("log")
    right.set(xlabel=f"slots of layer {LAYERS}, by what fillers write", ylabel="mean write weight θ")
    right.set_title(f"{share:.0%} of the fillers' writing is in\none slot ({rival_of(row['rival']).title}, one run)")
    right.legend()
    figure.savefig(path, dpi=110, format="png")


def unbound(pairs: int) -> float:
    """The share that is right of one who knows which values were told, not whose, and leaves out those named already.

    >>> unbound(2)  # one of two, then the one that is left
    0.75
    """
    return fmean(1 / left for left in range(1, 1 + pairs))


def gap_axes(axes: Axes, gaps: list[int], trained: int, pairs: int, luck: float = 1 / VALUES) -> None:
    for share, word in ((luck, "luck"), (unbound(pairs), "which values, not whose")):
        axes.axhline(share, color="black", linewidth=1, linestyle=":")
        axes.annotate(word, (1, share), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize="small")
    axes.axvline(trained, color="black", linewidth=1)
    axes.text(trained * 1.1, 0.05, "longest gap\nin training", va="bottom", fontsize="small")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="fillers between telling and asking", ylabel="share of values that are right", ylim=(-0.02, 1.04))
    axes.set_xticks(gaps, [f"{gap:,}" for gap in gaps], rotation=30)


def beside(result: dict, live: dict[int, float]) -> str:
    """For a terminal: the model that was trained just now, and those that are stored, their mean over seeds."""
    (pairs,) = LIVE_SIZES.asked
    rows = {f"right after so many fillers, {pairs} pairs": [f"{gap:,}" for gap in live]}
    rows[LIVE.title] = [f"{share:.2f}" for share in live.values()]
    for title, shares in _stored_means(result, pairs).items():
        rows[title] = [f"{shares[gap]:.2f}" if gap in shares else "–" for gap in live]
    return "\n".join(f"{title:50}" + "".join(f"{cell:>8}" for cell in cells) for title, cells in rows.items())


@matplotlib.rc_context(TEXT)
def draw_live(result: dict, live: dict[int, float], path: Path) -> None:
    """Recall of the model that was trained just now, beside those that are stored, their mean over seeds."""
    (pairs,) = LIVE_SIZES.asked
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([*live], [*live.values()], color="black", linewidth=3, marker="o", label=LIVE.title)
    for (title, shares), (colour, dash, marker) in zip(_stored_means(result, pairs).items(), STYLES, strict=False):
        axes.plot([*shares], [*shares.values()], color=colour, linestyle=dash, marker=marker, label=title)
    gap_axes(axes, [gap for gap in FULL.gaps if 0 < gap <= max(live)], LIVE_SIZES.gap, pairs)
    axes.set_title(f"Who still knows {pairs} pairs, and for how long")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=110, format="png")


def _stored_means(result: dict, pairs: int) -> dict[str, dict[int, float]]:
    """By title of those that are drawn: recall by gap, the mean over seeds."""
    means = {}
    for rival, rows in by_rival(result):
        if rival.name in DRAWN:
            shares = [row["recall"][str(pairs)] for row in rows]
            means[rival.title] = {int(gap): fmean(share[gap] for share in shares) for gap in shares[0] if int(gap)}
    return means


TABLES = {
    "shares": table, "waste": waste, "harder": harder, "rates": rates, "trained": trained, "matters": matters,
    "slots": slots, "helped": helped, "neighbours": neighbours, "large": large,
}  # fmt: skip
EXPERIMENT = Experiment(
    "recall", measure, TABLES, {"recall.png": draw, "recall_slots.png": draw_slots}, options=options
)
