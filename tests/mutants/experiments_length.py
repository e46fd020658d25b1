"""Faults planted in experiments/length.py."""

from tests.mutants.fault import planted

LENGTH, TESTS = "experiments/length.py", "tests/experiments/test_length.py"

# fmt: off
FAULTS = [
    *planted(
        LENGTH, f"{TESTS}::test_an_unfinished_run_is_passed_over_or_gone_on_with",
        ("length: an unfinished run is measured", "if record is None or record.step < record.settings.steps:", "if record is None:"),
        ("length: a run begins anew", "        if checkpoint.holds_run(model.path):\n", "        if False:\n"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_a_run_of_another_text_or_with_other_settings_is_refused",
        ("length: a run is measured whatever its text", "if was.manifest_hash != corpus.manifest_hash:", "if False:"),
        ("length: a run is measured whatever its settings", "    if unlike:\n", "    if False:\n"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_a_row_is_measured_again_where_it_is_missing_or_the_weights_are_others",
        ("length: other weights pass for those that were measured",
         "if have.get((model.name, model.seed, window)) != weights:", "if (model.name, model.seed, window) not in have:"),
        ("length: a row is stored twice", "if key(row) not in keys] + more", "] + more"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_a_row_is_of_the_rounded_model_and_its_gain_is_paired",
        ("length: a model is measured before it is rounded", "    return record, model, fingerprint(pretrained.round_weights(model))",
         "    return record, model, fingerprint({name: v.half() for name, v in model.state_dict().items()})"),
        ("length: no window reaches attention", "replace(model.config.options, window=window)", "model.config.options"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_seed_0_is_the_bundled_model_and_variants_come_last",
        ("length: a run in the folder takes the bundled model's place", "if name in bundled and not seed else", "if False else"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_the_figure_has_the_range_of_three_seeds_and_no_variant",
        ("length: the range of two seeds is drawn", "if len(rows) >= BAND else", "if len(rows) > 1 else"),
    ),
    *planted(
        LENGTH, f"{TESTS}::test_variants_and_windows_are_rows_of_their_own",
        ("length: a variant counts as a seed", 'if row["model"] not in STUDIED:\n        words', "if False:\n        words"),
    ),
]
# fmt: on
