"""Factorization Memory as a plain loop over time (arXiv 2511.00315).

A state of M slots, each a row of D numbers. A token brings one value, a vector, to all slots; a slot takes it to the
extent theta says, and is read to the extent phi says. reference/layer.py makes theta, phi and the value from the
layer's input x:

    alpha = softmax(W_alpha x / tau)              affinity of the token to each slot          (1)
    eta, mu = sigmoid(W_eta x), sigmoid(...)      update rate and merge rate                  (2)
    theta, phi = eta * alpha, mu * alpha          write weight and read weight, in [0, 1]     (3)
    h[i] = (1 - theta[i]) h[i] + theta[i] value   every slot i moves towards the value W_in x (4)
    rms(v) = sqrt(|v|^2 / D + eps)                the size of one slot                        (5)
    y = sum_i phi[i] h[i] / rms(h[i])             the normalised slots, merged                (6)

Symbols: B batch, T time, M slots, K slots per token (sparse form), D slot width.
    theta, phi [B, T, M]   value [B, T, D]   state [B, M, D]   y [B, T, D]
    sparse form: theta, phi, slots [B, T, K], slots holding K different integers in [0, M) per token

Inputs may have any floating dtype. Arithmetic is in the state's: float32, or float64 if any input is; y has
the dtype of value. Everything here is differentiable by autograd.
"""

import torch
from torch import Tensor

from reference import checks


def step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """One token: theta, phi [B, M], value [B, D], state [B, M, D] -> y [B, D], new state [B, M, D].

    >>> state = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])        # two slots of width 2; the second is empty
    >>> theta, phi = torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> y, state = step(theta, phi, torch.tensor([[2.0, 6.0]]), state, eps=0.0)
    >>> state                                                   # slot 0 kept, slot 1 half way to the value
    tensor([[[3., 4.],
             [1., 3.]]])
    >>> y                                                       # slot 0 over its rms, sqrt(25 / 2)
    tensor([[0.8485, 1.1314]])
    """
    checks.memory("B", theta, phi, value, eps, state=state)
    return _step(theta, phi, value, state, eps)


def _step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`step` for inputs that have been checked."""
    dtype = value.dtype
    theta, phi, value = (v.to(state.dtype) for v in (theta[..., None], phi[..., None], value[:, None]))
    state = (1 - theta) * state + theta * value  # (4)
    rms = (state.square().mean(-1, keepdim=True) + eps).sqrt()  # (5)
    y = (phi * state / rms).sum(-2)  # (6)
    return y.to(dtype), state


def sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """One token that touches K slots: theta, phi, slots [B, K], value [B, D], state [B, M, D] -> y, new state.

    The other M - K slots come out as they went in, bit for bit.

    >>> state = torch.zeros(1, 1000, 2)
    >>> one = torch.ones(1, 1)
    >>> y, state = sparse_step(one, one, torch.tensor([[7]]), torch.tensor([[3.0, 3.0]]), state, eps=0.0)
    >>> state[0, 7], y, state.count_nonzero()
    (tensor([3., 3.]), tensor([[1., 1.]]), tensor(2))
    """
    checks.memory("B", theta, phi, value, eps, slots=slots, state=state)
    return _sparse_step(theta, phi, slots, value, state, eps)


def _sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`sparse_step` for inputs that have been checked."""
    at = (torch.arange(len(state), device=state.device)[:, None], slots.long())
    y, touched = _step(theta, phi, value, state[at], eps)  # (4), (5), (6) on K rows
    return y, state.index_put(at, touched.to(state.dtype))


def factorization_memory(
    theta: Tensor, phi: Tensor, value: Tensor, initial_state: Tensor | None = None, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """A whole sequence: theta, phi [B, T, M], value [B, T, D] -> y [B, T, D], final state [B, M, D].

    The state starts at zero unless given. A zero slot reads as zero, so y = 0 until something is written.

    >>> theta = torch.tensor([[[1.0], [0.0]]])                  # write, then keep
    >>> y, state = factorization_memory(theta, torch.ones(1, 2, 1), torch.tensor([[[5.0], [9.0]]]), eps=0.0)
    >>> y, state
    (tensor([[[1.],
             [1.]]]), tensor([[[5.]]]))
    """
    checks.memory("B T", theta, phi, value, eps, initial_state=initial_state)
    state = _start(initial_state, theta, phi, value, theta.shape[-1])
    return _loop(_step, (theta, phi, value), state, eps)


def sparse_factorization_memory(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int,
    initial_state: Tensor | None = None, *, eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The sparse form: theta, phi, slots [B, T, K], value [B, T, D] -> y, state [B, num_slots, D]."""
    checks.memory("B T", theta, phi, value, eps, slots=slots, num_slots=num_slots, initial_state=initial_state)
    state = _start(initial_state, theta, phi, value, num_slots)
    return _loop(_sparse_step, (theta, phi, slots, value), state, eps)


def _loop(step, tokens: tuple[Tensor, ...], state: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A step for every token; value is the last of tokens."""
    ys = []
    # unbind, since the gradient of every theta[:, t] would be as large as theta
    for token in zip(*(v.unbind(1) for v in tokens), strict=True):
        y, state = step(*token, state, eps)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(tokens[-1])), state


def _start(initial_state: Tensor | None, theta: Tensor, phi: Tensor, value: Tensor, num_slots: int) -> Tensor:
    """The state before the first token, in float32 or, if anything is float64, in float64."""
    state = initial_state if initial_state is not None else value.new_zeros(len(value), num_slots, value.shape[-1])
    wide = any(v.dtype == torch.float64 for v in (theta, phi, value, state))
    return state.to(torch.float64 if wide else torch.float32)
