"""Faults planted in experiments/length.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/length.py", "tests/experiments/test_length.py",
        ("length: an unfinished run is measured", "if record is None or record.step < record.settings.steps:", "if record is None:"),
        ("length: a run is measured whatever its text", "if was.manifest_hash != corpus.manifest_hash:", "if False:"),
        ("length: a run is measured whatever its settings", "    if unlike:\n", "    if False:\n"),
        ("length: other weights pass for those that were measured",
         "if have.get((model.name, model.seed, window)) != weights:", "if (model.name, model.seed, window) not in have:"),
        ("length: weights are measured before they are rounded", "    return record, model, fingerprint(pretrained.round_weights(model))",
         "    return record, model, fingerprint({name: v.half() for name, v in model.state_dict().items()})"),
        ("length: a row is stored twice", "if key(row) not in keys] + more", "] + more"),
        ("length: no window reaches attention", "replace(model.config.options, window=window)", "model.config.options"),
        ("length: a run begins anew", "        if checkpoint.holds_run(model.path):\n", "        if False:\n"),
        ("length: a run in the folder takes the bundled model's place", "if name in bundled and not seed else", "if False else"),
        ("length: the range of two seeds is drawn", "if len(rows) >= BAND else", "if len(rows) > 1 else"),
        ("length: a variant counts as a seed", 'if row["model"] not in MIXERS:\n', "if False:\n"),
    ),
]
# fmt: on
