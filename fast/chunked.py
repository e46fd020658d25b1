"""Dense Factorization Memory as matrix products, in torch, on any device, with a hand-written backward.

A chunk of C tokens starts from a known state H. Inside it nothing of size M x D is formed per token: all that
y, the norms and the gradients need are inner products of the chunk's own vectors with each other (C x C, shared
by all slots), with H and with the adjoint L that comes back from the right (C x M each).

Between two tokens s < t stands the decay D[t, s] = (1 - theta) over s+1 .. t, for every slot. It is never laid
out as a C x C x M tile, nor taken from logarithms (theta may be 1). Cut the chunk into halves, and each half again:

    s in the lower half, t in the upper:  D[t, s] = (start of the upper half .. t) * (s+1 .. end of the lower half)

so the pairs of one width w are one product of two w x M factors that lie in [0, 1]. There are log2(C) widths, and
each costs a few passes over C x M numbers. docs/derivation.md derives the formulas; the equation numbers are those
of reference/factorization_memory.py.

Shapes here: a span is r rows (of the batch) of n chunks, g = r n; k vectors per token (1: v; 2: dy and v); w half
width.    tokens [g, C, .]   theta, phi [g, C, M]   states [r, n, M, D]   inner products with slots [g, k, C, M]
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast import operators, packing
from fast.operators import in_given_dtypes

SPAN_NUMBERS = 1 << 22  # states and tiles of one span of chunks: bounds its temporaries


def factorization_memory(
    theta: Tensor,
    phi: Tensor,
    value: Tensor,
    initial_state: Tensor | None = None,
    *,
    eps: float = 1e-6,
    cu_seqlens: Tensor | None = None,
    chunk_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What `fast.factorization_memory` does, without its checks; the chunk length can be given.

    >>> theta = torch.tensor([[[1.0], [0.0]]])
    >>> factorization_memory(theta, torch.ones(1, 2, 1), torch.tensor([[[5.0], [9.0]]]), eps=1e-12)
    (tensor([[[1.],
             [1.]]]), tensor([[[5.]]]))
    """
    inputs = (theta, phi, value, initial_state)
    save = operators.needs_grad(*inputs)
    length = chunk_length or default_chunk_length(value, theta.shape[-1])
    y, final_state, *_ = _forward_op(*inputs, cu_seqlens, eps, length, save)
    return y, final_state


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
    chunk_length: int | None = None,
    check_values: bool = True,
) -> tuple[Tensor, Tensor]:
    """The sparse form as the dense one over zeros: right for any K, no cheaper than K = M."""
    dense = partial(factorization_memory, chunk_length=chunk_length)
    inputs = theta, phi, slots, value, num_slots, initial_state
    return packing.over_zeros(dense, *inputs, eps=eps, cu_seqlens=cu_seqlens, check_values=check_values)


def default_chunk_length(value: Tensor, slots: int) -> int:
    """32 tokens, 64 for a large state; fewer for a short sequence. docs/decisions.md has the measurement.

    A longer chunk means fewer states between chunks (M D numbers each) and more work within (C D per token).
    """
    longest = 64 if slots * value.shape[-1] >= 1 << 15 else 32
    if torch.jit.is_tracing():  # what is traced must do for any length
        return longest
    # Compares nothing, so that torch.compile needs no further graph.
    return torch.sym_max(1, torch.sym_min(longest, value.shape[1]))


# --- one span of chunks -------------------------------------------------------------------------------------


class Level(NamedTuple):
    """Decay between the lower and the upper halves of blocks of 2 w tokens: g * C / (2 w) blocks of each."""

    width: int
    decay_from_start: Tensor  # [blocks, w, M]  decay from the upper half's start to its token t, t included
    write_to_end: Tensor  # [blocks, w, M]  theta_s, decayed from s to the end of the lower half
    lower: Tensor  # [blocks, 1, M]  decay over the lower half
    upper: Tensor  # [blocks, 1, M]  decay over the upper half


def _levels(theta: Tensor) -> tuple[list[Level], Tensor, Tensor]:
    """The levels of every width from 1 to C / 2; decay_from_start and write_to_end of the chunk, both [g, C, M]."""
    g, length, slots = theta.shape
    decay_from_start, write_to_end, levels, w = 1 - theta, theta.clone(), [], 1
    while w < length:
        halves = (g * length // (2 * w), 2, w, slots)
        above, below = decay_from_start.view(halves)[:, 1], write_to_end.view(halves)[:, 0]
        lower, upper = decay_from_start.view(halves)[:, 0, -1:].clone(), above[:, -1:].clone()
        levels.append(Level(w, above.clone(), below.clone(), lower, upper))
        above *= lower
        below *= upper
        w *= 2
    return levels, decay_from_start, write_to_end


def _half(inner: Tensor, w: int, which: int) -> Tensor:
    """Of inner [g, k, C, M], the lower (0) or upper (1) halves of all blocks of 2 w tokens: a view [g, n, k, w, M]."""
    g, k, length, slots = inner.shape
    return inner.view(g, k, length // (2 * w), 2, w, slots)[:, :, :, which].transpose(1, 2)


def _below(tile: Tensor, w: int) -> Tensor:
    """Of tile [g, k, C, C], the pairs (upper half, lower half) of all blocks of 2 w: a view [g, n, k, w, w]."""
    g, k, length, _ = tile.shape
    n = length // (2 * w)
    return tile.view(g, k, n, 2, w, n, 2, w)[:, :, :, 1, :, :, 0].diagonal(dim1=2, dim2=4).permute(0, 4, 1, 2, 3)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b. Sums of one or two terms are faster without bmm, whose kernel for tiny matrices is slow."""
    if a.shape[2] == 1:
        return a * b
    if a.shape[2] == 2:
        return (a[..., :1] * b[:, :1]).addcmul_(a[..., 1:], b[:, 1:])
    return torch.bmm(a, b)


def _times_decay(levels: list[Level], gram: Tensor, inner: Tensor) -> list[Tensor]:
    """Turn <H, v_t> into <h_{t-1}, v_t>, in place; gram holds <v_t, v_s>. Returns what each level started from.

    Width by width: the state that enters an upper half is the one that enters its block, decayed over the lower
    half, and what the lower half wrote.
    """
    before = []
    for level in reversed(levels):
        upper = _half(inner, level.width, 1)
        before.append(upper.clone(memory_format=torch.contiguous_format))
        tiles = _below(gram, level.width).reshape(len(level.write_to_end), -1, level.width)
        written = _product(tiles, level.write_to_end).view(upper.shape)
        torch.addcmul(written, upper, level.lower.view(*upper.shape[:2], 1, 1, -1), out=upper)
    return before


def _forward_span(
    theta: Tensor, phi: Tensor, value: Tensor, states: Tensor, hand_over: Callable[[int, Tensor], None], eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y [g, C, D], the state that leaves [r, M, D], <H, v> [g, C, M], |h|^2 [g, C + 1, M], <v, v> [g, C, C].

    states [r, n, M, D]: the first is the one that enters, the others are written. hand_over sees the state that
    leaves each chunk and may put another in its place. |h|^2 is that before the chunk and after each token.
    """
    slots, width = states.shape[2:]
    levels, decay_from_start, write_to_end = _levels(theta)
    written = torch.bmm(write_to_end.transpose(1, 2), value).view(states.shape)
    leaving = _scan(
        states, written, decay_from_start[:, -1].view(*states.shape[:3], 1), range(states.shape[1]), hand_over
    )
    entering = states.view(-1, slots, width)

    gram = torch.bmm(value, value.transpose(1, 2))[:, None]
    v_dot_H = torch.bmm(value, entering.transpose(1, 2))
    inner = v_dot_H.clone()[:, None]
    _times_decay(levels, gram, inner)
    norms = _norms(theta, inner[:, 0], gram, entering)
    psi = phi * _inverse_rms(norms, width, eps)

    tile = torch.zeros_like(gram)
    _diagonal(tile).copy_((psi * theta).sum(-1, keepdim=True))
    for level in levels:
        rows = _half(psi[:, None], level.width, 1).reshape(level.decay_from_start.shape) * level.decay_from_start
        blocks = _below(tile, level.width)
        blocks.copy_(torch.bmm(rows, level.write_to_end.transpose(1, 2)).view(blocks.shape))
    y = torch.bmm(tile[:, 0], value).baddbmm_(psi * decay_from_start, entering)  # (6)
    return y, leaving, v_dot_H, norms, gram[:, 0]


def _scan(
    states: Tensor, added: Tensor, decay: Tensor, order: range, hand_over: Callable[[int, Tensor], None]
) -> Tensor:
    """decay[:, c] * states[:, c] + added[:, c] becomes the next of states in order; returns the last, [r, M, D]."""
    for c, following in pairwise([*order, None]):
        place = torch.empty_like(states[:, c]) if following is None else states[:, following]
        torch.addcmul(added[:, c], decay[:, c], states[:, c], out=place)  # (4), a chunk at a time
        hand_over(c, place)
    return place


def _norms(theta: Tensor, before: Tensor, gram: Tensor, entering: Tensor) -> Tensor:
    """|h|^2 before the chunk and after each token, [g, C + 1, M], from before_t = <h_{t-1}, v_t>.

    |(1 - theta) h + theta v|^2 = (1 - theta)^2 |h|^2 + theta (2 (1 - theta) <h, v> + theta |v|^2). The sum has
    terms of both signs, so it starts afresh from the state of every chunk, and is clamped at 0.
    """
    decay = 1 - theta
    gain = (2 * decay * before).addcmul_(theta, _diagonal(gram)).mul_(theta)
    decay.square_()
    norms = F.pad(gain, (0, 0, 1, 0))
    norms[:, 0] = torch.linalg.vector_norm(entering, dim=-1).square_()
    for t in range(theta.shape[1]):
        norms[:, t + 1].addcmul_(decay[:, t], norms[:, t])
    return norms.clamp_(min=0)


def _inverse_rms(norms: Tensor, width: int, eps: float) -> Tensor:
    return (norms[:, 1:] / width).add_(eps).rsqrt_()  # (5)


def _diagonal(tile: Tensor) -> Tensor:
    """The pairs (t, t) of the last of the k tiles, a view [g, C, 1]."""
    return tile[:, -1].diagonal(dim1=1, dim2=2)[..., None]


def _backward_span(
    theta: Tensor, phi: Tensor, value: Tensor, dy: Tensor, states: Tensor, v_dot_H: Tensor, norms: Tensor, gram: Tensor,
    adjoint: Tensor, hand_over: Callable[[int, Tensor], None], eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi [g, C, M], of value [g, C, D] and of the state that entered [r, M, D].

    states [r, n, M, D] entered the chunks; adjoint [r, M, D] is the gradient of the state that left the last one.

    h_t gets the gradient psi_t dy_t from y and, through its norm, N_t h_t: N (norm_grad) adds up what the norms of
    this and of later tokens send back. h_t was written with v_t, so that N_t meets v_t again. The adjoint is thus a
    second memory, run backwards, to which two vectors per token are written: dy with psi, v with N theta.
    """
    slots, width = states.shape[2:]
    entering = states.view(-1, slots, width)
    levels, decay_from_start, write_to_end = _levels(theta)
    decay = 1 - theta
    pair = torch.cat([dy, value], 1)
    gram = torch.stack([torch.bmm(dy, value.transpose(1, 2)), gram], 1)
    inner = torch.stack([torch.bmm(dy, entering.transpose(1, 2)), v_dot_H], 1)
    before = _times_decay(levels, gram, inner)
    dy_dot_h, v_dot_h = inner.unbind(1)  # h as it was before the token
    dy_dot_v, v_dot_v = _diagonal(gram[:, :1]), _diagonal(gram)

    inverse_rms = _inverse_rms(norms, width, eps)
    dphi = (decay * dy_dot_h).addcmul_(theta, dy_dot_v).mul_(inverse_rms)
    psi = phi * inverse_rms
    norm_grad = (dphi * psi).mul_(inverse_rms).div_(-width)
    squares = decay.square()
    for t in reversed(range(theta.shape[1] - 1)):
        norm_grad[:, t].addcmul_(squares[:, t + 1], norm_grad[:, t + 1])
    weights = torch.stack([psi, norm_grad * theta], 1)

    rows = weights * decay_from_start[:, None]
    added = torch.bmm(rows.flatten(1, 2).transpose(1, 2), pair).view(states.shape)
    added.addcmul_((squares[:, 0] * norm_grad[:, 0]).view(*states.shape[:3], 1), states)
    leaving = torch.empty_like(states)
    leaving[:, -1] = adjoint
    backwards = range(states.shape[1])[::-1]
    dstate = _scan(leaving, added, decay_from_start[:, -1].view(*states.shape[:3], 1), backwards, hand_over)
    leaving = leaving.view(-1, slots, width)

    v_dot_l = torch.bmm(value, leaving.transpose(1, 2))
    l_dot_h, tile = _adjoint_times_decay(levels, gram, before, weights, v_dot_l, (leaving * entering).sum(-1))
    _diagonal(tile[:, :1]).copy_((psi * theta).sum(-1, keepdim=True))
    _diagonal(tile).copy_((weights[:, 1] * theta).sum(-1, keepdim=True).div_(2))
    tile[:, 1] = tile[:, 1] + tile[:, 1].transpose(1, 2)  # v_s and v_t meet in both orders
    dvalue = torch.bmm(tile.flatten(1, 2).transpose(1, 2), pair)
    dvalue.baddbmm_(write_to_end, leaving).baddbmm_(rows[:, 1], entering)

    with_h = (
        ((decay - theta) * v_dot_h).addcmul_(theta, v_dot_v).sub_(decay.mul_(norms[:, :-1]))
    )  # <h_t, v_t - h_{t-1}>
    dtheta = (v_dot_l - l_dot_h).addcmul_(psi, dy_dot_v - dy_dot_h).addcmul_(norm_grad, with_h)
    return dtheta, dphi, dvalue, dstate


def _adjoint_times_decay(
    levels: list[Level], gram: Tensor, before: list[Tensor], weights: Tensor, v_dot_l: Tensor, l_dot_h: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry <L, v> [g, C, M] (in place) and <L, H> [g, M] from the chunk's ends to every token.

    Returns <L_t, h_{t-1}> [g, C, M], L_t the adjoint that comes to token t from its right, and, strictly below the
    diagonal, the tiles [g, 2, C, C] of sum_i weights_t[i] D[t, s][i] theta_s[i]. Nothing is divided by a decay.
    """
    tile = torch.zeros_like(gram)
    for level, inner in zip(reversed(levels), before, strict=True):
        w, blocks = level.width, len(level.write_to_end)
        lower, upper = _half(v_dot_l[:, None], w, 0), _half(weights, w, 1)
        rows = torch.mul(
            upper, level.decay_from_start.view(*upper.shape[:2], 1, w, -1), out=upper.new_empty(upper.shape)
        )
        rows = rows.view(blocks, 2 * w, -1)
        parent, l_dot_h = l_dot_h.view(blocks, 1, -1), l_dot_h.new_empty(blocks, 2, l_dot_h.shape[-1])
        torch.addcmul((rows * inner.view(rows.shape)).sum(1), level.upper[:, 0], parent[:, 0], out=l_dot_h[:, 0])
        torch.addcmul(
            (level.write_to_end * lower.reshape(level.write_to_end.shape)).sum(1),
            level.lower[:, 0],
            parent[:, 0],
            out=l_dot_h[:, 1],
        )
        tiles = _below(gram, w).reshape(blocks, 2 * w, w)
        injected = _product(tiles.transpose(1, 2), rows).view(lower.shape)
        torch.addcmul(injected, lower, level.upper.view(*lower.shape[:2], 1, 1, -1), out=lower)
        corner = _below(tile, w)
        corner.copy_(torch.bmm(rows, level.write_to_end.transpose(1, 2)).view(corner.shape))
    return l_dot_h.view(v_dot_l.shape), tile


# --- sequences, chunks, spans -------------------------------------------------------------------------------


class _Chunks:
    """Which tokens are in which chunk, which chunks are in which sequence, and what is computed at a time.

    A batch has one row of chunks per sequence. Packed sequences (cu_seqlens) share one row, in which no chunk crosses
    a sequence. Missing tokens at the end of a chunk write and read nothing (theta = phi = 0).

    ends: last chunk of a sequence -> (the sequence, the next one); starts: first chunk -> (the sequence, the one
    before). Sequences without tokens have no chunk and appear in neither.
    """

    def __init__(self, value: Tensor, slots: int, cu_seqlens: Tensor | None, length: int):
        self.rows, self.tokens, width = value.shape
        self.length, self.tile = length, 1 << (length - 1).bit_length()
        bounds = [0, self.tokens] if cu_seqlens is None else packing.bounds(cu_seqlens, self.tokens)
        counts = [-(-(end - begin) // length) for begin, end in pairwise(bounds)]
        self.count = sum(counts)
        self.index = None if cu_seqlens is None else _positions(bounds, counts, length).to(value.device)
        present = [i for i, n in enumerate(counts) if n]
        last = [n - 1 for n in accumulate(counts[i] for i in present)]
        first = [0, *(n + 1 for n in last)][: len(last)]
        self.ends = dict(zip(last, zip(present, [*present[1:], None], strict=False), strict=True))
        self.starts = dict(zip(first, zip(present, [None, *present], strict=False), strict=True))
        self.at_a_time = max(1, SPAN_NUMBERS // max(1, slots * width + length * (8 * slots + 2 * width)))

    def spans(self) -> list[tuple[slice, int, int]]:
        """(rows, first chunk, end): some whole rows, or a part of one, so that tiles are views of the tokens."""
        if self.count == 0:
            return []
        together, step = max(1, self.at_a_time // self.count), min(self.at_a_time, self.count)
        rows = [slice(r, min(r + together, self.rows)) for r in range(0, self.rows, together)]
        return [(r, c, min(c + step, self.count)) for r in rows for c in range(0, self.count, step)]

    def take(self, tokens: Tensor, rows: slice, begin: int, end: int, dtype: torch.dtype) -> Tensor:
        """Chunks begin..end of tokens [B, T, .], in dtype, zeros where there is no token: [g, C, .]."""
        span = slice(begin * self.length, end * self.length)
        if self.index is None:
            part = tokens[rows, span].to(dtype)
        else:
            index = self.index[span]
            part = tokens[:, index.clamp(min=0)].to(dtype).masked_fill_((index < 0)[:, None], 0)
        part = _pad_time(part, (end - begin) * self.length)
        return _pad_time(part.reshape(-1, self.length, part.shape[-1]), self.tile).contiguous()

    def fill(self, v_dot_H: Tensor, norms: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """<H, v>, |h|^2 and <v, v> of missing tokens at the end of a chunk, which are not saved: norms stay."""
        if (missing := self.tile - self.length) == 0:
            return v_dot_H, norms, gram
        last = torch.arange(self.tile + 1, device=norms.device).clamp_(max=self.length)
        return _pad_time(v_dot_H, self.tile), norms[:, last], F.pad(gram, (0, missing, 0, missing))

    def put(self, tiles: Tensor, out: Tensor, rows: slice, begin: int, end: int) -> None:
        """The inverse of take: writes the tokens of chunks begin..end to out [B, T, .]."""
        part = tiles[:, : self.length].reshape(-1, (end - begin) * self.length, tiles.shape[-1])
        span = slice(begin * self.length, end * self.length)
        if self.index is None:
            out[rows, span] = part[:, : self.tokens - span.start]
        else:
            present = self.index[span] >= 0
            out[:, self.index[span][present]] = part[:, present].to(out.dtype)


def _pad_time(v: Tensor, length: int) -> Tensor:
    return v if v.shape[1] == length else F.pad(v, (0, 0, 0, length - v.shape[1]))


def _positions(bounds: list[int], counts: list[int], length: int) -> Tensor:
    """Token of every place of every chunk of packed sequences, -1 where there is none."""
    places = [torch.arange(b, b + n * length) for b, n in zip(bounds, counts, strict=False)]
    return torch.cat([p.masked_fill(p >= end, -1) for p, end in zip(places, bounds[1:], strict=True)])


def _hand_over(edges: dict[int, tuple[int, int | None]], begin: int, source: Tensor, sink: Tensor):
    """What to do with the state a chunk hands on: at a sequence's edge it goes to sink, the next comes from source."""

    def hand_over(c: int, state: Tensor) -> None:
        if begin + c in edges:
            here, following = edges[begin + c]
            sink[here] = state
            if following is not None:
                state.copy_(source[following])

    return hand_over


# --- the operators that autograd and torch.compile see ---------------------------------------------------------


class _Saved(NamedTuple):
    """What the forward keeps for the backward, a row of chunks for every row of the batch."""

    states: Tensor  # [rows, chunks, M, D]  H, which enters each chunk
    v_dot_H: Tensor  # [rows, chunks, C, M]  <H, v_t>
    norms: Tensor  # [rows, chunks, C + 1, M]  |H|^2, then |h_t|^2
    gram: Tensor  # [rows, chunks, C, C]  <v_t, v_s>


def _outputs(theta, phi, value, initial_state, cu_seqlens, eps, length, save):
    """Unwritten outputs of _forward_op. How many chunks packed sequences need at most is known without their bounds."""
    (batch, tokens, width), slots = value.shape, theta.shape[-1]
    wide = any(v is not None and v.dtype == torch.float64 for v in (theta, phi, value, initial_state))
    dtype = torch.float64 if wide else torch.float32
    sequences, chunks = batch, -(-tokens // length)
    if cu_seqlens is not None:
        sequences = cu_seqlens.shape[0] - 1
        chunks = tokens // length + sequences
    shapes = _Saved(
        states=(slots, width), v_dot_H=(length, slots), norms=(length + 1, slots), gram=(length, length)
    )  # fmt: skip
    return (
        value.new_empty(value.shape),
        value.new_empty(sequences, slots, width, dtype=dtype),
        *(value.new_empty(batch, chunks if save else 0, *shape, dtype=dtype) for shape in shapes),
    )


def _gradients(dy, dfinal, theta, phi, value, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, value, dfinal))


@torch.library.custom_op("factorization_memory::chunked", mutates_args=())
@in_given_dtypes
def _forward_op(
    theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None,
    eps: float, length: int, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and if save what _Saved holds."""
    y, final, *saved = _outputs(theta, phi, value, initial_state, cu_seqlens, eps, length, save)
    saved = _Saved(*saved)
    chunks = _Chunks(value, theta.shape[-1], cu_seqlens, length)
    if initial_state is None:
        final.zero_()
    else:
        final.copy_(initial_state)
    source, sink = _by_sequence(final.clone(), chunks), _by_sequence(final, chunks)
    for v in saved:
        v[:, chunks.count :] = 0  # the places of chunks that packed sequences turned out not to need
    for rows, begin, end in chunks.spans():
        tokens = [chunks.take(v, rows, begin, end, final.dtype) for v in (theta, phi, value)]
        if begin == 0:
            state = source[chunks.starts[0][0], rows]
        part = saved.states[rows, begin:end] if save else state.new_empty(len(state), end - begin, *state.shape[1:])
        part[:, 0] = state
        hand_over = _hand_over(chunks.ends, begin, source[:, rows], sink[:, rows])
        tile, state, *inner = _forward_span(*tokens, part, hand_over, eps)
        chunks.put(tile, y, rows, begin, end)
        if save:
            for place, v in zip((saved.v_dot_H, saved.norms, saved.gram), inner, strict=True):
                v = v[(slice(None), *map(slice, place.shape[2:]))]
                place[rows, begin:end] = v.unflatten(0, (-1, end - begin))
    return y, final, *saved


@torch.library.custom_op("factorization_memory::chunked_backward", mutates_args=())
@in_given_dtypes
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, value: Tensor, cu_seqlens: Tensor | None,
    states: Tensor, v_dot_H: Tensor, norms: Tensor, gram: Tensor, eps: float, length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, value and of the initial state."""
    dtheta, dphi, dvalue, dinitial = _gradients(dy, dfinal, theta, phi, value)
    chunks = _Chunks(value, theta.shape[-1], cu_seqlens, length)
    dinitial.copy_(dfinal)
    source, sink = _by_sequence(dfinal, chunks), _by_sequence(dinitial, chunks)
    for rows, begin, end in reversed(chunks.spans()):
        tokens = [chunks.take(v, rows, begin, end, states.dtype) for v in (theta, phi, value, dy)]
        saved = chunks.fill(*(v[rows, begin:end].flatten(0, 1) for v in (v_dot_H, norms, gram)))
        if end == chunks.count:
            adjoint = source[chunks.ends[end - 1][0], rows]
        hand_over = _hand_over(chunks.starts, begin, source[:, rows], sink[:, rows])
        *tiles, adjoint = _backward_span(*tokens, states[rows, begin:end], *saved, adjoint, hand_over, eps)
        for tile, out in zip(tiles, (dtheta, dphi, dvalue), strict=True):
            chunks.put(tile, out, rows, begin, end)
    return dtheta, dphi, dvalue, dinitial


def _by_sequence(state: Tensor, chunks: _Chunks) -> Tensor:
    """[sequences of a row, rows, M, D]: a batch has one sequence in each row, packed sequences share one row."""
    return state[None] if chunks.index is None else state[:, None]


def _setup(ctx, inputs, output) -> None:
    theta, phi, value, initial_state, cu_seqlens, eps, length, _ = inputs
    ctx.save_for_backward(theta, phi, value, cu_seqlens, *output[2:])
    ctx.rest = eps, length
    ctx.given = initial_state is not None and initial_state.dtype
    ctx.final = output[1].shape, output[1].dtype


def _backward(ctx, dy, dfinal):
    theta, phi, value, cu_seqlens, *saved = ctx.saved_tensors
    dy, dfinal = operators.asked_for(dy, dfinal, value, ctx.final)
    inputs = dy, dfinal, theta, phi, value, cu_seqlens
    *grads, dinitial = _backward_op(*inputs, *_Saved(*saved), *ctx.rest)
    return *grads, dinitial.to(ctx.given) if ctx.given else None, None, None, None, None


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)
