"""Train a model: AdamW, linear warm-up and cosine decay, clipped gradients, held-out loss, checkpoints.

A run is a pure function of (config, settings, corpus): batches depend on (seed, step) alone and a checkpoint
holds everything else, so that a run stopped and resumed ends in the same bits on a CPU. Losses are in bits per byte.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from lm import checkpoint
from lm.checkpoint import CheckpointError
from lm.data import Corpus, even_windows, sample_batch
from lm.loss import bits_per_byte, held_out_loss
from lm.model import Config, LanguageModel
from lm.run import Point, Run, Settings

HELD_OUT_WINDOWS = 64


class Diverged(Exception):
    """The loss stopped being a number; the message names the step and the last good checkpoint."""


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
        run = _with_text(Run(config, settings, corpus.description(), None), corpus, text)
        return _run(model, optimizer_for(model, settings), texts, folder, run, quiet, label)


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
        run = checkpoint.read_run(found)
        check_same(corpus, run, found)
        model = checkpoint.read_model(found, device)
        optimizer = optimizer_for(model, run.settings)
        checkpoint.read_training(found, model, optimizer)
        if text is not None:
            run = _with_text(run, corpus, text)
        return _run(model, optimizer, _texts(corpus, run.settings), found.parent, run, quiet, label)


def check_same(corpus: Corpus, run: Run, path: Path) -> None:
    """A CheckpointError that names what has changed where a corpus is not what a run was trained on."""
    was = run.corpus
    if corpus.manifest_hash == was.manifest_hash:
        return
    changes = "which files differ is not recorded" if run.manifest is None else corpus.changes(run.manifest)
    if changes:
        raise CheckpointError(
            f"{path}: its text was {was.name} ({was.manifest_hash}), which is not what {corpus.name} "
            f"({corpus.manifest_hash}) holds; {changes}; --text names another"
        )


def _with_text(run: Run, corpus: Corpus, text: str | None) -> Run:
    """The record of a run on this text: where it lies, what it is, and the hash of every file."""
    text = None if text is None else str(Path(text).resolve())
    return replace(run, text=text, corpus=corpus.description(), manifest=corpus.manifest)


def _texts(corpus: Corpus, settings: Settings) -> tuple[Tensor, Tensor]:
    """The stream to train on, and held-out windows [N, length + 1]."""
    at_least = {"train": settings.burn_in + settings.length + 1, "validation": settings.length + 1}
    stream, held_out = (corpus.stream(split, size) for split, size in at_least.items())
    return stream, even_windows(held_out, HELD_OUT_WINDOWS, settings.length)


def _run(
    model: LanguageModel, optimizer: AdamW, texts: tuple[Tensor, Tensor], folder: Path, run: Run, quiet: bool,
    label: str,
) -> LanguageModel:  # fmt: skip
    """Steps run.step to the end. The record is what run.json will hold."""
    settings, device = run.settings, next(model.parameters()).device
    stream, held_out = texts[0], texts[1].to(device)
    scheduler = LambdaLR(optimizer, settings.rate, last_epoch=run.step - 1)
    model.train()
    with _interruptible() as interrupted, _bar(settings, run.step, quiet, label) as bar:
        while run.step < settings.steps:
            began = time.perf_counter()
            torch.manual_seed(settings.seed + run.step)  # a router's noise is the same after a resume
            burn_in = settings.burn_in * (run.step % 2)
            windows = sample_batch(stream, settings.batch, burn_in + settings.length, settings.seed, run.step)
            loss = update(model, optimizer, windows.to(device), settings.clip, burn_in)
            if loss is None:
                raise _diverged("training loss or gradient", run.step, folder)
            scheduler.step()
            smoothed = loss if run.smoothed is None else 0.95 * run.smoothed + 0.05 * loss
            seconds = run.seconds + time.perf_counter() - began
            run = replace(run, step=run.step + 1, smoothed=smoothed, seconds=seconds)
            if run.step == settings.steps or run.step % settings.evaluate_every == 0:
                run = replace(run, history=(*run.history, _held_out(model, held_out, run, folder)))
                checkpoint.write(folder, model, optimizer, run)
            bar.set_postfix_str(_losses(run), refresh=False)
            bar.update(settings.batch * settings.length)
            if interrupted.is_set():
                saved = checkpoint.write(folder, model, optimizer, run)
                raise KeyboardInterrupt(f"stopped at step {run.step}, saved {saved}; --resume continues")
    return model.eval()


def update(model: LanguageModel, optimizer: AdamW, windows: Tensor, clip: float, burn_in: int = 0) -> float | None:
    """One optimiser step; `bits_per_byte` before it, or None (and no step) if it or a gradient is not finite."""
    optimizer.zero_grad()
    loss = bits_per_byte(model, windows, burn_in)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not torch.isfinite(loss + norm):
        return None
    optimizer.step()
    return loss.item()


def _held_out(model: LanguageModel, held_out: Tensor, run: Run, folder: Path) -> Point:
    """The next entry of the history; checked as well, so that no checkpoint is of a model that has diverged."""
    loss = held_out_loss(model, held_out, run.settings.batch)
    if not math.isfinite(loss):
        raise _diverged("held-out loss", run.step, folder)
    assert run.smoothed is not None  # a step was made
    return Point(run.step, run.step * run.settings.batch * run.settings.length, run.smoothed, loss)


def _diverged(what: str, step: int, folder: Path) -> Diverged:
    found = checkpoint.checkpoints(folder)
    last_good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return Diverged(f"the {what} was not finite at step {step}: {last_good}; a smaller --lr may help")


def optimizer_for(model: LanguageModel, settings: Settings) -> AdamW:
    """What has two dimensions decays towards zero, convolutions and rate biases too; norms and other vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "initial_lr": settings.lr},
        {"params": vectors, "weight_decay": 0.0, "initial_lr": settings.lr},
    ]
    return AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))


def _losses(run: Run) -> str:
    held_out = f", held out {run.history[-1].held_out:.3f}" if run.history else ""
    return f"{run.smoothed:.3f} bits/byte{held_out}"


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
