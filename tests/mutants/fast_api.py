"""Faults planted in fast/api.py."""

from tests.mutants.fault import OPERATORS, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/api.py", f"{OPERATORS} -k forward_mode",
        ("tangents of initial_state let through", "value=value, initial_state=initial_state)", "value=value)"),
    ),
]
# fmt: on
