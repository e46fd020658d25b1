"""Peers are run from their files: what is missing is said, and what computes something else is no peer."""

import argparse

import pytest

from experiments import speed_peers
from experiments.frame import Run
from experiments.speed_peers import EXPERIMENT, PEERS

SOURCE = """
import torch
from mamba_ssm.ops.triton.ssd_combined import what_needs_a_gpu

def {name}(x, A, B, C, chunk):
    h, ys = torch.zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]), []
    for t in range(x.shape[1]):
        h = torch.exp(A[:, t, :, None, None]) * h + x[:, t, :, :, None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1))
    return torch.stack(ys, 1), h
"""


def peer(folder, name, source=SOURCE):
    path = folder / name / PEERS[name].file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source.format(name=PEERS[name].function), encoding="utf-8")


def measure(folder, tmp_path):
    return speed_peers.measure(Run(EXPERIMENT, tmp_path, True, argparse.Namespace(peers=folder)))


def test_a_peer_is_measured_and_the_other_is_missing(tmp_path, capsys):
    peer(tmp_path, "mamba")
    result = measure(tmp_path, tmp_path)
    assert [row["what"] for row in result["rows"]][2:] == [f"mamba, chunks of {chunk}" for chunk in (32, 64, 128)]
    assert result["commits"] == {"mamba": "unknown"} and result["absent"].keys() == {"mamba2-minimal"}
    assert "mamba2-minimal is not measured: " in capsys.readouterr().out
    lines = speed_peers.table(result).splitlines()
    assert len(lines) == 6 and "at unknown" in lines[4] and lines[5].endswith("| not measured | |")


def test_what_computes_something_else_is_no_peer(tmp_path):
    peer(tmp_path, "mamba", SOURCE.replace("torch.exp(A[", "torch.exp(2 * A["))
    with pytest.raises(AssertionError, match=r"^mamba computes something else: off by"):
        measure(tmp_path, tmp_path)


def test_the_best_chunk_length_counts():
    rows = [{"what": "dense FM", "ms": 10.0, "over dense FM": 1.0}]
    rows += [
        {"what": f"mamba, chunks of {c}", "ms": ms, "over dense FM": ms / 10} for c, ms in ((32, 30.0), (64, 20.0))
    ]
    text = speed_peers.table({"rows": rows, "commits": {"mamba": "abc"}, "absent": {}})
    assert "chunks of 64](https://github.com/state-spaces/mamba) at abc | 20.0 | 2.00× |" in text and "32" not in text
