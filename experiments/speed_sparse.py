"""`make bench`, second part: what the sparse form saves, and where it does not.

Grouped over dense chunked for every number of slots and share of them, uniform and skewed routing, the longest chain
of dependent steps, and decode. Writes docs/results/sparse.json and draws docs/results/crossover.png from it.
"""

import argparse
import itertools
import json
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fast
from experiments.speed_dense import RESULTS, SEED, forward, forward_backward, seconds, training_step
from fast import chunked, sparse
from lm.machine import environment

TOKENS, WIDTH = 4096, 512
SLOTS = (32, 64, 128, 256, 512)
FORMS = ("grouped", "chunked")


def per_token(num_slots: int) -> list[int]:
    return sorted({1, 2, 4, 8, num_slots // 4, num_slots // 2})


def inputs(num_slots: int, top_k: int, skew: float = 0.0) -> tuple[list[Tensor], Tensor]:
    """theta, phi, x and the slots of a router's top K. skew: exponent of a Zipf law that the slots' use follows."""
    generator = torch.Generator().manual_seed(SEED)
    gumbel = -torch.log(-torch.log(torch.rand(1, TOKENS, num_slots, generator=generator)))
    logits = gumbel - skew * torch.arange(1, num_slots + 1).log()  # the largest of these is drawn from the Zipf law
    kept, slots = logits.topk(top_k)
    affinity = kept.softmax(-1)
    x = torch.randn(1, TOKENS, WIDTH, generator=generator)
    return [v.requires_grad_() for v in (0.6 * affinity, 0.5 * affinity, x)], slots


def call(backend: str, slots: Tensor, num_slots: int) -> Callable:
    return lambda theta, phi, x: fast.sparse_factorization_memory(
        theta, phi, slots, x, num_slots, backend=backend, check_values=False
    )


def measure(num_slots: int, top_k: int, repeats: int, skew: float = 0.0) -> dict[str, float]:
    """Medians in seconds; the two forms take turns."""
    leaves, slots = inputs(num_slots, top_k, skew)
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for form in FORMS:
            memory = call(form, slots, num_slots)
            for what, pass_ in (("forward", forward), ("both", forward_backward)):
                times.setdefault(f"{form} {what}", []).extend(seconds(pass_(memory, leaves), 1))
    return {name: statistics.median(v) for name, v in times.items()}


def grid_rows(repeats: int) -> list[dict]:
    rows = []
    for num_slots in SLOTS:
        for top_k in per_token(num_slots):
            row = {"M": num_slots, "K": top_k} | measure(num_slots, top_k, repeats)
            auto = "grouped" if sparse.is_cheaper(top_k, num_slots) else "chunked"
            best = min(row[f"{form} both"] for form in FORMS)
            row |= {"auto": auto, "auto behind": row[f"{auto} both"] / best - 1}
            row |= {f"saves {w}": row[f"chunked {w}"] / row[f"grouped {w}"] for w in ("forward", "both")}
            rows.append(row)
            print(
                f"M {num_slots:3}  K {top_k:3}   grouped {1e3 * row['grouped both']:7.1f} ms   dense"
                f" {1e3 * row['chunked both']:7.1f} ms   forward {row['saves forward']:5.2f}x   forward + backward"
                f" {row['saves both']:5.2f}x   auto: {auto}, {row['auto behind']:.1%} behind",
                flush=True,
            )
    return rows


def table(rows: list[dict]) -> str:
    """How many times as fast as dense, forward + backward (forward), as docs/kernels.md shows it."""
    by_size = {(row["M"], row["K"]): row for row in rows}
    shares = {"1": 1, "2": 2, "4": 4, "8": 8, "M/4": 0.25, "M/2": 0.5}
    lines = ["| M | " + " | ".join(f"K = {name}" for name in shares) + " |", "| --- " * (1 + len(shares)) + "|"]
    for num_slots in SLOTS:
        found = [by_size[num_slots, k if k >= 1 else int(k * num_slots)] for k in shares.values()]
        cells = [f"{row['saves both']:.2f} ({row['saves forward']:.2f})" for row in found]
        lines.append(f"| {num_slots} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(result: dict) -> str:
    """The rows that the README shows: what was found, beside its goal."""
    grid = {(row["M"], row["K"]): row for row in result["grid"]}
    decode = {(row["M"], row["K"]): row["seconds"] for row in result["decode"]}
    even, skewed = (result["skew"][i]["grouped both"] for i in (0, -1))
    flat = grid[512, 4]["grouped both"] / grid[128, 4]["grouped both"]
    behind = max(row["auto behind"] for row in result["grid"])

    def saves(num_slots: int, top_k: int) -> tuple[float, str]:
        row = grid[num_slots, top_k]
        took = f"{1e3 * row['grouped both']:.1f} / {1e3 * row['chunked both']:.1f} ms"
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


def skew_rows(repeats: int) -> list[dict]:
    """The same number of pairs, ever more of them in the same few slots."""
    rows = []
    for skew in (0.0, 1.0, 2.0):
        _, slots = inputs(128, 4, skew)
        longest = int(slots.flatten().bincount().max())
        row = {"M": 128, "K": 4, "Zipf exponent": skew, "most used slot": longest / TOKENS}
        row |= {"grouped both": measure(128, 4, repeats, skew)["grouped both"]} | chains(128, 4, longest)
        rows.append(row)
        print(
            f"Zipf {skew:g}: the most used slot takes {longest / TOKENS:.0%} of the tokens, grouped"
            f" {1e3 * row['grouped both']:.1f} ms; dependent steps: dense {row['chain dense']}, slot by slot"
            f" {row['chain by slot']}, as one scan {row['chain scan']}",
            flush=True,
        )
    return rows


def chains(num_slots: int, top_k: int, longest: int) -> dict[str, int]:
    """Steps that must follow one another: chunks of a sequence, chunks of the longest run, blocks of the scan."""
    length = chunked.default_chunk_length(torch.empty(1, TOKENS, WIDTH), num_slots)
    _, line, _ = sparse._row_length(TOKENS * top_k, WIDTH)
    return {
        "chain dense": -(-TOKENS // length),
        "chain by slot": -(-longest // sparse.CHUNK),
        "chain scan": -(-TOKENS * top_k // line),
    }


def decode_rows(repeats: int) -> list[dict]:
    """Seconds of one step in place, batch 1, medians over windows of 500 steps; states take turns."""
    shapes = [(m, 4) for m in (128, 512, 2048, 8192)] + [(512, k) for k in (1, 16, 64, 256)]
    steps = {shape: decode(*shape) for shape in shapes}
    times: dict[tuple, list[float]] = {shape: [] for shape in shapes}
    for _ in range(repeats):
        for shape, step in steps.items():
            times[shape] += [t / 500 for t in seconds(lambda step=step: [step() for _ in range(500)], 1)]
    rows = [{"M": m, "K": k, "seconds": statistics.median(t)} for (m, k), t in times.items()]
    for row in rows:
        print(f"decode, M {row['M']:4}, K {row['K']:3}: {1e6 * row['seconds']:.1f} us a token", flush=True)
    return rows


def decode(num_slots: int, top_k: int) -> Callable[[], object]:
    (theta, phi, x), slots = inputs(num_slots, top_k)
    theta, phi, slots, x = (v[:, 0].detach() for v in (theta, phi, slots, x))
    state = torch.zeros(1, num_slots, WIDTH)
    return lambda: fast.sparse_step_(theta, phi, slots, x, state, check_values=False)


def training_rows(repeats: int) -> list[dict]:
    """Tokens per second of an optimiser step, dense and sparse mixer of equal M, on 16 windows of 256 bytes."""
    windows = torch.randint(256, (16, 257), generator=torch.Generator().manual_seed(SEED))
    rows = []
    for num_slots in (128, 512):
        steps = {m: training_step(m, windows, num_slots=num_slots, top_k=4) for m in ("fm", "fm-sparse")}
        times: dict[str, list[float]] = {mixer: [] for mixer in steps}
        for _ in range(repeats):
            for mixer, step in steps.items():
                times[mixer] += seconds(step, 1)
        row = {"M": num_slots, "K": 4} | {mixer: 16 * 256 / statistics.median(t) for mixer, t in times.items()}
        print(
            f"training, M {num_slots}: fm {row['fm']:,.0f}, fm-sparse K = 4 {row['fm-sparse']:,.0f} tokens/s",
            flush=True,
        )
        rows.append(row)
    return rows


def draw(result: dict, path: Path) -> None:
    """How many times as fast grouped is as dense, over the share of slots that a token uses."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, what, title in zip(axes, ("forward", "both"), ("forward", "forward + backward"), strict=True):
        for i, num_slots in enumerate(SLOTS):
            rows = [row for row in result["grid"] if row["M"] == num_slots]
            share, saves = ([row["K"] / num_slots for row in rows], [row[f"saves {what}"] for row in rows])
            grey = str(0.75 - 0.75 * i / (len(SLOTS) - 1))
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
    figure.suptitle(
        "Touching few slots saves work. On two CPU cores the dense form wins\n"
        f"from 1/{min(shares):.0f} of {SLOTS[0]} slots on, or from 1/{max(shares):.0f} of {SLOTS[-1]}"
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds per figure; a figure is a median (default 5)")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw what was measured")
    options = parser.parse_args()
    path = RESULTS.with_name("sparse.json")
    if not options.draw:
        about = {**environment(), "seed": SEED, "B": 1, "T": TOKENS, "D": WIDTH, "repeats": options.repeats}
        print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
        result = {"about": about}
        for name, rows in (
            ("grid", grid_rows),
            ("skew", skew_rows),
            ("decode", decode_rows),
            ("training", training_rows),
        ):
            result[name] = rows(options.repeats)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    result = json.loads(path.read_text(encoding="utf-8"))
    print(findings(result))
    print(table(result["grid"]))
    equal = ", ".join(f"{top_k:.1f} of {num_slots}" for num_slots, top_k in crossovers(result["grid"]).items())
    print(f"forward + backward, both forms take the same time at K = {equal}")
    draw(result, path.with_name("crossover.png"))
    print("written to docs/results: sparse.json, crossover.png")


if __name__ == "__main__":
    main()
