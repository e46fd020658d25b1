"""What one layer of the bundled sparse model writes over a hundred bytes of a file that it has not seen."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from experiments.frame import Experiment, Run, about
from lm import plots, pretrained
from lm.data import Corpus, Document, read_corpus
from lm.memory import Activity, slot_activity, slots_for_half
from lm.model import LanguageModel

MODEL = "fm-sparse"
SHOWN, READ = 100, 4096  # bytes: in the picture, before and in it


def excerpt(
    model: LanguageModel, document: Document, shown: int = SHOWN, read: int = READ
) -> tuple[list[Activity], Activity, Tensor, int]:
    """Activity of all layers over a document; of the layer whose slots share the work most evenly, over the start of
    a function: that part, its tokens [shown] and which layer it is.
    """
    tokens = document.tokens()[:read].long()
    last = document.data[: max(0, len(tokens) - shown)].rfind(b"    def ")  # the last that fits in whole
    start = max(0, last + 1)  # the document mark stands before the bytes
    layers = slot_activity(model, tokens[None].to(next(model.parameters()).device))
    halves = [slots_for_half(layer.theta[0].cpu().numpy()) for layer in layers]
    busiest = halves.index(max(halves))
    part = Activity(*(weights[:, start : start + shown] for weights in layers[busiest]))
    return layers, part, tokens[start : start + shown], busiest


def longest(corpus: Corpus) -> Document:
    """The longest file that no model has seen."""
    return max(corpus.splits["test"], key=lambda document: len(document.data))


def measure(run: Run) -> dict:
    corpus = read_corpus()
    document, (_, model) = longest(corpus), pretrained.load(MODEL)
    _, part, tokens, layer = excerpt(model, document, *((20, 200) if run.tiny else ()))
    known = about(asdict(corpus.description()), model=MODEL, file=document.path)
    theta = [[round(v, 5) for v in row] for row in part.theta[0].tolist()]
    return {"about": known, "layer": layer, "tokens": tokens.tolist(), "theta": theta}


def draw(result: dict, path: Path) -> None:
    theta = torch.tensor(result["theta"])[None]
    plots.draw_slots(Activity(theta, theta, theta), torch.tensor(result["tokens"]), path, layer=result["layer"])


EXPERIMENT = Experiment("slots", measure, figures={"slots.png": draw})
