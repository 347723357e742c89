"""How a value is shown in a message: short, on one line, safe for a terminal.

Knows nothing of who shows it, and of colours and tables: those are in `cli/display`.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

MAX_CHARS = 81  # of a value in a message, "…" of what was cut included
MAX_ERROR_CHARS = 500  # of what a library says
# Zero-width joiner and non-joiner: Persian and Indic words are not written right without them, and they move nothing.
_JOINERS = "\u200c\u200d"


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
    # Cut before it is escaped: a text may be a megabyte, and an escape is not cut in two.
    return printable(shorten(text, MAX_CHARS))


def shorten(text: str, limit: int, at: int = 0) -> str:
    """At most so many characters, among them those at a place; "…" stands where some are left out."""
    # A little of what comes before the place; beside the end more of it, so that all the room is used.
    start = max(0, min(at - limit // 3, len(text) - limit))
    shown = "…" + text[start + 1 :] if start else text
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """Text of others on one line, as a terminal may have it: what could move its cursor, make another line or turn the
    direction of writing is written out (`\\x1b`, `\\n`, `\\u202e`), and so are spaces that look like one and are none.

    Args:
        keep: of these characters, those that stay, such as the line breaks of a whole block.
    """
    # Nearly every text is: one look in C instead of one at each character.
    if text.isprintable():
        return text
    keep += _JOINERS
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def first_of(names: Sequence[str], most: int, total: int | None = None) -> str:
    """`a, b, … and 3 more`.

    Args:
        most: so many are named.
        total: how many there are, where `names` holds the first alone.
    """
    more = (len(names) if total is None else total) - most
    return ", ".join(names[:most]) + (f", … and {more} more" if more > 0 else "")


def one_line(error: BaseException, *, with_type: bool = True) -> str:
    """A library's exception, for a message of ours: at most 500 characters."""
    # Libraries write over several lines; a message of ours is one.
    text = " ".join((f"{type(error).__name__}: {error}" if with_type else str(error)).split())
    return printable(shorten(text, MAX_ERROR_CHARS))


def counted(number: int, noun: str, one: str = "", more: str = "") -> str:
    """`1 row`, `1,234 rows`.

    Args:
        one, more: what follows, of one thing and of any other number of them: `does`, `do`.
    """
    words = (f"{number:,}", noun if number == 1 else f"{noun}s", one if number == 1 else more)
    return " ".join(filter(None, words))


def amount(value: float) -> str:
    """Money, of whatever currency: `1,234.50`; of less than 1 the first three figures, `0.00123`."""
    places = 2 if abs(value) >= 1 or not value else 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{places}f}"


def clock(seconds: float) -> str:
    """`1:02:03`, or `4 d 05:06` when it is long."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24:02}:{minutes:02}" if hours >= 72 else f"{hours}:{minutes:02}:{seconds:02}"


# RFC 2397, as far as it tells a URI from a file that is called `Data: x.wav`. Schemes are case-insensitive (RFC 3986).
_DATA_URI = re.compile(r"data:(?:[\w!#$&^.+-]+/[\w!#$&^.+-]+)?[;,]", re.IGNORECASE)


def is_data_uri(path: str) -> bool:
    return path[:5].lower() == "data:" and _DATA_URI.match(path) is not None


def shorten_data_uri(uri: str) -> str:
    header, _, payload = uri.partition(",")
    # The header is a file's, too, and may be as long as it likes.
    return f"{header[:40]},…({len(payload)} chars)"


def install_line(extra: str) -> str:
    """How a missing extra of pyproject.toml is installed."""
    return f"pip install '.[{extra}]' where asrbatch was cloned"
