"""`make gpu`: the kernels on a GPU, correctness first, then speed, in one table; writes docs/results/gpu.json.

Without a GPU it says so and exits with 0. `--tiny` runs every line on a CPU in Triton's interpreter, at sizes that mean
nothing and without writing: it shows that the command works before a GPU's minutes are spent on it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

TINY = "--tiny" in sys.argv
if TINY:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

import fast  # noqa: E402
from fast import chunked, sparse, triton_dense  # noqa: E402
from lm.demo import environment  # noqa: E402

DEVICE = "cpu" if TINY else "cuda"
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "gpu.json"
SHAPES = [(1, 3, 5)] if TINY else [(8, 64, 1024), (4, 128, 1024), (16, 32, 512)]  # B, M, D
LENGTHS = [18] if TINY else [1 << n for n in range(10, 17)]
SPARSE = [(1, 5, 2, 7)] if TINY else [(8, 128, 4, 1024), (8, 512, 4, 1024), (8, 128, 32, 1024)]  # B, M, K, D
LARGE = (1, 40, 3, 5) if TINY else (2, 1 << 20, 64, 1024)  # B T M D = 2^37 numbers, B T D = 2^31
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def inputs(batch: int, tokens: int, slots: int, width: int, dtype=torch.float32, seed: int = 0, grad: bool = False):
    """theta and phi (float32), x in dtype, as a router makes them."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    affinity = torch.randn(batch, tokens, slots, generator=generator, device=DEVICE).softmax(-1)
    x = torch.randn(batch, tokens, width, generator=generator, device=DEVICE).to(dtype)
    return [v.requires_grad_(grad) for v in (0.6 * affinity, 0.5 * affinity, x)]


def sparse_inputs(batch: int, tokens: int, slots: int, top_k: int, width: int, **options):
    """As inputs, and the slots [B, T, K] that theta and phi [B, T, K] belong to."""
    theta, phi, x = (v.detach() for v in inputs(batch, tokens, slots, width, **options))
    theta, chosen = theta.topk(top_k)
    return [v.requires_grad_(options.get("grad", False)) for v in (theta, phi.gather(-1, chosen), x)], chosen


def on_slots(chosen, num_slots: int, form: Callable = fast.sparse_factorization_memory, **options) -> Callable:
    """The sparse form as a function of theta, phi and x."""
    return lambda theta, phi, x: form(theta, phi, chosen, x, num_slots, **options)


def relative(got, want) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-300)).item()


def run(memory: Callable, leaves: list, **options):
    """y, final state and the gradients."""
    y, state = memory(*leaves, **options)
    weight = torch.linspace(-1, 1, y.shape[-1], device=y.device, dtype=y.dtype)
    loss = (y * weight).float().sum() + state.square().sum()
    return y, state, *torch.autograd.grad(loss, leaves)


def triton(*leaves, **options):
    return fast.factorization_memory(*leaves, backend="triton", **options)


def correctness() -> list[dict]:
    rows = []
    for precision in ("ieee", "tf32"):
        for dtype, tolerance in TOLERANCES.items():
            worst = 0.0
            for tokens in (18,) if TINY else (1, 63, 257, 4096):
                leaves = inputs(2, tokens, *SHAPES[0][1:], dtype=dtype, grad=True)
                exact = [v.detach().double().requires_grad_() for v in leaves]
                want = run(chunked.factorization_memory, exact)
                got = run(triton_dense.factorization_memory, leaves, precision=precision)
                errors = [relative(a, b) / (1 if i < 2 else 10) for i, (a, b) in enumerate(zip(got, want, strict=True))]
                worst = max(worst, *errors)
            # A TF32 product keeps 10 bits of mantissa, a half-precision input 7 or 10.
            allowed = max(tolerance, 1e-2 if precision == "tf32" else 0.0)
            rows.append(
                verdict(f"against float64, {dtype}, {precision}", worst <= allowed, f"{worst:.1e} <= {allowed:g}")
            )
    for dtype, tolerance in TOLERANCES.items():
        leaves, chosen = sparse_inputs(2, 18 if TINY else 999, *SPARSE[0][1:], dtype=dtype, grad=True)
        exact = [v.detach().double().requires_grad_() for v in leaves]
        want = run(on_slots(chosen, SPARSE[0][1], sparse.sparse_factorization_memory), exact)
        memory = on_slots(chosen, SPARSE[0][1], backend="triton")
        first, second = run(memory, leaves), run(memory, leaves)
        worst = max(relative(a, b) / (1 if i < 2 else 10) for i, (a, b) in enumerate(zip(first, want, strict=True)))
        rows.append(verdict(f"sparse against float64, {dtype}", worst <= tolerance, f"{worst:.1e} <= {tolerance:g}"))
        rows.append(verdict("same input, same bits", all(map(torch.equal, first, second)), ""))
    leaves = inputs(2, 40, *SHAPES[0][1:], grad=True)
    first, second = run(triton, leaves), run(triton, leaves)
    rows.append(verdict("same input, same bits", all(map(torch.equal, first, second)), ""))
    alone = triton(*[v[1:] for v in leaves])
    rows.append(verdict("a sequence alone, same bits", torch.equal(alone[0], first[0][1:]), ""))
    compiled = torch.compile(triton, fullgraph=True, backend="aot_eager" if TINY else "inductor")
    same = all(relative(a, b) < 1e-6 for a, b in zip(run(compiled, leaves), first, strict=True))
    rows.append(verdict("torch.compile(fullgraph=True)", same, ""))
    return [*rows, large()]


def large() -> dict:
    """Offsets beyond 2^31: the end of a very long run equals the same tokens from the state before them."""
    batch, tokens, slots, width = LARGE
    theta, phi, x = inputs(batch, tokens, slots, width, torch.bfloat16)
    tail = 16
    with torch.no_grad():
        y, state = triton(theta, phi, x)
        _, before = triton(theta[:, :-tail], phi[:, :-tail], x[:, :-tail])
        part, again = triton(theta[:, -tail:], phi[:, -tail:], x[:, -tail:], before)
    error = max(relative(y[:, -tail:], part), relative(state, again))
    return verdict(f"B, T, M, D = {LARGE}", error < 1e-2, f"{error:.1e}")


def verdict(what: str, passed: bool, detail: str) -> dict:
    print(f"{'ok    ' if passed else 'WRONG '} {what:<48} {detail}", flush=True)
    return {"what": what, "passed": bool(passed), "detail": detail}


def milliseconds(calls: list[Callable], repeats: int = 2 if TINY else 20) -> float:
    """Median by device events; calls differ in their inputs and take turns, so that caches do not help."""
    for call in calls:
        call()
    times = []
    for i in range(repeats):
        call = calls[i % len(calls)]
        if TINY:
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def rates() -> tuple[float, float]:
    """Measured here: operations per second of a bfloat16 matrix product, bytes per second of a copy."""
    n = 64 if TINY else 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    multiply = 2 * n**3 / milliseconds([lambda: a @ b]) * 1e3
    source = torch.empty(1 << (10 if TINY else 28), device=DEVICE)
    target = torch.empty_like(source)
    return multiply, 2 * source.nbytes / milliseconds([lambda: target.copy_(source)]) * 1e3


def rivals(batch: int, tokens: int, slots: int, width: int) -> dict[str, Callable]:
    """name -> (inputs from a seed -> output), at equal T, slots and width."""
    heads, dtype = max(1, width // 64), torch.float32 if TINY else torch.bfloat16

    def attention_inputs(seed):
        shape = (batch, heads, tokens, max(1, width // heads))
        generator = torch.Generator(DEVICE).manual_seed(seed)
        made = [torch.randn(3, *shape, generator=generator, device=DEVICE, dtype=dtype)[i] for i in range(3)]
        return [v.detach().requires_grad_() for v in made]

    def attention(*leaves):
        return torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)

    def memory_inputs(seed):
        return inputs(batch, tokens, slots, width, dtype, seed, grad=True)

    found = {
        "triton": (memory_inputs, lambda *v: triton(*v)[0]),
        "chunked": (memory_inputs, lambda *v: fast.factorization_memory(*v, backend="chunked")[0]),
        "flash attention": (attention_inputs, attention),
    }
    if TINY or tokens == 4096:  # which configuration should be the default on this card
        for blocks in triton_dense.CONFIGURATIONS:
            memory = partial(triton_dense.factorization_memory, blocks=blocks)
            found[f"triton {'/'.join(map(str, blocks))}"] = memory_inputs, lambda *v, memory=memory: memory(*v)[0]
    try:
        from fla.ops.gla import chunk_gla
        from fla.ops.gsa import chunk_gsa
    except ImportError:
        return found

    def gla_inputs(seed):
        theta, phi, x = memory_inputs(seed)
        keys = [v.detach()[:, :, None].to(dtype).requires_grad_() for v in (phi, theta, x)]
        return [*keys, (1 - theta.detach()).log()[:, :, None].requires_grad_()]

    found["fla chunk_gla"] = gla_inputs, lambda q, k, v, g: chunk_gla(q, k, v, g)[0]

    def gsa_inputs(seed):
        write, decay = gla_inputs(seed)[1::2]
        shapes = [(batch, tokens, 1, n) for n in (64, 64, width)]
        qkv = [torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True) for shape in shapes]
        return [*qkv, *(v.detach().to(dtype).requires_grad_() for v in (write, decay))]

    found["fla chunk_gsa"] = gsa_inputs, lambda q, k, v, s, g: chunk_gsa(q, k, v, s, g)[0]
    return found


def speed(multiply: float, copy: float) -> list[dict]:
    rows = []
    for batch, slots, width in SHAPES:
        for tokens in LENGTHS:
            operations = 18 * batch * tokens * slots * width
            moved = 4 * batch * tokens * (6 * width + 8 * slots)
            row = {"B": batch, "T": tokens, "M": slots, "D": width}
            row["floor ms"] = 1e3 * max(operations / multiply, moved / copy)
            for name, (make, call) in rivals(batch, tokens, slots, width).items():
                try:
                    sets = [make(seed) for seed in range(2)]
                    with torch.no_grad():
                        row[f"{name} forward ms"] = milliseconds([lambda v=v, c=call: c(*v) for v in sets])
                    row[f"{name} both ms"] = milliseconds([lambda v=v, c=call: backward(c, v) for v in sets])
                except Exception as error:  # a rival that cannot run here is said, not hidden
                    row[f"{name} both ms"] = f"failed: {type(error).__name__}: {str(error)[:80]}"
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
            rows.append(row)
    return rows


def backward(call: Callable, leaves: list) -> None:
    y = call(*leaves)
    y = y[0] if isinstance(y, tuple) else y
    torch.autograd.grad(y, leaves, torch.ones_like(y))


def sparse_speed() -> list[dict]:
    """The sparse kernels beside the dense ones over zeros, at T = 4,096; and one with a single slot in use."""
    rows, tokens = [], 18 if TINY else 4096
    for batch, slots, top_k, width in SPARSE:
        sets = [sparse_inputs(batch, tokens, slots, top_k, width, seed=seed, grad=True) for seed in range(2)]
        row = {"B": batch, "T": tokens, "M": slots, "K": top_k, "D": width}
        dense = partial(chunked.over_zeros, triton_dense.factorization_memory, eps=1e-6, initial_state=None)
        for name, form in (("sparse", partial(fast.sparse_factorization_memory, backend="triton")), ("dense", dense)):
            memories = [on_slots(chosen, slots, form, check_values=False) for _, chosen in sets]
            calls = [partial(backward, memory, leaves) for memory, (leaves, _) in zip(memories, sets, strict=True)]
            row[f"{name} both ms"] = milliseconds(calls)
        print("  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
        rows.append(row)
    return rows


def decode(copy: float) -> list[dict]:
    """Bytes per second of one step for all sequences, dense and sparse, beside a copy's."""
    rows = []
    for batch, slots, width in SHAPES:
        for top_k in (None, min(4, slots)):
            (theta, phi, x), chosen = sparse_inputs(batch * (1 if TINY else 32), 1, slots, top_k or slots, width)
            theta, phi, x, chosen = (v[:, 0] for v in (theta, phi, x, chosen))
            states = [torch.zeros(len(x), slots, width, device=DEVICE) for _ in range(2)]
            step = partial(fast.step_, theta, phi, x)
            if top_k is not None:
                step = partial(fast.sparse_step_, theta, phi, chosen, x, check_values=False)
            steps = [partial(step, state) for state in states]
            took, moved = milliseconds(steps), 2 * 4 * len(x) * (top_k or slots) * width
            row = {"B": len(x), "M": slots, "K": top_k or slots, "D": width, "ms": took}
            rows.append(row | {"share of copy bandwidth": moved / took * 1e3 / copy})
            print("decode  " + "  ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="every line on a CPU, interpreted; nothing is written")
    parser.parse_args()
    if not TINY and not torch.cuda.is_available():
        print("no GPU was found: nothing measured, docs/results/gpu.json is left as it is")
        return 0
    about = environment()
    if not TINY:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        about["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip() or "not found"
    print(about)
    checks = correctness()
    multiply, copy = rates()
    print(f"a matrix product runs at {multiply / 1e12:.3g} TFLOP/s, a copy at {copy / 1e9:.3g} GB/s")
    result = {"about": about, "correctness": checks, "decode": decode(copy)}
    result |= {"sparse": sparse_speed(), "speed": speed(multiply, copy)}
    if not TINY:
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(part, RESULTS)
        print("written to docs/results/gpu.json")
    return 0 if all(check["passed"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
