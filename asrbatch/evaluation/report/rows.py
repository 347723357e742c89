"""The utterances of a report: the worst of them, where each run is wrong, and where their audio is.

What the page gets of one row is bounded, however long it is, and so are all rows together. Knows nothing of HTML.
"""

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from heapq import nsmallest
from itertools import accumulate
from pathlib import Path
from typing import Any

from asrbatch.evaluation.alignment import Edits, alignment
from asrbatch.evaluation.report.excerpt import KINDS, excerpt
from asrbatch.evaluation.row_fields import finite_seconds
from asrbatch.evaluation.rows import ScoredRow, ScoredRows
from asrbatch.evaluation.stats.sums import LargestItems
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.formatting import counted, shorten
from asrbatch.parallel import over_rows
from asrbatch.storage.filenames import expand_home, find_file

# Not `missing`, which is the error kind of a row whose audio file does not exist.
NO_PREDICTION = "no prediction"
# Of the page's rows: a browser has them all in memory.
MOST_BYTES = 100_000_000
_MOST_CHARS = 2001  # of a text as it was written, "…" of what was cut included
SCORED = "scored"
RankedEntry = tuple[int, str, int, dict[str, Any]]  # minus errors (1 for rows without any), id, bytes, entry
Rate = tuple[int, int]  # errors, units of reference


def worst_rows(
    rows: ScoredRows, folder: Path, number: int, log: Callable[[str], None], most_bytes: int = MOST_BYTES
) -> tuple[list[dict], list[Counter[Rate]]]:
    """The rows with the most errors (of all runs together), then those that are not scored, of equals by id: `number`
    of them, or those that fit in `most_bytes`.

    Args:
        folder: what relative paths of audio files are relative to.

    Returns:
        Them, and for each run how many of all rows have which rate, each in its own unit.
    """
    entries: list[RankedEntry] = []
    rates: list[Counter[Rate]] = [Counter() for _ in rows.inputs.files]
    worst_of = partial(_worst_of, rows, folder, number)
    for _, (found, rates_of_found) in over_rows(worst_of, len(rows), rows.inputs.options.num_processes):
        for of_run, of_found in zip(rates, rates_of_found, strict=True):
            of_run.update(of_found)
        entries = nsmallest(number, entries + found, key=lambda entry: entry[:2])
        # What does not fit now never will: later rows only come before it.
        sizes = accumulate(size for _, _, size, _ in entries)
        entries = entries[: bisect_right(list(sizes), most_bytes)] or entries[:1]
    log(f"{counted(len(entries), 'utterance')} listed")
    return [entry for *_, entry in entries], rates


def _worst_of(
    rows: ScoredRows, folder: Path, number: int, start: int, stop: int
) -> tuple[list[RankedEntry], list[Counter[Rate]]]:
    """Of rows [start, stop): entries of the worst, the worst first, and how many rows have which rate."""
    # Rows first, entries of those that stay at the end: what a page shows of a row takes longer than to count it.
    worst: LargestItems = LargestItems(number)
    rates: list[Counter[Rate]] = [Counter() for _ in rows.inputs.files]
    for row in rows.read(start, stop):
        edits = [said.edits for said in row.predictions if said.edits is not None]
        for of_run, each in zip(rates, edits, strict=False):  # a row is scored for all runs or for none
            of_run[each.errors, each.reference] += 1
        worst.add(sum(each.errors for each in edits) if edits else -1, str(row.fields["id"]), row)
    entries = []
    for rank, row_id, row in worst.ranked():
        entry = _entry(rows, folder, row)
        entries.append((rank, row_id, len(json.dumps(as_lists(entry))), entry))
    return entries, rates


def as_lists(entry: Mapping[str, Any]) -> list[Any]:
    """An entry without the names of its fields, which the page has once and not in each of perhaps 100,000 rows."""
    return [*(value for name, value in entry.items() if name != "runs"), [[*run.values()] for run in entry["runs"]]]


def _entry(rows: ScoredRows, folder: Path, row: ScoredRow) -> dict[str, Any]:
    """What all runs share of a row, and under `runs` what each made of it."""
    first = row.predictions[0].edits
    return {
        "id": row.fields["id"],
        "seconds": row.audio_s,
        "groups": list(rows.groups_of(row).values()),
        "audio": _audio(row.fields, folder),
        "scored": EXCLUDED.get(row.texts.excluded, SCORED),
        "units": None if first is None else first.reference,
        "in_words": first is None or row.texts.in_words,
        "reference": _cut(row.reference),
        "runs": [_of_run(rows, row, at) for at in range(len(row.predictions))],
    }


def _of_run(rows: ScoredRows, row: ScoredRow, at: int) -> dict[str, Any]:
    said = row.predictions[at]
    flags = (said.row or {}).get("flags")
    return {
        "status": said.failed or (NO_PREDICTION if said.missing else "ok"),
        "flags": [str(flag) for flag in flags] if isinstance(flags, list) else [],
        "words": _words((said.row or {}).get("segments")),
        "hypothesis": _cut(said.text),
        # Nothing to show of a row that has nothing to be compared with.
        **(_NOT_ALIGNED if said.edits is None else _aligned(rows, row, at, said.edits)),
    }


_NOT_ALIGNED = {"errors": None, "normal_reference": None, "normal_hypothesis": None, "pieces": [], "times": None}


def _aligned(rows: ScoredRows, row: ScoredRow, at: int, edits: Edits) -> dict[str, Any]:
    in_words, both = row.texts.in_words, (row.texts.reference, row.texts.hypotheses[at])
    found = alignment(*both, in_words=in_words, with_compounds=rows.inputs.rules.with_compounds)
    units = [text.split(" ") if in_words and text else list(text) for text in both]
    shown = excerpt(*units, found)
    normal, as_written = (shown.reference, shown.hypothesis), (row.reference, row.predictions[at].text)
    texts = [(" " if in_words else "").join(each) for each in normal]
    # Only what differs from the text as it was written.
    texts = [None if text == _cut(written) else text for text, written in zip(texts, as_written, strict=True)]
    return {
        "errors": edits.errors,
        "normal_reference": texts[0],
        "normal_hypothesis": texts[1],
        "pieces": [number for kind, *numbers in shown.pieces for number in (KINDS[kind], *numbers)],
        "times": _times(row.predictions[at].row, shown.places, len(units[1]), in_words),
    }


def _audio(fields: Mapping[str, Any], folder: Path) -> list[Any] | None:
    """URI of the audio file, where in it the row starts and ends (s); None where there is no such file here."""
    path = fields.get("audio_filepath")
    # `isfile` is false of names that no file can have, too.
    if type(path) is not str or not path.strip():
        return None
    found = find_file(os.path.join(folder, expand_home(path)))
    if not os.path.isfile(found):
        return None
    start, length = finite_seconds(fields.get("offset")), finite_seconds(fields.get("duration"))
    return [Path(found).absolute().as_uri(), start or None, round((start or 0.0) + length, 3) if length else None]


def _times(row: Mapping[str, Any] | None, places: list[int], num_units: int, in_words: bool) -> list[float] | None:
    """For each piece, when the word or else the segment it is in starts, in seconds of the row; None for a row without
    segments.
    """
    # They are counted as they were written and texts once they are normalised, so that a time may be that of the one
    # before or after.
    segments = _with_words((row or {}).get("segments"))
    if not isinstance(segments, list) or len(segments) < 2 or not num_units or not all(map(_has_time, segments)):
        return None
    starts = [finite_seconds(segment["start"]) for segment in segments]
    sizes = [len(segment["text"].split() if in_words else segment["text"]) for segment in segments]
    ends = list(accumulate(sizes))
    if not ends[-1]:
        return None
    found = (bisect_right(ends, place * ends[-1] / num_units) for place in places)
    return [starts[min(at, len(starts) - 1)] for at in found]


def _with_words(segments: Any) -> Any:
    """Words in place of the segments, where all of these have some with times."""
    words = _words_of(segments)
    return segments if words is None else [{"start": word.get("start"), "text": word.get("word")} for word in words]


def _words_of(segments: Any) -> list[dict[str, Any]] | None:
    """None where some segment has no list of them."""
    has_words = isinstance(segments, list) and all(
        isinstance(segment, dict) and isinstance(segment.get("words"), list) for segment in segments
    )
    if not has_words:
        return None
    return [word for segment in segments for word in segment["words"] if isinstance(word, dict)]


def _words(segments: Any) -> list[Any] | None:
    """Of each word its text, start (s) and probability (%), one after the other; as many as a text is shown of.

    None for a row without words, or with one that lacks one of these.
    """
    found: list[Any] = []
    num_chars = 0
    for word in _words_of(segments) or ():
        text, start, probability = word.get("word"), finite_seconds(word.get("start")), word.get("probability")
        if type(text) is not str or start is None or type(probability) not in (int, float) or not 0 <= probability <= 1:
            return None
        num_chars += len(text)
        if num_chars > _MOST_CHARS:
            break
        found += [text, start, round(100 * probability)]
    return found or None


def _has_time(segment: Any) -> bool:
    if not isinstance(segment, dict):
        return False
    return type(segment.get("text")) is str and finite_seconds(segment.get("start")) is not None


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= _MOST_CHARS:
        return text
    return f"{shorten(text, _MOST_CHARS)} [{len(text) - _MOST_CHARS + 1:,} more characters]"
