"""Sparse Factorization Memory in Triton, forward and backward: no products of matrices, no atomics, no waiting.

The (token, slot) pairs are sorted by sequence and slot, tokens in order, as in fast/scan.py (docs/derivation.md,
section 6). Every slot in use is then one segment of the list, and the list is cut into chunks of BP pairs. A program
walks through a chunk pair by pair, as the loop walks through time. Whole rows lie in registers, so norms wait for
nothing, and nothing is added that is not part of the sum: a NaN goes where the loop takes it, no further.

    ends_fwd    what a chunk makes of the segment that goes on after it    a program per BG chunks, side by side
    carry       the state that enters each chunk, or its gradient          per BG segments, over the chunks of each
    walk_fwd    the state after every pair, and after every segment        as ends_fwd
    gather      y, or dvalue: the sum over the K pairs of a token          per BG tokens
    starts_bwd  the gradient that a chunk hands to the left                as ends_fwd
    walk_bwd    dtheta, dphi, and the gradient of every state              as ends_fwd

Time and work depend on the number of pairs, not on M or the routing, but for carry, which takes a step for every chunk
of the longest segment. In memory for the length of a call: the state after every pair, or in its place its gradient.

Names: p_ pointer, b_ block in registers, o_ offsets, m_ masks, i_ program ids; BG rows of a block, BD columns, D or
more. n pairs in all, L in each row of the batch, whose last chunk may be short. The pair at place p of the list has its
gates at order[p] (token * K + k), its token[p], and segment[p] = sequence * M + slot. Everything inside is float32,
whatever the inputs are.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast import operators, packing
from fast.kernels.blocks import launch, load_block, store_block
from fast.operators import checked_slots

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
def _segment(p_segment, o_p, m_p, n):
    """The segments that pairs belong to, -1 where there is no pair."""
    return tl.load(p_segment + o_p, mask=m_p & (o_p >= 0) & (o_p < n), other=-1)


@triton.jit
def _edges(p_segment, o_p, m_p, n):
    """The segments of pairs, and which pairs are the first and the last of theirs. Rows share none."""
    segment = _segment(p_segment, o_p, m_p, n)
    left, right = _segment(p_segment, o_p - 1, m_p, n), _segment(p_segment, o_p + 1, m_p, n)
    return segment, m_p & (segment != left), m_p & (segment != right)


@triton.jit
def _count(p_segment, segment, begin, end, BP: tl.constexpr):
    """How many of each chunk's pairs belong to a segment."""
    o_p = begin[:, None] + tl.arange(0, BP)[None, :]
    b_segment = tl.load(p_segment + o_p, mask=o_p < end[:, None], other=-2)  # so that none belongs to segment -1
    return tl.sum((b_segment == segment[:, None]).to(tl.int32), 1)


@triton.jit
def _pairs(p_order, p_token, p_theta, o_p, m_p):
    """Where the gates of pairs lie, their tokens, and theta, which is 0 where there is no pair."""
    o_k, o_t = tl.load(p_order + o_p, mask=m_p, other=0), tl.load(p_token + o_p, mask=m_p, other=0)
    return o_k, o_t, tl.load(p_theta + o_k, mask=m_p, other=0.0).to(tl.float32)


@triton.jit
def _before(b_h, p_initial, segment, first, o_d, D):
    """b_h, but at a segment's first pair the initial state of its slot."""
    if p_initial is None:
        return tl.where(first[:, None], 0.0, b_h)
    else:
        return tl.where(first[:, None], load_block(p_initial, segment, first, o_d, D), b_h)


@triton.jit
def _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps):
    """dphi, and the gradient of the states b_h: b_l from the right, and what comes through y and through its norm."""
    b_dy = load_block(p_dy, o_t, m_p, o_d, D)
    b_inverse = 1.0 / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)
    b_dphi = tl.sum(b_h * b_dy, 1) * b_inverse
    b_psi = tl.load(p_phi + o_k, mask=m_p, other=0.0).to(tl.float32) * b_inverse
    return b_dphi, b_l + b_psi[:, None] * b_dy - (b_psi * b_dphi * b_inverse / D)[:, None] * b_h


# --- kernels ---------------------------------------------------------------------------------------------------


@triton.jit
def ends_fwd_kernel(
    p_theta, p_v, p_initial, p_order, p_token, p_segment, p_ends, p_total, n, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Of those whose last segment goes on after them, reads its pairs alone; writes what they make of
    the state, and their decay."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    segment = _segment(p_segment, end, begin < end, n)
    begin = end - _count(p_segment, segment, begin, end, BP)
    m_c, o_d = begin < end, tl.arange(0, BD)
    b_h, b_total = tl.zeros((BG, BD), tl.float32), tl.full((BG,), 1.0, tl.float32)
    b_h = _before(b_h, p_initial, segment, m_c & (segment != _segment(p_segment, begin - 1, m_c, n)), o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = begin + i
        m_p = o_p < end
        _, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = (1.0 - b_theta)[:, None] * b_h + b_theta[:, None] * load_block(p_v, o_t, m_p, o_d, D)
        b_total *= 1.0 - b_theta
    store_block(p_ends, b_h, o_c, m_c, o_d, D)
    tl.store(p_total + o_c, b_total, mask=m_c)


@triton.jit
def carry_kernel(
    p_total, p_ends, p_entering, p_bounds, segments, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Owns BG segments. Walks over the chunks of each, from the right if REVERSE; writes what enters them. Nothing
    enters the first of them."""
    o_r, o_d = tl.program_id(0).to(tl.int64) * BG + tl.arange(0, BG), tl.arange(0, BD)
    begin = tl.load(p_bounds + o_r, mask=o_r < segments, other=0)
    end = tl.load(p_bounds + o_r + 1, mask=o_r < segments, other=0)
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
def walk_fwd_kernel(
    p_theta, p_v, p_initial, p_entering, p_order, p_token, p_segment, p_h, p_final, n, L, D,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Reads what enters them; writes the state after every pair, and the last of every segment."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    o_d = tl.arange(0, BD)
    b_h = load_block(p_entering, o_c, begin < end, o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = begin + i
        m_p = o_p < end
        segment, first, last = _edges(p_segment, o_p, m_p, n)
        _, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = _before(b_h, p_initial, segment, first, o_d, D)
        b_h = (1.0 - b_theta)[:, None] * b_h + b_theta[:, None] * load_block(p_v, o_t, m_p, o_d, D)
        store_block(p_h, b_h, o_p, m_p, o_d, D)
        if p_final is not None:
            store_block(p_final, b_h, segment, last, o_d, D)


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
def starts_bwd_kernel(
    p_theta, p_phi, p_dy, p_dfinal, p_order, p_token, p_segment, p_h, p_starts, n, L, D, eps,
    BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks. Of those whose first segment comes from before them, reads dy and states of its pairs alone;
    writes the gradient that they hand to the left."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    segment = _segment(p_segment, begin - 1, begin < end, n)
    end = begin + _count(p_segment, segment, begin, end, BP)
    m_c, o_d = begin < end, tl.arange(0, BD)
    b_l = load_block(p_dfinal, segment, m_c & (segment != _segment(p_segment, end, m_c, n)), o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = end - 1 - i
        m_p = o_p >= begin
        o_k, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_h = load_block(p_h, o_p, m_p, o_d, D)
        _, b_l = _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps)
        b_l *= (1.0 - b_theta)[:, None]
    store_block(p_starts, b_l, o_c, m_c, o_d, D)


@triton.jit
def walk_bwd_kernel(
    p_theta, p_phi, p_v, p_dy, p_initial, p_dfinal, p_entering, p_right, p_order, p_token, p_segment, p_h, p_dtheta,
    p_dphi, p_dinitial, n, L, D, eps, BP: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Owns BG chunks, right to left. Reads the states, what entered the chunks and the gradient from their right;
    writes dtheta, dphi, the initial state's gradient at a segment's first pair and, in the states' place, theirs."""
    o_c, begin, end = _chunks(n, L, BP, BG)
    o_d = tl.arange(0, BD)
    b_l = load_block(p_right, o_c, begin < end, o_d, D)
    b_h = load_block(p_h, end - 1, begin < end, o_d, D)
    for i in range(0, tl.max(end - begin, 0)):
        o_p = end - 1 - i
        m_p = o_p >= begin
        segment, first, last = _edges(p_segment, o_p, m_p, n)
        o_k, o_t, b_theta = _pairs(p_order, p_token, p_theta, o_p, m_p)
        b_l = tl.where(last[:, None], load_block(p_dfinal, segment, last, o_d, D), b_l)
        b_dphi, b_l = _adjoint(b_l, b_h, p_phi, p_dy, o_k, o_t, m_p, o_d, D, eps)
        b_h = load_block(p_h, o_p - 1, o_p > begin, o_d, D) + load_block(p_entering, o_c, o_p == begin, o_d, D)
        b_step = load_block(p_v, o_t, m_p, o_d, D) - _before(b_h, p_initial, segment, first, o_d, D)
        tl.store(p_dtheta + o_k, tl.sum(b_l * b_step, 1).to(p_dtheta.dtype.element_ty), mask=m_p)
        tl.store(p_dphi + o_k, b_dphi.to(p_dphi.dtype.element_ty), mask=m_p)
        store_block(p_h, b_l, o_p, m_p, o_d, D)
        b_l *= (1.0 - b_theta)[:, None]
        store_block(p_dinitial, b_l, segment, first, o_d, D)


# --- host ------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Pairs of a chunk, numbers of a block (powers of two; a wider row is a block of its own), warps."""

    pairs: int
    numbers: int
    warps: int

    def constants(self, width: int) -> dict[str, int]:
        """BP, BG, BD and the warps of every kernel for D columns.

        A block must not be smaller than its program has threads, since walk_bwd writes in place: no two may own the
        same number.
        """
        bd = max(triton.next_power_of_2(width), 16)  # a row costs its indices, however narrow it is
        warps = min(self.warps * max(1, bd // self.numbers), 16)
        return {"BP": self.pairs, "BG": max(1, self.numbers // bd), "BD": bd, "warps": warps}


DEFAULT = Blocks(32, 1024, 4)  # one chunk in a program from D = 1,024 on
CONFIGURATIONS = (DEFAULT, Blocks(16, 1024, 4), Blocks(128, 1024, 2), Blocks(32, 512, 1))


def sparse_factorization_memory(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    value: Tensor,
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
    inputs = (theta, phi, value, initial_state)
    save = operators.needs_grad(*inputs)
    y, final_state, *_ = _forward_op(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, save, *blocks)
    return y, final_state


def _place(order: Tensor) -> Tensor:
    """Where in the list each pair stands."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _bounds(segment: Tensor, segments: int) -> Tensor:
    """Where each of all possible segments begins, and the last one ends: [segments + 1]."""
    return torch.searchsorted(segment, torch.arange(segments + 1, device=segment.device))


class _Plan(NamedTuple):
    """What the launches of a call share: how many of what, the sizes and constants that kernels take, grids."""

    pairs: int
    chunks: int
    segments: int
    common: dict[str, int]
    by_segment: tuple[int]
    by_token: tuple[int]
    by_chunk: tuple[int]


def _plan(theta: Tensor, value: Tensor, final: Tensor, blocks: Blocks) -> _Plan:
    (rows, tokens, per_token), width = theta.shape, value.shape[-1]
    row, constants = tokens * per_token, blocks.constants(width)
    segments, chunks = final.shape[0] * final.shape[1], rows * triton.cdiv(row, blocks.pairs)
    sizes = {"n": rows * row, "L": row, "D": width, "K": per_token, "tokens": rows * tokens, "segments": segments}
    counts = segments, rows * tokens, chunks
    # Without a token there is no program, though slots are still there.
    grids = ((triton.cdiv(count, constants["BG"]) if row else 0,) for count in counts)
    return _Plan(rows * row, chunks, segments, sizes | constants, *grids)


class _Saved(NamedTuple):
    """What the forward keeps for the backward; places without a pair are not written."""

    entering: Tensor  # [chunks, D]  the state that enters each chunk
    total: Tensor  # [chunks]  the decay over each chunk's last segment
    segment: Tensor  # [pairs]  of the sorted list
    order: Tensor  # [pairs]  where the gates of each lie


def _outputs(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, save, pairs, numbers, warps):
    """Unwritten outputs of _forward_op."""
    width = value.shape[-1]
    sequences = value.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = value.new_empty(sequences, num_slots, width, dtype=torch.float32)
    plan = _plan(theta, value, final, Blocks(pairs, numbers, warps))
    chunks, n = (plan.chunks, plan.pairs) if save else (0, 0)
    saved = _Saved(
        entering=value.new_empty(chunks, width, dtype=torch.float32),
        total=value.new_empty(chunks, dtype=torch.float32),
        segment=slots.new_empty(n, dtype=torch.int64),
        order=slots.new_empty(n, dtype=torch.int64),
    )
    return value.new_empty(value.shape), final, *saved


def _gradients(dy, dfinal, theta, phi, value, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, value, dfinal))


@torch.library.custom_op("factorization_memory::triton_sparse", mutates_args=())
def _forward_op(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, eps: float, save: bool, pairs: int, numbers: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save what _Saved holds."""
    blocks = pairs, numbers, warps
    y, final, *unsaved = _outputs(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, save, *blocks)
    if cu_seqlens is not None and cu_seqlens.is_cpu:  # a look at those of a GPU would wait for it
        packing.bounds(cu_seqlens, value.shape[1])
    theta, phi, value = (v.contiguous() for v in (theta, phi, value))
    initial = None if initial_state is None else initial_state.float().contiguous()
    if initial is None:
        final.zero_()
    else:
        final.copy_(initial)  # what slots that no token names keep
    segment, order = packing.segments(slots, num_slots, cu_seqlens).sort(stable=True)
    plan = _plan(theta, value, final, Blocks(*blocks))
    ends, h = (value.new_empty(n, value.shape[-1], dtype=torch.float32) for n in (plan.chunks, plan.pairs))
    entering, total = torch.zeros_like(ends), value.new_zeros(plan.chunks, dtype=torch.float32)  # where not written
    common = {"p_theta": theta, "p_v": value, "p_initial": initial, "eps": eps, **plan.common}
    common |= {"p_order": order, "p_token": order // theta.shape[-1], "p_segment": segment}
    launch(ends_fwd_kernel, plan.by_chunk, p_ends=ends, p_total=total, **common)
    launch(
        carry_kernel, plan.by_segment, p_total=total, p_ends=ends, p_entering=entering,
        p_bounds=_bounds(segment, plan.segments), REVERSE=False, **common,
    )  # fmt: skip
    launch(walk_fwd_kernel, plan.by_chunk, p_entering=entering, p_h=h, p_final=final, **common)
    launch(gather_kernel, plan.by_token, p_gate=phi, p_rows=h, p_place=_place(order), p_out=y, NORMED=True, **common)
    return y, final, *(_Saved(entering, total, segment, order) if save else unsaved)


@torch.library.custom_op("factorization_memory::triton_sparse_backward", mutates_args=())
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None,
    entering: Tensor, total: Tensor, segment: Tensor, order: Tensor, eps: float, pairs: int, numbers: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, value and of the initial state."""
    dtheta, dphi, dvalue, dinitial = _gradients(dy, dfinal, theta, phi, value)
    dy, dfinal, theta, phi, value = (v.contiguous() for v in (dy, dfinal, theta, phi, value))
    initial = None if initial_state is None else initial_state.float().contiguous()
    dinitial.copy_(dfinal)  # what slots that no token names get
    plan, width = _plan(theta, value, dfinal, Blocks(pairs, numbers, warps)), value.shape[-1]
    h, starts, right = (value.new_empty(n, width, dtype=torch.float32) for n in (plan.pairs, plan.chunks, plan.chunks))
    common = {"p_theta": theta, "p_phi": phi, "p_v": value, "p_dy": dy, "p_initial": initial, "p_dfinal": dfinal}
    common |= {"p_order": order, "p_token": order // theta.shape[-1], "p_segment": segment, "p_h": h, "eps": eps}
    common |= plan.common
    launch(walk_fwd_kernel, plan.by_chunk, p_entering=entering, p_final=None, **common)
    launch(starts_bwd_kernel, plan.by_chunk, p_starts=starts, **common)
    launch(
        carry_kernel, plan.by_segment, p_total=total, p_ends=starts, p_entering=right,
        p_bounds=_bounds(segment, plan.segments), REVERSE=True, **common,
    )  # fmt: skip
    launch(
        walk_bwd_kernel, plan.by_chunk,
        p_entering=entering, p_right=right, p_dtheta=dtheta, p_dphi=dphi, p_dinitial=dinitial, **common,
    )  # fmt: skip
    launch(
        gather_kernel, plan.by_token,
        p_gate=theta, p_rows=h, p_place=_place(order), p_out=dvalue, NORMED=False, **common,
    )  # fmt: skip
    return dtheta, dphi, dvalue, dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, _, value, _, initial_state, _, eps, _, *blocks = inputs
    ctx.save_for_backward(theta, phi, value, initial_state, *output[2:])
    ctx.rest = (eps, *blocks)
    ctx.final = output[1].shape, output[1].dtype


def _backward(ctx, dy, dfinal):
    theta, phi, value, initial_state, *saved = ctx.saved_tensors
    dy, dfinal = operators.asked_for(dy, dfinal, value, ctx.final)
    inputs = dy, dfinal, theta, phi, value, initial_state
    dtheta, dphi, dvalue, dinitial = _backward_op(*inputs, *_Saved(*saved), *ctx.rest)
    dinitial = None if initial_state is None else dinitial.to(initial_state.dtype)
    return dtheta, dphi, None, dvalue, None, dinitial, *(None,) * 6


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
