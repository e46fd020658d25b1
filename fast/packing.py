"""How tokens, sequences and slots are laid out: packed sequences, segments of pairs, sparse weights among zeros."""

from collections.abc import Callable

import torch
from torch import Tensor

from fast.operators import checked_slots


def bounds(cu_seqlens: Tensor, total: int) -> list[int]:
    """Reads values: cu_seqlens as a list that starts at 0, never falls and ends at the number of tokens."""
    values = cu_seqlens.tolist()
    if values != sorted(values) or values[0] != 0 or values[-1] != total:
        raise ValueError(f"cu_seqlens must rise from 0 to the number of tokens, {total}, got {values}")
    return values


def segments(slots: Tensor, num_slots: int, cu_seqlens: Tensor | None) -> Tensor:
    """The segment of every pair, sequence * M + slot: [B T K]. Waits for no device."""
    batch, tokens, _ = slots.shape
    sequence = torch.arange(batch, device=slots.device)[:, None, None]
    if cu_seqlens is not None:
        inner, at = cu_seqlens[1:-1].long(), torch.arange(tokens, device=slots.device)
        sequence = torch.searchsorted(inner, at, right=True)[None, :, None]
    return (slots + num_slots * sequence).flatten()


def over_zeros(
    dense: Callable, theta: Tensor, phi: Tensor, slots: Tensor, value: Tensor, num_slots: int,
    initial_state: Tensor | None, *, check_values: bool, **options,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The sparse form by a function that computes the dense one."""
    slots = checked_slots(slots, num_slots, check_values)
    theta, phi = (v.new_zeros(*value.shape[:2], num_slots).scatter(-1, slots, v) for v in (theta, phi))
    return dense(theta, phi, value, initial_state, **options)
