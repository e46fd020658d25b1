"""Dense Factorization Memory in Triton, forward and backward: no logarithms, no division by 1 - theta, no atomics.

The matrix form of fast/chunked.py, cut into programs; docs/kernels.md derives it and draws who owns what.

    gram       <x, x> or <dy, x> within each chunk                      a program per chunk
    states     the state that enters each chunk, left to right          per sequence, block of slots, block of width
    inner      <H, x>, the norms and psi                                per chunk and block of slots
    tile       A, or B + B transposed                                   per chunk
    read       y                                                        per chunk and block of width
    pull       dphi, <H, dy>, N and nu                                  per chunk and block of slots
    adjoint    the gradient of each chunk's last state, right to left   as states
    gates      dtheta                                                   as inner
    offers     dx                                                       as read

Names: p_ pointer, b_ block in registers, o_ offsets, m_ masks, i_ program ids; BT tokens of a chunk, BM slots and BD
columns of a block; LEVELS = log2(BT). All tokens lie in one row; chunk c holds tokens begin[c] .. end[c], sequence s
chunks first[s] .. first[s + 1]. Everything inside is float32, whatever the inputs are. Where Triton interprets, what is
stored in bfloat16 is cut, not rounded: a mean error of 0.5 units in the last place, where a GPU has 0.25.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast import operators
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
def _segments(b, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    return tl.reshape(b, (BT // W, W, BM))


@triton.jit
def _segment_sum(b, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """The sum over every W rows, in each of them."""
    total = tl.sum(_segments(b, W, BT, BM), 1)
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
def _factors(b_theta, b_keep, b_next, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """Of blocks of 2 W rows: reach of the upper halves and theta keep of the lower ones, 0 elsewhere."""
    last = (tl.arange(0, BT) % W == W - 1)[:, None]
    reach = tl.cumprod(_segments(b_keep, W, BT, BM), 1)
    keep = tl.cumprod(_segments(tl.where(last, 1.0, b_next), W, BT, BM), 1, reverse=True)
    above = _above(W, BT)
    return (
        tl.where(above, tl.reshape(reach, (BT, BM)), 0.0),
        tl.where(above, 0.0, b_theta * tl.reshape(keep, (BT, BM))),
    )


@triton.jit
def _totals(b_keep, W: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr):
    """Decay over the lower half and over the upper half of every row's block of 2 W."""
    last = (tl.arange(0, BT) % W == W - 1)[:, None]
    ends = tl.where(last, tl.reshape(tl.cumprod(_segments(b_keep, W, BT, BM), 1), (BT, BM)), 0.0)
    above = _above(W, BT)
    return (
        _segment_sum(tl.where(above, 0.0, ends), 2 * W, BT, BM),
        _segment_sum(tl.where(above, ends, 0.0), 2 * W, BT, BM),
    )


@triton.jit
def _enter_upper(b_inner, b_tile, b_write, b_lower, above, PRECISION: tl.constexpr):
    """<H, v> for the states that enter upper halves: decayed over the lower half, plus what that wrote."""
    return tl.where(above, b_lower * b_inner + tl.dot(b_tile, b_write, input_precision=PRECISION), b_inner)


@triton.jit
def _times_decay(
    b_theta, b_keep, b_next, b_tile, b_inner,
    BT: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """From <H, v_t> to <h_{t-1}, v_t>, b_tile holding <v_t, x_s>: docs/kernels.md, section 3."""
    for i in tl.static_range(LEVELS):
        _, write = _factors(b_theta, b_keep, b_next, BT >> (i + 1), BT, BM)
        lower, _ = _totals(b_keep, BT >> (i + 1), BT, BM)
        b_same = tl.where(_same_block(BT >> i, BT), b_tile, 0.0)
        b_inner = _enter_upper(b_inner, b_same, write, lower, _above(BT >> (i + 1), BT), PRECISION)
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
def gram_kernel(p_u, p_x, p_gram, p_begin, p_end, D, BT: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr):
    """Owns one chunk: reads u and x, writes <u_t, x_s> [BT, BT]."""
    i_c, o = tl.program_id(0).to(tl.int64), tl.arange(0, BT)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_gram = tl.zeros((BT, BT), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_u, b_x = load_block(p_u, o_t, m_t, o_d, D), load_block(p_x, o_t, m_t, o_d, D)
        b_gram += tl.dot(b_u, tl.trans(b_x), input_precision=PRECISION)
    store_block(p_gram + i_c * BT * BT, b_gram, o, o < BT, o, BT)


@triton.jit
def states_kernel(
    p_theta, p_x, p_initial, p_states, p_final, p_begin, p_end, p_first, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BM x BD numbers of one sequence's state; carries them through its chunks, writing what enters each."""
    i_m, i_d, i_s = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m, o_d = i_m * BM + tl.arange(0, BM), i_d * BD + tl.arange(0, BD)
    m_m = o_m < M
    b_h = load_block(p_initial + i_s * M * D, o_m, m_m, o_d, D)
    first, after = tl.load(p_first + i_s), tl.load(p_first + i_s + 1)
    for i in range(0, after - first):
        i_c = (first + i).to(tl.int64)
        store_block(p_states + i_c * M * D, b_h, o_m, m_m, o_d, D)
        o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
        b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
        b_after = tl.cumprod(b_next, 0, reverse=True)
        b_total = tl.sum(tl.where((tl.arange(0, BT) == 0)[:, None], b_after * b_keep, 0.0), 0)
        b_x = load_block(p_x, o_t, m_t, o_d, D)
        b_h = b_total[:, None] * b_h + tl.dot(tl.trans(b_theta * b_after), b_x, input_precision=PRECISION)
    store_block(p_final + i_s * M * D, b_h, o_m, m_m, o_d, D)


@triton.jit
def inner_kernel(
    p_theta, p_phi, p_x, p_states, p_gram, p_start, p_norm, p_norm0, p_psi, p_begin, p_end, M, D, eps,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads x, the state that enters and <x, x>; writes <H, x>, |h|^2 and psi."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m = i_m * BM + tl.arange(0, BM)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_inner, b_square = tl.zeros((BT, BM), tl.float32), tl.zeros((BM,), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_h = load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)
        b_inner += tl.dot(load_block(p_x, o_t, m_t, o_d, D), tl.trans(b_h), input_precision=PRECISION)
        b_square += tl.sum(b_h * b_h, 1)
    store_block(p_start, b_inner, o_t, m_t, o_m, M)
    tl.store(p_norm0 + i_c * M + o_m, b_square, mask=m_m)

    b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
    b_gram = _load_tile(p_gram, i_c, BT)
    b_inner = _times_decay(b_theta, b_keep, b_next, b_gram, b_inner, BT, BM, PRECISION, LEVELS)
    b_gain = b_theta * (2.0 * b_keep * b_inner + b_theta * _diagonal(b_gram, BT))
    b_power, b_norm = tl.associative_scan((b_keep * b_keep, b_gain), 0, _linear)
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
        b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
        b_weight = load_block(p_weight, o_t, m_t, o_m, M)
        b_diagonal += tl.sum(b_weight * b_theta, 1)
        for i in tl.static_range(LEVELS):
            reach, write = _factors(b_theta, b_keep, b_next, BT >> (i + 1), BT, BM)
            b_pairs = tl.dot(b_weight * reach, tl.trans(write), input_precision=PRECISION)
            b_tile += tl.where(_same_block(BT >> i, BT), b_pairs, 0.0)
    if SYMMETRIC:
        b_tile += tl.trans(b_tile)
    b_tile = tl.where(o[:, None] == o[None, :], b_diagonal[:, None], b_tile)
    store_block(p_tile + i_c * BT * BT, b_tile, o, o < BT, o, BT)


@triton.jit
def read_kernel(
    p_theta, p_x, p_states, p_psi, p_tile, p_y, p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BD columns of one chunk's y = (psi P) H + A x, all slots in order."""
    o_d, i_c = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1).to(tl.int64)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_y = tl.dot(_load_tile(p_tile, i_c, BT), load_block(p_x, o_t, m_t, o_d, D), input_precision=PRECISION)
    for i_m in range(0, tl.cdiv(M, BM)):
        o_m = i_m * BM + tl.arange(0, BM)
        b_reach = tl.cumprod(1.0 - load_block(p_theta, o_t, m_t, o_m, M), 0)
        b_h = load_block(p_states + i_c * M * D, o_m, o_m < M, o_d, D)
        b_y += tl.dot(load_block(p_psi, o_t, m_t, o_m, M) * b_reach, b_h, input_precision=PRECISION)
    store_block(p_y, b_y, o_t, m_t, o_d, D)


@triton.jit
def pull_kernel(
    p_theta, p_dy, p_states, p_cross, p_norm, p_psi, p_dphi, p_f, p_pull, p_nu, p_radial, p_begin, p_end, M, D, eps,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads dy, the state that enters, <dy, x>; writes dphi, <H, dy>, N, nu, a_1^2 N_1."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m = i_m * BM + tl.arange(0, BM)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_f = tl.zeros((BT, BM), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_h = load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)
        b_f += tl.dot(load_block(p_dy, o_t, m_t, o_d, D), tl.trans(b_h), input_precision=PRECISION)
    store_block(p_f, b_f, o_t, m_t, o_m, M)

    b_inverse = 1.0 / tl.sqrt(load_block(p_norm, o_t, m_t, o_m, M) / D + eps)
    b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
    b_cross = _load_tile(p_cross, i_c, BT)
    b_f = _times_decay(b_theta, b_keep, b_next, b_cross, b_f, BT, BM, PRECISION, LEVELS)
    b_dphi = (b_keep * b_f + b_theta * _diagonal(b_cross, BT)) * b_inverse
    store_block(p_dphi, b_dphi, o_t, m_t, o_m, M)
    b_pull = -b_dphi * load_block(p_psi, o_t, m_t, o_m, M) * b_inverse / D
    _, b_pull = tl.associative_scan((b_next * b_next, b_pull), 0, _linear, reverse=True)
    store_block(p_pull, b_pull, o_t, m_t, o_m, M)
    store_block(p_nu, b_pull * b_theta, o_t, m_t, o_m, M)
    b_radial = tl.sum(tl.where((tl.arange(0, BT) == 0)[:, None], b_keep * b_keep * b_pull, 0.0), 0)
    tl.store(p_radial + i_c * M + o_m, b_radial, mask=m_m)


@triton.jit
def adjoint_kernel(
    p_theta, p_x, p_dy, p_states, p_psi, p_nu, p_radial, p_dfinal, p_adjoint, p_dinitial,
    p_begin, p_end, p_first, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BM x BD numbers of one sequence's adjoint; carries them back through its chunks, writing the gradient of
    the state that leaves each."""
    i_m, i_d, i_s = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m, o_d = i_m * BM + tl.arange(0, BM), i_d * BD + tl.arange(0, BD)
    m_m = o_m < M
    b_l = load_block(p_dfinal + i_s * M * D, o_m, m_m, o_d, D)
    first, after = tl.load(p_first + i_s), tl.load(p_first + i_s + 1)
    for i in range(0, after - first):
        i_c = (after - 1 - i).to(tl.int64)
        store_block(p_adjoint + i_c * M * D, b_l, o_m, m_m, o_d, D)
        o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
        b_reach = tl.cumprod(1.0 - load_block(p_theta, o_t, m_t, o_m, M), 0)
        b_total = tl.sum(tl.where((tl.arange(0, BT) == BT - 1)[:, None], b_reach, 0.0), 0)
        b_radial = tl.load(p_radial + i_c * M + o_m, mask=m_m, other=0.0)
        b_l = b_total[:, None] * b_l + b_radial[:, None] * load_block(p_states + i_c * M * D, o_m, m_m, o_d, D)
        b_psi, b_nu = load_block(p_psi, o_t, m_t, o_m, M) * b_reach, load_block(p_nu, o_t, m_t, o_m, M) * b_reach
        b_l += tl.dot(tl.trans(b_psi), load_block(p_dy, o_t, m_t, o_d, D), input_precision=PRECISION)
        b_l += tl.dot(tl.trans(b_nu), load_block(p_x, o_t, m_t, o_d, D), input_precision=PRECISION)
    store_block(p_dinitial + i_s * M * D, b_l, o_m, m_m, o_d, D)


@triton.jit
def gates_kernel(
    p_theta, p_x, p_states, p_adjoint, p_gram, p_cross, p_start, p_f, p_norm, p_norm0, p_psi, p_pull, p_dtheta,
    p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Owns BM slots of one chunk. Reads the state that enters and the adjoint of the one that leaves; writes dtheta."""
    i_m, i_c = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_m, o = i_m * BM + tl.arange(0, BM), tl.arange(0, BT)
    m_m = o_m < M
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_l, b_lh = tl.zeros((BT, BM), tl.float32), tl.zeros((BM,), tl.float32)
    for i_d in range(0, tl.cdiv(D, BD)):
        o_d = i_d * BD + tl.arange(0, BD)
        b_adjoint = load_block(p_adjoint + i_c * M * D, o_m, m_m, o_d, D)
        b_l += tl.dot(load_block(p_x, o_t, m_t, o_d, D), tl.trans(b_adjoint), input_precision=PRECISION)
        b_lh += tl.sum(b_adjoint * load_block(p_states + i_c * M * D, o_m, m_m, o_d, D), 1)

    b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
    b_g, b_f = load_block(p_start, o_t, m_t, o_m, M), load_block(p_f, o_t, m_t, o_m, M)
    b_psi, b_pull = load_block(p_psi, o_t, m_t, o_m, M), load_block(p_pull, o_t, m_t, o_m, M)
    b_gram, b_cross = _load_tile(p_gram, i_c, BT), _load_tile(p_cross, i_c, BT)
    b_lh = tl.broadcast_to(b_lh[None, :], (BT, BM))
    for i in tl.static_range(LEVELS):
        reach, write = _factors(b_theta, b_keep, b_next, BT >> (i + 1), BT, BM)
        lower, upper = _totals(b_keep, BT >> (i + 1), BT, BM)
        above, same = _above(BT >> (i + 1), BT), _same_block(BT >> i, BT)
        b_gram_w, b_cross_w = tl.where(same, b_gram, 0.0), tl.where(same, b_cross, 0.0)
        b_p, b_n = b_psi * reach, b_pull * b_theta * reach
        from_below, from_above = write * b_l, b_p * b_f + b_n * b_g
        b_lh = b_lh * tl.where(above, lower, upper) + tl.where(
            above, _segment_sum(from_below, BT >> i, BT, BM), _segment_sum(from_above, BT >> i, BT, BM)
        )
        b_l = tl.where(above, 1.0, upper) * b_l
        b_l += tl.dot(tl.trans(b_cross_w), b_p, input_precision=PRECISION) * tl.where(above, 0.0, 1.0)
        b_l += tl.dot(tl.trans(b_gram_w), b_n, input_precision=PRECISION) * tl.where(above, 0.0, 1.0)
        b_f = _enter_upper(b_f, b_cross_w, write, lower, above, PRECISION)
        b_g = _enter_upper(b_g, b_gram_w, write, lower, above, PRECISION)

    b_before = load_block(p_norm - M, o_t, m_t & (o > 0), o_m, M)
    b_norm0 = tl.load(p_norm0 + i_c * M + o_m, mask=m_m, other=0.0)
    b_before = tl.where((o == 0)[:, None], b_norm0[None, :], b_before)
    b_with_h = (b_keep - b_theta) * b_g + b_theta * _diagonal(b_gram, BT) - b_keep * b_before
    b_dtheta = b_l - b_lh + b_psi * (_diagonal(b_cross, BT) - b_f) + b_pull * b_with_h
    store_block(p_dtheta, b_dtheta, o_t, m_t, o_m, M)


@triton.jit
def offers_kernel(
    p_theta, p_x, p_dy, p_states, p_adjoint, p_nu, p_tile, p_twin, p_dx, p_begin, p_end, M, D,
    BT: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Owns BD columns of one chunk's dx = A^T dy + (B + B^T) x + (theta keep) L + (nu P) H, all slots in order."""
    o_d, i_c = tl.program_id(0) * BD + tl.arange(0, BD), tl.program_id(1).to(tl.int64)
    o_t, m_t = _chunk(p_begin, p_end, i_c, BT)
    b_tile, b_twin = _load_tile(p_tile, i_c, BT), _load_tile(p_twin, i_c, BT)
    b_dx = tl.dot(tl.trans(b_tile), load_block(p_dy, o_t, m_t, o_d, D), input_precision=PRECISION)
    b_dx += tl.dot(b_twin, load_block(p_x, o_t, m_t, o_d, D), input_precision=PRECISION)
    for i_m in range(0, tl.cdiv(M, BM)):
        o_m = i_m * BM + tl.arange(0, BM)
        b_theta, b_keep, b_next = _decays(p_theta, p_end, i_c, o_t, m_t, o_m, M)
        b_write = b_theta * tl.cumprod(b_next, 0, reverse=True)
        b_l = load_block(p_adjoint + i_c * M * D, o_m, o_m < M, o_d, D)
        b_dx += tl.dot(b_write, b_l, input_precision=PRECISION)
        b_nu = load_block(p_nu, o_t, m_t, o_m, M) * tl.cumprod(b_keep, 0)
        b_h = load_block(p_states + i_c * M * D, o_m, o_m < M, o_d, D)
        b_dx += tl.dot(b_nu, b_h, input_precision=PRECISION)
    store_block(p_dx, b_dx, o_t, m_t, o_d, D)


# --- host ------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Sizes of a program: tokens of a chunk, slots and columns of a block (powers of two, 16 or more), warps."""

    tokens: int
    slots: int
    width: int
    warps: int


DEFAULT = Blocks(32, 16, 32, 8)  # fits any card, no kernel spills on an H100: docs/kernels.md, section 6
CONFIGURATIONS = (DEFAULT, Blocks(16, 16, 64, 8), Blocks(32, 16, 64, 4), Blocks(64, 16, 32, 8))


def factorization_memory(
    theta: Tensor,
    phi: Tensor,
    x: Tensor,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    cu_seqlens: Tensor | None = None,
    blocks: Blocks = DEFAULT,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What `fast.factorization_memory` does with backend="triton", without its checks.

    precision: how a GPU multiplies float32 matrices, "ieee" or "tf32" (10 bits of mantissa, faster). "auto" is "tf32"
    for half-precision x, which has no more bits itself; else what torch.set_float32_matmul_precision says.
    """
    inputs = (theta, phi, x, initial_state)
    save = operators.needs_grad(*inputs)
    y, final_state, *_ = _forward_op(*inputs, cu_seqlens, eps, precision, save, *blocks)
    return y, final_state


def fastest(theta: Tensor, phi: Tensor, x: Tensor, measure: Callable = triton.testing.do_bench) -> Blocks:
    """The configuration in which forward and backward of such inputs take least time on this GPU.

    measure(f) runs f and returns its time. A configuration that needs more shared memory than the GPU has is passed
    over; DEFAULT fits every card. ValueError where there is no GPU to measure.
    """
    if measure is triton.testing.do_bench and not x.is_cuda:
        raise ValueError(f"x must be on the GPU that is to be measured, got {x.device}")
    leaves = [v.detach().requires_grad_() for v in (theta, phi, x)]

    def both(blocks: Blocks) -> None:
        y, _ = factorization_memory(*leaves, blocks=blocks)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    times = {}
    for blocks in CONFIGURATIONS:
        try:
            with torch.cuda.device_of(x):  # where the events of a measurement are recorded
                times[blocks] = measure(partial(both, blocks))
        except triton.OutOfResources:
            continue
    return min(times, key=times.get)


class _Chunks(NamedTuple):
    begin: Tensor
    end: Tensor
    first: Tensor


def _chunks(x: Tensor, cu_seqlens: Tensor | None, length: int) -> _Chunks:
    """Made on the device without waiting for it; places of chunks that packed sequences do not need stay empty."""
    if cu_seqlens is None:
        bounds = torch.arange(x.shape[0] + 1, device=x.device) * x.shape[1]
    else:
        bounds = cu_seqlens.long()
    counts = (bounds.diff() + length - 1) // length
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    c = torch.arange(_capacity(x, cu_seqlens, length), device=x.device)
    sequence = torch.searchsorted(first[1:], c, right=True).clamp(max=max(len(counts) - 1, 0))
    begin = bounds[sequence] + (c - first[sequence]) * length
    end = torch.minimum(begin + length, bounds[sequence + 1])
    return _Chunks(begin, torch.where(c < first[-1], end, begin), first)


def _capacity(x: Tensor, cu_seqlens: Tensor | None, length: int) -> int:
    rows, tokens, _ = x.shape
    return rows * -(-tokens // length) if cu_seqlens is None else tokens // length + cu_seqlens.shape[0] - 1


def _precision(asked: str, x: Tensor) -> str:
    """Asked inside the operators: torch.compile cannot trace the question."""
    if asked != "auto":
        return asked
    exact = x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def _constants(blocks: Blocks, precision: str) -> dict:
    tokens, slots, width, warps = blocks
    return {"BT": tokens, "BM": slots, "BD": width, "LEVELS": tokens.bit_length() - 1, "PRECISION": precision,
            "warps": warps}  # fmt: skip


def _outputs(theta, phi, x, initial_state, cu_seqlens, eps, precision, save, bt, bm, bd, warps):
    """Unwritten outputs of _forward_op."""
    (rows, tokens, width), slots = x.shape, theta.shape[-1]
    sequences = rows if cu_seqlens is None else cu_seqlens.shape[0] - 1
    chunks, kept = _capacity(x, cu_seqlens, bt) if save else 0, rows * tokens if save else 0
    saved = (chunks, slots, width), (kept, slots), (kept, slots), (chunks, slots), (kept, slots), (chunks, bt, bt)
    shapes = ((sequences, slots, width), *saved, (chunks, bt, bt))
    return x.new_empty(x.shape), *(x.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _gradients(dy, dfinal, theta, phi, x, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, x, dfinal))


@torch.library.custom_op("factorization_memory::triton_dense", mutates_args=())
def _forward_op(
    theta: Tensor, phi: Tensor, x: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None,
    eps: float, precision: str, save: bool, bt: int, bm: int, bd: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save: states that enter chunks, <H, x>, |h|^2, |H|^2, psi, <x, x> and A."""
    options = theta, phi, x, initial_state, cu_seqlens, eps, precision
    y, final, *saved = _outputs(*options, save, bt, bm, bd, warps)
    work = saved if save else _outputs(*options, True, bt, bm, bd, warps)[2:]
    states, start, norm, norm0, psi, gram, tile = work
    if cu_seqlens is not None:
        states.zero_()  # some may not be needed
    theta, phi, x = (v.contiguous() for v in (theta, phi, x))
    initial = torch.zeros_like(final) if initial_state is None else initial_state.float().contiguous()
    (sequences, M, D), chunks = final.shape, len(states)
    begin, end, first = _chunks(x, cu_seqlens, bt)
    c = _constants(Blocks(bt, bm, bd, warps), _precision(precision, x))
    by_slot, by_width = triton.cdiv(M, bm), triton.cdiv(D, bd)
    launch(gram_kernel, (chunks,), x, x, gram, begin, end, D, **c)
    launch(
        states_kernel, (by_slot, by_width, sequences), theta, x, initial, states, final, begin, end, first, M, D, **c
    )
    launch(inner_kernel, (by_slot, chunks), theta, phi, x, states, gram, start, norm, norm0, psi, begin, end,
            M, D, eps, **c)  # fmt: skip
    launch(tile_kernel, (chunks,), theta, psi, tile, begin, end, M, SYMMETRIC=False, **c)
    launch(read_kernel, (by_width, chunks), theta, x, states, psi, tile, y, begin, end, M, D, **c)
    return y, final, *saved


@torch.library.custom_op("factorization_memory::triton_dense_backward", mutates_args=())
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, x: Tensor, cu_seqlens: Tensor | None,
    states: Tensor, start: Tensor, norm: Tensor, norm0: Tensor, psi: Tensor, gram: Tensor, tile: Tensor,
    eps: float, precision: str, bt: int, bm: int, bd: int, warps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, x and of the initial state."""
    dtheta, dphi, dx, dinitial = _gradients(dy, dfinal, theta, phi, x)
    theta, x, dy, dfinal = (v.contiguous() for v in (theta, x, dy, dfinal))
    (sequences, M, D), chunks = dfinal.shape, len(states)
    cross, twin, adjoint = torch.empty_like(gram), torch.empty_like(gram), torch.empty_like(states)
    f, pull, nu, radial = torch.empty_like(psi), torch.empty_like(psi), torch.empty_like(psi), torch.empty_like(norm0)
    begin, end, _ = at = _chunks(x, cu_seqlens, bt)
    c = _constants(Blocks(bt, bm, bd, warps), _precision(precision, x))
    by_slot, by_width = triton.cdiv(M, bm), triton.cdiv(D, bd)
    launch(gram_kernel, (chunks,), dy, x, cross, begin, end, D, **c)
    launch(pull_kernel, (by_slot, chunks), theta, dy, states, cross, norm, psi, dphi, f, pull, nu, radial, begin, end,
            M, D, eps, **c)  # fmt: skip
    launch(adjoint_kernel, (by_slot, by_width, sequences), theta, x, dy, states, psi, nu, radial, dfinal, adjoint,
            dinitial, *at, M, D, **c)  # fmt: skip
    launch(gates_kernel, (by_slot, chunks), theta, x, states, adjoint, gram, cross, start, f, norm, norm0, psi, pull,
            dtheta, begin, end, M, D, **c)  # fmt: skip
    launch(tile_kernel, (chunks,), theta, nu, twin, begin, end, M, SYMMETRIC=True, **c)
    launch(offers_kernel, (by_width, chunks), theta, x, dy, states, adjoint, nu, tile, twin, dx, begin, end, M, D, **c)
    return dtheta, dphi, dx, dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, x, initial_state, cu_seqlens, eps, precision, _, *blocks = inputs
    ctx.save_for_backward(theta, phi, x, cu_seqlens, *output[2:])
    ctx.rest = (
        (eps, precision, *blocks),
        initial_state is not None and initial_state.dtype,
        (output[1].shape, output[1].dtype),
    )


def _backward(ctx, dy, dfinal):
    theta, phi, x, cu_seqlens, *saved = ctx.saved_tensors
    rest, dtype, final = ctx.rest
    dy, dfinal = operators.asked_for(dy, dfinal, x, final)
    *grads, dinitial = _backward_op(dy, dfinal, theta, phi, x, cu_seqlens, *saved, *rest)
    return *grads, dinitial.to(dtype) if dtype else None, *(None,) * 8


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
