"""Faults planted in experiments/mqar.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/mqar.py", "tests/experiments/test_mqar.py",
        ("mqar: a key may be the filler", "keys = 1 + torch.rand(", "keys = torch.rand("),
        ("mqar: two keys at one place", ".multinomial(pairs, generator=generator)", ".multinomial(pairs, True, generator=generator)"),
        ("mqar: all places alike", ".pow(POWER - 1)", ".pow(0)"),
        ("mqar: far places are likelier", ".pow(POWER - 1)", ".pow(1 - POWER)"),
        ("mqar: answers are due one token later", "right.scatter(1, at, values)", "right.scatter(1, at + 1, values)"),
        ("mqar: fillers count as answers", "x, _ = model(tokens)\n    asked = right >= 0", "x, _ = model(tokens)\n    asked = right >= -100"),
        ("mqar: one length is trained", "sizes.trained[(step - 1) % len(sizes.trained)]", "sizes.trained[0]"),
        ("mqar: more pairs than there is room for", "min(length // 4, HALF - 1)", "min(length // 2, HALF - 1)"),
    ),
]
# fmt: on
