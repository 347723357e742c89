"""A row as a line of JSON Lines that means the same wherever the new manifest lies. The opposite of the readers.

Knows nothing about where rows come from beyond what an `Utterance` says, and writes no file.
"""

import math
import os
from typing import Any

from .remote import scheme_of
from .types import Utterance

# Exact to a frame up to 1 MHz, the highest rate that is read.
DURATION_DIGITS = 6


def has_place(row: Utterance) -> bool:
    """Whether a line can say where the audio of a row is: in a file, behind a URL, or in the line itself."""
    return row.audio.path is not None or row.audio.url is not None


def place_from(row: Utterance, folder: str) -> str:
    """`audio_filepath` for a manifest in `folder`: as it was written where that means the same, else an absolute path or URL.

    Args:
        row: one of which `has_place` is true.
        folder: absolute.
    """
    written, path = row.fields.get("audio_filepath"), row.audio.path
    if path is None:
        return row.audio.url
    path = os.path.normpath(path)
    if type(written) is str and (scheme_of(written) == "file" or os.path.normpath(os.path.join(folder, written)) == path):
        return written
    return path


def line_fields(row: Utterance, folder: str, duration_s: float | None = None) -> dict[str, Any]:
    """A row of which `has_place` is true, with its id and a path that holds in `folder`; numbers that JSON lacks are null.

    Args:
        duration_s: takes the place of the stated duration; None leaves what the row states.
    """
    others = {name: value for name, value in row.fields.items() if name not in ("audio_filepath", "id")}
    if duration_s is not None:
        others["duration"] = round(duration_s, DURATION_DIGITS)
    return _finite({"audio_filepath": place_from(row, folder), "id": row.id, **others})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
