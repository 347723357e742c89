"""How a value is shown in a message: short, on one line, safe for a terminal."""

import json
from typing import Any

_SHOWN_CHARS = 80


def show(value: Any) -> str:
    """A value as a message can hold it: JSON on one line, cut to 80 characters."""
    if type(value) is str and is_data_uri(value):
        value = shorten_data_uri(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # not JSON, e.g. a date of a data set: any text will do
        text = repr(value)
    return show_text(text)


def show_text(text: str) -> str:
    """Text as a message can hold it: on one line, without control characters, cut to 80 characters."""
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown


def is_data_uri(path: str) -> bool:
    return path[:5].lower() == "data:"  # schemes are case-insensitive (RFC 3986)


def shorten_data_uri(uri: str) -> str:
    header, _, payload = uri.partition(",")
    return f"{header[:40]},…({len(payload)} chars)"
