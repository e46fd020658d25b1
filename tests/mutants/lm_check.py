"""Faults planted in lm/check.py and lm/__main__.py."""

from tests.mutants.fault import planted

CHECK_TESTS = "tests/lm/test_check.py"

# fmt: off
FAULTS = [
    *planted(
        "lm/check.py", f"{CHECK_TESTS}::test_the_code_is_that_of_the_needed_parts",
        ("check: what is optional counts", "return int(any(line.needed and line.status", "return int(any(line.status"),
        ("check: what is needed does not count", "return int(any(line.needed and line.status != OK for line in found))", "return 0"),
    ),
    *planted(
        "lm/check.py", f"{CHECK_TESTS} -k 'backend and not missing'",
        ("check: NaN agrees", "if all(error <= TOLERANCE for", "if not any(error > TOLERANCE for"),
        ("check: one form alone is tried", "for form in FORMS if", "for form in FORMS[:1] if"),
        ("check: a backend that fails hides the others", "            yield Line(BROKEN, what, _reason(error), True, without)\n            continue", "            yield Line(BROKEN, what, _reason(error), True, without)\n            return"),
        ("check: a backend that cannot run is needed", "yield Line(MISSING, what, why_not, False, without)", "yield Line(MISSING, what, why_not, True, without)"),
    ),
    *planted(
        "lm/check.py", f"{CHECK_TESTS} -k 'package'",
        ("check: versions are compared as text", "if _numbers(version) < _numbers(part.least):", "if version < part.least:"),
        ("check: a broken package ends it", "except Exception as error:  # one for another", "except ImportError as error:  # one for another"),
        ("check: whether it can be imported is not tried", "module = importlib.import_module(part.module)", "module = None"),
    ),
    *planted(
        "lm/check.py", f"{CHECK_TESTS} -k 'line or model or kernel'",
        ("check: a failing look ends it", "    except Exception as error:\n        yield Line(BROKEN, what, _reason(error), needed)", "    except ValueError as error:\n        yield Line(BROKEN, what, _reason(error), needed)"),
        ("check: any kernel will do", "if program in plain or _same(program, sys.executable):", "if program:"),
        ("check: a model that cannot be read ends it", 'bad.append(f"{name}: {_reason(error)}")', 'raise'),
        ("check: no model is no matter", "if bad or not names:", "if bad:"),
        ("check: out may be a file", "place = folder if folder.exists() else Path()", "place = Path()"),
        ("check: something is left behind", "place = folder if folder.exists() else Path()", "folder.exists() or folder.mkdir(); place = folder"),
    ),
    *planted(
        "lm/check.py", f"{CHECK_TESTS}::test_all_that_the_tests_need_is_here",
        ("check: nothing says that kernels are interpreted", 'os.environ.setdefault("TRITON_INTERPRET", "1")', "pass"),
    ),
    *planted(
        "lm/check.py", f"{CHECK_TESTS}::test_it_imports_the_standard_library_alone_at_the_top",
        ("check: torch is imported at the top", "import argparse\n", "import argparse\nimport torch\n"),
    ),
    *planted(
        "lm/__main__.py", f"{CHECK_TESTS}::test_it_runs_where_what_the_other_commands_import_is_missing",
        ("check: runs where all else does", 'if sys.argv[1:2] == ["check"]:', "if False:"),
    ),
]
# fmt: on
