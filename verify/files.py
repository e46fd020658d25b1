"""Cases as files, for kernels that no Python calls: npz, or a folder of npy, in float64."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verify.adapters import CannotRun
from verify.cases import DTYPES, Case, Fixed, Limits, fixed_cases
from verify.judge import VALUES, Result, Wrong, compare, truth

INPUTS = ("theta", "phi", "value", "initial_state", "slots", "cu_seqlens")


def export(path: str, limits: Limits, grad: bool = True, state: bool = True) -> int:
    """Write all cases of a form: inputs, what is right, how far each number may be off. Returns how many."""
    fixed, arrays = fixed_cases(limits), {}
    for i, one in enumerate(fixed):
        case, right, key = one.case, truth(one), f"{i:02d}_{{}}".format
        for name in INPUTS:
            if (v := getattr(case, name)) is not None:
                arrays[key(name)] = v.double().numpy() if v.is_floating_point() else v.numpy()
        arrays[key("eps")] = np.array(case.eps)
        arrays[key("dy")], arrays[key("dfinal_state")] = one.on_y.double().numpy(), one.on_state.double().numpy()
        if case.num_slots is not None:
            arrays[key("num_slots")] = np.array(case.num_slots)
        for name in _asked(one, grad, state):
            arrays[key(_plain(name))] = right.want[name].numpy()
            arrays[key(f"{_plain(name)}_bound")] = right.bound[name].numpy()
    arrays["names"] = np.array([one.name for one in fixed])
    arrays["kinds"] = np.array([one.kind for one in fixed])
    arrays["dtypes"] = np.array([" ".join(map(_dtype, (one.case.value, one.case.theta))) for one in fixed])
    if path.endswith(".npz"):
        np.savez(path, **arrays)
    else:
        Path(path).mkdir(parents=True, exist_ok=True)
        for name, v in arrays.items():
            np.save(Path(path) / f"{name}.npy", v)
    return len(fixed)


def compare_files(cases: str, mine: str) -> list[Result]:
    """Each case of one file beside the results of the other, which has the same names."""
    given, got = _read(cases), _read(mine)
    if "names" not in given:
        raise CannotRun(f"{cases} was not written by `python -m verify export`")
    results = [_compare_one(i, given, got) for i in range(len(given["names"]))]
    if not any(result.got for result in results):
        raise CannotRun(f"{mine} has no result of any case: it needs names such as 00_y and 00_final_state")
    return results


def _compare_one(i: int, given: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> Result:
    fixed, key = _fixed(i, given), f"{i:02d}_{{}}".format
    asked = [name for name in truth(fixed).want if key(_plain(name)) in given]
    here = {name: torch.from_numpy(got[key(_plain(name))]) for name in asked if key(_plain(name)) in got}
    bad = next((name for name, v in here.items() if not v.is_floating_point()), None)
    if bad:
        raise CannotRun(f"{key(_plain(bad))} must be floating, got {here[bad].dtype}")
    result = compare(fixed, here, dtypes=False)
    absent = tuple(Wrong(name, f"{key(_plain(name))} is absent") for name in asked if name not in here)
    return Result(result.name, result.kind, fixed, result.wrong + absent, worst=result.worst, got=result.got)


def _fixed(i: int, given: dict[str, np.ndarray]) -> Fixed:
    """The case that was written."""
    dtype, gate_dtype = (DTYPES[name] for name in str(given["dtypes"][i]).split())
    parts = {name: given.get(f"{i:02d}_{name}") for name in (*INPUTS, "dy", "dfinal_state", "num_slots")}
    of = {"theta": gate_dtype, "phi": gate_dtype, "value": dtype, "dy": dtype}
    state_dtype = torch.promote_types(dtype, torch.float32)
    v: dict[str, Tensor | None] = {name: None if a is None else torch.from_numpy(a) for name, a in parts.items()}
    v = {n: x.to(of.get(n, state_dtype)) if x is not None and x.is_floating_point() else x for n, x in v.items()}
    num_slots = None if v["num_slots"] is None else int(v["num_slots"])
    eps, name = float(given[f"{i:02d}_eps"]), str(given["names"][i])
    inputs = (v["theta"], v["phi"], v["value"], v["initial_state"], eps, v["slots"], num_slots, {"name": name})
    return Fixed(name, str(given["kinds"][i]), Case(*inputs, v["cu_seqlens"]), v["dy"], v["dfinal_state"])


def _asked(fixed: Fixed, grad: bool, state: bool) -> list[str]:
    names = [*truth(fixed).want] if grad and fixed.kind != "cancels" else [*VALUES]
    return [name for name in names if state or name != "final state"]


def _read(path: str) -> dict[str, np.ndarray]:
    try:
        if Path(path).is_dir():
            return {file.stem: np.load(file) for file in sorted(Path(path).glob("*.npy"))}
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise CannotRun(f"{path} cannot be read: {error}") from None


def _plain(name: str) -> str:
    return name.replace(" ", "_")


def _dtype(v: Tensor) -> str:
    return str(v.dtype).removeprefix("torch.")
