"""Faults planted in experiments/length.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/length.py", "tests/experiments/test_demo.py",
        ("length: a model on longer windows counts as equal",
         "found = {name: model for name, model in result.items() if model[\"window\"] == shortest}", "found = result"),
    ),
]
# fmt: on
