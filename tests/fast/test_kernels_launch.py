"""How the kernels are launched: within the limits of a grid, on the device of their tensors, whatever the sizes."""

import subprocess
import sys
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
import triton
import triton.language as tl

from experiments.frame import router_inputs
from experiments.launches import dense, launches, sparse, step
from fast.kernels import blocks
from fast.kernels import dense as dense_kernels
from fast.kernels import sparse as sparse_kernels
from fast.kernels import step as step_kernels
from fast.kernels.sparse import _per_row
from notebooks.support import only_within

LIMITS = (2**31 - 1, 65_535, 65_535)  # programs on the three axes of a CUDA grid
TOKENS = [(512, 4096), (2, 2**20), (1, 2**31), (2**23, 4), (70_000, 3), (2**16, 2**15)]  # B, T
CALLS = {
    **{f"dense {b} x {t}": partial(dense, b, t, 3, 5) for b, t in TOKENS},
    "dense, as large as fits": partial(dense, 1, 2**31, 64, 256),
    "dense, many slots": partial(dense, 1, 4096, 2**21, 16),
    "dense, wide": partial(dense, 70_000, 4, 16, 2**14),
    **{f"sparse {b} x {t}": partial(sparse, b, t, 7, 3, 5) for b, t in TOKENS},
    "sparse, as large as fits": partial(sparse, 1, 2**31 - 1, 64, 4, 1024),
    "sparse, many slots": partial(sparse, 70_000, 4, 2**14, 4, 1024),
    "step, many sequences": partial(step, 2**31 - 1, 5, None, 3),
    "step, many slots": partial(step, 3, 2**21, None, 64),
    "step, wide": partial(step, 70_000, 64, None, 2**14),
    "sparse step, many sequences": partial(step, 2**31 - 1, 2**20, 8, 3),
    "sparse step, many slots": partial(step, 3, 2**21, 2**20, 64),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_grids_keep_within_their_limits(call):
    found = launches(call)
    assert found
    for launch in found:
        for size, limit in zip(launch.grid, LIMITS, strict=False):
            assert 1 <= size <= limit, f"{launch.name} is launched on {launch.grid}"


def test_every_kernel_is_among_them():
    some = (CALLS["dense 70000 x 3"], CALLS["sparse 70000 x 3"], CALLS["step, many slots"])
    names = {launch.name for call in some for launch in launches(call)}
    assert names == {
        "gram_kernel", "states_fwd_kernel", "inner_fwd_kernel", "tile_kernel", "read_fwd_kernel", "norm_bwd_kernel",
        "adjoint_bwd_kernel", "dtheta_bwd_kernel", "dvalue_bwd_kernel", "ends_fwd_kernel", "carry_kernel",
        "walk_fwd_kernel", "gather_kernel", "starts_bwd_kernel", "walk_bwd_kernel", "step_kernel", "merge_kernel",
    }  # fmt: skip


@pytest.mark.parametrize(
    "call, grid",
    [
        (partial(dense, 1, 16, 3, 2**23), r"\(1, 131072, 1\)"),
        (partial(step, 2**31, 1, None, 1), r"\(2147483648, 1\)"),
        (partial(step, 1, 40, None, 2**23), r"\(1, 131072\)"),
    ],
)
def test_what_no_grid_takes_is_refused(call, grid):
    with pytest.raises(ValueError, match=rf"^backend 'triton' can launch a grid of at most .*, this call needs {grid}"):
        launches(call)


@pytest.mark.parametrize("packed", [False, True])
def test_a_grid_in_parts_gives_the_same_bits(monkeypatch, packed):
    """More chunks and more sequences than the last axis takes, the last part a short one."""
    theta, phi, value, state = (torch.randn(n) for n in ((3, 17, 2), (3, 17, 2), (3, 17, 3), (3, 2, 3)))
    values, options = [theta.sigmoid(), phi, value, state], {"blocks": dense_kernels.Blocks(16, 16, 16, 4)}
    if packed:
        values = [v.flatten(0, 1)[None] for v in values[:3]] + [state]
        options["cu_seqlens"] = torch.tensor([0, 2, 34, 51])
    values = [v.requires_grad_() for v in values]

    def run():
        y, final = dense_kernels.factorization_memory(*values, **options)
        return y, final, *torch.autograd.grad(y.square().sum() + final.square().sum(), values)

    want, launched = run(), []
    monkeypatch.setattr(blocks, "GRID", (2**31 - 1, 2, 2))
    monkeypatch.setattr(blocks, "PART", 2)
    monkeypatch.setattr(blocks, "checked_grid", lambda *grid: launched.append(grid) or grid)
    assert all(map(torch.equal, run(), want))
    assert {grid[-1] for grid in launched if len(grid) > 1} == {1, 2}


@pytest.mark.parametrize(
    "call", [partial(dense, 1, 40, 3, 5), partial(sparse, 1, 40, 7, 3, 5), partial(step, 1, 20, None, 5)]
)
def test_launched_on_the_device_of_the_tensors(call):
    """Triton takes the current device, which need not be the one the caller's tensors are on."""
    assert {launch.on for launch in launches(call)} == {torch.device("meta")}


def test_rows_of_chunks_as_long_as_32_bits_hold():
    out = torch.zeros(1, dtype=torch.int64)
    _per_row_kernel[(1,)](out, 2**31 - 1, 32)
    assert out.item() == 2**26


@triton.jit
def _per_row_kernel(p_out, L, BP: tl.constexpr):
    tl.store(p_out, _per_row(L, BP))


WAYS = {  # what a program does: what the kernels then say, None if they run
    "unset": ("import fast", "no GPU was found (TRITON_INTERPRET=1, set before Python starts,"),
    "set first": ("os.environ['TRITON_INTERPRET'] = '1'; import fast", None),
    "set to true": ("os.environ['TRITON_INTERPRET'] = 'true'; import fast", None),
    "set late": (
        "import fast; os.environ['TRITON_INTERPRET'] = '1'",
        "no GPU was found, and TRITON_INTERPRET was set after fast was imported: set it before Python starts",
    ),
    "unset late": ("os.environ['TRITON_INTERPRET'] = '1'; import fast; del os.environ['TRITON_INTERPRET']", None),
    "set between triton and fast": (
        "import triton.language; os.environ['TRITON_INTERPRET'] = '1'; import fast",
        "TRITON_INTERPRET changed between the imports of triton and of fast: set it before Python starts",
    ),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which all but the last run")
@pytest.mark.parametrize("way, says", WAYS.values(), ids=WAYS)
def test_what_was_decided_at_import_is_what_backends_say(monkeypatch, way, says):
    """And where they say nothing against it, the kernels do run."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    program = f"""
import os, torch
{way}
says = {says!r}
found = fast.backends()["triton"]
assert found is None if says is None else found.startswith(says), found
one = torch.ones(1, 2, 1)
try:
    y, _ = fast.factorization_memory(one, one, 2 * one, backend="triton", eps=1e-12)
    assert says is None and (y - 1).abs().max() < 1e-5, y
except ValueError as error:
    assert says is not None and str(error).startswith("backend 'triton' cannot run here: " + says), error
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is compiled is not watched")
@pytest.mark.parametrize("form", ["dense", "sparse", "step", "sparse step"])
def test_no_kernel_reads_or_writes_beyond_its_tensors(monkeypatch, form):
    """At sizes that no block divides, forward and backward: where a mask is missing, the next number is another's."""
    watched = []

    def watching(kernel, grid, *, warps, **arguments):
        watched.append(kernel)
        with only_within(*filter(torch.is_tensor, arguments.values())):
            blocks.launch(kernel, grid, warps=warps, **arguments)

    for module in (dense_kernels, sparse_kernels, step_kernels):
        monkeypatch.setattr(module, "launch", watching)
    inputs = router_inputs(2, 37, 5, 7, 3 if "sparse" in form else None, state=True, requires_grad="step" not in form)
    inputs = inputs.at(4) if "step" in form else inputs
    memory = {
        "dense": dense_kernels.factorization_memory,
        "sparse": sparse_kernels.sparse_factorization_memory,
        "step": step_kernels.step,
        "sparse step": step_kernels.sparse_step,
    }[form]
    given = [v for v in inputs.arguments() if "step" not in form or torch.is_tensor(v)]  # a step knows M from its state
    y, state = memory(*given, eps=1e-6)
    if "step" not in form:
        torch.autograd.grad(y.square().sum() + state.square().sum(), inputs.leaves())
    assert y.isfinite().all() and len(watched) >= (1 if "step" in form else 6)
