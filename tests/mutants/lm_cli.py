"""Faults planted in lm/cli.py and lm/flags.py."""

from tests.mutants.fault import PRETRAINED, planted

CLI_TESTS = "tests/lm/test_cli.py"

# fmt: off
FAULTS = [
    *planted(
        "lm/cli.py", PRETRAINED,
        ("publish: a model keeps to its own Python", " and path.parent != pretrained.FOLDER", ""),
    ),
    *planted(
        "lm/cli.py", f"{CLI_TESTS}::test_user_errors_are_one_line",
        ("options: another mixer's is passed on", "if (having := mixers_with(flag.field)) and mixer not in having:", "if False:"),
    ),
    *planted(
        "lm/flags.py", f"{CLI_TESTS} -k 'help or slots_alone or saved or errors'",
        ("options: a switch that is on is turned on", "if default else (name, f\"with", "if not default else (name, f\"with"),
        ("options: whose they are is not said", "{', '.join(names)}: {what}", "{what}"),
        ("options: fields in messages", "if flag.name != flag.field", "if False"),
    ),
]
# fmt: on
