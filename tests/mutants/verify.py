"""Faults planted in verify/: a judge that is too mild, or cases that the kernel can spoil."""

from tests.mutants.fault import planted

CASES, COMMAND = "tests/verify/test_cases.py", "tests/verify/test_command.py"
ADAPTERS, PROVE = "tests/verify/test_adapters.py", "tests/verify/test_prove.py"

# fmt: off
FAULTS = [
    *planted(
        "verify/judge.py", f"{CASES} {ADAPTERS} {PROVE}",
        ("verify lets NaN pass where a bound is infinite",
         "            excess = excess.masked_fill(v.isnan() & want.isfinite(), torch.inf)\n", "            pass\n"),
        ("verify overlooks dtypes", "        if dtypes and v.dtype != dtype:", "        if False:"),
        ("verify holds products of half precision to float32", "max((case.value.dtype, case.theta.dtype), key=unit_roundoff)", "None"),
        ("verify overlooks slots that no token names", "    if not mask.any():\n", "    if mask.any() or not mask.any():\n"),
        ("a kernel may spoil the cases of verify", "    case = fixed.case.copy()\n    if grad:", "    case = fixed.case\n    if grad:"),
        ("verify does not look at what a kernel writes into", '            return f"{name} is changed by the call"', "            pass"),
        ("verify calls once for same bits", "runs = [_run(kernel, fixed, grad) for _ in range(3)]", "runs = [_run(kernel, fixed, grad)] * 3"),
    ),
    *planted(
        "verify/cases.py", CASES,
        ("verify takes the next size below", "for n in (size + off, size - off) if n in self", "for n in (size - off,) if n in self or n < 0"),
        ("verify names five slots where it means all", "ALL = 1 << 30", "ALL = 5"),
        ("strided cases of verify are contiguous", "        case \"gaps\":", "        case \"no gaps\":"),
    ),
    *planted(
        "verify/adapters.py", ADAPTERS,
        ("verify gives zeros to a function whose start may be None", "arguments[\"initial_state\"] is None and not self.start_may_be_none", "arguments[\"initial_state\"] is None"),
        ("verify passes in order what has names", "if not more and {*arguments} <= named:", "if False:"),
    ),
    *planted(
        "verify/files.py", COMMAND,
        ("verify forgets results that are absent", "result.wrong + absent", "result.wrong"),
    ),
    *planted(
        "verify/__main__.py", COMMAND,
        ("verify exits with 0 whatever it finds", "    return RIGHT if report.ok else WRONG\n", "    return RIGHT\n"),
    ),
    *planted(
        "verify/laws.py", COMMAND,
        ("laws of verify leave the limits", '"widths": WIDTHS.map(limits.widths.nearest),', '"widths": WIDTHS,'),
    ),
]
