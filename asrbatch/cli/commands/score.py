"""`asrbatch score`: word and character error rates of predictions."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from asrbatch.cli.common import AsJson, Predictions, log, print_result
from asrbatch.cli.options import scoring_options, takes

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(options=scoring_options())
def score(predictions: Predictions, as_json: AsJson = False, *, options: "ScoreOptions") -> None:
    """Score predictions: WER and CER with intervals, in all and by group, and how long rows took.

    \b
    Example:
      asrbatch score run/out.jsonl --by dataset,duration

    Exit codes: 0 scored; 1 stopped by an error; 2 usage, or no row has a reference; 3 scored, and rows that failed or
    are missing count as empty."""
    from asrbatch.cli.display.scores import score_parts
    from asrbatch.evaluation.score import score as score_file

    metrics = score_file(Path(predictions).expanduser().absolute(), options, log)
    print_result(metrics, score_parts, as_json, ascii=True)
    raise typer.Exit(metrics["exit_code"])
