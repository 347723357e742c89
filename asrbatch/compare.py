"""Compares two files of predictions row by row: over the same references, or, where there are none, with each other.

Rows are paired by id. What one of two runs over the same manifest lacks counts as an empty hypothesis, as in `score`. Without
references A's prediction is taken for the reference: how far B is from A, not which is better.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__
from .errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, OutputError, UsageError
from .manifest import Manifest, open_manifest
from .paired_counts import Change, PairTally
from .parallel import over_rows
from .predictions import Predictions
from .rows import show_text
from .run_facts import RunFacts
from .score import ScoreOptions, described, language_notes, manifest_keys
from .scored_rows import audio_seconds, language_of, status_of, text_of, values_of
from .scored_texts import EXCLUDED, TextRules, Texts

_SAY_EVERY_S = 30.0
_SIDES = ("a", "b")


@dataclass(frozen=True)
class CompareOptions:
    """How two files are compared.

    Attributes:
        scoring: as for `score`.
        common: compare the rows that both have, whatever manifests they are of.
        shown: how many of the largest changes to keep, in each direction.
    """

    scoring: ScoreOptions = field(default_factory=lambda: ScoreOptions(resamples=10_000))
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
    files = [Predictions(path, scoring.pred_field, scoring.text_field) for path in (a, b)]
    references = None if scoring.references is None else open_manifest(scoring.references, split=scoring.split)
    facts = [RunFacts(path) for path in (a, b)]
    if not options.common:
        _refuse_different_rows(files, facts)
    language = scoring.language or facts[0].language or facts[1].language or "en"
    work = Pairing(files, references, rules, language, options)
    tally, said = PairTally(), time.monotonic()
    for stop, part in over_rows(work, len(work), scoring.num_processes):
        tally.update(part)
        tally.keep_largest(options.shown)
        if time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{stop} of {len(work)} rows compared")
    if not tally.total.rows:
        raise UsageError(_why_nothing(a, b, tally))
    return {
        "asrbatch": __version__,
        "a": _of_file("a", files[0], tally),
        "b": _of_file("b", files[1], tally),
        "against": "references" if work.has_references else "a",
        "references": None if references is None else references.source,
        **described(rules, tally.normalizers, tally.fell_back, scoring),
        "total": tally.total.figures(scoring.resamples, scoring.seed, "", work.has_references),
        "same_text": tally.same_text,
        "same_normalized": tally.same_normalized,
        "excluded": dict(tally.excluded),
        "left_out": tally.left_out,
        **_changes(tally, work.has_references),
        "by": tally.by(scoring.resamples, scoring.seed, work.has_references),
        "notes": [
            *(
                f"{side.upper()}: {note}"
                for side, file, its in zip(_SIDES, files, facts, strict=True)
                for note in its.notes(len(file), file.torn, True)
            ),
            *language_notes(tally.unstated_language, tally.fell_back, language, scoring.language is None),
        ],
        "exit_code": EXIT_ROWS_FAILED if tally.failed.total() or tally.missing.total() else EXIT_COMPLETE,
    }


class Pairing:
    """Counts rows [start, stop): of the references; without a manifest of them those of A, then those that only B has.

    Attributes:
        has_references: otherwise A's predictions take their place.
    """

    def __init__(
        self, files: list[Predictions], references: Manifest | None, rules: TextRules, language: str, options: CompareOptions
    ):
        self._files, self._references, self._rules = files, references, rules
        self._language, self._options = language, options
        self.has_references = references is not None or any(file.num_references for file in files)
        self._only_b = files[1].without(files[0].keys if references is None else manifest_keys(references))

    def __len__(self) -> int:
        return len(self._references) if self._references is not None else len(self._files[0]) + len(self._only_b)

    def __call__(self, start: int, stop: int) -> PairTally:
        tally = PairTally()
        rows: list[tuple[Mapping[str, Any], list[dict[str, Any] | None], list[str | None]]] = []
        texts: list[Texts] = []
        for index in range(start, stop):
            fields, pair = self._pair(index)
            if self._options.common and None in pair:
                tally.left_out += 1
                continue
            said = [
                None if row is None else text_of(row, file.pred_field, fields["id"])
                for row, file in zip(pair, self._files, strict=True)
            ]
            lang, stated = language_of(fields, self._language)
            reference = self._reference(fields, pair) if self.has_references else said[0] or ""
            prepared = self._rules.prepare(reference, said, lang)
            tally.unstated_language += not stated
            if self.has_references and prepared.excluded:
                tally.excluded[prepared.excluded] += 1
                continue
            tally.normalizers[prepared.normalizer] += 1
            tally.fell_back += prepared.fell_back
            tally.same_text += (said[0] or "") == (said[1] or "")
            tally.same_normalized += prepared.hypotheses[0] == prepared.hypotheses[1]
            rows.append((fields, pair, [reference if self.has_references else None, *said]))
            texts.append(prepared)
        for row, prepared, counted in zip(rows, texts, self._rules.count(texts), strict=True):
            self._add(tally, *row, prepared, counted)
        tally.keep_largest(self._options.shown)
        return tally

    def _pair(self, index: int) -> tuple[Mapping[str, Any], list[dict[str, Any] | None]]:
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

    def _reference(self, fields: Mapping[str, Any], pair: list[dict[str, Any] | None]) -> str | None:
        name = self._options.scoring.text_field
        if self._references is not None:
            return text_of(fields, name, fields["id"])
        given = {text_of(row, name, row["id"]) for row in pair if row is not None} - {None}
        if len(given) > 1:
            both = " and ".join(map(show_text, sorted(given)))
            raise OutputError(
                f"id {show_text(fields['id'])}: the two files have different references, {both}; say which counts with "
                "--references MANIFEST"
            )
        return next(iter(given), None)

    def _add(
        self,
        tally: PairTally,
        fields: Mapping[str, Any],
        pair: list[dict[str, Any] | None],
        written: list[str | None],
        texts: Texts,
        counted: list[tuple],
    ) -> None:
        for side, row, file in zip(_SIDES, pair, self._files, strict=True):
            failed, missing = status_of(row, file.pred_field)
            tally.failed[side] += failed is not None
            tally.missing[side] += missing
        audio_s = audio_seconds(*pair, fields)
        groups = {name: values_of(name, fields, pair[0] or pair[1], audio_s) for name in self._options.scoring.by}
        difference = 0
        for counts in tally.counts_of(groups):
            difference = counts.add(*counted)
        if difference:
            errors = [(words or characters).errors for words, characters in counted]
            unit = "words" if texts.in_words else "characters"
            change = Change(-abs(difference), fields["id"], *errors, unit, *written)
            (tally.got_worse if difference > 0 else tally.got_better).append(change)


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


def _of_file(side: str, file: Predictions, tally: PairTally) -> dict[str, Any]:
    return {
        "predictions": str(file.path),
        "pred_field": file.pred_field,
        "failed": tally.failed[side],
        "missing": tally.missing[side],
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
