"""Dense Factorization Memory in Triton, forward and backward: no logarithms, no division by 1 - theta, no atomics.

The matrix form of fast/chunked.py, cut into programs. docs/derivation.md derives it, docs/kernels.md draws its parts.

    gram           <v, v> or <dy, v> within each chunk                  a program per chunk
    states_fwd     the state that enters each chunk, left to right      per sequence, block of slots, block of columns
    inner_fwd      <H, v>, |h|^2 and psi                                per chunk and block of slots
    tile           A, or B + B transposed                               per chunk
    read_fwd       y                                                    per chunk and block of columns
    norm_bwd       dphi, <H, dy>, the gradient N of |h|^2 / 2           per chunk and block of slots
    adjoint_bwd    the gradient of each chunk's last state, leftwards   as states_fwd
    dtheta_bwd     dtheta                                               as inner_fwd
    dvalue_bwd     dvalue                                               as read_fwd

Names: p_ pointer, b_ block in registers, o_ offsets, m_ masks, i_ program ids. v is the value, h a state after a token,
H the one that enters a chunk, L the gradient of the one that leaves it, l that of a state after a token. BT tokens of a
chunk, BM slots and BD columns of a block; LEVELS = log2(BT). All tokens lie in one row; chunk c holds tokens
begin[c] .. end[c], sequence s chunks first[s] .. first[s + 1]. Everything inside is float32, whatever the inputs are.
Where Triton interprets, what is stored in bfloat16 is cut, not rounded: a mean error of 0.5 units in the last place,
where a GPU has 0.25.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast import operators, packing
from fast.kernels.blocks import launch, load_block, store_block

# --- blocks ----------------------------------------------------------------------------------------------------


@triton.jit
def _load_tile(p, i_c, BT: tl.constexpr):
    o = tl.arange(0, BT)
    return tl.load(p + i_c * BT * BT + o[:, None] * BT + o[None, :])


@triton.jit
def _chunk(p_begin, p_end, i_c, BT: tl.constexpr):
    """The tokens of chunk i_c, and which of them exist."""
    o_t = tl.load(p_begin + i_c) + tl.arange(0, BT)
    return o_t, o_t < tl.load(p_end + i_c)


@triton.jit
def _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M):
    """theta, a = 1 - theta, and the a of the next token, 1 where the chunk has none: [BT, BM] each."""
    b_theta = load_block(p_theta, o_t, m_t, o_m, M)
    m_next = (o_t + 1 < tl.load(p_end + i_c)) & m_t
    return b_theta, 1.0 - b_theta, 1.0 - load_block(p_theta, o_t + 1, m_next, o_m, M)


@triton.jit
def _split(b, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    return tl.reshape(b, (BT // W, W, BM))


@triton.jit
def _split_sum(b, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """The sum over every W rows, in each of them."""
    total = tl.sum(_split(b, W, BT, BM), 1)
    return tl.reshape(tl.broadcast_to(total[:, None, :], (BT // W, W, BM)), (BT, BM))


@triton.jit
def _above(W: tl.constexpr, BT: tl.constexpr):
    """Which rows are in the upper half of their block of 2 W: [BT, 1]."""
    return (tl.arange(0, BT) // W % 2 == 1)[:, None]


@triton.jit
def _same_block(W: tl.constexpr, BT: tl.constexpr):
    """Which pairs of rows share a block of W: [BT, BT]."""
    o = tl.arange(0, BT) // W
    return o[:, None] == o[None, :]


@triton.jit
def _factors(b_theta, b_decay, b_next, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """Of blocks of 2 W rows: decay_from_start of the upper halves and write_to_end of the lower ones, 0 elsewhere."""
    last = (tl.arange(0, BT) % W == W - 1)[:, None]
    decay_from_start = tl.cumprod(_split(b_decay, W, BT, BM), 1)
    decay_to_end = tl.cumprod(_split(tl.where(last, 1.0, b_next), W, BT, BM), 1, reverse=True)
    above = _above(W, BT)
    return (
        tl.where(above, tl.reshape(decay_from_start, (BT, BM)), 0.0),
        tl.where(above, 0.0, b_theta * tl.reshape(decay_to_end, (BT, BM))),
    )


@triton.jit
def _totals(b_decay, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """Decay over the lower half and over the upper half of every row's block of 2 W."""
    last = (tl.arange(0, BT) % W == W - 1)[:, None]
    ends = tl.where(last, tl.reshape(tl.cumprod(_split(b_decay, W, BT, BM), 1), (BT, BM)), 0.0)
    above = _above(W, BT)
    return (
        _split_sum(tl.where(above, 0.0, ends), 2 * W, BT, BM),
        _split_sum(tl.where(above, ends, 0.0), 2 * W, BT, BM),
    )


@triton.jit
def _enter_upper(b_inner, b_tile, b_write_to_end, b_lower, above, PRECISION: tl.constexpr):
    """<H, u> for the states that enter upper halves: decayed over the lower half, plus what that wrote."""
    return tl.where(above, b_lower * b_inner + tl.dot(b_tile, b_write_to_end, input_precision=PRECISION), b_inner)


@triton.jit
def _times_decay(
    b_theta, b_decay, b_next, b_tile, b_inner,
    BT: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """From <H, u_t> to <h_{t-1}, u_t>, b_tile holding <u_t, v_s>: docs/derivation.md, section 3."""
    for i in tl.static_range(LEVELS):
        _, write_to_end = _factors(b_theta, b_decay, b_next, BT >> (i + 1), BT, BM)
        lower, _ = _totals(b_decay, BT >> (i + 1), BT, BM)
        b_same = tl.where(_same_block(BT >> i, BT), b_tile, 0.0)
        b_inner = _enter_upper(b_inner, b_same, write_to_end, lower, _above(BT >> (i + 1), BT), PRECISION)
    return b_inner


@triton.jit
def _diagonal(b_tile, BT: tl.constexpr):
    """[BT, BT] -> its diagonal, [BT, 1]."""
    o = tl.arange(0, BT)
    return tl.sum(tl.where(o[:, None] == o[None, :], b_tile, 0.0), 1)[:, None]


@triton.jit
def _linear(a1, b1, a2, b2):
    """Two steps of h -> a h + b as one."""
    return a1 * a2, a2 * b1 + b2


# --- kernels ---------------------------------------------------------------------------------------------------


@triton.jit
def gram_kernel(p_u, p_v, p_gram, p_begin, p_end, D, BT: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr):
    """Owns one chunk: reads u and v, writes <u_t, v_s> [BT, BT]."""
    i_c, o = tl.program_id(0).to(tl.int64), tl.arange(0, BT)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_gram = tl.zeros((BT, BT), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_u, b_v = load_block(p_u, o_t, m_t, o_d, D), load_block(p_v, o_t, m_t, o_d, D)  # [BT, BD]
        b_gram += tl.dot(b_u, tl.trans(b_v), input_precision=PRECISION)  # [BT, BT]
    store_block(p_gram + i_c * BT * BT, b_gram, o, o < BT, o, BT)


@triton.jit
def states_fwd_kernel(
    p_theta, p_v, p_initial, p_states, p_final, p_begin, p_end, p_first, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BM x BD numbers of one sequence's state; carries them through its chunks, writing what enters each."""
    i_m, i_d, i_s = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m, o_d = i_m * BM + tl.arange(0, BM), i_d * BD + tl.arange(0, BD)
    m_m = o_m < M
    b_h = load_block(p_initial + i_s * M * D, o_m, m_m, o_d, D)  # [BM, BD]
    first, after = tl.load(p_first + i_s), tl.load(p_first + i_s + 1)
    for i in range(0, after - first):
        i_c = (first + i).to(tl.int64)
        store_block(p_states + i_c * M * D, b_h, o_m, m_m, o_d, D)
        o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
        b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
        b_after = tl.cumprod(b_next, 0, reverse=True)  # [BT, BM]
        b_total = tl.sum(tl.where((tl.arange(0, BT) == 0)[:, None], b_after * b_decay, 0.0), 0)  # [BM]
        b_v = load_block(p_v, o_t, m_t, o_d, D)  # [BT, BD]
        b_h = b_total[:, None] * b_h + tl.dot(tl.trans(b_theta * b_after), b_v, input_precision=PRECISION)  # [BM, BD]
    store_block(p_final + i_s * M * D, b_h, o_m, m_m, o_d, D)


@triton.jit
def inner_fwd_kernel(
    p_theta, p_phi, p_v, p_states, p_gram, p_v_dot_H, p_norm, p_norm0, p_psi, p_begin, p_end, M, D, eps,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads v, the state that enters and <v, v>; writes <H, v>, |h|^2 and psi."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m = i_m * BM + tl.arange(0, BM)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_inner, b_square = tl.zeros((BT, BM), tl.float32), tl.zeros((BM,), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_h = load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)  # [BM, BD]
        b_inner += tl.dot(load_block(p_v, o_t, m_t, o_d, D), tl.trans(b_h), input_precision=PRECISION)  # [BT, BM]
        b_square += tl.sum(b_h * b_h, 1)  # [BM]
    store_block(p_v_dot_H, b_inner, o_t, m_t, o_m, M)
    tl.store(p_norm0 + i_c * M + o_m, b_square, mask=m_m)

    b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
    b_gram = _load_tile(p_gram, i_c, BT)  # [BT, BT]
    b_inner = _times_decay(b_theta, b_decay, b_next, b_gram, b_inner, BT, BM, PRECISION, LEVELS)
    b_gain = b_theta * (2.0 * b_decay * b_inner + b_theta * _diagonal(b_gram, BT))  # [BT, BM]
    b_power, b_norm = tl.associative_scan((b_decay * b_decay, b_gain), 0, _linear)  # [BT, BM]
    b_norm = tl.maximum(b_norm + b_power * b_square[None, :], 0.0, propagate_nan=tl.PropagateNan.ALL)
    store_block(p_norm, b_norm, o_t, m_t, o_m, M)
    store_block(p_psi, load_block(p_phi, o_t, m_t, o_m, M) / tl.sqrt(b_norm / D + eps), o_t, m_t, o_m, M)


@triton.jit
def tile_kernel(
    p_theta, p_weight, p_tile, p_begin, p_end, M,
    BT: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """Owns one chunk: writes sum over slots of weight_t D[t, s] theta_s for s <= t; SYMMETRIC mirrors it to s > t."""
    i_c, o = tl.program_id(0).to(tl.int64), tl.arange(0, BT)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_tile, b_diagonal = tl.zeros((BT, BT), tl.float32), tl.zeros((BT,), tl.float32)
    for i_m in range(0, tl.cdiv(M, BM)):
        o_m = i_m * BM + tl.arange(0, BM)
        b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
        b_weight = load_block(p_weight, o_t, m_t, o_m, M)  # [BT, BM]
        b_diagonal += tl.sum(b_weight * b_theta, 1)
        for i in tl.static_range(LEVELS):
            decay_from_start, write_to_end = _factors(b_theta, b_decay, b_next, BT >> (i + 1), BT, BM)
            b_pairs = tl.dot(b_weight * decay_from_start, tl.trans(write_to_end), input_precision=PRECISION)  # [BT, BT]
            b_tile += tl.where(_same_block(BT >> i, BT), b_pairs, 0.0)
    if SYMMETRIC:
        b_tile += tl.trans(b_tile)
    b_tile = tl.where(o[:, None] == o[None, :], b_diagonal[:, None], b_tile)
    store_block(p_tile + i_c * BT * BT, b_tile, o, o < BT, o, BT)


@triton.jit
def read_fwd_kernel(
    p_theta, p_v, p_states, p_psi, p_tile, p_y, p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BD columns of one chunk's y = (psi P) H + A v, all slots in order."""
    o_d, i_c = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1).to(tl.int64)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_y = tl.dot(_load_tile(p_tile, i_c, BT), load_block(p_v, o_t, m_t, o_d, D), input_precision=PRECISION)  # [BT, BD]
    for i_m in range(0, tl.cdiv(M, BM)):
        o_m = i_m * BM + tl.arange(0, BM)
        b_decay_from_start = tl.cumprod(1.0 - load_block(p_theta, o_t, m_t, o_m, M), 0)  # [BT, BM]
        b_h = load_block(p_states + i_c * M * D, o_m, o_m < M, o_d, D)  # [BM, BD]
        b_read = load_block(p_psi, o_t, m_t, o_m, M) * b_decay_from_start  # [BT, BM]
        b_y += tl.dot(b_read, b_h, input_precision=PRECISION)  # [BT, BD]
    store_block(p_y, b_y, o_t, m_t, o_d, D)


@triton.jit
def norm_bwd_kernel(
    p_theta, p_dy, p_states, p_gram_dy_v, p_norm, p_psi, p_dphi, p_dy_dot_H, p_norm_grad, p_value_weight,
    p_norm_grad_first, p_begin, p_end, M, D, eps,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads dy, the state that enters and <dy, v>; writes dphi, <H, dy>, the gradient N of
    |h|^2 / 2, the weight N theta of v, and a_1^2 N_1, which goes to the state that enters."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m = i_m * BM + tl.arange(0, BM)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_dy_dot_h = tl.zeros((BT, BM), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_h = load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)  # [BM, BD]
        b_dy_dot_h += tl.dot(load_block(p_dy, o_t, m_t, o_d, D), tl.trans(b_h), input_precision=PRECISION)  # [BT, BM]
    store_block(p_dy_dot_H, b_dy_dot_h, o_t, m_t, o_m, M)

    b_inverse = 1.0 / tl.sqrt(load_block(p_norm, o_t, m_t, o_m, M) / D + eps)  # [BT, BM]
    b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
    b_gram_dy_v = _load_tile(p_gram_dy_v, i_c, BT)  # [BT, BT]
    b_dy_dot_h = _times_decay(b_theta, b_decay, b_next, b_gram_dy_v, b_dy_dot_h, BT, BM, PRECISION, LEVELS)
    b_dphi = (b_decay * b_dy_dot_h + b_theta * _diagonal(b_gram_dy_v, BT)) * b_inverse  # [BT, BM]
    store_block(p_dphi, b_dphi, o_t, m_t, o_m, M)
    b_norm_grad = -b_dphi * load_block(p_psi, o_t, m_t, o_m, M) * b_inverse / D
    _, b_norm_grad = tl.associative_scan((b_next * b_next, b_norm_grad), 0, _linear, reverse=True)
    store_block(p_norm_grad, b_norm_grad, o_t, m_t, o_m, M)
    store_block(p_value_weight, b_norm_grad * b_theta, o_t, m_t, o_m, M)
    b_norm_grad_first = tl.sum(tl.where((tl.arange(0, BT) == 0)[:, None], b_decay * b_decay * b_norm_grad, 0.0), 0)
    tl.store(p_norm_grad_first + i_c * M + o_m, b_norm_grad_first, mask=m_m)


@triton.jit
def adjoint_bwd_kernel(
    p_theta, p_v, p_dy, p_states, p_psi, p_value_weight, p_norm_grad_first, p_dfinal, p_adjoint, p_dinitial,
    p_begin, p_end, p_first, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BM x BD numbers of one sequence's adjoint; carries them back through its chunks, writing the gradient of
    the state that leaves each."""
    i_m, i_d, i_s = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m, o_d = i_m * BM + tl.arange(0, BM), i_d * BD + tl.arange(0, BD)
    m_m = o_m < M
    b_l = load_block(p_dfinal + i_s * M * D, o_m, m_m, o_d, D)  # [BM, BD]
    first, after = tl.load(p_first + i_s), tl.load(p_first + i_s + 1)
    for i in range(0, after - first):
        i_c = (after - 1 - i).to(tl.int64)
        store_block(p_adjoint + i_c * M * D, b_l, o_m, m_m, o_d, D)
        o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
        b_decay_from_start = tl.cumprod(1.0 - load_block(p_theta, o_t, m_t, o_m, M), 0)  # [BT, BM]
        b_total = tl.sum(tl.where((tl.arange(0, BT) == BT - 1)[:, None], b_decay_from_start, 0.0), 0)  # [BM]
        b_norm_grad_first = tl.load(p_norm_grad_first + i_c * M + o_m, mask=m_m, other=0.0)  # [BM]
        b_h = load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)  # [BM, BD]
        b_l = b_total[:, None] * b_l + b_norm_grad_first[:, None] * b_h  # [BM, BD]
        b_psi = load_block(p_psi, o_t, m_t, o_m, M) * b_decay_from_start  # [BT, BM]
        b_value_weight = load_block(p_value_weight, o_t, m_t, o_m, M) * b_decay_from_start  # [BT, BM]
        b_l += tl.dot(tl.trans(b_psi), load_block(p_dy, o_t, m_t, o_d, D), input_precision=PRECISION)  # [BM, BD]
        b_v = load_block(p_v, o_t, m_t, o_d, D)  # [BT, BD]
        b_l += tl.dot(tl.trans(b_value_weight), b_v, input_precision=PRECISION)  # [BM, BD]
    store_block(p_dinitial + i_s * M * D, b_l, o_m, m_m, o_d, D)


@triton.jit
def dtheta_bwd_kernel(
    p_theta, p_v, p_states, p_adjoint, p_gram, p_gram_dy_v, p_v_dot_H, p_dy_dot_H, p_norm, p_norm0, p_psi, p_norm_grad,
    p_dtheta, p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads the state that enters and the adjoint of the one that leaves; writes dtheta."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m, o = i_m * BM + tl.arange(0, BM), tl.arange(0, BT)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_l, b_l_dot_h = tl.zeros((BT, BM), tl.float32), tl.zeros((BM,), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_adjoint = load_block(p_adjoint + i_c * M * D, o_m, m_m, o_d, D)  # [BM, BD]
        b_l += tl.dot(load_block(p_v, o_t, m_t, o_d, D), tl.trans(b_adjoint), input_precision=PRECISION)  # [BT, BM]
        b_l_dot_h += tl.sum(b_adjoint * load_block(p_states + i_c * M * D, o_m, m_m, o_d, D), 1)  # [BM]

    b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
    b_v_dot_h = load_block(p_v_dot_H, o_t, m_t, o_m, M)  # [BT, BM]
    b_dy_dot_h = load_block(p_dy_dot_H, o_t, m_t, o_m, M)  # [BT, BM]
    b_psi, b_norm_grad = load_block(p_psi, o_t, m_t, o_m, M), load_block(p_norm_grad, o_t, m_t, o_m, M)  # [BT, BM]
    b_gram, b_gram_dy_v = _load_tile(p_gram, i_c, BT), _load_tile(p_gram_dy_v, i_c, BT)  # [BT, BT]
    b_l_dot_h = tl.broadcast_to(b_l_dot_h[None, :], (BT, BM))
    for i in tl.static_range(LEVELS):
        decay_from_start, write_to_end = _factors(b_theta, b_decay, b_next, BT >> (i + 1), BT, BM)
        lower, upper = _totals(b_decay, BT >> (i + 1), BT, BM)
        above, same = _above(BT >> (i + 1), BT), _same_block(BT >> i, BT)
        b_gram_w, b_gram_dy_v_w = tl.where(same, b_gram, 0.0), tl.where(same, b_gram_dy_v, 0.0)
        b_p, b_n = b_psi * decay_from_start, b_norm_grad * b_theta * decay_from_start
        from_below, from_above = write_to_end * b_l, b_p * b_dy_dot_h + b_n * b_v_dot_h
        b_l_dot_h = b_l_dot_h * tl.where(above, lower, upper) + tl.where(
            above, _split_sum(from_below, BT >> i, BT, BM), _split_sum(from_above, BT >> i, BT, BM)
        )
        b_l = tl.where(above, 1.0, upper) * b_l  # [BT, BM]
        b_l += tl.dot(tl.trans(b_gram_dy_v_w), b_p, input_precision=PRECISION) * tl.where(above, 0.0, 1.0)  # [BT, BM]
        b_l += tl.dot(tl.trans(b_gram_w), b_n, input_precision=PRECISION) * tl.where(above, 0.0, 1.0)  # [BT, BM]
        b_dy_dot_h = _enter_upper(b_dy_dot_h, b_gram_dy_v_w, write_to_end, lower, above, PRECISION)
        b_v_dot_h = _enter_upper(b_v_dot_h, b_gram_w, write_to_end, lower, above, PRECISION)

    b_before = load_block(p_norm - M, o_t, m_t & (o > 0), o_m, M)  # [BT, BM]
    b_norm0 = tl.load(p_norm0 + i_c * M + o_m, mask=m_m, other=0.0)  # [BM]
    b_before = tl.where((o == 0)[:, None], b_norm0[None, :], b_before)
    b_with_h = (b_decay - b_theta) * b_v_dot_h + b_theta * _diagonal(b_gram, BT) - b_decay * b_before
    b_dtheta = b_l - b_l_dot_h + b_psi * (_diagonal(b_gram_dy_v, BT) - b_dy_dot_h) + b_norm_grad * b_with_h  # [BT, BM]
    store_block(p_dtheta, b_dtheta, o_t, m_t, o_m, M)


@triton.jit
def dvalue_bwd_kernel(
    p_theta, p_v, p_dy, p_states, p_adjoint, p_value_weight, p_tile, p_B_sym, p_dv, p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BD columns of one chunk's dv = A^T dy + (B + B^T) v + (theta D) L + (N theta P) H, all slots in order."""
    o_d, i_c = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1).to(tl.int64)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_tile, b_B_sym = _load_tile(p_tile, i_c, BT), _load_tile(p_B_sym, i_c, BT)  # [BT, BT]
    b_dv = tl.dot(tl.trans(b_tile), load_block(p_dy, o_t, m_t, o_d, D), input_precision=PRECISION)  # [BT, BD]
    b_dv += tl.dot(b_B_sym, load_block(p_v, o_t, m_t, o_d, D), input_precision=PRECISION)  # [BT, BD]
    for i_m in range(0, tl.cdiv(M, BM)):
        o_m = i_m * BM + tl.arange(0, BM)
        b_theta, b_decay, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)  # [BT, BM]
        b_write_to_end = b_theta * tl.cumprod(b_next, 0, reverse=True)  # [BT, BM]
        b_l = load_block(p_adjoint + i_c * M * D, o_m, o_m < M, o_d, D)  # [BM, BD]
        b_dv += tl.dot(b_write_to_end, b_l, input_precision=PRECISION)  # [BT, BD]
        b_value_weight = load_block(p_value_weight, o_t, m_t, o_m, M) * tl.cumprod(b_decay, 0)  # [BT, BM]
        b_h = load_block(p_states + i_c * M * D, o_m, o_m < M, o_d, D)  # [BM, BD]
        b_dv += tl.dot(b_value_weight, b_h, input_precision=PRECISION)  # [BT, BD]
    store_block(p_dv, b_dv, o_t, m_t, o_d, D)


# --- host ------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Sizes of a program: tokens of a chunk, slots and columns of a block (powers of two, 16 or more), warps."""

    tokens: int
    slots: int
    width: int
    warps: int


DEFAULT = Blocks(32, 16, 64, 4)  # fits any card, the fastest on an H100 that hardly spills: docs/kernels.md
CONFIGURATIONS = (DEFAULT, Blocks(32, 16, 128, 4), Blocks(32, 16, 64, 2), Blocks(16, 16, 64, 4))


def factorization_memory(
    theta: Tensor,
    phi: Tensor,
    value: Tensor,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    cu_seqlens: Tensor | None = None,
    blocks: Blocks = DEFAULT,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What `fast.factorization_memory` does with backend="triton", without its checks.

    precision: how a GPU multiplies float32 matrices, "ieee" or "tf32" (10 bits of mantissa, faster). "auto" is "tf32"
    for half-precision values, which has no more bits itself; else what torch.set_float32_matmul_precision says.
    """
    inputs = (theta, phi, value, initial_state)
    save = operators.needs_grad(*inputs)
    y, final_state, *_ = _forward_op(*inputs, cu_seqlens, eps, precision, save, *blocks)
    return y, final_state


def fastest(theta: Tensor, phi: Tensor, value: Tensor, measure: Callable = triton.testing.do_bench) -> Blocks:
    """The configuration in which forward and backward of such inputs take least time on this GPU.

    measure(f) runs f and returns its time. A configuration that needs more shared memory than the GPU has is passed
    over; DEFAULT fits every card. ValueError where there is no GPU to measure.
    """
    if measure is triton.testing.do_bench and not value.is_cuda:
        raise ValueError(f"x must be on the GPU that is to be measured, got {value.device}")
    leaves = [v.detach().requires_grad_() for v in (theta, phi, value)]

    def both(blocks: Blocks) -> None:
        y, _ = factorization_memory(*leaves, blocks=blocks)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    times = {}
    for blocks in CONFIGURATIONS:
        try:
            with torch.cuda.device_of(value):  # where the events of a measurement are recorded
                times[blocks] = measure(partial(both, blocks))
        except triton.OutOfResources:
            continue
    return min(times, key=times.get)


def _chunks(value: Tensor, cu_seqlens: Tensor | None, length: int) -> dict[str, Tensor]:
    """p_begin, p_end and p_first. Made on the device without waiting for it; places of chunks that packed sequences do
    not need stay empty."""
    if cu_seqlens is None:
        bounds = torch.arange(value.shape[0] + 1, device=value.device) * value.shape[1]
    else:
        bounds = cu_seqlens.long()
    counts = (bounds.diff() + length - 1) // length
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    c = torch.arange(_capacity(value, cu_seqlens, length), device=value.device)
    sequence = torch.searchsorted(first[1:], c, right=True).clamp(max=max(len(counts) - 1, 0))
    begin = bounds[sequence] + (c - first[sequence]) * length
    end = torch.minimum(begin + length, bounds[sequence + 1])
    return {"p_begin": begin, "p_end": torch.where(c < first[-1], end, begin), "p_first": first}


def _capacity(value: Tensor, cu_seqlens: Tensor | None, length: int) -> int:
    rows, tokens, _ = value.shape
    return rows * -(-tokens // length) if cu_seqlens is None else tokens // length + cu_seqlens.shape[0] - 1


def _precision(asked: str, value: Tensor) -> str:
    """Asked inside the operators: torch.compile cannot trace the question."""
    if asked != "auto":
        return asked
    exact = value.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def _constants(blocks: Blocks, precision: str) -> dict:
    tokens, slots, width, warps = blocks
    return {"BT": tokens, "BM": slots, "BD": width, "LEVELS": tokens.bit_length() - 1, "PRECISION": precision,
            "warps": warps}  # fmt: skip


class _Saved(NamedTuple):
    """What the forward keeps for the backward; tokens are those of all rows."""

    states: Tensor  # [chunks, M, D]  H, which enters each chunk
    v_dot_H: Tensor  # [tokens, M]  <H, v_t>
    norm: Tensor  # [tokens, M]  |h_t|^2
    norm0: Tensor  # [chunks, M]  |H|^2
    psi: Tensor  # [tokens, M]  phi_t / rms(h_t)
    gram: Tensor  # [chunks, BT, BT]  <v_t, v_s>
    tile: Tensor  # [chunks, BT, BT]  A


def _outputs(theta, phi, value, initial_state, cu_seqlens, eps, precision, save, bt, bm, bd, warps):
    """Unwritten outputs of _forward_op."""
    (rows, tokens, width), slots = value.shape, theta.shape[-1]
    sequences = rows if cu_seqlens is None else cu_seqlens.shape[0] - 1
    chunks, tokens = (_capacity(value, cu_seqlens, bt), rows * tokens) if save else (0, 0)
    saved = _Saved(
        states=(chunks, slots, width), v_dot_H=(tokens, slots), norm=(tokens, slots), norm0=(chunks, slots),
        psi=(tokens, slots), gram=(chunks, bt, bt), tile=(chunks, bt, bt),
    )  # fmt: skip
    shapes = ((sequences, slots, width), *saved)
    return value.new_empty(value.shape), *(value.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _gradients(dy, dfinal, theta, phi, value, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, value, dfinal))


@torch.library.custom_op("factorization_memory::triton_dense", mutates_args=())
def _forward_op(
    theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None,
    eps: float, precision: str, save: bool, bt: int, bm: int, bd: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save what _Saved holds."""
    options = theta, phi, value, initial_state, cu_seqlens, eps, precision
    y, final, *kept = _outputs(*options, save, bt, bm, bd, warps)
    if cu_seqlens is not None and cu_seqlens.is_cpu:  # a look at those of a GPU would wait for it
        packing.bounds(cu_seqlens, value.shape[1])
    work = _Saved(*(kept if save else _outputs(*options, True, bt, bm, bd, warps)[2:]))
    if cu_seqlens is not None:
        work.states.zero_()  # some may not be needed
    theta, phi, value = (v.contiguous() for v in (theta, phi, value))
    initial = torch.zeros_like(final) if initial_state is None else initial_state.float().contiguous()
    (sequences, M, D), chunks = final.shape, len(work.states)
    by_slot, by_width = triton.cdiv(M, bm), triton.cdiv(D, bd)
    blocks = _constants(Blocks(bt, bm, bd, warps), _precision(precision, value))
    common = {"p_theta": theta, "p_v": value, "M": M, "D": D, "eps": eps, **_chunks(value, cu_seqlens, bt), **blocks}
    launch(gram_kernel, (chunks,), p_u=value, p_gram=work.gram, **common)
    launch(
        states_fwd_kernel, (by_slot, by_width, sequences),
        p_initial=initial, p_states=work.states, p_final=final, **common,
    )  # fmt: skip
    launch(
        inner_fwd_kernel, (by_slot, chunks), p_phi=phi, p_states=work.states, p_gram=work.gram,
        p_v_dot_H=work.v_dot_H, p_norm=work.norm, p_norm0=work.norm0, p_psi=work.psi, **common,
    )  # fmt: skip
    launch(tile_kernel, (chunks,), p_weight=work.psi, p_tile=work.tile, SYMMETRIC=False, **common)
    launch(
        read_fwd_kernel, (by_width, chunks),
        p_states=work.states, p_psi=work.psi, p_tile=work.tile, p_y=y, **common,
    )  # fmt: skip
    return y, final, *kept


@torch.library.custom_op("factorization_memory::triton_dense_backward", mutates_args=())
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, value: Tensor, cu_seqlens: Tensor | None,
    states: Tensor, v_dot_H: Tensor, norm: Tensor, norm0: Tensor, psi: Tensor, gram: Tensor, tile: Tensor,
    eps: float, precision: str, bt: int, bm: int, bd: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, value and of the initial state."""
    dtheta, dphi, dvalue, dinitial = _gradients(dy, dfinal, theta, phi, value)
    theta, value, dy, dfinal = (v.contiguous() for v in (theta, value, dy, dfinal))
    (sequences, M, D), chunks = dfinal.shape, len(states)
    gram_dy_v, B_sym, adjoint = torch.empty_like(gram), torch.empty_like(gram), torch.empty_like(states)
    dy_dot_H, norm_grad, value_weight = torch.empty_like(psi), torch.empty_like(psi), torch.empty_like(psi)
    norm_grad_first = torch.empty_like(norm0)
    by_slot, by_width = triton.cdiv(M, bm), triton.cdiv(D, bd)
    blocks = _constants(Blocks(bt, bm, bd, warps), _precision(precision, value))
    common = {"p_theta": theta, "p_v": value, "p_states": states, "M": M, "D": D, "eps": eps, **blocks}
    common |= _chunks(value, cu_seqlens, bt)
    launch(gram_kernel, (chunks,), p_u=dy, p_gram=gram_dy_v, **common)
    launch(
        norm_bwd_kernel, (by_slot, chunks), p_dy=dy, p_gram_dy_v=gram_dy_v, p_norm=norm, p_psi=psi, p_dphi=dphi,
        p_dy_dot_H=dy_dot_H, p_norm_grad=norm_grad, p_value_weight=value_weight, p_norm_grad_first=norm_grad_first,
        **common,
    )  # fmt: skip
    launch(
        adjoint_bwd_kernel, (by_slot, by_width, sequences), p_dy=dy, p_psi=psi, p_value_weight=value_weight,
        p_norm_grad_first=norm_grad_first, p_dfinal=dfinal, p_adjoint=adjoint, p_dinitial=dinitial, **common,
    )  # fmt: skip
    launch(
        dtheta_bwd_kernel, (by_slot, chunks), p_adjoint=adjoint, p_gram=gram, p_gram_dy_v=gram_dy_v, p_v_dot_H=v_dot_H,
        p_dy_dot_H=dy_dot_H, p_norm=norm, p_norm0=norm0, p_psi=psi, p_norm_grad=norm_grad, p_dtheta=dtheta, **common,
    )  # fmt: skip
    launch(tile_kernel, (chunks,), p_weight=value_weight, p_tile=B_sym, SYMMETRIC=True, **common)
    launch(
        dvalue_bwd_kernel, (by_width, chunks), p_dy=dy, p_adjoint=adjoint, p_value_weight=value_weight, p_tile=tile,
        p_B_sym=B_sym, p_dv=dvalue, **common,
    )  # fmt: skip
    return dtheta, dphi, dvalue, dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, value, initial_state, cu_seqlens, eps, precision, _, *blocks = inputs
    ctx.save_for_backward(theta, phi, value, cu_seqlens, *output[2:])
    ctx.rest = (eps, precision, *blocks)
    ctx.given = initial_state is not None and initial_state.dtype
    ctx.final = output[1].shape, output[1].dtype


def _backward(ctx, dy, dfinal):
    theta, phi, value, cu_seqlens, *saved = ctx.saved_tensors
    dy, dfinal = operators.asked_for(dy, dfinal, value, ctx.final)
    inputs = dy, dfinal, theta, phi, value, cu_seqlens
    *grads, dinitial = _backward_op(*inputs, *_Saved(*saved), *ctx.rest)
    return *grads, dinitial.to(ctx.given) if ctx.given else None, *(None,) * 8


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
