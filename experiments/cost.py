"""Cost: what training and decoding take by length, the mixers side by side on this machine.

Models are those that are bundled, as they are at first, with the defaults of Config. A step of training is a forward, a
backward and an update on about as many tokens, whatever the length of a window. Decoding is a token of one sequence,
without sampling. The mixers take turns at each length, so rows of one length belong together, and are stored together.
"""

import math
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.frame import SEED, Experiment, Run, about, extra_memory, medians
from experiments.speed_dense import SMALL_MODEL, training_step
from layers import MIXERS
from lm import pretrained
from lm.model import Config, LanguageModel
from lm.plots import STYLES, TEXT


class Sizes(NamedTuple):
    tokens: int  # of a step of training, where a window is no longer
    training: dict[int, int]  # rounds by tokens of a window; each round has a step that does not count
    decoding: dict[int, int]  # rounds by position
    calls: int  # tokens timed as one
    model: dict[str, int]  # what is not the default


FULL = Sizes(
    4096, {256: 7, 1024: 7, 4096: 5, 16384: 3}, {256: 9, 1024: 9, 4096: 9, 16384: 9}, 20, {}
)  # fmt: skip
TINY = Sizes(32, {16: 1}, {4: 1, 8: 1}, 2, SMALL_MODEL)


# --- training --------------------------------------------------------------------------------------------------


def step_of(mixer: str, batch: int, length: int, model: dict[str, int]) -> Callable[[], object]:
    """A step of training on random tokens."""
    generator = torch.Generator().manual_seed(SEED)
    return training_step(mixer, torch.randint(256, (batch, length + 1), generator=generator), **model)


def first_step_of(mixer: str, batch: int, length: int, model: dict[str, int]) -> Callable[[], object]:
    """The same, after a small one of another model: what a first call loads and compiles is not of its size."""
    step_of(mixer, 1, 16, SMALL_MODEL)()
    return step_of(mixer, batch, length, model)


def training_rows(length: int, mixers: list[str], sizes: Sizes) -> list[dict]:
    batch = max(1, sizes.tokens // length)
    steps = {mixer: step_of(mixer, batch, length, sizes.model) for mixer in mixers}
    took = medians(steps, sizes.training[length])
    return [
        {
            "what": "training", "at": length, "mixer": mixer, "windows": batch, "seconds": took[mixer],
            "tokens a second": batch * length / took[mixer],
            "extra bytes": extra_memory(first_step_of, mixer, batch, length, sizes.model),
        }
        for mixer in mixers
    ]  # fmt: skip


# --- decoding --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def token_at(model: LanguageModel, position: int) -> Callable[[], torch.Tensor]:
    """The token after so many, as often as it is called: its logits."""
    tokens = torch.randint(256, (1, position + 1), generator=torch.Generator().manual_seed(SEED))
    _, state = model(tokens[:, : position - 1])
    _, state = model.step_(tokens[:, position - 1 : position], state)  # which makes room in a cache

    @torch.inference_mode()
    def run() -> torch.Tensor:
        # From the same state each time, so that its position stays: a cache has its last place written again, and a
        # memory of fixed size takes the token once more.
        return model.step_(tokens[:, position:], state)[0]

    return run


def decoding_rows(position: int, mixers: list[str], sizes: Sizes) -> list[dict]:
    models = {}
    for mixer in mixers:
        torch.manual_seed(SEED)
        models[mixer] = LanguageModel(Config.lenient(mixer, **sizes.model)).eval()
    calls = {mixer: token_at(model, position) for mixer, model in models.items()}
    took = medians(calls, sizes.decoding[position], calls_a_time=sizes.calls)
    return [
        {
            "what": "decoding", "at": position, "mixer": mixer, "seconds": took[mixer],
            "state bytes": models[mixer].state_bytes(1, position),
        }
        for mixer in mixers
    ]  # fmt: skip


# --- the study -------------------------------------------------------------------------------------------------


def measure(run: Run) -> dict:
    sizes, mixers = TINY if run.tiny else FULL, [*pretrained.comparable()]
    rounds = {"rounds of training": sizes.training, "rounds of decoding": sizes.decoding, "tokens timed": sizes.calls}
    known = about(None, mixers=mixers, **{"tokens a step": sizes.tokens}, **rounds)
    result = run.resume({"about": known, "rows": []})
    have = {(row["what"], row["at"]) for row in result["rows"]}
    for what, lengths, measured in (
        ("training", sizes.training, training_rows),
        ("decoding", sizes.decoding, decoding_rows),
    ):
        for at in (at for at in lengths if (what, at) not in have):
            more = measured(at, mixers, sizes)
            result["rows"] += more
            run.save(result)
            print(*map(said, more), sep="\n", flush=True)
    return result


def said(row: dict) -> str:
    if row["what"] == "training":
        return f"training, windows of {row['at']:,}, {row['mixer']}: {training_cell(row)}"
    return f"decoding, at {row['at']:,}, {row['mixer']}: {decoding_cell(row)}"


# --- what shows it ---------------------------------------------------------------------------------------------


def by_mixer(result: dict, what: str) -> dict[str, dict[int, dict]]:
    """By mixer and length, or position, of which there may be none yet."""
    found: dict[str, dict[int, dict]] = {}
    for row in result["rows"]:
        if row["what"] == what:
            found.setdefault(row["mixer"], {})[row["at"]] = row
    return found


def table(result: dict, what: str, cell: Callable[[dict], str]) -> str:
    found = by_mixer(result, what)
    at = sorted({at for rows in found.values() for at in rows})
    lines = [f"| {' | '.join(['', *(f'{n:,}' for n in at)])} |", "| --- " * (1 + len(at)) + "|"]
    for mixer, rows in found.items():
        lines.append(f"| {' | '.join([MIXERS[mixer].title, *(cell(rows[n]) for n in at)])} |")
    return "\n".join(lines)


def training(result: dict) -> str:
    """Tokens a second by tokens of a window, and the extra memory of a step."""
    return table(result, "training", training_cell)


def decoding(result: dict) -> str:
    """Time of a token by position, and the state."""
    return table(result, "decoding", decoding_cell)


def training_cell(row: dict) -> str:
    extra = "" if row["extra bytes"] is None else f" ({size(row['extra bytes'])})"
    return f"{row['tokens a second']:,.0f}{extra}"


def decoding_cell(row: dict) -> str:
    return f"{row['seconds'] * 1e6:,.0f} µs ({size(row['state bytes'])})"


def size(count: int) -> str:
    """Bytes for a reader.

    >>> size(150_000), size(3 << 20), size(2000 << 20)
    ('146 KiB', '3.0 MiB', '2,000 MiB')
    """
    mebibytes = count / 2**20
    if mebibytes < 1:
        return f"{count / 2**10:.0f} KiB"
    return f"{mebibytes:.1f} MiB" if mebibytes < 100 else f"{mebibytes:,.0f} MiB"


@matplotlib.rc_context(TEXT)
def draw(result: dict, path: Path) -> None:
    """Tokens a second of training by length, and time of a token by position."""
    figure = Figure((15, 6.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    panel(left, by_mixer(result, "training"), lambda row: row["tokens a second"])
    left.set(xlabel="tokens of a window", ylabel="tokens a second, training")
    left.set_title(finding(result, "training", "windows of {:,}: {} trains\n{:.1f} times as fast as {}"))
    panel(right, by_mixer(result, "decoding"), lambda row: row["seconds"] * 1e6)
    right.set(xlabel="tokens before", ylabel="time of a token (µs), decoding")
    right.set_title(finding(result, "decoding", "after {:,} tokens: {} decodes\n{:.1f} times as fast as {}"))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def panel(axes: Axes, found: dict[str, dict[int, dict]], value: Callable[[dict], float]) -> None:
    at = sorted({at for rows in found.values() for at in rows})
    for (mixer, rows), (colour, dash, marker) in zip(found.items(), cycle(STYLES), strict=False):
        style = {"color": colour, "linestyle": dash, "marker": marker, "linewidth": 2}
        axes.plot([*rows], [value(row) for row in rows.values()], label=MIXERS[mixer].title, **style)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(at, [f"{n:,}" for n in at])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if first_digit(value) in (2, 5) else "")
    axes.grid(which="both", axis="y", alpha=0.3)


def first_digit(value: float) -> int:
    """
    >>> first_digit(20_000.0), first_digit(500.0)
    (2, 5)
    """
    return round(value / 10 ** math.floor(math.log10(value)))


def finding(result: dict, what: str, words: str) -> str:
    """Of the longest that was measured: the fastest beside the slowest."""
    found = by_mixer(result, what)
    last = max(at for rows in found.values() for at in rows)
    took = {MIXERS[mixer].title: rows[last]["seconds"] for mixer, rows in found.items()}
    fastest, slowest = min(took, key=took.__getitem__), max(took, key=took.__getitem__)
    text = words.format(last, fastest, took[slowest] / took[fastest], slowest)
    return text[0].upper() + text[1:]


TABLES = {"training": training, "decoding": decoding}
EXPERIMENT = Experiment("cost", measure, TABLES, {"cost.png": draw})
