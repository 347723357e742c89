"""What is counted over rows, and the rates made of it: WER and CER with their intervals, over all rows and over groups.

Counts of parts of a file add up to those of the file. Knows nothing of files and texts.
"""

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.row_fields import finite_seconds, seconds_of_stage
from asrbatch.evaluation.rows import ScoredPrediction, ScoredRow
from asrbatch.evaluation.stats.languages import LanguageCounts
from asrbatch.evaluation.stats.significance import interval, resampled_rates
from asrbatch.evaluation.stats.sums import Groups, Sums
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.formatting import counted
from asrbatch.pipeline.result import TIMING_FIELDS

_PERCENTILES = (50, 90, 95, 99)


class Outcomes(Counter[tuple[int, ...]]):
    """How many rows had (errors of each system, units of reference), in one unit."""

    def add(self, *edits: Edits) -> None:
        """Adds one row, with the edits of each system."""
        self[(*(each.errors for each in edits), edits[0].reference)] += 1

    def sums(self, numbers: int) -> list[int]:
        """Over all rows: errors of each system, units of reference; so many numbers in all."""
        return [sum(key[at] * rows for key, rows in self.items()) for at in range(numbers)]


@dataclass
class RowCounts(Sums):
    """What is counted over the rows of one group, whether one system predicted them or two.

    Attributes:
        words, characters: their errors; nothing in words of rows in languages without spaces.
    """

    words: Outcomes = field(default_factory=Outcomes)
    characters: Outcomes = field(default_factory=Outcomes)

    @property
    def rows(self) -> int:
        return self.characters.total()

    def add_edits(self, *predictions: ScoredPrediction) -> None:
        """Adds what each system made of one row."""
        self.characters.add(*(said.characters for said in predictions))
        if predictions[0].words is not None:
            self.words.add(*(said.words for said in predictions))


@dataclass
class Counts(RowCounts):
    """What is counted over the rows of one group that one system predicted.

    Attributes:
        substitutions, deletions, insertions: of words.
        failed, missing: of the rows, those that failed, and those without a prediction: their hypotheses are empty.
        audio_us: microseconds of audio, of rows that say how long they are; whole ones, so that order does not matter.
        generate_us, generated_us: microseconds of `generate` and of audio, of rows that say both.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    failed: int = 0
    missing: int = 0
    audio_us: int = 0
    generate_us: int = 0
    generated_us: int = 0

    def add(self, said: ScoredPrediction, audio_s: float | None) -> None:
        """Adds one row."""
        self.add_edits(said)
        if said.words is not None:
            self.substitutions += said.words.substitutions
            self.deletions += said.words.deletions
            self.insertions += said.words.insertions
        self.failed += said.failed is not None
        self.missing += said.missing
        self.audio_us += _microseconds(audio_s or 0.0)
        generate_s = seconds_of_stage(said.row, "generate")
        if audio_s is not None and generate_s is not None:
            self.generate_us += _microseconds(generate_s)
            self.generated_us += _microseconds(audio_s)

    def outcomes(self) -> dict[str, Outcomes]:
        """Those of words and of characters, by their rate."""
        return {"wer": self.words, "cer": self.characters}

    def resampled(self, resamples: int, seed: int) -> dict[str, np.ndarray]:
        """By rate, those of drawn sets of these rows, which intervals are made of: float64 [resamples], fractions, NaN
        where there are none.
        """
        return {rate: resampled_rates(of_unit, resamples, seed)[0] for rate, of_unit in self.outcomes().items()}

    def as_dict(self, resampled: dict[str, np.ndarray]) -> dict[str, Any]:
        """The metrics as `--json` prints them; rates in percent, null where there is nothing to divide by."""
        word_errors, reference_words = self.words.sums(2)
        character_errors, reference_characters = self.characters.sums(2)
        cost = self.generate_us / self.generated_us if self.generated_us else None
        return {
            "rows": self.rows,
            "rows_in_words": self.words.total(),
            "failed": self.failed,
            "missing": self.missing,
            "audio_s": round(self.audio_us / 1e6, 3),
            "generate_s_per_audio_s": None if cost is None else round(cost, 6),
            "wer_percent": percent(word_errors, reference_words),
            "wer_percent_interval": percent_interval(resampled["wer"]),
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "reference_words": reference_words,
            "cer_percent": percent(character_errors, reference_characters),
            "cer_percent_interval": percent_interval(resampled["cer"]),
            "character_errors": character_errors,
            "reference_characters": reference_characters,
        }


class StageSeconds(dict[str, array]):
    """By stage, seconds of each row that has been through it (float32)."""

    def add(self, row: Mapping[str, Any]) -> None:
        for stage in TIMING_FIELDS:
            if (seconds := seconds_of_stage(row, stage)) is not None:
                # float32: the seven stages of a row take 28 bytes, those of a million rows 28 MB.
                self.setdefault(stage, array("f")).append(seconds)

    def update(self, other: "StageSeconds") -> None:
        """Adds what was counted over another part."""
        for stage, seconds in other.items():
            self.setdefault(stage, array("f")).extend(seconds)

    def as_dict(self) -> dict[str, dict[str, float]]:
        """By stage: mean, percentiles and maximum, and how many rows they are of."""
        found = {}
        for stage in (each for each in TIMING_FIELDS if each in self):
            # Sorted, so that the mean does not depend on the order of rows.
            values = np.sort(np.frombuffer(self[stage], np.float32)).astype(np.float64)
            percentiles = zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
            metrics = {"mean": values.mean(), **{f"p{at}": value for at, value in percentiles}, "max": values[-1]}
            found[stage] = {"rows": len(values), **{name: round(float(value), 6) for name, value in metrics.items()}}
        return found


@dataclass
class TextTally(Sums):
    """What is counted of the texts of rows, whether one system predicted them or two.

    Attributes:
        excluded: rows not counted, by reason.
        normalizers: rows by the names of their normalisers.
        fell_back: rows that their normaliser could not do, which `whisper-basic` did.
        languages: what is to be known of the rows' languages.
    """

    excluded: Counter = field(default_factory=Counter)
    normalizers: Counter = field(default_factory=Counter)
    fell_back: int = 0
    languages: LanguageCounts = field(default_factory=LanguageCounts)

    def add_texts(self, row: ScoredRow) -> None:
        self.languages.add(row)
        if row.texts.excluded:
            self.excluded[row.texts.excluded] += 1
            return
        self.normalizers[row.texts.normalizer] += 1
        self.fell_back += row.texts.fell_back

    def reasons(self) -> list[str]:
        """Why rows were not counted."""
        return [f"{counted(rows, 'row')}: {EXCLUDED[reason]}" for reason, rows in self.excluded.items()]

    def notes(self, language: str, options: ScoreOptions) -> list[str]:
        """What a person should know about the languages of rows, and about texts that their normaliser could not do.

        Args:
            language: what rows that do not say theirs were taken for.
        """
        notes = self.languages.notes(language, options.language is None, options.normalizer)
        if self.fell_back:
            notes.append(
                counted(self.fell_back, "row", "holds what its", "hold what their")
                + " normaliser cannot read; whisper-basic was used for all texts of "
                + ("that row" if self.fell_back == 1 else "those rows")
            )
        return notes


@dataclass
class Tally(TextTally):
    """What is counted over a part of a file.

    Attributes:
        total: over all rows scored; `groups`: by field, then by its value.
        excluded_words: words that the model said in rows that are not scored, by reason.
        failed_kinds: rows scored that had failed, by error kind.
        stated: what rows of another tool say in `time` and `duration`, in microseconds; `rows` say both.
    """

    total: Counts = field(default_factory=Counts)
    groups: Groups[Counts] = field(default_factory=lambda: Groups(Counts))
    excluded_words: Counter = field(default_factory=Counter)
    failed_kinds: Counter = field(default_factory=Counter)
    stage_seconds: StageSeconds = field(default_factory=StageSeconds)
    stated: Counter = field(default_factory=Counter)

    def add(self, row: ScoredRow, groups: Mapping[str, list[str]]) -> None:
        """Adds one row, which is in these groups, by field."""
        self.add_texts(row)
        [said] = row.predictions
        if said.row is not None:
            self.stage_seconds.add(said.row)
            self.stated.update(_stated_times(said.row))
        if row.texts.excluded:
            # No rate shows what a model says where nothing is to be held against it.
            self.excluded_words[row.texts.excluded] += len(row.texts.hypotheses[0].split())
            return
        if said.failed:
            self.failed_kinds[said.failed] += 1
        for counts in (self.total, *self.groups.counts_of(groups)):
            counts.add(said, row.audio_s)

    def stated_speed(self) -> dict[str, float]:
        """The leaderboard's RTFx, where every row with a prediction says both; nothing otherwise."""
        # Of some of the rows it would not be the number that the leaderboard makes of the file.
        num_rows = self.total.rows + self.excluded.total() - self.total.missing
        if not self.stated["time_us"] or not self.stated["duration_us"] or self.stated["rows"] < num_rows:
            return {}
        return {"rtfx_stated": round(self.stated["duration_us"] / self.stated["time_us"], 4)}

    def by_group(self, resamples: int, seed: int) -> dict[str, Any]:
        """By field: the metrics of each value, and their unweighted means: small groups count as large ones."""
        found = {}
        for name in self.groups:
            groups, means = {}, {rate: UnweightedMean(rate, resamples) for rate in ("wer", "cer")}
            for value, counts in self.groups.in_order(name):
                resampled = counts.resampled(resamples, seed)
                groups[value] = counts.as_dict(resampled)
                for rate, outcomes in counts.outcomes().items():
                    means[rate].add(outcomes, resampled[rate])
            mean = {**means["wer"].as_dict(), **means["cer"].as_dict()}
            found[name] = {"groups": groups, "unweighted_mean": mean}
        return found


class UnweightedMean:
    """The mean of the rates of groups, and of their draws; nothing of a group is kept.

    Args:
        rate: wer or cer.
    """

    def __init__(self, rate: str, resamples: int):
        self._rate = rate
        self._too_few = 0
        self._rates: list[float] = []
        self._resampled = np.zeros(resamples)

    def add(self, outcomes: Outcomes, resampled: np.ndarray) -> None:
        errors, reference = outcomes.sums(2)
        if not reference:
            return
        self._rates.append(errors / reference)
        if np.isnan(resampled).all():
            self._too_few += 1
            return
        # Groups with the same outcomes have the same draws; each is shifted against the others, as if they were drawn
        # apart.
        self._resampled += np.roll(resampled, len(self._rates))

    def as_dict(self) -> dict[str, Any]:
        """With the rate in the names. The interval is null where a group has too few utterances for one."""
        groups, rate = len(self._rates), self._rate
        has_interval = groups and not self._too_few
        return {
            f"groups_in_{rate}": groups,
            f"groups_too_small_in_{rate}": self._too_few,
            # fsum: the same in whatever order the groups come.
            f"{rate}_percent": percent(math.fsum(self._rates), groups),
            f"{rate}_percent_interval": percent_interval(self._resampled / groups) if has_interval else None,
        }


def _stated_times(row: Mapping[str, Any]) -> dict[str, int]:
    time_s, duration_s = (finite_seconds(row.get(name)) for name in ("time", "duration"))
    if "status" in row or not time_s or not duration_s:  # a `time` in our rows is a field of the manifest
        return {}
    return {"rows": 1, "time_us": _microseconds(time_s), "duration_us": _microseconds(duration_s)}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def percent(errors: float, units: float) -> float | None:
    return round(100 * errors / units, 6) if units else None


def percent_interval(resampled: np.ndarray) -> list[float] | None:
    """The interval of drawn fractions, float64 [resamples], in percent."""
    bounds = interval(resampled)
    return None if bounds is None else [round(100 * bound, 6) for bound in bounds]
