"""Sparse Factorization Memory as what it is: the loop of reference/, token after token, compiled for a CPU.

    h[i] = (1 - theta[i]) h[i] + theta[i] value   (4)   for a pair (token, slot), three short passes over D numbers,
    rms(v) = sqrt(|v|^2 / D + eps)                (5)   all of which stand in a cache
    y = sum_i phi[i] h[i] / rms(h[i])             (6)

Threads share sequences. Where these are few, they share blocks of columns too. The columns of a slot meet in (5) alone,
so the loop is walked twice: for the sums of each block, and then, with their total, for y. What is added to what
depends on shapes alone: the same bits for any number of threads.

The backward is given 1 / rms and nothing of the states. It walks forward once more, sets states aside where legs
begin, and then, from the last leg to the first, walks each forward with all rows kept, and back. docs/derivation.md,
section 7, says why this beats matrix products where K is small.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from fast import compiled, operators, packing, validation
from fast.operators import in_given_dtypes

COLUMNS = 128  # of a block, at least: a loop over fewer spends its time on beginning and ending
UNITS = 4  # at least, where there are columns enough
STATE = 1 << 17  # numbers of a block's state, at most: it and its adjoint stay in the second cache


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
    """What `fast.sparse_factorization_memory` does with backend="walk", without its checks."""
    save = operators.needs_grad(theta, phi, value, initial_state)
    inputs = theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, check_values
    y, final_state, *_ = _forward_op(*inputs, save)
    return y, final_state


def step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """theta, phi [B, M], value [B, D], state [B, M, D] -> y [B, D], new state. No derivatives."""
    return step_(theta, phi, value, state.clone(memory_format=torch.contiguous_format), eps=eps)


def step_(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """`step` inside the state."""
    return sparse_step_(theta, phi, torch.arange(theta.shape[1]).expand(theta.shape), value, state, eps=eps)


def sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """theta, phi, slots [B, K], value [B, D], state [B, M, D] -> y [B, D], new state. No derivatives."""
    return sparse_step_(theta, phi, slots, value, state.clone(memory_format=torch.contiguous_format), eps=eps)


def sparse_step_(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """`sparse_step` inside the state: K rows are read and written where they are."""
    dtype, rows = state.dtype, state if state.is_contiguous() else state.contiguous()
    y = torch.empty(value.shape, dtype=dtype)
    given = (*(_array(v, dtype) for v in (theta, phi)), _array(slots, torch.int64), _array(value, dtype))
    arguments = *given, _array(rows, dtype), float(eps), y.numpy()
    compiled.run(_step, *arguments, units=len(value), work=slots.numel() * value.shape[-1], dtype=dtype)
    return y.to(value.dtype), state if rows is state else state.copy_(rows)


# --- the loops, which fast/compiled.py compiles ----------------------------------------------------------------
#
# They are Python, and slow as such. A unit of work is a sequence s and a block of columns. The tokens of all sequences
# stand one after the other, those of s at bounds[s] to bounds[s + 1]. It names count[s] slots: used[s, u] is the one
# with number u, and place[t, k] the number of pair (t, k).


def _step(begin, stride, theta, phi, slots, value, state, eps, y):
    """One token of each sequence: theta, phi, slots [B, K], value, y [B, D], state [B, M, D]."""
    real = theta.dtype.type
    for b in range(begin, len(value), stride):
        for k in range(theta.shape[1]):
            if slots[b, k] < 0 or slots[b, k] >= state.shape[1]:
                raise ValueError("slots must lie in [0, M)")
        v, out = value[b], y[b]
        out[:] = 0
        for k in range(theta.shape[1]):
            h, gate = state[b, slots[b, k]], theta[b, k]
            decay, square = real(1) - gate, real(0)
            for d in range(len(v)):
                h[d] = decay * h[d] + gate * v[d]  # (4)
                square += h[d] * h[d]
            rms = np.sqrt(square / len(v) + eps)  # (5)
            read = real(phi[b, k] / rms)
            for d in range(len(v)):
                out[d] += read * h[d]  # (6)


def _name(slots, bounds, differ, number, used, count, place):
    """Fills used, count and place. Returns whether a slot is out of range or, if they must differ, twice in a token."""
    number[:] = -1
    last = number.copy()  # the token that named a slot last
    for s in range(len(count)):
        for t in range(bounds[s], bounds[s + 1]):
            for k in range(slots.shape[1]):
                i = slots[t, k]
                if i < 0 or i >= len(number) or (differ and last[i] == t):
                    return True
                last[i] = t
                if number[i] < 0:
                    number[i] = count[s]
                    used[s, count[s]] = i
                    count[s] += 1
                place[t, k] = number[i]
        for u in range(count[s]):
            number[used[s, u]] = -1
    return False


def _sums(begin, stride, h, theta, value, dy, bounds, used, count, place, initial, columns, squares, sums):
    """Of each block, |h|^2 if squares, else <h, dy>, after each token: sums [blocks, tokens, K]."""
    real, blocks = theta.dtype.type, len(sums)
    for unit in range(begin, len(count) * blocks, stride):
        s, c = unit // blocks, unit % blocks
        block = slice(c * columns, (c + 1) * columns)
        _load(h, initial[s], used[s, : count[s]], block)
        for t in range(bounds[s], bounds[s + 1]):
            v, on_y = value[t, block], dy[t, block]
            for k in range(theta.shape[1]):
                i, gate = place[t, k], theta[t, k]
                decay, total = real(1) - gate, real(0)
                if squares:
                    for d in range(len(v)):
                        h[i, d] = decay * h[i, d] + gate * v[d]  # (4)
                        total += h[i, d] * h[i, d]
                else:
                    for d in range(len(v)):
                        h[i, d] = decay * h[i, d] + gate * v[d]  # (4)
                        total += h[i, d] * on_y[d]
                sums[c, t, k] = total


def _forward(begin, stride, h, theta, phi, value, bounds, used, count, place, final, columns, eps, inverse, y):
    """y, and the final state, which holds the initial one. inverse = 1 / rms is given if there are several blocks."""
    real, blocks = theta.dtype.type, -(-value.shape[1] // columns)
    for unit in range(begin, len(count) * blocks, stride):
        s, c = unit // blocks, unit % blocks
        block = slice(c * columns, (c + 1) * columns)
        _load(h, final[s], used[s, : count[s]], block)
        for t in range(bounds[s], bounds[s + 1]):
            v, out = value[t, block], y[t, block]
            out[:] = 0
            for k in range(theta.shape[1]):
                i, gate = place[t, k], theta[t, k]
                decay, square = real(1) - gate, real(0)
                for d in range(len(v)):
                    h[i, d] = decay * h[i, d] + gate * v[d]  # (4)
                    square += h[i, d] * h[i, d]
                if blocks == 1:
                    inverse[t, k] = 1 / np.sqrt(square / len(v) + eps)  # (5)
                read = phi[t, k] * inverse[t, k]
                for d in range(len(v)):
                    out[d] += read * h[i, d]  # (6)
        _store(h, final[s], used[s, : count[s]], block)


def _back(
    begin, stride, rows, adjoint, aside,
    theta, phi, inverse, value, dy, bounds, used, count, place, leg, initial, columns, dinitial, dphi, dvalue, dtheta,
):  # fmt: skip
    """The loop backwards: dvalue, dinitial, what a block adds to dtheta [blocks, tokens, K], and dphi.

    inverse is 1 / rms. If there are several blocks, dphi is given. dinitial holds the gradient of the final state.
    leg [sequences]: how many tokens a leg has.
    """
    real, blocks, pairs = theta.dtype.type, len(dtheta), theta.shape[1]
    for unit in range(begin, len(count) * blocks, stride):
        s, c = unit // blocks, unit % blocks
        block, slots, start, end = slice(c * columns, (c + 1) * columns), used[s, : count[s]], bounds[s], bounds[s + 1]
        length, h = leg[s], rows[: len(slots)]
        latest, origin = np.empty(len(slots), np.int64), np.empty(length * pairs, np.int64)
        _load(adjoint, dinitial[s], slots, block)
        # Forward to the last leg. The states before the others, but for the first, are set aside.
        last = start + max(0, end - start - 1) // length * length
        _load(h, initial[s], slots, block)
        for t in range(start, last):
            if t > start and (t - start) % length == 0:
                _copy(rows, 0, aside, ((t - start) // length - 1) * len(slots), len(slots))
            v = value[t, block]
            for k in range(pairs):
                i, gate = place[t, k], theta[t, k]
                decay = real(1) - gate
                for d in range(len(v)):
                    h[i, d] = decay * h[i, d] + gate * v[d]  # (4)
        for first in range(last, start - 1, -length):
            # Forward again, from h before the leg. Pair j has a row of its own, made from row origin[j].
            for i in range(len(slots)):
                latest[i] = i
            for t in range(first, min(first + length, end)):
                v, on_y = value[t, block], dy[t, block]
                for k in range(pairs):
                    i, j, gate = place[t, k], (t - first) * pairs + k, theta[t, k]
                    before, after = rows[latest[i]], rows[len(slots) + j]
                    origin[j], latest[i] = latest[i], len(slots) + j
                    decay, product = real(1) - gate, real(0)
                    for d in range(len(v)):
                        after[d] = decay * before[d] + gate * v[d]  # (4)
                        product += after[d] * on_y[d]
                    if blocks == 1:
                        dphi[t, k] = product * inverse[t, k]  # back through (6)
            # And back.
            for t in range(min(first + length, end) - 1, first - 1, -1):
                v, on_y, on_v = value[t, block], dy[t, block], dvalue[t, block]
                on_v[:] = 0
                for k in range(pairs - 1, -1, -1):
                    i, j, gate = place[t, k], (t - first) * pairs + k, theta[t, k]
                    before, after, on_h = rows[origin[j]], rows[len(slots) + j], adjoint[i]
                    read, along = phi[t, k] * inverse[t, k], dphi[t, k] * inverse[t, k] / real(value.shape[1])
                    decay, on_gate = real(1) - gate, real(0)
                    for d in range(len(v)):
                        on_after = on_h[d] + read * (on_y[d] - along * after[d])  # back through (6) and (5)
                        on_gate += on_after * (v[d] - before[d])  # back through (4)
                        on_v[d] += gate * on_after
                        on_h[d] = decay * on_after
                    dtheta[c, t, k] = on_gate
            if first - length > start:
                _copy(aside, ((first - start) // length - 2) * len(slots), rows, 0, len(slots))
            elif first > start:
                _load(h, initial[s], slots, block)
        _store(adjoint, dinitial[s], slots, block)


@compiled.helper
def _load(rows, state, slots, block):
    """rows [n, columns] become the columns of these n slots."""
    for u in range(len(slots)):
        row = state[slots[u], block]
        for d in range(len(row)):
            rows[u, d] = row[d]


@compiled.helper
def _store(rows, state, slots, block):
    """The inverse of _load."""
    for u in range(len(slots)):
        row = state[slots[u], block]
        for d in range(len(row)):
            row[d] = rows[u, d]


@compiled.helper
def _copy(rows, first, out, into, count):
    for u in range(count):
        for d in range(rows.shape[1]):
            out[into + u, d] = rows[first + u, d]


# --- the operators that autograd and torch.compile see ---------------------------------------------------------


def _outputs(theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, check_values, save):
    """Unwritten outputs of _forward_op."""
    wide = any(v is not None and v.dtype == torch.float64 for v in (theta, phi, value, initial_state))
    dtype = torch.float64 if wide else torch.float32
    sequences = value.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    kept = ((theta.shape, dtype), ((sequences, num_slots), torch.int32), ((sequences,), torch.int64))
    return (
        value.new_empty(value.shape),
        value.new_empty(sequences, num_slots, value.shape[-1], dtype=dtype),
        *(value.new_empty(shape if save else (0,), dtype=kind) for shape, kind in (*kept, (theta.shape, torch.int32))),
    )


def _gradients(dy, dfinal, theta, phi, value, *_):
    """Unwritten outputs of _backward_op."""
    return tuple(v.new_empty(v.shape) for v in (theta, phi, value, dfinal))


@torch.library.custom_op("factorization_memory::walk", mutates_args=(), device_types="cpu")
@in_given_dtypes
def _forward_op(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, eps: float, check_values: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the final state, and for the backward, if save: 1 / rms, and used, count and place of the loops."""
    inputs = theta, phi, slots, value, num_slots, initial_state, cu_seqlens, eps, check_values
    y, final, *saved = _outputs(*inputs, True)
    (inverse, used, count, place), dtype, width = saved, final.dtype, value.shape[-1]
    layout = _bounds(value, cu_seqlens), used.numpy(), count.zero_().numpy(), _tokens(place)
    name = _tokens(slots, torch.int64), layout[0], check_values, np.empty(num_slots, np.int64), *layout[1:]
    if compiled.call(_name, *name, dtype=dtype):
        validation.slot_values(slots, num_slots)
    final.copy_(torch.zeros((), dtype=dtype) if initial_state is None else initial_state)
    columns = _columns(len(count), num_slots, width)
    blocks, state = -(-width // columns), final.numpy()
    run = functools.partial(
        compiled.run, units=blocks * len(count), work=theta.numel() * width, dtype=dtype, rows=[(_most(count), columns)]
    )
    gate, read, v = (_tokens(v, dtype) for v in (theta, phi, value))
    if blocks > 1:
        squares = torch.empty(blocks, *theta.shape, dtype=dtype)
        run(_sums, gate, v, v, *layout, state, columns, True, squares.flatten(1, 2).numpy())
        torch.rsqrt(squares.sum(0) / width + eps, out=inverse)  # (5)
    out = y if y.dtype == dtype else torch.empty_like(y, dtype=dtype)
    run(_forward, gate, read, v, *layout, state, columns, eps, _tokens(inverse), _tokens(out))
    return out.to(y.dtype), final, *(saved if save else _outputs(*inputs, False)[2:])


@torch.library.custom_op("factorization_memory::walk_backward", mutates_args=(), device_types="cpu")
@in_given_dtypes
def _backward_op(
    dy: Tensor, dfinal: Tensor, theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, inverse: Tensor, used: Tensor, count: Tensor, place: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of theta, phi, value and of the initial state."""
    dtype, width, bounds = dfinal.dtype, value.shape[-1], _bounds(value, cu_seqlens)
    dinitial = dfinal.clone(memory_format=torch.contiguous_format)  # that of slots that no token names
    initial = _array(torch.zeros_like(dinitial) if initial_state is None else initial_state, dtype)
    columns = _columns(*dinitial.shape)
    blocks, layout = -(-width // columns), (bounds, used.numpy(), count.numpy(), _tokens(place))
    run = functools.partial(compiled.run, units=blocks * len(count), work=theta.numel() * width, dtype=dtype)
    gate, read, v, on_y = (_tokens(v, dtype) for v in (theta, phi, value, dy))
    parts, dphi = torch.empty(blocks, *theta.shape, dtype=dtype), torch.empty_like(inverse)
    parts_, state = parts.flatten(1, 2).numpy(), (_most(count), columns)
    if blocks > 1:
        run(_sums, gate, v, on_y, *layout, initial, columns, False, parts_, rows=[state])
        torch.mul(parts.sum(0), inverse, out=dphi)  # back through (6)
    leg, most, aside = _legs(np.diff(bounds), count.numpy(), theta.shape[-1])
    dvalue = torch.empty(value.shape, dtype=dtype)
    run(
        _back, gate, read, _tokens(inverse), v, on_y, *layout, leg, initial, columns, dinitial.numpy(),
        _tokens(dphi), _tokens(dvalue), parts_, rows=[(state[0] + most, columns), state, (aside, columns)],
    )  # fmt: skip
    return parts.sum(0).to(theta.dtype), dphi.to(phi.dtype), dvalue.to(value.dtype), dinitial


def _setup(ctx, inputs, output) -> None:
    theta, phi, _, value, _, initial_state, cu_seqlens, *_ = inputs
    ctx.save_for_backward(theta, phi, value, initial_state, cu_seqlens, *output[2:])
    ctx.final = output[1].shape, output[1].dtype


def _backward(ctx, dy, dfinal):
    saved = ctx.saved_tensors
    value, initial_state = saved[2:4]
    dtheta, dphi, dvalue, dinitial = _backward_op(*operators.asked_for(dy, dfinal, value, ctx.final), *saved)
    dinitial = None if initial_state is None else dinitial.to(initial_state.dtype)
    return dtheta, dphi, None, dvalue, None, dinitial, None, None, None, None


operators.register(_forward_op, _backward_op, _outputs, _gradients, _setup, _backward)


def _array(v: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """The numbers of v where they are, if they lie side by side in this dtype."""
    return v.detach().to(dtype or v.dtype).contiguous().numpy()


def _tokens(v: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """[B, T, n] as [B T, n]"""
    return _array(v, dtype).reshape(v.shape[0] * v.shape[1], v.shape[2])


def _bounds(value: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Where sequences begin and end."""
    batch, tokens, _ = value.shape
    return np.array(np.arange(batch + 1) * tokens if cu_seqlens is None else packing.bounds(cu_seqlens, tokens))


def _most(count: Tensor) -> int:
    """Slots that a sequence names."""
    return int(count.max()) if len(count) else 0


def _columns(sequences: int, num_slots: int, width: int) -> int:
    """Columns of a block. Few blocks cost less, but threads need some to share, and a cache must hold their state.

    >>> _columns(16, 32, 256), _columns(1, 128, 512), _columns(4, 2048, 512)
    (256, 128, 128)
    """
    blocks = max(-(-UNITS // max(sequences, 1)), -(-width * num_slots // STATE))
    return min(width, max(COLUMNS, -(-width // (32 * blocks)) * 32))


def _legs(lengths: np.ndarray, used: np.ndarray, slots_per_token: int) -> tuple[np.ndarray, int, int]:
    """Tokens of a leg for each sequence, and the most rows before pairs and states set aside that it needs.

    With n pairs and m slots, n / p legs of p pairs need p + m (n / p - 2) rows: least where p^2 = m n.

    >>> _legs(np.array([4096, 7]), np.array([128, 1]), 4)
    (array([363,   2]), 1452, 1280)
    """
    leg = np.maximum(1, np.ceil(np.sqrt(lengths * used / slots_per_token))).astype(np.int64)
    aside = np.maximum(0, -(-lengths // leg) - 2) * used
    return leg, int(leg.max(initial=0)) * slots_per_token, int(aside.max(initial=0))
