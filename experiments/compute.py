"""Loss against compute: what each mixer reaches with so many FLOPs of training, by size, with seeds.

All models have four layers and heads of 16, and else the defaults. A model of width w reads 600 w² tokens. Its blocks
have about 40 w² parameters, so each of these gets about 15 tokens. The loss is the mean of bits per byte over windows
of the validation split, as long as those of training: all positions count, and none is beyond the training length.

FLOPs are counted, not timed. A multiplication and an addition are one each. Each weight of a matrix takes two a token,
the output layer's too. What the mixer does besides is counted for the loop, whatever form computes it: a backward pass
takes twice its forward. Norms, activations and the softmax are left out.

On a GPU (--device cuda) the Triton kernels train the FMs. Weights at first and batches are those of a CPU. So a run may
be made on both, which the rows under "again" were.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import nn

from experiments.frame import SEED, Experiment, Run, UsageError, about, asked_for, made_on, study, study_options
from experiments.length import spread
from layers import MIXERS, AttentionConfig, DenseConfig, Mamba2Config
from lm import pretrained
from lm.data import Corpus, DataError, even_windows, read_corpus
from lm.loss import held_out_loss
from lm.model import Config, LanguageModel
from lm.plots import STYLES, TEXT
from lm.run import Settings
from lm.train import train

DRAWS = 2000  # bootstrap resamples
ENOUGH = 3  # seeds that make an interval


class Sizes(NamedTuple):
    widths: tuple[int, ...]
    tokens: int  # that a model reads, over its width squared
    config: dict[str, Any]  # in place of defaults
    settings: dict[str, Any]
    windows: int  # at most, to measure the loss on

    def asked(self, mixer: str, width: int, seed: int) -> tuple[Config, Settings]:
        """What a run is trained with. A tenth of its steps are warm-up."""
        settings = Settings(seed=seed, **self.settings)
        steps = self.tokens * width**2 // (settings.batch * settings.length)
        more = self.settings | {"steps": steps, "warmup": steps // 10, "evaluate_every": steps}
        return Config.lenient(mixer, d_model=width, **self.config), Settings(seed=seed, **more)


FULL = Sizes((32, 48, 80), 600, {"head_width": 16}, {}, 512)
TINY = Sizes(
    (8, 16), 1, {"num_layers": 1, "num_slots": 4, "top_k": 2, "head_width": 8, "state_width": 4},
    {"batch": 2, "length": 8}, 2,
)  # fmt: skip


# --- FLOPs -----------------------------------------------------------------------------------------------------


def memory_flops(config: Config, length: int) -> float:
    """Factorization Memory: 7 S D + 2 w D.

    S slots of D numbers, all M or the K of a sparse token, and a convolution of width w. A number of a slot takes three
    to be written, (1 - theta) h + theta value; two for the norm; two to be read.
    """
    options = config.options
    assert isinstance(options, DenseConfig)
    width = options.width(config.d_model)
    return 7 * (options.top_k or options.num_slots) * width + 2 * options.conv * width


def mamba2_flops(config: Config, length: int) -> float:
    """Mamba-2: 5 N D + 2 w (D + 2 G N).

    N numbers for each of D channels, G groups, and a convolution of width w over x, B and C. A number of the state
    takes three to be written, a h + B (dt x), and two to be read.
    """
    options = config.options
    assert isinstance(options, Mamba2Config)
    inner = options.expansion * config.d_model
    convolved = inner + 2 * options.num_groups * options.state_width
    return 5 * options.state_width * inner + 2 * options.conv * convolved


def attention_flops(config: Config, length: int) -> float:
    """Attention: 4 d S.

    S is the mean number of tokens that a token sees in a window of `length`: (T + 1) / 2 without a sliding window. Each
    takes two for every number of its key, and two for every number of its value.
    """
    options = config.options
    assert isinstance(options, AttentionConfig)
    seen = fmean(min(t, options.window or length) for t in range(1, length + 1))
    return 4 * config.d_model * seen


BESIDES_MATRICES: dict[str, Callable[[Config, int], float]] = {
    "fm": memory_flops, "fm-sparse": memory_flops, "mamba2": mamba2_flops, "transformer": attention_flops,
}  # fmt: skip


def matrix_parameters(model: LanguageModel) -> int:
    """Weights of projections; those of the embedding count once, as the output layer."""
    linear = (module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return sum(linear) + model.embedding.weight.numel()


def training_flops(model: LanguageModel, settings: Settings) -> float:
    """Of a whole training: 6 a matrix parameter and token, and three times what a layer does besides."""
    config = model.config
    besides = config.num_layers * BESIDES_MATRICES[config.mixer](config, settings.length)
    tokens = settings.steps * settings.batch * settings.length
    return tokens * (6 * matrix_parameters(model) + 3 * besides)


# --- the study -------------------------------------------------------------------------------------------------


@cache
def text(path: str | None = None) -> Corpus:
    try:
        return read_corpus(path)
    except DataError as error:
        raise UsageError(" ".join(str(error).split())) from error


def one_run(mixer: str, width: int, seed: int, *, sizes: Sizes, source: str | None = None, device: str = "cpu") -> dict:
    """Train a model and measure its loss on text that it has not seen."""
    began, corpus = time.perf_counter(), text(source)
    config, settings = sizes.asked(mixer, width, seed)
    with tempfile.TemporaryDirectory() as folder:
        model = train(config, settings, corpus, folder, quiet=True, device=device)
    windows = even_windows(corpus.stream("validation"), sizes.windows, settings.length).to(device)
    return {
        "mixer": mixer, "width": width, "seed": seed, "parameters": model.num_parameters(), "steps": settings.steps,
        "flops": training_flops(model, settings), "bits per byte": held_out_loss(model, windows, settings.batch),
        "seconds": round(time.perf_counter() - began, 1), **made_on(device),
    }  # fmt: skip


def measure(run: Run) -> dict:
    sizes = TINY if run.tiny else FULL
    mixers, seeds = asked_for(run, pretrained.comparable())
    rate = Settings(**sizes.settings)
    how = {"tokens over width squared": sizes.tokens, "bytes a window": rate.length, "windows a step": rate.batch}
    source, device = run.options.text, run.options.device
    known = about(
        asdict(text(source).description()), threads=1, lr=rate.lr, windows=sizes.windows, **how, **sizes.config
    )
    widths = run.options.widths or sizes.widths
    wanted = [(mixer, width, seed) for seed in seeds for width in widths for mixer in mixers]
    one = partial(one_run, sizes=sizes, source=source, device=device)
    return study(run, known, wanted, one, key, place, said, run.options.processes)


def key(row: dict) -> tuple[str, int, int]:
    return row["mixer"], row["width"], row["seed"]


def place(row: dict) -> tuple[int, int, int]:
    return [*MIXERS].index(row["mixer"]), row["width"], row["seed"]


def said(row: dict) -> str:
    size = f"{row['parameters']:,} parameters, seed {row['seed']}"
    return f"{row['mixer']}, {size}, {row['seconds']:.0f} s: {row['bits per byte']:.3f} bits per byte"


def options(parser: argparse.ArgumentParser) -> None:
    study_options(parser, "mixer and size", only=False, device=True)
    parser.add_argument("--widths", type=int, nargs="*", help="of the models (default: 32, 48 and 80)")
    parser.add_argument("--text", help="file or folder of text (default: the source of Python's library)")


# --- what shows it ---------------------------------------------------------------------------------------------


def by_size(result: dict) -> dict[str, dict[int, list[dict]]]:
    """By mixer and width, the rows of all seeds."""
    found: dict[str, dict[int, list[dict]]] = {}
    for row in result["rows"]:
        found.setdefault(row["mixer"], {}).setdefault(row["width"], []).append(row)
    return found


def bits(rows: list[dict]) -> list[float]:
    return [row["bits per byte"] for row in rows]


def table(result: dict) -> str:
    """Bits per byte by mixer and size: the mean over seeds, lowest to highest."""
    head = ["", "width", "parameters", "steps", "training FLOPs, 10¹²", "seeds", "bits per byte"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for mixer, sizes in by_size(result).items():
        for width, rows in sizes.items():
            first = rows[0]
            counts = [
                str(width),
                f"{first['parameters']:,}",
                f"{first['steps']:,}",
                f"{first['flops'] / 1e12:#.3g}".rstrip("."),
            ]
            cells = [MIXERS[mixer].title, *counts, str(len(rows)), spread(bits(rows), 3)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def slope(rows: list[dict]) -> float:
    """Of log loss against log FLOPs, by least squares; nan where all FLOPs are the same.

    >>> rows = [{"flops": C, "bits per byte": 3 * C**-0.1} for C in (1e9, 1e10, 1e12)]
    >>> round(slope(rows), 6)
    -0.1
    """
    if len({row["flops"] for row in rows}) < 2:
        return math.nan
    x, y = (np.log([row[name] for row in rows]) for name in ("flops", "bits per byte"))
    x = x - x.mean()
    return float(x @ y / (x @ x))


def fitted(result: dict) -> list[int]:
    """The widths that all mixers have with enough seeds; where there are none, as in a first look, all widths."""
    found = by_size(result).values()
    widths = [*dict.fromkeys(width for sizes in found for width in sizes)]
    return [w for w in widths if all(len(sizes.get(w, [])) >= ENOUGH for sizes in found)] or widths


def of_seeds(result: dict, mixer: str) -> list[float]:
    """The slope of each seed that has all sizes that are fitted."""
    widths, seeds = fitted(result), {}
    sizes = {width: rows for width, rows in by_size(result)[mixer].items() if width in widths}
    for rows in sizes.values():
        for row in rows:
            seeds.setdefault(row["seed"], []).append(row)
    return [slope(rows) for _, rows in sorted(seeds.items()) if len(rows) == len(sizes)]


def interval(slopes: list[float]) -> tuple[float, float] | None:
    """95 % of the slope over all runs, whose seeds are drawn with replacement; None with fewer than three of them.

    All seeds have the same FLOPs. So the slope over all runs is the mean of theirs.
    """
    if len(slopes) < ENOUGH:
        return None
    drawn = np.random.default_rng(SEED).choice(slopes, (DRAWS, len(slopes))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def fit(result: dict) -> str:
    """The slope of each mixer, and what it makes of ten times the FLOPs."""
    head = ["", "seeds", "slope", "95 % interval over seeds", "loss after ten times the FLOPs"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for mixer in by_size(result):
        slopes = of_seeds(result, mixer)
        between, mean = interval(slopes), fmean(slopes) if slopes else math.nan
        cells = [f"{mean:.3f}", "{:.3f} to {:.3f}".format(*between) if between else "–", f"× {10**mean:.2f}"]
        cells = cells if math.isfinite(mean) else ["–"] * len(cells)
        lines.append(f"| {' | '.join([MIXERS[mixer].title, str(len(slopes)), *cells])} |")
    return "\n".join(lines)


def again(result: dict) -> str:
    """Runs that were made on a CPU and, from the same weights and batches, on a GPU."""
    head = ["", "parameters", "steps", "bits per byte on a CPU", "on a GPU", "difference"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    here = {key(row): row for row in result["rows"]}
    for there in result.get("again", []):
        losses = [row["bits per byte"] for row in (here[key(there)], there)]
        cells = [MIXERS[there["mixer"]].title, f"{there['parameters']:,}", f"{there['steps']:,}"]
        cells += [*(f"{loss:.5f}" for loss in losses), f"{round(losses[1] - losses[0], 5) + 0.0:+.5f}"]  # no -0.00000
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@matplotlib.rc_context(TEXT)
def draw(result: dict, path: Path) -> None:
    """Loss against FLOPs: a point a run, a line through the means of a mixer."""
    figure = Figure((10, 6.2), layout="constrained")
    axes = figure.subplots()
    for (mixer, sizes), (colour, dash, marker) in zip(by_size(result).items(), cycle(STYLES), strict=False):
        flops = [rows[0]["flops"] for rows in sizes.values()]
        means = [fmean(bits(rows)) for rows in sizes.values()]
        axes.plot(flops, means, color=colour, linestyle=dash, linewidth=2, marker=marker, label=MIXERS[mixer].title)
        for rows in sizes.values():
            axes.plot([row["flops"] for row in rows], bits(rows), marker, color=colour, alpha=0.4, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs of training, 10¹²", ylabel="loss (bits per byte)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda flops, _: f"{flops / 1e12:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    found = bits(result["rows"])
    ticks = [k / 4 for k in range(math.ceil(4 * min(found)), math.floor(4 * max(found)) + 1)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.set_title(finding(result))
    axes.legend()
    figure.savefig(path, dpi=110)


def finding(result: dict) -> str:
    slopes = [fmean(of_it) for mixer in by_size(result) if (of_it := of_seeds(result, mixer))]
    if not slopes or not all(map(math.isfinite, slopes)):
        return "Loss by the FLOPs of training"
    low, high = (f"{10**side:.2f}" for side in (min(slopes), max(slopes)))
    between = low if low == high else f"{low} to {high}"
    all_of_it = {row["width"] for row in result["rows"]} == {*fitted(result)}
    most = max(row["parameters"] for row in result["rows"] if row["width"] in fitted(result))
    upto = "" if all_of_it else f" (up to {most / 1e6:.2f}M parameters)"
    return f"Ten times the FLOPs multiply the loss by {between}{upto}"


EXPERIMENT = Experiment(
    "compute", measure, {"": table, "fit": fit, "again": again}, {"compute.png": draw}, options=options
)
