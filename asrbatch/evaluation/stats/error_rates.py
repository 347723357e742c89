"""What is counted over rows, and the rates made of it: WER and CER with their intervals, over all rows and over groups.

Counts of parts of a file add up to those of the file. Knows nothing of files and texts.
"""

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.row_fields import finite_seconds, seconds_of_stage
from asrbatch.evaluation.stats.languages import LanguageCounts
from asrbatch.evaluation.stats.significance import interval, resampled_rates
from asrbatch.evaluation.stats.sums import Groups, Sums
from asrbatch.evaluation.text_rules import Texts
from asrbatch.pipeline.result import TIMING_FIELDS

_PERCENTILES = (50, 90, 95, 99)


@dataclass
class UnitCounts(Sums):
    """Edits of rows in one unit, words or characters.

    Attributes:
        rows: whose units were counted.
        substitutions, deletions, insertions, reference: summed over them.
        outcomes: how many rows had (errors, units of reference).
    """

    rows: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    outcomes: Counter = field(default_factory=Counter)

    def add(self, edits: Edits) -> None:
        self.rows += 1
        self.substitutions += edits.substitutions
        self.deletions += edits.deletions
        self.insertions += edits.insertions
        self.reference += edits.reference
        self.outcomes[edits.errors, edits.reference] += 1

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


class ResampledRates(NamedTuple):
    """Error rates of drawn sets of utterances: float64 [resamples], fractions, NaN where there are none."""

    words: np.ndarray
    characters: np.ndarray


@dataclass
class Counts(Sums):
    """What is counted over the rows of one group.

    Attributes:
        rows: rows scored. Those of languages without spaces have characters only.
        failed, missing: of the rows, those that failed, and those without a prediction: their hypotheses are empty.
        audio_us: microseconds of audio, of rows that say how long they are; whole ones, so that order does not matter.
        generate_us, generated_us: microseconds of `generate` and of audio, of rows that say both.
    """

    rows: int = 0
    failed: int = 0
    missing: int = 0
    audio_us: int = 0
    generate_us: int = 0
    generated_us: int = 0
    words: UnitCounts = field(default_factory=UnitCounts)
    characters: UnitCounts = field(default_factory=UnitCounts)

    def add(
        self,
        words: Edits | None,
        characters: Edits,
        *,
        audio_s: float | None = None,
        generate_s: float | None = None,
        failed: bool = False,
        missing: bool = False,
    ) -> None:
        """Adds one row; `words` is None for a language without spaces."""
        self.rows += 1
        self.failed += failed
        self.missing += missing
        self.audio_us += _microseconds(audio_s or 0.0)
        if audio_s is not None and generate_s is not None:
            self.generate_us += _microseconds(generate_s)
            self.generated_us += _microseconds(audio_s)
        self.characters.add(characters)
        if words is not None:
            self.words.add(words)

    def resampled(self, resamples: int, seed: int) -> ResampledRates:
        """Rates of drawn sets of these rows, which intervals are made of."""
        of_units = (resampled_rates(units.outcomes, resamples, seed)[0] for units in (self.words, self.characters))
        return ResampledRates(*of_units)

    def as_dict(self, resampled: ResampledRates) -> dict[str, Any]:
        """The metrics as `--json` prints them; rates in percent, null where there is nothing to divide by."""
        words, characters = self.words, self.characters
        cost = self.generate_us / self.generated_us if self.generated_us else None
        return {
            "rows": self.rows,
            "rows_in_words": words.rows,
            "failed": self.failed,
            "missing": self.missing,
            "audio_s": round(self.audio_us / 1e6, 3),
            "generate_s_per_audio_s": None if cost is None else round(cost, 6),
            "wer_percent": percent(words.errors, words.reference),
            "wer_percent_interval": percent_interval(resampled.words),
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "reference_words": words.reference,
            "cer_percent": percent(characters.errors, characters.reference),
            "cer_percent_interval": percent_interval(resampled.characters),
            "character_errors": characters.errors,
            "reference_characters": characters.reference,
        }


class StageSeconds(dict[str, array]):
    """By stage, seconds of each row that has been through it (float32)."""

    def add(self, row: Mapping[str, Any]) -> None:
        for stage in TIMING_FIELDS:
            if (seconds := seconds_of_stage(row, stage)) is not None:
                # float32: the six stages of a row take 24 bytes, those of a million rows 24 MB.
                self.setdefault(stage, array("f")).append(seconds)

    def update(self, other: "StageSeconds") -> None:
        """Adds what was counted over another part."""
        for stage, seconds in other.items():
            self.setdefault(stage, array("f")).extend(seconds)

    def as_dict(self) -> dict[str, dict[str, float]]:
        """By stage: mean, percentiles and maximum, and how many rows they are of."""
        found = {}
        for stage, seconds in self.items():
            # Sorted, so that the mean does not depend on the order of rows.
            values = np.sort(np.frombuffer(seconds, np.float32)).astype(np.float64)
            percentiles = zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
            metrics = {"mean": values.mean(), **{f"p{at}": value for at, value in percentiles}, "max": values[-1]}
            found[stage] = {"rows": len(values), **{name: round(float(value), 6) for name, value in metrics.items()}}
        return found


@dataclass
class StatedTimes(Sums):
    """What rows of another tool say in `time` and `duration`, in microseconds; `rows` say both."""

    rows: int = 0
    time_us: int = 0
    duration_us: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        time_s, duration_s = (finite_seconds(row.get(name)) for name in ("time", "duration"))
        if "status" in row or not time_s or not duration_s:  # a `time` in our rows is a field of the manifest
            return
        self.rows += 1
        self.time_us += _microseconds(time_s)
        self.duration_us += _microseconds(duration_s)

    def as_dict(self, num_rows: int) -> dict[str, float]:
        """The leaderboard's RTFx, where as many rows as there are say both; nothing otherwise."""
        if not self.time_us or not self.duration_us or self.rows < num_rows:
            return {}
        return {"rtfx_stated": round(self.duration_us / self.time_us, 4)}


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

    def add_texts(self, texts: Texts, lang: str) -> None:
        if texts.excluded:
            self.excluded[texts.excluded] += 1
            return
        self.normalizers[texts.normalizer] += 1
        self.fell_back += texts.fell_back
        self.languages.add_texts(lang, texts)


@dataclass
class Tally(TextTally):
    """What is counted over a part of a file.

    Attributes:
        total: over all rows scored; `groups`: by field, then by its value.
        excluded_words: words that the model said in rows that are not scored, by reason.
        failed_kinds: rows scored that had failed, by error kind.
    """

    total: Counts = field(default_factory=Counts)
    groups: Groups[Counts] = field(default_factory=lambda: Groups(Counts))
    excluded_words: Counter = field(default_factory=Counter)
    failed_kinds: Counter = field(default_factory=Counter)
    stage_seconds: StageSeconds = field(default_factory=StageSeconds)
    stated: StatedTimes = field(default_factory=StatedTimes)

    def by_group(self, resamples: int, seed: int) -> dict[str, Any]:
        """By field: the metrics of each value, and their unweighted means: small groups count as large ones."""
        found = {}
        for name in self.groups:
            groups, means = {}, UnweightedMeans(resamples)
            for value, counts in self.groups.in_order(name):
                resampled = counts.resampled(resamples, seed)
                groups[value] = counts.as_dict(resampled)
                means.add(counts, resampled)
            found[name] = {"groups": groups, "unweighted_mean": means.as_dict()}
        return found


class UnweightedMeans:
    """The unweighted means of the rates of groups, of words and of characters."""

    def __init__(self, resamples: int):
        self._words, self._characters = _Mean(resamples), _Mean(resamples)

    def add(self, counts: Counts, resampled: ResampledRates) -> None:
        self._words.add(counts.words, resampled.words)
        self._characters.add(counts.characters, resampled.characters)

    def as_dict(self) -> dict[str, Any]:
        return {**self._words.as_dict("wer"), **self._characters.as_dict("cer")}


class _Mean:
    """A mean of rates, and of their draws; nothing of a group is kept."""

    def __init__(self, resamples: int):
        self._groups = self._too_few = 0
        self._rates: list[float] = []
        self._resampled = np.zeros(resamples)

    def add(self, units: UnitCounts, resampled: np.ndarray) -> None:
        if not units.reference:
            return
        self._groups += 1
        self._rates.append(units.errors / units.reference)
        if np.isnan(resampled).all():
            self._too_few += 1
            return
        # Groups with the same outcomes have the same draws; each is shifted against the others, as if they were drawn
        # apart.
        self._resampled += np.roll(resampled, self._groups)

    def as_dict(self, rate: str) -> dict[str, Any]:
        """With `rate` (wer, cer) in the names. The interval is null where a group has too few utterances for one."""
        has_interval = self._groups and not self._too_few
        return {
            f"groups_in_{rate}": self._groups,
            f"groups_too_small_in_{rate}": self._too_few,
            # fsum: the same in whatever order the groups come.
            f"{rate}_percent": percent(math.fsum(self._rates), self._groups),
            f"{rate}_percent_interval": percent_interval(self._resampled / self._groups) if has_interval else None,
        }


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def percent(errors: float, units: float) -> float | None:
    return round(100 * errors / units, 6) if units else None


def percent_interval(resampled: np.ndarray) -> list[float] | None:
    """The interval of drawn fractions, float64 [resamples], in percent."""
    bounds = interval(resampled)
    return None if bounds is None else [round(100 * bound, 6) for bound in bounds]
