"""Faults planted in experiments/demo.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/demo.py", "tests/experiments/test_demo.py -k verdict",
        ("demo: the worse is called ahead", "if difference.mean[k] < 0 else", "if difference.mean[k] > 0 else"),
        ("demo: a verdict without evidence", "if difference.low[k] < 0 < difference.high[k]:", "if False:"),
    ),
]
# fmt: on
