"""A row of output as a transcript: its text, and segments of it with times.

Knows a row as a dict and what its fields mean. Knows nothing of files and of formats.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import NoneType
from typing import Any

_WHITE_SPACE = re.compile(r"\s+")
# NO-BREAK SPACE and its kin: part of a word.
_GLUE = frozenset("\u00a0\u2007\u202f")
_UNKNOWN = "\ufffd"


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """Text with its times.

    Attributes:
        start_s, end_s: seconds from the row's own start.
        text: as the row has it.
        fields: of the segment, over those of the window it starts in: what Whisper calls `avg_logprob`, `temperature`,
            … where the row has it, and the window's own start as `window_start`.
    """

    start_s: float
    end_s: float
    text: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transcript:
    """One transcribed utterance.

    Attributes:
        id: of the row.
        index: 0-based row of the manifest.
        audio_path: `audio_filepath` as the manifest has it; None where the audio has no path.
        text: the whole of it; not changed.
        segments: in the row's order. One over all of the audio where the row has text but no segments.
        audio_s: seconds of audio decoded.
        from_file_start: times are meant from the start of the audio file: `shift_s`, the row's offset, is to be added.
        channel: 0-based, None for the mean of all.
        language: ISO 639-1 code, or None.
    """

    id: str
    index: int
    audio_path: str | None
    text: str
    segments: tuple[TranscriptSegment, ...]
    audio_s: float
    channel: int | None = None
    language: str | None = None
    from_file_start: bool = False
    shift_s: float = 0.0

    @property
    def shift_ms(self) -> int:
        return round(self.shift_s * 1000)

    @property
    def audio_ms(self) -> int:
        # Rounded down, so that a time in whole milliseconds is inside the audio; 1.001 * 1000 is 1000.9999999999999.
        return int(self.audio_s * 1000 + 1e-6)


def transcript_of(row: dict[str, Any], *, from_file_start: bool = False) -> Transcript:
    """The transcript of an output row with status `ok`.

    Args:
        from_file_start: times count from the start of the audio file, not of the row: the row's `offset` is added.

    Raises:
        ValueError: a field is not what an output row has there; names it.
    """
    text, audio_s = _typed(row, "pred_text", str), _seconds(row, "audio_s")
    windows = _objects(row, "windows")
    starts_s = [_seconds(window, "start") for window in windows]
    segments = tuple(_segment(fields, windows, starts_s) for fields in _objects(row, "segments"))
    if not segments and text.strip():
        segments = (_segment({"start": 0.0, "end": audio_s, "text": text}, windows, starts_s),)
    return Transcript(
        id=row["id"],
        index=row["index"],
        audio_path=audio_path_of(row),
        text=text,
        segments=segments,
        audio_s=audio_s,
        channel=_typed(row, "channel", int, NoneType),
        language=_typed(row, "language", str, NoneType),
        from_file_start=from_file_start,
        shift_s=_seconds(row, "offset") if from_file_start and row.get("offset") is not None else 0.0,
    )


def audio_path_of(row: dict[str, Any]) -> str | None:
    """`audio_filepath` of a row; None where the audio has no path."""
    path = row.get("audio_filepath")
    return path if type(path) is str else None


def single_line(text: str) -> str:
    """Text on one line: white space is single spaces, control characters are dropped, half surrogate pairs replaced."""
    if not text.isprintable():
        kept = (c for c in text if c.isspace() or unicodedata.category(c) != "Cc")
        text = "".join(_UNKNOWN if unicodedata.category(c) == "Cs" else c for c in kept)
    return _WHITE_SPACE.sub(lambda found: found[0] if _GLUE.issuperset(found[0]) else " ", text).strip()


def ordered_ms(segments: Sequence[TranscriptSegment], audio_ms: int) -> list[tuple[int, int]]:
    """Start and end of each segment in whole milliseconds: inside the audio, in order, none reaching into the next."""
    spans: list[tuple[int, int]] = []
    for segment in segments:
        earliest = spans[-1][0] if spans else 0
        start = min(max(round(segment.start_s * 1000), earliest), audio_ms)
        if spans:
            spans[-1] = (spans[-1][0], min(spans[-1][1], start))
        spans.append((start, min(max(round(segment.end_s * 1000), start), audio_ms)))
    return spans


def spread_ms(start_ms: int, end_ms: int, weights: Sequence[int]) -> list[int]:
    """Where each of `len(weights)` pieces begins, and where the last one ends, when time is shared out by weight.

    Returns:
        `len(weights) + 1` ascending integers, the first `start_ms`, the last `end_ms`.
    """
    total = max(sum(weights), 1)
    bounds = [start_ms + (end_ms - start_ms) * passed // total for passed in accumulate(weights, initial=0)]
    return [*bounds[:-1], end_ms]


def _segment(fields: dict[str, Any], windows: list[dict[str, Any]], starts_s: list[float]) -> TranscriptSegment:
    start_s = _seconds(fields, "start")
    place = bisect_right(starts_s, start_s) - 1
    window = windows[place] if place >= 0 else {}
    of_both = {**window, **fields, "window_start": window.get("start")}
    return TranscriptSegment(start_s, _seconds(fields, "end"), _typed(fields, "text", str), of_both)


def _typed(fields: dict[str, Any], name: str, *kinds: type) -> Any:
    value = fields.get(name)
    if type(value) not in kinds:
        raise ValueError(f"its {name} is {'missing' if value is None else f'no {kinds[0].__name__}'}")
    return value


def _seconds(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise ValueError(f"its {name} is {'missing' if value is None else 'no number of seconds from 0'}")
    return float(value)


def _objects(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = row.get(name, [])
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise ValueError(f"its {name} are no list of objects")
    return value
