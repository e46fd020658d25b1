"""Each variant of the layer differs from it in the one thing that it says."""

import pytest
import torch

import reference
from experiments import variants
from layers import DenseConfig, FactorizationMemory, Mamba2

VARIANTS = [
    variants.NoUpdateRate, variants.NoMergeRate, variants.TwoRouters, variants.NoNorm, variants.NoGateNorm,
    variants.OneNorm, variants.ValuePerSlot,
]  # fmt: skip


def made(module):
    torch.manual_seed(0)
    return module(8, DenseConfig(num_slots=5, slot_width=6, conv=3, gate=module is variants.NoGateNorm)).double()


def some(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("module", VARIANTS)
def test_the_weights_are_those_of_the_layer_but_for_what_the_variant_says(module):
    variant, x = made(module), some(2, 7, 8)
    plain = FactorizationMemory(8, DenseConfig(num_slots=5, slot_width=6, conv=3, gate=variant.sizes[-1] > 0)).double()
    variant.load_state_dict(plain.state_dict(), strict=False)
    (theta, phi, _), (its_theta, its_phi, slots) = plain.route(x), variant.route(x)
    alpha = plain.affinity(x)
    assert slots is None
    assert torch.allclose(its_theta, alpha if module is variants.NoUpdateRate else theta)
    if module is variants.TwoRouters:
        mu = phi.sum(-1, keepdim=True)  # alpha sums to 1
        assert torch.allclose(its_phi, mu * (x @ variant.read_router.weight.T).softmax(-1))
        assert not torch.allclose(its_phi, phi, rtol=0.1)
    else:
        assert torch.allclose(its_phi, alpha if module is variants.NoMergeRate else phi)


def test_without_the_norm_slots_are_read_as_they_are():
    layer, plain, x = made(variants.NoNorm), made(FactorizationMemory), some(2, 9, 8)
    inputs, _, _ = layer._project(x, x.new_zeros(2, *layer.conv.tail_shape))
    (theta, phi, _), value = inputs
    memory = some(2, 5, 6)
    y, last = layer._scan(inputs, memory)
    state, want = memory, []
    for t in range(9):
        _, state = reference.step(theta[:, t], phi[:, t], value[:, t], state)
        want.append((phi[:, t, :, None] * state).sum(1))
    assert torch.allclose(y, torch.stack(want, 1), rtol=1e-9) and torch.allclose(last, state)
    assert not torch.allclose(plain(x)[0], layer(x)[0], rtol=0.1)


def scanned(module, length):
    """A layer, what its memory is given, the memory before, and what the layer makes of them."""
    layer, memory = made(module), some(2, 5, 6)
    inputs, _, _ = layer._project(some(2, length, 8), torch.zeros(2, *layer.conv.tail_shape, dtype=torch.float64))
    return layer, inputs, memory, *layer._scan(inputs, memory)


@pytest.mark.parametrize("length", [1, 8, 19])
def test_one_norm_is_over_the_whole_state(length):
    _, ((theta, phi, _), value), state, y, last = scanned(variants.OneNorm, length)
    want = []
    for t in range(length):
        _, state = reference.step(theta[:, t], phi[:, t], value[:, t], state)
        rms = (state.square().mean((1, 2)) + 1e-6).sqrt()
        want.append((phi[:, t, :, None] * state).sum(1) / rms[:, None])
    assert torch.allclose(y, torch.stack(want, 1), rtol=1e-9) and torch.allclose(last, state, rtol=1e-9)


@pytest.mark.parametrize("length", [1, 8, 19])
def test_each_slot_may_take_a_value_of_its_own(length):
    layer, inputs, memory, y, last = scanned(variants.ValuePerSlot, length)
    (theta, phi, _), value = inputs
    slots, want = memory * layer.scale, []
    for t in range(length):
        each = [  # a slot is a memory of one slot, which is given its own value
            reference.step(theta[:, t, [i]], phi[:, t, [i]], value[:, t] * layer.scale[i], slots[:, [i]])
            for i in range(5)
        ]
        want.append(sum(read for read, _ in each))
        slots = torch.cat([slot for _, slot in each], 1)
    assert torch.allclose(y, torch.stack(want, 1), rtol=1e-9)
    assert torch.allclose(last * layer.scale, slots, rtol=1e-9)
    layer.scale.data.fill_(1)
    plain = made(FactorizationMemory)
    assert torch.allclose(layer._scan(inputs, memory)[0], plain._scan(inputs, memory)[0], rtol=1e-9)


def test_the_gate_alone_multiplies_and_no_norm_follows():
    layer, y, z = made(variants.NoGateNorm), some(2, 3, 6), some(2, 3, 6) - 0.5
    layer.gain.data = torch.arange(1.0, 7.0, dtype=torch.float64)
    want = (y * z / (1 + (-z).exp()) * layer.gain) @ layer.out_proj.weight.T
    assert torch.allclose(layer._output(y, z), want)
    assert torch.allclose(layer._output(3 * y, z), 3 * want)  # which a norm would undo


@pytest.mark.parametrize("module", VARIANTS)
def test_steps_are_a_sequence(module):
    layer, x = made(module), some(2, 6, 8)
    whole, last = layer(x)
    state, ys = layer.double().initial_state(2), []
    with torch.no_grad():
        for t in range(6):
            y, state = layer.step_(x[:, t : t + 1], state)
            ys.append(y)
    assert torch.allclose(torch.cat(ys, 1), whole, rtol=1e-9)
    assert torch.allclose(state[0], last[0], rtol=1e-9)


def test_mamba2_with_long_dt_is_mamba2_but_for_the_dt_of_its_beginning():
    def begun(module):
        torch.manual_seed(0)
        return module(256)

    plain, variant = begun(Mamba2).state_dict(), begun(variants.LongDt).state_dict()
    assert [name for name in plain if not torch.equal(plain[name], variant[name])] == ["dt_bias"]
    torch.manual_seed(1)
    dt = torch.cat([torch.nn.functional.softplus(variants.LongDt(64).dt_bias) for _ in range(200)]).detach().log10()
    assert -5.01 < dt.min() < -4.8 and -1.2 < dt.max() < -0.99 and abs(dt.mean() + 3) < 0.2  # log-uniform
