"""One token by torch: equations (4) to (6), dense and on K slots, in the state's dtype."""

import torch
from torch import Tensor


def step(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """theta, phi [B, M], value [B, D], state [B, M, D] -> y [B, D], new state."""
    state = torch.lerp(state, *_written(theta, value, state))  # (4)
    return _read(phi, value, state, eps), state


def step_(theta: Tensor, phi: Tensor, value: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """`step` inside the state."""
    state.lerp_(*_written(theta, value, state))  # (4)
    return _read(phi, value, state, eps), state


def sparse_step(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """theta, phi, slots [B, K]: the other slots come out bit for bit as they went in."""
    y, at, touched = _sparse_step(theta, phi, slots, value, state, eps)
    return y, state.index_put(at, touched)


def sparse_step_(
    theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, state: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """`sparse_step` inside the state."""
    y, at, touched = _sparse_step(theta, phi, slots, value, state, eps)
    return y, state.index_put_(at, touched)


def _sparse_step(theta, phi, slots, value, state, eps) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """y, the indices of the K rows and what they become."""
    at = (torch.arange(len(state), device=state.device)[:, None], slots.long())
    touched = torch.lerp(state[at], *_written(theta, value, state))  # (4) on K rows
    return _read(phi, value, touched, eps), at, touched


def _written(theta: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The value for every slot and how far each goes there, in the state's dtype."""
    return value[:, None].to(state.dtype), theta[..., None].to(state.dtype)


def _read(phi: Tensor, value: Tensor, state: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(state, dim=-1)
    rms = torch.hypot(norm / state.shape[-1] ** 0.5, norm.new_full((), eps**0.5))  # (5), its root never squared
    return torch.bmm((phi.to(state.dtype) / rms)[:, None], state)[:, 0].to(value.dtype)  # (6)
