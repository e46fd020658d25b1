"""Faults planted in experiments/kernel_builds.py."""

from tests.mutants.fault import planted

# fmt: off
FAULTS = [
    *planted(
        "experiments/kernel_builds.py", "tests/fast/test_kernels_compile.py -k narrow",
        ("kernels: products of sizes let through", "(operands & sizes and not operands & constants)", "False"),
        ("kernels: products of indices let through", "operands & indices or", "False or"),
    ),
    *planted(
        "experiments/kernel_builds.py", "tests/fast/test_kernels_compile.py -k fingerprint",
        ("kernels: comments count as code", "ast.dump(ast.parse(path.read_text(encoding=\"utf-8\")))", "path.read_text(encoding=\"utf-8\")"),
        ("kernels: the first module alone is looked at", "for path in paths)\n    return", "for path in paths[:1])\n    return"),
    ),
]
# fmt: on
