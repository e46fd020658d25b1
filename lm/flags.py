"""From the fields of a dataclass to options of the command line, and from a message about fields to one about options.

A field made with layers.options.option is an option. Mixers that have a field of one name share the option.
"""

import argparse
import re
from collections.abc import Iterable
from dataclasses import Field, fields
from types import NoneType
from typing import Any, NamedTuple, get_args

from layers import MIXERS
from layers.options import Option, option_of
from lm.model import Config


class Flag(NamedTuple):
    field: str
    name: str  # without the dashes
    kind: type
    choices: tuple[str, ...] | None
    help: str

    def add_to(self, group: Any) -> None:
        """An option that is absent from the result unless it was given."""
        how = {"dest": self.field, "help": self.help, "default": argparse.SUPPRESS}
        if self.kind is bool:
            group.add_argument(f"--{self.name}", action=f"store_{str(not self.name.startswith('no-')).lower()}", **how)
        else:
            shown = None if self.choices else {int: "N", float: "X", str: "NAME"}[self.kind]
            group.add_argument(f"--{self.name}", type=self.kind, choices=self.choices, metavar=shown, **how)


def flags_of(made: Any) -> list[Flag]:
    """The options of one dataclass; `made` has its defaults."""
    return [_flag(field, found, getattr(made, field.name)) for field in fields(made) if (found := option_of(field))]


def flags_of_models() -> list[Flag]:
    """The options of Config and of all mixers; the help says whose they are, and each default."""
    found: dict[str, Flag] = {}
    mixers: dict[str, dict[str, list[str]]] = {}  # by field and by help, who has it
    for name, row in MIXERS.items():
        for flag in flags_of(row.options()):
            found.setdefault(flag.field, flag)
            mixers.setdefault(flag.field, {}).setdefault(flag.help, []).append(name)
    own = [
        flag._replace(help="; ".join(f"{', '.join(names)}: {what}" for what, names in mixers[flag.field].items()))
        for flag in found.values()
    ]
    return [*flags_of(Config()), *own]


def in_flags(message: str, flags: Iterable[Flag]) -> str:
    """The message with the options' names in place of the fields', where they differ.

    >>> in_flags("top_k must be None or lie in [1, num_slots = 4], got 5", flags_of_models())
    '--top-k must be None or lie in [1, --slots = 4], got 5'
    """
    renamed = {flag.field: f"--{flag.name}" for flag in flags if flag.name != flag.field}
    return re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), message)


def _flag(field: Field, option: Option, default: object) -> Flag:
    """A switch that is on by default is turned off, by --no-NAME."""
    kind: Any = next(kind for kind in (*get_args(field.type), field.type) if kind is not NoneType)
    name, what = option.flag or field.name.replace("_", "-"), f"{option.what} (default: {option.default or default})"
    if kind is bool:
        name, what = (f"no-{name}", f"without {option.what}") if default else (name, f"with {option.what}")
    return Flag(field.name, name, kind, option.choices, what)
