"""The short causal convolution over the last few tokens, one filter per channel."""

import torch
from torch import Tensor, nn

from fast.operators import has_tangent
from layers.options import is_size


class ShortConvolution(nn.Module):
    """y_t = sum_j w_j * x_{t - width + 1 + j}: causal, one filter per channel. Width 0: no weight, and x as it is."""

    weight: nn.Parameter | None

    def __init__(self, channels: int, width: int):
        super().__init__()
        check_conv(width)
        self.width = width
        self.tail_shape = (max(width - 1, 0), channels)
        # None, not a weight without numbers: distributed training waits for a gradient of every parameter.
        weight = nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) / width**0.5) if width else None
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, channels] after tail [B, width - 1, channels], the inputs before it -> y, the next tail."""
        if self.weight is None:
            return x, tail
        x = torch.cat([tail, x], 1)
        # Without a backward, its set-up would take longer than a token's convolution. And torch.compile does not know a
        # jvp of our own, so that forward mode goes through torch's operators.
        plain = not torch.is_grad_enabled() or any(map(has_tangent, (x, self.weight)))
        y = (_Convolve.forward if plain else _Convolve.apply)(x, self.weight)
        return y, x[:, x.shape[1] - tail.shape[1] :]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        stored = state_dict.get(f"{prefix}weight")
        if not self.width and stored is not None and not stored.numel():
            del state_dict[f"{prefix}weight"]  # in checkpoints made when no convolution was a weight without numbers
        super()._load_from_state_dict(state_dict, prefix, *rest)


def check_conv(width: int) -> None:
    if not (is_size(width) or width == 0):
        raise ValueError(f"conv must be a width, or 0 for none, got {width!r}")


class _Convolve(torch.autograd.Function):
    """[B, width - 1 + T, C] -> [B, T, C] by shifts: on a CPU many times as fast as a grouped conv1d."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        T = x.shape[1] - weight.shape[1] + 1
        if not torch._C._get_tracing_state() and T == 1:
            return (x * weight.t()).sum(1, keepdim=True)
        y = x[:, :T] * weight[:, 0]
        for j in range(1, weight.shape[1]):
            y.addcmul_(x[:, j : j + T], weight[:, j])
        return y

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dx, T = dy.new_zeros(x.shape), dy.shape[1]
        for j in range(weight.shape[1]):
            dx[:, j : j + T].addcmul_(dy, weight[:, j])
        dw = [(dy * x[:, j : j + T]).sum((0, 1)) for j in range(weight.shape[1])]
        return dx, torch.stack(dw, 1)
