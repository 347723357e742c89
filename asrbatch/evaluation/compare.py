"""Compares two files of predictions row by row: over the same references, or, where there are none, with each other.

Rows are paired by id. What one of two runs over the same manifest lacks counts as an empty hypothesis, as in `score`.
With references A and B are treated alike: swapping them mirrors every number. Without references A's prediction is
taken for the reference: how far B is from A, not which is better.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from asrbatch import __version__
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.evaluation.counting import count_rows, how_counted, refuse_unknown_groups
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.rows import ScoredRows
from asrbatch.evaluation.stats.paired_rates import SIDES, PairTally
from asrbatch.evaluation.stats.significance import SIGNIFICANT_BELOW, least_p_value
from asrbatch.evaluation.summary import compared_units
from asrbatch.formatting import counted


def compare(
    a: Path,
    b: Path,
    options: ScoreOptions,
    log: Callable[[str], None] = lambda line: None,
    *,
    common: bool = False,
    shown: int = 10,
) -> dict[str, Any]:
    """Compares the predictions in two files.

    Args:
        a, b: absolute; JSON Lines.
        log: gets a line now and then about how far it is.
        common: compare the rows that both have, whatever manifests they are of.
        shown: how many of the largest changes to keep, in each direction.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or the files are of different manifests.
        OutputError: a file is damaged, or the references of the two differ.
    """
    inputs = EvaluationInputs([a, b], options, common)
    rows = ScoredRows(inputs)
    tally = count_rows(rows, partial(PairTally.keeping, shown), log)
    refuse_unknown_groups(tally)
    # Every other row is compared or excluded.
    left_out = len(rows) - tally.total.rows - tally.excluded.total()
    if not tally.total.rows:
        why = [
            *tally.reasons(),
            *([counted(left_out, "row", "is", "are") + " in one of them only"] if left_out else []),
        ]
        raise UsageError(f"{a} and {b}: there is nothing to compare ({', '.join(why)})")
    return _metrics(inputs, tally, left_out)


def _metrics(inputs: EvaluationInputs, tally: PairTally, left_out: int) -> dict[str, Any]:
    scoring, has_references = inputs.options, inputs.has_references
    draws = scoring.resamples, scoring.seed, has_references
    is_whole = not (inputs.is_partial or tally.failed.total() or tally.missing.total())
    # Without references no change is for the better, and all of them are differences.
    worse, better = ([change for *_, change in of.ranked()] for of in (tally.got_worse, tally.got_better))
    total = tally.total.as_dict(*draws)
    return {
        "asrbatch": __version__,
        **{
            side: {
                "predictions": str(file.path),
                "pred_field": file.pred_field,
                "failed": tally.failed[side],
                "missing": tally.missing[side],
                "unmatched_predictions": unmatched,
            }
            for side, file, unmatched in zip(SIDES, inputs.files, inputs.unmatched, strict=True)
        },
        "against": "references" if has_references else "a",
        **how_counted(inputs, tally),
        "total": total,
        "same_text": tally.same_text,
        "same_normalized": tally.same_normalized,
        "languages": tally.languages.as_dict(),
        "excluded": dict(tally.excluded),
        "left_out": left_out,
        **({"got_worse": worse, "got_better": better} if has_references else {"most_different": worse}),
        "by": tally.by_group(*draws),
        "notes": [
            *(
                f"{side.upper()}: {note}"
                for at, side in enumerate(SIDES)
                for note in (*inputs.notes_of(at), *inputs.unmatched_notes(at))
            ),
            *inputs.join_notes,
            *tally.notes(inputs.language, scoring),
            *(_too_few_rows(total) if has_references else ()),
        ],
        "exit_code": EXIT_COMPLETE if is_whole else EXIT_ROWS_FAILED,
    }


def _too_few_rows(total: dict[str, Any]) -> Iterator[str]:
    """That no difference could have been significant, however large."""
    for unit, of in compared_units(total):
        rows = of["better"] + of["worse"]
        if rows and (least := least_p_value(rows)) >= SIGNIFICANT_BELOW:
            yield (
                f"errors in {unit} differ in {counted(rows, 'row')} only: p cannot be below {least:g} then, so that no "
                f"difference would be significant; compare over more rows"
            )
