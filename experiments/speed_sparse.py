"""What the sparse form saves, and where it does not.

The walk and the scan over the dense form for every number of slots and share of them, uniform and skewed routing, the
longest chain of dependent steps, decode and training.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import fast
from experiments import frame
from experiments.compare import Case
from experiments.frame import SEED, Experiment, Inputs, Run, forward, forward_backward, medians, router_inputs
from experiments.speed_dense import SMALL_MODEL, options, training_step
from fast import chunked, scan
from fast.backends import cpu_form

SPARSE = ("walk", "scan")
FORMS = (*SPARSE, "chunked")  # the last is the dense form over zeros


class Sizes(NamedTuple):
    tokens: int
    width: int
    slots: tuple[int, ...]  # each with 1, 2, 4, 8, a quarter and half of them a token
    decode: tuple[tuple[int, int], ...]  # M, K
    steps: int  # of decoding, timed as one
    training: tuple[int, int]  # windows, bytes of one
    batch: tuple[int, int, int, int, int]  # B, T, M, K, D of the bundled model's training
    model: dict[str, int]


DECODE = tuple((m, 4) for m in (128, 512, 2048, 8192)) + tuple((512, k) for k in (1, 16, 64, 256))
FULL = Sizes(4096, 512, (32, 64, 128, 256, 512), DECODE, 500, (16, 256), (16, 256, 32, 8, 256), {})
TINY = Sizes(16, 4, (32, 64, 128, 256, 512), DECODE, 2, (2, 16), (2, 16, 32, 8, 4), SMALL_MODEL)


def per_token(num_slots: int) -> list[int]:
    return sorted({1, 2, 4, 8, num_slots // 4, num_slots // 2})


def inputs(sizes: Sizes, num_slots: int, top_k: int, skew: float = 0.0) -> Inputs:
    return router_inputs(1, sizes.tokens, num_slots, sizes.width, top_k, skew=skew, requires_grad=True)


def memory(form: str) -> Callable:
    return lambda *arguments: fast.sparse_factorization_memory(*arguments, backend=form, check_values=False)


def measure_forms(given: Inputs, rounds: int) -> dict[str, float]:
    """Medians in seconds."""
    passes = {"forward": forward, "both": forward_backward}
    calls = {f"{form} {what}": make(memory(form), given) for form in FORMS for what, make in passes.items()}
    return medians(calls, rounds)


def batch_row(sizes: Sizes, rounds: int) -> dict:
    B, T, M, K, D = sizes.batch
    return measure_forms(router_inputs(B, T, M, D, K, requires_grad=True), rounds)


def grid_rows(sizes: Sizes, rounds: int) -> list[dict]:
    rows = []
    for num_slots in sizes.slots:
        for top_k in per_token(num_slots):
            row: dict = {"M": num_slots, "K": top_k} | measure_forms(inputs(sizes, num_slots, top_k), rounds)
            for form, what in itertools.product(SPARSE, ("forward", "both")):
                row[f"{form} saves {what}"] = row[f"chunked {what}"] / row[f"{form} {what}"]
            rows.append(row)
            took = "   ".join(f"{form} {1e3 * row[f'{form} both']:7.1f} ms" for form in FORMS)
            print(f"M {num_slots:3}  K {top_k:3}   {took}   auto: {cpu_form(top_k, num_slots)}", flush=True)
    return rows


def grid_table(result: dict, form: str) -> str:
    """How many times as fast as dense, forward + backward (forward)."""
    by_size = {(row["M"], row["K"]): row for row in result["grid"]}
    shares = {"1": 1, "2": 2, "4": 4, "8": 8, "M/4": 0.25, "M/2": 0.5}
    lines = ["| M | " + " | ".join(f"K = {name}" for name in shares) + " |", "| --- " * (1 + len(shares)) + "|"]
    for num_slots in sorted({M for M, _ in by_size}):
        found = [by_size[num_slots, k if k >= 1 else int(k * num_slots)] for k in shares.values()]
        cells = [f"{row[f'{form} saves both']:.2f} ({row[f'{form} saves forward']:.2f})" for row in found]
        lines.append(f"| {num_slots} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(result: dict) -> str:
    """What was found, beside its goal."""
    grid = {(row["M"], row["K"]): row for row in result["grid"]}
    decode = {(row["M"], row["K"]): row["seconds"] for row in result["decode"]}
    even, skewed = (result["skew"][i]["walk both"] for i in (0, -1))
    flat = grid[512, 4]["walk both"] / grid[128, 4]["walk both"]
    behind = max(
        row[f"{cpu_form(row['K'], row['M'])} both"] / min(row[f"{form} both"] for form in FORMS) - 1
        for row in result["grid"]
    )

    def saves(row: dict, form: str) -> tuple[float, str]:
        ratio = row["chunked both"] / row[f"{form} both"]
        return ratio, f"{ratio:#.3g}× ({1e3 * row[f'{form} both']:.1f} / {1e3 * row['chunked both']:.1f} ms)"

    rows = []
    for name, row, form, goal in (
        ("16 × 256 tokens, D = 256, K = 8 of 32", result["batch"], "walk", 3.5),
        ("K = 4 of 128", grid[128, 4], "walk", 6), ("K = 4 of 512", grid[512, 4], "walk", 20),
        ("K = 32 of 128", grid[128, 32], "walk", 1.8),
        ("K = 4 of 128", grid[128, 4], "scan", None), ("K = 32 of 128", grid[128, 32], "scan", None),
    ):  # fmt: skip
        ratio, cell = saves(row, form)
        rows.append((f"{form} over dense, {name}", cell, goal and f"≥ {goal}×", goal and ratio >= goal))
    share = result["skew"][-1]["most used slot"]
    rows += [
        ("walk, M = 512 over M = 128, K = 4", f"{flat:#.3g}×", "≤ 1.1×", flat <= 1.1),
        (f'"auto" behind the best form, {len(grid)} shares of slots',
         f"{100 * behind:.1f} %", "≤ 5 %", behind <= 0.05),
        (f"walk, K = 4 of 128, one slot takes {100 * share:.0f} % of the tokens, over even use",
         f"{skewed / even:#.3g}× ({1e3 * skewed:.1f} / {1e3 * even:.1f} ms)", None, None),
        ("decode, K = 4, M = 8192 over M = 128",
         f"{decode[8192, 4] / decode[128, 4]:#.3g}× ({1e6 * decode[8192, 4]:.0f} µs)", "~ 1×",
         abs(decode[8192, 4] / decode[128, 4] - 1) < 0.1),
    ]  # fmt: skip
    for row in result["training"]:
        what = f"training, M = {row['M']}, K = 4: fm-sparse over fm"
        cell = f"{row['fm-sparse'] / row['fm']:#.3g}× ({row['fm-sparse']:,.0f} / {row['fm']:,.0f} tokens/s)"
        rows.append((what, cell, None, None))
    verdict = {True: "reached", False: "missed", None: ""}
    head = ["| what | measured | goal | |", "| --- " * 4 + "|"]
    return "\n".join(
        [*head, *(f"| {what} | {cell} | {goal or '–'} | {verdict[met]} |" for what, cell, goal, met in rows)]
    )


def crossovers(rows: list[dict], form: str) -> dict[int, float]:
    """M: the K at which a form takes the time of the dense one, forward + backward, between two that were measured.

    >>> crossovers([{"M": 9, "K": 1, "scan saves both": 4.0}, {"M": 9, "K": 4, "scan saves both": 0.25}], "scan")
    {9: 2.0}
    """
    found = {}
    for few, more in itertools.pairwise(rows):
        (k, saves), (next_k, next_saves) = ((row["K"], row[f"{form} saves both"]) for row in (few, more))
        if few["M"] == more["M"] and saves >= 1 > next_saves:
            found[few["M"]] = k * (next_k / k) ** (math.log(saves) / math.log(saves / next_saves))
    return found


def equal_table(result: dict) -> str:
    """By M: the K at which each sparse form takes the time of the dense one, and so how many slots a pair costs."""
    slots = sorted({row["M"] for row in result["grid"]})
    lines = [f"| M | {' | '.join(map(str, slots))} |", "| --- " * (1 + len(slots)) + "|"]
    for form in SPARSE:
        equal = crossovers(result["grid"], form)
        cells = (f"{equal[m]:.1f} (M / {m / equal[m]:.1f})" if m in equal else "–" for m in slots)
        lines.append(f"| K of the {form} | {' | '.join(cells)} |")
    return "\n".join(lines)


def skew_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """The same number of pairs, ever more of them in the same few slots."""
    rows = []
    for skew in (0.0, 1.0, 2.0):
        slots = inputs(sizes, 128, 4, skew).slots
        assert slots is not None
        longest = int(slots.flatten().bincount().max())
        share = longest / sizes.tokens
        row = {"M": 128, "K": 4, "Zipf exponent": skew, "most used slot": share}
        took = measure_forms(inputs(sizes, 128, 4, skew), rounds)
        row |= {f"{form} both": took[f"{form} both"] for form in SPARSE} | chains(sizes, 128, 4, longest)
        rows.append(row)
        print(
            f"Zipf {skew:g}: the most used slot takes {share:.0%} of the tokens, walk {1e3 * row['walk both']:.1f} ms,"
            f" scan {1e3 * row['scan both']:.1f} ms; dependent steps: dense {row['chain dense']}, slot by slot"
            f" {row['chain by slot']}, as one scan {row['chain scan']}",
            flush=True,
        )
    return rows


def chains(sizes: Sizes, num_slots: int, top_k: int, longest: int) -> dict[str, int]:
    """Steps that must follow one another: chunks of a sequence, chunks of the longest run, blocks of the scan."""
    length = chunked.default_chunk_length(torch.empty(1, sizes.tokens, sizes.width), num_slots)
    _, line, _ = scan._row_length(sizes.tokens * top_k, sizes.width)
    return {
        "chain dense": -(-sizes.tokens // length),
        "chain by slot": -(-longest // scan.CHUNK),
        "chain scan": -(-sizes.tokens * top_k // line),
    }


def decode_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """Seconds of one step in place, batch 1; states take turns."""
    took = medians({shape: decode(sizes, *shape) for shape in sizes.decode}, rounds, calls_a_time=sizes.steps)
    rows = [{"M": m, "K": k, "seconds": seconds} for (m, k), seconds in took.items()]
    for row in rows:
        print(f"decode, M {row['M']:4}, K {row['K']:3}: {1e6 * row['seconds']:.1f} us a token", flush=True)
    return rows


def decode(sizes: Sizes, num_slots: int, top_k: int) -> Callable[[], object]:
    arguments = step_arguments(sizes, num_slots, top_k)
    return lambda: fast.sparse_step_(*arguments, check_values=False)


def step_arguments(sizes: Sizes, num_slots: int, top_k: int) -> list[torch.Tensor]:
    token = inputs(sizes, num_slots, top_k).at(0)
    assert token.slots is not None
    return [token.theta, token.phi, token.slots, token.value, torch.zeros(1, num_slots, sizes.width)]


def training_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """Tokens per second of an optimiser step, dense and sparse mixer of equal M, on 16 windows of 256 bytes."""
    batch, length = sizes.training
    windows = torch.randint(256, (batch, length + 1), generator=torch.Generator().manual_seed(SEED))
    rows = []
    for num_slots in (128, 512):
        model = {**sizes.model, "num_slots": num_slots, "top_k": 4}
        took = medians({mixer: training_step(mixer, windows, **model) for mixer in ("fm", "fm-sparse")}, rounds)
        row = {"M": num_slots, "K": 4} | {mixer: batch * length / seconds for mixer, seconds in took.items()}
        print(
            f"training, M {num_slots}: fm {row['fm']:,.0f}, fm-sparse K = 4 {row['fm-sparse']:,.0f} tokens/s",
            flush=True,
        )
        rows.append(row)
    return rows


def draw(result: dict, path: Path) -> None:
    """How many times as fast the walk and the scan are as the dense form, over the share of slots a token uses."""
    from matplotlib.figure import Figure

    slots = sorted({row["M"] for row in result["grid"]})
    figure = Figure((9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, form, title in zip(axes, SPARSE, ("the walk", "the scan"), strict=True):
        for i, num_slots in enumerate(slots):
            rows = [row for row in result["grid"] if row["M"] == num_slots]
            share, saves = ([row["K"] / num_slots for row in rows], [row[f"{form} saves both"] for row in rows])
            grey = str(0.75 - 0.75 * i / (len(slots) - 1))
            axis.plot(share, saves, marker="osD^v"[i], color=grey, label=f"M = {num_slots}")
        axis.axhline(1, color="tab:red", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel="share of slots a token uses, K / M", title=title)
        ticks = [1 / 512, 1 / 128, 1 / 32, 1 / 8, 1 / 2]
        axis.set_xticks(ticks, [f"1/{round(1 / t)}" for t in ticks])
        axis.minorticks_off()
        heights = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
        axis.set_yticks(heights, [f"{h:g}" for h in heights])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("times as fast as the dense form,\nforward + backward")
    axes[0].text(1 / 512, 0.93, "as fast as dense", color="tab:red", va="top", fontsize=9)
    axes[1].legend(frameon=False)
    quarter = [row["walk saves both"] for row in result["grid"] if 4 * row["K"] == row["M"]]
    finding = "Touching few slots saves work. At a quarter of the slots\n"
    finding += f"the compiled loop takes {1 / max(quarter):.2f} to {1 / min(quarter):.2f} times the dense form's time"
    figure.suptitle(finding)
    figure.savefig(path, dpi=150)


def measure(run: Run) -> dict:
    sizes, rounds = TINY if run.tiny else FULL, 1 if run.tiny else run.options.rounds
    result: dict = {"about": frame.about(B=1, T=sizes.tokens, D=sizes.width, rounds=rounds)}
    print(*(f"{name}: {value}" for name, value in result["about"].items()), sep="\n")
    parts = {"batch": batch_row, "grid": grid_rows, "skew": skew_rows, "decode": decode_rows, "training": training_rows}
    return result | {name: part(sizes, rounds) for name, part in parts.items()}


def cases(tiny: bool) -> list[Case]:
    """What a change of the sparse form is judged by: both forms at some M and K, uneven use, a step."""
    sizes = TINY if tiny else FULL
    found = []
    for num_slots, top_k, skew in ((32, 8, 0.0), (128, 4, 0.0), (128, 4, 2.0), (128, 32, 0.0), (512, 4, 0.0)):
        given = inputs(sizes, num_slots, top_k, skew)
        constant = [v.detach() if torch.is_tensor(v) else v for v in given.arguments()]
        for form in FORMS:
            what = f"{form}, K = {top_k} of {num_slots}{', uneven use' if skew else ''}"
            for pass_, arguments in (("forward + backward", given.arguments()), ("forward", constant)):
                found.append(Case(f"{what}, {pass_}", "sparse_factorization_memory", arguments, (form,)))
    for num_slots in (128, 8192):
        arguments = step_arguments(sizes, num_slots, 4)
        found.append(Case(f"decode, K = 4 of {num_slots}", "sparse_step_", arguments, calls=sizes.steps))
    return found


EXPERIMENT = Experiment(
    "speed_sparse", measure,
    {"": findings, "equal": equal_table, **{form: partial(grid_table, form=form) for form in SPARSE}},
    {"speed_sparse.png": draw}, options=options, cases=cases,
)  # fmt: skip
