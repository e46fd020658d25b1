"""`make bench`: the figures this project aims at, measured on this machine beside their goals.

Every figure is a ratio taken within one run, of medians, in float32. Writes docs/results/cpu.json. No test reads
the clock: a slow machine makes a slow benchmark, not a red one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fast
import reference
from lm.machine import environment
from lm.model import Config, LanguageModel
from lm.train import Settings, optimizer_for, update

SEED = 0
SHAPE = (1, 4096, 128, 512)  # B, T, M, D
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "cpu.json"


def inputs(batch: int, tokens: int, slots: int, width: int, requires_grad: bool = False) -> list[Tensor]:
    """theta, phi, x of a fresh layer: softmax affinities times a rate."""
    generator = torch.Generator().manual_seed(SEED)
    affinity = torch.randn(batch, tokens, slots, generator=generator).softmax(-1)
    x = torch.randn(batch, tokens, width, generator=generator)
    return [v.requires_grad_(requires_grad) for v in (0.6 * affinity, 0.5 * affinity, x)]


def seconds(function: Callable[[], object], repeats: int, warmups: int = 1) -> list[float]:
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def forward(memory: Callable, arguments: list[Tensor]) -> Callable[[], object]:
    def run():
        with torch.no_grad():
            return memory(*arguments)

    return run


def forward_backward(memory: Callable, arguments: list[Tensor]) -> Callable[[], object]:
    dy = torch.randn(arguments[2].shape, generator=torch.Generator().manual_seed(SEED + 1))
    return lambda: torch.autograd.grad(memory(*arguments)[0], arguments, dy)


def matrix_rate(size: int = 1024) -> float:
    """Operations per second of a square float32 matrix product."""
    a, out = torch.randn(size, size), torch.empty(size, size)
    return 2 * size**3 / statistics.median(seconds(lambda: torch.mm(a, a, out=out), 20, 5))


def dense_rows(repeats: int) -> list[dict]:
    """The loop and the chunked form take turns, so that a slow moment of the machine meets both."""
    arguments, rows = inputs(*SHAPE, requires_grad=True), []
    times = {"loop": {"forward": [], "both": []}, "chunked": {"forward": [], "both": []}}
    rates = []
    for _ in range(repeats):
        for name, memory in (("loop", reference.factorization_memory), ("chunked", fast.factorization_memory)):
            inner = 1 if name == "loop" else 3
            times[name]["forward"] += seconds(forward(memory, arguments), inner, inner - 1)
            times[name]["both"] += seconds(forward_backward(memory, arguments), inner, inner - 1)
        rates.append(matrix_rate())
    took = {name: {what: statistics.median(v) for what, v in of.items()} for name, of in times.items()}
    batch, tokens, slots, width = SHAPE
    operations, rate = 18 * batch * tokens * slots * width, statistics.median(rates)
    for what, label, goal in (("both", "forward + backward", 100), ("forward", "forward, no gradients", 20)):
        loop, chunked = took["loop"][what], took["chunked"][what]
        detail = f"{loop:.2f} s / {chunked:.4f} s"
        rows.append(row(f"dense {label}, over the loop", loop / chunked, ">=", goal, "x", detail))
    detail = f"{operations / took['chunked']['both'] / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s"
    share = operations / took["chunked"]["both"] / rate
    rows.append(row("share of the machine's matrix-product rate", share, ">=", 0.4, "", detail))
    return rows


def length_row(repeats: int) -> dict:
    """Long and short take turns; both are one sequence of the same slots and width."""
    calls = [
        forward_backward(fast.factorization_memory, inputs(1, tokens, *SHAPE[2:], requires_grad=True))
        for tokens in (4096, 16384)
    ]
    short, long = ([], [])
    for _ in range(repeats):
        short += seconds(calls[0], 2)
        long += seconds(calls[1], 1)
    short, long = statistics.median(short), statistics.median(long)
    return row("time at T = 16384 over T = 4096", long / short, "<=", 4.2, "x", f"{long:.3f} s / {short:.4f} s")


def memory_row() -> dict:
    """Peak resident memory of a forward and backward in a process of its own, above what the inputs take."""
    what, (batch, tokens, slots, width) = "extra memory over B T M D floats", SHAPE
    if not Path("/proc/self/clear_refs").exists():
        return row(what, None, "<=", 0.1, "", "needs Linux's /proc")
    child = subprocess.run(
        [sys.executable, "-X", "utf8", __file__, "--peak"], capture_output=True, encoding="utf-8", check=True
    )
    extra = int(child.stdout)
    share = extra / (4 * batch * tokens * slots * width)
    return row(what, share, "<=", 0.1, "", f"{extra / 2**20:.0f} MiB, y and the gradients included")


def print_peak() -> None:
    run = forward_backward(fast.factorization_memory, inputs(1, 64, 8, 16, requires_grad=True))
    run()
    run = forward_backward(fast.factorization_memory, inputs(*SHAPE, requires_grad=True))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    results = run()
    print(status("VmHWM") - before)
    del results


def status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def decode_row(repeats: int) -> dict:
    """One sequence decoded in place; windows of 1,000 steps around the two positions."""
    _, _, slots, width = SHAPE
    theta, phi, x = inputs(1, 1, slots, width)
    theta, phi, x = theta[:, 0], phi[:, 0], x[:, 0]
    near, far = [], []
    for _ in range(repeats):
        state = torch.zeros(1, slots, width)
        position = 0
        for first, window in ((100, near), (100_000, far)):
            while position < first:
                fast.step_(theta, phi, x, state)
                position += 1
            start = time.perf_counter()
            for _ in range(1000):
                fast.step_(theta, phi, x, state)
            window.append((time.perf_counter() - start) / 1000)
            position += 1000
    near, far = statistics.median(near), statistics.median(far)
    detail = f"{far * 1e6:.0f} µs / {near * 1e6:.0f} µs"
    return row("decode: time per token at 100,000 over 100", far / near, "~", 1.0, "x", detail)


def training_rows(repeats: int) -> list[dict]:
    """One optimiser step of the default models on 4,096 bytes at a time, mixers taking turns."""
    rows = []
    for length, batch, goal in ((256, 16, 1.0), (4096, 1, 3.0)):
        generator = torch.Generator().manual_seed(SEED)
        windows = torch.randint(256, (batch, length + 1), generator=generator)
        steps = {mixer: training_step(mixer, windows) for mixer in ("fm", "fm-sparse", "transformer")}
        times = {mixer: [] for mixer in steps}
        for _ in range(repeats):
            for mixer, step in steps.items():
                times[mixer] += seconds(step, 2, 1)
        rate = {mixer: batch * length / statistics.median(t) for mixer, t in times.items()}
        for mixer in ("fm", "fm-sparse"):
            what = f"training, {mixer}, over a Transformer, T = {length}"
            detail = f"{rate[mixer]:,.0f} / {rate['transformer']:,.0f} tokens/s"
            rows.append(row(what, rate[mixer] / rate["transformer"], ">=", goal, "x", detail))
    return rows


def training_step(mixer: str, windows: Tensor, **sizes: int) -> Callable[[], object]:
    torch.manual_seed(SEED)
    model, settings = LanguageModel(Config.lenient(mixer, **sizes)), Settings()
    optimizer = optimizer_for(model, settings)
    return lambda: update(model, optimizer, windows, settings.clip)


def row(what: str, measured: float | None, sign: str, goal: float, unit: str, detail: str) -> dict:
    tests = {
        ">=": lambda: measured >= goal,
        "<=": lambda: measured <= goal,
        "~": lambda: abs(measured / goal - 1) < 0.1,
    }
    reached = None if measured is None else tests[sign]()
    return {"what": what, "measured": measured, "sign": sign, "goal": goal, "unit": unit, "detail": detail,
            "reached": reached}  # fmt: skip


def cells(entry: dict) -> tuple[str, str, str, str, str]:
    """What, measured, goal, verdict, detail, as the terminal and the README show them."""
    measured = "not measured" if entry["measured"] is None else f"{entry['measured']:#.3g}{entry['unit']}"
    goal = f"{entry['sign']} {entry['goal']:g}{entry['unit']}"
    verdict = {True: "reached", False: "missed", None: ""}[entry["reached"]]
    return entry["what"], measured, goal, verdict, entry["detail"]


def show(entry: dict) -> None:
    what, measured, goal, verdict, detail = cells(entry)
    print(f"{what:<48} {measured:>12}   {goal:<8} {verdict:<8} {detail}", flush=True)


def table(rows: list[dict]) -> str:
    """As the README shows it."""
    head = ["| what | measured | goal | | detail |", "| --- " * 5 + "|"]
    signs = str.maketrans({"x": "×"})
    lines = []
    for entry in rows:
        what, measured, goal, verdict, detail = cells(entry)
        goal = goal.replace(">=", "≥").replace("<=", "≤")
        lines.append(f"| {what} | {measured.translate(signs)} | {goal.translate(signs)} | {verdict} | {detail} |")
    return "\n".join([*head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="rounds per figure; a figure is a median (default 5)")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak()
    about = {**environment(), "seed": SEED, "shape B, T, M, D": SHAPE, "repeats": options.repeats}
    for name, value in about.items():
        print(f"{name}: {value}")
    rows = []
    for figures in (dense_rows, length_row, lambda _: memory_row(), decode_row, training_rows):
        found = figures(options.repeats)
        for entry in found if isinstance(found, list) else [found]:
            show(entry)
            rows.append(entry)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, RESULTS)
    print(f"\n{table(rows)}\n")
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
