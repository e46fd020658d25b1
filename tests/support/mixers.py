"""Every mixer at a small size, and the variants that differ in what they compute. Shared by the tests of the layers."""

import torch

from layers import (
    GSA,
    HGRN2,
    MIXERS,
    Attention,
    AttentionConfig,
    DenseConfig,
    FactorizationMemory,
    GSAConfig,
    HGRN2Config,
    Mamba2,
    Mamba2Config,
    MoM,
    MoMConfig,
    SparseConfig,
    mixers_with,
)

WIDTH = 8
SIZES = {"num_slots": 6, "top_k": 2, "head_width": 4, "state_width": 3}  # of those mixers that have them
VARIANTS = {
    name: (row.module, row.options(**{size: value for size, value in SIZES.items() if name in mixers_with(size)}))
    for name, row in MIXERS.items()
} | {
    "dense": (FactorizationMemory, DenseConfig(num_slots=5, slot_width=6)),
    "dense, rates per slot": (FactorizationMemory, DenseConfig(num_slots=5, rates="slot", temperature=0.5)),
    "sparse": (FactorizationMemory, SparseConfig(num_slots=7, slot_width=6, top_k=3)),
    "sparse, rates per slot": (FactorizationMemory, SparseConfig(num_slots=7, top_k=2, rates="slot", conv=2)),
    "attention, alibi": (Attention, AttentionConfig(head_width=4, positions="alibi")),
    "attention, window": (Attention, AttentionConfig(head_width=4, window=5)),
    "attention, alibi, window": (Attention, AttentionConfig(head_width=4, positions="alibi", window=1)),
    "mamba2, groups": (Mamba2, Mamba2Config(state_width=3, head_width=4, num_groups=2, conv=1)),
    "mamba2, no convolution": (Mamba2, Mamba2Config(state_width=3, head_width=4, conv=0)),
    "hgrn2, plain": (HGRN2, HGRN2Config(num_slots=3, head_width=4, lower_bound=0.25)),
    "gsa, plain": (GSA, GSAConfig(num_slots=3, head_width=4, expansion=2, gate_root=2.0)),
    "mom, none shared": (MoM, MoMConfig(num_slots=3, head_width=4, num_memories=3, top_k=1, shared_memory=False)),
}
FM = [name for name, (module, _) in VARIANTS.items() if module is FactorizationMemory]
GROWING = [name for name, (module, _) in VARIANTS.items() if module is Attention]


def fresh(name):
    """The mixer as it is made."""
    module, config = VARIANTS[name]
    return module(WIDTH, config)


def make(name, dtype=torch.float64, seed=0):
    """The mixer with every parameter moved off its initial value: a gain of 1 would hide its absence."""
    torch.manual_seed(seed)
    return moved(fresh(name).to(dtype))


@torch.no_grad()
def moved(mixer):
    for p in mixer.parameters():
        p += 0.3 * torch.randn_like(p)
    return mixer


def some_input(batch=2, T=23, dtype=torch.float64, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, T, WIDTH, dtype=dtype)


def tensors(state):
    """What counts of a state: memory and tail, or the keys and values of its tokens without the room behind them."""
    first, second = state
    return tuple(first[:, :, :, :second]) if isinstance(second, int) else (first, second)


def assert_close(got, want, tolerance=1e-12):
    error = (got - want).norm() / want.norm().clamp_min(1e-30)
    assert error < tolerance, f"off by {error:.3g} of the norm, worst at {(got - want).abs().argmax().item()}"
