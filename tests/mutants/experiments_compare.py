"""Faults planted in experiments/compare.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/compare.py", "tests/experiments/test_compare.py",
        ("compare: upside down", "tuple(b / h for", "tuple(h / b for"),
        ("compare: both sides are the base", 'Side(root) as here', 'Side(Path(folder) / "base") as here'),
        ("compare: results may differ",
         "if len(norms[0]) != len(norms[1]) or not norms[0].allclose(norms[1], rtol=SAME):", "if False:"),
    ),
]
# fmt: on
