"""Check, compare, draw, train: the project in about three minutes. What it prints is what it measured."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import fast

# The one place outside tests/ and notebooks/ that uses the loop: the demo shows that fast agrees with it here.
import reference
from lm import checkpoint, plots
from lm.data import Corpus, Document, read_corpus, reference_lines, sample_batch
from lm.evaluate import Buckets, bucket_edges, file_windows, loss_sums, summarise, table
from lm.generate import Report, generate, printable
from lm.machine import environment, versions
from lm.model import VOCABULARY, Activity, Config, LanguageModel
from lm.train import Settings, optimizer_for, train, update

SHOWN = "fm-sparse"  # the model whose slots are drawn, that writes the sample and is trained
TIMES_LONGER, PER_FILE = 8, 2  # how far past the training length models are tried, on how many windows of a file
SHAPE = {"B": 1, "T": 1024, "M": 64, "K": 8, "D": 128}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
PROMPT = b"def main("


def demo(*, seconds: float = 60, out: Path = Path("out"), seed: int = 0, text: str | None = None) -> int:
    """Run everything; 0, or 1 if a backend missed its tolerance. `seconds` is the training time."""
    run = out / "demo"  # not where `train` puts a run of its own: this one is replaced
    corpus = read_corpus(text, run)
    windows, paths = file_windows(corpus, "test", TIMES_LONGER * Settings.length, PER_FILE)  # fails early if at all
    checkpoint.writable(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {mixer: checkpoint.read_model(checkpoint.PUBLISHED / mixer, device) for mixer in plots.NAMES}
    machine = environment()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    checks = check_backends(device)
    print(f"\n{corpus.summary()}\n{_origin()}", flush=True)
    lengths = compare_lengths(models, windows, paths, reference_lines(corpus.text("test")), Settings.length, out)
    draw_slot_pictures(models[SHOWN], corpus, out)
    print_sample(models[SHOWN], seed)
    settings, history = train_from_scratch(corpus, seconds, seed, device, run, text)
    result = {
        "machine": machine, "versions": versions(), "corpus": corpus.description(), "settings": asdict(settings),
        "checks": checks, "lengths": lengths, "history": history,
    }  # fmt: skip
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    written = ("slots.png", "slot_use.png", "length.png", "demo.json")
    print(f"\nwrote {', '.join(str(out / name) for name in written)}; the run is in {run}:")
    print(f"python -m lm generate {run} --prompt 'class Tree:'")
    return 0 if all(check["passed"] for check in checks) else 1


def check_backends(device: str = "cpu") -> list[dict]:
    """Print and return, by form, backend and dtype: errors against the float64 loop, and speed with gradients."""
    sizes = ", ".join(f"{name}={size}" for name, size in SHAPE.items())
    print(f"\nAgainst the loop in float64, forward and backward, {sizes}:")
    print(f"{'form':8}{'backend':10}{'dtype':10}{'values':>9}{'gradients':>11}{'tokens/s':>11}{'over the loop':>15}")
    rows = []
    for form in ("dense", "sparse"):
        for dtype, tolerance in TOLERANCES.items():
            inputs = _inputs(form, dtype, device)
            exact, _ = _timed(_loop(form), [v.double() if v.is_floating_point() else v for v in inputs], repeats=1)
            _, loop_seconds = _timed(_loop(form), inputs, repeats=1)
            for backend, reason in fast.backends().items():
                if reason or not _computes(backend, form, dtype, device):
                    continue
                results, seconds = _timed(_fast(form, backend), inputs, repeats=5)
                errors = [_relative(got, want) for got, want in zip(results, exact, strict=True)]
                row = {
                    "form": form, "backend": backend, "dtype": str(dtype).removeprefix("torch."),
                    "values": max(errors[:2]), "gradients": max(errors[2:]),
                    "tokens_per_second": SHAPE["B"] * SHAPE["T"] / seconds, "over_loop": loop_seconds / seconds,
                }  # fmt: skip
                row["passed"] = row["values"] <= tolerance and row["gradients"] <= 10 * tolerance
                rows.append(row)
                _print_row(row)
    for backend, reason in fast.backends().items():
        if reason:
            print(f"{backend} does not run here: {reason}")
    failed = sum(not row["passed"] for row in rows)
    print(f"{failed} of {len(rows)} outside tolerance" if failed else f"all {len(rows)} within tolerance", flush=True)
    return rows


def compare_lengths(
    models: dict[str, LanguageModel], windows: Tensor, paths: list[str], references: dict[str, float], length: int,
    out: Path,
) -> dict:  # fmt: skip
    """Loss by position up to TIMES_LONGER times the training length: table, verdicts and out/length.png."""
    context = windows.shape[1] - 1
    edges = bucket_edges(context)
    sums, emptied = {}, {}
    for mixer, model in models.items():
        sums[mixer] = loss_sums(model, windows, length, label=f"{plots.NAMES[mixer]} by position")
        emptied[mixer] = loss_sums(model, windows, length, reset=True, label=f"{plots.NAMES[mixer]}, emptied")
    carried, reset = ({mixer: summarise(part[mixer], paths, edges) for mixer in models} for part in (sums, emptied))
    others = [mixer for mixer in models if mixer != SHOWN]
    difference = {mixer: summarise(sums[SHOWN] - sums[mixer], paths, edges) for mixer in others}
    files = f"{carried[SHOWN].windows} windows of {carried[SHOWN].files} files not trained on"
    print(f"\nBits per byte by position (95 % interval over files; {files}):")
    print(table({plots.NAMES[mixer]: carried[mixer] for mixer in models}, length))
    print(f"state emptied every {length} bytes, last row: " + ", ".join(
        f"{plots.NAMES[mixer]} {reset[mixer].mean[-1]:.2f}" for mixer in models))  # fmt: skip
    print("for comparison: " + ", ".join(f"{name} {bits:.2f}" for name, bits in references.items()))
    for mixer in others:
        print(verdict(difference[mixer], (SHOWN, mixer), length))
        print(verdict(difference[mixer], (SHOWN, mixer), context))
    print("(one seed, the same tokens and settings for all; only the Transformer has no convolution over bytes)")
    plots.draw_lengths(carried, out / "length.png", train_length=length, reset=reset, references=references)
    parts = {"carried": carried, "reset": reset}
    parts["difference"] = {f"{SHOWN} - {mixer}": difference[mixer] for mixer in others}
    return {part: {name: asdict(buckets) for name, buckets in of.items()} for part, of in parts.items()} | {
        "references": references
    }


def draw_slot_pictures(model: LanguageModel, corpus: Corpus, out: Path, shown: int = 100) -> None:
    """out/slots.png over the start of a function in an unseen file, out/slot_use.png over all that was read of it."""
    document = max(corpus.splits["test"], key=lambda document: len(document.data))
    layers, part, tokens, layer = slot_excerpt(model, document, shown)
    plots.draw_slots(part, tokens, out / "slots.png", layer=layer)
    plots.draw_slot_use(layers, out / "slot_use.png", top_k=model.config.top_k)


def slot_excerpt(model: LanguageModel, document: Document, shown: int) -> tuple[list[Activity], Activity, Tensor, int]:
    """Activity of all layers over a document; of the layer whose slots share the work most evenly, over the start of
    a function: that part, its tokens [shown] and which layer it is.
    """
    tokens, start = _excerpt(document, shown)
    layers = model.slot_activity(tokens[None].to(next(model.parameters()).device))
    halves = [plots.slots_for_half(layer.theta[0].cpu().numpy()) for layer in layers]
    busiest = halves.index(max(halves))
    part = Activity(*(weights[:, start : start + shown] for weights in layers[busiest]))
    return layers, part, tokens[start : start + shown], busiest


def print_sample(model: LanguageModel, seed: int, length: int = 400) -> None:
    """What the model writes, and what that costs."""
    report = Report()
    tokens = generate(model, PROMPT, length, seed=seed, report=report)
    print(f"\n{plots.NAMES[model.config.mixer]} goes on from {PROMPT.decode()!r}:\n")
    print(PROMPT.decode() + "".join(printable(tokens)))
    print(f"\n({report})")


def train_from_scratch(
    corpus: Corpus, seconds: float, seed: int, device: str, folder: Path, text: str | None
) -> tuple[Settings, list[dict]]:
    """Train the model shown for so long, more or less: the settings, and what its loss was on the way."""
    settings = calibrate(corpus, seconds, seed, device)
    train(Config(mixer=SHOWN), settings, corpus, folder, text=text, overwrite=True, device=device, label="training")
    history = checkpoint.read_record(checkpoint.latest(folder))["history"]
    losses = ", ".join(f"{row['held_out']:.2f} after {row['tokens'] / 1e6:.2f} MB" for row in history)
    print(f"bits per byte held out: {losses} (knowing nothing is {math.log2(VOCABULARY):.2f})")
    return settings, history


def calibrate(corpus: Corpus, seconds: float, seed: int, device: str) -> Settings:
    """Settings with as many steps as fit into the time."""
    settings, times = Settings(seed=seed), []
    stream = corpus.stream("train", at_least=settings.length + 1)
    torch.manual_seed(seed)
    model = LanguageModel(Config(mixer=SHOWN)).to(device)
    optimizer = optimizer_for(model, settings)
    for step in range(6):
        began = time.perf_counter()
        windows = sample_batch(stream, settings.batch, settings.length, seed, step)
        update(model, optimizer, windows.to(device), settings.clip)
        times.append(time.perf_counter() - began)
    step_seconds = median(times[1:])  # the first one warms up
    steps = max(2, round(seconds / step_seconds))
    print(
        f"\nTraining {plots.NAMES[SHOWN]} from scratch, {model.num_parameters():,} parameters: {steps} steps of "
        f"{settings.batch * settings.length:,} bytes, {step_seconds:.2f} s each.",
        flush=True,
    )
    return Settings(steps=steps, warmup=min(settings.warmup, steps // 5), evaluate_every=-(-steps // 4), seed=seed)


def verdict(difference: Buckets, mixers: tuple[str, str], last: int) -> str:
    """Which of two mixers is ahead in the bucket that ends at `last`, from the loss of the first less the other's."""
    k = difference.last.index(last)
    where = plots.positions(difference.first[k], last)
    ahead, behind = (plots.NAMES[mixer] for mixer in (mixers if difference.mean[k] < 0 else mixers[::-1]))
    low, high = sorted(abs(v) for v in (difference.low[k], difference.high[k]))
    if difference.low[k] < 0 < difference.high[k]:
        both = " and ".join(plots.NAMES[mixer] for mixer in mixers)
        return f"at {where}: no clear difference of {both} ({difference.low[k]:+.3f} to {difference.high[k]:+.3f})"
    return f"at {where}: {ahead} is ahead of {behind} by {low:.3f} to {high:.3f}"


def _origin() -> str:
    """What the models that come along were trained on."""
    record = checkpoint.read_record(checkpoint.PUBLISHED / SHOWN)
    tokens, length = record["history"][-1]["tokens"], record["settings"]["length"]
    return (
        f"The models that come along have read {tokens / 1e6:.1f} MB of the {record['corpus']['name']} in windows of "
        f"{length} bytes."
    )


def _excerpt(document: Document, shown: int) -> tuple[Tensor, int]:
    """Up to 4,096 tokens of a document, and where in them the last function begins that fits in whole."""
    tokens = document.tokens()[:4096].long()
    last = document.data[: max(0, len(tokens) - shown)].rfind(b"    def ")
    return tokens, max(0, last + 1)  # the mark stands before the bytes


def _computes(backend: str, form: str, dtype: torch.dtype, device: str) -> bool:
    """Whether there is anything to time: Triton's kernels know no float64, and a CPU interprets them."""
    if backend == "triton":
        return dtype != torch.float64 and device != "cpu"
    return (form, backend) != ("dense", "grouped")


def _inputs(form: str, dtype: torch.dtype, device: str) -> list[Tensor]:
    """theta, phi, (slots,) x and a state, made as a layer makes them, from random numbers; seed 0."""
    B, T, M, K, D = SHAPE.values()
    generator = torch.Generator().manual_seed(0)
    logits, slots = (2 * torch.randn(B, T, M, generator=generator)).topk(K if form == "sparse" else M)
    rates = torch.randn(2, B, T, 1, generator=generator).sigmoid()
    theta, phi = (rates * logits.softmax(-1)).to(device, dtype)
    x, state = (torch.randn(B, rows, D, generator=generator).to(device) for rows in (T, M))
    if form == "dense":  # topk has sorted the slots; any order will do
        return [theta, phi, x.to(dtype), state.to(torch.promote_types(dtype, torch.float32))]
    return [theta, phi, slots.to(device), x.to(dtype), state.to(torch.promote_types(dtype, torch.float32))]


def _loop(form: str) -> Callable:
    return _call(reference.factorization_memory if form == "dense" else reference.sparse_factorization_memory, form)


def _fast(form: str, backend: str) -> Callable:
    name = "factorization_memory" if form == "dense" else "sparse_factorization_memory"
    return _call(getattr(fast, name), form, backend=backend)


def _call(function: Callable, form: str, **options) -> Callable:
    """A function of `_inputs`: the sparse form needs the number of slots before the state."""
    if form == "dense":
        return lambda *inputs: function(*inputs, **options)
    return lambda *inputs: function(*inputs[:-1], SHAPE["M"], inputs[-1], **options)


def _timed(function: Callable, inputs: list[Tensor], repeats: int) -> tuple[list[Tensor], float]:
    """y, the final state and the gradients of their weighted sum, and the median seconds (a first call if >1)."""
    times = []
    for _ in range(repeats):
        leaves = [v.clone().requires_grad_(v.is_floating_point()) for v in inputs]
        _synchronise(inputs[0])
        began = time.perf_counter()
        y, state = function(*leaves)
        sum(
            (v.double() * torch.linspace(-1, 1, v.numel(), device=v.device).view_as(v)).sum() for v in (y, state)
        ).backward()
        _synchronise(inputs[0])
        times.append(time.perf_counter() - began)
    gradients = [v.grad for v in leaves if v.is_floating_point()]
    return [y.detach(), state.detach(), *gradients], median(times)


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def _print_row(row: dict) -> None:
    speed = f"{row['tokens_per_second']:>11,.0f}{row['over_loop']:>14,.0f}×"
    errors = f"{row['values']:>9.0e}{row['gradients']:>11.0e}"
    print(
        f"{row['form']:8}{row['backend']:10}{row['dtype']:10}{errors}{speed}{'' if row['passed'] else '  TOO FAR'}",
        flush=True,
    )
