"""Every Triton kernel compiled for GPUs that this machine does not have, and what each one needs.

It fails if a kernel does not compile, asks for more shared memory than its target has, or spills more than a few
registers on sm_90 in DEFAULT. In all variants except "odd", sizes divide by 16, as they do in a model.

Beyond these rows, all launches of a few calls are compiled as Triton's own launcher would compile them: CALLS.
"""

import argparse
import ast
import hashlib
import importlib
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import chain
from types import ModuleType
from typing import NamedTuple

from experiments.frame import ROOT, Experiment, Run, Unavailable, about

SLOTS, WIDTH = 128, 1024  # of the model that decodes: blocks of slot rows depend on them
NARROW = 32  # the width of a very small model
# Pointers that are not to float32: to int64, or to what the caller's tensors are.
INT64 = {"p_begin", "p_end", "p_first", "p_slots", "p_order", "p_token", "p_segment", "p_place", "p_bounds"}
CALLERS = {"p_theta", "p_phi", "p_gate", "p_v", "p_u", "p_dy", "p_y", "p_out", "p_dtheta", "p_dphi", "p_dv"}

VARIANTS = ("ieee", "tf32", "bf16", "odd")  # of float32: how matrices are multiplied; half inputs; any size
WIDE = 2048  # a row that is a block of its own in every configuration
SPILL = 64  # bytes of a thread that DEFAULT may spill on sm_90: on an H100 the fastest blocks spill 48 in one kernel
RARE = ("odd", "some divide by 16", "every size is 1")  # sizes that models do not have, where it may spill more


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
    dtype: str = "fp32"
    divisible: bool = True


def names(module: ModuleType) -> list[str]:
    return [name for name in vars(module) if name.endswith("_kernel")]


def variants(module: ModuleType, names: tuple[str, ...]) -> Iterator[tuple]:
    """Blocks, variant, is DEFAULT, dtype, divisible. The first of the names for all blocks, the rest for DEFAULT."""
    for blocks in module.CONFIGURATIONS:
        default = blocks == module.DEFAULT
        for variant in names if default else names[:1]:
            yield blocks, variant, default, "bf16" if variant == "bf16" else "fp32", variant != "odd"


def dense_builds(module: ModuleType) -> Iterator[Build]:
    for blocks, variant, default, *how in variants(module, VARIANTS):
        constants = module._constants(blocks, "tf32" if variant in ("tf32", "bf16") else "ieee")  # as a launch does
        constants |= {"SYMMETRIC": True}  # the larger of the two tiles
        warps = constants.pop("warps")
        for name in names(module):
            yield Build("dense", name, _text(blocks), variant, default, constants, warps, *how)


def sparse_builds(module: ModuleType) -> Iterator[Build]:
    """The variant "odd" has no initial state, either; in "narrow" a block holds many rows, in "wide" one."""
    found = list(variants(module, ("fp32", "bf16", "odd", "narrow", "wide")))
    found += [(blocks, "wide", False, "fp32", True) for blocks in module.CONFIGURATIONS if blocks != module.DEFAULT]
    widths = {"narrow": NARROW, "wide": WIDE}
    for blocks, variant, default, *how in found:
        constants = blocks.constants(widths.get(variant, WIDTH)) | {"REVERSE": True, "NORMED": True}
        constants |= {"p_initial": None} if variant == "odd" else {}
        warps = constants.pop("warps")
        for name in names(module):
            yield Build("sparse", name, _text(blocks), variant, default, constants, warps, *how)


def step_builds(module: ModuleType) -> Iterator[Build]:
    for blocks in module.CONFIGURATIONS:
        default = blocks == module.DEFAULT
        for variant in ("dense", "sparse"):
            # A launch turns a stride of 1 and an argument None into constants.
            constants = {**blocks.constants(SLOTS, WIDTH), "s_d": 1, "SPARSE": variant == "sparse"}
            constants |= {} if variant == "sparse" else {"p_slots": None}
            for name in names(module):
                if name != "merge_kernel":
                    yield Build("step", name, _text(blocks), variant, default, constants, blocks.warps)
    yield Build("step", "merge_kernel", _text(module.MERGE.values()), "", True, module.MERGE, 4)


def _text(blocks) -> str:
    return ", ".join(map(str, blocks))


MODULES = {"dense": dense_builds, "sparse": sparse_builds, "step": step_builds}


def modules() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"fast.kernels.{name}") for name in MODULES}


def all_builds() -> list[Build]:
    return [build for name, module in modules().items() for build in MODULES[name](module)]


def compiled(build: Build, target: str) -> dict:
    """The row of one build on one target."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"fast.kernels.{build.module}"), build.kernel)
    given = {p.name: build.constants[p.name] for p in kernel.params if p.is_constexpr or p.name in build.constants}
    signature = {name: "constexpr" if name in given else _type(name, build.dtype) for name in kernel.arg_names}
    kinds = "*i" if build.divisible else "*"
    divisible = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t[0] in kinds}
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
    return row | _measured(code)


class _NoDevice:
    """What Triton asks of the GPU it compiles for, where there is none."""

    def __init__(self, target: str):
        self.target = target

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*TARGETS[self.target][:3])

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


# name: what is launched, as experiments/launches.py has it. Triton makes a constant of a size that is 1 and of an
# argument that is None, takes a size above 2^31 as 64 bits, and asks of every other size whether it divides by 16.
CALLS = {
    "every size is 1": [
        ("dense", 1, 1, 1, 1),
        ("sparse", 1, 1, 1, 1, 1),
        ("step", 1, 1, None, 1),
        ("step", 1, 9, 1, 1),
    ],
    "sizes above 2^31": [("sparse", 3, 2**31, 7, 3, 5), ("step", 2, 2**32, 3, 5)],
    "some divide by 16": [("dense", 2, 96, 48, 100), ("sparse", 2, 96, 40, 4, 96), ("step", 2, 20, 3, 96)],
    "wide rows": [("dense", 1, 64, 16, 2**13), ("sparse", 1, 64, 16, 4, 2**13), ("step", 1, 16, None, 2**13)],
}
# Beside the kernels: what chooses the builds, and what their launches pass on.
DECIDING = ("experiments/kernel_builds.py", "experiments/launches.py", "fast/operators.py", "fast/packing.py")
QUICK_CALLS = ("every size is 1", "sizes above 2^31")


def launched(name: str, target: str) -> list[dict]:
    """The rows of all launches of a call, compiled as Triton's own launcher would compile them."""
    from triton.runtime import driver

    from experiments import launches

    driver.set_active(_NoDevice(target))  # pyright: ignore[reportArgumentType]
    rows = {}
    for function, *sizes in CALLS[name]:
        for launch in launches.launches(lambda: getattr(launches, function)(*sizes)):  # noqa: B023
            where = f"{function} {tuple(sizes)}"
            default = name != "sizes above 2^31"  # 64-bit offsets may cost registers
            row = {
                "kernel": launch.name, "configuration": where, "variant": name, "target": target, "default": default
            }  # fmt: skip
            try:
                code = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
            except Exception as e:
                rows[launch.name, where, str(e)] = row | {"error": f"{type(e).__name__}: {e}"}
                continue
            rows[launch.name, where, code.hash] = row | _measured(code)
    return list(rows.values())


def _measured(code) -> dict:
    return _registers(code.asm) | {"shared": code.metadata.shared} | _narrow(code.asm["ttir"])


def _narrow(ttir: str) -> dict[str, str]:
    """Where a size, or the index of a program or chunk, is multiplied in 32 bits, if at all: an offset would wrap.

    A size times a constant is let through. So are, times a constant, the index of a block (what a division leaves, or
    the place on the first axis of several that is never widened) and the place on another axis: 65,535 at most.
    """
    constants = set(re.findall(r"(%[\w#-]+) = arith\.constant", ttir))
    sizes, indices = set(re.findall(r"(%\w+): i32", ttir)), set()
    several = len(set(re.findall(r"tt\.get_program_id (\w)", ttir))) > 1
    widened = set(re.findall(r"arith\.extsi (%[\w#-]+) : i32", ttir))
    for line in ttir.splitlines():
        if not (found := re.match(r"\s*(%[\w#-]+) = (\S+) (.*?)(?: :| loc|$)", line)):
            continue
        name, operation, operands = found[1], found[2], set(re.findall(r"%[\w#-]+", found[3]))
        program = operation == "tt.get_program_id" and found[3] == "x" and (name in widened or not several)
        if program or (operation == "arith.divsi" and operands & indices):
            indices.add(name)
        elif operation in ("tt.splat", "tt.broadcast", "tt.expand_dims"):
            for kind in (sizes, indices):
                kind |= {name} if operands & kind else set()
        wraps = operands & indices or (operands & sizes and not operands & constants)
        if operation == "arith.muli" and "i64" not in line and wraps:
            return {"narrow": line.strip()}
    return {}


def _type(name: str, dtype: str) -> str:
    if name.startswith("p_"):
        return "*i64" if name in INT64 else f"*{dtype}" if name in CALLERS else "*fp32"
    return "fp32" if name == "eps" else "i32"


def _registers(asm) -> dict[str, int]:
    """Registers of a thread, and the bytes of its stack: nothing but spilled registers lies there."""
    if "amdgcn" in asm:
        text, patterns = asm["amdgcn"], (r"\.vgpr_count:\s*(\d+)", r"\.private_segment_fixed_size:\s*(\d+)")
    else:
        text, patterns = _resource_usage(asm["cubin"]), (r"REG:(\d+)", r"STACK:(\d+)")
    found = [re.findall(pattern, text)[0] for pattern in patterns]
    return {key: int(number) for key, number in zip(("registers", "spilled"), found, strict=True)}


def _resource_usage(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


def problem(row: dict) -> str | None:
    where = f"{row['kernel']} ({row['configuration']}; {row['variant']}) on {row['target']}"
    if "error" in row:
        return f"{where} does not compile: {row['error']}"
    if "narrow" in row:
        return f"{where} multiplies a size or an index in 32 bits: {row['narrow']}"
    if row["shared"] > TARGETS[row["target"]].shared:
        return f"{where} needs {row['shared']} bytes of shared memory, {TARGETS[row['target']].shared} are there"
    if row["spilled"] > SPILL and row["default"] and row["variant"] not in RARE and row["target"] == "sm_90":
        return f"{where} spills {row['spilled']} bytes"
    return None


def table(result: dict) -> str:
    """DEFAULT on sm_90: a line for a kernel in one configuration."""
    lines: dict[tuple, list[dict]] = {}
    for row in result["rows"]:
        if row["default"] and row["target"] == "sm_90" and "error" not in row:
            lines.setdefault((row["module"], row["kernel"], row["configuration"]), []).append(row)
    text = ["| kernel | variants | blocks | registers | spilled bytes | shared bytes |", "| --- " * 6 + "|"]
    for (_, kernel, configuration), of in lines.items():
        variants, *numbers = (
            "/".join(str(row[key]) for row in of) for key in ("variant", "registers", "spilled", "shared")
        )
        text.append(f"| {' | '.join([kernel.removesuffix('_kernel'), variants, configuration, *numbers])} |")
    return "\n".join(text)


def jobs(run: Run) -> list[tuple[Build, str]]:
    """What to compile: with --tiny the first kernel of each module.

    With --quick DEFAULT alone: all variants for sm_90, the first for gfx942, which has the least memory.
    """
    builds = all_builds()
    if run.tiny:
        first = {build.module: build for build in reversed(builds)}
        return [(build, target) for build in first.values() for target in ("sm_90", "gfx942")]
    if run.options.quick:
        first = {(build.module, build.kernel): build.variant for build in reversed(builds) if build.default}
        return [
            (build, target)
            for build in builds
            for target in TARGETS
            if build.default
            and (target == "sm_90" or (target == "gfx942" and build.variant == first[build.module, build.kernel]))
        ]
    return [(build, target) for build in builds for target in TARGETS]


def calls(run: Run) -> list[tuple[str, str]]:
    """What to compile as it is launched: with --quick the sizes that Triton treats in a way of their own."""
    if run.tiny or run.options.quick:
        return [(name, "sm_90") for name in (QUICK_CALLS[:1] if run.tiny else QUICK_CALLS)]
    return [(name, target) for name in CALLS for target in ("sm_90", "gfx942")]


def fingerprint() -> str:
    """Of the code that decides the rows, whatever its comments say."""
    paths = [*sorted((ROOT / "fast" / "kernels").glob("*.py")), *(ROOT / name for name in DECIDING)]
    paths = [path for path in paths if path.name != "interpreter.py"]  # nothing of it is compiled
    trees = "".join(ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in paths)
    return hashlib.sha256(trees.encode()).hexdigest()[:12]


def measure(run: Run) -> dict:
    if find_spec("triton") is None:
        raise Unavailable("triton is not installed")
    os.environ.pop("TRITON_INTERPRET", None)  # before fast is imported: what it turns kernels into has no code
    run.keep = not run.options.quick
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(compiled, *zip(*jobs(run), strict=True)))
        as_launched = list(chain.from_iterable(pool.map(launched, *zip(*calls(run), strict=True))))
    wrong = list(filter(problem, as_launched))
    result = {"about": about(code=fingerprint()), "rows": rows} | ({"launched": wrong} if wrong else {})
    if not problems(result):
        all_well = f"All {len(rows)} kernels compiled, within shared memory, hardly a spill in DEFAULT"
        print(f"{all_well}; so did {len(as_launched)} as they are launched")
    return result


def problems(result: dict) -> list[str]:
    return list(filter(None, map(problem, [*result["rows"], *result.get("launched", [])])))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="DEFAULT alone, in fewer variants; stores nothing")


EXPERIMENT = Experiment("kernel_builds", measure, {"": table}, problems=problems, options=options)
