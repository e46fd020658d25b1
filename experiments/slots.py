"""`make slots`: what the README's picture shows, docs/results/slots.json, and the picture, docs/results/slots.png.

The write weights of one layer of the bundled sparse model over a hundred bytes of an unseen file. With --draw nothing
is measured. The picture carries the hash of what it was drawn from.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch

from experiments import demo
from lm import checkpoint, plots
from lm.data import read_corpus
from lm.machine import environment
from lm.model import Activity

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "slots.json"
SHOWN = 100


def measure() -> dict:
    corpus = read_corpus()
    document = max(corpus.splits["test"], key=lambda document: len(document.data))
    model = checkpoint.read_model(checkpoint.PUBLISHED / demo.SHOWN)
    _, part, tokens, layer = demo.slot_excerpt(model, document, SHOWN)
    about = {**environment(), "model": demo.SHOWN, "corpus": corpus.description(), "file": document.path}
    theta = [[round(v, 5) for v in row] for row in part.theta[0].tolist()]
    return {"about": about, "layer": layer, "tokens": tokens.tolist(), "theta": theta}


def draw(text: bytes, path: Path) -> None:
    result = json.loads(text)
    theta = torch.tensor(result["theta"])[None]
    plots.draw_slots(
        Activity(theta, theta, theta),
        torch.tensor(result["tokens"]),
        path,
        layer=result["layer"],
        source=fingerprint(text),
    )


def fingerprint(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw what was measured")
    if not parser.parse_args().draw:
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(measure()) + "\n", encoding="utf-8")
        os.replace(part, RESULTS)
    draw(RESULTS.read_bytes(), RESULTS.with_suffix(".png"))
    print("written to docs/results: slots.json, slots.png")


if __name__ == "__main__":
    main()
