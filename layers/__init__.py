"""Sequence mixers with one interface (layers/mixer.py), one file each, and the one table of them.

A file here that ends with its ROWS is in the table: command line, language model, figures and tests go by it.
"""

import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module

from layers.attention import Attention, AttentionConfig
from layers.factorization_memory import DenseConfig, FactorizationMemory, SparseConfig
from layers.gated_slots import GSA, HGRN2, GSAConfig, HGRN2Config, MoM, MoMConfig
from layers.mamba2 import Mamba2, Mamba2Config
from layers.mixer import Mixer

__all__ = [
    "GSA", "HGRN2", "MIXERS", "Attention", "AttentionConfig", "DenseConfig", "FactorizationMemory", "GSAConfig",
    "HGRN2Config", "Mamba2", "Mamba2Config", "Mixer", "MoM", "MoMConfig", "SparseConfig", "mixers_with",
]  # fmt: skip


def _rows() -> Iterator[Mixer]:
    for module in pkgutil.iter_modules(__path__):
        yield from getattr(import_module(f"{__name__}.{module.name}"), "ROWS", ())


MIXERS: dict[str, Mixer] = {row.name: row for row in sorted(_rows(), key=lambda row: row.name)}


def mixers_with(option: str) -> tuple[str, ...]:
    """The names of the mixers whose config has a field of that name.

    >>> mixers_with("top_k"), mixers_with("state_width")
    (('fm-sparse', 'mom'), ('mamba2',))
    """
    return tuple(name for name, row in MIXERS.items() if option in {field.name for field in fields(row.config)})
