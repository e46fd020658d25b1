"""Faults planted in notebooks/mark.py and notebooks/student.py."""

from tests.mutants.fault import planted

MARK, TESTS = "notebooks/mark.py", "tests/notebooks/test_mark.py"

# fmt: off
FAULTS = [
    *planted(
        MARK, TESTS,
        ("mark: points for what is wrong", "of if what == RIGHT else 0, of", "of, of"),
        ("mark: a pass is believed at once", "if what == RIGHT and (trick :=", "if False and (trick :="),
        ("mark: the check that was handed in", "or live.run(check.source) or RIGHT", "or live.run(checks.get(check.id, '')) or RIGHT"),
        ("mark: solutions may be named", "if PEEKS.search(given):", "if False:"),
        ("mark: what hangs takes the next with it", "sessions.restart()  # what hangs", "pass  # what hangs"),
        ("mark: output without end", "if self.floods:\n            self.km", "if False:\n            self.km"),
        ("mark: memory without end", "live.run(LIMITS.format", "str(LIMITS.format"),
        ("mark: cells of one's own are lost", '"\\n\\n\\n".join([*own, ', '"\\n\\n\\n".join(['),
        ("mark: names are not escaped", "<h1>{html.escape(student)}", "<h1>{student}"),
    ),
    *planted(
        "notebooks/student.py", TESTS,
        ("student: solutions are handed out", '"solutions", "student.py"', '"student.py"'),
        ("student: the same numbers every year", "int(found[2]) + 1000 * seed", "int(found[2])"),
        ("student: checks are not locked", "grade=True, locked=True", "grade=True"),
    ),
]
# fmt: on
