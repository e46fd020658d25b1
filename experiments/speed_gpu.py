"""The kernels on a GPU, correctness first, then speed.

The run may be cut off: every row is written when it is done, those wanted most come first, and --minutes ends the run
before a row that would not fit. What failed and what was not measured stands in the record. --resume takes up what is
missing, on the same machine with the same code. Needs torch, triton and numpy; what it is compared with is measured
where it can be imported: flash-linear-attention (fla) and Mamba-2 (mamba_ssm).

With --tiny every line runs on a CPU in Triton's interpreter: it shows that the command works before a GPU's minutes are
spent on it.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

TINY = "--tiny" in sys.argv
if TINY:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from triton.runtime.autotuner import Autotuner  # noqa: E402

import fast  # noqa: E402
import reference  # noqa: E402
import verify  # noqa: E402
from experiments import frame, interruptible  # noqa: E402
from experiments.frame import Experiment, Run, Unavailable, UsageError  # noqa: E402
from experiments.interruptible import Row  # noqa: E402
from fast import packing  # noqa: E402
from fast.kernels import dense as dense_kernels  # noqa: E402
from fast.kernels import sparse as sparse_kernels  # noqa: E402
from fast.kernels import step as step_kernels  # noqa: E402
from verify.report import line  # noqa: E402

DEVICE = "cpu" if TINY else "cuda"
SHAPES = [(1, 3, 5)] if TINY else [(8, 64, 1024), (4, 128, 1024), (16, 32, 512)]  # B, M, D
FIRST_LENGTHS = [3, 6] if TINY else [4096, 16384]
LENGTHS = [5] if TINY else [1024, 2048, 8192, 32768, 65536]
SPARSE = [(1, 5, 2, 7)] if TINY else [(8, 128, 4, 1024), (8, 512, 4, 1024), (8, 128, 32, 1024)]  # B, M, K, D
CHECKED = [5] if TINY else [1, 63, 257, 4096]  # T
LARGE = (1, 40, 3, 5) if TINY else (2, 1 << 20, 64, 1024)  # B T M D = 2^37 numbers, B T D = 2^31, 2^16 chunks
LARGE_SPARSE = (1, 40, 3, 2, 5) if TINY else (2, 1 << 20, 64, 2, 1024)  # B, T, M, K, D; B T K D = 2^32 numbers
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMS = ("step",) if TINY else ("dense", "sparse", "step")  # the tests of verify have the others interpreted
VERIFIED = {name: () if TINY and name != "float32" else FORMS for name in DTYPES}
# Kernels compile anew for each kind of size, so verify's cases have few at first, which 16 does not divide.
FEW_SIZES = {"lengths": "5", "widths": "8", "slots": "3"} if TINY else {"lengths": "33", "widths": "100", "slots": "37"}
ALONE = "5" if TINY else "257"  # tokens of the case that every size is 1
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
SPEED_DTYPE = torch.float32 if TINY else torch.bfloat16
COMPARED = ("flash attention", "Mamba-2 scan", "fla chunk_gla", "fla chunk_gsa")  # the last compile longest
LIMIT = 110  # seconds of a row before it is stopped: those that try many configurations take long
OTHERS = (*COMPARED, "Mamba-2 step")  # not this project's: they may fail
COMMAND = [sys.executable, "-m", "experiments.speed_gpu", *(["--tiny"] if TINY else [])]
COMPILERS = 0 if TINY else min(14, (os.cpu_count() or 1) - 2)  # processes


# --- calls and their inputs ------------------------------------------------------------------------------------


def inputs(form: str, batch: int, tokens: int, slots: int, top_k: int, width: int, **how) -> list[Tensor]:
    """theta and phi (float32), value in dtype, as a router makes them; in the sparse form also the slots.

    how: dtype, seed, the device (on), and whether a state belongs to it.
    """
    on = how.get("on", DEVICE)
    generator = torch.Generator(on).manual_seed(how.get("seed", 0))
    affinity = torch.randn(batch, tokens, slots, generator=generator, device=on).softmax(-1)
    value = torch.randn(batch, tokens, width, generator=generator, device=on).to(how.get("dtype", torch.float32))
    state = [torch.randn(batch, slots, width, generator=generator, device=on)] if how.get("state") else []
    if form == "dense":
        return [0.6 * affinity, 0.5 * affinity, value, *state]
    kept, chosen = affinity.topk(top_k)
    return [0.6 * kept, 0.5 * kept, value, chosen, *state]


def memory(form: str, slots: int, function: Callable | None = None, **options) -> Callable:
    """A form as a function of `inputs`; by default its kernels."""
    if form == "dense":
        return partial(function or dense_kernels.factorization_memory, **options)
    function = partial(function or sparse_kernels.sparse_factorization_memory, check_values=False, **options)
    return lambda theta, phi, value, at, state=None, **more: function(theta, phi, at, value, slots, state, **more)


def run(call: Callable, values: list[Tensor]) -> list[Tensor]:
    """y, final state and the gradients of all inputs."""
    values = [v.detach().requires_grad_(v.is_floating_point()) for v in values]
    y, state = call(*values)
    weight = torch.linspace(-1, 1, y.shape[-1], device=y.device).bfloat16()  # the same number in every dtype
    loss = (y * weight.to(y.dtype)).to(state.dtype).sum() + state.square().sum()
    return [y.detach(), state.detach(), *torch.autograd.grad(loss, [v for v in values if v.requires_grad])]


# --- correctness -----------------------------------------------------------------------------------------------


def relative(got: Tensor, want: Tensor) -> float:
    got, want = got.cpu().double(), want.cpu().double()
    return ((got - want).norm() / want.norm().clamp_min(1e-300)).item()


def verdict(worst: float, allowed: float) -> dict:
    return {"passed": worst <= allowed, "error": worst, "allowed": allowed}


def equal(got: list[Tensor], want: list[Tensor]) -> dict:
    return {"passed": all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True))}


def against_float64(
    form: str, dtype=torch.float32, sizes: tuple | None = None, lengths=CHECKED, function=None, **options
) -> dict:
    """The worst error against the torch form in float64 on the CPU, of gradients a tenth; sizes are M, K, D."""
    slots, top_k, width = sizes or SPARSE[0][1:]
    truth = partial(fast.factorization_memory, backend="chunked")
    if form == "sparse":
        truth = partial(fast.sparse_factorization_memory, backend="scan")
    worst = 0.0
    for tokens in lengths:
        values = inputs(form, 2, tokens, slots, top_k, width, dtype=dtype, on="cpu", state=True)
        got = run(memory(form, slots, function, **options), [v.to(DEVICE) for v in values])
        want = run(memory(form, slots, truth), [v.double() if v.is_floating_point() else v for v in values])
        errors = [relative(*pair) / (1 if i < 2 else 10) for i, pair in enumerate(zip(got, want, strict=True))]
        worst = max(worst, *errors)
    # A TF32 product keeps 10 bits of mantissa, a half-precision input 7 or 10.
    return verdict(worst, max(TOLERANCES[dtype], 1e-2 if options.get("precision") == "tf32" else 0.0))


def steps_against_float64(dtype=torch.float32, sizes: tuple = (19, 4, 37), **options) -> dict:
    """One token, all four functions, against the loop; sizes are M, K, D."""
    worst = 0.0
    for name in ("step", "step_", "sparse_step", "sparse_step_"):
        form = "sparse" if "sparse" in name else "dense"
        *values, state = inputs(form, 3, 1, *sizes, dtype=dtype, on="cpu", state=True)
        theta, phi, value, *chosen = (v[:, 0] for v in values)
        given = [theta, phi, *chosen, value, state]
        exact = [v.double() if v.is_floating_point() else v for v in given]
        want = getattr(reference, name.removesuffix("_"))(*exact)
        got = getattr(step_kernels, name)(*(v.to(DEVICE, copy=True) for v in given), **options)
        worst = max(worst, *map(relative, got, want))
    return verdict(worst, TOLERANCES[dtype])


def small(form: str, on: str = DEVICE) -> tuple[Callable, list[Tensor]]:
    """Several chunks and blocks."""
    values = inputs(form, 2, 18 if TINY else 70, 7, 3, 9, on="cpu", state=True)
    return memory(form, 7), [v.to(on) for v in values]


def verified(form: str, dtype: str, **sizes: Any) -> dict:
    """What `python -m verify` says of the kernels: its cases by name, and how calls behave."""
    function = {"dense": fast.factorization_memory, "sparse": fast.sparse_factorization_memory, "step": fast.step}[form]
    if form != "step":
        function = partial(function, backend="triton")
    report = verify.check(
        function, form, dtypes=dtype, packed=form != "step", grad=form != "step" and not TINY, device=DEVICE, **sizes
    )
    wrong = {"wrong": [line(result) for result in report.wrong], "guess": report.guess and report.guess.text}
    return {"passed": report.ok, "cases": len(report.results)} | ({} if report.ok else wrong)


def alone(form: str) -> dict:
    """A sequence gives the same bits in any batch."""
    call, values = small(form)
    return equal(call(*(v[1:] for v in values)), [v[1:] for v in call(*values)])


def compiled(form: str) -> dict:
    """torch.compile(fullgraph=True) gives what the call gives."""
    call, values = small(form)
    whole = torch.compile(lambda *v: call(*v), fullgraph=True, backend="aot_eager" if TINY else "inductor")
    return verdict(max(map(relative, run(whole, values), run(call, values))), 1e-6)


def waits_for_nothing(form: str) -> dict:
    """Forward and backward read no value of the device: torch would raise an error."""
    call, values = small(form)
    run(call, values)  # what is compiled may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(call, values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"passed": True}


def on_another_stream(form: str) -> dict:
    call, values = small(form)
    want, stream = run(call, values), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        got = run(call, values)
    stream.synchronize()
    return equal(got, want)


def on_another_gpu(form: str) -> dict:
    """While the first GPU is the current one."""
    if torch.cuda.device_count() < 2:
        return {"absent": "there is one GPU"}
    return equal(run(*small(form, "cuda:1")), run(*small(form)))


def step_in_a_graph(name: str) -> dict:
    """A decode step captured in a CUDA graph and replayed gives the bits of the call."""
    form = "sparse" if "sparse" in name else "dense"
    *values, start = inputs(form, 3, 1, 19, 5, 37, state=True)
    theta, phi, value, *chosen = (v[:, 0] for v in values)
    options = {"check_values": False} if chosen else {}
    call = partial(getattr(fast, name), theta, phi, *chosen, value, **options)
    want, state, graph = call(start.clone()), start.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = call(state)
    state.copy_(start)
    graph.replay()
    torch.cuda.synchronize()
    return equal([y, state], list(want))


def large(form: str, batch: int, tokens: int, slots: int, top_k: int, width: int, last: int = 16) -> dict:
    """The end of a very long run equals the same tokens from the state before them.

    Offsets pass 2^31, and there are more chunks than the second axis of a grid takes.
    """
    call, values = memory(form, slots), inputs(form, batch, tokens, slots, top_k, width, dtype=torch.bfloat16)
    with torch.no_grad():
        y, state = call(*values)
        end = y[:, -last:].clone()
        del y
        _, before = call(*(v[:, :-last] for v in values))
        part, again = call(*(v[:, -last:] for v in values), before)
    return verdict(max(relative(end, part), relative(state, again)), 1e-2)


# --- speed -----------------------------------------------------------------------------------------------------


def milliseconds(calls: list[Callable], seconds: float = 0.4) -> float:
    """Median by device events. Calls differ in their inputs and take turns, from cold caches.

    The device sleeps before each, so that the host runs ahead and the time is the device's alone.
    """
    if TINY:
        started = time.perf_counter()
        calls[0]()
        return 1e3 * (time.perf_counter() - started)
    for call in calls:
        call()
    times = [_event_milliseconds(calls[0])]
    repeats = max(3, min(20, int(1e3 * seconds / times[0])))
    times += [_event_milliseconds(calls[i % len(calls)]) for i in range(1, repeats)]
    return statistics.median(times)


def _event_milliseconds(call: Callable) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _cold().zero_()
    torch.cuda._sleep(10_000_000)  # cycles: some 5 ms
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


@cache
def _cold() -> Tensor:
    """More than any cache holds."""
    return torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)


def host_milliseconds(call: Callable, repeats: int = 2 if TINY else 200) -> float:
    """What one call takes the host, which is what a decode loop without a graph waits for."""
    call()
    if not TINY:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - started) / repeats


def backward(call: Callable, values: list[Tensor]) -> None:
    y = call(*values)
    y = y[0] if isinstance(y, tuple) else y
    torch.autograd.grad(y, [v for v in values if v.requires_grad], torch.ones_like(y))


def timed(make: Callable[[int], list[Tensor]], call: Callable) -> dict:
    """Forward alone, and with backward; what backward needs beyond the inputs, at most."""
    sets = [[v.requires_grad_(v.is_floating_point()) for v in make(seed)] for seed in range(2)]
    with torch.no_grad():
        result = {"forward ms": milliseconds([partial(call, *values) for values in sets])}
    if not TINY:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    result["both ms"] = milliseconds([partial(backward, call, values) for values in sets])
    return result if TINY else result | {"peak MiB": (torch.cuda.max_memory_allocated() - before) >> 20}


def rates() -> dict:
    """Measured here: operations per second of a bfloat16 matrix product, bytes per second of a copy."""
    n = 64 if TINY else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(1 << (10 if TINY else 28), device=DEVICE)
    target = torch.empty_like(source)
    return {
        "TFLOP/s": 2e-9 * n**3 / milliseconds([lambda: a @ b]),
        "GB/s": 2e-6 * source.nbytes / milliseconds([lambda: target.copy_(source)]),
    }


def decode(form: str, batch: int, slots: int, top_k: int, width: int, **options) -> dict:
    """One step in place for all sequences; GB/s counts every number of the state in use once in and once out."""
    theta, phi, value, *chosen = (v[:, 0] for v in inputs(form, batch, 1, slots, top_k, width, dtype=SPEED_DTYPE))
    states = [torch.zeros(batch, slots, width, device=DEVICE) for _ in range(2)]
    function = step_kernels.sparse_step_ if chosen else step_kernels.step_
    steps = [partial(function, theta, phi, *chosen, value, state, **options) for state in states]
    took, used = milliseconds(steps), top_k if chosen else slots
    return {"ms": took, "host ms": host_milliseconds(steps[0]), "GB/s": 8e-6 * batch * used * width / took}


def decode_of_mamba2(batch: int, slots: int, width: int, head: int = 64) -> dict:
    """Mamba-2's own kernel at equal state: width / 64 heads of 64 columns, as many states as there are slots."""
    try:
        from mamba_ssm.ops.triton.selective_state_update import (  # pyright: ignore[reportMissingImports]
            selective_state_update,
        )
    except ImportError as error:
        return {"absent": str(error)}
    heads = width // head
    state = [torch.zeros(batch, heads, head, slots, device=DEVICE) for _ in range(2)]
    x = torch.randn(batch, heads, head, device=DEVICE, dtype=torch.bfloat16)
    dt, a, d = (torch.rand(n, heads, 1, device=DEVICE) for n in (batch, 1, 1))
    dt, a, d = dt.expand(-1, -1, head), (-a[0, :, :, None]).expand(-1, head, slots), d[0].expand(-1, head)
    b, c = torch.randn(2, batch, 1, slots, device=DEVICE, dtype=torch.bfloat16)
    bias = torch.zeros(heads, 1, device=DEVICE).expand(-1, head)
    step = partial(selective_state_update, x=x, dt=dt, A=a, B=b, C=c, D=d, dt_bias=bias, dt_softplus=True)
    took = milliseconds([partial(step, v) for v in state])
    return {"ms": took, "host ms": host_milliseconds(partial(step, state[0])),
            "GB/s": 8e-6 * batch * slots * width / took}  # fmt: skip


def speed(form: str, batch: int, tokens: int, slots: int, width: int) -> dict:
    """A form at equal T, slots and width; what is not ours works on inputs of its own kind."""
    sizes = "dense", batch, tokens, slots, 1, width
    if form in ("triton", "chunked"):
        call = partial(fast.factorization_memory, backend=form)
        return timed(lambda seed: inputs(*sizes, dtype=SPEED_DTYPE, seed=seed), call)
    if form == "triton, float32":
        return timed(lambda seed: inputs(*sizes, seed=seed), dense_kernels.factorization_memory)
    heads = max(1, width // 64)

    def random(seed: int, *shapes: tuple) -> list[Tensor]:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        return [torch.randn(n, generator=generator, device=DEVICE, dtype=SPEED_DTYPE) for n in shapes]

    if form == "flash attention":
        shape = batch, heads, tokens, width // heads
        attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
        return timed(lambda seed: random(seed, *[shape] * 3), attention)
    if form == "Mamba-2 scan":
        try:
            from mamba_ssm.ops.triton.ssd_combined import (  # pyright: ignore[reportMissingImports]
                mamba_chunk_scan_combined,
            )
        except ImportError as error:
            return {"absent": str(error)}
        shapes = (batch, tokens, heads, width // heads), *[(batch, tokens, 1, slots)] * 2, (batch, tokens, heads)

        def mamba2_inputs(seed: int) -> list[Tensor]:
            x, b, c, dt = random(seed, *shapes)
            return [x, torch.nn.functional.softplus(dt.float() - 3), -torch.rand(heads, device=DEVICE), b, c]

        return timed(mamba2_inputs, partial(mamba_chunk_scan_combined, chunk_size=256))
    try:
        from fla.ops.gla import chunk_gla  # pyright: ignore[reportMissingImports]
        from fla.ops.gsa import chunk_gsa  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return {"absent": str(error)}

    def gla_inputs(seed: int) -> list[Tensor]:
        theta, phi, value = inputs(*sizes, dtype=SPEED_DTYPE, seed=seed)
        return [*(v[:, :, None].to(SPEED_DTYPE) for v in (phi, theta, value)), (1 - theta).log()[:, :, None]]

    def gsa_inputs(seed: int) -> list[Tensor]:
        _, write, _, decay = gla_inputs(seed)
        return [*random(seed, *((batch, tokens, 1, n) for n in (64, 64, width))), write, decay.to(SPEED_DTYPE)]

    return timed(*((gla_inputs, chunk_gla) if form == "fla chunk_gla" else (gsa_inputs, chunk_gsa)))


def sparse_speed(form: str, batch: int, tokens: int, slots: int, top_k: int, width: int, **options) -> dict:
    """The sparse kernels, or the dense ones over zeros."""
    function = sparse_kernels.sparse_factorization_memory
    if form == "dense over zeros":
        function = partial(packing.over_zeros, dense_kernels.factorization_memory, eps=1e-6)
    sizes = "sparse", batch, tokens, slots, top_k, width
    return timed(
        lambda seed: inputs(*sizes, dtype=SPEED_DTYPE, seed=seed), memory("sparse", slots, function, **options)
    )


# --- rows ------------------------------------------------------------------------------------------------------


def correctness_rows() -> list[Row]:
    def row(what: str, measure: Callable, *args, **options) -> Row:
        return Row("correctness", {"what": what}, partial(measure, *args, **options), "large" * (measure is large))

    dense_sizes = (SHAPES[0][1], 1, SHAPES[0][2])
    rows = []
    for name, precision in (("float32", "ieee"), ("bfloat16", "tf32"), ("float16", "tf32")):
        how = {"dtype": DTYPES[name]}
        rows += [
            row(f"dense, {name}, {precision}", against_float64, "dense", sizes=dense_sizes, precision=precision, **how),
            row(f"sparse, {name}", against_float64, "sparse", **how),
            row(f"steps, {name}", steps_against_float64, **how),
            *(row(f"verify, {form}, {name}", verified, form, name, **FEW_SIZES) for form in VERIFIED[name]),
        ]
    for form in ("dense", "sparse"):
        short = {"lengths": CHECKED[-1:] if TINY else [257]}
        plain = "chunked" if form == "dense" else "scan"
        function = fast.factorization_memory if form == "dense" else fast.sparse_factorization_memory
        configurations = (dense_kernels if form == "dense" else sparse_kernels).CONFIGURATIONS[1:]
        rows += [
            row(f"{form}, a sequence alone, same bits", alone, form),
            row(f"{form}, torch", against_float64, form, function=partial(function, backend=plain), **short),
            *(row(f"{form}, blocks {tuple(b)}", against_float64, form, blocks=b, **short) for b in configurations),
        ]
    rows += [row(f"steps, blocks {tuple(b)}", steps_against_float64, blocks=b) for b in step_kernels.CONFIGURATIONS[1:]]
    ones = {"slots": "1", "widths": "1", "lengths": ALONE}
    rows += [row(f"verify, {form}, M = D = 1", verified, form, "float32", **ones) for form in VERIFIED["float32"]]
    if not TINY:
        for form in ("dense", "sparse"):
            rows += [
                row(f"{form}, waits for nothing", waits_for_nothing, form),
                row(f"{form}, on another stream", on_another_stream, form),
                row(f"{form}, on another GPU", on_another_gpu, form),
            ]
        rows += [row(f"{name} in a CUDA graph", step_in_a_graph, name) for name in ("step_", "sparse_step_")]
    rows += [row(f"{form}, torch.compile(fullgraph=True)", compiled, form) for form in ("dense", "sparse")]
    for name, precision in (("float32", "tf32"), ("bfloat16", "ieee"), ("float16", "ieee")):
        how = {"dtype": DTYPES[name], "precision": precision, "sizes": dense_sizes}
        rows.append(row(f"dense, {name}, {precision}", against_float64, "dense", **how))
    B, T, M, D = LARGE
    rows.append(row(f"dense, B, T, M, D = {LARGE}", large, "dense", B, T, M, 1, D))
    return [*rows, row(f"sparse, B, T, M, K, D = {LARGE_SPARSE}", large, "sparse", *LARGE_SPARSE)]


def decode_rows(shape: tuple[int, int, int]) -> list[Row]:
    batch, slots, width = shape
    batch *= 1 if TINY else 32
    rows = []
    for form, top_k in (("dense", slots), ("sparse", min(4, slots))):
        what = {"form": form, "B": batch, "M": slots, "K": top_k, "D": width}
        rows.append(Row("decode", what, partial(decode, form, batch, slots, top_k, width), "decode"))
    what = {"form": "Mamba-2 step", "B": batch, "M": slots, "K": slots, "D": width}
    return [*rows, Row("decode", what, partial(decode_of_mamba2, batch, slots, width), "decode")]


def speed_rows(shape: tuple[int, int, int], lengths: list[int], forms: tuple[str, ...]) -> list[Row]:
    rows, (batch, slots, width) = [], shape
    for tokens in lengths:
        for form in forms:
            what = {"form": form, "B": batch, "T": tokens, "M": slots, "D": width}
            size = batch * tokens * width * (tokens if form == "flash attention" else slots)
            rows.append(Row("speed", what, partial(speed, form, batch, tokens, slots, width), f"speed {form}", size))
    return rows


def sparse_rows(shape: tuple[int, int, int, int], lengths: list[int]) -> list[Row]:
    rows, (batch, slots, top_k, width) = [], shape
    for tokens in lengths:
        for form, used in (("sparse", top_k), ("dense over zeros", slots)):
            what = {"form": form, "B": batch, "T": tokens, "M": slots, "K": top_k, "D": width}
            measure = partial(sparse_speed, form, batch, tokens, slots, top_k, width)
            rows.append(Row("sparse", what, measure, f"sparse {form}", batch * tokens * width * used))
    return rows


def configuration_rows() -> list[Row]:
    """Which blocks should be the default on this card?"""
    rows, tokens = [], FIRST_LENGTHS[0]
    batch, slots, width = SHAPES[0]
    sizes = "dense", batch, tokens, slots, 1, width

    def row(form: str, blocks: tuple, measure: Callable) -> Row:
        return Row("configurations", {"form": form, "blocks": str(tuple(blocks))}, measure, f"configurations {form}")

    for blocks in dense_kernels.CONFIGURATIONS:
        make = lambda seed: inputs(*sizes, dtype=SPEED_DTYPE, seed=seed)  # noqa: E731
        rows.append(row("dense", blocks, partial(timed, make, memory("dense", slots, blocks=blocks))))
    for blocks in sparse_kernels.CONFIGURATIONS:
        B, M, K, D = SPARSE[0]
        rows.append(row("sparse", blocks, partial(sparse_speed, "sparse", B, tokens, M, K, D, blocks=blocks)))
    many = batch if TINY else 32 * batch
    for blocks in step_kernels.CONFIGURATIONS:
        rows.append(row("step", blocks, partial(decode, "dense", many, slots, 1, width, blocks=blocks)))
        rows.append(row("sparse step", blocks, partial(decode, "sparse", many, slots, 3, width, blocks=blocks)))
        rows.append(row("step, B = 1", blocks, partial(decode, "dense", 1, slots, 1, width, blocks=blocks)))
    return rows


def all_rows() -> list[Row]:
    """In order of worth: whether it is right, how fast, beside what, and then the same at more sizes."""
    right, ours = correctness_rows(), ("triton",)
    first = next(i for i, row in enumerate(right) if str(row.what["what"]).startswith("dense, float16"))
    rows = [*right[:first], Row("rates", {"what": "a matrix product, a copy"}, rates)]
    rows += [row for shape in SHAPES for row in decode_rows(shape)]
    for tokens in FIRST_LENGTHS:
        rows += speed_rows(SHAPES[0], [tokens], ours) + sparse_rows(SPARSE[0], [tokens])
    rows += configuration_rows() + speed_rows(SHAPES[0], FIRST_LENGTHS, COMPARED) + right[first:]
    rows += speed_rows(SHAPES[0], FIRST_LENGTHS, ("triton, float32", "chunked"))
    for shape in SHAPES[1:]:
        rows += speed_rows(shape, FIRST_LENGTHS, ours + COMPARED)
    for shape in SPARSE[1:]:
        rows += sparse_rows(shape, FIRST_LENGTHS[:1])
    for shape in SHAPES:
        rows += speed_rows(shape, LENGTHS, ours + COMPARED)
    for shape in SHAPES:
        rows += speed_rows(shape, LENGTHS, ("chunked",))
    sizes = FEW_SIZES if TINY else {}
    return rows + [
        Row("verify", {"what": f"all cases, {form}, {name}"}, partial(verified, form, name, **sizes), "verify")
        for name, forms in VERIFIED.items() for form in forms
    ]  # fmt: skip


# --- what follows from the rows ----------------------------------------------------------------------------------


def conclude(rows: list[dict]) -> dict:
    """The goals of this project on one GPU, and the fastest blocks of each form."""
    return {"goals": goals(rows), "fastest": fastest(rows)}


def goals(rows: list[dict]) -> list[dict]:
    """Of each the worst case that was measured; `reached` is None where nothing was."""
    speeds = [row for row in rows if row["part"] == "speed"]
    steps = [row for row in rows if row["part"] == "decode"]
    from_4096 = [row for row in speeds if row["T"] >= FIRST_LENGTHS[0]]
    copy = next((row["GB/s"] for row in rows if row["part"] == "rates" and "GB/s" in row), None)
    dense = [row["GB/s"] / copy for row in steps if row["form"] == "dense" and "GB/s" in row and copy]
    return [
        goal("time of fla chunk_gsa over ours, forward + backward", 1.0, _ratios(speeds, "fla chunk_gsa", "triton")),
        goal(
            "time of fla chunk_gla over ours, forward + backward", 1 / 1.3, _ratios(speeds, "fla chunk_gla", "triton")
        ),
        goal(
            "time of flash attention over ours, from T = 4096 on", 1.0, _ratios(from_4096, "flash attention", "triton")
        ),
        goal("time of Mamba-2's step over the sparse one's", 2.0, _ratios(steps, "Mamba-2 step", "sparse", "ms")),
        goal("share of a copy's bandwidth in the dense step", 0.7, dense),
    ]


def goal(what: str, aim: float, found: list[float]) -> dict:
    worst = min(found, default=None)
    reached = None if worst is None else worst >= aim
    return {"what": what, "at least": round(aim, 3), "measured": worst and round(worst, 3), "reached": reached}


def _ratios(rows: list[dict], slow: str, fast_one: str, time_of: str = "both ms") -> list[float]:
    """Times of one form over those of another, where both were measured at equal sizes."""
    times = {(row["form"], *(row.get(n) for n in "BTMD")): row[time_of] for row in rows if time_of in row}
    return [ms / times[fast_one, *at] for (form, *at), ms in times.items() if form == slow and (fast_one, *at) in times]


def fastest(rows: list[dict]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for row in rows:
        took = row.get("both ms", row.get("ms"))
        if row["part"] != "configurations" or took is None:
            continue
        if row["form"] not in found or took < found[row["form"]]["ms"]:
            found[row["form"]] = {"blocks": row["blocks"], "ms": took}
    for form, best in found.items():
        module = {"dense": dense_kernels, "sparse": sparse_kernels}.get(form, step_kernels)
        best["is the default"] = best["blocks"] == str(tuple(module.DEFAULT))
    return found


# --- the run -----------------------------------------------------------------------------------------------------


def about() -> dict:
    """All that the numbers depend on."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((frame.ROOT / "fast").rglob("*.py"))))
    driver = "none"
    if not TINY:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, encoding="utf-8").stdout.strip() or "not found"
        except FileNotFoundError:
            driver = "not found"
    others = {"fla": version("fla"), "mamba_ssm": version("mamba_ssm")}
    return frame.about(driver=driver, fast=code.hexdigest()[:12], others=others)


def version(module: str) -> str:
    try:
        return getattr(importlib.import_module(module), "__version__", "unknown")
    except ImportError:
        return "absent"


def healthy() -> bool:
    """Whether this process can still use the GPU after a failure: an illegal access spoils it for good."""
    gc.collect()
    if TINY:
        return True
    try:
        torch.cuda.synchronize()
        torch.ones(1, device=DEVICE).add_(1).item()
        torch.cuda.empty_cache()
    except Exception as error:
        print(f"this process lost the GPU, a new one goes on: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def say(row: dict) -> None:
    state = "absent" if "absent" in row else "FAILED" if "failed" in row else ""
    state = state or {True: "ok", False: "WRONG", None: ""}[row.get("passed")]
    detail = row.get("absent") or row.get("failed", {}).get("exception", "").partition("\n")[0]
    names = " ".join(str(v) if k in ("what", "form") else f"{k} {v}" for k, v in row.items() if isinstance(v, int | str)
                     and k not in ("part", "passed", "absent"))  # fmt: skip
    numbers = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float) and k != "seconds")
    print(f"{state:7}{row['part']}: {names}  {numbers}{detail}  [{row['seconds']:.1f} s]", flush=True)


def report(record: dict) -> None:
    """Print what follows."""
    rows, missing = record["rows"], record["not measured"]
    print(f"\n{len(rows)} rows, {len(missing)} not measured")
    for row in missing:
        what = " ".join(f"{v}" for k, v in row.items() if k not in ("part", "why"))
        print(f"not measured: {row['part']}: {what} ({row['why']})")
    for goal in record.get("goals", []):
        reached = {True: "reached", False: "MISSED", None: "not measured"}[goal["reached"]]
        print(f"{reached:13}{goal['what']}: {goal['measured']}, aim {goal['at least']}")
    for form, best in record.get("fastest", {}).items():
        print(f"fastest blocks, {form}: {best['blocks']}{', the default' if best['is the default'] else ''}")


def problems(record: dict) -> list[str]:
    """What is wrong or failed of this project's own; the record keeps it."""
    rows = record["rows"]
    bad = [row for row in rows if row.get("passed") is False or ("failed" in row and row.get("form") not in OTHERS)]
    found = [
        f"{'FAILED' if 'failed' in row else 'WRONG'}: {row['part']}: {row.get('what', row.get('form'))}" for row in bad
    ]
    if record.get("ended"):
        found.append(f"the process that measures ended with {record['ended']}")
    return found if rows else [*found, "nothing was measured"]


def compile_all(until: float, processes: int = COMPILERS) -> None:
    """Triton keeps on disk what it has compiled: several processes at a time make what one row after the other needs.

    They run the rows and drop what they find. What goes wrong here goes wrong again where it is measured.
    """
    commands = [[*COMMAND, "compile", str(i), str(processes), str(until)] for i in range(processes)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    for process in running:
        try:
            process.wait(timeout=max(1.0, until - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def compile_some(rows: list[Row], until: float, index: int = 0, count: int = 1) -> None:
    with share_of_tuning(index, count):
        for row in rows:
            if time.time() < until:
                with contextlib.suppress(Exception):
                    row.measure()


@contextlib.contextmanager
def share_of_tuning(index: int, count: int) -> Iterator[None]:
    """Within, a kernel that tries many configurations tries a share of them, each once: they are compiled, not timed.

    Times that were taken while other processes work would choose badly, and none is kept.
    """
    every = Autotuner.prune_configs

    def share(self: Autotuner, *given) -> list:
        found = every(self, *given)
        return found[index::count] or found[:1]

    def once(call: Callable, quantiles: tuple) -> tuple[float, ...]:
        call()
        return (0.0,) * len(quantiles)

    with patch.object(Autotuner, "prune_configs", share), patch.object(Autotuner, "do_bench", staticmethod(once)):
        yield


def to_compile(index: int = 0, count: int = 1) -> list[Row]:
    """What one of so many processes runs; all together need most of what the other rows need.

    Rows that try many configurations are run by all processes, since each tries a share.
    """
    rows = [row for row in all_rows() if row.kind != "large"]
    parts = ("correctness", "decode", "configurations")
    tuned = [row for row in rows if row.what.get("form") in COMPARED and row.what["T"] == FIRST_LENGTHS[0]]
    first, later = tuned[: len(COMPARED)], tuned[len(COMPARED) :]  # the first shape, and others
    return first + [row for row in rows if row.part in parts][index::count] + later


def measure(run: Run) -> dict:
    """The record, which a process of its own writes row by row."""
    if not TINY and not torch.cuda.is_available():
        raise Unavailable("no GPU was found")
    path, known = run.folder / f"{EXPERIMENT.name}.json", about()
    until = time.time() + 60 * run.options.minutes
    try:
        interruptible.begin(path, known, run.options.resume)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(*(f"{name}: {value}" for name, value in known.items()), sep="\n", flush=True)
    compile_all(time.time() + 14 * run.options.minutes)  # at most a quarter of the time
    code = interruptible.supervise([*COMMAND, "measure", str(path.resolve()), str(until)], path, until, limit=LIMIT)
    record = interruptible.read(path)
    report(record)
    return record | ({"ended": code} if code else {})


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=8, help="end before a row that would not fit (default 8)")
    parser.add_argument("--resume", action="store_true", help="measure only what the record lacks")


# --- tables ------------------------------------------------------------------------------------------------------


def right_table(result: dict) -> str:
    """Errors by dtype, then what else was checked."""
    rows = {row["what"]: row for row in result["rows"] if row["part"] == "correctness" and "passed" in row}
    lines = [f"| | {' | '.join(DTYPES)} |", "| --- " * (1 + len(DTYPES)) + "|"]
    shown = set()
    for text, names in {
        "dense, error against float64": ("dense, float32, ieee", "dense, bfloat16, tf32", "dense, float16, tf32"),
        "dense, the other kind of product": ("dense, float32, tf32", "dense, bfloat16, ieee", "dense, float16, ieee"),
        **{f"{form}, error against float64": [f"{form}, {name}" for name in DTYPES] for form in ("sparse", "steps")},
        **{f"`verify`, {form}": [f"verify, {form}, {name}" for name in DTYPES] for form in FORMS},
    }.items():
        lines.append(f"| {text} | {' | '.join(_verdict(rows.get(name)) for name in names)} |")
        shown |= set(names)
    others = [row for name, row in rows.items() if name not in shown]
    return "\n".join([*lines, f"| {len(others)} other checks | {sum(row['passed'] for row in others)} right | | |"])


def _verdict(row: dict | None) -> str:
    if row is None:
        return "–"
    number = f"{row['error']:.1e}" if "error" in row else f"{row['cases']} cases"
    return number + ("" if row["passed"] else ", **wrong**")


def decode_table(result: dict) -> str:
    rows = {(row["form"], row["B"], row["M"], row["D"]): row for row in result["rows"] if row["part"] == "decode"}
    copy = next((row["GB/s"] for row in result["rows"] if row["part"] == "rates" and "GB/s" in row), None)
    head = (
        "B, M, D",
        "dense",
        "share of a copy's rate",
        "sparse, K = 4",
        "Mamba-2's",
        "Mamba-2's over sparse",
        "over dense",
    )
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for at in dict.fromkeys(key[1:] for key in rows):
        dense, sparse, mamba = (rows.get((form, *at), {}) for form in ("dense", "sparse", "Mamba-2 step"))
        times = [f"{1e3 * row['ms']:.1f} µs" if "ms" in row else "–" for row in (dense, sparse, mamba)]
        share = f"{dense['GB/s'] / copy:.0%}" if copy and "GB/s" in dense else "–"
        over = [f"{mamba['ms'] / row['ms']:.2f}×" if "ms" in row and "ms" in mamba else "–" for row in (sparse, dense)]
        lines.append(f"| {', '.join(map(str, at))} | {times[0]} | {share} | {' | '.join([*times[1:], *over])} |")
    return "\n".join(lines)


def speed_table(result: dict) -> str:
    """Times by size; the last column is forward + backward over that of this project's kernels at equal sizes."""
    head = ("form", "B, T, M, D", "K", "forward", "forward + backward", "memory beyond the inputs", "over ours")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    rows = [row for row in result["rows"] if row["part"] in ("speed", "sparse") and "both ms" in row]
    rows.sort(key=lambda row: (row["part"] == "sparse", row["M"] != SHAPES[0][1], row["T"]))
    ours = {}
    for row in rows:
        at = tuple(row.get(name) for name in "BTMKD")
        over = f"{row['both ms'] / ours[at]:.2f}×" if at in ours else ""
        if row["form"] in ("triton", "sparse"):  # the first of each size
            ours[at] = row["both ms"]
        sizes = ", ".join(str(row[name]) for name in "BTMD")
        times = f"{row['forward ms']:.2f} ms | {row['both ms']:.2f} ms | {row.get('peak MiB', '–')} MiB"
        lines.append(f"| {row['form']} | {sizes} | {row.get('K', '–')} | {times} | {over} |")
    return "\n".join(lines)


def goals_table(result: dict) -> str:
    lines = ["| goal | at least | measured | |", "| --- " * 4 + "|"]
    for found in result["goals"]:
        reached = {True: "reached", False: "missed", None: "not measured"}[found["reached"]]
        number = "–" if found["measured"] is None else f"{found['measured']:g}"
        lines.append(f"| {found['what']} | {found['at least']:g} | {number} | {reached} |")
    return "\n".join(lines)


EXPERIMENT = Experiment(
    "speed_gpu", measure,
    {"right": right_table, "decode": decode_table, "speed": speed_table, "goals": goals_table},
    problems=problems, options=options,
)  # fmt: skip

if __name__ == "__main__":  # a process that compiles, or the one that measures
    what, *given, until = [argument for argument in sys.argv[1:] if argument != "--tiny"]
    if what == "compile":
        share = int(given[0]), int(given[1])
        compile_some(to_compile(*share), float(until), *share)
    else:
        path = Path(given[0])
        sys.exit(interruptible.work(all_rows(), path, float(until), say=say, healthy=healthy, conclude=conclude))
