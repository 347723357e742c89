"""The utterances of a report: the worst of them, with what the page needs to show where they are wrong, and to play
them.

What the page gets of one row is bounded, however long it is, and so are all rows together. Knows nothing of HTML.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.evaluation.alignment import alignment
from asrbatch.evaluation.report.excerpt import KINDS, excerpt
from asrbatch.evaluation.rows import audio_seconds, finite_seconds, status_of, values_of
from asrbatch.evaluation.scoring import ScoredRow, Scoring
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.texts import EXCLUDED
from asrbatch.parallel import over_rows

NO_PREDICTION = "no prediction"  # `missing` is the error kind of a row whose audio file does not exist
MOST_BYTES = 100_000_000  # of the page's rows; a browser has them all in memory
_MOST_CHARS = 2000  # of a text as it was written
SCORED = "scored"
Kept = tuple[int, str, int, dict[str, Any]]  # minus errors (1 for rows without any), id, bytes, entry
Rate = tuple[int, int]  # errors, units of reference


class WorstRows(NamedTuple):
    """What a part of the rows gives the page: entries of its worst rows, the worst first; how many rows have which
    rate.
    """

    kept: list[Kept]
    rates: Counter[Rate]


class Unscored(NamedTuple):
    """One row that is not scored.

    Attributes:
        fields, row, failed, missing, audio_s: as in `score.ScoredRow`.
        reason: a key of `scored_texts.EXCLUDED`.
    """

    fields: Mapping[str, Any]
    row: Mapping[str, Any] | None
    failed: str | None
    missing: bool
    audio_s: float | None
    reason: str

    def values_of(self, name: str) -> list[str]:
        return values_of(name, self.fields, self.row, self.audio_s)


class Listing:
    """Lists rows [start, stop), no more than `number` of them: those with the most errors, then those that are not
    scored.

    Args:
        folder: what relative paths of audio files are relative to.
        by: fields whose values the page filters by.
        text_field, pred_field: where rows that are not scored have their texts.
    """

    def __init__(
        self,
        work: Scoring,
        by: tuple[str, ...],
        folder: Path,
        number: int,
        with_compounds: bool,
        text_field: str = "text",
        pred_field: str = "pred_text",
    ):
        self._work, self._by, self._folder = work, by, folder
        self._number, self._with_compounds = number, with_compounds
        self._text_field, self._pred_field = text_field, pred_field

    def __call__(self, start: int, stop: int) -> WorstRows:
        # Rows first, entries of those that stay at the end: what a page shows of a row takes longer than to count it.
        worst: list[tuple[int, str, ScoredRow | Unscored]] = []
        rates: Counter[Rate] = Counter()
        for row in self._everything(start, stop):
            errors = 1
            if isinstance(row, ScoredRow):
                edits = row.words or row.characters
                rates[edits.errors, edits.reference] += 1
                errors = -edits.errors
            worst.append((errors, str(row.fields["id"]), row))
            if len(worst) >= 2 * self._number:
                worst = nsmallest(self._number, worst, key=_place)
        kept = []
        for *place, row in nsmallest(self._number, worst, key=_place):
            entry = {
                **self._entry(row),
                **(self._aligned(row) if isinstance(row, ScoredRow) else self._as_written(row)),
            }
            kept.append((*place, len(json.dumps(list(entry.values()))), entry))
        return WorstRows(kept, rates)

    def _everything(self, start: int, stop: int) -> Iterator[ScoredRow | Unscored]:
        tally, scored = Tally(), set()
        for row in self._work.rows(start, stop, tally):
            scored.add(row.fields["id"])
            yield row
        for index in range(start, stop) if tally.excluded else ():
            fields, row = self._work.row(index)
            if fields["id"] in scored:
                continue
            alone = Tally()
            for _ in self._work.rows(index, index + 1, alone):
                pass
            failed, missing = status_of(row, self._pred_field)
            yield Unscored(fields, row, failed, missing, audio_seconds(row, fields), next(iter(alone.excluded)))

    def _entry(self, row: ScoredRow | Unscored) -> dict[str, Any]:
        flags = (row.row or {}).get("flags")
        return {
            "id": row.fields["id"],
            "seconds": row.audio_s,
            "status": row.failed or (NO_PREDICTION if row.missing else "ok"),
            "flags": [str(flag) for flag in flags] if isinstance(flags, list) else [],
            "groups": [row.values_of(name) for name in self._by],
            "audio": self._audio(row),
        }

    def _aligned(self, row: ScoredRow) -> dict[str, Any]:
        edits, texts = row.words or row.characters, row.texts
        compounds = self._with_compounds and texts.in_words
        found = alignment(texts.reference, texts.hypotheses[0], in_words=texts.in_words, with_compounds=compounds)
        units = [
            text.split(" ") if texts.in_words and text else list(text)
            for text in (texts.reference, texts.hypotheses[0])
        ]
        shown = excerpt(*units, found)
        space = " " if texts.in_words else ""
        normal = space.join(shown.reference), space.join(shown.hypothesis)
        written = [None if text is None else _short(text) for text in (row.reference, row.hypothesis)]
        return {
            "scored": SCORED,
            "errors": edits.errors,
            "units": edits.reference,
            "in_words": texts.in_words,
            "reference": written[0],
            "hypothesis": written[1],
            "normal_reference": normal[0] if normal[0] != written[0] else None,
            "normal_hypothesis": normal[1] if normal[1] != written[1] else None,
            "pieces": [number for kind, *numbers in shown.pieces for number in (KINDS[kind], *numbers)],
            "times": _times(row, shown.places, len(units[1]), texts.in_words),
        }

    def _as_written(self, row: Unscored) -> dict[str, Any]:
        """What there is to show of a row that has nothing to be held against."""
        said = None if row.failed or row.missing else (row.row or {}).get(self._pred_field)
        written = [None if text is None else _short(text) for text in (row.fields.get(self._text_field), said)]
        return {
            "scored": EXCLUDED[row.reason],
            "errors": None,
            "units": None,
            "in_words": True,
            "reference": written[0],
            "hypothesis": written[1],
            "normal_reference": None,
            "normal_hypothesis": None,
            "pieces": [],
            "times": None,
        }

    def _audio(self, row: ScoredRow | Unscored) -> list[Any] | None:
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
) -> tuple[list[dict], Counter[Rate]]:
    """The rows with the most errors, the worst first, of equals by id: `number` of them, or those that fit in
    `most_bytes`.

    Returns:
        Them, and how many of all rows have which rate, each in its own unit.
    """
    kept: list[Kept] = []
    rates: Counter[Rate] = Counter()
    for _, part in over_rows(work, num_rows, num_processes):
        rates.update(part.rates)
        kept = nsmallest(number, kept + part.kept, key=_place)
        # What does not fit now never will: later rows only come before it.
        kept = kept[: bisect_right(list(accumulate(size for _, _, size, _ in kept)), most_bytes)] or kept[:1]
    say(f"{len(kept)} utterances listed")
    return [entry for *_, entry in kept], rates


def _place(kept: tuple) -> tuple[int, str]:
    """The order of rows: by errors, then by id."""
    return kept[:2]


def _times(row: ScoredRow, places: list[int], num_units: int, in_words: bool) -> list[float] | None:
    """For each piece, when the segment it is in starts, in seconds of the row; None where the row has no segments to
    choose from.

    Segments are counted as they were written and texts once they are normalised, so that a time may be that of the
    segment before or after."""
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
