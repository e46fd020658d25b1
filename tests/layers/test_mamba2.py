"""The layer of Mamba-2 against its formula, around the loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from layers import Mamba2
from reference.mamba2 import mamba2
from tests.support.mixers import VARIANTS, assert_close, make, some_input

MAMBA2 = [name for name, (module, _) in VARIANTS.items() if module is Mamba2]


def formula(mixer, x):
    z, xBC, dt = (x @ mixer.in_proj.weight.T).split(mixer.sizes, -1)
    if width := mixer.conv.width:
        padded = torch.cat([xBC.new_zeros(len(x), width - 1, xBC.shape[-1]), xBC], 1).transpose(1, 2)
        xBC = F.conv1d(padded, mixer.conv.weight[:, None], groups=xBC.shape[-1]).transpose(1, 2)
    shared = math.prod(mixer.group_shape)
    x, B, C = F.silu(xBC).split([z.shape[-1], shared, shared], -1)
    heads, _, head_width = mixer.memory_shape
    x = x.unflatten(-1, (heads, head_width))
    B, C = (v.unflatten(-1, mixer.group_shape) for v in (B, C))
    y, state = mamba2(x, F.softplus(dt + mixer.dt_bias), -mixer.A_log.exp(), B, C, mixer.D)
    y = y.flatten(-2) * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + mixer.eps).sqrt() * mixer.gain
    return y @ mixer.out_proj.weight.T, state


@pytest.mark.parametrize("name", MAMBA2)
def test_the_layer_is_its_formula(name):
    mixer, x = make(name), some_input().requires_grad_()
    (got, (memory, _)), (want, state) = mixer(x), formula(mixer, x)
    assert_close(got, want)
    assert_close(memory, state)
    inputs = [x, *mixer.parameters()]
    gots, wants = (torch.autograd.grad(y.square().sum(), inputs) for y in (got, want))
    for g, w in zip(gots, wants, strict=True):
        assert_close(g, w, 1e-11)
