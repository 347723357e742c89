"""The utterances of a report: the worst of them, with what the page needs to show where they are wrong, and to play them.

What the page gets of one row is bounded, however long it is, and so are all rows together. Knows nothing of HTML.
"""

import json
from bisect import bisect_right
from collections.abc import Callable
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..alignment import alignment
from ..error_rates import Tally
from ..parallel import over_rows
from ..score import ScoredRow, Scoring
from ..scored_rows import finite_seconds
from .excerpt import KINDS, excerpt

NO_PREDICTION = "no prediction"  # `missing` is the error kind of a row whose audio file does not exist
MOST_BYTES = 100_000_000  # of the page's rows; a browser has them all in memory
_MOST_CHARS = 2000  # of a text as it was written
Kept = tuple[int, str, int, dict[str, Any]]  # minus errors, id, bytes, entry


class Listing:
    """Lists rows [start, stop), no more than `number` of them: those with the most errors.

    Args:
        folder: what relative paths of audio files are relative to.
        by: fields whose values the page filters by.
    """

    def __init__(self, work: Scoring, by: tuple[str, ...], folder: Path, number: int, with_compounds: bool):
        self._work, self._by, self._folder = work, by, folder
        self._number, self._with_compounds = number, with_compounds

    def __call__(self, start: int, stop: int) -> list[Kept]:
        kept: list[Kept] = []
        for row in self._work.rows(start, stop, Tally()):
            errors = (row.words or row.characters).errors
            entry = self._entry(row)
            kept.append((-errors, str(row.fields["id"]), len(json.dumps(list(entry.values()))), entry))
            if len(kept) >= 2 * self._number:
                kept = nsmallest(self._number, kept, key=_place)
        return nsmallest(self._number, kept, key=_place)

    def _entry(self, row: ScoredRow) -> dict[str, Any]:
        edits, texts = row.words or row.characters, row.texts
        compounds = self._with_compounds and texts.in_words
        found = alignment(texts.reference, texts.hypotheses[0], in_words=texts.in_words, with_compounds=compounds)
        units = [text.split(" ") if texts.in_words and text else list(text) for text in (texts.reference, texts.hypotheses[0])]
        shown = excerpt(*units, found)
        space = " " if texts.in_words else ""
        normal = space.join(shown.reference), space.join(shown.hypothesis)
        written = [None if text is None else _short(text) for text in (row.reference, row.hypothesis)]
        flags = (row.row or {}).get("flags")
        return {
            "id": row.fields["id"],
            "errors": edits.errors,
            "units": edits.reference,
            "seconds": row.audio_s,
            "status": row.failed or (NO_PREDICTION if row.missing else "ok"),
            "flags": [str(flag) for flag in flags] if isinstance(flags, list) else [],
            "groups": [row.values_of(name) for name in self._by],
            "in_words": texts.in_words,
            "reference": written[0],
            "hypothesis": written[1],
            "normal_reference": normal[0] if normal[0] != written[0] else None,
            "normal_hypothesis": normal[1] if normal[1] != written[1] else None,
            "pieces": [number for kind, *numbers in shown.pieces for number in (KINDS[kind], *numbers)],
            "times": _times(row, shown.places, len(units[1]), texts.in_words),
            "audio": self._audio(row),
        }

    def _audio(self, row: ScoredRow) -> list[Any] | None:
        """URI of the audio file, where in it the row starts and ends (s); None where there is no such file here."""
        path = row.fields.get("audio_filepath")
        if type(path) is not str or "\0" in path or not path.strip():
            return None
        found = Path(self._folder, path)
        try:
            if not found.is_file():
                return None
        except OSError:  # a name that is too long for a file system
            return None
        start, length = finite_seconds(row.fields.get("offset")), finite_seconds(row.fields.get("duration"))
        return [found.absolute().as_uri(), start or None, round((start or 0.0) + length, 3) if length else None]


def worst_rows(
    work: Listing,
    num_rows: int,
    number: int,
    num_processes: int | None,
    say: Callable[[str], None],
    most_bytes: int = MOST_BYTES,
) -> list[dict]:
    """The rows with the most errors, the worst first, of equals by id: `number` of them, or those that fit in `most_bytes`."""
    kept: list[Kept] = []
    for _, part in over_rows(work, num_rows, num_processes):
        kept = nsmallest(number, kept + part, key=_place)
        # What does not fit now never will: later rows only come before it.
        kept = kept[: bisect_right(list(accumulate(size for _, _, size, _ in kept)), most_bytes)] or kept[:1]
    say(f"{len(kept)} utterances listed")
    return [entry for *_, entry in kept]


def _place(kept: Kept) -> tuple[int, str]:
    return kept[:2]


def _times(row: ScoredRow, places: list[int], num_units: int, in_words: bool) -> list[float] | None:
    """For each piece, when the segment it is in starts, in seconds of the row; None where the row has no segments to choose from.

    Segments are counted as they were written and texts once they are normalised, so that a time may be that of the segment
    before or after.
    """
    segments = (row.row or {}).get("segments")
    if not isinstance(segments, list) or len(segments) < 2 or not num_units:
        return None
    starts, sizes = [], []
    for segment in segments:
        start = finite_seconds(segment.get("start")) if isinstance(segment, dict) else None
        if start is None or type(segment.get("text")) is not str:
            return None
        starts.append(start)
        sizes.append(len(segment["text"].split() if in_words else segment["text"]))
    ends = list(accumulate(sizes))
    if not ends[-1]:
        return None
    found = (bisect_right(ends, place * ends[-1] / num_units) for place in places)
    return [starts[min(at, len(starts) - 1)] for at in found]


def _short(text: str) -> str:
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]} … [{len(text) - _MOST_CHARS:,} more characters]"
