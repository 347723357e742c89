"""What is counted over rows, and the rates made of it: WER and CER with their intervals, over all rows and over groups.

Counts of parts of a file add up to those of the file, in whatever order. Knows nothing of files and texts.
"""

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.stats.languages import LanguageCounts
from asrbatch.evaluation.stats.significance import interval, resampled_rates
from asrbatch.evaluation.stats.sums import Groups, Sums

_PERCENTILES = (50, 90, 95, 99)


@dataclass
class Counts(Sums):
    """What is counted over the rows of one group.

    Attributes:
        rows: rows scored. Those of languages without spaces have characters only.
        rows_in_words: rows whose words were counted.
        failed, missing: of the rows, those that failed, and those without a prediction: their hypotheses are empty.
        audio_us: microseconds of audio, of rows that say how long they are; whole ones, so that order does not matter.
        generate_us, generated_us: microseconds of `generate` and of audio, of rows that say both.
        substitutions, deletions, insertions, reference_words: summed over rows_in_words.
        character_errors, reference_characters: summed over rows.
        word_outcomes, character_outcomes: how many rows had (errors, units of reference).
    """

    rows: int = 0
    rows_in_words: int = 0
    failed: int = 0
    missing: int = 0
    audio_us: int = 0
    generate_us: int = 0
    generated_us: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_words: int = 0
    character_errors: int = 0
    reference_characters: int = 0
    word_outcomes: Counter = field(default_factory=Counter)
    character_outcomes: Counter = field(default_factory=Counter)

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
        self.audio_us += microseconds(audio_s or 0.0)
        if audio_s is not None and generate_s is not None:
            self.generate_us += microseconds(generate_s)
            self.generated_us += microseconds(audio_s)
        self.character_errors += characters.errors
        self.reference_characters += characters.reference
        self.character_outcomes[characters.errors, characters.reference] += 1
        if words is not None:
            self.rows_in_words += 1
            self.substitutions += words.substitutions
            self.deletions += words.deletions
            self.insertions += words.insertions
            self.reference_words += words.reference
            self.word_outcomes[words.errors, words.reference] += 1

    @property
    def word_errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


@dataclass
class Tally:
    """What is counted over a part of a file.

    Attributes:
        total: over all rows scored.
        groups: by field, then by its value.
        excluded: rows not scored, by reason; `excluded_words`: words that the model said there.
        normalizers: rows by the names of their normalisers.
        fell_back: rows that their normaliser could not do, which `whisper-basic` did.
        languages: what is to be known of the rows' languages.
        failed_kinds: rows scored that had failed, by error kind.
        stages_s: by stage, seconds of each row that has been through it (float32).
        stated_time_us, stated_duration_us: microseconds that rows say in `time` and `duration`; `stated_rows` say both.
    """

    total: Counts = field(default_factory=Counts)
    groups: Groups[Counts] = field(default_factory=lambda: Groups(Counts))
    excluded: Counter = field(default_factory=Counter)
    excluded_words: Counter = field(default_factory=Counter)
    normalizers: Counter = field(default_factory=Counter)
    fell_back: int = 0
    languages: LanguageCounts = field(default_factory=LanguageCounts)
    failed_kinds: Counter = field(default_factory=Counter)
    stages_s: dict[str, array] = field(default_factory=dict)
    stated_time_us: int = 0
    stated_duration_us: int = 0
    stated_rows: int = 0

    def update(self, other: "Tally") -> None:
        """Adds what was counted over another part.

        Raises:
            UsageError: a field has more values than can be kept.
        """
        self.total.update(other.total)
        self.groups.merge(other.groups)
        for mine, theirs in (
            (self.excluded, other.excluded),
            (self.excluded_words, other.excluded_words),
            (self.normalizers, other.normalizers),
            (self.failed_kinds, other.failed_kinds),
        ):
            mine.update(theirs)
        for stage, seconds in other.stages_s.items():
            self.stages_s.setdefault(stage, array("f")).extend(seconds)
        self.fell_back += other.fell_back
        self.languages.update(other.languages)
        self.stated_time_us += other.stated_time_us
        self.stated_duration_us += other.stated_duration_us
        self.stated_rows += other.stated_rows


class Drawn(NamedTuple):
    """Error rates of drawn sets of utterances: float64 [resamples], fractions, NaN where there are none."""

    words: np.ndarray
    characters: np.ndarray


def rates(counts: Counts, resamples: int, seed: int) -> tuple[dict[str, Any], Drawn]:
    """The figures of one group, as `--json` prints them, and what its intervals were made of.

    Rates are in percent, null where there is nothing to divide by.
    """
    drawn = Drawn(
        resampled_rates(counts.word_outcomes, resamples, seed)[0],
        resampled_rates(counts.character_outcomes, resamples, seed)[0],
    )
    figures = {
        "rows": counts.rows,
        "rows_in_words": counts.rows_in_words,
        "failed": counts.failed,
        "missing": counts.missing,
        "audio_s": round(counts.audio_us / 1e6, 3),
        "generate_s_per_audio_s": round(counts.generate_us / counts.generated_us, 6) if counts.generated_us else None,
        "wer_percent": percent(counts.word_errors, counts.reference_words),
        "wer_percent_interval": percent_interval(drawn.words),
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "reference_words": counts.reference_words,
        "cer_percent": percent(counts.character_errors, counts.reference_characters),
        "cer_percent_interval": percent_interval(drawn.characters),
        "character_errors": counts.character_errors,
        "reference_characters": counts.reference_characters,
    }
    return figures, drawn


def group_rates(groups: dict[str, Counts], resamples: int, seed: int) -> dict[str, Any]:
    """The figures of each value of a field, and their unweighted means: each group counts the same, however large it
    is.
    """
    found = {}
    words, characters = Mean(resamples), Mean(resamples)
    for value in sorted(groups, key=order):
        counts = groups[value]
        found[value], drawn = rates(counts, resamples, seed)
        words.add(counts.word_errors, counts.reference_words, drawn.words)
        characters.add(counts.character_errors, counts.reference_characters, drawn.characters)
    return {"groups": found, "unweighted_mean": {**words.figures("wer"), **characters.figures("cer")}}


class Mean:
    """The unweighted mean of the rates of groups, and of their draws; nothing of a group is kept."""

    def __init__(self, resamples: int):
        self._groups = self._too_few = 0
        self._rates: list[float] = []
        self._drawn = np.zeros(resamples)

    def add(self, errors: int, units: int, drawn: np.ndarray) -> None:
        """Adds one group.

        Args:
            drawn: rates of drawn sets of its utterances, float64 [resamples]; NaN where there are too few.
        """
        if not units:
            return
        self._groups += 1
        self._rates.append(errors / units)
        if np.isnan(drawn).all():
            self._too_few += 1
            return
        # Groups with the same outcomes have the same draws; each is shifted against the others, as if they were drawn
        # apart.
        self._drawn += np.roll(drawn, self._groups)

    def figures(self, rate: str) -> dict[str, Any]:
        """With `rate` (wer, cer) in the names. The interval is null where a group has too few utterances for one."""
        has_draws = self._groups and not self._too_few
        return {
            f"groups_in_{rate}": self._groups,
            f"groups_too_small_in_{rate}": self._too_few,
            f"{rate}_percent": round(100 * math.fsum(self._rates) / self._groups, 6) if self._groups else None,
            f"{rate}_percent_interval": percent_interval(self._drawn / self._groups) if has_draws else None,
        }


def percentiles_s(stages_s: dict[str, array]) -> dict[str, dict[str, float]]:
    """By stage: mean, percentiles and maximum of the rows' seconds, and how many rows they are of."""
    found = {}
    for stage, seconds in stages_s.items():
        values = np.sort(np.frombuffer(seconds, np.float32)).astype(np.float64)
        at = np.percentile(values, _PERCENTILES)
        found[stage] = {
            "rows": len(values),
            "mean": round(float(values.mean()), 6),
            **{f"p{which}": round(float(value), 6) for which, value in zip(_PERCENTILES, at, strict=True)},
            "max": round(float(values[-1]), 6),
        }
    return found


def microseconds(seconds: float) -> int:
    """Whole microseconds of `scored_rows.finite_seconds`."""
    return round(seconds * 1e6)


def percent(errors: float, units: float) -> float | None:
    return round(100 * errors / units, 6) if units else None


def percent_interval(drawn: np.ndarray) -> list[float] | None:
    """The interval of drawn fractions, float64 [resamples], in percent."""
    bounds = interval(drawn)
    return None if bounds is None else [round(100 * bound, 6) for bound in bounds]


def order(value: str) -> tuple[int, float, str]:
    """Sorts values of a field: those that begin with a number by it, the others after them, those without one last."""
    number = value.removeprefix("< ").split(" ")[0]
    if value.startswith("("):
        return 2, 0.0, value
    try:
        return 0, float(number) - (0.5 if value.startswith("< ") else 0), value
    except ValueError:
        return 1, 0.0, value
