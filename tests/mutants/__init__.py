"""Planted faults, a module of them for each module of code."""

import pkgutil
from importlib import import_module
from pathlib import Path

from tests.mutants.fault import Fault

ROOT = Path(__file__).resolve().parents[2]


def all_faults() -> list[Fault]:
    """Of the modules here that have FAULTS."""
    names = (info.name for info in pkgutil.iter_modules(__path__) if info.name != "__main__")
    return [fault for name in names for fault in getattr(import_module(f"{__name__}.{name}"), "FAULTS", [])]
