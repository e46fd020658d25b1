"""Faults planted in layers/attention.py."""

from tests.mutants.fault import planted

ATTENTION, TESTS = "layers/attention.py", "tests/layers/test_mixers.py"

# fmt: off
FAULTS = [
    *planted(
        ATTENTION, f"{TESTS}::test_attention_reads_as_it_is_told",
        ("attention: the layer forgets its window", "self.positions, self.window = config.positions, config.window",
         "self.positions, self.window = config.positions, 0"),
    ),
    *planted(
        ATTENTION, f"{TESTS}::test_state_bytes_are_those_of_its_tensors",
        ("attention: only keys are counted", "return 2 * batch_size", "return batch_size"),
    ),
    *planted(
        ATTENTION, f"{TESTS}::test_a_state_of_another_shape_or_kind_is_refused",
        ("attention: a state may hold more than it has room for", "if not 0 <= length <= room:", "if False:"),
        ("attention: a state of any shape",
         "        check_state(kept.shape, (2, x.shape[0], self.num_heads, room, self.head_width), batch=1)\n", ""),
    ),
    *planted(
        ATTENTION, f"{TESTS}::test_segments_equal_whole",
        ("attention: a call forgets its cache", "        return kept, length\n", "        return kept, 0\n"),
    ),
    *planted(
        ATTENTION, "tests/layers/test_configs.py::test_errors_say_what_was_got_and_what_is_needed",
        ("attention: heads of odd width", "if self.head_width % 2:", "if False:"),
        ("attention: any window will do", "if not (is_size(self.window) or self.window == 0):", "if False:"),
    ),
]
# fmt: on
