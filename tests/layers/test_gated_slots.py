"""The layers of HGRN2, GSA and MoM against their formulas, around the loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from layers import GSA, HGRN2, MoM, MoMConfig
from reference.gated_slots import gated_slot_attention, gated_slots
from tests.support.mixers import VARIANTS, WIDTH, assert_close, make, moved, some_input

NAMES = [name for name, (module, _) in VARIANTS.items() if module in (HGRN2, GSA, MoM)]


def formula(name, mixer, x):
    """Weights are cut out of in_proj in the order: what is written, W_z, the rest."""
    module, config = VARIANTS[name]
    heads, width, slots = config.expansion * WIDTH // config.head_width, config.head_width, config.num_slots
    inner = heads * width
    written, z, own = (x @ mixer.in_proj.weight.T).split(
        [2 * inner if module is GSA else inner, inner if config.gate else 0, mixer.sizes[-1]], -1
    )
    if config.conv:
        padded = torch.cat([written.new_zeros(len(x), config.conv - 1, written.shape[-1]), written], 1).transpose(1, 2)
        written = F.conv1d(padded, mixer.conv.weight[:, None], groups=written.shape[-1]).transpose(1, 2)
    if config.conv or module is GSA:
        written = F.silu(written)
    if module is HGRN2:
        gates, q = own.chunk(2, -1)
        bound = mixer.bound.sigmoid()
        f = bound + (1 - bound) * gates.unflatten(-1, (heads, slots)).sigmoid()
        y, state = gated_slots(f.log(), F.silu(q.unflatten(-1, (heads, slots))), written.unflatten(-1, (heads, width)))
    elif module is GSA:
        gates, q = own.unflatten(-1, (heads, slots + width)).split([slots, width], -1)
        f = gates.sigmoid() ** (1 / config.gate_root)
        k, v = written.unflatten(-1, (heads, 2 * width)).split(width, -1)
        y, state = gated_slot_attention(f.log(), F.silu(q), k, v)
    else:
        tables = config.num_memories + config.shared_memory
        gates, q, scores = own.split([heads * tables * slots, heads * slots, config.num_memories], -1)
        best = scores.topk(config.top_k, -1).indices
        picked = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        weight = scores.masked_fill(~picked, -math.inf).softmax(-1)
        if config.shared_memory:
            picked, weight = (torch.cat([v, torch.ones_like(v[..., :1])], -1) for v in (picked, weight))
        bound = mixer.bound.sigmoid()
        f = bound + (1 - bound) * gates.unflatten(-1, (heads, tables, slots)).sigmoid()
        f = torch.where(picked[:, :, None, :, None], f, 1.0)
        read = weight[:, :, None, :, None] * F.silu(q).unflatten(-1, (heads, 1, slots))
        y, state = gated_slots(f.log().flatten(-2), read.flatten(-2), written.unflatten(-1, (heads, width)))
    y = y.flatten(-2)
    if config.gate:
        y = y * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + mixer.eps).sqrt() * mixer.gain
    return y @ mixer.out_proj.weight.T, state


@pytest.mark.parametrize("name", NAMES)
def test_the_layer_is_its_formula(name):
    mixer, x = make(name), some_input().requires_grad_()
    (got, (memory, _)), (want, state) = mixer(x), formula(name, mixer, x)
    assert_close(got, want)
    assert_close(memory, state)
    inputs = [x, *mixer.parameters()]
    gots, wants = (torch.autograd.grad(y.square().sum(), inputs) for y in (got, want))
    for g, w in zip(gots, wants, strict=True):
        assert_close(g, w, 1e-11)


@pytest.mark.parametrize("name", ["hgrn2", "hgrn2, plain", "mom"])
def test_gates_begin_between_their_bound_and_1(name):
    module, config = VARIANTS[name]
    mixer = module(WIDTH, config).double()
    log_f = mixer._project(100 * some_input(), mixer.initial_state(2)[1])[0][0]
    assert log_f.exp().min().item() == pytest.approx(config.lower_bound) and log_f.max() == 0


def test_a_memory_that_is_not_picked_stays_bit_by_bit():
    torch.manual_seed(0)
    mixer = moved(MoM(WIDTH, MoMConfig(num_slots=3, head_width=4, num_memories=4, top_k=1, conv=2)).double())
    x, kept = some_input(T=1), []
    memory = torch.randn(mixer.initial_state(2)[0].shape, dtype=torch.float64)
    for call in (mixer, mixer.step_):
        _, (after, _) = call(x, (memory.clone(), mixer.initial_state(2)[1]))
        same = (after == memory).unflatten(2, (5, 3)).all(-1).all(-1).all(1)  # [B, memories and the shared one]
        assert not same[:, -1].any() and (same.sum(-1) == 3).all()
        kept.append(same)
    assert torch.equal(*kept)


def test_balance_is_added_in_training_alone():
    def gradient(balance, training):
        torch.manual_seed(0)
        mixer = MoM(WIDTH, MoMConfig(num_slots=3, head_width=4, balance=balance)).double().train(training)
        mixer(some_input())[0].sum().backward()
        return mixer.in_proj.weight.grad

    assert torch.equal(gradient(0.5, False), gradient(0.0, True))
    difference = gradient(0.5, True) - gradient(0.0, True)
    assert difference[-4:].any() and not difference[:-4].any()  # of the router
