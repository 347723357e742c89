"""Counts the words and characters of the rows of one file, part by part, in several processes; `score` has the rest.

Nothing of a row is kept but its counts and the seconds it took. A prediction that failed or is missing counts as an
empty hypothesis.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from asrbatch.errors import UsageError
from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import References
from asrbatch.evaluation.row_fields import (
    audio_seconds,
    language_of,
    prediction_of,
    seconds_of_stage,
    status_of,
    text_of,
    values_of,
)
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.text_rules import TextRules, Texts

# The leaderboard cuts some sessions into chunks, and joins their texts again before it scores.
_CHUNKS_OF_SESSIONS = frozenset(("parent_id", "chunk_index"))


class ScoredRow(NamedTuple):
    """One row, with its edits if it is scored.

    Attributes:
        fields: of the row with the reference.
        row: with the prediction; None where there is none.
        reference, hypothesis: as they were written; None where there is none. What a failed row said does not count.
        texts: the same, normalised; `texts.excluded` says why the row is not scored.
        failed: its error kind, or None.
        missing: there is no prediction for another reason.
        audio_s: seconds; None where unknown.
        words, characters: edits; the former None for languages without spaces, both for a row that is not scored.
    """

    fields: Mapping[str, Any]
    row: Mapping[str, Any] | None
    reference: str | None
    hypothesis: str | None
    texts: Texts
    failed: str | None
    missing: bool
    audio_s: float | None
    words: Edits | None = None
    characters: Edits | None = None

    @property
    def edits(self) -> Edits | None:
        """In words, or else in characters."""
        return self.words or self.characters

    def values_of(self, name: str) -> list[str]:
        """The groups that the row is in by one field."""
        return values_of(name, self.fields, self.row, self.audio_s)


class RowCounter:
    """Counts rows [start, stop): of the references where there are any, otherwise of the predictions.

    Args:
        language: of rows that do not say theirs.
        written_language: what a translation is written in, whatever language its audio is in; None of transcripts.
    """

    def __init__(
        self,
        predictions: Predictions,
        references: References | None,
        rules: TextRules,
        language: str,
        options: ScoreOptions,
        written_language: str | None = None,
    ):
        self._predictions, self._references = predictions, references
        self._rules, self._language, self._options = rules, language, options
        self._written_language = written_language

    def __len__(self) -> int:
        return len(self._predictions if self._references is None else self._references)

    def __call__(self, start: int, stop: int) -> Tally:
        tally = Tally()
        for row in self.rows(start, stop, tally):
            # Not scored; its text and times were counted on the way here.
            if row.characters is None:
                continue
            if row.failed:
                tally.failed_kinds[row.failed] += 1
            groups = {name: row.values_of(name) for name in self._options.by}
            for counts in (tally.total, *tally.groups.counts_of(groups)):
                counts.add(
                    row.words,
                    row.characters,
                    audio_s=row.audio_s,
                    generate_s=seconds_of_stage(row.row, "generate"),
                    failed=row.failed is not None,
                    missing=row.missing,
                )
        return tally

    def rows(self, start: int, stop: int, tally: Tally) -> Iterator[ScoredRow]:
        """All rows, those that are not scored too; `tally` counts their texts, languages and times."""
        for row, _, counted in self._rules.count(self._prepared(start, stop, tally)):
            for words, characters in counted or [(None, None)]:
                yield row._replace(words=words, characters=characters)

    def _prepared(self, start: int, stop: int, tally: Tally) -> Iterator[tuple[ScoredRow, Texts]]:
        pred_field = self._predictions.pred_field
        for index in range(start, stop):
            fields, row = self._read(index)
            _refuse_chunks_of_sessions(self._rules, fields)
            where = partial(self._predictions.where, fields["id"])
            of_reference = where if self._references is None else partial(self._references.where, index)
            reference = text_of(fields, self._options.text_field, of_reference)
            hypothesis = prediction_of(row, pred_field, where)
            lang, is_stated = language_of(fields, self._language)
            if self._written_language:
                lang, is_stated = self._written_language, True
            texts = self._rules.prepare(reference, [hypothesis], lang)
            # What a translation was heard as is not what it is written in.
            tally.languages.add(lang, is_stated, None if self._written_language else row)
            if row is not None:
                tally.stage_seconds.add(row)
                tally.stated.add(row)
            tally.add_texts(texts, lang)
            if texts.excluded:
                # No rate shows what a model says where nothing is to be held against it.
                tally.excluded_words[texts.excluded] += len(texts.hypotheses[0].split())
            status = status_of(row, pred_field)
            yield ScoredRow(fields, row, reference, hypothesis, texts, *status, audio_seconds(row, fields)), texts

    def _read(self, index: int) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
        """The fields of a row with its reference, and the row with its prediction, or None."""
        if self._references is None:
            row = self._predictions.read(index)
            return row, row
        utterance = self._references.read(index)
        return {**utterance.fields, "id": utterance.id}, self._predictions.find(utterance.id)


def _refuse_chunks_of_sessions(rules: TextRules, fields: Mapping[str, Any]) -> None:
    if rules.with_compounds and fields.keys() >= _CHUNKS_OF_SESSIONS:
        raise UsageError(
            f"--normalizer leaderboard: id {fields['id']} is a chunk of a session (parent_id, chunk_index); the "
            "leaderboard joins those before it scores, which is not done here, and the number would be another one"
        )
