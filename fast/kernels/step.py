"""One decode step of Factorization Memory in Triton, dense and sparse, in place and out of place. No gradients.

    step_kernel    writes and reads a group of slots: every number of the state goes in once and out once
    merge_kernel   adds what the groups read, in order, where there is more than one

A program keeps whole slot rows in registers, so the norm of the read-out waits for nothing. Group sizes do not depend
on the batch and there are no atomics: a sequence gives the same bits alone and in any batch. The host only launches,
so a step can be captured in a CUDA graph. Everything inside is float32, whatever the inputs are.

Names: p_ pointer, s_ stride, b_ block in registers, o_ offsets, m_ masks, i_ program ids; BG slots of a group, BM of
them at a time, BD columns. K weights per token (K = M in the dense form).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast.kernels.blocks import GRID, launch


@triton.jit
def step_kernel(
    p_theta, p_phi, p_slots, p_v, p_before, p_after, p_shares, s_b, s_m, s_d, K, M, D, eps,
    BG: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    """Owns BG slots of one sequence, whole rows. Reads them from `before`, writes them to `after` (which may be
    `before`), and writes their share of y: [groups, D] for each sequence.

    A slot outside the state is left alone and turns y into NaN: nobody has looked at the slots of a GPU.
    """
    i_b, i_g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_d = tl.arange(0, BD)
    m_d = o_d < D
    b_v = tl.load(p_v + i_b * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_y = tl.zeros((BD,), tl.float32)
    for i in range(0, BG, BM):
        o_k = i_g * BG + i + tl.arange(0, BM)
        m_k = o_k < K
        b_theta = tl.load(p_theta + i_b * K + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_phi = tl.load(p_phi + i_b * K + o_k, mask=m_k, other=0.0).to(tl.float32)
        o_m = o_k.to(tl.int64)
        if SPARSE:
            o_m = tl.load(p_slots + i_b * K + o_k, mask=m_k, other=0).to(tl.int64)
        inside = (o_m >= 0) & (o_m < M)
        mask = (m_k & inside)[:, None] & m_d[None, :]
        at = i_b * s_b + o_m[:, None] * s_m + o_d[None, :].to(tl.int64) * s_d
        b_h = tl.load(p_before + at, mask=mask, other=0.0)
        b_h = (1.0 - b_theta)[:, None] * b_h + b_theta[:, None] * b_v[None, :]  # (4)
        tl.store(p_after + at, b_h, mask=mask)
        b_psi = b_phi / tl.sqrt(tl.sum(b_h * b_h, 1) / D + eps)  # (5)
        b_psi = tl.where(m_k & ~inside, float("nan"), b_psi)
        b_y += tl.sum(b_psi[:, None] * b_h, 0)  # (6)
    p_share = p_shares + (i_b * tl.num_programs(1) + i_g) * D
    tl.store(p_share + o_d, b_y.to(p_shares.dtype.element_ty), mask=m_d)


@triton.jit
def merge_kernel(p_shares, p_y, groups, D, BS: tl.constexpr, BD: tl.constexpr):
    """Owns BD columns of one sequence's y. Reads the shares of all its groups, BS at a time; writes their sum."""
    i_b, o_d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    b_y = tl.zeros((BD,), tl.float32)
    for i in range(0, groups, BS):
        o_g = i + tl.arange(0, BS)
        at = (i_b * groups + o_g)[:, None] * D + o_d[None, :]
        b_y += tl.sum(tl.load(p_shares + at, mask=(o_g < groups)[:, None] & m_d[None, :], other=0.0), 0)
    tl.store(p_y + i_b * D + o_d, b_y.to(p_y.dtype.element_ty), mask=m_d)


# --- host ------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Slots of a group, numbers of the state in registers at a time (powers of two), warps of a program."""

    slots: int
    numbers: int
    warps: int

    def constants(self, weights: int, width: int) -> dict[str, int]:
        """BG, BM and BD of step_kernel for K weights and D columns. A grid has room for 65,535 groups."""
        bd = triton.next_power_of_2(width)
        bg = min(self.slots, triton.next_power_of_2(weights))
        bg = max(bg, triton.next_power_of_2(triton.cdiv(weights, GRID[1])))
        return {"BG": bg, "BM": max(1, min(bg, self.numbers // bd)), "BD": bd}


DEFAULT = Blocks(8, 8192, 8)  # 8 slots: the shares of y add an eighth to what is moved
CONFIGURATIONS = (DEFAULT, Blocks(4, 4096, 4), Blocks(16, 4096, 8), Blocks(32, 16384, 8))
MERGE = {"BS": 16, "BD": 64}


def step(
    theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6, blocks: Blocks = DEFAULT
) -> tuple[Tensor, Tensor]:
    """What `fast.step` does, without its checks: theta, phi [B, M], value [B, D], float32 state [B, M, D]."""
    return _step_op(theta, phi, value, state, eps, *blocks)


def step_(
    theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6, blocks: Blocks = DEFAULT
) -> tuple[Tensor, Tensor]:
    """`step` that writes into `state`, which may be strided, and returns it."""
    return _step_op_(theta, phi, None, value, state, eps, *blocks), state


def sparse_step(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    eps: float = 1e-6,
    blocks: Blocks = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """What `fast.sparse_step` does, without its checks: theta, phi, slots [B, K], all slots of a token different."""
    return sparse_step_(
        theta, phi, slots, value, state.clone(memory_format=torch.contiguous_format), eps=eps, blocks=blocks
    )


def sparse_step_(
    theta: Tensor,
    phi: Tensor,
    slots: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    eps: float = 1e-6,
    blocks: Blocks = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """`sparse_step` that writes into `state`, which may be strided, and returns it."""
    return _step_op_(theta, phi, slots, value, state, eps, *blocks), state


def _run(theta, phi, slots, value, before, after, eps, blocks) -> Tensor:
    """y. `before` and `after` share their strides."""
    theta, phi, value = (v.contiguous() for v in (theta, phi, value))
    slots = None if slots is None else slots.contiguous()
    (B, D), K, y = value.shape, theta.shape[-1], torch.empty_like(value)
    sizes = {"K": K, "M": before.shape[1], "D": D, "eps": eps}
    constants = blocks.constants(K, D)
    groups = triton.cdiv(K, constants["BG"])
    shares = y if groups == 1 else value.new_empty(B, groups, D, dtype=torch.float32)
    s_b, s_m, s_d = before.stride()
    launch(
        step_kernel, (B, groups), p_theta=theta, p_phi=phi, p_slots=slots, p_v=value, p_before=before, p_after=after,
        p_shares=shares, s_b=s_b, s_m=s_m, s_d=s_d, SPARSE=slots is not None, warps=blocks.warps, **sizes, **constants,
    )  # fmt: skip
    if groups > 1:
        by_width = triton.cdiv(D, MERGE["BD"])
        launch(merge_kernel, (B, by_width), p_shares=shares, p_y=y, groups=groups, D=D, warps=4, **MERGE)
    return y


@torch.library.custom_op("factorization_memory::triton_step", mutates_args=())
def _step_op(
    theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, eps: float, slots_per_group: int, numbers: int, warps: int
) -> tuple[Tensor, Tensor]:
    before = state.contiguous()
    after = torch.empty_like(before)
    return _run(theta, phi, None, value, before, after, eps, Blocks(slots_per_group, numbers, warps)), after


@torch.library.custom_op("factorization_memory::triton_step_", mutates_args={"state"})
def _step_op_(
    theta: Tensor, phi: Tensor, slots: Tensor | None, value: Tensor, state: Tensor,
    eps: float, slots_per_group: int, numbers: int, warps: int,
) -> Tensor:  # fmt: skip
    if any(size > 1 and stride == 0 for size, stride in zip(state.shape, state.stride(), strict=True)):
        raise ValueError("state must not be expanded to be written in place: several numbers share one address")
    return _run(theta, phi, slots, value, state, state, eps, Blocks(slots_per_group, numbers, warps))


@_step_op.register_fake
def _(theta, phi, value, state, *_):
    return value.new_empty(value.shape), state.new_empty(state.shape)


@_step_op_.register_fake
def _(theta, phi, slots, value, *_):
    return value.new_empty(value.shape)
