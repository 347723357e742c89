"""The rows of one file of predictions, or of several side by side, each with its reference and its edits.

What two files say of a row besides its prediction must be the same, or a manifest must say which counts. Knows nothing
of what is counted over rows.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from asrbatch.errors import OutputError, UsageError
from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.normalizers import counts_characters
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.row_fields import (
    DURATION,
    NO_VALUE,
    audio_seconds,
    duration_bin,
    heard_language,
    stated_language,
    status_of,
    text_of,
    values_of,
)
from asrbatch.evaluation.text_rules import Texts
from asrbatch.formatting import show, show_text
from asrbatch.languages import has_unspaced, primary

# The leaderboard cuts some sessions into chunks, and joins their texts again before it scores.
_CHUNKS_OF_SESSIONS = frozenset(("parent_id", "chunk_index"))
# Of texts counted in one call; their rows are in memory meanwhile.
_BATCH_CHARS = 1_000_000
_FIX = "say which counts with --references MANIFEST"
FoundRows = list[dict[str, Any] | None]  # of each file, None where it has no such row


class ScoredPrediction(NamedTuple):
    """What one system made of a row.

    Attributes:
        row: None where there is none.
        text: as it was written; None where there is none. What a failed row said does not count.
        failed: its error kind, or None.
        missing: there is no prediction for another reason.
        words, characters: edits; the former None for languages without spaces, both for a row that is not scored.
    """

    row: Mapping[str, Any] | None
    text: str | None
    failed: str | None
    missing: bool
    words: Edits | None = None
    characters: Edits | None = None

    @property
    def edits(self) -> Edits | None:
        """In words, or else in characters."""
        return self.words or self.characters


class ScoredRow(NamedTuple):
    """One row, with its edits if it is scored.

    Attributes:
        fields: of the row with the reference.
        reference: as it was written; None where there is none.
        predictions: of each file. A prediction that failed or is missing counts as an empty hypothesis.
        texts: the same, normalised; `texts.excluded` says why the row is not scored.
        audio_s: seconds; None where unknown.
        lang: the language of the texts.
        is_stated, is_detected: the row says so, or the model took it for that; neither where it was told or guessed.
        heard_as_another: one of the systems took it for another.
    """

    fields: Mapping[str, Any]
    reference: str | None
    predictions: list[ScoredPrediction]
    texts: Texts
    audio_s: float | None
    lang: str
    is_stated: bool
    is_detected: bool
    heard_as_another: bool


class ScoredRows:
    """All rows; `len(rows)` is their number.

    Those of the references; without a manifest of them those of the first file, then those that only later files have.
    """

    def __init__(self, inputs: EvaluationInputs):
        self.inputs = inputs
        self._files, self._references = inputs.files, inputs.references
        # Of each file, which rows no file before it has, and where these begin among all rows.
        first, *later = self._files
        self._new: list[Sequence[int]] = [range(len(first))]
        for at, file in enumerate(later, 1):
            self._new.append(file.without(np.concatenate([before.keys for before in self._files[:at]])))
        self._starts = [0, *accumulate(map(len, self._new))]

    def __len__(self) -> int:
        return self._starts[-1] if self._references is None else len(self._references)

    def read(self, start: int, stop: int) -> Iterator[ScoredRow]:
        """Rows [start, stop), those that are not scored too."""
        batch, chars = [], 0
        for row in self._prepared(start, stop):
            batch.append(row)
            chars += row.texts.num_chars
            if chars > _BATCH_CHARS:
                yield from self._counted(batch)
                batch, chars = [], 0
        yield from self._counted(batch) if batch else ()

    def _counted(self, rows: list[ScoredRow]) -> Iterator[ScoredRow]:
        counted = self.inputs.rules.count([row.texts for row in rows])
        for row, by_prediction in zip(rows, counted, strict=True):
            both = zip(row.predictions, by_prediction, strict=True)
            predictions = [each._replace(words=words, characters=chars) for each, (words, chars) in both]
            yield row._replace(predictions=predictions)

    def groups_of(self, row: ScoredRow) -> dict[str, list[str]]:
        """By field of `--by`, the groups that a row is in. Raises OutputError where two files put it into different
        ones.
        """
        return {name: self._values(name, row) for name in self.inputs.options.by}

    def _prepared(self, start: int, stop: int) -> Iterator[ScoredRow]:
        for index in range(start, stop):
            fields, rows = self._find(index)
            if self.inputs.common and None in rows:
                continue
            for row in (fields, *rows):
                self._refuse_chunks_of_sessions(fields["id"], row or {})
            reference = self._reference(index, fields, rows) if self.inputs.has_references else None
            predictions = [_prediction(file, row, fields["id"]) for file, row in zip(self._files, rows, strict=True)]
            hypotheses = [said.text for said in predictions]
            wanted = reference if self.inputs.has_references else hypotheses[0] or ""
            stated, heard = self._stated_language(fields, rows), [heard_language(row) for row in rows]
            detected = None if stated or self.inputs.told_language else self._detected(fields["id"], heard, wanted)
            lang = stated or detected or self.inputs.language
            texts = self.inputs.rules.prepare(wanted, hypotheses, lang)
            if not self.inputs.has_references:  # two empty predictions are alike, and count
                texts = texts._replace(excluded=None)
            another = not self.inputs.is_translated and any(each not in (None, primary(lang)) for each in heard)
            # Two runs may have decoded different lengths. Not A's: swapping the files must put the row into the same
            # bin.
            audio_s = audio_seconds(*rows, fields, longest=len(rows) > 1)
            is_stated, is_detected = stated is not None, detected is not None
            yield ScoredRow(fields, reference, predictions, texts, audio_s, lang, is_stated, is_detected, another)

    def _find(self, index: int) -> tuple[Mapping[str, Any], FoundRows]:
        """The fields of a row with its reference, and the row of each file."""
        if self._references is not None:
            utterance = self._references.read(index)
            return {**utterance.fields, "id": utterance.id}, [file.find(utterance.id) for file in self._files]
        at = bisect_right(self._starts, index) - 1
        row = self._files[at].read(int(self._new[at][index - self._starts[at]]))
        return row, [None] * at + [row] + [file.find(row["id"]) for file in self._files[at + 1 :]]

    def _reference(self, index: int, fields: Mapping[str, Any], rows: FoundRows) -> str | None:
        name = self.inputs.options.text_field
        if self._references is not None:
            return text_of(fields, name, partial(self._references.where, index))
        found = [
            None if row is None else text_of(row, name, partial(file.where, row["id"]))
            for row, file in zip(rows, self._files, strict=True)
        ]
        return self._agreed(fields["id"], f"references ({name})", found, _FIX)

    def _stated_language(self, fields: Mapping[str, Any], rows: FoundRows) -> str | None:
        """The language that a row is said to be in: by the references, or else by any of the files."""
        if self.inputs.written_language:
            return self.inputs.written_language
        if self._references is not None and (lang := stated_language(fields)):
            return lang
        stated = [stated_language(row) for row in rows]
        # `en` and `en-US` do not contradict each other.
        if len({primary(lang) for lang in stated if lang}) > 1:
            self._agreed(fields["id"], "lang", stated, _FIX)
        return next(filter(None, stated), None)

    def _detected(self, row_id: str, heard: Sequence[str | None], reference: str | None) -> str | None:
        """The language that a row was taken for. Raises UsageError where two files differ by more than its name."""
        # A row that was taken for Japanese must not leave WER, unless its reference is written so.
        found = {lang for lang in heard if lang and not (counts_characters(lang) and not has_unspaced(reference or ""))}
        if self.inputs.is_translated or not found:
            return None
        if len({self.inputs.rules.of_language(lang) for lang in found}) > 1:
            raise UsageError(
                f"id {show_text(row_id)}: does not say its lang, and was detected as {' and as '.join(sorted(found))}, "
                "which are scored by different rules; --language says which counts, or give rows their lang"
            )
        # Whichever: swapping the files must change nothing.
        return min(found)

    def _values(self, name: str, row: ScoredRow) -> list[str]:
        if name == DURATION:
            return [duration_bin(row.audio_s)]
        if self._references is not None and (values := values_of(name, row.fields)) is not None:
            return values
        found = [None if said.row is None else values_of(name, said.row) for said in row.predictions]
        fix = "name a field of the manifest, which is the same in both, or give --references MANIFEST"
        return self._agreed(row.fields["id"], f"--by {name}", found, fix) or [NO_VALUE]

    def _agreed(self, row_id: str, what: str, found: Sequence[Any], fix: str) -> Any:
        """What any of the files has, None where none does. Raises OutputError where they differ."""
        stated = [(value, file) for value, file in zip(found, self._files, strict=True) if value is not None]
        if not stated:
            return None
        first = stated[0]
        if other := next((each for each in stated if each[0] != first[0]), None):
            # The message begins with the id already.
            ending = f": id {show_text(row_id)}"
            both = (f"{show(value)} ({file.where(row_id).removesuffix(ending)})" for value, file in (first, other))
            raise OutputError(
                f"id {show_text(row_id)}: {what}: the files have different ones, {' and '.join(both)}; {fix}"
            )
        return first[0]

    def _refuse_chunks_of_sessions(self, row_id: str, row: Mapping[str, Any]) -> None:
        if self.inputs.rules.with_compounds and row.keys() >= _CHUNKS_OF_SESSIONS:
            raise UsageError(
                f"--normalizer leaderboard: id {show_text(row_id)} is a chunk of a session (parent_id, chunk_index); "
                "the leaderboard joins those before it scores, which is not done here, and the number would be another "
                "one"
            )


def _prediction(file: Predictions, row: dict[str, Any] | None, row_id: str) -> ScoredPrediction:
    failed, missing = status_of(row, file.pred_field)
    is_silent = row is None or failed is not None
    text = None if is_silent else text_of(row, file.pred_field, partial(file.where, row_id))
    return ScoredPrediction(row, text, failed, missing)
