"""Faults planted in reference/checks.py."""

from tests.mutants.fault import ERRORS, planted

# fmt: off
FAULTS = [
    *planted(
        "reference/checks.py", ERRORS,
        ("loop takes any theta", "if not ((theta >= 0) & (theta <= 1) | theta.isnan()).all():", "if False:"),
        ("loop takes a slot too many", "(tensor >= M)", "(tensor > M)"),
        ("loop takes a slot twice", "if twice.any():", "if False:"),
        ("loop takes a letter of two sizes", "k not in (letter, g)", "False"),
        ("loop takes half-precision states", "tensor.dtype not in (torch.float32, torch.float64)", "False"),
        ("loop compares no devices", "if tensor.device != like.device:", "if False:"),
        ("loop takes more slots per token than slots", "if K > M:", "if False:"),
        ("loop takes an eps below 0", "if not eps >= 0:", "if False:"),
    ),
]
# fmt: on
