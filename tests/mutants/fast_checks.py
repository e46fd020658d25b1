"""Faults planted in fast/checks.py."""

from tests.mutants.fault import CHECKS, ERRORS, OPERATORS, planted

# fmt: off
FAULTS = [
    *planted(
        CHECKS, ERRORS,
        ("last slot refused", "(slots >= num_slots)", "(slots >= num_slots - 1)"),
        ("slot out of range accepted", "(slots >= num_slots)", "(slots > num_slots)"),
        ("slots compared in their own dtype", "    slots = slots.long()  # num_slots", "    # num_slots"),
        ("only neighbours are duplicates", "slots.sort(-1).values.diff(dim=-1)", "slots.diff(dim=-1)"),
        ("more slots per token than slots", "if slots_per_token > num_slots:", "if False:"),
        ("cu_seqlens may fall", "values != sorted(values) or ", ""),
        ("cu_seqlens may end early", " or values[-1] != total", ""),
        ("cu_seqlens takes a batch", "if x.shape[0] != 1:", "if False:"),
        ("eps may be 0", "if not value > 0:", "if value < 0:"),
        ("half-precision states accepted", "if value.dtype not in (torch.float32, torch.float64):", "if False:"),
        ("devices not compared", "if value.device != like.device:", "if False:"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k forward_mode",
        ("tangents let through", "        if has_tangent(value):\n", "        if False:\n"),
        ("tangents of an outer jvp let through",
         "_functorch.maybe_get_level(value) < _functorch.maybe_current_level()", "False"),
        ("tangents inside of vmap not looked for",
         "    value = _inside(value)\n    if forward_ad", "    if forward_ad"),
        ("graphs take tangents for none",
         "    if forward_ad._current_level < 0:\n",
         "    if forward_ad._current_level < 0 or torch.compiler.is_compiling():\n"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k mapped",
        ("no backward through vmap", "_inside(v).requires_grad", "v.requires_grad"),
    ),
    *planted(
        CHECKS, f"{OPERATORS} -k torch_func",
        ("torch.func let through", "        if _is_tracked(value):\n", "        if False:\n"),
    ),
]
# fmt: on
