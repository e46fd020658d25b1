"""Faults planted in fast/kernels/blocks.py."""

from tests.mutants.fault import BLOCKS, LAUNCHES, planted

# fmt: off
FAULTS = [
    *planted(
        "fast/kernels/blocks.py", BLOCKS,
        ("kernel: columns beyond the width are read",
         "    mask = m_row[:, None] & (o_col < n_col)[None, :]\n    return",
         "    mask = m_row[:, None] & (o_col <= n_col)[None, :]\n    return"),
        ("kernel: stride of a row off by one", "o_row[:, None].to(tl.int64) * n_col + o_col[None, :], mask=mask, other",
         "o_row[:, None].to(tl.int64) * (n_col + 1) + o_col[None, :], mask=mask, other"),
    ),
    *planted(
        "fast/kernels/blocks.py", LAUNCHES,
        ("launch: more chunks than a grid takes", "if grid[-1] <= GRID[len(grid) - 1] or not indexed:", "if True:"),
        ("launch: more programs than a grid takes", "if any(size > limit for size", "if any(False for size"),
        ("launch: every part begins with the first chunk", "value[begin:] if name in indexed", "value if name in indexed"),
        ("launch: the last part is as long as the others",
         "min(PART, grid[-1] - begin)), these", "PART), these"),
        ("launch: parts of what is not indexed", " or not indexed:", ":"),
        ("launch: sequences cut as chunks", "(BY_CHUNK if len(grid) == 2 else BY_SEQUENCE)", "BY_CHUNK"),
        ("launch: on the current device", "with torch.cuda.device_of(tensor):", "if True:"),
        ("backends: the variable counts, not what was decided",
         "if is_interpreted(load_block) or torch", "if triton.knobs.runtime.interpret or torch"),
        ("backends: triton's own functions are not asked",
         "if is_interpreted(load_block) != is_interpreted(tl.cdiv):\n", "if False:\n"),
        ("backends: no word on a variable set late", "    if triton.knobs.runtime.interpret:\n", "    if False:\n"),
        ("interpreter: first call needs the variable", "if is_interpreted(tl.cdiv):\n", "if False:\n"),
    ),
]
# fmt: on
