"""One side of experiments/compare.py: runs the fast/ of one tree, in a process of its own.

Run by path, with the tree first on Python's path. Knows nothing of the package it lies in, which old revisions have
not, and calls by position, since names of arguments change. Each line of stdin is JSON and answered by one:

    {"function": ..., "inputs": path, "backends": [...], "backward": ..., "calls": n}   loads it: {"norms": [...]}
    "go"                                                                               {"seconds": of one call}

An answer may be {"error": ...} instead: this tree cannot do that.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import fast


def load(case: dict) -> tuple[Callable, Callable]:
    """What to time, and what to compare: a call, and one that returns all tensors that come out of it."""
    function = getattr(fast, case["function"])
    arguments = torch.load(case["inputs"])
    leaves = [v for v in arguments if torch.is_tensor(v) and v.requires_grad]
    options = {}
    if case["backends"]:  # the same backend has had several names
        options["backend"] = next(name for name in case["backends"] if name == "auto" or name in fast.backends())

    def call():
        with torch.set_grad_enabled(case["backward"]):
            y, state = function(*arguments, **options)
            if not case["backward"]:
                return y, state
            return y, state, *torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel()).view_as(y))

    def calls():
        for _ in range(case["calls"]):
            call()

    return calls, call


def answer(request: dict | str, loaded: list[Callable]) -> dict:
    if isinstance(request, dict):
        calls, call = load(request)
        norms = [float(v.detach().double().norm()) for v in call()]
        loaded[:] = [calls, lambda: request["calls"]]
        return {"norms": norms}
    calls, count = loaded
    calls()  # brings back what the other side put out of the caches
    began = time.perf_counter()
    calls()
    return {"seconds": (time.perf_counter() - began) / count()}


def main() -> None:
    tree, out = Path(sys.argv[1]).resolve(), sys.stdout
    sys.stdout = sys.stderr  # whatever a tree prints is no answer
    if not Path(fast.__file__).resolve().is_relative_to(tree):
        sys.exit(f"fast was imported from {fast.__file__}, not from {tree}")
    loaded: list[Callable] = []
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), loaded)
        except Exception as error:  # what this tree cannot do is said, and the rest goes on
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
