"""Faults planted in experiments/interruptible.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/interruptible.py", "tests/experiments/test_speed_gpu.py",
        ("gpu run: written in place", "frame.write(path, frame.text_of(record))",
         'path.write_text(frame.text_of(record), encoding="utf-8")'),
        ("gpu run: written at the end", "        save(None)\n        say", "        say"),
        ("gpu run: a row that would not fit is begun", "if timed and needs > left:", "if False:"),
        ("gpu run: a row ends the run", "except Exception as error:  # a", "except ZeroDivisionError as error:  # a"),
        ("gpu run: goes on without a GPU", "        if not fine:\n", "        if False:\n"),
        ("gpu run: a row that killed its process is tried for ever",
         '    if row := record["running"]:\n', "    if row := None:\n"),
        ("gpu run: other machines resumed", "        if changed:\n", "        if False:\n"),
        ("gpu run: failed rows not resumed", 'if "failed" not in row and', "if"),
        ("gpu run: estimates without work", "max(1.0, row.work / other.work)", "1.0"),
    ),
    *planted(
        "experiments/speed_gpu.py", "tests/experiments/test_speed_gpu.py::test_processes_that_compile_share_the_configurations_and_time_none",
        ("gpu run: all who compile try all configurations", "return found[index::count] or found[:1]", "return found"),
        ("gpu run: a process without a share stops", "return found[index::count] or found[:1]", "return found[index::count]"),
    ),
    *planted(
        "experiments/speed_gpu.py", "tests/experiments/test_speed_gpu.py::test_a_time_stands_beside_that_of_our_kernels_at_equal_sizes",
        ("gpu run: times beside those of another length", 'for name in "BTMKD")\n        over', 'for name in "BMKD")\n        over'),
    ),
]
# fmt: on
