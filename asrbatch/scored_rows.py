"""What a row says that matters to a score: its texts, its language, whether it failed, how long it is, which groups it is in.

Knows a row as a dict; knows nothing of files.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from .errors import OutputError
from .rows import show_text

DURATION = "duration"
NO_VALUE, NO_ENTRY = "(none)", "(empty)"
_DURATION_BOUNDS_S = (2, 5, 10, 15, 20, 30, 60, 300)
_SHOWN_VALUE_CHARS = 80


def text_of(fields: Mapping[str, Any], name: str, row_id: str) -> str | None:
    """The text in a field; None where there is none.

    Raises:
        OutputError: it is something else.
    """
    text = fields.get(name)
    if text is not None and type(text) is not str:
        raise OutputError(
            f"id {show_text(row_id)}: {name} is no text but {type(text).__name__}; write it in quotes, or null for none"
        )
    return text


def language_of(fields: Mapping[str, Any], otherwise: str) -> tuple[str, bool]:
    """The language of a row's reference, and whether the row says so."""
    lang = fields.get("lang")
    return (lang, True) if type(lang) is str and lang.strip() else (otherwise, False)


def status_of(row: Mapping[str, Any] | None, pred_field: str) -> tuple[str | None, bool]:
    """The error kind of a row that failed, or None; and whether there is no prediction for another reason."""
    if row is None:
        return None, True
    if row.get("status") == "failed":
        error = row.get("error")
        return str(error.get("kind")) if isinstance(error, dict) else "unknown", False
    return None, row.get(pred_field) is None


def audio_seconds(*rows: Mapping[str, Any] | None) -> float | None:
    """How long the audio is: what was decoded, or else what the rows say; None where neither is known."""
    for name in ("audio_s", "duration"):
        for row in rows:
            value = None if row is None else row.get(name)
            if type(value) in (int, float) and 0 <= value < float("inf"):
                return float(value)
    return None


def values_of(name: str, fields: Mapping[str, Any], row: Mapping[str, Any] | None, audio_s: float | None) -> list[str]:
    """The groups of a row: the value of a field, each value of a list, or the bin of its duration."""
    if name == DURATION:
        return [duration_bin(audio_s)]
    value = None
    for source in (fields, row or {}, fields.get("input"), (row or {}).get("input")):
        if isinstance(source, dict) and source.get(name) is not None:
            value = source[name]
            break
    if value is None:
        return [NO_VALUE]
    values = value if isinstance(value, list) else [value]
    return sorted({str(each)[:_SHOWN_VALUE_CHARS] for each in values}) or [NO_ENTRY]


def duration_bin(audio_s: float | None) -> str:
    """`5 to 10 s`: from 5 s up to but without 10 s."""
    if audio_s is None:
        return NO_VALUE
    at = bisect_right(_DURATION_BOUNDS_S, audio_s)
    if at == 0:
        return f"< {_DURATION_BOUNDS_S[0]} s"
    if at == len(_DURATION_BOUNDS_S):
        return f"{_DURATION_BOUNDS_S[-1]} s and more"
    return f"{_DURATION_BOUNDS_S[at - 1]} to {_DURATION_BOUNDS_S[at]} s"
