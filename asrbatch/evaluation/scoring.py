"""Counts the words and characters of rows, in pieces by several processes; `score` makes figures of the counts.

Nothing of a row is kept but its counts and the seconds it took. A prediction that failed or is missing counts as an
empty hypothesis."""

import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from asrbatch.errors import UsageError
from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import References
from asrbatch.evaluation.rows import (
    audio_seconds,
    finite_seconds,
    language_of,
    prediction_of,
    seconds_of_stage,
    status_of,
    text_of,
    values_of,
)
from asrbatch.evaluation.stats.error_rates import Tally, microseconds
from asrbatch.evaluation.texts import TextRules, Texts
from asrbatch.parallel import over_rows
from asrbatch.pipeline.result import TIMING_FIELDS

_SAY_EVERY_S = 30.0
BATCH_CHARS = 1_000_000  # of texts counted in one call; their rows are in memory meanwhile
_CHUNKS_OF_SESSIONS = frozenset(("parent_id", "chunk_index"))


@dataclass(frozen=True)
class ScoreOptions:
    """How predictions are scored.

    Attributes:
        references: a manifest whose rows are all to be predicted; None where predictions carry their references.
        split: of a data set that has several.
        normalizer: `auto`, or a name in `normalizers.NORMALIZERS`.
        language: of rows that do not say theirs; None takes that of the run, or else English.
        by: fields to make groups by; `duration` makes bins.
        text_field, pred_field: where references and predictions are; None finds the latter.
        resamples, seed: of the bootstrap.
        num_processes: None takes one for each core where there are rows enough.
    """

    references: str | None = None
    split: str | None = None
    normalizer: str = "auto"
    language: str | None = None
    by: tuple[str, ...] = ()
    text_field: str = "text"
    pred_field: str | None = None
    resamples: int = 1000
    seed: int = 0
    num_processes: int | None = None


AnyTally = TypeVar("AnyTally")


class ScoringTask(Protocol):
    """Counts rows [start, stop) of `len(work)`; what it returns has `update`."""

    def __len__(self) -> int: ...

    def __call__(self, start: int, stop: int) -> Any: ...


def count_all(work: ScoringTask, tally: AnyTally, options: ScoreOptions, say: Callable[[str], None]) -> AnyTally:
    """Adds to `tally` what `work` counts over all rows, and returns it."""
    said = time.monotonic()
    for stop, part in over_rows(work, len(work), options.num_processes):
        tally.update(part)
        if time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{stop} of {len(work)} rows counted")
    return tally


class ScoredRow(NamedTuple):
    """One row that is scored.

    Attributes:
        fields: of the row with the reference.
        row: with the prediction; None where there is none.
        reference, hypothesis: as they were written; the latter None where it is missing.
            What a failed row said does not count.
        texts: the same, normalised.
        words, characters: edits; the former None for languages without spaces.
        failed: its error kind, or None. missing: there is no prediction for another reason.
        audio_s: seconds; None where unknown.
    """

    fields: Mapping[str, Any]
    row: Mapping[str, Any] | None
    reference: str
    hypothesis: str | None
    texts: Texts
    words: Edits | None
    characters: Edits
    failed: str | None
    missing: bool
    audio_s: float | None

    def values_of(self, name: str) -> list[str]:
        """The groups that the row is in by one field."""
        return values_of(name, self.fields, self.row, self.audio_s)


class Scoring:
    """Counts rows [start, stop): of the references where there are any, otherwise of the predictions."""

    def __init__(
        self,
        predictions: Predictions,
        references: References | None,
        rules: TextRules,
        language: str,
        options: ScoreOptions,
        written: str | None = None,
    ):
        self._predictions, self._references = predictions, references
        self._rules, self._language, self._options, self._written = rules, language, options, written

    def __len__(self) -> int:
        return len(self._predictions if self._references is None else self._references)

    def __call__(self, start: int, stop: int) -> Tally:
        tally = Tally()
        for row in self.rows(start, stop, tally):
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
        """The rows that are scored; `tally` is told of the others, of languages, normalisers and times."""
        found: list[tuple[Mapping[str, Any], dict[str, Any] | None, str, str | None]] = []
        texts: list[Texts] = []
        chars = 0
        for index in range(start, stop):
            if chars > BATCH_CHARS:
                yield from self._counted(found, texts)
                found, texts, chars = [], [], 0
            fields, row = self.row(index)
            _refuse_chunks_of_sessions(self._rules, fields)
            reference = text_of(fields, self._options.text_field, partial(self._where, index, fields))
            hypothesis = prediction_of(
                row, self._predictions.pred_field, partial(self._predictions.where, fields["id"])
            )
            lang, stated = (self._written, True) if self._written else language_of(fields, self._language)
            prepared = self._rules.prepare(reference, [hypothesis], lang)
            tally.languages.add(lang, stated, *(() if self._written else (row,)))
            if row is not None:
                _add_times(tally, row)
            if prepared.excluded:
                tally.excluded[prepared.excluded] += 1
                tally.excluded_words[prepared.excluded] += len(prepared.hypotheses[0].split())
                continue
            tally.normalizers[prepared.normalizer] += 1
            tally.fell_back += prepared.fell_back
            tally.languages.add_texts(lang, prepared)
            found.append((fields, row, reference, hypothesis))
            texts.append(prepared)
            chars += prepared.num_chars
        yield from self._counted(found, texts)

    def _counted(self, found: list[tuple], texts: list[Texts]) -> Iterator[ScoredRow]:
        for (fields, row, *written), prepared, (counted,) in zip(found, texts, self._rules.count(texts), strict=True):
            status = status_of(row, self._predictions.pred_field)
            yield ScoredRow(fields, row, *written, prepared, *counted, *status, audio_seconds(row, fields))

    def _where(self, index: int, fields: Mapping[str, Any]) -> str:
        return self._predictions.where(fields["id"]) if self._references is None else self._references.where(index)

    def row(self, index: int) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
        """The fields of a row with its reference, and the row with its prediction, or None."""
        if self._references is None:
            row = self._predictions.read(index)
            return row, row
        utterance = self._references.read(index)
        return {**utterance.fields, "id": utterance.id}, self._predictions.find(utterance.id)


def _add_times(tally: Tally, row: Mapping[str, Any]) -> None:
    for stage in TIMING_FIELDS:
        if (seconds := seconds_of_stage(row, stage)) is not None:
            tally.stages_s.setdefault(stage, array("f")).append(seconds)
    stated = [finite_seconds(row.get(name)) for name in ("time", "duration")]
    if "status" not in row and all(stated):  # of another tool: a `time` in our rows is a field of the manifest
        tally.stated_rows += 1
        tally.stated_time_us += microseconds(stated[0])
        tally.stated_duration_us += microseconds(stated[1])


def _refuse_chunks_of_sessions(rules: TextRules, fields: Mapping[str, Any]) -> None:
    if rules.with_compounds and fields.keys() >= _CHUNKS_OF_SESSIONS:
        raise UsageError(
            f"--normalizer leaderboard: id {fields['id']} is a chunk of a session (parent_id, chunk_index); the "
            f"leaderboard "
            "joins those before it scores, which is not done here, and the number would be another one"
        )
