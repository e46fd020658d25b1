"""Sparse Factorization Memory in Triton, forward and backward: no products of matrices, no atomics, no waiting.

The (token, slot) pairs are sorted by sequence and slot, tokens in order, as in fast/scan.py; docs/kernels.md, section
7, derives it. Every slot in use is then one run of the list, and the list is cut into chunks of BP pairs. A program
walks through a chunk pair by pair, as the loop walks through time. Whole rows lie in registers, so norms wait for
nothing, and nothing is added that is not part of the sum: a NaN goes where the loop takes it, no further.

    ends        what a chunk makes of the run that goes on after it        a program per BG chunks, side by side
    carry       the state that enters each chunk                           per BG runs, over the chunks of each alone
    walk        the state after every pair, and after every run            as ends
    gather      y, or dx: the sum over the K pairs of a token              per BG tokens
    starts      what a chunk hands to the left of its first run's gradient as ends
    walk_back   dtheta, dphi, and the gradient of every state              as ends

Time and work depend on the number of pairs, not on M or the routing, but for carry, which takes a step for every chunk
of the longest run. In memory for the length of a call: the state after every pair, or in its place its gradient.

Names: p_ pointer, b_ block in registers, o_ offsets, m_ masks, i_ program ids; BG rows of a block, BD columns, D or
more. n pairs in all, L in each row of the batch, whose last chunk may be short. The pair at place p of the list has its
gates at order[p] (token * K + k), its token[p], and run[p] = sequence * M + slot. Everything inside is float32,
whatever the inputs are.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast import operators
from fast.kernels.blocks import launch, load_block, store_block
from fast.operators import checked_slots
from fast.packing import runs as runs_of

# --- blocks ----------------------------------------------------------------------------------------------------


@triton.jit
def _per_row(L, BP: tl.constexpr):
    """Chunks of a row. cdiv would add first, and L may be as large as 32 bits hold."""
    return (L - 1) // BP + 1


@triton.jit
def _chunks(n, L, BP: tl.constexpr, BG: tl.constexpr):
    """This program's chunks and where each begins and ends; one that does not exist ends where it begins."""
    o_c = tl.program_id(0).to(tl.int64) * BG + tl.arange(0, BG)
    row = o_c // _per_row(L, BP)
    begin = row * L + o_c % _per_row(L, BP) * BP
    return o_c, begin, tl.where(row * L < n, tl.minimum(begin + BP, (row + 1) * L), begin)


@triton.jit
def _chunk_of(o_p, L, BP: tl.constexpr):
    return o_p // L * _per_row(L, BP) + o_p % L // BP


@triton.jit
def _run(p_run, o_p, m_p, n):
    """The runs that pairs belong to, -1 where there is no pair."""
    return tl.load(p_run + o_p, mask=m_p & (o_p >= 0) & (o_p < n), other=-1)


@triton.jit
def _edges(p_run, o_p, m_p, n):
    """The runs of pairs, and which pairs are the first and the last of theirs. Rows of the batch share no run."""
    run = _run(p_run, o_p, m_p, n)
    return run, m_p & (run != _run(p_run, o_p - 1, m_p, n)), m_p & (run != _run(p_run, o_p + 1, m_p, n))


@triton.jit
def _count(p_run, run, begin, end, BP: tl.constexpr):
    """How many of each chunk's pairs belong to a run."""
    o_p = begin[:, None] + tl.arange(0, BP)[None, :]
    b_run = tl.load(p_run + o_p, mask=o_p < end[:, None], other=-2)  # so that none belongs to run -1
    return tl.sum((b_run == run[:, None]).to(tl.int32), 1)


@triton.jit
def _pairs(p_order, p_token, p_theta, o_p, m_p):
    """Where the gates of pairs lie, their tokens, and theta, which is 0 where there is no pair."""
    o_k, o_t = tl.load(p_order + o_p, mask=m_p, other=0), tl.load(p_token + o_p, mask=m_p, other=0)
    return o_k, o_t, tl.load(p_theta + o_k, mask=m_p, other=0.0).to(tl.float32)


@triton.jit
def _before(b_h, p_initial, run, first, o_d, D):
    """b_h, but at a run's first pair the initial state of its slot."""
    if p_initial is None:
        return tl.where(first[:, None], 0.0, b_h)
    else:
        return tl.where(first[:, None], load_block(p_initial, run, first, o_d, D), b_h)


@triton.jit
def _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps):
    """dphi, and the gradient of the states b_h: b_l from the right, and what pulls through y and through its norm."""
    b_dy = load_block(p_dy, o_t, m_p, o_d, D)
    b_inverse = 1.0 / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)
    b_dphi = tl.sum(b_h * b_dy, 1) * b_inverse
    b_psi = tl.load(p_phi + o_k, mask=m_p, other=0.0).to(tl.float32) * b_inverse
    return b_dphi, b_l + b_psi[:, None] * b_dy - (b_psi * b_dphi * b_inverse / D)[:, None] * b_h


# --- kernels ---------------------------------------------------------------------------------------------------


@triton.jit
def ends_kernel(
    p_theta, p_x, p_initial, p_order, p_token, p_run, p_ends, p_total, n, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Of those whose last run goes on after them, reads its pairs alone; writes what they make of the
    state, and their decay."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    run = _run(p_run, end, begin < end, n)
    begin = end - _count(p_run, run, begin, end, BP)
    m_c, o_d = begin < end, tl.arange(0, BD)
    b_h, b_total = tl.zeros((BG, BD), tl.float32), tl.full((BG,), 1.0, tl.float32)
    b_h = _before(b_h, p_initial, run, m_c & (run != _run(p_run, begin - 1, m_c, n)), o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = begin + i
        m_p = o_p < end
        _, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = (1.0 - b_theta)[:, None] * b_h + b_theta[:, None] * load_block(p_x, o_t, m_p, o_d, D)
        b_total *= 1.0 - b_theta
    store_block(p_ends, b_h, o_c, m_c, o_d, D)
    tl.store(p_total + o_c, b_total, mask=m_c)


@triton.jit
def carry_kernel(
    p_total, p_ends, p_entering, p_bounds, runs, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Owns BG runs. Walks over the chunks each one spans, from the right if REVERSE; writes what enters them, but for
    the first of them, where nothing does."""
    o_r, o_d = tl.program_id(0).to(tl.int64) * BG + tl.arange(0, BG), tl.arange(0, BD)
    begin = tl.load(p_bounds + o_r, mask=o_r < runs, other=0)
    end = tl.load(p_bounds + o_r + 1, mask=o_r < runs, other=0)
    o_c, last = _chunk_of(begin, L, BP), _chunk_of(end - 1, L, BP)
    steps = tl.where(begin < end, last - o_c, 0)
    if REVERSE:
        o_c = last
    b_h = load_block(p_ends, o_c, steps > 0, o_d, D)
    for i in range(1, tl.max(steps, 0) + 1):
        o_c += -1 if REVERSE else 1
        store_block(p_entering, b_h, o_c, i <= steps, o_d, D)
        b_total = tl.load(p_total + o_c, mask=i < steps, other=0.0)
        b_h = b_total[:, None] * b_h + load_block(p_ends, o_c, i < steps, o_d, D)


@triton.jit
def walk_kernel(
    p_theta, p_x, p_initial, p_entering, p_order, p_token, p_run, p_h, p_final, n, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Reads what enters them; writes the state after every pair, and the last of every run."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    o_d = tl.arange(0, BD)
    b_h = load_block(p_entering, o_c, begin < end, o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = begin + i
        m_p = o_p < end
        run, first, last = _edges(p_run, o_p, m_p, n)
        _, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = _before(b_h, p_initial, run, first, o_d, D)
        b_h = (1.0 - b_theta)[:, None] * b_h + b_theta[:, None] * load_block(p_x, o_t, m_p, o_d, D)
        store_block(p_h, b_h, o_p, m_p, o_d, D)
        if p_final is not None:
            store_block(p_final, b_h, run, last, o_d, D)


@triton.jit
def gather_kernel(
    p_gate, p_rows, p_place, p_out, tokens, K, D, eps,
    BG: tl.constexpr, BD: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Owns BG tokens. Reads the K rows of each, and writes their sum, weighted by the gate; NORMED divides by rms."""
    o_t, o_d = tl.program_id(0).to(tl.int64) * BG + tl.arange(0, BG), tl.arange(0, BD)
    m_t, b_out = o_t < tokens, tl.zeros((BG, BD), tl.float32)
    for k in range(0, K):
        o_p = tl.load(p_place + o_t * K + k, mask=m_t, other=0)
        b_gate = tl.load(p_gate + o_t * K + k, mask=m_t, other=0.0).to(tl.float32)
        b_row = load_block(p_rows, o_p, m_t, o_d, D)
        if NORMED:
            b_gate = b_gate / tl.sqrt(tl.sum(b_row * b_row, 1) / D + eps)
        b_out += b_gate[:, None] * b_row
    store_block(p_out, b_out, o_t, m_t, o_d, D)


@triton.jit
def starts_kernel(
    p_theta, p_phi, p_dy, p_dfinal, p_order, p_token, p_run, p_h, p_starts, n, L, D, eps,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Of those whose first run comes from before them, reads dy and states of its pairs alone; writes
    the gradient that they hand to the left."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    run = _run(p_run, begin - 1, begin < end, n)
    end = begin + _count(p_run, run, begin, end, BP)
    m_c, o_d = begin < end, tl.arange(0, BD)
    b_l = load_block(p_dfinal, run, m_c & (run != _run(p_run, end, m_c, n)), o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = end - 1 - i
        m_p = o_p >= begin
        o_k, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = load_block(p_h, o_p, m_p, o_d, D)
        _, b_l = _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps)
        b_l *= (1.0 - b_theta)[:, None]
    store_block(p_starts, b_l, o_c, m_c, o_d, D)


@triton.jit
def walk_back_kernel(
    p_theta, p_phi, p_x, p_dy, p_initial, p_dfinal, p_entering, p_right, p_order, p_token, p_run, p_h, p_dtheta, p_dphi,
    p_dinitial, n, L, D, eps, BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks, right to left. Reads the states, what entered the chunks and the gradient from their right;
    writes dtheta, dphi, the initial state's gradient at a run's first pair and, in the states' place, theirs."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    o_d = tl.arange(0, BD)
    b_l = load_block(p_right, o_c, begin < end, o_d, D)
    b_h = load_block(p_h, end - 1, begin < end, o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = end - 1 - i
        m_p = o_p >= begin
        run, first, last = _edges(p_run, o_p, m_p, n)
        o_k, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_l = tl.where(last[:, None], load_block(p_dfinal, run, last, o_d, D), b_l)
        b_dphi, b_l = _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps)
        b_h = load_block(p_h, o_p - 1, o_p > begin, o_d, D) + load_block(p_entering, o_c, o_p == begin, o_d, D)
        b_step = load_block(p_x, o_t, m_p, o_d, D) - _before(b_h, p_initial, run, first, o_d, D)
        tl.store(p_dtheta + o_k, tl.sum(b_l * b_step, 1).to(p_dtheta.dtype.element_ty), mask=m_p)
        tl.store(p_dphi + o_k, b_dphi.to(p_dphi.dtype.element_ty), mask=m_p)
        store_block(p_h, b_l, o_p, m_p, o_d, D)
        b_l *= (1.0 - b_theta)[:, None]
        store_block(p_dinitial, b_l, run, first, o_d, D)


# --- host ------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Pairs of a chunk, numbers of a block (powers of two; a wider row is a block of its own), warps."""

    pairs: int
    numbers: int
    warps: int

    def constants(self, width: int) -> dict[str, int]:
        """BP, BG, BD and the warps of every kernel for D columns.

        A block must not be smaller than its program has threads, since walk_back writes in place: no two may own the
        same number.
        """
        bd = max(triton.next_power_of_2(width), 16)  # a row costs its indices, however narrow it is
        warps = min(self.warps * max(1, bd // self.numbers), 16)
        return {"BP": self.pairs, "BG": max(1, self.numbers // bd), "BD": bd, "warps": warps}


DEFAULT = Blocks(32, 1024, 4)  # one chunk in a program from D = 1,024 on
CONFIGURATIONS = (DEFAULT, Blocks(16, 1024, 4), Blocks(64, 2048, 4), Blocks(32, 512, 1))


def sparse_factorization_memory(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    x: Tensor,
    num_slots: int,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    cu_seqlens: Tensor | None = None,
    check_values: bool = True,
    blocks: Blocks = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """What `fast.sparse_factorization_memory` does with backend="triton", without its checks.

    If nobody looks at the values, a slot outside the state is left alone and turns its token's y into NaN.
    """
    slots = checked_slots(slots, num_slots, check_values)
    if not check_values:
        inside = (slots >= 0) & (slots < num_slots)
        theta, phi, slots = theta.where(inside, 0), phi.where(inside, torch.nan), slots.clamp(0, num_slots - 1)
    inputs = (theta, phi, x, initial_state)
    save = operators.needs_grad(*inputs)
    y, final_state, *_ = _forward_op(theta, phi, slots, x, num_slots, initial_state, cu_seqlens, eps, save, *blocks)
    return y, final_state


def _place(order: Tensor) -> Tensor:
    """Where in the list each pair stands."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _bounds(run: Tensor, runs: int) -> Tensor:
    """Where each of all possible runs begins, and the last one ends: [runs + 1]."""
    return torch.searchsorted(run, torch.arange(runs + 1, device=run.device))


class _Plan(NamedTuple):
    """What the launches of a call share: how many of what, the sizes that kernels take, constants, grids."""

    runs: int
    tokens: int
    chunks: int
    sizes: tuple[int, int, int]  # n, L, D
    constants: dict[str, int]
    by_run: tuple[int]
    by_token: tuple[int]
    by_chunk: tuple[int]


def _plan(theta: Tensor, x: Tensor, final: Tensor, blocks: Blocks) -> _Plan:
    (rows, tokens, per_token), width = theta.shape, x.shape[-1]
    row, c = tokens * per_token, blocks.constants(width)
    counts = final.shape[0] * final.shape[1], rows * tokens, rows * triton.cdiv(row, blocks.pairs)
    grids = ((triton.cdiv(count, c["BG"]) if row else 0,) for count in counts)  # without a token, slots are still there
    return _Plan(*counts, (rows * row, row, width), c, *grids)


def _outputs(theta, phi, slots, x, num_slots, initial_state, cu_seqlens, eps, save, pairs, numbers, warps):
    """Unwritten outputs of _forward_op."""
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = x.new_empty(sequences, num_slots, x.shape[-1], dtype=torch.float32)
    plan = _plan(theta, x, final, Blocks(pairs, numbers, warps))
    chunks, n = (plan.chunks, plan.sizes[0]) if save else (0, 0)
    entering, total = (x.new_empty(shape, dtype=torch.float32) for shape in ((chunks, x.shape[-1]), (chunks,)))
    return x.new_empty(x.shape), final, entering, total, *(slots.new_empty(n, dtype=torch.int64) for _ in range(2))


def _gradients(dy, dfinal, theta, phi, x, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, x, dfinal))


@torch.library.custom_op("factorization_memory::triton_sparse", mutates_args=())
def _forward_op(
    theta: Tensor, phi: Tensor, slots: Tensor, x: Tensor, num_slots: int, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, eps: float, save: bool, pairs: int, numbers: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save: the states that enter chunks, the chunks' decays, run and order."""
    blocks = pairs, numbers, warps
    y, final, *saved = _outputs(theta, phi, slots, x, num_slots, initial_state, cu_seqlens, eps, save, *blocks)
    theta, phi, x = (v.contiguous() for v in (theta, phi, x))
    initial = None if initial_state is None else initial_state.float().contiguous()
    if initial is None:
        final.zero_()
    else:
        final.copy_(initial)  # what slots that no token names keep
    run, order = runs_of(slots, num_slots, cu_seqlens).sort(stable=True)
    plan, token = _plan(theta, x, final, Blocks(*blocks)), order // theta.shape[-1]
    (n, row, width), c, bounds = plan.sizes, plan.constants, _bounds(run, plan.runs)
    ends, h = (x.new_empty(count, width, dtype=torch.float32) for count in (plan.chunks, n))
    entering, total = torch.zeros_like(ends), x.new_zeros(plan.chunks, dtype=torch.float32)  # where not written
    pairs = order, token, run
    launch(ends_kernel, plan.by_chunk, theta, x, initial, *pairs, ends, total, *plan.sizes, **c)
    launch(carry_kernel, plan.by_run, total, ends, entering, bounds, plan.runs, row, width, REVERSE=False, **c)
    launch(walk_kernel, plan.by_chunk, theta, x, initial, entering, *pairs, h, final, *plan.sizes, **c)
    launch(gather_kernel, plan.by_token, phi, h, _place(order), y, plan.tokens, theta.shape[-1], width, eps,
            NORMED=True, **c)  # fmt: skip
    return y, final, *((entering, total, run, order) if save else saved)


@torch.library.custom_op("factorization_memory::triton_sparse_backward", mutates_args=())
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, x: Tensor, initial_state: Tensor | None,
    entering: Tensor, total: Tensor, run: Tensor, order: Tensor, eps: float, pairs: int, numbers: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, x and of the initial state."""
    dtheta, dphi, dx, dinitial = _gradients(dy, dfinal, theta, phi, x)
    dy, dfinal, theta, phi, x = (v.contiguous() for v in (dy, dfinal, theta, phi, x))
    initial = None if initial_state is None else initial_state.float().contiguous()
    dinitial.copy_(dfinal)  # what slots that no token names get
    plan, token = _plan(theta, x, dfinal, Blocks(pairs, numbers, warps)), order // theta.shape[-1]
    (n, row, width), c, bounds = plan.sizes, plan.constants, _bounds(run, plan.runs)
    h, starts, right = (x.new_empty(count, width, dtype=torch.float32) for count in (n, plan.chunks, plan.chunks))
    pairs = order, token, run
    launch(walk_kernel, plan.by_chunk, theta, x, initial, entering, *pairs, h, None, *plan.sizes, **c)
    launch(starts_kernel, plan.by_chunk, theta, phi, dy, dfinal, *pairs, h, starts, *plan.sizes, eps, **c)
    launch(carry_kernel, plan.by_run, total, starts, right, bounds, plan.runs, row, width, REVERSE=True, **c)
    launch(walk_back_kernel, plan.by_chunk, theta, phi, x, dy, initial, dfinal, entering, right, *pairs, h,
            dtheta, dphi, dinitial, *plan.sizes, eps, **c)  # fmt: skip
    launch(gather_kernel, plan.by_token, theta, h, _place(order), dx, plan.tokens, theta.shape[-1], width, eps,
            NORMED=False, **c)  # fmt: skip
    return dtheta, dphi, dx, dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, _, x, _, initial_state, _, eps, _, *blocks = inputs
    ctx.save_for_backward(theta, phi, x, initial_state, *output[2:])
    ctx.rest = (eps, *blocks), (output[1].shape, output[1].dtype)


def _backward(ctx, dy, dfinal):
    theta, phi, x, initial_state, *saved = ctx.saved_tensors
    rest, final = ctx.rest
    dy, dfinal = operators.asked_for(dy, dfinal, x, final)
    dtheta, dphi, dx, dinitial = _backward_op(dy, dfinal, theta, phi, x, initial_state, *saved, *rest)
    dinitial = None if initial_state is None else dinitial.to(initial_state.dtype)
    return dtheta, dphi, None, dx, None, dinitial, *(None,) * 6


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
