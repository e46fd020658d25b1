"""The figures this project aims at in the dense form, measured on this machine beside their goals.

Every figure is a ratio taken within one run, of medians, in float32. No test reads the clock: a slow machine makes a
slow benchmark, not a red one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import fast
import reference
from experiments import frame
from experiments.compare import Case
from experiments.frame import SEED, Experiment, Run, extra_memory, forward, forward_backward, medians, router_inputs
from lm.generate import sample
from lm.model import DOCUMENT_MARK, Config, LanguageModel
from lm.run import Settings
from lm.train import optimizer_for, update


class Sizes(NamedTuple):
    shape: tuple[int, int, int, int]  # B, T, M, D
    long: int  # how many times as long a sequence is that shows how time grows
    matrix: int  # rows of the square matrices whose product is timed
    near: int  # positions of decoding, and steps timed there
    far: int
    window: int
    training: tuple[tuple[int, int, float], ...]  # bytes a window, windows, goal
    generated: int  # tokens
    model: dict[str, int]  # what is not the default


FULL = Sizes((1, 4096, 128, 512), 4, 1024, 100, 100_000, 1000, ((256, 16, 1.0), (4096, 1, 3.3)), 400, {})
SMALL_MODEL = {"d_model": 16, "num_layers": 1, "head_width": 8}
TINY = Sizes((1, 64, 8, 16), 4, 32, 10, 50, 5, ((16, 2, 1.0), (32, 1, 3.3)), 3, SMALL_MODEL)


def dense_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """The loop, the chunked form and the matrix product that it is measured by take turns."""
    inputs = router_inputs(*sizes.shape, requires_grad=True)
    a, out, products = torch.randn(sizes.matrix, sizes.matrix), torch.empty(sizes.matrix, sizes.matrix), 20
    calls = {"matrix": lambda: [torch.mm(a, a, out=out) for _ in range(products)]}
    for name, memory in (("loop", reference.factorization_memory), ("chunked", fast.factorization_memory)):
        calls |= {f"{name} forward": forward(memory, inputs), f"{name} both": forward_backward(memory, inputs)}
    took = medians(calls, rounds)
    batch, tokens, slots, width = sizes.shape
    done = 18 * batch * tokens * slots * width / took["chunked both"]
    rate = 2 * sizes.matrix**3 * products / took["matrix"]
    rows = []
    for what, label, goal in (("both", "forward + backward", 100), ("forward", "forward, no gradients", 20)):
        loop, chunked = took[f"loop {what}"], took[f"chunked {what}"]
        detail = f"{loop:.2f} s / {chunked:.4f} s"
        rows.append(row(f"dense {label}, over the loop", loop / chunked, ">=", goal, "x", detail))
    detail = f"{done / 1e9:.0f} of {rate / 1e9:.0f} GFLOP/s"
    rows.append(row("share of the machine's matrix-product rate", done / rate, ">=", 0.4, "", detail))
    return rows


def length_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """Long and short take turns; both are one sequence of the same slots and width."""
    short, long = sizes.shape[1], sizes.long * sizes.shape[1]
    calls = {tokens: forward_backward(fast.factorization_memory, dense(sizes, tokens)) for tokens in (short, long)}
    took = medians(calls, rounds)
    detail = f"{took[long]:.3f} s / {took[short]:.4f} s"
    return [row(f"time at T = {long} over T = {short}", took[long] / took[short], "<=", 4.2, "x", detail)]


def dense(sizes: Sizes, tokens: int) -> frame.Inputs:
    """One sequence of the usual slots and width."""
    return router_inputs(1, tokens, *sizes.shape[2:], requires_grad=True)


def memory_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """Peak resident memory of a forward and backward in a process of its own, above what the inputs take."""
    what, (batch, tokens, slots, width) = "extra memory over B T M D floats", sizes.shape
    extra = extra_memory(warm_dense, sizes.shape)
    if extra is None:
        return [row(what, None, "<=", 0.1, "", "needs Linux's /proc")]
    detail = f"{extra / 2**20:.0f} MiB, y and the gradients included"
    return [row(what, extra / (4 * batch * tokens * slots * width), "<=", 0.1, "", detail)]


def warm_dense(shape: tuple[int, int, int, int]) -> Callable[[], object]:
    """A forward and backward, after a small one: what a first call loads is not of its size."""
    forward_backward(fast.factorization_memory, router_inputs(1, 64, 8, 16, requires_grad=True))()
    return forward_backward(fast.factorization_memory, router_inputs(*shape, requires_grad=True))


def decode_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """One sequence decoded in place; windows of some steps around the two positions."""
    token, near, far = dense(sizes, 1).at(0), [], []
    for _ in range(rounds):
        state = torch.zeros(1, *sizes.shape[2:])
        position = 0
        for first, window in ((sizes.near, near), (sizes.far, far)):
            while position < first:
                fast.step_(token.theta, token.phi, token.value, state)
                position += 1
            start = time.perf_counter()
            for _ in range(sizes.window):
                fast.step_(token.theta, token.phi, token.value, state)
            window.append((time.perf_counter() - start) / sizes.window)
            position += sizes.window
    near, far = statistics.median(near), statistics.median(far)
    what = f"decode: time per token at {sizes.far:,} over {sizes.near:,}"
    return [row(what, far / near, "~", 1.0, "x", f"{far * 1e6:.0f} µs / {near * 1e6:.0f} µs")]


def training_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """One optimiser step of the default models on 4,096 bytes at a time, mixers taking turns."""
    rows = []
    for length, batch, goal in sizes.training:
        generator = torch.Generator().manual_seed(SEED)
        windows = torch.randint(256, (batch, length + 1), generator=generator)
        steps = {mixer: training_step(mixer, windows, **sizes.model) for mixer in ("fm", "fm-sparse", "transformer")}
        rate = {mixer: batch * length / took for mixer, took in medians(steps, rounds).items()}
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


def generation_rows(sizes: Sizes, rounds: int) -> list[dict]:
    """One text from the default models, as they are at first, after a prompt of one token; mixers take turns."""
    calls = {mixer: text_of(mixer, sizes.generated, **sizes.model) for mixer in ("fm", "fm-sparse", "transformer")}
    rate = {mixer: sizes.generated / took for mixer, took in medians(calls, rounds).items()}
    return [
        row(
            f"generation, {mixer}, over a Transformer", rate[mixer] / rate["transformer"], "", None, "x",
            f"{rate[mixer]:,.0f} / {rate['transformer']:,.0f} tokens/s",
        )
        for mixer in ("fm", "fm-sparse")
    ]  # fmt: skip


def text_of(mixer: str, length: int, **sizes: int) -> Callable[[], object]:
    """So many tokens, sampled as `generate` samples; a document mark does not end them."""
    torch.manual_seed(SEED)
    model = LanguageModel(Config.lenient(mixer, **sizes)).eval()

    @torch.inference_mode()
    def run() -> None:
        generator = torch.Generator().manual_seed(SEED)
        logits, state = model(torch.tensor([[DOCUMENT_MARK]]))
        for _ in range(length):
            token = sample(logits[0, -1], 0.8, 0.95, generator)
            logits, state = model.step_(torch.tensor([[token]]), state)

    return run


def row(what: str, measured: float | None, sign: str, goal: float | None, unit: str, detail: str) -> dict:
    """sign "" and goal None: only measured."""
    tests = {
        "": lambda found: None,
        ">=": lambda found: found >= goal,
        "<=": lambda found: found <= goal,
        "~": lambda found: abs(found / goal - 1) < 0.1,
    }
    reached = None if measured is None else tests[sign](measured)
    return {"what": what, "measured": measured, "sign": sign, "goal": goal, "unit": unit, "detail": detail,
            "reached": reached}  # fmt: skip


def cells(entry: dict) -> tuple[str, str, str, str, str]:
    """What, measured, goal, verdict, detail, as the terminal and the page show them."""
    measured = "not measured" if entry["measured"] is None else f"{entry['measured']:#.3g}{entry['unit']}"
    goal = "–" if entry["goal"] is None else f"{entry['sign']} {entry['goal']:g}{entry['unit']}"
    verdict = {True: "reached", False: "missed", None: ""}[entry["reached"]]
    return entry["what"], measured, goal, verdict, entry["detail"]


def show(entry: dict) -> None:
    what, measured, goal, verdict, detail = cells(entry)
    print(f"{what:<48} {measured:>12}   {goal:<8} {verdict:<8} {detail}", flush=True)


def table(result: dict) -> str:
    head = ["| what | measured | goal | | detail |", "| --- " * 5 + "|"]
    signs = str.maketrans({"x": "×"})
    lines = []
    for entry in result["rows"]:
        what, measured, goal, verdict, detail = cells(entry)
        goal = goal.replace(">=", "≥").replace("<=", "≤")
        lines.append(f"| {what} | {measured.translate(signs)} | {goal.translate(signs)} | {verdict} | {detail} |")
    return "\n".join([*head, *lines])


def measure(run: Run) -> dict:
    sizes, rounds = TINY if run.tiny else FULL, 1 if run.tiny else run.options.rounds
    result = {"about": frame.about(**{"shape B, T, M, D": sizes.shape, "rounds": rounds}), "rows": []}
    print(*(f"{name}: {value}" for name, value in result["about"].items()), sep="\n")
    for figures in (dense_rows, length_rows, memory_rows, decode_rows, training_rows, generation_rows):
        for entry in figures(sizes, rounds):
            show(entry)
            result["rows"].append(entry)
    return result


def cases(tiny: bool) -> list[Case]:
    """What a change of the dense form is judged by: a whole sequence, a long one, a step."""
    sizes = TINY if tiny else FULL
    inputs, long = dense(sizes, sizes.shape[1]), dense(sizes, sizes.long * sizes.shape[1])
    constant = [v.detach() for v in inputs.arguments() if torch.is_tensor(v)]
    step = [*dense(sizes, 1).at(0).arguments(), torch.zeros(1, *sizes.shape[2:])]
    tokens, memory = long.value.shape[1], "factorization_memory"
    return [
        Case("dense forward + backward", memory, inputs.arguments(), ("auto",)),
        Case("dense forward, no gradients", memory, constant, ("auto",)),
        Case(f"dense forward + backward, T = {tokens}", memory, long.arguments(), ("auto",)),
        Case("decode, one token", "step_", step, calls=sizes.window),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="a figure is a median of so many (default: %(default)s)")


EXPERIMENT = Experiment("speed_dense", measure, {"": table}, options=options, cases=cases)
