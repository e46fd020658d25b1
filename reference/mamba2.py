"""The Mamba-2 recurrence as a plain loop over time (arXiv 2405.21060).

Each head keeps a matrix h of N x P numbers. Everything in it fades at one rate, exp(dt A); a token adds the
outer product of a key B and its values x, and reads with a query C. Where x, dt, B and C come from is in
layers/mamba2.py:

    a = exp(dt A)                  the decay, in (0, 1]: one number per head and token              (1)
    h = a h + dt B x^T             the old state fades, the token is added                          (2)
    y = h^T C + D x                the state is read, the token itself passes by                    (3)

Beside Factorization Memory: there theta moves a slot towards x, so that it fades only where it is written;
here dt both fades the whole state and scales what is added.

Symbols: B batch, T time, H heads, P head width, G groups (H / G heads share B and C), N state width. The
letter B is also the paper's name for the key, as C is for the query and D for the pass-by weight.
    x, y [B, T, H, P]   dt [B, T, H], >= 0   A [H], < 0   B, C [B, T, G, N]   D [H]   state [B, H, N, P]

Inputs may have any floating dtype. Arithmetic is in the state's: float32, or float64 if any input is; y has
the dtype of x. Everything here is differentiable by autograd.
"""

import torch
from torch import Tensor

from reference import checks


def mamba2_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: x [B, H, P], dt [B, H], B, C [B, G, N], state [B, H, N, P] -> y [B, H, P], new state.

    >>> state = torch.tensor([[[[8.0], [4.0]]]])                 # one head, N = 2, P = 1
    >>> halve = -torch.log(torch.tensor([2.0]))                  # exp(1 * -log 2) = 1/2
    >>> key, query = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    >>> y, state = mamba2_step(torch.tensor([[[10.0]]]), torch.ones(1, 1), halve, key, query, None, state)
    >>> state                                                    # 8 / 2 + 10, and 4 / 2
    tensor([[[[14.],
              [ 2.]]]])
    >>> y                                                        # the query picks the second row
    tensor([[[2.]]])
    """
    _check("B", x, dt, A, B, C, D, state=state)
    return _step(x, dt, A, B, C, D, state)


def _step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor):
    """`mamba2_step` for inputs that have been checked."""
    value, dt, A, key, query = (v.to(state.dtype) for v in (x, dt, A, B, C))
    heads = torch.arange(x.shape[1]) // (x.shape[1] // B.shape[1])  # the group of each head
    key, query = key[:, heads], query[:, heads]  # [B, H, N]
    decay = (dt * A).exp()[..., None, None]  # (1)
    state = decay * state + dt[..., None, None] * key[..., :, None] * value[..., None, :]  # (2)
    y = (state * query[..., None]).sum(-2)  # (3)
    if D is not None:
        y = y + D.to(state.dtype)[:, None] * value  # (3)
    return y.to(x.dtype), state


def mamba2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A whole sequence -> y [B, T, H, P], final state [B, H, N, P]. The state starts at zero unless given.

    >>> ones = torch.ones(1, 3, 1, 1)
    >>> y, state = mamba2(ones, ones[..., 0], -torch.log(torch.tensor([2.0])), ones, ones)
    >>> y.flatten(), state.flatten()                             # 1, 1/2 + 1, 3/4 + 1
    (tensor([1.0000, 1.5000, 1.7500]), tensor([1.7500]))
    """
    _check("B T", x, dt, A, B, C, D, initial_state=initial_state)
    state = _start(initial_state, x, B, dt, A, C, D)
    ys = []
    for t in range(x.shape[1]):
        y, state = _step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, state)
        ys.append(y)
    return (torch.stack(ys, 1) if ys else torch.empty_like(x)), state


def _start(initial_state: Tensor | None, x: Tensor, B: Tensor, *others: Tensor | None) -> Tensor:
    """The state before the first token, in float32 or, if anything is float64, in float64."""
    batch, _, heads, width = x.shape
    state = initial_state if initial_state is not None else x.new_zeros(batch, heads, B.shape[-1], width)
    wide = any(v is not None and v.dtype == torch.float64 for v in (x, B, *others, state))
    return state.to(torch.float64 if wide else torch.float32)


def _check(lead: str, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, **state) -> None:
    """lead: the letters of a shape before a token's own, B or B T."""
    sizes = {}
    checks.floating(
        sizes, x=(x, f"{lead} H P"), dt=(dt, f"{lead} H"), A=(A, "H"), B=(B, f"{lead} G N"), C=(C, f"{lead} G N"),
        D=(D, "H"), **{name: (value, "B H N P") for name, value in state.items()},
    )  # fmt: skip
    if sizes["G"] < 1 or sizes["H"] % sizes["G"]:
        raise ValueError(f"B must have a G that divides the {sizes['H']} heads of x, got {sizes['G']}")
    if (dt < 0).any() or (A > 0).any():
        raise ValueError(f"dt must be >= 0 and A <= 0, got dt from {dt.min():.4g} and A to {A.max():.4g}")
