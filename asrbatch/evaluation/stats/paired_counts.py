"""What is counted over rows that two systems predicted, and what follows from it: rates, their difference, its p-value.

Counts of parts of the files add up to those of the files. Knows nothing of files and texts.
"""

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, NamedTuple

from asrbatch.evaluation.alignment import Edits
from asrbatch.evaluation.stats.error_rates import TextTally, percent, percent_interval
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
        fields = self._asdict()
        del fields["size"]
        return fields


@dataclass
class PairedUnitCounts(Sums):
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

    def as_dict(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        """Rates of both in percent, what B's is above A's in points, its interval, and how likely chance is.

        Args:
            with_p: without references the rate of A is 0 by definition, and there is nothing to test.
        """
        # The same draws for A and B as for B and A, so that swapping them mirrors every number.
        mirrored = {(b, a, units): rows for (a, b, units), rows in self.outcomes.items()}
        is_mirrored = sorted(mirrored.items()) < sorted(self.outcomes.items())
        resampled = resampled_rates(mirrored if is_mirrored else self.outcomes, resamples, seed, kinds=2)
        resampled = resampled[::-1] if is_mirrored else resampled
        return {
            "rows": self.rows,
            "better": self.better,
            "worse": self.worse,
            "a_percent": percent(self.errors_a, self.reference),
            "a_percent_interval": percent_interval(resampled[0]),
            "b_percent": percent(self.errors_b, self.reference),
            "b_percent_interval": percent_interval(resampled[1]),
            "delta_points": percent(self.errors_b - self.errors_a, self.reference),
            "delta_points_interval": percent_interval(resampled[1] - resampled[0]),
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
    words: PairedUnitCounts = field(default_factory=PairedUnitCounts)
    characters: PairedUnitCounts = field(default_factory=PairedUnitCounts)

    def add(self, a: tuple[Edits | None, Edits], b: tuple[Edits | None, Edits]) -> int:
        """Adds one row: edits in words (None where they are not counted) and in characters. Returns B's errors minus
        A's.
        """
        if a[0] is not None and b[0] is not None:
            self.words.add(a[0], b[0])
        self.characters.add(a[1], b[1])
        # `or` chooses by None alone here: a tuple is true even when all its counts are 0.
        difference = (b[0] or b[1]).errors - (a[0] or a[1]).errors
        self.rows += 1
        self.better += difference < 0
        self.worse += difference > 0
        return difference

    def as_dict(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "better": self.better,
            "worse": self.worse,
            "wer": self.words.as_dict(resamples, seed, with_p),
            "cer": self.characters.as_dict(resamples, seed, with_p),
        }


class LargestChanges:
    """The rows with the largest changes in one direction.

    Args:
        most: so many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._changes: list[Change] = []

    def add(self, change: Change) -> None:
        self._changes.append(change)
        # A change holds texts, of long recordings perhaps: not many more than are wanted are ever in memory.
        if len(self._changes) > 2 * self._most + 100:
            self._changes = nsmallest(self._most, self._changes)

    def update(self, other: "LargestChanges") -> None:
        """Adds what was found in another part."""
        self._changes = nsmallest(self._most, self._changes + other._changes)

    def as_list(self) -> list[dict[str, Any]]:
        return [change.as_dict() for change in nsmallest(self._most, self._changes)]


@dataclass
class PairTally(TextTally):
    """What is counted over a part of the rows of two files.

    Attributes:
        total: over all rows compared; `groups`: by field, then by its value.
        failed, missing: of A and of B, rows whose hypotheses are empty for that reason.
        left_out: rows that only one of the files has, where only common ones are compared.
        same_text: rows whose predictions are the same, character by character; `same_normalized`: once normalised.
        got_worse, got_better: from A to B.
    """

    total: PairCounts = field(default_factory=PairCounts)
    groups: Groups[PairCounts] = field(default_factory=lambda: Groups(PairCounts))
    failed: Counter = field(default_factory=Counter)
    missing: Counter = field(default_factory=Counter)
    left_out: int = 0
    same_text: int = 0
    same_normalized: int = 0
    got_worse: LargestChanges = field(default_factory=lambda: LargestChanges(10))
    got_better: LargestChanges = field(default_factory=lambda: LargestChanges(10))

    @classmethod
    def keeping(cls, most: int) -> "PairTally":
        """Nothing counted yet, of which so many changes will be kept in each direction."""
        return cls(got_worse=LargestChanges(most), got_better=LargestChanges(most))

    def by_group(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        """The metrics of every group, by field and value."""
        return {
            name: {value: counts.as_dict(resamples, seed, with_p) for value, counts in self.groups.in_order(name)}
            for name in self.groups
        }
