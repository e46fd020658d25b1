"""Faults planted in lm/model.py."""

from tests.mutants.fault import MODEL_TESTS, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/model.py", f"{MODEL_TESTS}::test_an_option_that_the_mixer_lacks_is_refused "
        f"{MODEL_TESTS}::test_a_sparse_model_keeps_a_quarter_of_its_slots_where_nothing_else_is_said",
        ("config: an option too many is ignored", "elif name not in OPTIONS[self.mixer]:", "elif False:"),
        ("config: eight slots, however few there are", "max(1, self.num_slots // 4)", "8"),
    ),
]
# fmt: on
