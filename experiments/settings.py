"""Short runs that choose the settings of the bundled models, one change at a time.

Every variant sees the same text, so many steps of 4,096 bytes, one seed, on one core; losses are on the validation
split, which no figure of a finished model uses. Each row is stored as it comes, and a later run goes on from there.
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from typing import NamedTuple

import torch

from experiments.frame import Experiment, Run, about
from lm.data import read_corpus
from lm.evaluate import Windows, evaluate, file_windows
from lm.model import Config
from lm.run import Settings
from lm.train import train


class Sizes(NamedTuple):
    steps: int
    context: int
    windows: int | None  # None: all there are
    base: dict  # what a variant changes


BASE = {"mixer": "fm-sparse", "num_slots": 32, "top_k": 8, "temperature": 0.5}
FULL = Sizes(200, 2048, None, BASE)
TINY = Sizes(1, 64, 2, BASE | {"d_model": 16, "num_layers": 1, "head_width": 8})
HEAD = "| change | parameters | state bytes | 129-256 | 1025-2048 |\n" + "| --- " * 5 + "|"
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
    {"burn_in": 256},
    {"length": 1024, "batch": 4},
]


def try_out(change: dict, sizes: Sizes) -> dict:
    """Bits per byte on the validation split, by position, after a short run with one change."""
    settings = {name: value for name, value in change.items() if name in asdict(Settings())}
    corpus = read_corpus()
    config = Config.lenient(**{**sizes.base, **{name: v for name, v in change.items() if name not in settings}})
    how = Settings(steps=sizes.steps, evaluate_every=sizes.steps, **settings)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = train(config, how, corpus, folder, quiet=True)
    seconds = time.perf_counter() - began
    windows, paths = file_windows(corpus, "validation", sizes.context)
    buckets = evaluate(model, Windows(windows[: sizes.windows], paths[: sizes.windows])).stateful
    near, far = ((buckets.mean[k], buckets.low[k], buckets.high[k]) for k in (-4, -1))
    return {
        "change": change, "parameters": model.num_parameters(), "state bytes": model.state_bytes(1, sizes.context),
        "129-256": near, "1025-2048": far, "seconds": seconds,
    }  # fmt: skip


def table(result: dict) -> str:
    return "\n".join([HEAD, *map(line, result["rows"])])


def line(row: dict) -> str:
    change = ", ".join(f"{name} {value}" for name, value in row["change"].items()) or "fm-sparse, K 8 of 32, tau 0.5"
    cells = (f"{row[at][0]:.3f}" for at in ("129-256", "1025-2048"))
    return f"| {change} | {row['parameters']:,} | {row['state bytes']:,} | {' | '.join(cells)} |"


def measure(run: Run) -> dict:
    sizes, variants = (TINY, VARIANTS[:2]) if run.tiny else (FULL, VARIANTS)
    known = about(asdict(read_corpus().description()), **{"steps": sizes.steps, "bytes a step": 4096})
    result = run.resume({"about": known, "rows": []})
    result["rows"] = [row for row in result["rows"] if row["change"] in variants]
    print(table(result), flush=True)
    tried = [row["change"] for row in result["rows"]]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        started = [pool.submit(try_out, change, sizes) for change in variants if change not in tried]
        for done in as_completed(started):
            result["rows"].append(done.result())
            result["rows"].sort(key=lambda row: variants.index(row["change"]))
            run.save(result)
            print(line(done.result()), flush=True)
    return result


EXPERIMENT = Experiment("settings", measure, {"": table})
