"""Options of the commands as Python gives them: by the names of the command line, with `_` for `-`.

`--window-seconds 20` is `window_seconds=20`. Names of the fields that declare the options are understood as well
(`window_s`). Values are checked as typer checks words. Says no option itself, and knows nothing of what commands do.
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from asrbatch.errors import UsageError
from asrbatch.formatting import show

# How a result is printed, which a function does not do.
_OF_PRINTING = ("as_json", "verbose")
# What the command line takes as one word with commas, Python may give as a list.
LISTED = ("by", "formats", "devices")
Command = Any  # a function as `options.takes` returns it
_LIKE = 0.7  # of 1: below it, what a name resembles was hardly meant


class Keyword(NamedTuple):
    """An option or argument of a command.

    Attributes:
        name: in Python.
        field: what its dataclass and the command's function call it.
        type: of its value: str, int, float, bool, list[str] or a Literal.
        default: None of one that must be given.
        required: it must be given, and not as None.
        info: what typer is told of it.
    """

    name: str
    field: str
    type: Any
    default: Any
    required: bool
    info: Any


def keywords_of(command: Command) -> dict[str, Keyword]:
    """What a command takes, by its name in Python."""
    found = {}
    for parameter in command.__signature__.parameters.values():
        # The context of typer is no option.
        if parameter.name in _OF_PRINTING or not get_args(parameter.annotation):
            continue
        type_, info = get_args(parameter.annotation)
        types = [each for each in get_args(type_) if each is not NoneType]
        if get_origin(type_) not in (Literal, list) and types:  # `str | None`
            (type_,) = types
        # typer keeps the first name where a default would stand.
        flags = [str(each) for each in (info.default, *(info.param_decls or ()))]
        long = next((each for each in flags if each.startswith("--")), f"--{parameter.name}")
        name = long.partition("/")[0][2:].replace("-", "_")
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        found[name] = Keyword(name, parameter.name, type_, default, required, info)
    return found


def receive(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command's function gets, for options that are given by name.

    Raises:
        UsageError: a name that it does not take, or a value that its option cannot have.
    """
    known = keywords_of(command)
    by_field = {keyword.field: keyword for keyword in known.values()}
    values = {keyword.field: keyword.default for keyword in known.values()}
    written: list[str] = []
    for name, value in given.items():
        keyword = known.get(name) or by_field.get(name)
        if keyword is None:
            likely = difflib.get_close_matches(name, known, 1, _LIKE)
            fix = f"did you mean {likely[0]}?" if likely else f"asrbatch {_called(command)} --help lists its options"
            raise UsageError(f"{command.__name__}() has no option {show(name)}; {fix}")
        if keyword.field in written:
            raise UsageError(f"{keyword.name} and {keyword.field} are one option; give one of them")
        written.append(keyword.field)
        values[keyword.field] = _checked(keyword, value)
    received: dict[str, Any] = command.receive(values, written)
    return received


def _called(command: Command) -> str:
    name: str = command.__name__
    return name.replace("_", "-")


def _checked(keyword: Keyword, value: Any) -> Any:
    """A value as typer would have made it of a word. Raises UsageError."""
    if value is None and keyword.default is None and not keyword.required:
        return None
    value = _plain(keyword, value)
    choices = get_args(keyword.type) if get_origin(keyword.type) is Literal else ()
    if choices and value not in choices:
        raise UsageError(f"{keyword.name}={show(value)}: must be one of {', '.join(choices)}")
    if value == [] and keyword.required:
        raise UsageError(f"{keyword.name} is empty; give at least one file")
    is_a, what = _KINDS["text" if choices else keyword.type]
    if not is_a(value):
        raise UsageError(f"{keyword.name}={show(value)}: must be {what}")
    # Of the others their dataclass checks them.
    least, most = getattr(keyword.info, "min", None), getattr(keyword.info, "max", None)
    if least is not None and not value >= least:
        raise UsageError(f"{keyword.name}={show(value)}: must be at least {least:g}")
    if most is not None and not value <= most:
        raise UsageError(f"{keyword.name}={show(value)}: must be at most {most:g}")
    return value


def _plain(keyword: Keyword, value: Any) -> Any:
    """Without what Python has in place of text and plain numbers: paths, lists, numbers of numpy."""
    if keyword.type == list[str]:
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in several]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if keyword.type is str and keyword.field in LISTED and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if keyword.type is str and _is_number(value):
        return str(value)  # `rtfx=31.5` and `devices=0`
    if keyword.type is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if keyword.type is float and _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, "text"),
    str: (_is_text, "text"),
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    float: (_is_number, "a number"),
    list[str]: (lambda value: all(map(_is_text, value)), "text, or a list of texts"),
}
