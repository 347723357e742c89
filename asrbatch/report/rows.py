"""The utterances of a report: the worst of them, with what the page needs to show where they are wrong, and to play them.

Knows nothing of HTML.
"""

from collections.abc import Callable
from heapq import nsmallest
from pathlib import Path
from typing import Any

from ..alignment import alignment
from ..error_rates import Tally
from ..parallel import over_rows
from ..score import ScoredRow, Scoring
from ..scored_rows import finite_seconds

NO_PREDICTION = "no prediction"  # `missing` is the error kind of a row whose audio file does not exist
KINDS = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3}


class Listing:
    """Lists rows [start, stop), the worst first, no more than `number` of them.

    Args:
        folder: what relative paths of audio files are relative to.
        by: fields whose values the page filters by.
    """

    def __init__(self, work: Scoring, by: tuple[str, ...], folder: Path, number: int, with_compounds: bool):
        self._work, self._by, self._folder = work, by, folder
        self._number, self._with_compounds = number, with_compounds

    def __call__(self, start: int, stop: int) -> list[tuple[int, str, dict[str, Any]]]:
        keyed = []
        for row in self._work.rows(start, stop, Tally()):
            errors = (row.words or row.characters).errors
            keyed.append((-errors, str(row.fields["id"]), row))
        worst = nsmallest(self._number, keyed, key=lambda each: each[:2])
        return [(size, row_id, self._entry(row)) for size, row_id, row in worst]

    def _entry(self, row: ScoredRow) -> dict[str, Any]:
        edits, texts = row.words or row.characters, row.texts
        hypothesis = texts.hypotheses[0]
        compounds = self._with_compounds and texts.in_words
        pieces = alignment(texts.reference, hypothesis, in_words=texts.in_words, with_compounds=compounds)
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
            "reference": row.reference,
            "hypothesis": row.hypothesis,
            "normal_reference": texts.reference if texts.reference != row.reference else None,
            "normal_hypothesis": hypothesis if hypothesis != row.hypothesis else None,
            "pieces": [number for kind, *numbers in pieces for number in (KINDS[kind], *numbers)],
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


def worst_rows(work: Listing, num_rows: int, number: int, num_processes: int | None, say: Callable[[str], None]) -> list[dict]:
    """The `number` rows with the most errors, the worst first, of equals by id."""
    kept: list[tuple[int, str, dict[str, Any]]] = []
    for _, part in over_rows(work, num_rows, num_processes):
        kept = nsmallest(number, [*kept, *part], key=lambda each: each[:2]) if len(kept) + len(part) > number else kept + part
    say(f"{len(kept)} utterances listed")
    return [entry for _, _, entry in sorted(kept, key=lambda each: each[:2])]
