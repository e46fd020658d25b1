"""Sparse Factorization Memory as one segmented scan over (token, slot) pairs, in torch, with a hand-written backward.

Sort the B T K pairs of a batch by (sequence, slot), tokens in order. Every slot that is used is then one segment of the
list, and its state a recurrence along its segment with *one* gate per pair:

    h = (1 - theta) h_before + theta v          at a segment's first pair h_before is the slot's initial state

Let the decay of a segment's first pair be 0 and its value what the slot holds after it: segments no longer touch each
other, and the whole list is a single recurrence, whatever the routing. Cut it into chunks of C pairs. A chunk is one
product [C x C] [C x D], what enters chunks is the same recurrence with a chunk for a pair, and again a small product.
So time and work depend on the number of pairs alone: not on M, nor on how evenly the slots are used. The states of a
block of chunks are explicit, norms are taken from them, and y gathers psi h from a token's K pairs. docs/derivation.md,
section 6.

Shapes: the list is made of lines of m chunks; a row of the batch (all packed sequences are one) is one line or several,
its last one padded. A block of r lines, n = r m C pairs, is worked on at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast import operators, packing
from fast.operators import checked_slots, in_given_dtypes

CHUNK = 16  # pairs; docs/decisions.md has the measurement
LINE_CHUNKS = 64  # at most: each meets each in a product
BLOCK_NUMBERS = 1 << 19  # pairs of a block times D: its states and values stay in the cache
PART_PAIRS = 1 << 14  # whose decays are made at a time


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
) -> tuple[Tensor, Tensor]:
    """What `fast.sparse_factorization_memory` does with backend="scan", without its checks.

    >>> one = torch.ones(1, 2, 1)
    >>> value = torch.tensor([[[3.0, 3.0], [5.0, -5.0]]])
    >>> y, state = sparse_factorization_memory(one, one, torch.tensor([[[7], [2]]]), value, num_slots=9, eps=1e-12)
    >>> y.round(decimals=3), state[0, 7]
    (tensor([[[ 1.,  1.],
             [ 1., -1.]]]), tensor([3., 3.]))
    """
    slots = checked_slots(slots, num_slots, check_values)
    inputs = (theta, phi, value, initial_state)
    save = operators.needs_grad(*inputs)
    y, final_state, *_ = _forward_op(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, save)
    return y, final_state


# --- the sorted list -------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Some lines of the list, and the decays among their pairs."""

    pairs: slice
    chunks: slice
    starts: slice  # which of the list's segments start in it, which end
    ends: slice
    opens: bool  # whether a row begins with it, or ends
    closes: bool
    within: Tensor  # [r m, C, C], from pair to pair of a chunk
    decay_from_start: Tensor  # [r m, C, 1], from before the chunk to each pair
    between: Tensor  # [r, m + 1, m + 1], from what enters the line (place 0), or from a chunk, to the end of another


class _Pairs:
    """The pairs (token, slot) sorted by sequence and slot, tokens in order.

    order [B T K]: what torch.sort says. token [pairs]: of all B T. start, end: where segments start and end, counted
    from the block. used: each segment's sequence * M + slot.
    """

    def __init__(
        self, slots: Tensor, num_slots: int, width: int, cu_seqlens: Tensor | None, order: Tensor | None = None
    ):
        self.rows, tokens, per_token = slots.shape
        self.size = tokens * per_token
        self.length, self.line, self.block = _row_length(self.size, width)
        segment = packing.segments(slots, num_slots, cu_seqlens)
        if order is None:
            segment, self.order = segment.sort(stable=True)
        else:
            segment, self.order = segment[order], order
        first = torch.arange(self.rows, device=slots.device)[:, None] * tokens  # a padding pair has no weight
        token = (self.order // per_token).view(self.rows, self.size)
        self.token = torch.cat([token, first.expand(-1, self.length - self.size)], 1).flatten()
        edge, outer = segment.diff() != 0, segment.new_ones(min(len(segment), 1), dtype=torch.bool)
        start, end = (torch.cat(v).nonzero()[:, 0] for v in ((outer, edge), (edge, outer)))
        self.used = segment[start]
        self.start_at, self.end_at = (v + v // max(self.size, 1) * (self.length - self.size) for v in (start, end))
        self.start, self.end = self.start_at % self.block, self.end_at % self.block

    def take(self, v: Tensor, dtype: torch.dtype) -> Tensor:
        """v [B, T, K] in the list's order, 0 where it is padded: [pairs]."""
        v = v.flatten()[self.order].to(dtype).view(self.rows, self.size)
        return F.pad(v, (0, self.length - self.size)).flatten()

    def put(self, v: Tensor, out: Tensor) -> None:
        """The inverse of take: writes to out [B, T, K]."""
        out.view(-1)[self.order] = v.view(self.rows, self.length)[:, : self.size].flatten().to(out.dtype)

    def blocks(self, decay: Tensor, backwards: bool = False) -> Iterator[_Block]:
        """The list a block at a time, given the decay of every pair."""
        bounds = torch.arange(0, len(decay) + self.block, self.block, device=decay.device).clamp(max=len(decay))
        starts, ends = (torch.searchsorted(v, bounds).tolist() for v in (self.start_at, self.end_at))
        begins = range(0, len(decay), self.block)
        part = max(1, PART_PAIRS // self.block)
        for i in _order(range(0, len(begins), part), backwards):
            span = decay[i * self.block : (i + part) * self.block]
            tiles = _tiles(span.view(-1, self.line // CHUNK, CHUNK))
            for j in _order(range(i, min(i + part, len(begins))), backwards):
                begin, end = begins[j], min(begins[j] + self.block, len(decay))
                lines = slice((begin - begins[i]) // self.line, (end - begins[i]) // self.line)
                yield _Block(
                    slice(begin, end), slice(begin // CHUNK, end // CHUNK), slice(*starts[j : j + 2]),
                    slice(*ends[j : j + 2]), begin % self.length == 0, end % self.length == 0,
                    *(v[lines].flatten(0, 1) for v in tiles[:2]), tiles[2][lines],
                )  # fmt: skip


def _order(steps: range, backwards: bool) -> range:
    return steps[::-1] if backwards else steps


def _row_length(pairs: int, width: int) -> tuple[int, int, int]:
    """For so many pairs in a row of the batch: pairs in it once padded, of a line, and of a block.

    >>> _row_length(2050, 512)
    (2064, 688, 688)
    """
    lines, line = _lines(pairs, width)
    row, line = lines * line, max(1, line)
    together = max(1, _most(width) // line) if lines == 1 else 1
    return row * CHUNK, line * CHUNK, together * line * CHUNK


def _lines(pairs: int, width: int) -> tuple[int, int]:
    """Lines of a row, and chunks of a line. Compares nothing with pairs: one graph will do for any length."""
    chunks = -(-pairs // CHUNK)
    lines = torch.sym_max(1, -(-chunks // min(_most(width), LINE_CHUNKS)))
    return lines, -(-chunks // lines)


def _most(width: int) -> int:
    """Chunks of a block."""
    return max(1, BLOCK_NUMBERS // (width * CHUNK))


def _decay(decay: Tensor) -> Tensor:
    """decay [..., C] -> D [..., C, C], D[t, s] = decay over s+1 .. t, 0 for s > t."""
    o = torch.arange(decay.shape[-1], device=decay.device)
    return torch.where(o[:, None] > o, decay[..., None], 1).cumprod(-2).tril_()


def _tiles(decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """decay [lines, m, C] -> within, decay_from_start and between of their blocks."""
    within = _decay(decay)
    decay_from_start = within[..., :1] * decay[..., :1, None]
    return within, decay_from_start, _decay(F.pad(decay_from_start[:, :, -1, 0], (1, 0)))


# --- products --------------------------------------------------------------------------------------------------


def _local(block: _Block, write_weight: Tensor, values: Tensor, out: Tensor) -> Tensor:
    """What each chunk's own pairs make of its state, [r m, C, D] in the memory of out [n, D]."""
    out = out.view(len(block.within), CHUNK, -1)
    return torch.bmm(block.within * write_weight.view(-1, 1, CHUNK), values.view_as(out), out=out)


def _entering(block: _Block, states: Tensor, start: Tensor) -> Tensor:
    """start [r, D] and the chunks' own last states -> what enters each chunk, and leaves the line: [r, m + 1, D]."""
    last = states[:, -1].view(len(start), -1, start.shape[-1])
    return torch.bmm(block.between, torch.cat([start[:, None], last], 1))


def _adjoints(block: _Block, decay: Tensor, dh_read: Tensor, after: Tensor, out: Tensor) -> Tensor:
    """The gradient of the state after each pair, to out [n, D], from what reads it and what comes from after the line
    [r, D]. Returns what leaves to the left: [r, D]."""
    out = out.view(len(block.within), CHUNK, -1)
    torch.bmm(block.within.transpose(1, 2), dh_read.view_as(out), out=out)
    first = (out[:, 0] * decay[::CHUNK, None]).view(len(after), -1, after.shape[-1])
    leaving = torch.bmm(block.between.transpose(1, 2), torch.cat([first, after[:, None]], 1))
    _carry(out, block.within[:, -1, :, None], leaving[:, 1:])
    return leaving[:, 0]


def _carry(out: Tensor, decay: Tensor, entering: Tensor) -> None:
    """Adds to every chunk what enters it, decayed: out [r m, C, D], decay [r m, C, 1], entering [r, m, D]."""
    out.addcmul_(decay, entering.reshape(len(out), 1, -1))


def _dot(a: Tensor, b: Tensor, work: Tensor) -> Tensor:
    """<a, b> of every row; the products go to work."""
    return torch.mul(a, b, out=work).sum(-1)


# --- the operators that autograd and torch.compile see ---------------------------------------------------------


class _Saved(NamedTuple):
    """What the forward keeps for the backward, in the list's order."""

    entering: Tensor  # [chunks, D]  the state that enters each chunk
    norms: Tensor  # [pairs]  |h|^2 after each pair
    order: Tensor  # [B T K]  as torch.sort says it


def _outputs(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, save):
    """Unwritten outputs of _forward_op."""
    (batch, tokens, width), per_token = value.shape, slots.shape[-1]
    wide = any(v is not None and v.dtype == torch.float64 for v in (theta, phi, value, initial_state))
    dtype = torch.float64 if wide else torch.float32
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    lines, line = _lines(tokens * per_token, width)
    pairs = batch * lines * line * CHUNK if save else 0
    saved = _Saved(
        entering=value.new_empty(pairs // CHUNK, width, dtype=dtype),
        norms=value.new_empty(pairs, dtype=dtype),
        order=slots.new_empty(slots.numel() if save else 0),
    )
    return value.new_empty(value.shape), value.new_empty(sequences, num_slots, width, dtype=dtype), *saved


def _gradients(dy, dfinal, theta, phi, slots, value, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, value, dfinal))


class _Inputs:
    """Everything about the pairs that both passes need, in the list's order and one dtype."""

    def __init__(self, theta, phi, slots, value, num_slots, initial_state, cu_seqlens, dtype, order=None):
        width = value.shape[-1]
        self.pairs = pairs = _Pairs(slots, num_slots, width, cu_seqlens, order)
        self.value = value.to(dtype).reshape(-1, width)
        self.theta, self.phi = pairs.take(theta, dtype), pairs.take(phi, dtype)
        # A segment's first pair has what the slot holds after it as its value, and nothing before it counts.
        self.decay, self.write_weight = 1 - self.theta, self.theta.clone()
        self.decay[pairs.start_at], self.write_weight[pairs.start_at] = 0, 1
        first = self.value[pairs.token[pairs.start_at]]
        before = torch.zeros_like(first)
        if initial_state is not None:
            before = initial_state.to(dtype).flatten(0, 1)[pairs.used]
        self.first = before.lerp(first, self.theta[pairs.start_at, None])
        self.step = first - before  # [segments, D]

    def values(self, block: _Block, out: Tensor) -> Tensor:
        torch.index_select(self.value, 0, self.pairs.token[block.pairs], out=out)
        return out.index_copy_(0, self.pairs.start[block.starts], self.first[block.starts])


@torch.library.custom_op("factorization_memory::scan", mutates_args=())
@in_given_dtypes
def _forward_op(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, eps: float, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save what _Saved holds."""
    if cu_seqlens is not None:
        packing.bounds(cu_seqlens, value.shape[1])
    inputs = theta, phi, slots, value, num_slots, initial_state, cu_seqlens
    y, final, *saved = _outputs(*inputs, eps, save)
    saved = _Saved(*saved)
    dtype, width = final.dtype, value.shape[-1]
    given = _Inputs(*inputs, dtype)
    pairs, states = given.pairs, final.flatten(0, 1)
    final.copy_(torch.zeros((), dtype=dtype) if initial_state is None else initial_state)
    total = y.zero_() if y.dtype == dtype else torch.zeros_like(y, dtype=dtype)
    work = value.new_empty(2, min(pairs.block, len(given.decay)), width, dtype=dtype)
    leaving = None
    for block in pairs.blocks(given.decay):
        at = block.pairs
        values, h = work[:, : at.stop - at.start]
        local = _local(block, given.write_weight[at], given.values(block, values), h)
        carried = _entering(block, local, h.new_zeros(len(block.between), width) if block.opens else leaving)
        leaving = carried[:, -1]
        _carry(local, block.decay_from_start, carried[:, :-1])
        states.index_copy_(0, pairs.used[block.ends], h.index_select(0, pairs.end[block.ends]))
        squares = torch.linalg.vector_norm(h, dim=-1).square_()
        if save:
            saved.entering[block.chunks], saved.norms[at] = carried[:, :-1].flatten(0, 1), squares
        h.mul_((given.phi[at] * (squares / width + eps).rsqrt_())[:, None])
        total.view(-1, width).index_add_(0, pairs.token[at], h)
    if total is not y:
        y.copy_(total)
    if save:
        saved.order.copy_(pairs.order)
    return y, final, *saved


@torch.library.custom_op("factorization_memory::scan_backward", mutates_args=())
@in_given_dtypes
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, entering: Tensor, norms: Tensor, order: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, value and of the initial state."""
    dtheta, dphi, dvalue, dinitial = _gradients(dy, dfinal, theta, phi, slots, value)
    dtype, width = dfinal.dtype, value.shape[-1]
    given = _Inputs(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, dtype, order)
    pairs, dy = given.pairs, dy.to(dtype).reshape(-1, width)
    dlast = dfinal.flatten(0, 1)[pairs.used]
    dfirst, gate, read = torch.empty_like(given.first), torch.empty_like(norms), torch.empty_like(norms)
    inverse = (norms / width + eps).rsqrt_()
    psi = given.phi * inverse
    norm_grad_weight = psi * inverse / -width  # times <h, dy> / rms: the gradient of the norm, along h
    total = dvalue.zero_() if dvalue.dtype == dtype else torch.zeros_like(dvalue, dtype=dtype)
    work = value.new_empty(4, min(pairs.block, len(norms)), width, dtype=dtype)
    after = None
    for block in pairs.blocks(given.decay, backwards=True):
        at = block.pairs
        values, h, dh_read, adjoint = work[:, : at.stop - at.start]
        carried = entering[block.chunks].view(len(block.between), -1, width)
        _carry(_local(block, given.write_weight[at], given.values(block, values), h), block.decay_from_start, carried)

        torch.index_select(dy, 0, pairs.token[at], out=dh_read)
        read[at] = along = _dot(h, dh_read, adjoint).mul_(inverse[at])
        dh_read.mul_(psi[at, None]).addcmul_((along * norm_grad_weight[at])[:, None], h)
        dh_read.index_add_(0, pairs.end[block.ends], dlast[block.ends])
        after = h.new_zeros(len(block.between), width) if block.closes else after
        after = _adjoints(block, given.decay[at], dh_read, after, adjoint)
        torch.index_select(adjoint, 0, pairs.start[block.starts], out=dfirst[block.starts])

        values[1:] -= h[:-1]
        values[0] -= carried[0, 0]
        values.index_copy_(0, pairs.start[block.starts], given.step[block.starts])
        gate[at] = _dot(values, adjoint, h)
        total.view(-1, width).index_add_(0, pairs.token[at], adjoint.mul_(given.theta[at, None]))
    pairs.put(gate, dtheta)
    pairs.put(read, dphi)
    if total is not dvalue:
        dvalue.copy_(total)
    dinitial.copy_(dfinal)  # of the slots that no token names
    dinitial.flatten(0, 1)[pairs.used] = dfirst.mul_(1 - given.theta[pairs.start_at, None])
    return dtheta, dphi, dvalue, dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, _ = inputs
    ctx.save_for_backward(theta, phi, slots, value, initial_state, cu_seqlens, *output[2:])
    ctx.num_slots, ctx.eps, ctx.final = num_slots, eps, (output[1].shape, output[1].dtype)


def _backward(ctx, dy, dfinal):
    theta, phi, slots, value, initial_state, cu_seqlens, *saved = ctx.saved_tensors
    dy, dfinal = operators.asked_for(dy, dfinal, value, ctx.final)
    inputs = theta, phi, slots, value, ctx.num_slots, initial_state, cu_seqlens
    dtheta, dphi, dvalue, dinitial = _backward_op(dy, dfinal, *inputs, *_Saved(*saved), ctx.eps)
    dinitial = None if initial_state is None else dinitial.to(initial_state.dtype)
    return dtheta, dphi, None, dvalue, None, dinitial, None, None, None


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
