"""The options of a mixer or of a run: a field of a dataclass with what the command line says of it, and its checks."""

import math
from dataclasses import Field, dataclass, field
from typing import Any, NamedTuple


class Option(NamedTuple):
    """What the command line says of a field."""

    what: str  # the help
    flag: str | None = None  # None: the field's name
    choices: tuple[str, ...] | None = None
    default: str | None = None  # where the default depends on other options, in words


def option(
    default: Any, what: str, *, flag: str | None = None, choices: tuple[str, ...] | None = None,
    shown: str | None = None,
) -> Any:  # fmt: skip
    """A field of a dataclass that is also an option of the command line; a plain field is none."""
    return field(default=default, metadata={"option": Option(what, flag, choices, shown)})


def option_of(field: Field) -> Option | None:
    return field.metadata.get("option")


@dataclass(frozen=True)
class MixerConfig:
    """What a mixer can be told besides the width of its input. A subclass checks its fields when it is made."""

    def check_width(self, d_model: int) -> None:
        """A ValueError where the options do not fit the width of the input."""


def check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if not is_size(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if value >= 2**31:
            raise ValueError(f"{name} must be below 2**31, got {value}")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")


def is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
