"""Train a model: AdamW, linear warm-up and cosine decay, clipped gradients, held-out loss, checkpoints.

A run is a pure function of (config, settings, corpus): batches depend on (seed, step) alone and a checkpoint
holds everything else, so that a run stopped and resumed ends in the same bits on a CPU. Losses are in
bits per byte (the document mark counts as one more byte).
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from lm import checkpoint
from lm.checkpoint import CheckpointError
from lm.data import Corpus, even_windows, sample_batch
from lm.model import Config, LanguageModel

HELD_OUT_WINDOWS = 64


class Diverged(Exception):
    """The loss stopped being a number; the message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class Settings:
    """How to train. `warmup` steps rise to `lr`, the rest falls along a cosine to a tenth of it.

    before: in every other step, a window starts from the state that so many bytes before it leave, read without
    gradients (truncated backpropagation through time), not from an empty one.
    """

    steps: int = 2000
    batch: int = 16
    length: int = 256
    before: int = 0
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip", "weight_decay"):
            if getattr(self, name) >= 1e30:
                raise ValueError(f"{name} must be below 1e30, got {getattr(self, name)}")
        for name, bits in (("batch", 31), ("seed", 63)):
            if getattr(self, name) >= 2**bits:
                raise ValueError(f"{name} must be below 2**{bits}, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in ("before", "warmup", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0) as a share of lr.

        >>> settings = Settings(steps=110, warmup=10)
        >>> [round(settings.rate(step), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.55, 0.1]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    config: Config, settings: Settings, corpus: Corpus, folder: str | Path, *, text: str | None = None,
    overwrite: bool = False, device: str = "cpu", quiet: bool = False, label: str = "",
) -> LanguageModel:  # fmt: skip
    """Train from the start and return the model; checkpoints go to folder. `text` is kept for later commands.

    CheckpointError if the folder holds a run already, unless overwrite, if another process writes there or nothing can
    be written. DataError if the text is too short. KeyboardInterrupt after Ctrl-C, once the checkpoint is saved.
    Diverged on a loss that is not finite.
    """
    folder, texts = Path(folder), _texts(corpus, settings)  # before anything is made or removed
    with checkpoint.claim(folder):
        old = checkpoint.checkpoints(folder)
        if old and not overwrite:
            raise CheckpointError(f"{folder} holds a run already: --resume continues it, --overwrite replaces it")
        for path in old:
            checkpoint.remove(path)
        torch.manual_seed(settings.seed)
        model = LanguageModel(config).to(device)
        record = {"step": 0, "seconds": 0.0, "smoothed": None, "history": [], "settings": asdict(settings)}
        record |= _origin(corpus, text)
        return _run(model, optimizer_for(model, settings), settings, texts, folder, record, quiet, label)


def resume(
    folder: str | Path, corpus: Corpus, *, text: str | None = None, device: str = "cpu", quiet: bool = False,
    label: str = "",
) -> LanguageModel:  # fmt: skip
    """Continue the run in a folder from its last checkpoint, as if it had never stopped.

    `text` is where the corpus lies now, if it has moved. CheckpointError if there is no checkpoint or the corpus has
    changed; otherwise as `train`.
    """
    with checkpoint.claim(checkpoint.latest(folder).parent):
        found = checkpoint.latest(folder)
        record = checkpoint.read_record(found)
        check_same(corpus, record, found)
        settings = checkpoint.intact(found, lambda: Settings(**record["settings"]))
        model = checkpoint.read_model(found, device)
        optimizer = optimizer_for(model, settings)
        checkpoint.read_training(found, model, optimizer)
        if text is not None:
            record |= _origin(corpus, text)
        return _run(model, optimizer, settings, _texts(corpus, settings), found.parent, record, quiet, label)


def check_same(corpus: Corpus, record: dict, path: Path) -> None:
    """A CheckpointError that names what has changed where a corpus is not what a run was trained on."""
    was = record["corpus"]
    if corpus.manifest_hash == was["manifest_hash"]:
        return
    changes = corpus.changes(record["manifest"]) if "manifest" in record else "which files differ is not recorded"
    if changes:
        raise CheckpointError(
            f"{path}: its text was {was['name']} ({was['manifest_hash']}), which is not what {corpus.name} "
            f"({corpus.manifest_hash}) holds; {changes}; --text names another"
        )


def bits_per_byte(model: LanguageModel, tokens: Tensor, before: int = 0) -> Tensor:
    """Mean loss of windows [B, before + T + 1] over the last T, a scalar that gradients flow from.

    The state is empty at first; the tokens `before` change it, and no gradient flows back into them.
    """
    state = None
    if before:
        with torch.no_grad():
            _, state = model(tokens[:, :before])
    tokens = tokens[:, before:]
    logits, _ = model(tokens[:, :-1], state)
    return cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()) / math.log(2)


@torch.no_grad()
def held_out_loss(model: LanguageModel, windows: Tensor, batch: int) -> float:
    """Mean bits per byte over windows [N, T + 1]."""
    model.eval()
    parts = [bits_per_byte(model, part) * len(part) for part in windows.split(batch)]
    model.train()
    return float(sum(parts)) / len(windows)


def _origin(corpus: Corpus, text: str | None) -> dict:
    """What a record says of the text: where it lies, what it is, and the hash of every file."""
    text = None if text is None else str(Path(text).resolve())
    return {"text": text, "corpus": corpus.description(), "manifest": corpus.manifest}


def _texts(corpus: Corpus, settings: Settings) -> tuple[Tensor, Tensor]:
    """The stream to train on, and held-out windows [N, length + 1]."""
    at_least = {"train": settings.before + settings.length + 1, "validation": settings.length + 1}
    stream, held_out = (corpus.stream(split, size) for split, size in at_least.items())
    return stream, even_windows(held_out, HELD_OUT_WINDOWS, settings.length)


def _run(
    model: LanguageModel, optimizer: AdamW, settings: Settings, texts: tuple[Tensor, Tensor], folder: Path,
    record: dict, quiet: bool, label: str,
) -> LanguageModel:  # fmt: skip
    """Steps record["step"] to the end. The record is what run.json will hold."""
    device = next(model.parameters()).device
    stream, held_out = texts[0], texts[1].to(device)
    scheduler = LambdaLR(optimizer, settings.rate, last_epoch=record["step"] - 1)
    model.train()
    with _interruptible() as interrupted, _bar(settings, record["step"], quiet, label) as bar:
        while record["step"] < settings.steps:
            began = time.perf_counter()
            torch.manual_seed(settings.seed + record["step"])  # a router's noise is the same after a resume
            before = settings.before * (record["step"] % 2)
            windows = sample_batch(stream, settings.batch, before + settings.length, settings.seed, record["step"])
            loss = update(model, optimizer, windows.to(device), settings.clip, before)
            if loss is None:
                raise _diverged("training loss or gradient", record["step"], folder)
            scheduler.step()
            record["step"] += 1
            record["smoothed"] = loss if record["smoothed"] is None else 0.95 * record["smoothed"] + 0.05 * loss
            record["seconds"] += time.perf_counter() - began
            if record["step"] == settings.steps or record["step"] % settings.evaluate_every == 0:
                _note_held_out(model, held_out, settings, folder, record)
                checkpoint.write(folder, model, optimizer, record)
            bar.set_postfix_str(_losses(record), refresh=False)
            bar.update(settings.batch * settings.length)
            if interrupted.is_set():
                saved = checkpoint.write(folder, model, optimizer, record)
                raise KeyboardInterrupt(f"stopped at step {record['step']}, saved {saved}; --resume continues")
    return model.eval()


def update(model: LanguageModel, optimizer: AdamW, windows: Tensor, clip: float, before: int = 0) -> float | None:
    """One optimiser step; `bits_per_byte` before it, or None (and no step) if it or a gradient is not finite."""
    optimizer.zero_grad()
    loss = bits_per_byte(model, windows, before)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not torch.isfinite(loss + norm):
        return None
    optimizer.step()
    return loss.item()


def _note_held_out(model: LanguageModel, held_out: Tensor, settings: Settings, folder: Path, record: dict) -> None:
    """Append to the history; checked as well, so that no checkpoint is of a model that has diverged."""
    loss = held_out_loss(model, held_out, settings.batch)
    if not math.isfinite(loss):
        raise _diverged("held-out loss", record["step"], folder)
    tokens = record["step"] * settings.batch * settings.length
    record["history"].append({"step": record["step"], "tokens": tokens, "train": record["smoothed"], "held_out": loss})


def _diverged(what: str, step: int, folder: Path) -> Diverged:
    found = checkpoint.checkpoints(folder)
    last_good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return Diverged(f"the {what} was not finite at step {step}: {last_good}; a smaller --lr may help")


def optimizer_for(model: LanguageModel, settings: Settings) -> AdamW:
    """Matrices decay towards zero; norms, biases and other vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "initial_lr": settings.lr},
        {"params": vectors, "weight_decay": 0.0, "initial_lr": settings.lr},
    ]
    return AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))


def _losses(record: dict) -> str:
    held_out = f", held out {record['history'][-1]['held_out']:.3f}" if record["history"] else ""
    return f"{record['smoothed']:.3f} bits/byte{held_out}"


def _bar(settings: Settings, start: int, quiet: bool, label: str) -> tqdm:
    per_step = settings.batch * settings.length
    return tqdm(
        total=settings.steps * per_step,
        initial=start * per_step,
        desc=label or None,
        unit="tok",
        unit_scale=True,
        disable=quiet,
        mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file should not fill with bars
        dynamic_ncols=True,
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event and lets the step finish (half a step cannot be resumed); a second one stops.

    Where SIGINT is ignored, as in a shell's background, or is not Python's to handle (None), it stays so.
    """
    asked = threading.Event()

    def ask(signum, frame) -> None:
        if asked.is_set():
            raise KeyboardInterrupt("stopped at once, without saving")
        asked.set()

    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there can a signal be caught
    if before in (signal.SIG_IGN, None) or not in_main_thread:
        yield asked
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
