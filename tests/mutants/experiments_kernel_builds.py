"""Faults planted in experiments/kernel_builds.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/kernel_builds.py", "tests/fast/test_kernels_compile.py -k narrow",
        ("kernels: products of sizes let through", "(operands & sizes and not operands & constants)", "False"),
        ("kernels: products of indices let through", "operands & indices or", "False or"),
    ),
]
# fmt: on
