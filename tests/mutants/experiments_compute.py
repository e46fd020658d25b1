"""Faults planted in experiments/compute.py."""

from tests.mutants.fault import planted

COMPUTE, TESTS = "experiments/compute.py", "tests/experiments/test_compute.py"

# fmt: off
FAULTS = [
    *planted(
        COMPUTE, f"{TESTS}::test_the_memory_takes_what_its_loop_takes",
        ("compute: a sparse token takes all slots", "(options.top_k or options.num_slots)", "options.num_slots"),
        ("compute: the norm of a slot is free", "return 7 * (", "return 5 * ("),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_mamba2_takes_what_its_loop_takes",
        ("compute: B and C are not convolved", "convolved = inner + 2 * options.num_groups * options.state_width", "convolved = inner"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_attention_takes_what_its_loop_takes",
        ("compute: a token sees all of its window of training", "min(t, options.window or length)", "length"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_a_parameter_of_a_matrix_takes_six_a_token",
        ("compute: the output layer is free", "return sum(linear) + model.embedding.weight.numel()", "return sum(linear)"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_a_training_is_its_tokens_times_matrices_and_layers",
        ("compute: one layer mixes", "besides = config.num_layers * BESIDES", "besides = BESIDES"),
        ("compute: mixing has no backward", "+ 3 * besides)", "+ besides)"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_a_seed_is_whole_before_the_next_and_a_study_goes_on",
        ("compute: all seeds of one mixer come first", "for seed in seeds for width in widths for mixer in mixers]",
         "for mixer in mixers for width in widths for seed in seeds]"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_a_loss_is_of_windows_as_long_as_those_of_training",
        ("compute: the loss is of the text of training", 'corpus.stream("validation")', 'corpus.stream("train")'),
        ("compute: every seed is 0", "return Config.lenient(mixer, d_model=width, **self.config), Settings(seed=seed, **more)",
         "return Config.lenient(mixer, d_model=width, **self.config), Settings(**more)"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_sizes_with_few_seeds_are_shown_and_not_fitted",
        ("compute: a size of one seed is fitted", "if all(len(sizes.get(w, [])) >= ENOUGH for sizes in found)] or widths", "]"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_a_text_and_widths_may_be_named",
        ("compute: the text that is named is not read", "one = partial(one_run, sizes=sizes, source=source,", "one = partial(one_run, sizes=sizes,"),
        ("compute: widths that are named are not trained", "run.options.widths or sizes.widths", "sizes.widths"),
    ),
    *planted(
        COMPUTE, f"{TESTS}::test_the_slope_is_that_of_the_law_and_its_interval_is_over_seeds",
        ("compute: a slope through the origin", "    x = x - x.mean()\n", ""),
        ("compute: a seed without all sizes counts", " if len(rows) == len(sizes)]", "]"),
        ("compute: two seeds make an interval", "ENOUGH = 3", "ENOUGH = 1"),
        ("compute: an interval of one seed's slope", ".choice(slopes, (DRAWS, len(slopes)))", ".choice(slopes, (DRAWS, 1))"),
    ),
]
# fmt: on
