"""Bits per byte: the one cross entropy of the project, of tokens and of windows.

A document mark counts as one more byte.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lm.model import LanguageModel


def token_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Bits of every target: logits [..., 257], targets int64 [...] -> float64 [...].

    >>> token_bits(torch.zeros(1, 2, 4), torch.tensor([[0, 3]])).round(decimals=5)
    tensor([[2., 2.]], dtype=torch.float64)
    """
    return _nats(logits, targets, "none").view(targets.shape).double() / math.log(2)


def mean_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Their mean, a float32 scalar that gradients flow from."""
    return _nats(logits, targets, "mean") / math.log(2)


def bits_per_byte(model: LanguageModel, tokens: Tensor, burn_in: int = 0) -> Tensor:
    """Mean loss of windows [B, burn_in + T + 1] over the last T, a scalar that gradients flow from.

    The state is empty at first; the first burn_in tokens change it, and no gradient flows back into them.
    """
    state = None
    if burn_in:
        with torch.no_grad():
            _, state = model(tokens[:, :burn_in])
    tokens = tokens[:, burn_in:]
    logits, _ = model(tokens[:, :-1], state)
    return mean_bits(logits, tokens[:, 1:])


@torch.no_grad()
def held_out_loss(model: LanguageModel, windows: Tensor, batch: int) -> float:
    """Mean bits per byte over windows [N, T + 1]."""
    model.eval()
    parts = [bits_per_byte(model, part) * len(part) for part in windows.split(batch)]
    model.train()
    return float(sum(parts)) / len(windows)


def _nats(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction=reduction)
