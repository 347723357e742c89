"""What is counted over rows that two systems predicted, and the figures made of it. Counts of parts add up to those of
all.

Knows nothing of files and texts.
"""

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, NamedTuple

from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.stats.error_rates import order, percent, percent_interval
from asrbatch.evaluation.stats.languages import LanguageCounts
from asrbatch.evaluation.stats.significance import permutation_test, resampled_rates
from asrbatch.evaluation.stats.sums import Groups, Sums


class Change(NamedTuple):
    """A row in which one system has fewer errors; sorts by how many fewer, then by id.

    Attributes:
        size: minus the difference.
        unit: `words`, or `characters` for languages without spaces.
        reference, a, b: texts as they were written; None for what is not there.
    """

    size: int
    id: str
    errors_a: int
    errors_b: int
    unit: str
    reference: str | None
    a: str | None
    b: str | None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "size"}


@dataclass
class Paired(Sums):
    """Errors of two systems against the same references, in one unit.

    Attributes:
        rows: whose units were counted; `better`, `worse`: those of them in which B has fewer or more errors than A.
        outcomes: rows by (errors, errors, units).
    """

    rows: int = 0
    better: int = 0
    worse: int = 0
    errors_a: int = 0
    errors_b: int = 0
    reference: int = 0
    outcomes: Counter = field(default_factory=Counter)

    def add(self, a: Edits, b: Edits) -> None:
        self.rows += 1
        self.better += b.errors < a.errors
        self.worse += b.errors > a.errors
        self.errors_a += a.errors
        self.errors_b += b.errors
        self.reference += a.reference
        self.outcomes[a.errors, b.errors, a.reference] += 1

    def figures(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        """Rates of both in percent, what B's is above A's in points, its interval, and how likely chance is.

        Args:
            with_p: without references the rate of A is 0 by definition, and there is nothing to test.
        """
        # The same draws for A and B as for B and A, so that swapping them mirrors every figure.
        mirrored = {(b, a, units): rows for (a, b, units), rows in self.outcomes.items()}
        is_mirrored = sorted(mirrored.items()) < sorted(self.outcomes.items())
        drawn = resampled_rates(mirrored if is_mirrored else self.outcomes, resamples, seed, kinds=2)
        drawn = drawn[::-1] if is_mirrored else drawn
        delta = (self.errors_b - self.errors_a) / self.reference if self.reference else None
        return {
            "rows": self.rows,
            "better": self.better,
            "worse": self.worse,
            "a_percent": percent(self.errors_a, self.reference),
            "a_percent_interval": percent_interval(drawn[0]),
            "b_percent": percent(self.errors_b, self.reference),
            "b_percent_interval": percent_interval(drawn[1]),
            "delta_points": None if delta is None else round(100 * delta, 6),
            "delta_points_interval": percent_interval(drawn[1] - drawn[0]),
            "p_value": self._p_value(resamples, seed) if with_p and self.reference else None,
            "errors_a": self.errors_a,
            "errors_b": self.errors_b,
            "reference": self.reference,
        }

    def _p_value(self, resamples: int, seed: int) -> float:
        differences: Counter = Counter()
        for (a, b, _), rows in self.outcomes.items():
            differences[b - a] += rows
        return permutation_test(differences, resamples, seed)


@dataclass
class PairCounts(Sums):
    """Over the rows of one group. `better`, `worse`: by words, and by characters for languages without spaces."""

    rows: int = 0
    better: int = 0
    worse: int = 0
    words: Paired = field(default_factory=Paired)
    characters: Paired = field(default_factory=Paired)

    def add(self, a: tuple[Edits | None, Edits], b: tuple[Edits | None, Edits]) -> int:
        """Adds one row: edits in words (None where they are not counted) and in characters. Returns B's errors minus
        A's.
        """
        if a[0] is not None and b[0] is not None:
            self.words.add(a[0], b[0])
        self.characters.add(a[1], b[1])
        difference = (b[0] or b[1]).errors - (a[0] or a[1]).errors
        self.rows += 1
        self.better += difference < 0
        self.worse += difference > 0
        return difference

    def figures(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "better": self.better,
            "worse": self.worse,
            "wer": self.words.figures(resamples, seed, with_p),
            "cer": self.characters.figures(resamples, seed, with_p),
        }


@dataclass
class PairTally:
    """What is counted over a part of the rows of two files.

    Attributes: total, groups: as in `error_rates.Tally`. excluded, normalizers, fell_back, languages: the same. failed,
        missing: of A and of B, rows whose hypotheses are empty for that reason. left_out: rows that only one of the
        files has, where only common ones are compared. same_text: rows whose predictions are the same, character by
        character; `same_normalized`: once they are normalised. got_worse, got_better: the largest changes; no more than
        `most` of each once `update` or `keep_largest` was called.
    """

    most: int = 10
    total: PairCounts = field(default_factory=PairCounts)
    groups: Groups[PairCounts] = field(default_factory=lambda: Groups(PairCounts))
    excluded: Counter = field(default_factory=Counter)
    normalizers: Counter = field(default_factory=Counter)
    fell_back: int = 0
    languages: LanguageCounts = field(default_factory=LanguageCounts)
    failed: Counter = field(default_factory=Counter)
    missing: Counter = field(default_factory=Counter)
    left_out: int = 0
    same_text: int = 0
    same_normalized: int = 0
    got_worse: list[Change] = field(default_factory=list)
    got_better: list[Change] = field(default_factory=list)

    def keep_largest(self) -> None:
        self.got_worse = nsmallest(self.most, self.got_worse)
        self.got_better = nsmallest(self.most, self.got_better)

    def update(self, other: "PairTally") -> None:
        """Adds what was counted over another part.

        Raises:
            UsageError: a field has more values than can be kept.
        """
        self.total.update(other.total)
        self.groups.merge(other.groups)
        for name in ("excluded", "normalizers", "failed", "missing"):
            getattr(self, name).update(getattr(other, name))
        for name in ("fell_back", "left_out", "same_text", "same_normalized"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.languages.update(other.languages)
        self.got_worse += other.got_worse
        self.got_better += other.got_better
        self.keep_largest()

    def by(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        """The figures of every group, by field and value."""
        return {
            name: {value: groups[value].figures(resamples, seed, with_p) for value in sorted(groups, key=order)}
            for name, groups in self.groups.items()
        }
