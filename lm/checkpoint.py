"""A run on disk: one folder, one writer, one checkpoint at a time, complete or absent.

    out/fm/.lock                                 locked while a process trains there
           step-00000500/model.safetensors       the weights
                         training.safetensors    the optimiser's moments and torch's random state
                         run.json                config, settings, corpus, versions, step, history

The life of a run: `claim` makes the folder and keeps other writers out. `write` saves under a hidden name, syncs to
disk and renames, so that a kill at any moment leaves the last checkpoint whole, and weights and JSON of two saves never
mix; the older one goes once the newer is in place. `read` may come at any time, and needs no lock.
Every other file in the folder is the user's and is left alone.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from lm.machine import versions
from lm.model import LanguageModel
from lm.run import Run

WINDOWS = os.name == "nt"
if WINDOWS:
    import msvcrt
else:
    import fcntl

NAME = re.compile(r"\.?step-(\d{8,})")  # of a checkpoint, hidden while it is written or removed
BEHIND_THE_PID = 1 << 20  # the byte that is locked on Windows, where nobody else can read a locked one

T = TypeVar("T")


class CheckpointError(Exception):
    """There is no usable checkpoint, one is in the way or cannot be written; the message says what would help."""


@contextmanager
def claim(folder: Path, option: str = "--out") -> Iterator[None]:
    """Make a folder and be its only writer; a CheckpointError that names the option if that cannot be.

    The system's lock on a file, not the file, says that somebody writes: it ends with the process, however that ends.
    """
    writable(folder, option)
    with (folder / ".lock").open("a+b") as file:
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            pid = file.read().decode(errors="replace").strip() or "unknown"
            raise CheckpointError(f"{option} {folder}: another run is writing here (pid {pid})") from error
        except OSError:
            pass  # a file system without locks: better no guard than no training
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        file.flush()
        yield


def writable(folder: Path, option: str = "--out") -> None:
    """Make a folder and see that files can be made in it, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(b"a full disk makes files, but nothing goes into them")
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise CheckpointError(f"{option} {folder}: nothing can be written there ({reason})") from error


def write(folder: Path, model: LanguageModel, optimizer: Optimizer, run: Run) -> Path:
    """Save under folder/step-NNNNNNNN (run.step), remove older ones, return the path of the new one.

    CheckpointError if the disk is full or fails; what was there stays.
    """
    final = folder / f"step-{run.step:08d}"
    if final in checkpoints(folder):
        return final
    hidden = folder / f".{final.name}"
    try:
        for abandoned in _named(folder, ".step-*"):  # by a run that was killed while saving
            shutil.rmtree(abandoned)
        place(_files(model, optimizer, replace(run, versions=versions())), hidden, final)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)  # a full disk needs the room
        found = checkpoints(folder)
        last = f"the last checkpoint, {found[-1]}, is whole: --resume goes on from it" if found else "there is none yet"
        raise CheckpointError(f"{final} could not be saved ({error.strerror or error}); {last}") from error
    for older in checkpoints(folder)[:-1]:
        with suppress(OSError):  # Windows removes nothing that is being read; the next save tries again
            remove(older)
    return final


def place(files: Iterable[tuple[str, bytes]], hidden: Path, final: Path, over: bool = False) -> None:
    """A folder of these files at `final`, whole or absent: written under a hidden name, synced, renamed.

    With `over` it takes the place of a checkpoint that is there.
    """
    hidden.mkdir()
    for name, data in files:
        _write(hidden / name, data)
    _sync_folder(hidden)
    if over and final.exists():
        remove(final)
    os.replace(hidden, final)
    _sync_folder(final.parent)


def weights(model: LanguageModel) -> dict[str, Tensor]:
    """What model.safetensors holds."""
    return _contiguous(model.state_dict())


def run_json(run: Run) -> bytes:
    return (json.dumps(run.to_json(), indent=1) + "\n").encode()


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    found = [path for path in _named(folder, "step-*") if os.path.isfile(path / "run.json")]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def holds_run(folder: Path) -> bool:
    """Whether a folder is a run's, or a checkpoint itself."""
    is_checkpoint = all(os.path.isfile(folder / name) for name in ("run.json", "model.safetensors"))
    return is_checkpoint or bool(checkpoints(folder))


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint: first out of sight, so that a half deleted one is never taken for the latest."""
    hidden = checkpoint.with_name("." + checkpoint.name)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def latest(path: str | Path) -> Path:
    """The last checkpoint of a run's folder, or the path itself if it is one; CheckpointError if there is none."""
    path = Path(path)
    found = checkpoints(path) or [path] * (path / "run.json").is_file()
    if not found:
        raise CheckpointError(f"{path}: no checkpoint there (python -m lm train --out {path} makes one)")
    return found[-1]


def read(run: str | Path, device: str = "cpu") -> tuple[Path, Run, LanguageModel]:
    """The last checkpoint of a run, its record and its model: of one step, even while the run goes on."""
    while True:
        found = latest(run)
        try:
            return found, read_run(found), read_model(found, device)
        except CheckpointError:
            if found.exists():
                raise  # else a newer one has taken its place


def read_run(checkpoint: Path) -> Run:
    """The record of a checkpoint."""
    return intact(checkpoint, lambda: Run.from_json(json.loads((checkpoint / "run.json").read_bytes())))


def read_model(checkpoint: Path, device: str = "cpu") -> LanguageModel:
    """The model of a checkpoint with its weights, on a device."""

    def build() -> LanguageModel:
        weights = load((checkpoint / "model.safetensors").read_bytes())  # first: a newer one may be about to replace it
        model = LanguageModel(read_run(checkpoint).config)
        model.load_state_dict(weights)
        return model.to(device).eval()

    return intact(checkpoint, build)


def read_training(checkpoint: Path, model: LanguageModel, optimizer: Optimizer) -> None:
    """Put the optimiser's moments and torch's random state back as they were."""

    def restore() -> None:
        tensors = load((checkpoint / "training.safetensors").read_bytes())
        torch.set_rng_state(tensors.pop("torch_rng"))
        for name, parameter in model.named_parameters():
            moments = {key.removeprefix(f"{name}/"): tensors[key] for key in tensors if key.startswith(f"{name}/")}
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
            }

    intact(checkpoint, restore)


def intact(checkpoint: Path, read: Callable[[], T]) -> T:
    """What `read` returns; a CheckpointError instead of whatever a damaged file makes it raise."""
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{checkpoint}: damaged or of another version ({reason})") from error


def _named(folder: Path, pattern: str) -> list[Path]:
    """The folders below that are named as a checkpoint is, not the user's step-notes.txt."""
    return [path for path in folder.glob(pattern) if NAME.fullmatch(path.name) and path.is_dir()]


def _lock(descriptor: int) -> None:
    """Lock an open file until it is closed or the process ends; an OSError at once if another process has."""
    if WINDOWS:
        os.lseek(descriptor, BEHIND_THE_PID, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _files(model: LanguageModel, optimizer: Optimizer, run: Run) -> Iterator[tuple[str, bytes]]:
    """One at a time, so that memory holds no more than one of them."""
    yield "model.safetensors", save(weights(model))
    yield "training.safetensors", save(_contiguous(_training_tensors(model, optimizer)))
    yield "run.json", run_json(run)


def _training_tensors(model: LanguageModel, optimizer: Optimizer) -> dict[str, Tensor]:
    moments = {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    return {**moments, "torch_rng": torch.get_rng_state()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened for syncing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
