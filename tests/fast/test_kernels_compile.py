"""The Triton kernels as a GPU would run them: compiled here, without one."""

import shutil
import subprocess
import sys

import pytest

from experiments import frame, kernel_builds
from lm.machine import environment

pytest.importorskip("triton", reason="triton is not installed")


def test_kernels_compile_fit_and_do_not_spill(monkeypatch, tmp_path):
    """In a process of its own, since this one may hold kernels made for the interpreter; from an empty cache.

    Where `make kernels` has compiled these very kernels by this Triton, its rows are the evidence.
    """
    stored = frame.stored(kernel_builds.EXPERIMENT)
    known = {"code": kernel_builds.fingerprint(), "triton": environment()["triton"]}
    if known.items() <= stored["about"].items():
        assert not kernel_builds.problems(stored)
        return
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-X", "utf8", "-m", "experiments", "kernel_builds", "--quick"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=frame.ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_fingerprint_is_of_code_not_of_comments(monkeypatch, tmp_path):
    def edited(old="", new="", file="kernels/step.py"):
        monkeypatch.setattr(kernel_builds, "ROOT", tmp_path)
        for room in ("fast", "experiments"):
            shutil.copytree(frame.ROOT / room, tmp_path / room, dirs_exist_ok=True)
        path = tmp_path / "fast" / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        return kernel_builds.fingerprint()

    known = kernel_builds.fingerprint()
    assert edited() == known == edited("\nimport ", "\n# a comment\nimport ") != edited("tl.load(", "tl.store(")
    assert edited() == known != edited("import torch", "import torch as t", "packing.py")


def test_the_table_knows_every_build():
    """`make kernels` writes it anew after a kernel, a configuration or a target has come or gone."""

    def key(row):
        return tuple(row[name] for name in ("module", "kernel", "configuration", "variant", "default", "target"))

    rows = frame.stored(kernel_builds.EXPERIMENT)["rows"]
    builds = {
        key(build._asdict() | {"target": target})
        for build in kernel_builds.all_builds()
        for target in kernel_builds.TARGETS
    }
    assert {key(row) for row in rows} == builds


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"error": "ValueError: no"}, "does not compile"),
        ({"shared": kernel_builds.TARGETS["sm_90"].shared + 1}, "shared memory"),
        ({"shared": 99 << 10, "target": "gfx942"}, "shared memory"),
        ({"spilled": 64}, None),
        ({"spilled": 72}, "spills 72 bytes"),
        ({"spilled": 72, "target": "sm_80"}, None),
        ({"spilled": 72, "default": False}, None),
        ({"spilled": 72, "variant": "odd"}, None),
        ({"shared": kernel_builds.TARGETS["sm_90"].shared}, None),
    ],
)
def test_what_counts_as_a_problem(changes, says):
    row = {"kernel": "gram_kernel", "configuration": "16", "variant": "ieee", "target": "sm_90", "default": True}
    found = kernel_builds.problem(row | {"registers": 32, "spilled": 0, "shared": 99 << 10} | changes)
    assert found is None if says is None else says in found


SOURCE = """
tt.func public @kernel(%p: !tt.ptr<f32>, %M: i32 {tt.divisibility = 16 : i32} loc(unknown)) {
  %c16_i32 = arith.constant 16 : i32
  %0 = tt.get_program_id x : i32 loc(#loc2)
  %1 = arith.divsi %0, %M : i32
  %2 = arith.remsi %0, %M : i32
  %3 = tt.splat %M : i32 -> tensor<16xi32>
  %4 = arith.extsi %M : i32 to i64
"""


SECOND = "%8 = tt.get_program_id y : i32\n"
CHUNK = SECOND + "%10 = arith.extsi %0 : i32 to i64\n"


@pytest.mark.parametrize(
    "line, narrow",
    [
        ("%9 = arith.muli %2, %M : i32", True),  # by a size
        ("%9 = arith.muli %7, %3 : tensor<16xi32>", True),  # by a size, of a block
        ("%9 = arith.muli %0, %c16_i32 : i32", True),  # a program
        ("%9 = arith.muli %1, %c16_i32 : i32 loc(#loc3)", True),  # a chunk
        ("%9 = arith.muli %2, %c16_i32 : i32", False),  # a block
        (SECOND + "%9 = arith.muli %0, %c16_i32 : i32", False),  # a block, on an axis of its own
        (SECOND + "%9 = arith.muli %0, %M : i32", True),
        (SECOND + "%9 = arith.muli %8, %c16_i32 : i32", False),  # there are 65,535 at most
        (SECOND + "%9 = arith.muli %8, %M : i32", True),
        (CHUNK + "%9 = arith.muli %0, %c16_i32 : i32", True),  # a chunk, on the first of two
        ("%9 = arith.muli %M, %c16_i32 : i32", False),
        ("%9 = arith.muli %7, %4 : i64", False),
        ("%9 = arith.addi %0, %M : i32", False),
    ],
)
def test_what_counts_as_a_narrow_product(line, narrow):
    assert kernel_builds._narrow(SOURCE + line) == ({"narrow": line.splitlines()[-1]} if narrow else {})
    row = {"kernel": "k", "configuration": "16", "variant": "ieee", "target": "sm_90", "default": True}
    said = kernel_builds.problem(
        row | {"registers": 1, "spilled": 0, "shared": 0} | kernel_builds._narrow(SOURCE + line)
    )
    assert said is None if not narrow else "multiplies a size or an index in 32 bits" in said
