"""Faults planted in lm/evaluate.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "lm/evaluate.py", "tests/lm/test_evaluate.py",
        ("evaluate: emptied keeps its state", "None if reset else state", "state"),
        ("evaluate: a loss counts one bucket early", "bucket_of[places]", "bucket_of[(places - 1).clamp(0)]"),
        ("evaluate: windows are drawn, not files", "draws @ count", "draws.sum(1, keepdims=True) * count.mean(0)"),
    ),
]
# fmt: on
