"""A run on disk: one folder, one writer, one checkpoint at a time, complete or absent.

    out/fm/.lock                                 locked while a process trains there
           step-00000500/model.safetensors       the weights
                         training.safetensors    the optimiser's moments and torch's random state
                         run.json                config, settings, corpus, versions, step, history

The life of a run: `claim` makes the folder and keeps other writers out. `write` saves under a hidden name, syncs to
disk and renames, so that a kill at any moment leaves the last checkpoint whole, and weights and JSON of two saves never
mix; the older one goes once the newer is in place. `read` may come at any time, and needs no lock.
Every other file in the folder is the user's and is left alone.

The trained models that come with the project are checkpoints as well, without the training and in half precision:

    lm/checkpoints/fm/model.safetensors, run.json
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from lm.machine import versions
from lm.model import MLP_WIDTH, Config, LanguageModel

WINDOWS = os.name == "nt"
if WINDOWS:
    import msvcrt
else:
    import fcntl

PUBLISHED = Path(__file__).parent / "checkpoints"
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


def write(folder: Path, model: LanguageModel, optimizer: Optimizer, record: dict) -> Path:
    """Save under folder/step-NNNNNNNN (record["step"]), remove older ones, return the path of the new one.

    CheckpointError if the disk is full or fails; what was there stays.
    """
    final = folder / f"step-{record['step']:08d}"
    if final in checkpoints(folder):
        return final
    hidden = folder / f".{final.name}"
    try:
        for abandoned in _named(folder, ".step-*"):  # by a run that was killed while saving
            shutil.rmtree(abandoned)
        hidden.mkdir()
        _write(hidden / "model.safetensors", save(_contiguous(model.state_dict())))
        _write(hidden / "training.safetensors", save(_contiguous(_training_tensors(model, optimizer))))
        record = {**record, "config": asdict(model.config), "versions": versions()}
        _write(hidden / "run.json", json.dumps(record, indent=1).encode())
        _sync_folder(hidden)
        os.replace(hidden, final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)  # a full disk needs the room
        found = checkpoints(folder)
        last = f"the last checkpoint, {found[-1]}, is whole: --resume goes on from it" if found else "there is none yet"
        raise CheckpointError(f"{final} could not be saved ({error.strerror or error}); {last}") from error
    for older in checkpoints(folder)[:-1]:
        with suppress(OSError):  # Windows removes nothing that is being read; the next save tries again
            remove(older)
    return final


def publish(
    record: dict, model: LanguageModel, name: str, results: Callable[[LanguageModel], dict], folder: Path = PUBLISHED
) -> Path:
    """Put a run's model under folder/name with what `results` makes of it, in place of any before.

    Weights are rounded to float16, half the size, and results are of the model as rounded: of what will be read.
    """
    final, hidden = folder / name, folder / f".{name}.part"
    if final.exists() and not holds_run(final):
        raise CheckpointError(f"{final} is no model and would be replaced: give another NAME")
    with claim(folder, "--folder"):
        if hidden.exists():  # by a call that was killed
            shutil.rmtree(hidden)
        hidden.mkdir(parents=True)
        weights = {key: v.half() for key, v in _contiguous(model.state_dict()).items()}
        _write(hidden / "model.safetensors", save(weights))
        model.load_state_dict(weights)
        record = without_manifest(record) | {"text": None, "results": results(model)}  # a path means nothing elsewhere
        _write(hidden / "run.json", (json.dumps(record, indent=1) + "\n").encode())
        _sync_folder(hidden)
        if final.exists():
            remove(final)
        os.replace(hidden, final)
        _sync_folder(folder)
    return final


def published(folder: Path | None = None) -> list[str]:
    """Names of the models that come with the project, or are in another folder: one for each mixer, then variants."""
    names = (path.parent.name for path in (folder or PUBLISHED).glob("[!.]*/run.json"))
    return sorted(names, key=lambda name: (name not in MLP_WIDTH, name))


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    found = [path for path in _named(folder, "step-*") if os.path.isfile(path / "run.json")]
    return sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]))


def holds_run(folder: Path) -> bool:
    """Whether a folder is a run's, or a checkpoint itself."""
    is_checkpoint = all(os.path.isfile(folder / name) for name in ("run.json", "model.safetensors"))
    return is_checkpoint or bool(checkpoints(folder))


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint: first out of sight, so that a half deleted one is never taken for the latest."""
    hidden = checkpoint.with_name("." + checkpoint.name)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def find(run: str) -> Path:
    """The published model of that name, whatever folders there are, else the folder: "./fm" is a folder, "fm" not.

    CheckpointError if the folder holds no checkpoint.
    """
    names = published()
    if run in names:
        return PUBLISHED / run
    try:
        latest(run)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; models that come along: {', '.join(names) or 'none'}") from None
    return Path(run)


def latest(path: str | Path) -> Path:
    """The last checkpoint of a run's folder, or the path itself if it is one; CheckpointError if there is none."""
    path = Path(path)
    found = checkpoints(path) or [path] * (path / "run.json").is_file()
    if not found:
        raise CheckpointError(f"{path}: no checkpoint there (python -m lm train --out {path} makes one)")
    return found[-1]


def read(run: str | Path, device: str = "cpu") -> tuple[Path, dict, LanguageModel]:
    """The last checkpoint of a run, its record and its model: of one step, even while the run goes on."""
    while True:
        found = latest(run)
        try:
            return found, read_record(found), read_model(found, device)
        except CheckpointError:
            if found.exists():
                raise  # else a newer one has taken its place


def read_record(checkpoint: Path) -> dict:
    """run.json: config, settings, corpus, text, manifest, versions, step, seconds, smoothed loss, history."""

    def read() -> dict:
        record = json.loads((checkpoint / "run.json").read_bytes())
        missing = {"config", "settings", "corpus", "text", "step", "history"} - record.keys()
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))} in run.json")
        return record

    return intact(checkpoint, read)


def without_manifest(record: dict) -> dict:
    """A record for a result: the hash of all its files is enough there."""
    return {key: value for key, value in record.items() if key != "manifest"}


def read_model(checkpoint: Path, device: str = "cpu") -> LanguageModel:
    """The model of a checkpoint with its weights, on a device."""

    def build() -> LanguageModel:
        weights = load((checkpoint / "model.safetensors").read_bytes())  # first: a newer one may be about to replace it
        model = LanguageModel(Config.lenient(**read_record(checkpoint)["config"]))
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
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
