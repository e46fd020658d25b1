"""Public minimal implementations of Mamba-2 beside the dense form, at an equal state on this CPU.

Their code is not here. --peers names a folder with checkouts of PEERS, under their names; einops must be installed,
which they need. What is missing is said, and the rest is measured. Compared are the two recurrences alone, forward and
backward, each with all of its inputs asking for gradients: not layers, and not what either model learns.
"""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

import fast
from experiments.frame import SEED, Experiment, Run, about, forward_backward, medians, router_inputs
from fast.mamba2 import mamba2


class Peer(NamedTuple):
    address: str
    file: str
    function: str  # (x, A, B, C, chunk length) -> y, final state


PEERS = {
    "mamba2-minimal": Peer("https://github.com/tommyip/mamba2-minimal", "mamba2.py", "ssd"),
    "mamba": Peer(
        "https://github.com/state-spaces/mamba", "mamba_ssm/modules/ssd_minimal.py", "ssd_minimal_discrete"
    ),
}  # fmt: skip
CHUNKS = (32, 64, 128)  # their best is what counts


class Sizes(NamedTuple):
    tokens: int
    slots: int  # of Mamba-2: state numbers per channel
    width: int
    heads: int
    rounds: int


FULL, TINY = Sizes(4096, 64, 512, 8, 7), Sizes(128, 4, 8, 2, 1)


def load(peer: Peer, folder: Path) -> Callable:
    """A peer's function. What its file imports of its own package, which needs a GPU, is stood in for."""
    spec = importlib.util.spec_from_file_location(f"peer_{peer.function}", folder / peer.file)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    own = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined")
    with patch.dict(sys.modules, dict.fromkeys(own, MagicMock())):
        spec.loader.exec_module(module)
    return getattr(module, peer.function)


def commit(folder: Path) -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, encoding="utf-8")
    return found.stdout.strip()[:12] or "unknown"


def mamba2_inputs(sizes: Sizes) -> list[Tensor]:
    """x [1, T, H, P], dt [1, T, H], A [H], B and C [1, T, 1, N]: one group, as the model has."""
    generator = torch.Generator().manual_seed(SEED)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    T, H, N = sizes.tokens, sizes.heads, sizes.slots
    dt, A = torch.nn.functional.softplus(rand(1, T, H) - 3), -torch.exp(rand(H))
    inputs = [rand(1, T, H, sizes.width // H), dt, A, rand(1, T, 1, N), rand(1, T, 1, N)]
    return [v.requires_grad_() for v in inputs]


def both(function: Callable, inputs: list[Tensor]) -> Callable[[], object]:
    """A forward and a backward."""
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(SEED + 1))
    return lambda: torch.autograd.grad(function(*inputs)[0], inputs, weight)


def as_peer(function: Callable, chunk: int, heads: int) -> Callable:
    """A peer takes x dt, A dt, and B and C for every head."""

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple:
        B, C = (v.expand(-1, -1, heads, -1) for v in (B, C))
        return function(x * dt[..., None], A * dt, B, C, chunk)

    return run


def measure(run: Run) -> dict:
    sizes, folder = TINY if run.tiny else FULL, run.options.peers
    fm = router_inputs(1, sizes.tokens, sizes.slots, sizes.width, requires_grad=True)
    inputs, D = mamba2_inputs(sizes), torch.zeros(sizes.heads)
    calls = {
        "dense FM": forward_backward(fast.factorization_memory, fm),
        "Mamba-2 of fast/": both(lambda x, dt, A, B, C: mamba2(x, dt, A, B, C, D), inputs),
    }
    commits, absent, want = {}, {}, mamba2(*inputs, D=D)[0].detach()
    for name, peer in PEERS.items():
        try:
            if folder is None:
                raise FileNotFoundError("--peers names no folder")
            function = load(peer, folder / name)
        except (FileNotFoundError, ImportError) as error:
            absent[name] = str(error)
            print(f"{name} is not measured: {error}", flush=True)
            continue
        commits[name] = commit(folder / name)
        for chunk in CHUNKS:
            way = as_peer(function, chunk, sizes.heads)
            error = (way(*inputs)[0].detach() - want).norm() / want.norm()
            assert error < 1e-4, f"{name} computes something else: off by {error:.1e}"
            calls[f"{name}, chunks of {chunk}"] = both(way, inputs)
    took = medians(calls, sizes.rounds)
    rows = [
        {"what": what, "ms": 1e3 * seconds, "over dense FM": seconds / took["dense FM"]}
        for what, seconds in took.items()
    ]  # fmt: skip
    shape = {"T": sizes.tokens, "state": f"{sizes.slots} × {sizes.width}", "rounds": sizes.rounds}
    return {"about": about(None, **shape), "commits": commits, "absent": absent, "rows": rows}


def table(result: dict) -> str:
    """A line for each, of a peer that with its best chunk length."""
    lines = ["| forward + backward | ms | over dense FM |", "| --- " * 3 + "|"]
    best: dict[str, dict] = {}
    for row in result["rows"]:
        name = row["what"].partition(",")[0]
        if name not in best or row["ms"] < best[name]["ms"]:
            best[name] = row
    for name, row in best.items():
        where = f"[{row['what']}]({PEERS[name].address}) at {result['commits'][name]}" if name in PEERS else row["what"]
        lines.append(f"| {where} | {row['ms']:.1f} | {row['over dense FM']:.2f}× |")
    lines += [f"| [{name}]({PEERS[name].address}) | not measured | |" for name in result["absent"]]
    return "\n".join(lines)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help=f"checkouts of {', '.join(PEERS)}")


EXPERIMENT = Experiment("speed_peers", measure, {"": table}, options=options)
