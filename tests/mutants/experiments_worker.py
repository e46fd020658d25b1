"""Faults planted in experiments/worker.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/worker.py", "tests/experiments/test_compare.py",
        ("worker: whichever fast there is", "if not Path(fast.__file__).resolve().is_relative_to(tree):", "if False:"),
        ("worker: the first name alone",
         'next(name for name in case["backends"] if name == "auto" or name in fast.backends())', 'case["backends"][0]'),
    ),
]
# fmt: on
