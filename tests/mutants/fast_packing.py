"""Faults planted in fast/packing.py."""

from tests.mutants.fault import ERRORS, PACKED, PAIRS, PARITY, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/packing.py", PARITY,
        ("sparse weights in the wrong slots", ".scatter(-1, slots, v)", ".scatter(-1, slots.sort(-1).values, v)"),
    ),
    *planted(
        "fast/packing.py", PAIRS,
        ("scan: rows share their slots", "(slots + num_slots * sequence)", "(slots + 0 * sequence)"),
    ),
    *planted(
        "fast/packing.py", f"{PACKED}[sparse-scan]",
        ("scan: a packed sequence begins a token late",
         "at, right=True", "at, right=False"),
    ),
    *planted(
        "fast/packing.py", ERRORS,
        ("cu_seqlens may fall", "values != sorted(values) or ", ""),
        ("cu_seqlens may end early", " or values[-1] != total", ""),
    ),
]
# fmt: on
