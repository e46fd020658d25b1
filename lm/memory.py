"""What the slots of a trained memory do over a text, in numbers: how many are used, how evenly, for how long."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from layers import MIXERS, FactorizationMemory
from lm.model import LanguageModel


class Activity(NamedTuple):
    """What one layer's slots do over a text, each [B, T, M]."""

    affinity: Tensor  # before any slots are dropped: sums to 1
    theta: Tensor  # write weight
    phi: Tensor  # read weight


@torch.no_grad()
def slot_activity(model: LanguageModel, tokens: Tensor) -> list[Activity]:
    """Affinity, write and read weights of every layer's slots over tokens [B, T], from an empty state."""
    x, layers = model.embedding(tokens), []
    for block in model.blocks:
        if not isinstance(block.mixer, FactorizationMemory):
            having = " or ".join(name for name, row in MIXERS.items() if issubclass(row.module, FactorizationMemory))
            raise ValueError(f"slot_activity needs a mixer with slots, {having}, got {model.config.mixer!r}")
        inputs = block.mixer_norm(x)
        affinity = block.mixer.affinity(inputs)
        theta, phi, slots = block.mixer.route(inputs)
        if slots is not None:
            theta, phi = (torch.zeros_like(affinity).scatter(-1, slots, v) for v in (theta, phi))
        layers.append(Activity(affinity, theta, phi))
        x, _ = block(x, None)
    return layers


def effective_slots(theta: np.ndarray) -> float:
    """How many slots a byte writes to, on average: 2 to the entropy of its write weights [T, M].

    >>> effective_slots(np.array([[0.2, 0.2, 0.0], [0.3, 0.3, 0.0]]))
    2.0
    """
    return float(np.mean(2 ** entropies(theta)))


def entropies(weights: np.ndarray) -> np.ndarray:
    """Entropy of each row of weights [T, M] over its sum, in bits; rows of zeros count as 0."""
    shares = weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(np.float32).tiny)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(-1)


def slots_for_half(theta: np.ndarray) -> int:
    """The smallest number of slots that take half of all writing.

    >>> slots_for_half(np.array([[0.1, 0.5, 0.2, 0.2]]))
    1
    """
    use = np.sort(theta.sum(0))[::-1]
    return int(np.searchsorted(use.cumsum(), use.sum() / 2)) + 1


def half_life(theta: np.ndarray) -> np.ndarray:
    """Bytes until half of a slot is overwritten at its mean write weight: theta [T, M] -> [M].

    A slot that is never written lasts for ever (inf), one replaced by every byte not at all (0).

    >>> half_life(np.array([[0.5, 0.0, 1.0], [0.5, 0.0, 1.0]]))
    array([ 1., inf,  0.])
    """
    with np.errstate(divide="ignore"):
        return math.log(2) / -np.log1p(-theta.mean(0, dtype=np.float64))
