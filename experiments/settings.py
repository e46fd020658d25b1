"""`make search`: short runs that choose the settings of the models that come along, one change at a time.

Every variant sees the same text, STEPS steps of 4,096 bytes, one seed, on one core; losses are on the validation
split, which no figure of a finished model uses. Writes docs/results/search.json after each, and goes on where it
stopped.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch

from lm.data import read_corpus
from lm.evaluate import bucket_edges, file_windows, loss_sums, summarise
from lm.machine import environment
from lm.model import Config
from lm.train import Settings, train

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "search.json"
STEPS, CONTEXT = 200, 2048
HEAD = "| change | parameters | state bytes | 129-256 | 1025-2048 |\n" + "| --- " * 5 + "|"
BASE = {"mixer": "fm-sparse", "num_slots": 32, "top_k": 8, "temperature": 0.5}
VARIANTS = [
    {},
    {"mixer": "mamba2"},
    {"mixer": "transformer"},
    {"mixer": "transformer", "lr": 1e-3},
    {"temperature": 0.25},
    {"temperature": 1.0},
    {"temperature": 2.0},
    {"top_k": 4},
    {"num_slots": 64, "temperature": 0.3},
    {"rates": "slot"},
    {"expansion": 1},
    {"conv": 0},
    {"gate": False},
    {"before": 256},
    {"length": 1024, "batch": 4},
]


def measure(change: dict) -> dict:
    """Bits per byte on the validation split, by position, after a short run with one change."""
    settings = {name: value for name, value in change.items() if name in asdict(Settings())}
    corpus = read_corpus()
    config = Config.lenient(**{**BASE, **{name: v for name, v in change.items() if name not in settings}})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = train(config, Settings(steps=STEPS, evaluate_every=STEPS, **settings), corpus, folder, quiet=True)
    seconds = time.perf_counter() - began
    windows, paths = file_windows(corpus, "validation", CONTEXT)
    buckets = summarise(loss_sums(model, windows), paths, bucket_edges(CONTEXT))
    near, far = ((buckets.mean[k], buckets.low[k], buckets.high[k]) for k in (-4, -1))
    return {
        "change": change, "parameters": model.num_parameters(), "state bytes": model.state_bytes(1, CONTEXT),
        "129-256": near, "1025-2048": far, "seconds": seconds,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """As docs/decisions.md shows it."""
    return "\n".join([HEAD, *map(line, rows)])


def line(row: dict) -> str:
    change = ", ".join(f"{name} {value}" for name, value in row["change"].items()) or "fm-sparse, K 8 of 32, tau 0.5"
    cells = (f"{row[at][0]:.3f}" for at in ("129-256", "1025-2048"))
    return f"| {change} | {row['parameters']:,} | {row['state bytes']:,} | {' | '.join(cells)} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    about = {**environment(), "corpus": read_corpus().description(), "seed": 0, "steps": STEPS, "bytes a step": 4096}
    result = {"about": about, "rows": []}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        result = found if found["about"] == about else result
    result["rows"] = [row for row in result["rows"] if row["change"] in VARIANTS]
    print(table(result["rows"]), flush=True)
    tried = [row["change"] for row in result["rows"]]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for done in as_completed(pool.submit(measure, change) for change in VARIANTS if change not in tried):
            result["rows"].append(done.result())
            result["rows"].sort(key=lambda row: VARIANTS.index(row["change"]))
            part = RESULTS.with_suffix(".part")
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            os.replace(part, RESULTS)
            print(line(done.result()), flush=True)


if __name__ == "__main__":
    main()
