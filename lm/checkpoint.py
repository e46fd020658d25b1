"""A run on disk: one folder per checkpoint, complete or absent.

    out/fm/step-00000500/model.safetensors       the weights
                         training.safetensors    the optimiser's moments and torch's random state
                         run.json                config, settings, corpus, versions, step, history

The trained models that come with the project are checkpoints as well, without the training and in half precision:

    lm/checkpoints/fm/model.safetensors, run.json
    lm/checkpoints/length.png

A checkpoint is written under a hidden name, synced to disk and then renamed, so that a kill at any moment
leaves the last one whole, and weights and JSON of two saves never mix. An older one goes once the newer is in
place.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from lm.model import MLP_WIDTH, Config, LanguageModel

PUBLISHED = Path(__file__).parent / "checkpoints"

T = TypeVar("T")


class CheckpointError(Exception):
    """There is no usable checkpoint, or one is in the way; the message says what would help."""


def write(folder: Path, model: LanguageModel, optimizer: Optimizer, record: dict) -> Path:
    """Save under folder/step-NNNNNNNN (record["step"]), remove older ones, return the path of the new one."""
    final = folder / f"step-{record['step']:08d}"
    if final.exists():
        return final
    for abandoned in folder.glob(".step-*"):  # by a run that was killed while saving
        shutil.rmtree(abandoned)
    hidden = folder / f".{final.name}"
    hidden.mkdir(parents=True)
    _write(hidden / "model.safetensors", save(_contiguous(model.state_dict())))
    _write(hidden / "training.safetensors", save(_contiguous(_training_tensors(model, optimizer))))
    record = {**record, "config": asdict(model.config), "versions": versions()}
    _write(hidden / "run.json", json.dumps(record, indent=1).encode())
    _sync_folder(hidden)
    os.replace(hidden, final)
    _sync_folder(folder)
    for older in checkpoints(folder)[:-1]:
        remove(older)
    return final


def publish(checkpoint: Path, name: str, results: Callable[[LanguageModel], dict], folder: Path = PUBLISHED) -> Path:
    """Put a checkpoint's model under folder/name with what `results` makes of it, in place of any before.

    Weights are rounded to float16, half the size, and results are of the model as rounded: of what will be read.
    """
    record, model = read_record(checkpoint), read_model(checkpoint)
    final, hidden = folder / name, folder / f".{name}.part"
    if hidden.exists():  # by a call that was killed
        shutil.rmtree(hidden)
    hidden.mkdir(parents=True)
    weights = {key: v.half() for key, v in _contiguous(model.state_dict()).items()}
    _write(hidden / "model.safetensors", save(weights))
    model.load_state_dict(weights)
    record |= {"text": None, "results": results(model)}  # a path would mean nothing elsewhere
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
    return sorted(folder.glob("step-*"))


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint: first out of sight, so that a half deleted one is never taken for the latest."""
    hidden = checkpoint.with_name("." + checkpoint.name)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def find(run: str) -> Path:
    """The published model of that name, whatever folders there are, or else `latest`: "./fm" is a folder, "fm" not."""
    names = published()
    if run in names:
        return PUBLISHED / run
    try:
        return latest(run)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; models that come along: {', '.join(names) or 'none'}") from None


def latest(path: str | Path) -> Path:
    """The last checkpoint of a run's folder, or the path itself if it is one; CheckpointError if there is none."""
    path = Path(path)
    found = [path] if (path / "run.json").is_file() else checkpoints(path)
    if not found:
        raise CheckpointError(f"{path}: no checkpoint there (python -m lm train --out {path} makes one)")
    return found[-1]


def read_record(checkpoint: Path) -> dict:
    """run.json: config, settings, corpus, text, versions, step, seconds, smoothed loss, history."""

    def read() -> dict:
        record = json.loads((checkpoint / "run.json").read_bytes())
        missing = {"config", "settings", "corpus", "text", "step", "history"} - record.keys()
        if missing:
            raise KeyError(f"no {', '.join(sorted(missing))} in run.json")
        return record

    return intact(checkpoint, read)


def read_model(checkpoint: Path, device: str = "cpu") -> LanguageModel:
    """The model of a checkpoint with its weights, on a device."""

    def build() -> LanguageModel:
        model = LanguageModel(Config.lenient(**read_record(checkpoint)["config"]))
        model.load_state_dict(load((checkpoint / "model.safetensors").read_bytes()))
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


def versions() -> dict[str, str]:
    """What the numbers of a run depend on besides the code."""
    return {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}


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
