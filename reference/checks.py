"""What the loops may be given. An error names the argument, what it must be and what it got."""

from typing import Any

import torch
from torch import Tensor

OPTIONAL = ("initial_state", "D")  # the arguments that may be None


def floating(sizes: dict[str, int], /, **arguments: tuple[Tensor | None, str]) -> None:
    """Every argument is a floating tensor, with the letters of its shape. A letter is the same size everywhere.

    sizes: the letters that are known; those of the arguments are added.

    >>> sizes = {"M": 5}
    >>> floating(sizes, value=(torch.rand(2, 4), "B D"), state=(torch.rand(2, 5, 4), "B M D"))
    >>> sizes
    {'M': 5, 'B': 2, 'D': 4}
    """
    first = next(iter(arguments))
    like: Any = arguments[first][0]  # a tensor, or the first turn of the loop says so
    for name, (tensor, letters) in arguments.items():
        if tensor is None and name in OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a floating tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {tensor.dtype}")
        _shape(name, tensor, letters, sizes)
        _device(name, tensor, first, like)
        if name.endswith("state") and tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {tensor.dtype}")


def memory(lead: str, theta: Tensor, phi: Tensor, value: Tensor, eps: float, **more) -> None:
    """The arguments of Factorization Memory: more has a state and, in the sparse form, slots and perhaps num_slots.

    lead: the letters of a shape before a token's own, B or B T.
    """
    sizes, weights = {}, f"{lead} {'K' if 'slots' in more else 'M'}"
    floating(sizes, value=(value, f"{lead} D"), theta=(theta, weights), phi=(phi, weights))
    if "num_slots" in more:
        sizes["M"] = more["num_slots"]
        _slot_count(sizes)
    state = {name: (tensor, "B M D") for name, tensor in more.items() if name.endswith("state")}
    floating(sizes, value=(value, f"{lead} D"), **state)
    if "slots" in more:
        _slot_count(sizes)
        _slots(sizes, more["slots"], weights, value)
    if not ((theta >= 0) & (theta <= 1) | theta.isnan()).all():
        raise ValueError(f"theta must lie in [0, 1], got {theta.min():.4g} to {theta.max():.4g}")
    if not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps must be positive or 0, got {eps}")


def _slots(sizes: dict[str, int], tensor: Tensor, letters: str, value: Tensor) -> None:
    """Integers in [0, M), all different within one token."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"slots must be a tensor of integers, got {type(tensor).__name__}")
    if tensor.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise TypeError(f"slots must have an integer dtype, got {tensor.dtype}")
    _shape("slots", tensor, letters, sizes)
    _device("slots", tensor, "value", value)
    M, tensor = sizes["M"], tensor.long()  # M need not fit a smaller dtype
    outside = (tensor < 0) | (tensor >= M)
    if outside.any():
        raise ValueError(f"slots must lie in [0, {M}), got {tensor[outside][0]}")
    twice = (tensor.sort(-1).values.diff(dim=-1) == 0).any(-1)
    if twice.any():
        where = twice.nonzero()[0].tolist()
        raise ValueError(f"slots must differ within one token, got {tensor[tuple(where)].tolist()} at {where}")


def _slot_count(sizes: dict[str, int]) -> None:
    K, M = sizes["K"], sizes["M"]
    if not isinstance(M, int) or isinstance(M, bool):
        raise TypeError(f"num_slots must be an integer, got {type(M).__name__}")
    if M < 1:
        raise ValueError(f"num_slots must be at least 1, got {M}")
    if K > M:
        raise ValueError(f"slots names {K} slots per token, but num_slots is {M}")


def count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _shape(name: str, tensor: Tensor, letters: str, sizes: dict[str, int]) -> None:
    names, got = letters.split(), [*tensor.shape]
    known = [sizes.get(letter, letter) for letter in names]
    if len(got) != len(known) or any(k not in (letter, g) for k, g, letter in zip(known, got, names, strict=True)):
        needs = f"[{', '.join(names)}]"
        if known != names:
            needs += f" = [{', '.join(map(str, known))}]"
        raise ValueError(f"{name} must have shape {needs}, got {got}")
    sizes.update(zip(names, got, strict=True))
    for letter in "DKM":
        if letter in names and not sizes[letter]:
            raise ValueError(f"{name} must have {letter} of at least 1, got {got}")


def _device(name: str, tensor: Tensor, first: str, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like {first}, got {tensor.device}")
