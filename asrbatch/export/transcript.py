"""A row of output as a transcript: its text, and segments of it with times.

Knows a row as a dict and what its fields mean. Knows nothing of files and of formats.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import NoneType
from typing import Any, NamedTuple

from asrbatch.languages import NO_SPACES

_WHITE_SPACE = re.compile(r"\s+")
# NO-BREAK SPACE and its kin: part of a word.
_GLUE = frozenset("\u00a0\u2007\u202f")
_UNKNOWN = "\ufffd"


class TranscriptWord(NamedTuple):
    """A word of a segment; texts, times and probability as the row has them."""

    text: str
    start_s: float
    end_s: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """Text with its times.

    Attributes:
        start_s, end_s: seconds from the row's own start.
        text: as the row has it.
        words: of the text, all of it; None where they have no times.
        has_spaces: whether the language it is in sets spaces between words.
        fields: of the segment, over those of the window it starts in: what Whisper calls `avg_logprob`, `temperature`,
            … where the row has it, and the window's own start as `window_start`.
    """

    start_s: float
    end_s: float
    text: str
    fields: dict[str, Any]
    words: tuple[TranscriptWord, ...] | None = None
    has_spaces: bool = True

    @property
    def parts(self) -> list[str]:
        """What a reader takes for words, without white space: what white space parts, or in a language without spaces
        the words that have times.
        """
        if self.words is None or self.has_spaces:
            return single_line(self.text).split()
        return [part for word in self.words for part in single_line(word.text).split()]


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
    def has_words(self) -> bool:
        """Whether the words of all its text have times."""
        return all(segment.words is not None for segment in self.segments)

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
    language = _typed(row, "language", str, NoneType)
    of_row = windows, starts_s, language not in NO_SPACES
    segments = tuple(_segment(fields, *of_row) for fields in _objects(row, "segments"))
    if not segments and text.strip():
        segments = (_segment({"start": 0.0, "end": audio_s, "text": text}, *of_row),)
    return Transcript(
        id=row["id"],
        index=row["index"],
        audio_path=audio_path_of(row),
        text=text,
        segments=segments,
        audio_s=audio_s,
        channel=_typed(row, "channel", int, NoneType),
        language=language,
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


def spans_ms(
    segment: TranscriptSegment, parts: Sequence[str], weights: Sequence[int], start_ms: int, end_ms: int
) -> list[tuple[int, int]]:
    """Start and end of consecutive parts of a segment's text: those of its words, or shares of its time by weight.

    Args:
        parts: without white space; joined, they are the text on one line without its spaces.
        start_ms, end_ms: of the segment; what words say beyond is cut off.
    """
    if segment.words is None:
        return list(pairwise(spread_ms(start_ms, end_ms, weights)))
    of_characters = _character_spans(segment.words)
    spans, earliest = [], start_ms
    for part in parts:
        # Control characters were dropped, half surrogate pairs replaced; white space is in no part.
        found = [next(span for c, span in of_characters if c == kept or kept == _UNKNOWN != c) for kept in part]
        start = min(max(round(found[0][0]), earliest), end_ms)
        earliest = min(max(round(found[-1][1]), start), end_ms)
        spans.append((start, earliest))
    return spans


def _character_spans(words: Sequence[TranscriptWord]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each character of some words with its share of the word's time, in milliseconds."""
    for word in words:
        # A no-break space at its end is part of the text.
        text, start_ms = word.text.strip(" "), word.start_s * 1000
        share_ms = (word.end_s * 1000 - start_ms) / max(len(text), 1)
        for place, character in enumerate(text):
            yield character, (start_ms + place * share_ms, start_ms + (place + 1) * share_ms)


def spread_ms(start_ms: int, end_ms: int, weights: Sequence[int]) -> list[int]:
    """Where each of `len(weights)` pieces begins, and where the last one ends, when time is shared out by weight.

    Returns:
        `len(weights) + 1` ascending integers, the first `start_ms`, the last `end_ms`.
    """
    total = max(sum(weights), 1)
    bounds = [start_ms + (end_ms - start_ms) * passed // total for passed in accumulate(weights, initial=0)]
    return [*bounds[:-1], end_ms]


def _segment(
    fields: dict[str, Any], windows: list[dict[str, Any]], starts_s: list[float], has_spaces: bool
) -> TranscriptSegment:
    start_s = _seconds(fields, "start")
    place = bisect_right(starts_s, start_s) - 1
    window = windows[place] if place >= 0 else {}
    of_both = {**window, **fields, "window_start": window.get("start")}
    text = _typed(fields, "text", str)
    return TranscriptSegment(start_s, _seconds(fields, "end"), text, of_both, _words(fields, text), has_spaces)


def _words(fields: dict[str, Any], text: str) -> tuple[TranscriptWord, ...] | None:
    if "words" not in fields:
        return None
    words = tuple(
        TranscriptWord(
            _typed(word, "word", str),
            _seconds(word, "start"),
            _seconds(word, "end"),
            _typed(word, "probability", float, int, NoneType),
        )
        for word in _objects(fields, "words")
    )
    if "".join(word.text for word in words).strip() != text.strip():
        raise ValueError("the words of a segment are not those of its text")
    return words


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
