"""The runs of a report over the same rows: each scored alone. Knows nothing of HTML."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asrbatch.evaluation.counting import count_rows, refuse_unknown_groups
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.rows import ScoredRow, ScoredRows
from asrbatch.evaluation.score import refuse_doubled, score_metrics
from asrbatch.evaluation.stats.error_rates import Tally


class RunTallies:
    """What is counted of each run.

    Args:
        number: of runs.
    """

    def __init__(self, number: int):
        self.runs = [Tally() for _ in range(number)]

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """Of the first run; the others have the same rows."""
        return self.runs[0].groups

    def add(self, row: ScoredRow, groups: Mapping[str, list[str]]) -> None:
        """Adds one row, with what each run made of it."""
        for tally, said, hypothesis in zip(self.runs, row.predictions, row.texts.hypotheses, strict=True):
            tally.add(row._replace(predictions=[said], texts=row.texts._replace(hypotheses=(hypothesis,))), groups)

    def update(self, other: "RunTallies") -> None:
        """Adds what was counted over another part."""
        for mine, theirs in zip(self.runs, other.runs, strict=True):
            mine.update(theirs)


def score_runs(
    paths: Sequence[Path], options: ScoreOptions, log: Callable[[str], None], *, common: bool = False
) -> tuple[list[dict[str, Any]], ScoredRows]:
    """The metrics of each run, as `score` has them, and the rows that they are made of.

    Where no row has a reference, rates of one run are null, and there are no groups; of several runs the predictions of
    the first take the place of references.

    Args:
        common: of several runs the rows that all have, whatever manifests they are of.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or the runs are over different manifests.
        OutputError: a file is damaged, or what runs say of the same row differs.
    """
    refuse_doubled(paths)
    inputs = EvaluationInputs(paths, options, common)
    rows = ScoredRows(inputs)
    tallies = count_rows(rows, lambda: RunTallies(len(paths)), log)
    refuse_unknown_groups(tallies)
    return [score_metrics(inputs, tally, at) for at, tally in enumerate(tallies.runs)], rows
