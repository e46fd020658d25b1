"""Slots with gates of their own, as a plain loop over time: what HGRN2, GSA and MoM have in common.

Each head keeps a table h of M slots, each a row of D numbers. A token brings one value to all slots of a head. Every
slot has its own gate f, which says how much of the slot stays. What is not kept is filled with the value:

    h[i] = f[i] h[i] + (1 - f[i]) value      every slot i moves towards the value                (1)
    y = sum_i read[i] h[i]                   the slots as they are, weighted                     (2)

That is HGRN2 (arXiv 2404.07904). In a mixture of memories (MoM, arXiv 2502.13685) those not picked have f = 1 and
read = 0. Gated slot attention (GSA, arXiv 2409.07146) has two tables under the same gates, of keys K and values V:

    read = softmax_i(<K[i], q>)              K by (1) with value k; V with value v, read by (2)  (3)

Beside Factorization Memory: there a softmax shares one write out over the slots, and a slot is normalised when it is
read. Here no slot knows of the others. With log_f = log(1 - theta) and read = phi, (1) is FM's, and (2) FM's without
the norm. What makes f, read, q, k and value of the layer's input is in layers/gated_slots.py.

Symbols: B batch, T time, H heads, M slots of a head, D slot width, P key width.
    log_f [B, T, H, M], <= 0   read [B, T, H, M]   value, v, y [B, T, H, D]   q, k [B, T, H, P]
    state [B, H, M, D]; of GSA [B, H, M, P + D], the keys before the values
A gate is given by its logarithm: at log_f = 0 a slot stays as it is, and close to 0 it keeps its digits.

Inputs may have any floating dtype. Arithmetic is in the state's: float32, or float64 if any input is; y has
the dtype of value. Everything is differentiable by autograd.
"""

import torch
from torch import Tensor

from reference import checks

Pair = tuple[Tensor, Tensor]  # y and the state


def gated_slots_step(log_f: Tensor, read: Tensor, value: Tensor, state: Tensor) -> Pair:
    """One token: log_f, read [B, H, M], value [B, H, D], state [B, H, M, D] -> y [B, H, D], new state.

    >>> state = torch.tensor([[[[8.0], [4.0]]]])                 # one head, two slots of width 1
    >>> log_f = torch.tensor([[[1.0, 0.5]]]).log()
    >>> y, state = gated_slots_step(log_f, torch.ones(1, 1, 2), torch.tensor([[[10.0]]]), state)
    >>> state.flatten(), y.flatten()                             # slot 0 kept, slot 1 half way to the value
    (tensor([8., 7.]), tensor([15.]))
    """
    _check("B", ("state", state, "D"), value=(value, "D"), log_f=(log_f, "M"), read=(read, "M"))
    return _step((log_f, read, value), state)


def gated_slots(log_f: Tensor, read: Tensor, value: Tensor, initial_state: Tensor | None = None) -> Pair:
    """A whole sequence -> y [B, T, H, D], final state [B, H, M, D]. The state starts at zero unless given.

    >>> half = torch.full((1, 3, 1, 1), 0.5)
    >>> y, state = gated_slots(half.log(), torch.ones_like(half), 8 * torch.ones_like(half))
    >>> y.flatten(), state.flatten()                             # half way to 8, again and again
    (tensor([4., 6., 7.]), tensor([7.]))
    """
    _check("B T", ("initial_state", initial_state, "D"), value=(value, "D"), log_f=(log_f, "M"), read=(read, "M"))
    return _loop(_step, (log_f, read, value), initial_state, value.shape[-1])


def gated_slot_attention_step(log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Pair:
    """One token: log_f [B, H, M], q, k [B, H, P], v [B, H, D], state [B, H, M, P + D] -> y [B, H, D], new state."""
    _check("B", ("state", state, "P+D"), v=(v, "D"), log_f=(log_f, "M"), q=(q, "P"), k=(k, "P"))
    return _attention_step((log_f, q, k, v), state)


def gated_slot_attention(log_f: Tensor, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None = None) -> Pair:
    """A whole sequence -> y [B, T, H, D], final state [B, H, M, P + D]. The state starts at zero unless given.

    >>> log_f = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).log().view(1, 2, 1, 2)       # each token fills one slot
    >>> k = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).view(1, 2, 1, 2)
    >>> q, v = k.flip(1), torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    >>> y, state = gated_slot_attention(log_f, q, k, v)
    >>> y[0, 1].item(), state.shape                              # the second query asks for the first key
    (3.0, torch.Size([1, 1, 2, 3]))
    """
    _check("B T", ("initial_state", initial_state, "P+D"), v=(v, "D"), log_f=(log_f, "M"), q=(q, "P"), k=(k, "P"))
    return _loop(_attention_step, (log_f, q, k, v), initial_state, k.shape[-1] + v.shape[-1])


def _write(log_f: Tensor, value: Tensor, state: Tensor) -> Tensor:
    log_f, value = log_f.to(state.dtype)[..., None], value.to(state.dtype)[..., None, :]
    return log_f.exp() * state - log_f.expm1() * value  # (1)


def _step(token: tuple[Tensor, ...], state: Tensor) -> Pair:
    log_f, read, value = token
    state = _write(log_f, value, state)
    return (read.to(state.dtype)[..., None] * state).sum(-2).to(value.dtype), state  # (2)


def _attention_step(token: tuple[Tensor, ...], state: Tensor) -> Pair:
    log_f, q, k, v = token
    state = _write(log_f, torch.cat([k.to(state.dtype), v.to(state.dtype)], -1), state)  # both tables at once
    keys, values = state.split([k.shape[-1], v.shape[-1]], -1)
    read = (keys * q.to(state.dtype)[..., None, :]).sum(-1).softmax(-1)  # (3)
    return (read[..., None] * values).sum(-2).to(v.dtype), state  # (2)


def _loop(step, tokens: tuple[Tensor, ...], initial_state: Tensor | None, width: int) -> Pair:
    """A step for every token, in float32 or, if anything is float64, in float64. Values are the last of tokens."""
    log_f, value, ys = tokens[0], tokens[-1], []
    zero = value.new_zeros(len(value), *log_f.shape[2:], width)
    state = zero if initial_state is None else initial_state
    wide = any(v.dtype == torch.float64 for v in (*tokens, state))
    state = state.to(torch.float64 if wide else torch.float32)
    for token in zip(*(v.unbind(1) for v in tokens), strict=True):
        y, state = step(token, state)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(value)), state


def _check(lead: str, state: tuple[str, Tensor | None, str], **tokens: tuple[Tensor, str]) -> None:
    """lead: the letters of a shape before the heads, B or B T. Of each argument, the letter of its last size."""
    sizes, shapes = {}, {name: (v, f"{lead} H {letter}") for name, (v, letter) in tokens.items()}
    checks.floating(sizes, **shapes)
    sizes["P+D"] = sizes.get("P", 0) + sizes["D"]
    checks.floating(sizes, **shapes, **{state[0]: (state[1], f"B H M {state[2]}")})
    if (tokens["log_f"][0] > 0).any():
        raise ValueError(f"log_f must be <= 0, got up to {tokens['log_f'][0].max():.4g}")
