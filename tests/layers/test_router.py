"""The router: which slots are kept, ties, noise and balance."""

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers import DenseConfig, FactorizationMemory, SparseConfig, router
from layers.router import balance_loss, top_slots
from tests.support.mixers import WIDTH, assert_close, some_input


def layer_of(num_slots, top_k=None, **options):
    """The plain layer, dense without top_k."""
    if top_k is None:
        return FactorizationMemory(WIDTH, DenseConfig(num_slots=num_slots, **options))
    return FactorizationMemory(WIDTH, SparseConfig(num_slots=num_slots, top_k=top_k, **options))


LOGITS = st.sampled_from([-math.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1 + 1e-12, 3e38])


@pytest.mark.parametrize("few", [0, router.FEW], ids=["many", "few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(st.lists(st.lists(LOGITS, min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_of_equal_affinities_the_lowest_slot_is_kept(few, dtype, rows, k):
    logits = torch.tensor(rows, dtype=dtype)
    best = [sorted(range(6), key=lambda slot: -row[slot])[:k] for row in logits.tolist()]
    with patch.object(router, "FEW", few):
        assert top_slots(logits, k).tolist() == best


def test_ties_in_a_large_router_go_to_the_lowest_slots():
    layer = layer_of(300, 20)
    torch.nn.init.zeros_(layer.in_proj.weight)
    _, phi, slots = layer.route(some_input(dtype=torch.float32))
    assert (slots == torch.arange(20)).all()
    assert torch.allclose(phi, torch.tensor(0.5 / 20))  # mu is 1/2 where its logit is 0


@pytest.mark.parametrize("top_k", [None, 2])
def test_noise_and_balance_are_of_training_alone(top_k):
    plain, x = layer_of(6, top_k), some_input(dtype=torch.float32)
    noisy, even = (layer_of(6, top_k, **v) for v in ({"router_noise": 1.0}, {"balance": 1.0}))

    def results(layer):
        y, _ = layer(x)
        return y, *torch.autograd.grad(y.square().sum(), layer.in_proj.weight)

    for layer in (noisy, even):
        layer.load_state_dict(plain.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(results(layer.eval()), results(plain), strict=True))
    assert torch.equal(even.train()(x)[0], plain(x)[0])
    torch.manual_seed(0)
    first, second = (noisy.train()(x)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(noisy(x)[0], first)


def test_noise_is_of_the_deviation_asked_for_whatever_the_temperature():
    layer = layer_of(5, temperature=0.5, router_noise=0.7)
    torch.nn.init.zeros_(layer.in_proj.weight)
    logits = layer.route(some_input(T=5000, dtype=torch.float32)).theta.log()
    deviation = (logits - logits.mean(-1, keepdim=True)).std((0, 1))  # of a slot's noise, less the mean of all five
    assert torch.allclose(deviation, torch.tensor(0.7 * (1 - 1 / 5) ** 0.5), rtol=0.05)


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_balance_loss_is_its_formula(top_k):
    """Also where the last slot is not used; and its gradient is that of a fixed share."""
    logits = (torch.randn(4, 4, 6, dtype=torch.float64) - 9 * torch.eye(6)[-1]).requires_grad_()
    affinity = logits.softmax(-1).mean((0, 1))
    share, slots = affinity.detach(), None
    if top_k is not None:
        slots = top_slots(logits, top_k)
        share = torch.zeros_like(logits).scatter(-1, slots, 1.0).mean((0, 1)) / top_k
    losses = balance_loss(logits, slots), 6 * (share * affinity).sum()
    assert_close(*losses)
    assert_close(*(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses))


@pytest.mark.parametrize("top_k", [None, 2])
def test_the_balance_loss_joins_what_the_output_leads_to(top_k):
    layer, x = layer_of(6, top_k, balance=0.3).double(), some_input()
    weight = layer.in_proj.weight
    (joined,) = torch.autograd.grad(layer(x)[0].square().sum(), weight)
    layer.balance = 0.0
    _, logits, _, _ = layer._split(x)
    slots = None if top_k is None else top_slots(logits, top_k)
    (apart,) = torch.autograd.grad(layer(x)[0].square().sum() + 0.3 * balance_loss(logits, slots), weight)
    assert_close(joined, apart)


def test_descending_the_balance_loss_evens_out_the_slots():
    logits = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8.0)
    offset = torch.zeros(8, requires_grad=True)

    def loss():
        return balance_loss(logits + offset, top_slots(logits + offset, 2))

    before = loss().item()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(loss(), offset)
        with torch.no_grad():
            offset -= gradient
    assert before > 2 and 0.95 < loss().item() < 1.2
