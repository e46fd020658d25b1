"""The layer of Factorization Memory against its equations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from layers import DenseConfig, FactorizationMemory, SparseConfig
from reference.layer import Weights, layer
from tests.support.mixers import FM, WIDTH, assert_close, make, moved, some_input


def weights_of(mixer):
    """The parameters of a plain layer by the names that reference/layer.py has for them."""
    W_in, W_alpha, W_rates, _ = mixer.in_proj.weight.split(mixer.sizes)
    W_eta, W_mu = W_rates.chunk(2)
    return Weights(
        W_alpha, W_eta, mixer.rate_bias[0], W_mu, mixer.rate_bias[1], W_in, mixer.gain, mixer.out_proj.weight
    )


@st.composite
def plain_layers(draw):
    """A layer without convolution and gate, in float64.

    eps is large. With a small one, rounding grows where a slot is nearly 0; tests/fast/test_laws.py bounds that.
    """
    d_model, num_slots = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    options = {
        "num_slots": num_slots,
        "slot_width": draw(st.integers(1, 6)),
        "rates": draw(st.sampled_from(["token", "slot"])),
        "temperature": draw(st.sampled_from([0.2, 0.5, 1.0, 3.0])),
    }
    top_k = draw(st.none() | st.integers(1, num_slots))
    config = DenseConfig(**options) if top_k is None else SparseConfig(**options, top_k=top_k)
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return moved(FactorizationMemory(d_model, config, eps=draw(st.sampled_from([0.01, 0.1]))).double())


@given(plain_layers(), st.integers(1, 3), st.integers(0, 40), st.booleans())
def test_the_layer_is_its_equations(mixer, batch, T, with_state):
    """reference/layer.py says them in a loop: values, final state and every gradient."""
    x = torch.randn(batch, T, mixer.d_model, dtype=torch.float64).requires_grad_()
    state = torch.randn(batch, *mixer.memory_shape, dtype=torch.float64).requires_grad_() if with_state else None
    how = {"temperature": mixer.temperature, "top_k": mixer.top_k, "eps": mixer.eps}
    want = layer(x, weights_of(mixer), state, **how)
    tail = x.new_zeros(batch, *mixer.conv.tail_shape)
    y, (memory, _) = mixer(x, None if state is None else (state, tail))
    assert_close(y, want[0])
    assert_close(memory, want[1])
    if T:
        inputs = [x, *mixer.parameters(), *([] if state is None else [state])]
        on_y, on_memory = torch.randn_like(y), torch.randn_like(memory)
        gots, wants = (
            torch.autograd.grad((a * on_y).sum() + (b * on_memory).sum(), inputs) for a, b in ((y, memory), want)
        )
        for got, expected in zip(gots, wants, strict=True):
            assert_close(got, expected, 1e-11)


def formula(mixer, x):
    """The same with what the plain layer lacks: the convolution over the value, and the gate before the gain."""
    w = weights_of(mixer)
    W_z, D = mixer.in_proj.weight[sum(mixer.sizes[:-1]) :], mixer.slot_width
    theta, phi, slots = mixer.route(x)
    if slots is not None:
        theta, phi = (v.new_zeros(*x.shape[:2], mixer.num_slots).scatter(-1, slots, v) for v in (theta, phi))
    value = x @ w.W_in.T
    if width := mixer.conv.width:
        padded = torch.cat([x.new_zeros(len(x), width - 1, D), value], 1).transpose(1, 2)
        mixed = torch.nn.functional.conv1d(padded, mixer.conv.weight[:, None], groups=D)
        value = torch.nn.functional.silu(mixed.transpose(1, 2))
    y, state = reference.factorization_memory(theta, phi, value, eps=mixer.eps)
    if len(W_z):
        y = y * torch.nn.functional.silu(x @ W_z.T)
        y = y / (y.square().mean(-1, keepdim=True) + mixer.eps).sqrt()
    return (w.gain * y) @ w.W_out.T, state


@pytest.mark.parametrize("name", FM)
def test_the_convolution_and_the_gate_are_where_the_formula_has_them(name):
    mixer, x = make(name), some_input().requires_grad_()
    got, want = mixer(x), formula(mixer, x)
    assert_close(got[0], want[0])
    assert_close(got[1][0], want[1])
    inputs = [x, *mixer.parameters()]
    gots = torch.autograd.grad(got[0].square().sum() + got[1][0].sum(), inputs)
    wants = torch.autograd.grad(want[0].square().sum() + want[1].sum(), inputs)
    for g, w in zip(gots, wants, strict=True):
        assert_close(g, w, 1e-11)


def test_keeping_all_slots_is_the_dense_layer():
    mixer, x = make("sparse"), some_input()
    mixer.top_k = mixer.num_slots
    sparse, _ = mixer(x)
    mixer.top_k = None
    assert_close(sparse, mixer(x)[0])


@pytest.mark.parametrize("name", FM)
def test_routing_is_what_the_plots_expect(name):
    mixer, x = make(name), some_input()
    theta, phi, slots = mixer.route(x)
    affinity = mixer.affinity(x)
    assert affinity.shape == (2, 23, mixer.num_slots)
    assert torch.allclose(affinity.sum(-1), torch.ones(2, 23, dtype=torch.float64))
    for weight in (theta, phi):
        assert ((weight >= 0) & (weight <= 1)).all() and (weight.sum(-1) <= 1 + 1e-12).all()
    if mixer.top_k is None:
        assert slots is None and theta.shape == affinity.shape
    else:
        assert slots.shape == theta.shape == (2, 23, mixer.top_k)
        kept, rest = affinity.gather(-1, slots), affinity.scatter(-1, slots, 0.0)
        assert (kept.amin(-1) >= rest.amax(-1)).all()


def test_the_plain_layer_has_nothing_but_the_equations():
    mixer = FactorizationMemory(WIDTH, DenseConfig(num_slots=5))
    shapes = {name: [*p.shape] for name, p in mixer.named_parameters()}
    assert shapes == {
        "in_proj.weight": [WIDTH + 5 + 1 + 1, WIDTH],
        "rate_bias": [2, 1],
        "gain": [WIDTH],
        "out_proj.weight": [WIDTH, WIDTH],
    }
