"""Measures of a memory: what the slots do over a text, and numbers that say how much."""

import numpy as np
import pytest
import torch

import fast
from layers import MIXERS, FactorizationMemory
from lm.memory import effective_slots, entropies, half_life, slot_activity, slots_for_half
from lm.model import Config, LanguageModel

SMALL = {"d_model": 16, "num_layers": 2, "mlp_width": 12, "num_slots": 6, "top_k": 2, "head_width": 8}
SLOTTED = [name for name, row in MIXERS.items() if row.module is FactorizationMemory]


def make(mixer):
    torch.manual_seed(0)
    return LanguageModel(Config.lenient(mixer, **SMALL)).double()


def some_tokens():
    torch.manual_seed(1)
    return torch.randint(0, 257, (2, 25))


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("mixer", SLOTTED)
def test_slot_activity(mixer):
    model, tokens = make(mixer), some_tokens()
    layers = slot_activity(model, tokens)
    assert len(layers) == 2
    for affinity, theta, phi in layers:
        assert affinity.shape == theta.shape == phi.shape == (2, 25, 6)
        assert torch.allclose(affinity.sum(-1), torch.ones(2, 25, dtype=torch.float64))
        assert ((theta > 0).sum(-1) == (2 if mixer == "fm-sparse" else 6)).all()
        assert ((theta > 0) == (phi > 0)).all()


def test_slot_activity_is_what_the_memory_was_given(monkeypatch):
    model, tokens, seen = make("fm"), some_tokens(), []
    original = fast.factorization_memory
    monkeypatch.setattr(fast, "factorization_memory", lambda *a, **k: seen.append(a) or original(*a, **k))
    model(tokens)
    for (theta, phi, *_), activity in zip(seen[:2], slot_activity(model, tokens), strict=True):
        assert error(activity.theta, theta) < 1e-12 and error(activity.phi, phi) < 1e-12


def test_slot_activity_needs_slots():
    with pytest.raises(ValueError, match=r"slot_activity needs .* fm or fm-sparse, got 'mamba2'"):
        slot_activity(make("mamba2"), some_tokens())


def test_measures_of_a_memory():
    theta = np.array([[0.5, 0.25, 0.0], [0.5, 0.25, 0.0]])
    assert half_life(theta) == pytest.approx([1.0, np.log(2) / -np.log(0.75), np.inf])
    assert 0.5 ** (100 / half_life(np.full((9, 1), 0.03))[0]) == pytest.approx(0.97**100)
    assert slots_for_half(np.array([[0.1, 0.3, 0.3, 0.3]])) == 2
    assert entropies(np.full((2, 8), 0.01)) == pytest.approx([3, 3])
    assert entropies(np.array([[0.0, 0.7], [0.0, 0.0]])) == pytest.approx([0, 0])
    assert effective_slots(np.array([[0.5, 0.5], [0.0, 0.3]])) == pytest.approx(1.5)
