"""Faults planted in experiments/agreement.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/agreement.py", "tests/experiments/test_agreement.py",
        ("agreement: NaN agrees", "values <= tolerance and", "not values > tolerance and"),
        ("agreement: NaN is passed over",
         "float(torch.tensor(errors, dtype=torch.float64).max())", "max(0.0, *errors)"),
        ("agreement: gradients are not looked at", " and gradients <= 10 * tolerance", ""),
        ("agreement: a backend is left out", "if reason or not", 'if reason or backend == "scan" or not'),
        ("agreement: sparse kernels not checked",
         "return dtype != torch.float64 and device", 'return form == "dense" and dtype != torch.float64 and device'),
        ("agreement: a CPU interprets kernels", ' and device != "cpu"\n', "\n"),
    ),
]
# fmt: on
