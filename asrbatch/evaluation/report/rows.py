"""The utterances of a report: the worst of them, where they are wrong, and where their audio is.

What the page gets of one row is bounded, however long it is, and so are all rows together. Knows nothing of HTML.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.evaluation.alignment import alignment
from asrbatch.evaluation.report.excerpt import KINDS, excerpt
from asrbatch.evaluation.row_counter import RowCounter, ScoredRow
from asrbatch.evaluation.row_fields import finite_seconds
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.parallel import over_rows

# Not `missing`, which is the error kind of a row whose audio file does not exist.
NO_PREDICTION = "no prediction"
# Of the page's rows: a browser has them all in memory.
MOST_BYTES = 100_000_000
_MOST_CHARS = 2000  # of a text as it was written
SCORED = "scored"
RankedEntry = tuple[int, str, int, dict[str, Any]]  # minus errors (1 for rows without any), id, bytes, entry
Rate = tuple[int, int]  # errors, units of reference


class PartOfReport(NamedTuple):
    """Of a part of the rows: entries of the worst, the worst first, and how many rows have which rate."""

    entries: list[RankedEntry]
    rates: Counter[Rate]


class WorstRows:
    """Lists rows [start, stop), no more than `number` of them: those with the most errors, then those that are not
    scored.

    Args:
        folder: what relative paths of audio files are relative to.
        by: fields whose values the page filters by.
    """

    def __init__(self, counter: RowCounter, by: tuple[str, ...], folder: Path, number: int, with_compounds: bool):
        self._counter, self._by, self._folder = counter, by, folder
        self._number, self._with_compounds = number, with_compounds

    def __len__(self) -> int:
        return len(self._counter)

    def __call__(self, start: int, stop: int) -> PartOfReport:
        # Rows first, entries of those that stay at the end: what a page shows of a row takes longer than to count it.
        worst: list[tuple[int, str, ScoredRow]] = []
        rates: Counter[Rate] = Counter()
        # The score has counted these rows already, so this tally is thrown away.
        for row in self._counter.rows(start, stop, Tally()):
            if row.edits is not None:
                rates[row.edits.errors, row.edits.reference] += 1
            worst.append((1 if row.edits is None else -row.edits.errors, str(row.fields["id"]), row))
            # At twice as many, so that they are sorted seldom and memory stays bounded.
            if len(worst) >= 2 * self._number:
                worst = nsmallest(self._number, worst, key=_rank)
        entries = []
        for *rank, row in nsmallest(self._number, worst, key=_rank):
            entry = {**self._entry(row), **(_as_written(row) if row.edits is None else self._aligned(row))}
            entries.append((*rank, len(json.dumps(list(entry.values()))), entry))
        return PartOfReport(entries, rates)

    def _entry(self, row: ScoredRow) -> dict[str, Any]:
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
        in_words, both = row.texts.in_words, (row.texts.reference, row.texts.hypotheses[0])
        found = alignment(*both, in_words=in_words, with_compounds=self._with_compounds and in_words)
        units = [text.split(" ") if in_words and text else list(text) for text in both]
        shown = excerpt(*units, found)
        entry = _as_written(row)
        for name, normal in (("reference", shown.reference), ("hypothesis", shown.hypothesis)):
            text = (" " if in_words else "").join(normal)
            entry[f"normal_{name}"] = text if text != entry[name] else None
        return {
            **entry,
            "scored": SCORED,
            "errors": row.edits.errors,
            "units": row.edits.reference,
            "in_words": in_words,
            "pieces": [number for kind, *numbers in shown.pieces for number in (KINDS[kind], *numbers)],
            "times": _times(row, shown.places, len(units[1]), in_words),
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
    listing: WorstRows,
    number: int,
    num_processes: int | None,
    log: Callable[[str], None],
    most_bytes: int = MOST_BYTES,
) -> tuple[list[dict], Counter[Rate]]:
    """The rows with the most errors, the worst first, of equals by id: `number` of them, or those that fit in
    `most_bytes`.

    Returns:
        Them, and how many of all rows have which rate, each in its own unit.
    """
    entries: list[RankedEntry] = []
    rates: Counter[Rate] = Counter()
    for _, part in over_rows(listing, len(listing), num_processes):
        rates.update(part.rates)
        entries = nsmallest(number, entries + part.entries, key=_rank)
        # What does not fit now never will: later rows only come before it.
        sizes = accumulate(size for _, _, size, _ in entries)
        entries = entries[: bisect_right(list(sizes), most_bytes)] or entries[:1]
    log(f"{len(entries)} utterances listed")
    return [entry for *_, entry in entries], rates


def _rank(ranked: tuple) -> tuple[int, str]:
    """The order of rows: by errors, then by id."""
    return ranked[:2]


def _as_written(row: ScoredRow) -> dict[str, Any]:
    """What there is to show of a row that has nothing to be compared with."""
    return {
        "scored": EXCLUDED.get(row.texts.excluded),
        "errors": None,
        "units": None,
        "in_words": True,
        "reference": _cut(row.reference),
        "hypothesis": _cut(row.hypothesis),
        "normal_reference": None,
        "normal_hypothesis": None,
        "pieces": [],
        "times": None,
    }


def _times(row: ScoredRow, places: list[int], num_units: int, in_words: bool) -> list[float] | None:
    """For each piece, when the segment it is in starts, in seconds of the row; None for a row without segments."""
    # Segments are counted as they were written and texts once they are normalised, so that a time may be that of the
    # segment before or after.
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


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]} … [{len(text) - _MOST_CHARS:,} more characters]"
