"""`asrbatch score`: word and character error rates of predictions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from asrbatch.cli.common import AsJson, Predictions, log, predictions_path, print_result
from asrbatch.cli.options import scoring_options, takes

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(options=scoring_options())
def score(predictions: Predictions, as_json: AsJson = False, *, options: "ScoreOptions") -> None:
    """Score predictions: WER and CER with intervals, in all and by group, and how long rows took.

    \b
    Example:
      asrbatch score run/out.jsonl --by dataset,duration
      asrbatch score ami.jsonl librispeech.jsonl voxpopuli.jsonl
      zcat nemo.jsonl.gz | asrbatch score -

    Of several files: each, the composite (mean of their rates) and all words together.

    Exit codes: 0 scored; 1 stopped by an error; 2 usage, or no row has a reference; 3 scored, and rows that failed or
    are missing count as empty."""
    from asrbatch.cli.display.scores import files_parts, score_parts

    metrics = metrics_of(predictions, options, log)
    print_result(metrics, files_parts if "files" in metrics else score_parts, as_json, ascii=True)
    raise typer.Exit(metrics["exit_code"])


def metrics_of(predictions: Sequence[str], options: "ScoreOptions", log: Callable[[str], None]) -> dict[str, Any]:
    """What the command prints, and `asrbatch.score` returns."""
    from asrbatch.evaluation.score import score as score_file
    from asrbatch.evaluation.score import score_files

    paths = [predictions_path(each) for each in predictions]
    return score_file(paths[0], options, log) if len(paths) == 1 else score_files(paths, options, log)
