"""How an option is declared: as a field of a frozen dataclass, which says its default, help, bounds and choices once.

`cli/options.py` makes the command line of such fields. Knows no option by name.
"""

import os
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from asrbatch.errors import UsageError


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    flags: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    metavar: str | None = None,
) -> Any:
    """A field of a dataclass that is an option.

    Args:
        help: for `--help`; `[default: …]` in it stands in place of the default itself.
        flags: its names on the command line, with spaces; None for the field's own name.
        minimum, maximum: bounds, both allowed.
        choices: all values that it may have.
        metavar: what `--help` calls its value.
    """
    metadata = {"help": help, "flags": flags, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata={**metadata, "metavar": metavar})


def flags(option: Field) -> list[str]:
    """As typer declares them: `--model` and `-m`, or `--drop-no-speech/--keep-no-speech` where it can be turned off."""
    if option.metadata["flags"]:
        return option.metadata["flags"].split()
    name = option.name.replace("_", "-")
    # What is off by default needs no name that turns it off.
    is_switch = option.type == bool | None or option.default is True
    return [f"--{name}/--no-{name}" if is_switch else f"--{name}"]


def flag(option: Field) -> str:
    """The name that messages call it by."""
    return flags(option)[0].partition("/")[0]


@dataclass(frozen=True)
class CheckedOptions:
    """Options that are held against the bounds and choices of their fields; a path may be any `os.PathLike`.

    Raises:
        UsageError: a value out of range.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            path = getattr(self, each.name)
            if isinstance(path, os.PathLike) and each.type in (str, str | None):
                # As text from here on: it goes into JSON, and is compared with what the command line gave.
                object.__setattr__(self, each.name, os.fspath(path))
            # None is "not given", for which no bound holds.
            if each.metadata and (value := getattr(self, each.name)) is not None:
                _check(each, value)


def _check(option: Field, value: Any) -> None:
    least, most, choices = (option.metadata[name] for name in ("minimum", "maximum", "choices"))
    if least is not None and not value >= least:  # NaN is not at least anything either
        raise UsageError(f"{flag(option)} {value}: must be at least {least}")
    if most is not None and not value <= most:
        raise UsageError(f"{flag(option)} {value}: must be at most {most}")
    if choices and value not in choices:
        raise UsageError(f"{flag(option)} {value}: must be one of {', '.join(choices)}")
