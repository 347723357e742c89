"""Scores predictions: word and character error rates over all rows and over groups, with intervals, and how long rows took.

Rows are read in pieces by several processes, which count; nothing of a row is kept but its counts and the seconds it took. A
prediction that failed or is missing counts as an empty hypothesis. Knows nothing of how results are shown.
"""

import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from . import __version__
from .alignment import Edits, aligner
from .bootstrap import COVERAGE, LEAST_UTTERANCES
from .error_rates import Tally, group_rates, microseconds, percentiles_s, rates
from .errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from .output.rows import TIMING_FIELDS
from .parallel import over_rows
from .predictions import Predictions
from .run_facts import RunFacts
from .scored_join import join
from .scored_languages import check_language
from .scored_references import References, resolve
from .scored_rows import (
    DURATION,
    NO_VALUE,
    audio_seconds,
    finite_seconds,
    language_of,
    prediction_of,
    seconds_of_stage,
    status_of,
    text_of,
    values_of,
)
from .scored_texts import EXCLUDED, TextRules, Texts

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


class Work(Protocol):
    """Counts rows [start, stop) of `len(work)`; what it returns has `update`."""

    def __len__(self) -> int: ...

    def __call__(self, start: int, stop: int) -> Any: ...


def score(path: Path, options: ScoreOptions, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Scores the predictions in a file.

    Args:
        path: absolute; JSON Lines.
        say: told, in one line, how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or no row has a reference.
        OutputError: the file is damaged.
    """
    return score_rows(path, options, say).figures


class Scored(NamedTuple):
    """Predictions scored: the figures, the counts that they are made of, and what can go over the rows again."""

    figures: dict[str, Any]
    tally: Tally
    work: "Scoring"


def score_rows(path: Path, options: ScoreOptions, say: Callable[[str], None], *, needs_rates: bool = True) -> Scored:
    """The same as `score`, with what the figures are made of.

    Args:
        needs_rates: where no row has a reference, refuse; else rates are null then, and there are no groups.
    """
    rules = TextRules(options.normalizer)
    check_language(options.language)
    predictions = Predictions(path, options.pred_field, options.text_field)
    facts = RunFacts(path)
    references, fate, is_partial = resolve(options.references, options.split, facts, len(predictions))
    check_split(options, references)
    is_partial = is_partial or (predictions.torn and references is None)
    joined_by: list[str] = []
    if references is not None:
        (predictions,), references, joined_by = join([predictions], references, [facts.audio_folder])
    language = options.language or facts.language or "en"
    # A row's `lang` is the one spoken; what a translation is held against is written in another.
    written = facts.written_language and (options.language or facts.written_language)
    work = Scoring(predictions, references, rules, language, options, written)
    tally = count_all(work, Tally(), options, say)
    if needs_rates and not tally.total.rows:
        raise UsageError(_why_nothing(path, tally, options.text_field))
    check_groups(tally.groups)
    unmatched = 0 if references is None else len(predictions.without(references.keys))
    by = {name: group_rates(groups, options.resamples, options.seed) for name, groups in tally.groups.items()}
    figures = {
        "asrbatch": __version__,
        "predictions": str(path),
        "pred_field": predictions.pred_field,
        "references": None if references is None else references.source,
        "partial": is_partial,
        **described(rules, tally.normalizers, tally.fell_back, options),
        "total": rates(tally.total, options.resamples, options.seed)[0],
        "excluded": dict(tally.excluded),
        "words_said_in_excluded": dict(tally.excluded_words),
        "failed_kinds": dict(tally.failed_kinds),
        "unmatched_predictions": unmatched,
        "languages": tally.languages.as_dict(),
        "by": by,
        "speed": {**facts.speed(len(predictions)), **_stated_speed(tally)},
        "latency_s": percentiles_s(tally.stages_s),
        "notes": [
            *facts.notes(len(predictions), predictions.torn, fate),
            *predictions.notes(),
            *text_notes(tally, language, options),
            *joined_by,
            *unmatched_notes(unmatched),
            *_mean_notes(by),
        ],
        "exit_code": EXIT_ROWS_FAILED if is_partial or tally.total.failed or tally.total.missing else EXIT_COMPLETE,
    }
    return Scored(figures, tally, work)


def check_split(options: ScoreOptions, references: References | None) -> None:
    """Raises UsageError for a `--split` of no manifest."""
    if options.split is not None and references is None:
        raise UsageError(f"--split {options.split}: is of a manifest, and none is read here; name it with --references")


def count_all(work: Work, tally: AnyTally, options: ScoreOptions, say: Callable[[str], None]) -> AnyTally:
    """Adds to `tally` what `work` counts over all rows, and returns it."""
    said = time.monotonic()
    for stop, part in over_rows(work, len(work), options.num_processes):
        tally.update(part)
        if time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{stop} of {len(work)} rows counted")
    return tally


def check_groups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageError for a field that no row has."""
    for name, values in groups.items():
        if name != DURATION and list(values) == [NO_VALUE]:
            raise UsageError(f"--by {name}: no row has it")


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
            for counts in tally.counts_of(groups):
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
            hypothesis = prediction_of(row, self._predictions.pred_field, partial(self._predictions.where, fields["id"]))
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


def described(rules: TextRules, normalizers: Mapping[str, int], fell_back: int, options: ScoreOptions) -> dict[str, Any]:
    """With what it was counted: whoever has the same of all of these gets the same numbers.

    Args:
        normalizers: rows by the names of their normalisers.
        fell_back: rows that their normaliser could not do.
    """
    return {
        "normalizers": [{**rules.normalizer(name).as_dict(), "rows": rows} for name, rows in sorted(normalizers.items())],
        "normalizer_fell_back": fell_back,
        "words": aligner(rules.with_compounds),
        "characters": aligner(False),
        "bootstrap": {"resamples": options.resamples, "seed": options.seed, "coverage": COVERAGE, "unit": "utterance"},
    }


def text_notes(tally: Any, language: str, options: ScoreOptions) -> list[str]:
    """What a person should know about the languages of rows, and about texts that their normaliser could not do.

    Args:
        tally: of `score` or `compare`.
        language: what rows that do not say theirs were taken for.
    """
    notes = tally.languages.notes(language, options.language is None, options.normalizer)
    if tally.fell_back:
        notes.append(
            f"{tally.fell_back} rows hold what their normaliser cannot read; whisper-basic was used for all texts of those rows"
        )
    return notes


def unmatched_notes(number: int) -> list[str]:
    return [f"{number} predictions have no reference row and were left out"] if number else []


def _mean_notes(by: Mapping[str, Any]) -> list[str]:
    """Why an unweighted mean has no interval."""
    notes = []
    for name, part in by.items():
        mean = part["unweighted_mean"]
        small, groups = max((mean[f"groups_too_small_in_{rate}"], mean[f"groups_in_{rate}"]) for rate in ("wer", "cer"))
        if small:
            notes.append(
                f"--by {name}: the unweighted mean has no interval, because {small} of {groups} groups have fewer than "
                f"{LEAST_UTTERANCES} utterances"
            )
    return notes


def _add_times(tally: Tally, row: Mapping[str, Any]) -> None:
    for stage in TIMING_FIELDS:
        if (seconds := seconds_of_stage(row, stage)) is not None:
            tally.stages_s.setdefault(stage, array("f")).append(seconds)
    stated = [finite_seconds(row.get(name)) for name in ("time", "duration")]
    if "status" not in row and all(stated):  # of another tool: a `time` in our rows is a field of the manifest
        tally.stated_rows += 1
        tally.stated_time_us += microseconds(stated[0])
        tally.stated_duration_us += microseconds(stated[1])


def _stated_speed(tally: Tally) -> dict[str, Any]:
    """The leaderboard's RTFx, of a file whose rows all say `time` and `duration`; nothing otherwise."""
    rows = tally.total.rows + tally.excluded.total() - tally.total.missing
    if not tally.stated_time_us or not tally.stated_duration_us or tally.stated_rows < rows:
        return {}
    return {"rtfx_stated": round(tally.stated_duration_us / tally.stated_time_us, 4)}


def _refuse_chunks_of_sessions(rules: TextRules, fields: Mapping[str, Any]) -> None:
    if rules.with_compounds and fields.keys() >= _CHUNKS_OF_SESSIONS:
        raise UsageError(
            f"--normalizer leaderboard: id {fields['id']} is a chunk of a session (parent_id, chunk_index); the leaderboard "
            "joins those before it scores, which is not done here, and the number would be another one"
        )


def _why_nothing(path: Path, tally: Tally, text_field: str) -> str:
    reasons = ", ".join(f"{rows} rows: {EXCLUDED[reason]}" for reason, rows in tally.excluded.items())
    return (
        f"{path}: no row can be scored ({reasons}); give their manifest with --references, or name the field with --text-field "
        f"(now {text_field}); two runs without references can be compared with asrbatch compare"
    )
