"""Compares two files of predictions row by row: over the same references, or, where there are none, with each other.

Rows are paired by id. What one of two runs over the same manifest lacks counts as an empty hypothesis, as in `score`. With
references A and B are treated alike: swapping them mirrors every figure. Without references A's prediction is taken for the
reference: how far B is from A, not which is better.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from .errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, OutputError, UsageError
from .languages import primary
from .paired_counts import Change, PairTally
from .predictions import Predictions
from .rows import show, show_text
from .run_facts import RunFacts
from .score import check_groups, check_split, described, text_notes, unmatched_notes
from .scored_join import join
from .scored_languages import check_language
from .scored_references import References, Resolved, resolve
from .scored_rows import (
    DURATION,
    NO_VALUE,
    audio_seconds_of_any,
    language_of,
    prediction_of,
    status_of,
    text_of,
    values_of,
)
from .scored_texts import EXCLUDED, TextRules, Texts
from .scoring import BATCH_CHARS, ScoreOptions, count_all

_SIDES = ("a", "b")
Pair = list[dict[str, Any] | None]  # the rows of A and of B, None where there is none


@dataclass(frozen=True)
class CompareOptions:
    """How two files are compared.

    Attributes:
        scoring: as for `score`.
        common: compare the rows that both have, whatever manifests they are of.
        shown: how many of the largest changes to keep, in each direction.
    """

    scoring: ScoreOptions = field(default_factory=lambda: ScoreOptions(resamples=2000))
    common: bool = False
    shown: int = 10


def compare(a: Path, b: Path, options: CompareOptions, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Compares the predictions in two files.

    Args:
        a, b: absolute; JSON Lines.
        say: told, in one line, how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or the files are of different manifests.
        OutputError: a file is damaged, or the references of the two differ.
    """
    scoring = options.scoring
    rules = TextRules(scoring.normalizer)
    check_language(scoring.language)
    files = [Predictions(path, scoring.pred_field, scoring.text_field) for path in (a, b)]
    facts = [RunFacts(path) for path in (a, b)]
    _refuse_pairs_by_line(files)
    if not options.common:
        _refuse_different_rows(files, facts)
    resolved = _resolve(scoring, files, facts, options.common)
    references = next((each.references for each in resolved if each.references is not None), None)
    check_split(scoring, references)
    joined_by: list[str] = []
    if references is not None:
        files, references, joined_by = join(files, references, [its.audio_folder for its in facts])
    language = scoring.language or _language_of_runs(files, facts) or "en"
    work = Pairing(files, references, rules, language, options, _written_language(scoring, files, facts))
    tally = count_all(work, PairTally(most=options.shown), scoring, say)
    if not tally.total.rows:
        raise UsageError(_why_nothing(a, b, tally))
    check_groups(tally.groups)
    unmatched = [0 if references is None else len(file.without(references.keys)) for file in files]
    is_partial = references is None and (
        any(each.is_partial for each in resolved) or (any(file.torn for file in files) and not options.common)
    )
    return {
        "asrbatch": __version__,
        "a": _of_file("a", files[0], tally, unmatched[0]),
        "b": _of_file("b", files[1], tally, unmatched[1]),
        "against": "references" if work.has_references else "a",
        "references": None if references is None else references.source,
        "partial": is_partial,
        **described(rules, tally.normalizers, tally.fell_back, scoring),
        "total": tally.total.figures(scoring.resamples, scoring.seed, work.has_references),
        "same_text": tally.same_text,
        "same_normalized": tally.same_normalized,
        "languages": tally.languages.as_dict(),
        "excluded": dict(tally.excluded),
        "left_out": tally.left_out,
        **_changes(tally, work.has_references),
        "by": tally.by(scoring.resamples, scoring.seed, work.has_references),
        "notes": [
            *(
                f"{side.upper()}: {note}"
                for side, file, its, each, left in zip(_SIDES, files, facts, resolved, unmatched, strict=True)
                for note in (*its.notes(len(file), file.torn, each.fate), *file.notes(), *unmatched_notes(left))
            ),
            *joined_by,
            *text_notes(tally, language, scoring),
        ],
        "exit_code": EXIT_ROWS_FAILED if is_partial or tally.failed.total() or tally.missing.total() else EXIT_COMPLETE,
    }


class Pairing:
    """Counts rows [start, stop): of the references; without a manifest of them those of A, then those that only B has.

    Attributes:
        has_references: otherwise A's predictions take their place.
    """

    def __init__(
        self,
        files: list[Predictions],
        references: References | None,
        rules: TextRules,
        language: str,
        options: CompareOptions,
        written: str | None = None,
    ):
        self._files, self._references, self._rules = files, references, rules
        self._language, self._options = language, options
        self._written = written
        self.has_references = references is not None or any(file.num_references for file in files)
        self._only_b = files[1].without(files[0].keys if references is None else references.keys)

    def __len__(self) -> int:
        return len(self._references) if self._references is not None else len(self._files[0]) + len(self._only_b)

    def __call__(self, start: int, stop: int) -> PairTally:
        tally = PairTally(most=self._options.shown)
        rows: list[tuple[Mapping[str, Any], Pair, list[str | None]]] = []
        texts: list[Texts] = []
        chars = 0
        for index in range(start, stop):
            if chars > BATCH_CHARS:
                self._count(tally, rows, texts)
                rows, texts, chars = [], [], 0
            fields, pair = self._pair(index)
            if self._options.common and None in pair:
                tally.left_out += 1
                continue
            said = [
                prediction_of(row, file.pred_field, partial(file.where, fields["id"]))
                for row, file in zip(pair, self._files, strict=True)
            ]
            lang, stated = self._lang(fields, pair)
            reference = self._reference(index, fields, pair) if self.has_references else said[0] or ""
            prepared = self._rules.prepare(reference, said, lang)
            # What a translation was heard as is not what it is written in.
            tally.languages.add(lang, stated, *(() if self._written else pair))
            if self.has_references and prepared.excluded:
                tally.excluded[prepared.excluded] += 1
                continue
            tally.normalizers[prepared.normalizer] += 1
            tally.fell_back += prepared.fell_back
            tally.languages.add_texts(lang, prepared)
            tally.same_text += (said[0] or "") == (said[1] or "")
            tally.same_normalized += prepared.hypotheses[0] == prepared.hypotheses[1]
            rows.append((fields, pair, [reference if self.has_references else None, *said]))
            texts.append(prepared)
            chars += prepared.num_chars
        self._count(tally, rows, texts)
        return tally

    def _count(self, tally: PairTally, rows: list[tuple], texts: list[Texts]) -> None:
        for row, prepared, counted in zip(rows, texts, self._rules.count(texts), strict=True):
            self._add(tally, *row, prepared, counted)
        tally.keep_largest()

    def _pair(self, index: int) -> tuple[Mapping[str, Any], Pair]:
        """The fields of a row with its reference, and the rows of both files, None where there is none."""
        a, b = self._files
        if self._references is not None:
            utterance = self._references.read(index)
            return {**utterance.fields, "id": utterance.id}, [a.find(utterance.id), b.find(utterance.id)]
        if index >= len(a):
            row = b.read(int(self._only_b[index - len(a)]))
            return row, [None, row]
        row = a.read(index)
        return row, [row, b.find(row["id"])]

    def _reference(self, index: int, fields: Mapping[str, Any], pair: Pair) -> str | None:
        name = self._options.scoring.text_field
        if self._references is not None:
            return text_of(fields, name, partial(self._references.where, index))
        found = [
            None if row is None else text_of(row, name, partial(file.where, row["id"]))
            for row, file in zip(pair, self._files, strict=True)
        ]
        return self._agreed(fields["id"], f"references ({name})", found, "say which counts with --references MANIFEST")

    def _lang(self, fields: Mapping[str, Any], pair: Pair) -> tuple[str, bool]:
        """The language of a row, and whether it is stated: by the references, or else by either of the two."""
        if self._written:
            return self._written, True
        if self._references is not None:
            return language_of(fields, self._language)
        stated = [language_of(row or {}, "")[0] or None for row in pair]
        alike = [lang and primary(lang) for lang in stated]
        if len({*alike} - {None}) > 1:
            self._agreed(fields["id"], "lang", stated, "say which counts with --references MANIFEST")
        lang = next(filter(None, stated), None)
        return (lang, True) if lang else (self._language, False)

    def _groups(self, fields: Mapping[str, Any], pair: Pair) -> dict[str, list[str]]:
        audio_s = audio_seconds_of_any(*pair, fields)
        return {name: self._values(name, fields, pair, audio_s) for name in self._options.scoring.by}

    def _values(self, name: str, fields: Mapping[str, Any], pair: Pair, audio_s: float | None) -> list[str]:
        if name == DURATION:
            return values_of(name, fields, None, audio_s)
        if self._references is not None and (values := values_of(name, fields, None, None)) != [NO_VALUE]:
            return values
        found = [None if row is None else values_of(name, row, None, None) for row in pair]
        stated = [None if values in (None, [NO_VALUE]) else values for values in found]
        fix = "name a field of the manifest, which is the same in both, or give --references MANIFEST"
        return self._agreed(fields["id"], f"--by {name}", stated, fix) or [NO_VALUE]

    def _agreed(self, row_id: str, what: str, found: list[Any], fix: str) -> Any:
        """What either of the two says, None where neither does. Raises OutputError where they say different things."""
        said = [value for value in found if value is not None]
        if len(said) > 1 and said[0] != said[1]:
            places = [file.where(row_id).removesuffix(f": id {show_text(row_id)}") for file in self._files]
            both = " and ".join(f"{show(value)} ({place})" for value, place in zip(said, places, strict=True))
            raise OutputError(f"id {show_text(row_id)}: {what}: the two files have different ones, {both}; {fix}")
        return said[0] if said else None

    def _add(
        self,
        tally: PairTally,
        fields: Mapping[str, Any],
        pair: Pair,
        written: list[str | None],
        texts: Texts,
        counted: list[tuple],
    ) -> None:
        for side, row, file in zip(_SIDES, pair, self._files, strict=True):
            failed, missing = status_of(row, file.pred_field)
            tally.failed[side] += failed is not None
            tally.missing[side] += missing
        for counts in tally.groups.counts_of(self._groups(fields, pair)):
            counts.add(*counted)
        difference = tally.total.add(*counted)
        if difference:
            errors = [(words or characters).errors for words, characters in counted]
            unit = "words" if texts.in_words else "characters"
            change = Change(-abs(difference), fields["id"], *errors, unit, *written)
            (tally.got_worse if difference > 0 else tally.got_better).append(change)


def _resolve(scoring: ScoreOptions, files: list[Predictions], facts: list[RunFacts], common: bool) -> list[Resolved]:
    """What to compare over: a manifest that was given, or that of runs which are not complete. Rows in common need none."""
    if scoring.references is not None:
        found = resolve(scoring.references, scoring.split, facts[0], len(files[0]))
        return [found, found]
    if common or not any(file.num_references for file in files):
        return [Resolved(None, "", False) for _ in files]
    return [resolve(None, scoring.split, its, len(file)) for its, file in zip(facts, files, strict=True)]


def _language_of_runs(files: list[Predictions], facts: list[RunFacts]) -> str | None:
    """What the runs were told to take rows for. Raises UsageError where they were told different languages."""
    told = [its.language for its in facts]
    if None not in told and primary(told[0]) != primary(told[1]):
        raise UsageError(
            f"{files[0].path} was told that rows are {show(told[0])}, {files[1].path} that they are {show(told[1])}; say which "
            "counts for scoring with --language"
        )
    return told[0] or told[1]


def _written_language(scoring: ScoreOptions, files: list[Predictions], facts: list[RunFacts]) -> str | None:
    """The language that translations are written in; None of two transcripts, and where no record tells.

    Raises:
        UsageError: only one was translated, or the two into different languages, and nobody says what that is to be taken for.
    """
    if "translate" not in (tasks := [its.task for its in facts]):
        return None
    if scoring.language:
        return scoring.language
    into = [its.written_language for its in facts]
    if None not in tasks and into[0] != into[1]:
        did = [
            "transcribed" if task != "translate" else f"translated into {show(lang)}" if lang else "translated"
            for task, lang in zip(tasks, into, strict=True)
        ]
        raise UsageError(
            f"{files[0].path} was {did[0]}, {files[1].path} was {did[1]}: their texts are written in different languages; "
            "--language says which one to take both for"
        )
    return into[0] if into[0] == into[1] else None


def _refuse_pairs_by_line(files: list[Predictions]) -> None:
    for file in files:
        if file.num_by_line:
            raise UsageError(
                f"{file.path}: {file.num_by_line} rows have neither an id nor audio_filepath, and pairing them by line would be "
                "a guess; give them ids"
            )


def _refuse_different_rows(files: list[Predictions], facts: list[RunFacts]) -> None:
    covers = [each.covers for each in facts]
    names = " and ".join(str(file.path) for file in files)
    if None not in covers:
        if covers[0] != covers[1]:
            raise UsageError(f"{names}: are of different manifests, or of different chunks; --common compares the rows both have")
        return
    only = [len(files[0].without(files[1].keys)), len(files[1].without(files[0].keys))]
    if any(only):
        raise UsageError(
            f"{names}: do not have the same rows ({only[0]} only in the first, {only[1]} only in the second), and without run "
            "records beside both it is unknown whether they should; --common compares the rows both have"
        )


def _of_file(side: str, file: Predictions, tally: PairTally, unmatched: int) -> dict[str, Any]:
    return {
        "predictions": str(file.path),
        "pred_field": file.pred_field,
        "failed": tally.failed[side],
        "missing": tally.missing[side],
        "unmatched_predictions": unmatched,
    }


def _changes(tally: PairTally, has_references: bool) -> dict[str, list[dict[str, Any]]]:
    """Without references no change is for the better, and all of them are differences."""
    if not has_references:
        return {"most_different": [change.as_dict() for change in tally.got_worse]}
    return {name: [change.as_dict() for change in getattr(tally, name)] for name in ("got_worse", "got_better")}


def _why_nothing(a: Path, b: Path, tally: PairTally) -> str:
    reasons = [f"{rows} rows: {EXCLUDED[reason]}" for reason, rows in tally.excluded.items()]
    reasons += [f"{tally.left_out} rows are in one of them only"] if tally.left_out else []
    return f"{a} and {b}: there is nothing to compare ({', '.join(reasons)})"
