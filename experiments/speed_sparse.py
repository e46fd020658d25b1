"""What the sparse form saves, and where it does not.

The scan over the dense form for every number of slots and share of them, uniform and skewed routing, the longest chain
of dependent steps, decode and training.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

import fast
from experiments import frame
from experiments.compare import Case
from experiments.frame import SEED, Experiment, Inputs, Run, forward, forward_backward, medians, router_inputs
from experiments.speed_dense import SMALL_MODEL, options, training_step
from fast import chunked, scan
from fast.backends import scan_is_cheaper

BACKENDS = {"scan": "scan", "chunked": "chunked"}  # the forms that are timed, and what `backend` calls them


class Sizes(NamedTuple):
    tokens: int
    width: int
    slots: tuple[int, ...]  # each with 1, 2, 4, 8, a quarter and half of them a token
    decode: tuple[tuple[int, int], ...]  # M, K
    steps: int  # of decoding, timed as one
    training: tuple[int, int]  # windows, bytes of one
    model: dict[str, int]


DECODE = tuple((m, 4) for m in (128, 512, 2048, 8192)) + tuple((512, k) for k in (1, 16, 64, 256))
FULL = Sizes(4096, 512, (32, 64, 128, 256, 512), DECODE, 500, (16, 256), {})
TINY = Sizes(16, 4, (32, 64, 128, 256, 512), DECODE, 2, (2, 16), SMALL_MODEL)


def per_token(num_slots: int) -> list[int]:
    return sorted({1, 2, 4, 8, num_slots // 4, num_slots // 2})


def inputs(sizes: Sizes, num_slots: int, top_k: int, skew: float = 0.0) -> Inputs:
    return router_inputs(1, sizes.tokens, num_slots, sizes.width, top_k, skew=skew, requires_grad=True)


def memory(form: str) -> Callable:
    return lambda *arguments: fast.sparse_factorization_memory(*arguments, backend=BACKENDS[form], check_values=False)


def measure_forms(sizes: Sizes, num_slots: int, top_k: int, rounds: int, skew: float = 0.0) -> dict[str, float]:
    """Medians in seconds."""
    given = inputs(sizes, num_slots, top_k, skew)
    passes = {"forward": forward, "both": forward_backward}
    calls = {f"{form} {what}": make(memory(form), given) for form in BACKENDS for what, make in passes.items()}
    return medians(calls, rounds)


def grid_rows(sizes: Sizes, rounds: int) -> list[dict]:
    rows = []
    for num_slots in sizes.slots:
        for top_k in per_token(num_slots):
            row: dict = {"M": num_slots, "K": top_k} | measure_forms(sizes, num_slots, top_k, rounds)
            auto = "scan" if scan_is_cheaper(top_k, num_slots) else "chunked"
            best = min(row[f"{form} both"] for form in BACKENDS)
            row |= {"auto": auto, "auto behind": row[f"{auto} both"] / best - 1}
            row |= {f"saves {w}": row[f"chunked {w}"] / row[f"scan {w}"] for w in ("forward", "both")}
            rows.append(row)
            print(
                f"M {num_slots:3}  K {top_k:3}   scan {1e3 * row['scan both']:7.1f} ms   dense"
                f" {1e3 * row['chunked both']:7.1f} ms   forward {row['saves forward']:5.2f}x   forward + backward"
                f" {row['saves both']:5.2f}x   auto: {auto}, {row['auto behind']:.1%} behind",
                flush=True,
            )
    return rows


def grid_table(result: dict) -> str:
    """How many times as fast as dense, forward + backward (forward)."""
    by_size = {(row["M"], row["K"]): row for row in result["grid"]}
    shares = {"1": 1, "2": 2, "4": 4, "8": 8, "M/4": 0.25, "M/2": 0.5}
    lines = ["| M | " + " | ".join(f"K = {name}" for name in shares) + " |", "| --- " * (1 + len(shares)) + "|"]
    for num_slots in sorted({M for M, _ in by_size}):
        found = [by_size[num_slots, k if k >= 1 else int(k * num_slots)] for k in shares.values()]
        cells = [f"{row['saves both']:.2f} ({row['saves forward']:.2f})" for row in found]
        lines.append(f"| {num_slots} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(result: dict) -> str:
    """What was found, beside its goal."""
    grid = {(row["M"], row["K"]): row for row in result["grid"]}
    decode = {(row["M"], row["K"]): row["seconds"] for row in result["decode"]}
    even, skewed = (result["skew"][i]["scan both"] for i in (0, -1))
    flat = grid[512, 4]["scan both"] / grid[128, 4]["scan both"]
    behind = max(row["auto behind"] for row in result["grid"])

    def saves(num_slots: int, top_k: int) -> tuple[float, str]:
        row = grid[num_slots, top_k]
        took = f"{1e3 * row['scan both']:.1f} / {1e3 * row['chunked both']:.1f} ms"
        return row["saves both"], f"{row['saves both']:#.3g}× ({took})"

    rows = []
    for num_slots, top_k, goal in ((128, 4, 4), (512, 4, 20), (512, 1, None), (128, 32, None)):
        ratio, cell = saves(num_slots, top_k)
        what = f"sparse over dense, forward + backward, M = {num_slots}, K = {top_k}"
        rows.append((what, cell, goal and f"≥ {goal}×", goal and ratio >= goal))
    share = result["skew"][-1]["most used slot"]
    rows += [
        ("sparse, M = 512 over M = 128, K = 4", f"{flat:#.3g}×", "≤ 1.1×", flat <= 1.1),
        (f'"auto" behind the better form, {len(grid)} shares of slots',
         f"{100 * behind:.1f} %", "≤ 5 %", behind <= 0.05),
        (f"K = 4 of 128, one slot takes {100 * share:.0f} % of the tokens, over even use",
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


def crossovers(rows: list[dict]) -> dict[int, float]:
    """M: the K at which both forms take the same time, forward + backward, between two that were measured.

    >>> crossovers([{"M": 9, "K": 1, "saves both": 4.0}, {"M": 9, "K": 4, "saves both": 0.25}])
    {9: 2.0}
    """
    found = {}
    for few, more in itertools.pairwise(rows):
        (k, saves), (next_k, next_saves) = ((row["K"], row["saves both"]) for row in (few, more))
        if few["M"] == more["M"] and saves >= 1 > next_saves:
            found[few["M"]] = k * (next_k / k) ** (math.log(saves) / math.log(saves / next_saves))
    return found


def equal_table(result: dict) -> str:
    """By M: the K at which both forms take the same time, and so how many slots of the dense form one pair costs."""
    equal = crossovers(result["grid"])
    lines = [
        ("M", (f"{num_slots}" for num_slots in equal)),
        ("K", (f"{top_k:.1f}" for top_k in equal.values())),
        ("M / K", (f"{num_slots / top_k:.1f}" for num_slots, top_k in equal.items())),
    ]
    head, *rest = (f"| {name} | {' | '.join(cells)} |" for name, cells in lines)
    return "\n".join([head, "| --- " * (1 + len(equal)) + "|", *rest])


def skew_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """The same number of pairs, ever more of them in the same few slots."""
    rows = []
    for skew in (0.0, 1.0, 2.0):
        slots = inputs(sizes, 128, 4, skew).slots
        assert slots is not None
        longest = int(slots.flatten().bincount().max())
        share = longest / sizes.tokens
        row = {"M": 128, "K": 4, "Zipf exponent": skew, "most used slot": share}
        row |= {"scan both": measure_forms(sizes, 128, 4, rounds, skew)["scan both"]} | chains(sizes, 128, 4, longest)
        rows.append(row)
        print(
            f"Zipf {skew:g}: the most used slot takes {share:.0%} of the tokens, scan"
            f" {1e3 * row['scan both']:.1f} ms; dependent steps: dense {row['chain dense']}, slot by slot"
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
    """How many times as fast the scan is as the dense form, over the share of slots that a token uses."""
    from matplotlib.figure import Figure

    slots = sorted({row["M"] for row in result["grid"]})
    figure = Figure((9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, what, title in zip(axes, ("forward", "both"), ("forward", "forward + backward"), strict=True):
        for i, num_slots in enumerate(slots):
            rows = [row for row in result["grid"] if row["M"] == num_slots]
            share, saves = ([row["K"] / num_slots for row in rows], [row[f"saves {what}"] for row in rows])
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
    axes[0].set_ylabel("times as fast as the dense form")
    axes[0].text(1 / 512, 0.93, "as fast as dense", color="tab:red", va="top", fontsize=9)
    axes[1].legend(frameon=False)
    shares = [num_slots / top_k for num_slots, top_k in crossovers(result["grid"]).items()]
    finding = "Touching few slots saves work"
    if shares:
        finding += (
            ". On two CPU cores the dense form wins\n"
            f"from 1/{min(shares):.0f} of {slots[0]} slots on, or from 1/{max(shares):.0f} of {slots[-1]}"
        )
    figure.suptitle(finding)
    figure.savefig(path, dpi=150)


def measure(run: Run) -> dict:
    sizes, rounds = TINY if run.tiny else FULL, 1 if run.tiny else run.options.rounds
    result: dict = {"about": frame.about(B=1, T=sizes.tokens, D=sizes.width, rounds=rounds)}
    print(*(f"{name}: {value}" for name, value in result["about"].items()), sep="\n")
    for name, rows in (("grid", grid_rows), ("skew", skew_rows), ("decode", decode_rows), ("training", training_rows)):
        result[name] = rows(sizes, rounds)
    equal = ", ".join(f"{top_k:.1f} of {num_slots}" for num_slots, top_k in crossovers(result["grid"]).items())
    print(f"forward + backward, both forms take the same time at K = {equal}")
    return result


def cases(tiny: bool) -> list[Case]:
    """What a change of the sparse form is judged by: both forms at some M and K, uneven use, a step."""
    sizes = TINY if tiny else FULL
    found = []
    for num_slots, top_k, skew in ((32, 8, 0.0), (128, 4, 0.0), (128, 4, 2.0), (128, 32, 0.0), (512, 4, 0.0)):
        given = inputs(sizes, num_slots, top_k, skew)
        constant = [v.detach() if torch.is_tensor(v) else v for v in given.arguments()]
        for form, names in (("scan", ("scan", "scan")), ("chunked", ("chunked",))):
            what = f"{form}, K = {top_k} of {num_slots}{', uneven use' if skew else ''}"
            for pass_, arguments in (("forward + backward", given.arguments()), ("forward", constant)):
                found.append(Case(f"{what}, {pass_}", "sparse_factorization_memory", arguments, names))
    for num_slots in (128, 8192):
        arguments = step_arguments(sizes, num_slots, 4)
        found.append(Case(f"decode, K = 4 of {num_slots}", "sparse_step_", arguments, calls=sizes.steps))
    return found


EXPERIMENT = Experiment(
    "speed_sparse", measure, {"": findings, "equal": equal_table, "grid": grid_table}, {"speed_sparse.png": draw},
    options=options, cases=cases,
)  # fmt: skip
