"""Check, compare, draw, train: the project in about three minutes. What it prints is what it measured."""

import argparse
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from experiments import agreement, frame, recall, slots
from experiments.frame import Experiment, Run, UsageError
from layers import SparseConfig
from lm import checkpoint, plots, pretrained
from lm.checkpoint import CheckpointError
from lm.data import Corpus, DataError, read_corpus, reference_lines, sample_batch
from lm.evaluate import Evaluation, Windows, bucket_edges, evaluate, file_windows, positions, summarise, table
from lm.generate import Report, generate, printable
from lm.machine import versions
from lm.model import VOCABULARY, Config, LanguageModel
from lm.run import Buckets, Point, Settings
from lm.train import optimizer_for, train, update

SHOWN = slots.MODEL  # the model whose slots are drawn, that writes the sample and is trained
TIMES_LONGER, PER_FILE = 8, 2  # how far past the training length models are tried, on how many windows of a file
PROMPT = b"def main("
TINY_MODEL = {"d_model": 16, "num_layers": 1, "num_slots": 4, "top_k": 2}


def measure(run: Run) -> dict:
    """Everything: the checks, the models by position, pictures and a sample, and one trained from scratch."""
    options, device = run.options, "cuda" if torch.cuda.is_available() else "cpu"
    trained = run.folder / "demo"  # not where `python -m lm train` puts a run of its own: this one is replaced
    with _usage_errors():
        Settings(seed=options.seed)
        corpus = read_corpus(options.text, trained)
        bundled = pretrained.comparable()
        window = next(iter(bundled.values())).settings.length
        longer, per_file = (1, 1) if run.tiny else (TIMES_LONGER, PER_FILE)
        windows = file_windows(corpus, "test", longer * window, per_file)  # fails early if at all
        checkpoint.writable(run.folder)
        models = {name: pretrained.load(name, device)[1] for name in bundled}
    about = frame.about(asdict(corpus.description()), seed=options.seed)
    print(", ".join(f"{name} {value}" for name, value in about.items() if name != "corpus"), flush=True)
    checks = agreement.check(device, agreement.TINY if run.tiny else agreement.SHAPE)
    print(f"\n{corpus.summary()}\n{_origin()}", flush=True)
    lengths = compare_lengths(models, windows, reference_lines(corpus.text("test")), window, run.folder)
    layers, part, tokens, layer = slots.excerpt(models[SHOWN], slots.longest(corpus))
    plots.draw_slots(part, tokens, run.folder / "slots.png", layer=layer)
    shown = models[SHOWN].config.options
    assert isinstance(shown, SparseConfig)
    plots.draw_slot_use(layers, run.folder / "slot_use.png", top_k=shown.top_k)
    print_sample(models[SHOWN], options.seed, 20 if run.tiny else 400)
    recalled = recall_live(options.seed, run.tiny, run.folder)
    config, seconds = (Config.of(SHOWN, **TINY_MODEL), 0.1) if run.tiny else (Config(mixer=SHOWN), options.seconds)
    settings, history = train_from_scratch(config, corpus, seconds, options.seed, device, trained, options.text)
    print(
        f"\n{run.folder} holds slots.png, slot_use.png, length.png, recall.png, and a run that goes on from a prompt:"
    )
    print(f"python -m lm generate {trained} --prompt 'class Tree:'")
    return {
        "about": about | {"versions": versions(), "settings": asdict(settings)},
        "rows": checks, "lengths": lengths, "recall": recalled, "history": [asdict(point) for point in history],
    }  # fmt: skip


def compare_lengths(
    models: dict[str, LanguageModel], windows: Windows, references: dict[str, float], length: int, folder: Path
) -> dict:
    """Loss by position up to some times the training length: table, verdicts and length.png."""
    context = windows.tokens.shape[1] - 1
    found: dict[str, Evaluation] = {}
    for mixer, model in models.items():
        found[mixer] = evaluate(model, windows, length, reset=True, label=f"{plots.NAMES[mixer]} by position")
    parts = {part: {mixer: getattr(found[mixer], part) for mixer in models} for part in ("stateful", "reset", "gain")}
    stateful, reset, gain = parts.values()
    others = [mixer for mixer in models if mixer != SHOWN]
    difference = {
        mixer: summarise(found[SHOWN].sums - found[mixer].sums, windows.paths, bucket_edges(context))
        for mixer in others
    }
    files = f"{stateful[SHOWN].windows} windows of {stateful[SHOWN].files} files not trained on"
    print(f"\nBits per byte by position (95 % interval over files; {files}):")
    print(table({plots.NAMES[mixer]: stateful[mixer] for mixer in models}, length))
    print(f"state reset every {length} bytes, last row: " + ", ".join(
        f"{plots.NAMES[mixer]} {reset[mixer].mean[-1]:.2f}" for mixer in models))  # fmt: skip
    print("for comparison: " + ", ".join(f"{name} {bits:.2f}" for name, bits in references.items()))
    for mixer in others:
        for last in sorted({length, context}):
            print(verdict(difference[mixer], (SHOWN, mixer), last))
    print("(one seed, the same tokens and settings for all; only the Transformer has no convolution over bytes)")
    plots.draw_lengths(stateful, folder / "length.png", train_length=length, gain=gain, references=references)
    parts["difference"] = {f"{SHOWN} - {mixer}": difference[mixer] for mixer in others}
    return {part: {name: asdict(buckets) for name, buckets in of.items()} for part, of in parts.items()} | {
        "references": references
    }


def verdict(difference: Buckets, mixers: tuple[str, str], last: int) -> str:
    """Which of two mixers is ahead in the bucket that ends at `last`, from the loss of the first less the other's."""
    k = difference.last.index(last)
    where = positions(difference.first[k], last)
    ahead, behind = (plots.NAMES[mixer] for mixer in (mixers if difference.mean[k] < 0 else mixers[::-1]))
    low, high = sorted(abs(v) for v in (difference.low[k], difference.high[k]))
    if difference.low[k] < 0 < difference.high[k]:
        both = " and ".join(plots.NAMES[mixer] for mixer in mixers)
        return f"at {where}: no clear difference of {both} ({difference.low[k]:+.3f} to {difference.high[k]:+.3f})"
    return f"at {where}: {ahead} is ahead of {behind} by {low:.3f} to {high:.3f}"


def print_sample(model: LanguageModel, seed: int, length: int) -> None:
    """What the model writes, and what that costs."""
    report = Report()
    tokens = generate(model, PROMPT, length, seed=seed, report=report)
    print(f"\n{plots.NAMES[model.config.mixer]} goes on from {PROMPT.decode()!r}:\n")
    print(PROMPT.decode() + "".join(printable(tokens)))
    print(f"\n({report})")


def recall_live(seed: int, tiny: bool, folder: Path) -> dict[int, float]:
    """Recall of a small FM that is trained here, after gaps far longer than in its training: table and recall.png.

    On one thread: its products are too small for two.
    """
    sizes = recall.LIVE_SIZES._replace(steps=2, gaps=(64,), sequences=4) if tiny else recall.LIVE_SIZES
    (pairs,), result, threads = sizes.asked, frame.stored(recall.EXPERIMENT), torch.get_num_threads()
    print(f"\nRecall over a gap: {pairs} pairs of key and value, then fillers, then the keys again.")
    print(f"Training a small FM for it, on one core: {sizes.steps:,} steps, gaps up to {sizes.gap}.", flush=True)
    torch.set_num_threads(1)
    try:
        *_, (_, loss, model) = recall.train(recall.LIVE, seed, sizes)
        live = {
            gap: recall.recall(model, pairs, gap, sizes.sequences // (4 if gap > 4096 else 1)) for gap in sizes.gaps
        }
    finally:
        torch.set_num_threads(threads)
    print(f"loss {loss:.3f} (luck gives {math.log(recall.VALUES):.2f})\n{recall.beside(result, live)}")
    print("(the others are stored, the mean over seeds: twice the steps, of twice the sequences)", flush=True)
    recall.draw_live(result, live, folder / "recall.png")
    return live


def train_from_scratch(
    config: Config, corpus: Corpus, seconds: float, seed: int, device: str, folder: Path, text: str | None
) -> tuple[Settings, tuple[Point, ...]]:
    """Train for so long, more or less: the settings, and what the loss was on the way."""
    settings = calibrate(config, corpus, seconds, seed, device)
    train(config, settings, corpus, folder, text=text, overwrite=True, device=device, label="training")
    history = checkpoint.read_run(checkpoint.latest(folder)).history
    losses = ", ".join(f"{point.held_out:.2f} after {point.tokens / 1e6:.2f} MB" for point in history)
    print(f"bits per byte held out: {losses} (knowing nothing is {math.log2(VOCABULARY):.2f})")
    return settings, history


def calibrate(config: Config, corpus: Corpus, seconds: float, seed: int, device: str) -> Settings:
    """Settings with as many steps as fit into the time."""
    settings = Settings(seed=seed)
    stream = corpus.stream("train", at_least=settings.length + 1)
    torch.manual_seed(seed)
    model = LanguageModel(config).to(device)
    optimizer = optimizer_for(model, settings)
    windows = sample_batch(stream, settings.batch, settings.length, seed, 0).to(device)
    took = statistics.median(frame.seconds(lambda: update(model, optimizer, windows, settings.clip), repeats=5))
    steps = max(2, round(seconds / took))
    print(
        f"\nTraining {plots.NAMES[config.mixer]} from scratch, {model.num_parameters():,} parameters: {steps} steps of "
        f"{settings.batch * settings.length:,} bytes, {took:.2f} s each.",
        flush=True,
    )
    return Settings(steps=steps, warmup=min(settings.warmup, steps // 5), evaluate_every=-(-steps // 4), seed=seed)


def _origin() -> str:
    """What the bundled models were trained on."""
    run = checkpoint.read_run(pretrained.FOLDER / SHOWN)
    tokens = f"{run.history[-1].tokens / 1e6:.1f} MB of the {run.corpus.name}"
    return f"The bundled models have read {tokens} in windows of {run.settings.length} bytes."


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What is wrong with the text, the models or an option is the user's to read, in one line."""
    try:
        yield
    except (DataError, CheckpointError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error


def _seconds(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"must be greater than 0, got {text}")
    return number


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=_seconds, default=45, help="time for the training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and sample (default: 0)")
    parser.add_argument("--text", help="a file or folder of text (default: the standard library of this Python)")


EXPERIMENT = Experiment("demo", measure, problems=agreement.problems, options=options, folder=Path("out"))
