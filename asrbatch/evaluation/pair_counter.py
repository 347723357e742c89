"""Counts the rows of two files of predictions in pairs, a part at a time, in several processes; `compare` has the rest.

What the two files say of a row besides its prediction must be the same, or a manifest must say which counts.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from asrbatch.errors import OutputError
from asrbatch.evaluation.options import CompareOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import References
from asrbatch.evaluation.row_fields import (
    DURATION,
    NO_VALUE,
    audio_seconds,
    language_of,
    prediction_of,
    status_of,
    text_of,
    values_of,
)
from asrbatch.evaluation.stats.paired_counts import Change, PairTally
from asrbatch.evaluation.text_rules import Counted, TextRules, Texts
from asrbatch.formatting import show, show_text
from asrbatch.languages import primary

SIDES = ("a", "b")
Pair = list[dict[str, Any] | None]  # the rows of A and of B, None where there is none
PairedRow = tuple[Mapping[str, Any], Pair, list[str | None]]  # fields, rows, texts as written: reference, of A, of B


class PairCounter:
    """Counts rows [start, stop): of the references; without a manifest of them those of A, then those that only B has.

    Args:
        language: of rows that do not say theirs.
        written_language: what translations are written in, whatever language their audio is in; None of transcripts.

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
        written_language: str | None = None,
    ):
        self._files, self._references, self._rules = files, references, rules
        self._language, self._options, self._written_language = language, options, written_language
        self.has_references = references is not None or any(file.num_references for file in files)
        self._only_b = files[1].without(files[0].keys if references is None else references.keys)

    def __len__(self) -> int:
        return len(self._references) if self._references is not None else len(self._files[0]) + len(self._only_b)

    def __call__(self, start: int, stop: int) -> PairTally:
        tally = PairTally.keeping(self._options.shown)
        for (fields, pair, written), texts, counted in self._rules.count(self._prepared(start, stop, tally)):
            if counted:
                self._add(tally, fields, pair, written, texts, counted)
        return tally

    def _prepared(self, start: int, stop: int, tally: PairTally) -> Iterator[tuple[PairedRow, Texts]]:
        for index in range(start, stop):
            fields, pair = self._read(index)
            if self._options.common and None in pair:
                tally.left_out += 1
                continue
            hypotheses = [
                prediction_of(row, file.pred_field, partial(file.where, fields["id"]))
                for row, file in zip(pair, self._files, strict=True)
            ]
            lang, is_stated = self._language_of(fields, pair)
            reference = self._reference(index, fields, pair) if self.has_references else None
            # What a translation was heard as is not what it is written in.
            tally.languages.add(lang, is_stated, *(() if self._written_language else pair))
            if self.has_references:
                texts = self._rules.prepare(reference, hypotheses, lang)
            else:  # two empty predictions are alike, and count
                texts = self._rules.prepare(hypotheses[0] or "", hypotheses, lang)._replace(excluded=None)
            tally.add_texts(texts, lang)
            if not texts.excluded:
                tally.same_text += (hypotheses[0] or "") == (hypotheses[1] or "")
                tally.same_normalized += texts.hypotheses[0] == texts.hypotheses[1]
            yield (fields, pair, [reference, *hypotheses]), texts

    def _read(self, index: int) -> tuple[Mapping[str, Any], Pair]:
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

    def _language_of(self, fields: Mapping[str, Any], pair: Pair) -> tuple[str, bool]:
        """The language of a row, and whether it is stated: by the references, or else by either of the two."""
        if self._written_language:
            return self._written_language, True
        if self._references is not None:
            return language_of(fields, self._language)
        stated = [language_of(row or {}, "")[0] or None for row in pair]
        # `en` and `en-US` do not contradict each other.
        alike = [lang and primary(lang) for lang in stated]
        if len({*alike} - {None}) > 1:
            self._agreed(fields["id"], "lang", stated, "say which counts with --references MANIFEST")
        lang = next(filter(None, stated), None)
        return (lang, True) if lang else (self._language, False)

    def _groups(self, fields: Mapping[str, Any], pair: Pair) -> dict[str, list[str]]:
        # Two runs may have decoded different lengths. Not A's: swapping the files must put the row into the same bin.
        audio_s = audio_seconds(*pair, fields, longest=True)
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
        """What either of the two has, None where neither does. Raises OutputError where they differ."""
        stated = [value for value in found if value is not None]
        if len(stated) > 1 and stated[0] != stated[1]:
            # The message begins with the id already.
            places = [file.where(row_id).removesuffix(f": id {show_text(row_id)}") for file in self._files]
            both = " and ".join(f"{show(value)} ({place})" for value, place in zip(stated, places, strict=True))
            raise OutputError(f"id {show_text(row_id)}: {what}: the two files have different ones, {both}; {fix}")
        return stated[0] if stated else None

    def _add(
        self,
        tally: PairTally,
        fields: Mapping[str, Any],
        pair: Pair,
        written: list[str | None],
        texts: Texts,
        counted: list[Counted],
    ) -> None:
        for side, row, file in zip(SIDES, pair, self._files, strict=True):
            failed, missing = status_of(row, file.pred_field)
            tally.failed[side] += failed is not None
            tally.missing[side] += missing
        for counts in tally.groups.counts_of(self._groups(fields, pair)):
            counts.add(*counted)
        if difference := tally.total.add(*counted):
            errors = [(words or characters).errors for words, characters in counted]
            unit = "words" if texts.in_words else "characters"
            change = Change(-abs(difference), fields["id"], *errors, unit, *written)
            (tally.got_worse if difference > 0 else tally.got_better).add(change)
