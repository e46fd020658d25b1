"""Faults planted in fast/validation.py."""

from tests.mutants.fault import ERRORS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/validation.py", ERRORS,
        ("last slot refused", "(slots >= num_slots)", "(slots >= num_slots - 1)"),
        ("slot out of range accepted", "(slots >= num_slots)", "(slots > num_slots)"),
        ("slots compared in their own dtype", "    slots = slots.long()  # num_slots", "    # num_slots"),
        ("only neighbours are duplicates", "slots.sort(-1).values.diff(dim=-1)", "slots.diff(dim=-1)"),
        ("more slots per token than slots", "if slots_per_token > num_slots:", "if False:"),
        ("cu_seqlens takes a batch", "if value.shape[0] != 1:", "if False:"),
        ("eps may be 0", "if not value > 0:", "if value < 0:"),
        ("half-precision states accepted", "if tensor.dtype not in (torch.float32, torch.float64):", "if False:"),
        ("devices not compared", "if tensor.device != like.device:", "if False:"),
    ),
]
# fmt: on
