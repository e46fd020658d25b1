"""Configs, the one table of mixers, and what both refuse."""

import dataclasses
import math

import pytest
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
from layers.options import option_of
from tests.support.mixers import VARIANTS


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: SparseConfig(num_slots=4, top_k=5), r"top_k must .* \[1, num_slots = 4\], got 5"),
        (lambda: SparseConfig(num_slots=4, top_k=0), "top_k must .* got 0"),
        (lambda: DenseConfig(num_slots=0), "num_slots must be a positive integer, got 0"),
        (lambda: FactorizationMemory(0), "d_model must be a positive integer, got 0"),
        (lambda: FactorizationMemory(True), "d_model must be a positive integer, got True"),
        (lambda: FactorizationMemory(2**31), "d_model must be below 2.*31, got 2147483648"),
        (lambda: DenseConfig(slot_width=6, expansion=2), "slot_width or expansion, not both: got 6 and 2"),
        (lambda: DenseConfig(expansion=1.5), "expansion must be a positive integer, got 1.5"),
        (lambda: SparseConfig(num_slots=4, top_k=1.5), "top_k must .* got 1.5"),
        (lambda: DenseConfig(gate="no"), "gate must be True or False, got 'no'"),
        (lambda: DenseConfig(temperature="1"), "temperature must be positive and finite, got '1'"),
        (lambda: DenseConfig(balance=math.inf), "balance must be finite and not negative, got inf"),
        (lambda: DenseConfig(conv=1.5), "conv must be a width, or 0 for none, got 1.5"),
        (lambda: Mamba2(8, Mamba2Config(head_width=4), eps=0), "eps must be positive and finite, got 0"),
        (lambda: DenseConfig(num_slots=4, slot_width=2.5), "slot_width must be a positive integer, got 2.5"),
        (lambda: DenseConfig(temperature=0), "temperature must be positive and finite, got 0"),
        (lambda: DenseConfig(temperature=math.nan), "temperature must be positive and finite, got nan"),
        (
            lambda: DenseConfig(router_noise=-1.0),
            "router_noise must be finite and not negative, got -1.0",
        ),
        (lambda: DenseConfig(balance=math.nan), "balance must be finite and not negative, got nan"),
        (lambda: DenseConfig(rates="head"), "rates must be one of 'token', 'slot', got 'head'"),
        (lambda: DenseConfig(backend="scan"), "backend must be one of 'auto', 'chu.*, got 'scan'"),
        (
            lambda: SparseConfig(num_slots=4, top_k=2, backend="abc"),
            "backend must be one of 'auto', .*, got 'abc'",
        ),
        (lambda: DenseConfig(conv=-1), "conv must be a width, or 0 for none, got -1"),
        (lambda: FactorizationMemory(8, eps=0.0), "eps must be positive and finite, got 0.0"),
        (lambda: FactorizationMemory(8)(torch.zeros(1, 2, 7)), r"x needs shape \[B, T, 8\], got \[1, 2, 7\]"),
        (lambda: Mamba2(8, Mamba2Config(head_width=3)), "head_width must divide expansion . d_model = 16, got 3"),
        (lambda: Mamba2(8, Mamba2Config(head_width=4, num_groups=3)), "num_groups must divide the 4 heads, got 3"),
        (lambda: Mamba2Config(state_width=0), "state_width must be a positive integer, got 0"),
        (lambda: Mamba2(8, Mamba2Config(head_width=4))(torch.zeros(2, 8)), r"x needs shape \[B, T, 8\], got \[2, 8\]"),
        (lambda: HGRN2(8, HGRN2Config(head_width=3)), "head_width must divide expansion . d_model = 8, got 3"),
        (lambda: GSA(8, GSAConfig(head_width=3)), "head_width must divide expansion . d_model = 8, got 3"),
        (lambda: MoM(0), "d_model must be a positive integer, got 0"),
        (lambda: GSA(8, GSAConfig(head_width=4), eps=0), "eps must be positive and finite, got 0"),
        (lambda: HGRN2Config(num_slots=0), "num_slots must be a positive integer, got 0"),
        (lambda: HGRN2Config(conv=-1), "conv must be a width, or 0 for none, got -1"),
        (lambda: HGRN2Config(gate=1), "gate must be True or False, got 1"),
        (lambda: HGRN2Config(lower_bound=0.0), "lower_bound must be positive and finite, got 0.0"),
        (lambda: HGRN2Config(lower_bound=1.0), "lower_bound must be below 1, got 1.0"),
        (lambda: GSAConfig(gate_root=0.0), "gate_root must be positive and finite, got 0.0"),
        (lambda: MoMConfig(num_memories=0), "num_memories must be a positive integer, got 0"),
        (lambda: MoMConfig(top_k=5), r"top_k must lie in \[1, num_memories = 4\], got 5"),
        (lambda: MoMConfig(shared_memory=2), "shared_memory must be True or False, got 2"),
        (lambda: MoMConfig(balance=-1.0), "balance must be finite and not negative, got -1.0"),
        (lambda: Attention(8, AttentionConfig(3)), "head_width must divide d_model = 8, got 3"),
        (lambda: Attention(8, AttentionConfig(1)), "head_width must be even for a transformer, got 1"),
        (lambda: AttentionConfig(window=-1), "window must be a number of tokens, or 0 for all, got -1"),
        (lambda: AttentionConfig(window=2.5), "window must be a number of tokens, or 0 for all, got 2.5"),
        (lambda: Attention(8, AttentionConfig(4))(torch.zeros(1, 2, 7)), r"x needs shape \[B, T, 8\], got \[1, 2, 7\]"),
    ],
)
def test_errors_say_what_was_got_and_what_is_needed(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", MIXERS)
def test_a_row_of_the_table_is_of_one_mixer(name):
    row = MIXERS[name]
    assert row.name == name and row.title and row.mlp_width > 0
    assert name in VARIANTS and VARIANTS[name] == (row.module, VARIANTS[name][1])
    made = row.module(64, row.options())
    assert made.d_model == 64 and made.in_proj.weight.shape[1] == 64
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.options().conv = 3


@pytest.mark.parametrize("name", MIXERS)
def test_options_are_the_defaults_of_a_model_and_what_is_given(name):
    row = MIXERS[name]
    assert all(getattr(row.options(), field) == value for field, value in row.defaults.items())
    for field in dataclasses.fields(row.config):
        if field.name in ("head_width", "num_slots"):
            assert getattr(row.options(**{field.name: 16}), field.name) == 16


def test_mixers_share_an_option_by_its_name():
    assert mixers_with("num_slots") == ("fm", "fm-sparse", "gsa", "hgrn2", "mom") and mixers_with("gates") == ()
    assert not [name for name, row in MIXERS.items() for f in dataclasses.fields(row.config) if f.name == "eps"]


def test_an_option_says_what_it_is():
    said = [option_of(f) for row in MIXERS.values() for f in dataclasses.fields(row.config)]
    assert all(option.what for option in said if option is not None)
