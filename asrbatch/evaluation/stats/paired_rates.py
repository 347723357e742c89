"""What is counted over rows that two systems predicted, and what follows from it: rates, their difference, its p-value.

Counts of parts of the files add up to those of the files. Knows nothing of files and texts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asrbatch.evaluation.rows import ScoredPrediction, ScoredRow
from asrbatch.evaluation.stats.error_rates import Outcomes, RowCounts, TextTally, percent, percent_interval
from asrbatch.evaluation.stats.significance import SIGNIFICANT_BELOW, permutation_test, resampled_rates
from asrbatch.evaluation.stats.sums import Groups, LargestItems

SIDES = ("a", "b")


def paired_rates(outcomes: Outcomes, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
    """Rates of both systems in percent, what B's is above A's in points, its interval, and how likely chance is.

    Args:
        outcomes: rows by (errors of A, errors of B, units of reference), in one unit.
        with_p: without references the rate of A is 0 by definition, and there is nothing to test.

    Returns:
        Among others `better`, `worse`: rows in which B has fewer or more errors than A; `significant`: chance alone
        would hardly make such a difference.
    """
    errors_a, errors_b, reference = outcomes.sums(3)
    differences: Counter = Counter()
    alone_a, alone_b = Outcomes(), Outcomes()
    for (a, b, units), rows in outcomes.items():
        differences[b - a] += rows
        alone_a[a, units] += rows
        alone_b[b, units] += rows
    # The same draws for A and B as for B and A, so that swapping them mirrors every number.
    mirrored = {(b, a, units): rows for (a, b, units), rows in outcomes.items()}
    is_mirrored = sorted(mirrored.items()) < sorted(outcomes.items())
    resampled = resampled_rates(mirrored if is_mirrored else outcomes, resamples, seed, kinds=2)
    resampled_a, resampled_b = resampled[::-1] if is_mirrored else resampled
    p_value = permutation_test(differences, resamples, seed) if with_p and reference else None
    return {
        "rows": outcomes.total(),
        "better": sum(rows for difference, rows in differences.items() if difference < 0),
        "worse": sum(rows for difference, rows in differences.items() if difference > 0),
        "a_percent": percent(errors_a, reference),
        # Those of a score of each alone.
        "a_percent_interval": percent_interval(resampled_rates(alone_a, resamples, seed)[0]),
        "b_percent": percent(errors_b, reference),
        "b_percent_interval": percent_interval(resampled_rates(alone_b, resamples, seed)[0]),
        "delta_points": percent(errors_b - errors_a, reference),
        "delta_points_interval": percent_interval(resampled_b - resampled_a),
        "p_value": p_value,
        "significant": None if p_value is None else p_value < SIGNIFICANT_BELOW,
        "errors_a": errors_a,
        "errors_b": errors_b,
        "reference": reference,
    }


@dataclass
class PairCounts(RowCounts):
    """Over the rows of one group that two systems predicted.

    Attributes:
        better, worse: by words, and by characters for languages without spaces.
    """

    better: int = 0
    worse: int = 0

    def add(self, a: ScoredPrediction, b: ScoredPrediction) -> int:
        """Adds one row. Returns B's errors minus A's."""
        self.add_edits(a, b)
        difference = b.edits.errors - a.edits.errors
        self.better += difference < 0
        self.worse += difference > 0
        return difference

    def as_dict(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "better": self.better,
            "worse": self.worse,
            "wer": paired_rates(self.words, resamples, seed, with_p),
            "cer": paired_rates(self.characters, resamples, seed, with_p),
        }


@dataclass
class PairTally(TextTally):
    """What is counted over a part of the rows of two files.

    Attributes:
        total: over all rows compared; `groups`: by field, then by its value.
        failed, missing: of A and of B, rows whose hypotheses are empty for that reason.
        same_text: rows whose predictions are the same, character by character; `same_normalized`: once normalised.
        got_worse, got_better: rows in which one system has fewer errors, from A to B.
    """

    total: PairCounts = field(default_factory=PairCounts)
    groups: Groups[PairCounts] = field(default_factory=lambda: Groups(PairCounts))
    failed: Counter = field(default_factory=Counter)
    missing: Counter = field(default_factory=Counter)
    same_text: int = 0
    same_normalized: int = 0
    got_worse: LargestItems = field(default_factory=lambda: LargestItems(10))
    got_better: LargestItems = field(default_factory=lambda: LargestItems(10))

    @classmethod
    def keeping(cls, most: int) -> "PairTally":
        """Nothing counted yet, of which so many changes will be kept in each direction."""
        return cls(got_worse=LargestItems(most), got_better=LargestItems(most))

    def add(self, row: ScoredRow, groups: Mapping[str, list[str]]) -> None:
        """Adds one row, which is in these groups, by field."""
        self.add_texts(row)
        if row.texts.excluded:
            return
        a, b = row.predictions
        self.same_text += (a.text or "") == (b.text or "")
        self.same_normalized += len(set(row.texts.hypotheses)) == 1
        for side, said in zip(SIDES, row.predictions, strict=True):
            self.failed[side] += said.failed is not None
            self.missing[side] += said.missing
        for counts in self.groups.counts_of(groups):
            counts.add(a, b)
        if difference := self.total.add(a, b):
            change = {
                "id": row.fields["id"],
                "errors_a": a.edits.errors,
                "errors_b": b.edits.errors,
                "unit": "words" if row.texts.in_words else "characters",
                "reference": row.reference,
                "a": a.text,
                "b": b.text,
                # What errors are counted in.
                "normalized": dict(
                    zip(("reference", *SIDES), (row.texts.reference, *row.texts.hypotheses), strict=True)
                ),
            }
            (self.got_worse if difference > 0 else self.got_better).add(abs(difference), change["id"], change)

    def by_group(self, resamples: int, seed: int, with_p: bool) -> dict[str, Any]:
        """The metrics of every group, by field and value."""
        return {
            name: {value: counts.as_dict(resamples, seed, with_p) for value, counts in self.groups.in_order(name)}
            for name in self.groups
        }
