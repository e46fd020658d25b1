"""The bundled models: where they lie, what they are called, how a run becomes one.

Each is a folder in lm/checkpoints with model.safetensors, in half precision, and run.json, with its results.
"""

import importlib.metadata
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from layers import MIXERS
from lm import checkpoint
from lm.checkpoint import CheckpointError
from lm.data import Corpus, Document, reference_lines
from lm.evaluate import Windows, document_loss, evaluate
from lm.model import LanguageModel
from lm.run import Results, Run

FOLDER = Path(__file__).parent / "checkpoints"


def names(folder: Path | None = None) -> list[str]:
    """The bundled models, or those in another folder: one for each mixer, then variants."""
    found = (path.parent.name for path in (folder or FOLDER).glob("[!.]*/run.json"))
    return sorted(found, key=lambda name: (name not in MIXERS, name))


def find(run: str) -> Path:
    """The bundled model of that name, whatever folders there are, else the folder: "./fm" is a folder, "fm" not.

    CheckpointError if the folder holds no checkpoint.
    """
    if run in names():
        return FOLDER / run
    try:
        checkpoint.latest(run)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; bundled models: {', '.join(names()) or 'none'}") from None
    return Path(run)


def load(name: str, device: str = "cpu") -> tuple[Run, LanguageModel]:
    """A bundled model and its record."""
    _, run, model = checkpoint.read(FOLDER / name, device)
    return run, model


def comparable() -> dict[str, Run]:
    """The records of the bundled models that differ in their mixer alone: trained on the shortest windows."""
    runs = {name: checkpoint.read_run(FOLDER / name) for name in names()}
    shortest = min(run.settings.length for run in runs.values())
    return {name: run for name, run in runs.items() if run.settings.length == shortest}


def round_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Round a model to float16, as bundled ones are; what model.safetensors then holds."""
    weights = {key: v.half() for key, v in checkpoint.weights(model).items()}
    model.load_state_dict(weights)
    return weights


def publish(
    run: Run, model: LanguageModel, name: str, corpus: Corpus, windows: Windows, folder: Path | None = None
) -> Path:
    """Put a run's model under folder/name with what it reaches, in place of any before.

    Weights are rounded to float16, half the size, and results are of the model as rounded: of what will be read.
    """
    folder = folder or FOLDER
    final, hidden = folder / name, folder / f".{name}.part"
    if final.exists() and not checkpoint.holds_run(final):
        raise CheckpointError(f"{final} is no model and would be replaced: give another NAME")
    with checkpoint.claim(folder, "--folder"):
        if hidden.exists():  # by a call that was killed
            shutil.rmtree(hidden)
        weights = round_weights(model)
        results = _measure(model, corpus, windows, run.settings.length, name)
        record = replace(run, text=None, manifest=None, results=results)  # a path means nothing elsewhere
        files = {"model.safetensors": save(weights), "run.json": checkpoint.run_json(record)}
        checkpoint.place(files.items(), hidden, final, over=True)
    return final


def license_text() -> bytes:
    """The licence, a text that is the same on every machine: beside the code in a clone, else among the package's."""
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():
        return (root / "LICENSE").read_text(encoding="utf-8").encode()  # as text: its line ends differ between systems
    try:
        found = importlib.metadata.distribution("factorization-memory").read_text("licenses/LICENSE")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None:
        raise CheckpointError("the LICENSE, which a bundled model is measured on, is neither in a clone nor installed")
    return found.encode()


def _measure(model: LanguageModel, corpus: Corpus, windows: Windows, segment: int, label: str) -> Results:
    by_position = evaluate(model, windows, segment, reset=True, label=label)
    assert by_position.reset is not None
    few = sorted(corpus.splits["test"], key=lambda document: len(document.data))[:3]
    return Results(
        by_position.stateful, by_position.reset, reference_lines(corpus.text("test")),
        files={document.path: document_loss(model, document) for document in few},
        license=document_loss(model, Document("LICENSE", license_text())),
    )  # fmt: skip
