"""Slots with gates of their own, as a plain loop over time: what HGRN2, GSA and MoM have in common.

Each head keeps a table h of M slots, each a row of D numbers. A token brings one value to all slots of a head. Every
slot has its own gate f, which says how much of the slot stays. What is not kept is filled with the value:

    h[i] = f[i] h[i] + (1 - f[i]) value      every slot i moves towards the value                (1)
    y = sum_i read[i] h[i]                   the slots as they are, weighted                     (2)

That is HGRN2 (arXiv 2404.07904), and a mixture of memories (MoM, arXiv 2502.13685). In the latter a memory that is
not picked has f = 1 and read = 0. Gated slot attention (GSA, arXiv 2409.07146) has two tables under the same gates,
of keys K and of values V, and reads by attention over its slots:

    read = softmax_i(<K[i], q>)              K by (1) with value k; V with value v, read by (2)  (3)

Beside Factorization Memory: there a softmax shares one write out over the slots, and a slot is normalised when it is
read. Here no slot knows of the others. With log_f = log(1 - theta) and read = phi, (1) is FM's, and (2) is FM without
the norm. How f, read, q, k and value are made of the layer's input is in layers/gated_slots.py.

Symbols: B batch, T time, H heads, M slots of a head, D slot width, P key width.
    log_f [B, T, H, M], <= 0   read [B, T, H, M]   value, v, y [B, T, H, D]   q, k [B, T, H, P]
    state [B, H, M, D]; of GSA [B, H, M, P + D], the keys before the values
A gate is given by its logarithm: at log_f = 0 a slot stays as it is, and close to 0 it keeps its digits.

Inputs may have any floating dtype. Arithmetic is in the state's: float32, or float64 if any input is; y has
the dtype of value. Everything here is differentiable by autograd.
"""

import torch
from torch import Tensor

from reference import checks


def gated_slots_step(log_f: Tensor, read: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: log_f, read [B, H, M], value [B, H, D], state [B, H, M, D] -> y [B, H, D], new state.

    >>> state = torch.tensor([[[[8.0], [4.0]]]])                 # one head, two slots of width 1
    >>> log_f = torch.tensor([[[1.0, 0.5]]]).log()
    >>> y, state = gated_slots_step(log_f, torch.ones(1, 1, 2), torch.tensor([[[10.0]]]), state)
    >>> state.flatten(), y.flatten()                             # slot 0 kept, slot 1 half way to the value
    (tensor([8., 7.]), tensor([15.]))
    """
    _check("B", log_f, read, value, state=state)
    return _step((log_f, read, value), state)


def gated_slots(
    log_f: Tensor, read: Tensor, value: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A whole sequence -> y [B, T, H, D], final state [B, H, M, D]. The state starts at zero unless given.

    >>> half = torch.full((1, 3, 1, 1), 0.5)
    >>> y, state = gated_slots(half.log(), torch.ones_like(half), 8 * torch.ones_like(half))
    >>> y.flatten(), state.flatten()                             # half way to 8, again and again
    (tensor([4., 6., 7.]), tensor([7.]))
    """
    _check("B T", log_f, read, value, initial_state=initial_state)
    return _loop(_step, (log_f, read, value), initial_state, value.shape[-1])


def gated_slot_attention_step(
    log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One token: log_f [B, H, M], q, k [B, H, P], v [B, H, D], state [B, H, M, P + D] -> y [B, H, D], new state."""
    _check_attention("B", log_f, q, k, v, state=state)
    return _attention_step((log_f, q, k, v), state)


def gated_slot_attention(
    log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A whole sequence -> y [B, T, H, D], final state [B, H, M, P + D]. The state starts at zero unless given.

    >>> log_f = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).log().view(1, 2, 1, 2)       # each token fills one slot
    >>> k = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).view(1, 2, 1, 2)
    >>> q, v = k.flip(1), torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    >>> y, state = gated_slot_attention(log_f, q, k, v)
    >>> y.flatten()[1:], state[0, 0]                             # the second query asks for the first key
    (tensor([3.]), tensor([[9., 0., 3.],
            [0., 9., 5.]]))
    """
    _check_attention("B T", log_f, q, k, v, initial_state=initial_state)
    return _loop(_attention_step, (log_f, q, k, v), initial_state, k.shape[-1] + v.shape[-1])


def _write(log_f: Tensor, value: Tensor, state: Tensor) -> Tensor:
    log_f, value = log_f.to(state.dtype)[..., None], value.to(state.dtype)[..., None, :]
    return log_f.exp() * state - log_f.expm1() * value  # (1)


def _step(token: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    log_f, read, value = token
    state = _write(log_f, value, state)
    return (read.to(state.dtype)[..., None] * state).sum(-2).to(value.dtype), state  # (2)


def _attention_step(token: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    log_f, q, k, v = token
    state = _write(log_f, torch.cat([k.to(state.dtype), v.to(state.dtype)], -1), state)  # both tables at once
    keys, values = state.split([k.shape[-1], v.shape[-1]], -1)
    read = (keys * q.to(state.dtype)[..., None, :]).sum(-1).softmax(-1)  # (3)
    return (read[..., None] * values).sum(-2).to(v.dtype), state  # (2)


def _loop(step, tokens: tuple[Tensor, ...], state: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """A step for every token, in float32 or, if anything is float64, in float64. Values are the last of tokens."""
    log_f, value, ys = tokens[0], tokens[-1], []
    if state is None:
        state = value.new_zeros(len(value), *log_f.shape[2:], width)
    wide = any(v.dtype == torch.float64 for v in (*tokens, state))
    state = state.to(torch.float64 if wide else torch.float32)
    for token in zip(*(v.unbind(1) for v in tokens), strict=True):
        y, state = step(token, state)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(value)), state


def _check(lead: str, log_f: Tensor, read: Tensor, value: Tensor, **state: Tensor | None) -> None:
    """lead: the letters of a shape before a token's own, B or B T."""
    of_state = {name: (tensor, "B H M D") for name, tensor in state.items()}
    value_, log_f_ = (value, f"{lead} H D"), (log_f, f"{lead} H M")
    checks.floating({}, value=value_, log_f=log_f_, read=(read, f"{lead} H M"), **of_state)
    _check_gates(log_f)


def _check_attention(lead: str, log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, **state: Tensor | None) -> None:
    sizes: dict[str, int] = {}
    of_slots, of_keys = f"{lead} H M", f"{lead} H P"
    checks.floating(sizes, v=(v, f"{lead} H D"), log_f=(log_f, of_slots), q=(q, of_keys), k=(k, of_keys))
    sizes["P+D"] = sizes["P"] + sizes["D"]
    checks.floating(sizes, v=(v, f"{lead} H D"), **{name: (tensor, "B H M P+D") for name, tensor in state.items()})
    _check_gates(log_f)


def _check_gates(log_f: Tensor) -> None:
    if (log_f > 0).any():
        raise ValueError(f"log_f must be <= 0, got up to {log_f.max():.4g}")
