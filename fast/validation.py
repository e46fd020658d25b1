"""What a caller may pass. Every error names the argument, what it got and what it needs."""

import torch
from torch import Tensor


def tokens(theta: Tensor, phi: Tensor, value: Tensor, *slots: Tensor, names: str = "B T") -> None:
    """theta, phi and slots, if given, share their shape (one weight per slot), value has the same leading sizes."""
    weights = f"{names} {'K' if slots else 'M'}"
    floating("value", value, value, f"{names} D")
    lead = value.shape[:-1]
    floating("theta", theta, value, weights, lead)
    floating("phi", phi, value, weights, theta.shape)
    for name, tensor, size in (("theta", theta, weights[-1]), ("value", value, "D")):
        if not tensor.shape[-1]:
            raise ValueError(f"{name} must have {size} of at least 1, got {[*tensor.shape]}")
    for tensor in slots:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"slots must be a tensor of integers, got {type(tensor).__name__}")
        if tensor.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
            raise TypeError(f"slots must have an integer dtype, got {tensor.dtype}")
        _shape("slots", tensor, weights, theta.shape)
        _device("slots", tensor, value)


def state(
    name: str, tensor: Tensor, like: Tensor, letters: str, shape: tuple[int, ...], first: str = "value"
) -> None:  # fmt: skip
    """A state is in float32 or float64."""
    floating(name, tensor, like, letters, shape, first)
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {tensor.dtype}")


def slot_count(num_slots: int, slots_per_token: int) -> None:
    if not isinstance(num_slots, (int, torch.SymInt)) or isinstance(num_slots, bool):
        raise TypeError(f"num_slots must be an integer, got {type(num_slots).__name__}")
    if num_slots < 1:
        raise ValueError(f"num_slots must be at least 1, got {num_slots}")
    if slots_per_token > num_slots:
        raise ValueError(f"slots names {slots_per_token} slots per token, but num_slots is {num_slots}")


def slot_values(slots: Tensor, num_slots: int) -> None:
    """Reads values: every slot in [0, num_slots), no slot twice for one token."""
    slots = slots.long()  # num_slots may not fit the dtype slots came in
    outside = (slots < 0) | (slots >= num_slots)
    if outside.any():
        raise ValueError(f"slots must lie in [0, {num_slots}), got {int(slots[outside][0])}")
    twice = slots.sort(-1).values.diff(dim=-1) == 0
    if twice.any():
        where = twice.any(-1).nonzero()[0].tolist()
        raise ValueError(f"slots must differ within one token, got {slots[tuple(where)].tolist()} at {where}")


def packing(cu_seqlens: Tensor, value: Tensor) -> int:
    """The number of packed sequences; what needs the values of cu_seqlens is in `bounds`."""
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor of integers, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens must have shape [sequences + 1], at least [2], got {[*cu_seqlens.shape]}")
    if value.shape[0] != 1:
        raise ValueError(f"cu_seqlens needs all sequences in one row, B = 1, got value of shape {[*value.shape]}")
    return cu_seqlens.shape[0] - 1


def positive(name: str, value: float) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def floating(
    name: str, tensor: Tensor, like: Tensor, letters: str, shape: tuple[int, ...] | None = None, first: str = "value"
) -> None:  # fmt: skip
    """letters: of its shape; shape: sizes of the first of them; like: the argument `first`, whose device it needs."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a floating tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {tensor.dtype}")
    _shape(name, tensor, letters, shape)
    _device(name, tensor, like, first)


def _shape(name: str, tensor: Tensor, letters: str, shape: tuple[int, ...] | None) -> None:
    """shape may be shorter than letters: the sizes beyond it are free."""
    shape = shape or ()
    letters = letters.split()
    if tensor.ndim != len(letters) or tensor.shape[: len(shape)] != tuple(shape):
        needs = f"[{', '.join(letters)}]"
        if shape:
            needs += f" = [{', '.join([*map(str, shape), *letters[len(shape) :]])}]"
        raise ValueError(f"{name} must have shape {needs}, got {[*tensor.shape]}")


def _device(name: str, tensor: Tensor, like: Tensor, first: str = "value") -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like {first}, got {tensor.device}")
