"""Faults planted in lm/pretrained.py."""

from tests.mutants.fault import PRETRAINED, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/pretrained.py", PRETRAINED,
        ("publish: measured before it is rounded", "    model.load_state_dict(weights)\n", ""),
        ("publish: weights kept whole", "v.half() for", "v for"),
        ("publish: the manifest goes along", "text=None, manifest=None, results", "text=None, results"),
        ("publish: what is no model is replaced", "if final.exists() and not checkpoint.holds_run(final):", "if False:"),
        ("find: a folder hides a model", "if run in names():", "if run in names() and not Path(run).exists():"),
        ("publish: any LICENSE beside the package", 'if (root / "pyproject.toml").is_file():', "if True:"),
    ),
    *planted(
        "lm/pretrained.py", "tests/experiments/test_demo.py",
        ("bundled: a model on longer windows counts as equal",
         "for name, run in runs.items() if run.settings.length == shortest}", "for name, run in runs.items()}"),
    ),
]
# fmt: on
