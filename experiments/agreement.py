"""Fast against the loop: errors of values and gradients in every dtype, and how many times as fast.

The loop runs in float64 from the very numbers that the fast form gets. Values may be off by the tolerance of their
dtype, relative to the norm, gradients by ten times that. As frame, imports torch and the standard library only.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import fast
import reference
from experiments import frame
from experiments.frame import Experiment, Inputs, Run
from fast.backends import DENSE_BACKENDS, SPARSE_BACKENDS

SHAPE, TINY = {"B": 1, "T": 1024, "M": 64, "K": 8, "D": 128}, {"B": 1, "T": 20, "M": 6, "K": 2, "D": 8}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
FORMS = {  # the loop, the name of the fast function, what its `backend` may be
    "dense": (reference.factorization_memory, "factorization_memory", DENSE_BACKENDS),
    "sparse": (reference.sparse_factorization_memory, "sparse_factorization_memory", SPARSE_BACKENDS),
}


def check(device: str = "cpu", shape: dict[str, int] = SHAPE) -> list[dict]:
    """Print and return, by form, backend and dtype: errors against the float64 loop, and speed with gradients."""
    sizes = ", ".join(f"{name}={size}" for name, size in shape.items())
    print(f"\nAgainst the loop in float64, forward and backward, {sizes}:")
    print(f"{'form':8}{'backend':10}{'dtype':10}{'values':>9}{'gradients':>11}{'tokens/s':>11}{'over the loop':>15}")
    rows = [row for form in FORMS for dtype in TOLERANCES for row in check_form(form, dtype, device, shape)]
    for backend, reason in fast.backends().items():
        if reason:
            print(f"{backend} does not run here: {reason}")
    failed = len(problems({"rows": rows}))
    print(f"{failed} of {len(rows)} outside tolerance" if failed else f"all {len(rows)} within tolerance", flush=True)
    return rows


def check_form(form: str, dtype: torch.dtype, device: str, shape: dict[str, int]) -> list[dict]:
    """A row for each backend that computes this form in this dtype on this device."""
    loop, name, _ = FORMS[form]
    B, T, M, K, D = shape.values()
    inputs = frame.router_inputs(
        B, T, M, D, K if form == "sparse" else None, skew=1.0, rates=None, state=True, device=device
    ).cast(dtype)
    exact = results(loop, inputs.cast(torch.float64))
    loop_seconds = _seconds(loop, inputs, repeats=1)
    rows = []
    for backend, reason in fast.backends().items():
        if reason or not _computes(backend, form, dtype, device):
            continue
        memory = partial(getattr(fast, name), backend=backend)
        values, gradients = errors(results(memory, inputs), exact)
        took = _seconds(memory, inputs, repeats=5)
        row = {
            "form": form, "backend": backend, "dtype": str(dtype).removeprefix("torch."),
            "values": values, "gradients": gradients, "tokens_per_second": B * T / took,
            "over_loop": loop_seconds / took, "passed": agrees(values, gradients, TOLERANCES[dtype]),
        }  # fmt: skip
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _computes(backend: str, form: str, dtype: torch.dtype, device: str) -> bool:
    """Whether there is anything to time: Triton's kernels know no float64, and a CPU interprets them."""
    if backend == "triton":
        return dtype != torch.float64 and device != "cpu"
    return backend in FORMS[form][2]


def results(memory: Callable, inputs: Inputs) -> list[Tensor]:
    """y, the final state, and the gradients of a sum of both with fixed weights."""
    inputs = inputs._replace(**{
        name: v.detach().clone().requires_grad_()
        for name, v in inputs._asdict().items() if isinstance(v, Tensor) and v.is_floating_point()
    })  # fmt: skip
    y, state = memory(*inputs.arguments())
    weighted = [(v.double() * torch.linspace(-1, 1, v.numel(), device=v.device).view_as(v)).sum() for v in (y, state)]
    return [y.detach(), state.detach(), *torch.autograd.grad(torch.stack(weighted).sum(), inputs.leaves())]


def errors(got: list[Tensor], want: list[Tensor]) -> tuple[float, float]:
    """The largest of y and state, and the largest of the gradients."""
    found = [relative(a, b) for a, b in zip(got, want, strict=True)]
    return _largest(found[:2]), _largest(found[2:])


def relative(got: Tensor, want: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-300))


def agrees(values: float, gradients: float, tolerance: float) -> bool:
    return values <= tolerance and gradients <= 10 * tolerance


def problems(result: dict) -> list[str]:
    return [
        f"{row['form']} {row['backend']} {row['dtype']} is too far from the loop: values {row['values']:.0e}, "
        f"gradients {row['gradients']:.0e}"
        for row in result["rows"] if not row["passed"]
    ]  # fmt: skip


def _largest(errors: list[float]) -> float:
    """NaN if any is: max would pass it over."""
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _seconds(memory: Callable, inputs: Inputs, repeats: int) -> float:
    """Of values and gradients together."""
    return frame.medians({memory: lambda: results(memory, inputs)}, repeats)[memory]


def _line(row: dict) -> str:
    speed = f"{row['tokens_per_second']:>11,.0f}{row['over_loop']:>14,.0f}×"
    found = f"{row['values']:>9.0e}{row['gradients']:>11.0e}"
    return f"{row['form']:8}{row['backend']:10}{row['dtype']:10}{found}{speed}{'' if row['passed'] else '  TOO FAR'}"


def measure(run: Run) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = TINY if run.tiny else SHAPE
    return {"about": frame.about(shape=shape), "rows": check(device, shape)}


EXPERIMENT = Experiment("agreement", measure, problems=problems, folder=Path("out"))
