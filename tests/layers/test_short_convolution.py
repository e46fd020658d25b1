"""The short convolution: its derivatives, and none at all."""

import pytest
import torch

from layers.short_convolution import ShortConvolution
from tests.support.mixers import fresh, make


@pytest.mark.parametrize("name", ["dense", "mamba2, no convolution", "fm-sparse"])
def test_weights_stored_with_an_empty_convolution_load(name):
    """As they were once stored; a weight that has numbers is refused where there is no convolution, and the reverse."""
    mixer = make(name)
    weights, channels = mixer.state_dict(), mixer.conv.tail_shape[1]
    before = {**weights, "conv.weight": torch.zeros(channels, 0)}
    if mixer.conv.width:
        with pytest.raises(RuntimeError, match=r"size mismatch for conv.weight"):
            mixer.load_state_dict(before)
        return
    assert "conv.weight" not in weights
    other = fresh(name).double()
    other.load_state_dict(before)
    assert before.keys() - weights.keys() == {"conv.weight"}  # what the caller passed stays as it was
    assert all(torch.equal(value, weights[key]) for key, value in other.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"conv.weight\""):
        other.load_state_dict({**weights, "conv.weight": torch.zeros(channels, 2)})


def test_convolution_has_every_derivative():
    conv = ShortConvolution(3, 4).double()
    x, tail = (torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True) for T in (5, 3))
    more = dict.fromkeys(("check_forward_ad", "check_batched_grad", "check_batched_forward_grad"), True)

    def run(x, tail, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (x, tail))

    assert torch.autograd.gradcheck(run, (x, tail, conv.weight), **more)
    assert torch.autograd.gradgradcheck(run, (x, tail, conv.weight))
