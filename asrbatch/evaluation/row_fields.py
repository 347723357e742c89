"""The fields of a row that matter to a score: texts, language, status, duration, and the groups that it is in.

Knows a row as a dict; knows nothing of files.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from asrbatch.errors import OutputError
from asrbatch.formatting import show
from asrbatch.languages import is_language, primary
from asrbatch.manifest.row import MAX_SECONDS

DURATION = "duration"
NO_VALUE, NO_ENTRY = "(none)", "(empty)"
_DURATION_BOUNDS_S = (2, 5, 10, 15, 20, 30, 60, 300)
_DURATION_BINS = ("< 2 s", *(f"{low} to {high} s" for low, high in pairwise(_DURATION_BOUNDS_S)), "300 s and more")


def finite_seconds(value: Any) -> float | None:
    """A number of seconds that can be computed with, from 0 to `rows.MAX_SECONDS`; None for all else, NaN and true
    included.
    """
    # NaN is within no bounds. Adding 0.0 makes a float of a whole number, and 0.0 of -0.0.
    return value + 0.0 if type(value) in (int, float) and 0 <= value <= MAX_SECONDS else None


def text_of(fields: Mapping[str, Any], name: str, where: Callable[[], str]) -> str | None:
    """The text in a field; None where there is none.

    Args:
        where: what a message calls the row.

    Raises:
        OutputError: it is something else.
    """
    text = fields.get(name)
    if text is not None and type(text) is not str:
        raise OutputError(f"{where()}: {name} = {show(text)}: is not a text; write it in quotes, or null for none")
    return text


def stated_language(row: Mapping[str, Any] | None) -> str | None:
    """The language that a row says its reference is in; None where it says none.

    Other tools write it as `language`. In rows of ours that is what the model heard; what the manifest said stands in
    `input`."""
    fields = row or {}
    theirs = fields if "status" not in fields else fields.get("input")
    # Of a row of a run whose texts were aligned, `input` is one as well.
    if isinstance(theirs, Mapping) and {"status", "segments", "timing"} <= theirs.keys():
        theirs = theirs.get("input")
    for lang in (fields.get("lang"), theirs.get("language") if isinstance(theirs, Mapping) else None):
        if type(lang) is str and lang.strip():
            return lang
    return None


def heard_language(row: Mapping[str, Any] | None) -> str | None:
    """The code of the language that the model took a row of ours for; None where nobody knows."""
    heard = None if row is None or "status" not in row else row.get("language")
    return primary(heard) if type(heard) is str and is_language(heard) else None


def status_of(row: Mapping[str, Any] | None, pred_field: str) -> tuple[str | None, bool]:
    """The error kind of a row that failed, or None; and whether there is no prediction for another reason."""
    if row is None:
        return None, True
    if row.get("status") == "failed":
        error = row.get("error")
        return str(error.get("kind")) if isinstance(error, dict) else "unknown", False
    return None, row.get(pred_field) is None


def audio_seconds(*rows: Mapping[str, Any] | None, longest: bool = False) -> float | None:
    """How long the audio is: what was decoded, or else what the rows state; None where neither is known.

    Args:
        longest: of rows of several runs that decoded different lengths; otherwise the first row counts.
    """
    for name in ("audio_s", "duration"):
        found = [seconds for row in rows if row is not None and (seconds := finite_seconds(row.get(name))) is not None]
        if found:
            return max(found) if longest else found[0]
    return None


def seconds_of_stage(row: Mapping[str, Any] | None, stage: str) -> float | None:
    """What one stage took, of a row that has been through all of them; None otherwise."""
    timing = None if row is None or row.get("status") != "ok" else row.get("timing")
    return finite_seconds(timing.get(stage)) if isinstance(timing, dict) else None


def values_of(name: str, fields: Mapping[str, Any]) -> list[str] | None:
    """The groups of a row by one field: its value, or each value of a list; None where it has none."""
    # `input` holds what stood in the manifest under a name of ours.
    sources = (fields, fields.get("input"))
    stated = (source[name] for source in sources if isinstance(source, dict) and source.get(name) is not None)
    if (value := next(stated, None)) is None:
        return None
    values = value if isinstance(value, list) else [value]
    # A value that a list holds twice must not count its row twice.
    return sorted(set(map(_as_text, values))) or [NO_ENTRY]


def duration_bin(audio_s: float | None) -> str:
    """`5 to 10 s`: from 5 s up to but without 10 s."""
    return NO_VALUE if audio_s is None else _DURATION_BINS[bisect_right(_DURATION_BOUNDS_S, audio_s)]


def _as_text(value: Any) -> str:
    """A value as the name of a group; whole, because two long ones may begin alike."""
    return value if type(value) is str else json.dumps(value, ensure_ascii=False, sort_keys=True)
