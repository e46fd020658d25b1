"""How a token chooses its slots: the top k, the noise and the balance that a training may add, and the weights."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FEW = 2048  # logits that a stable sort orders in less time than `top_slots` takes to make integers of them


class Routing(NamedTuple):
    """Write and read weights [B, T, M], or [B, T, K] with the slots they belong to (None: all M, in order)."""

    theta: Tensor
    phi: Tensor
    slots: Tensor | None

    def at(self, t: int) -> "Routing":
        """Of one token."""
        return Routing(self.theta[:, t], self.phi[:, t], None if self.slots is None else self.slots[:, t])


def route(
    logits: Tensor, rates: Sequence[Tensor], top_k: int | None = None, *, noise: float = 0.0, balance: float = 0.0
) -> Routing:
    """Logits over tau [B, T, M], rates eta and mu [B, T, 1 or M] -> the weights; top_k None keeps all slots.

    noise is the standard deviation of Gaussian noise on the logits; balance the weight of `balance_loss`, which is
    added to whatever loss the weights contribute to.
    """
    if noise:
        logits = logits + noise * torch.randn_like(logits)
    slots, kept = None, logits
    if top_k is not None:
        slots = top_slots(logits, top_k)
        # The kept affinities over their sum are the softmax of the kept logits.
        kept = logits.gather(-1, slots)
        rates = [v if v.shape[-1] == 1 else v.gather(-1, slots) for v in rates]
    alpha = kept.softmax(-1)
    if balance:
        alpha = _AddLoss.apply(alpha, balance * balance_loss(logits, slots))
    return Routing(rates[0] * alpha, rates[1] * alpha, slots)


def balance_loss(logits: Tensor, slots: Tensor | None) -> Tensor:
    """M sum over slots of (share of the pairs kept) * (mean affinity): 1 if all M slots are used alike, at most M.

    logits [..., M], slots [..., K] (None: all are kept, and the mean affinity is the share) -> a scalar. Gradients flow
    through the affinities alone.

    >>> logits = torch.tensor([[9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    >>> balance_loss(logits, torch.tensor([[0], [0]])).round(decimals=2), balance_loss(0 * logits, None)
    (tensor(4.), tensor(1.))
    """
    affinity, num_slots = logits.softmax(-1).flatten(0, -2).mean(0), logits.shape[-1]
    share = affinity.detach()
    if slots is not None:
        share = slots.flatten().bincount(minlength=num_slots) / slots.numel()
    return num_slots * (share * affinity).sum()


class _AddLoss(torch.autograd.Function):
    """x as it is; in the backward the loss given gets a gradient of 1, as if it were added to what x leads to."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, dx: Tensor) -> tuple[Tensor, Tensor]:
        return dx, torch.ones_like(*ctx.saved_tensors)


@torch.no_grad()
def top_slots(logits: Tensor, k: int) -> Tensor:
    """The slots of the k largest of logits [..., M] -> [..., k], largest first; of equals, the lowest slot.

    torch.topk does not say which of several equals it keeps, so it is given integers none of which are equal: a
    logit's bits, which as an integer have the order of the logits, and then the slot.

    >>> top_slots(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([1, 0])
    """
    graph = torch.compiler.is_compiling() or torch._C._get_tracing_state()  # which is for any number of tokens
    few = not graph and logits.numel() <= FEW
    if few or logits.dtype == torch.float64:  # for which no integer is wide enough
        return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    bits = (logits.float() + 0.0).view(torch.int32)  # + 0.0: of -0.0 and 0.0 neither is the larger
    rank = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    num_slots = logits.shape[-1]
    return (rank * num_slots - torch.arange(num_slots, device=logits.device)).topk(k).indices
