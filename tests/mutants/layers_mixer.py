"""Faults planted in layers/mixer.py."""

from tests.mutants.fault import planted

MIXER, TESTS = "layers/mixer.py", "tests/layers/test_mixers.py"

# fmt: off
FAULTS = [
    *planted(
        MIXER, f"{TESTS}::test_a_state_of_another_shape_or_kind_is_refused {TESTS}::test_a_step_takes_one_token",
        ("layer: a tail of any length", "((memory, self.memory_shape), (tail, self.conv.tail_shape))",
         "((memory, self.memory_shape),)"),
        ("layer: a step of many tokens", "if x.ndim == 3 and x.shape[1] != 1:", "if False:"),
    ),
    *planted(
        MIXER, f"{TESTS}::test_a_state_passed_in_stays_as_it_was",
        ("layer: a call spends its state", "memory.clone(), tail)", "memory, tail)"),
    ),
    *planted(
        MIXER, f"{TESTS}::test_segments_equal_whole",
        ("layer: a call forgets the tail", "        return memory, tail\n", "        return memory, torch.zeros_like(tail)\n"),
    ),
    *planted(
        MIXER, "tests/layers/test_configs.py::test_options_are_the_defaults_of_a_model_and_what_is_given",
        ("layer: a model's defaults win", "{**self.defaults, **given}", "{**given, **self.defaults}"),
    ),
]
# fmt: on
