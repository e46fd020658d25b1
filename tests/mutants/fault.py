"""A planted fault: one change of one line, and the tests that must notice it; names for files and tests."""

from typing import NamedTuple

CHUNKED, LOOP, LOOP_CHECKS, INIT, CHECKS, TRITON, TRITON_STEP = (
    "fast/chunked.py", "reference/factorization_memory.py", "reference/checks.py", "fast/__init__.py", "fast/validation.py",
    "fast/kernels/dense.py", "fast/kernels/step.py",
)  # fmt: skip

LAWS, OPERATORS, NUMERICS, ERRORS = (
    f"tests/fast/test_{name}.py" for name in ("laws", "operators", "numerics", "errors")
)
PARITY = f"{LAWS}::test_equals_the_loop"
CHUNKS = f"{LAWS}::test_neither_chunk_length_nor_span_size_matters"
PACKED = f"{LAWS}::test_packed_sequences_are_separate_sequences"
STEPS = f"{LAWS}::test_decode_steps_are_a_prefill"
KERNELS = "tests/fast/test_kernels_dense.py"
PACKED_BLOCKS = f"{KERNELS}::test_obeys[packed_sequences_are_separate_sequences]"
BLOCKS = f"{KERNELS}::test_more_slots_and_columns_than_a_block {PACKED_BLOCKS}"
STEP_KERNELS, LAUNCHES = "tests/fast/test_kernels_step.py", "tests/fast/test_kernels_launch.py"
TRITON_SPARSE, SPARSE_KERNELS = "fast/kernels/sparse.py", "tests/fast/test_kernels_sparse.py"
MAMBA2 = "fast/mamba2.py"
SCAN, PAIRS = "fast/scan.py", f"{PARITY}[sparse-scan]"
PIECES = f"{LAWS}::test_neither_chunks_nor_lines_nor_blocks_matter[sparse-scan]"
WALKS = "tests/fast/test_walk.py"
WALK_PAIRS = f"{PARITY}[sparse-walk] {WALKS}::test_neither_blocks_nor_legs_nor_threads_matter"
FRAME = "tests/experiments/test_frame.py"
LAYER_TESTS, PRETRAINED = "tests/layers/test_mixers.py", "tests/lm/test_pretrained.py"
MODEL_TESTS = "tests/lm/test_model.py"


class Fault(NamedTuple):
    name: str
    file: str
    old: str  # occurs exactly once in file
    new: str
    tests: str  # what should fail, as pytest arguments


def planted(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Fault]:
    return [Fault(name, file, old, new, tests) for name, old, new in changes]
