"""Slots with gates of their own, in chunks of L tokens: matrix products only. For HGRN2, MoM and GSA.

    h_t[i] = f_t[i] h_{t-1}[i] + (1 - f_t[i]) value_t     y_t = sum_i read_t[i] h_t[i]        per head, h [M, D]

Let decay_{t,s}[i] be the product of f[i] from s + 1 to t. In a chunk that starts from the state S:

    y_t = sum_i read_t[i] decay_{t,0}[i] S[i]
        + sum_{s<=t} tile_{t,s} value_s       tile_{t,s} = sum_i read_t[i] decay_{t,s}[i] (1 - f_s[i])      (1)
    S  <- decay_{L,0} S + sum_s decay_{L,s} (1 - f_s) value_s                                               (2)

A chunk is cut into halves, and those again. For s in the left half and t in the right, decay_{t,s} is what is left of
s at the end of the left half, times what is left at t of the start of the right half. So the part of a tile between
two halves is one matrix product. Its factors are products of gates and lie in [0, 1]: nothing overflows, nothing is
divided, and no array has L x L x M numbers. Gated slot attention needs its scores first, by the same halves:

    score_t[i] = decay_{t,0}[i] <K[i], q_t> + sum_{s<=t} decay_{t,s}[i] (1 - f_s[i]) <k_s, q_t>             (3)
    read_t = softmax(score_t), then (1) with value = v

    log_f, read [B, T, H, M]   value, v, y [B, T, H, D]   q, k [B, T, H, P]
    state [B, H, M, D]; of attention [B, H, M, P + D], the keys before the values
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast import validation

CHUNK = 32


def gated_slots(
    log_f: Tensor, read: Tensor, value: Tensor, initial_state: Tensor | None = None, *, chunk_length: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """A whole sequence of any length T -> y, final state, as in reference/gated_slots.py, within rounding.

    Arithmetic is in float32, or float64 if any input is; y has the dtype of value. Differentiable by autograd.
    chunk_length, a power of two, trades work within chunks for states between them. Arguments that do not fit raise
    TypeError or ValueError by name. That log_f <= 0 is not checked.

    >>> half = torch.full((1, 3, 1, 1), 0.5)
    >>> y, state = gated_slots(half.log(), torch.ones_like(half), 8 * torch.ones_like(half))
    >>> y.flatten(), state.flatten()                             # half way to 8, again and again
    (tensor([4., 6., 7.]), tensor([7.]))
    """
    _check("B T", log_f, read, value)
    cut = _cut(log_f, (read, value), initial_state, value, value.shape[-1], chunk_length)
    (read, value), tree = cut.tokens, _tree(cut.log_f)
    entering, state = _states(tree, cut.log_f, value, cut)
    return cut.whole(_read(tree, read, value, entering)), state


def gated_slot_attention(
    log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None = None, *, chunk_length: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """A whole sequence of any length T -> y, final state, as in reference/gated_slots.py, within rounding.

    As `gated_slots` in all else.

    >>> log_f = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).log().view(1, 2, 1, 2)       # each token fills one slot
    >>> k = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).view(1, 2, 1, 2)
    >>> q, v = k.flip(1), torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    >>> y, state = gated_slot_attention(log_f, q, k, v)
    >>> y.flatten()[1:], state[0, 0]                             # the second query asks for the first key
    (tensor([3.]), tensor([[9., 0., 3.],
            [0., 9., 5.]]))
    """
    _check_attention("B T", log_f, q, k, v)
    widths = [k.shape[-1], v.shape[-1]]
    cut = _cut(log_f, (q, k, v), initial_state, v, sum(widths), chunk_length)
    (q, k, v), tree = cut.tokens, _tree(cut.log_f)
    entering, state = _states(tree, cut.log_f, torch.cat([k, v], -1), cut)
    keys, values = entering.split(widths, -1)
    read = _scores(tree, q, k, keys).softmax(-1)
    return cut.whole(_read(tree, read, v, values)), state


class _Cut(NamedTuple):
    """The arguments, cut into the n chunks of B sequences, in the dtype of the state."""

    log_f: Tensor  # [B n, H, L, M]
    tokens: tuple[Tensor, ...]  # [B n, H, L, ...]
    state: Tensor  # [B, H, M, ...]
    n: int
    traced: bool
    like: Tensor  # the values [B, T, H, D], as they came

    def whole(self, y: Tensor) -> Tensor:
        """[B n, H, L, D] -> [B, T, H, D]."""
        batch, T, H, D = self.like.shape
        y = y.transpose(1, 2).reshape(batch, self.n * y.shape[2], H, D)
        y = y.index_select(1, torch.arange(T, device=y.device)) if self.traced else y[:, :T]
        return y.to(self.like.dtype)


def _cut(
    log_f: Tensor, tokens: tuple[Tensor, ...], state: Tensor | None, like: Tensor, width: int, chunk_length: int
) -> _Cut:
    batch, T, H, M = log_f.shape
    if state is not None:
        _check_state("initial_state", state, like, log_f, width)
    if chunk_length < 1 or chunk_length & (chunk_length - 1):
        raise ValueError(f"chunk_length must be a power of two, got {chunk_length}")
    state = like.new_zeros(batch, H, M, width) if state is None else state
    wide = torch.float64 if any(v.dtype == torch.float64 for v in (log_f, *tokens, state)) else torch.float32
    # A graph does for any T if no size in it is compared with another: two chunks or more, each of them whole. A text
    # of no tokens is one token of padding, so that gradients flow.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    L = chunk_length if traced else min(chunk_length, 1 << max(T - 1, 0).bit_length())
    n = (T + 2 * L - 1) // L if traced else max(1, -(-T // L))

    def chunks(v: Tensor) -> Tensor:
        """[B, T, H, ...] -> [B n, H, L, ...]; tokens beyond T have log_f = 0 and change nothing."""
        last = v.shape[-1]
        v = F.pad(v.to(wide).flatten(2), (0, 0, 0, n * L - T))
        return v.reshape(batch * n, L, H, last).transpose(1, 2)

    return _Cut(chunks(log_f), tuple(map(chunks, tokens)), state.to(wide), n, traced, like)


class _Tree(NamedTuple):
    """What gates leave between the tokens of a chunk. All of it lies in [0, 1]."""

    written: Tensor  # 1 - f [.., L, M], the share of a slot that its own token fills
    levels: list[tuple[Tensor, Tensor]]  # of blocks of 1, 2, 4 ... tokens: to_end of left ones, from_start of right
    to_end: Tensor  # [.., L, M], what is left at the end of the chunk of what a token wrote
    from_start: Tensor  # [.., L, M], what is left at a token of the state at the start


def _tree(log_f: Tensor) -> _Tree:
    from_start, to_end = log_f.exp()[..., None, :], -log_f.expm1()[..., None, :]  # [.., blocks, width of a block, M]
    written, levels = to_end[..., 0, :], []
    while from_start.shape[-3] > 1:
        (start_a, start_b), (end_a, end_b) = _halves(from_start), _halves(to_end)
        levels.append((end_a, start_b))
        from_start = torch.cat([start_a, start_a[..., -1:, :] * start_b], -2)
        to_end = torch.cat([end_a * start_b[..., -1:, :], end_b], -2)
    return _Tree(written, levels, to_end[..., 0, :, :], from_start[..., 0, :, :])


def _halves(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Every second block, and those between: [.., blocks, width, X] -> twice [.., blocks / 2, width, X]."""
    return blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]


def _of_halves(tokens: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The same of tokens [.., L, X] in blocks of that width."""
    return _halves(tokens.unflatten(-2, (tokens.shape[-2] // width, width)))


def _read(tree: _Tree, read: Tensor, value: Tensor, entering: Tensor) -> Tensor:
    """(1) -> y [.., L, D]."""
    tile = (read * tree.written).sum(-1)[..., None, None]  # [.., L, 1, 1], then blocks of twice the side
    for to_end, from_start in tree.levels:
        width = to_end.shape[-2]
        _, late = _of_halves(read, width)
        a, b = _halves(tile)
        across = (late * from_start) @ to_end.mT
        tile = torch.cat([F.pad(a, (0, width)), torch.cat([across, b], -1)], -2)
    return tile[..., 0, :, :] @ value + (read * tree.from_start) @ entering


def _scores(tree: _Tree, q: Tensor, k: Tensor, keys: Tensor) -> Tensor:
    """(3) -> [.., L, M]."""
    score = ((q * k).sum(-1, keepdim=True) * tree.written)[..., None, :]  # [.., L, 1, M], then longer blocks
    for to_end, from_start in tree.levels:
        (early, _), (_, late) = _of_halves(k, to_end.shape[-2]), _of_halves(q, to_end.shape[-2])
        a, b = _halves(score)
        score = torch.cat([a, b + from_start * (late @ early.mT @ to_end)], -2)
    return score[..., 0, :, :] + tree.from_start * (q @ keys.mT)


def _states(tree: _Tree, log_f: Tensor, value: Tensor, cut: _Cut) -> tuple[Tensor, Tensor]:
    """The state that enters every chunk [B n, H, M, D], and the final one [B, H, M, D]: (2)."""
    batch, H, M, D = cut.state.shape
    updates = (tree.to_end.mT @ value).view(batch, cut.n, H, M, D)
    if cut.traced:
        entering, state = _at_once(cut.state, updates, log_f.double().sum(2).view(batch, cut.n, H, M))
    else:
        entering, state = _in_turn(cut.state, updates, tree.from_start[:, :, -1].reshape(batch, cut.n, H, M))
    return entering.reshape(batch * cut.n, H, M, D), state


def _in_turn(state: Tensor, updates: Tensor, decays: Tensor) -> tuple[Tensor, Tensor]:
    """What enters each chunk [B, n, H, M, D] and leaves the last, from what enters the first, what each adds and the
    products of their gates [B, n, H, M]."""
    entering = []
    for decay, update in zip(decays[..., None].unbind(1), updates.unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(update, decay, state)
    return torch.stack(entering, 1), state


def _at_once(state: Tensor, updates: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one product of [n + 1, n + 1] decays, since torch.compile would write out the loop for its n."""
    ends = F.pad(totals.cumsum(1), (0, 0, 0, 0, 1, 0)).permute(0, 2, 3, 1)  # [B, H, M, n + 1]
    late = torch.ones(ends.shape[-1], ends.shape[-1], dtype=torch.bool, device=ends.device).triu(1)
    # Masked before exp: the exponents above the diagonal are positive and may overflow, and inf * 0 has no gradient.
    decays = (ends[..., :, None] - ends[..., None, :]).masked_fill(late, -torch.inf).to(state.dtype).exp()
    states = decays @ torch.cat([state[:, None], updates], 1).permute(0, 2, 3, 1, 4)  # [B, H, M, n + 1, D]
    states = states.permute(0, 3, 1, 2, 4)
    return states[:, :-1], states[:, -1]


def gated_slots_step_(log_f: Tensor, read: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token, inside the state: log_f, read [B, H, M], value [B, H, D], state [B, H, M, D] -> y, state.

    >>> state, half = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1), 0.5)
    >>> y, _ = gated_slots_step_(half.log(), torch.ones(1, 1, 1), torch.full((1, 1, 1), 8.0), state)
    >>> y.item(), state.item()
    (4.0, 4.0)
    """
    _check("B", log_f, read, value)
    _check_state("state", state, value, log_f, value.shape[-1])
    _write_(log_f, value.to(state.dtype), state)
    return (read.to(state.dtype)[..., None, :] @ state)[..., 0, :].to(value.dtype), state


def gated_slot_attention_step_(
    log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token, inside the state: log_f [B, H, M], q, k [B, H, P], v [B, H, D] -> y, state [B, H, M, P + D]."""
    _check_attention("B", log_f, q, k, v)
    widths = [k.shape[-1], v.shape[-1]]
    _check_state("state", state, v, log_f, sum(widths))
    _write_(log_f, torch.cat([k.to(state.dtype), v.to(state.dtype)], -1), state)
    keys, values = state.split(widths, -1)
    read = (keys @ q.to(state.dtype)[..., None])[..., 0].softmax(-1)
    return (read[..., None, :] @ values)[..., 0, :].to(v.dtype), state


def _write_(log_f: Tensor, value: Tensor, state: Tensor) -> None:
    log_f = log_f.to(state.dtype)[..., None]
    state.mul_(log_f.exp()).addcmul_(log_f.expm1(), value[..., None, :], value=-1)


def _check(lead: str, log_f: Tensor, read: Tensor, value: Tensor) -> None:
    """lead: the letters of a shape before a token's own, B or B T."""
    validation.floating("value", value, value, f"{lead} H D")
    validation.floating("log_f", log_f, value, f"{lead} H M", value.shape[:-1])
    validation.floating("read", read, value, f"{lead} H M", log_f.shape)


def _check_attention(lead: str, log_f: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    floating = partial(validation.floating, first="v")
    floating("v", v, v, f"{lead} H D")
    floating("log_f", log_f, v, f"{lead} H M", v.shape[:-1])
    floating("q", q, v, f"{lead} H P", v.shape[:-1])
    floating("k", k, v, f"{lead} H P", q.shape)


def _check_state(name: str, state: Tensor, value: Tensor, log_f: Tensor, width: int) -> None:
    batch, *_, slots = log_f.shape
    letters = f"B H M {'D' if width == value.shape[-1] else 'P+D'}"
    validation.state(name, state, value, letters, (batch, log_f.shape[-2], slots, width))
