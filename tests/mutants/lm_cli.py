"""Faults planted in lm/cli.py."""

from tests.mutants.fault import PUBLISHED, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/cli.py", PUBLISHED,
        ("publish: a model keeps to its own Python", " and path.parent != checkpoint.PUBLISHED", ""),
        ("publish: any LICENSE beside the package", 'if (root / "pyproject.toml").is_file():', "if True:"),
    ),
]
# fmt: on
