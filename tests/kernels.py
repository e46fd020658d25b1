"""`make kernels`: compile every Triton kernel for GPUs this machine does not have, and say what each one needs.

Writes docs/results/kernels.json and prints the rows of DEFAULT on sm_90. With --check it writes nothing. Either way
it fails if a kernel does not compile, asks for more shared memory than its target has, or spills registers on sm_90
in DEFAULT. Arguments are taken to be what a launch sees in a model: aligned pointers, sizes divisible by 16.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "kernels.json"
SLOTS, WIDTH = 128, 1024  # of the model that decodes: the blocks of a step depend on them
INT64 = {"p_begin", "p_end", "p_first", "p_slots"}


class Target(NamedTuple):
    backend: str
    arch: int | str
    warp: int
    shared: int  # bytes one program may have


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 << 10),  # A100
    "sm_89": Target("cuda", 89, 32, 99 << 10),  # RTX 4090, L4
    "sm_90": Target("cuda", 90, 32, 227 << 10),  # H100, H200
    "gfx942": Target("hip", "gfx942", 64, 64 << 10),  # MI300
}


class Build(NamedTuple):
    """One kernel with all that decides its machine code but the target."""

    module: str
    kernel: str
    configuration: str
    variant: str
    default: bool
    constants: dict[str, int | str | bool | None]
    warps: int


def names(module: ModuleType) -> list[str]:
    return [name for name in vars(module) if name.endswith("_kernel")]


def dense_builds(module: ModuleType) -> Iterator[Build]:
    for blocks in module.CONFIGURATIONS:
        default = blocks == module.DEFAULT
        for precision in ("ieee", "tf32") if default else ("ieee",):
            constants = module._constants(blocks, precision) | {"SYMMETRIC": True}  # the larger of the two tiles
            warps = constants.pop("warps")
            for name in names(module):
                yield Build("triton_dense", name, _text(blocks), precision, default, constants, warps)


def step_builds(module: ModuleType) -> Iterator[Build]:
    for blocks in module.CONFIGURATIONS:
        default = blocks == module.DEFAULT
        for variant in ("dense", "sparse"):
            # A launch turns a stride of 1 and an argument None into constants.
            constants = {**blocks.constants(SLOTS, WIDTH), "s_d": 1, "SPARSE": variant == "sparse"}
            constants |= {} if variant == "sparse" else {"p_slots": None}
            for name in names(module):
                if name != "merge_kernel":
                    yield Build("triton_step", name, _text(blocks), variant, default, constants, blocks.warps)
    yield Build("triton_step", "merge_kernel", _text(module.MERGE.values()), "", True, module.MERGE, 4)


def _text(blocks) -> str:
    return ", ".join(map(str, blocks))


MODULES = {"triton_dense": dense_builds, "triton_step": step_builds}


def modules() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"fast.{name}") for name in MODULES}


def all_builds() -> list[Build]:
    return [build for name, module in modules().items() for build in MODULES[name](module)]


def compiled(build: Build, target: str) -> dict:
    """The row of one build on one target."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"fast.{build.module}"), build.kernel)
    given = {p.name: build.constants[p.name] for p in kernel.params if p.is_constexpr or p.name in build.constants}
    signature = {name: "constexpr" if name in given else _type(name) for name in kernel.arg_names}
    divisible = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t[0] in "*i"}
    row = {**build._asdict(), "target": target}
    del row["constants"]
    try:
        code = triton.compile(
            ASTSource(kernel, signature, given, divisible),
            target=GPUTarget(*TARGETS[target][:3]),
            options={"num_warps": build.warps},
        )
    except Exception as e:  # whatever the compiler raises is a result here
        return row | {"error": f"{type(e).__name__}: {e}"}
    return row | _registers(code.asm) | {"shared": code.metadata.shared}


def _type(name: str) -> str:
    if name.startswith("p_"):
        return "*i64" if name in INT64 else "*fp32"
    return "fp32" if name == "eps" else "i32"


def _registers(asm) -> dict[str, int]:
    """Registers of a thread, and the bytes of its stack: nothing but spilled registers lies there."""
    if "amdgcn" in asm:
        text, patterns = asm["amdgcn"], (r"\.vgpr_count:\s*(\d+)", r"\.private_segment_fixed_size:\s*(\d+)")
    else:
        text, patterns = _resource_usage(asm["cubin"]), (r"REG:(\d+)", r"STACK:(\d+)")
    return {key: int(re.search(p, text)[1]) for key, p in zip(("registers", "spilled"), patterns, strict=True)}


def _resource_usage(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def problem(row: dict) -> str | None:
    where = f"{row['kernel']} ({row['configuration']}; {row['variant']}) on {row['target']}"
    if "error" in row:
        return f"{where} does not compile: {row['error']}"
    if row["shared"] > TARGETS[row["target"]].shared:
        return f"{where} needs {row['shared']} bytes of shared memory, {TARGETS[row['target']].shared} are there"
    if row["spilled"] and row["default"] and row["target"] == "sm_90":
        return f"{where} spills {row['spilled']} bytes"
    return None


def table(rows: list[dict]) -> str:
    """DEFAULT on sm_90, as docs/kernels.md shows it."""
    lines = ["| kernel | variant | blocks | registers | spilled bytes | shared bytes |", "| --- " * 6 + "|"]
    for row in rows:
        if row["default"] and row["target"] == "sm_90":
            cells = [row[key] for key in ("variant", "configuration", "registers", "spilled", "shared")]
            lines.append("| " + " | ".join([row["kernel"].removesuffix("_kernel"), *map(str, cells)]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--quick", action="store_true", help="check, but compile all but DEFAULT for sm_90 only")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)  # before fast is imported: what it turns kernels into has no code
    jobs = [
        (build, target)
        for build in all_builds()
        for target in TARGETS
        if not options.quick or build.default or target == "sm_90"
    ]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(compiled, *zip(*jobs, strict=True)))
    print(table([row for row in rows if "error" not in row]))
    problems = list(filter(None, map(problem, rows)))
    print(*problems or [f"All {len(rows)} kernels compiled, within shared memory, without spills in DEFAULT"], sep="\n")
    if not (options.check or options.quick or problems):
        _write(rows)
    return bool(problems)


def _write(rows: list[dict]) -> None:
    versions = {"Python": platform.python_version(), "torch": version("torch"), "triton": version("triton")}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    lines = ",\n".join(json.dumps(row) for row in rows)  # one line a row: a change shows as one line
    part.write_text(f'{{"about": {json.dumps(versions)}, "rows": [\n{lines}\n]}}\n')
    os.replace(part, RESULTS)


if __name__ == "__main__":
    sys.exit(main())
