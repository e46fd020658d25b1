"""Faults planted in notebooks/mark.py and notebooks/student.py."""

from tests.mutants.fault import planted

MARK, TESTS = "notebooks/mark.py", "tests/notebooks/test_mark.py"

# fmt: off
FAULTS = [
    *planted(
        MARK, TESTS,
        ("mark: points for what is wrong", "of if what == RIGHT else 0, of", "of, of"),
        ("mark: a pass is believed at once", "if what == RIGHT and _believes", "if False and _believes"),
        ("mark: the check that was handed in", "or live.run(check.source) or RIGHT", "or live.run(checks.get(check.id, '')) or RIGHT"),
        ("mark: solutions may be named", "if PEEKS.search(", "if False and PEEKS.search("),
        ("mark: what hangs takes the next with it", "self.live is None or self.live.lost", "self.live is None"),
        ("mark: one cell of the student's own takes all with it", "self.own | self.bad", "self.own"),
        ("mark: what spoils the lesson ends the marking", "if not self.touched:", "if True:"),
        ("mark: output without end", "if self.floods:\n            self.km", "if False:\n            self.km"),
        ("mark: memory without end", "live.run(LIMITS.format", "str(LIMITS.format"),
        ("mark: cells of one's own are lost", "own.append(cell.source)", "pass"),
        ("mark: cells behind the exercise are lost", "elif name not in known:", "elif name not in known and len(found) < len(ids):"),
        ("mark: names are not escaped", "<h1>{html.escape(student)}", "<h1>{student}"),
    ),
    *planted(
        "notebooks/student.py", TESTS,
        ("student: solutions are handed out", '"solutions", "student.py"', '"student.py"'),
        ("student: the same numbers every year", "int(found[2]) + 1000 * seed", "int(found[2])"),
        ("student: a link to the solutions", 'POINTER.sub("", cell.source)', "cell.source"),
        ("student: checks are not locked", "grade=True, locked=True", "grade=True"),
    ),
]
# fmt: on
