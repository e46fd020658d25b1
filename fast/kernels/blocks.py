"""What all kernels share: moving blocks, launching within the limits of a grid, and whether they can run here."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

GRID = (2**31 - 1, 65_535, 65_535)  # programs that a GPU takes on the axes of one launch
PART = 1 << 15  # chunks or sequences of a launch where one has no room for all; a power of 2 keeps pointers aligned
# What kernels of a grid (blocks, chunks) index by the chunk, and those of (blocks, blocks, sequences) by the sequence.
BY_CHUNK = {
    "p_states",
    "p_adjoint",
    "p_gram",
    "p_gram_dy_v",
    "p_tile",
    "p_B_sym",
    "p_norm0",
    "p_norm_grad_first",
    "p_begin",
    "p_end",
}
BY_SEQUENCE = {"p_initial", "p_final", "p_dfinal", "p_dinitial", "p_first"}


@triton.jit
def load_block(p, o_row, m_row, o_col, n_col):
    """Rows o_row, columns o_col of a row-major [., n_col] array as float32; 0 outside."""
    mask = m_row[:, None] & (o_col < n_col)[None, :]
    return tl.load(p + o_row[:, None].to(tl.int64) * n_col + o_col[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_block(p, block, o_row, m_row, o_col, n_col):
    mask = m_row[:, None] & (o_col < n_col)[None, :]
    tl.store(p + o_row[:, None].to(tl.int64) * n_col + o_col[None, :], block.to(p.dtype.element_ty), mask=mask)


def launch(kernel, grid: tuple[int, ...], *, warps: int, **arguments) -> None:
    """By keyword, on the device of the tensors. Arguments that a kernel does not have are left out.

    An empty grid is legal here, though not in Triton.
    """
    if all(grid):
        arguments = {name: value for name, value in arguments.items() if name in kernel.arg_names}
        tensor = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
        with torch.cuda.device_of(tensor):  # Triton launches on the current device, wherever the pointers lead
            for part, these in _parts(grid, arguments):
                kernel[checked_grid(*part)](**these, num_warps=warps)


def _parts(grid: tuple[int, ...], arguments: dict) -> Iterator[tuple[tuple[int, ...], dict]]:
    """One launch, or several if there are more chunks or sequences than the last axis of a grid has room for."""
    indexed = (BY_CHUNK if len(grid) == 2 else BY_SEQUENCE) & arguments.keys()
    if grid[-1] <= GRID[len(grid) - 1] or not indexed:
        yield grid, arguments
        return
    for begin in range(0, grid[-1], PART):
        these = {name: value[begin:] if name in indexed else value for name, value in arguments.items()}
        yield (*grid[:-1], min(PART, grid[-1] - begin)), these


def checked_grid(*grid: int) -> tuple[int, ...]:
    if any(size > limit for size, limit in zip(grid, GRID, strict=False)):
        raise ValueError(
            f"backend 'triton' can launch a grid of at most {GRID}, this call needs {grid}: "
            "pass fewer sequences, tokens, slots or columns at a time"
        )
    return grid


def why_not() -> str | None:
    """None if the kernels can run here, else the reason.

    Triton decided whether they are compiled or interpreted when this file was imported, and about its own functions,
    which they call, when it was itself imported. TRITON_INTERPRET has no say after that.
    """
    if is_interpreted(load_block) != is_interpreted(tl.cdiv):
        return "TRITON_INTERPRET changed between the imports of triton and of fast: set it before Python starts"
    if is_interpreted(load_block) or torch.cuda.is_available():
        return None
    if triton.knobs.runtime.interpret:
        return "no GPU was found, and TRITON_INTERPRET was set after fast was imported: set it before Python starts"
    return "no GPU was found (TRITON_INTERPRET=1, set before Python starts, runs the kernels slowly on a CPU)"


def is_interpreted(function) -> bool:
    return not isinstance(function, triton.JITFunction)


if is_interpreted(tl.cdiv):
    import triton.experimental.gluon  # the first call would, and fail if TRITON_INTERPRET is gone by then

    from fast.kernels import interpreter

    interpreter.quicken()
