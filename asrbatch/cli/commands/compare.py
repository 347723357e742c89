"""`asrbatch compare`: two files of predictions, row by row."""

from typing import TYPE_CHECKING, Annotated

import typer

from asrbatch.cli.common import AsJson, log, predictions_path, print_result
from asrbatch.cli.options import scoring_options, takes
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(scoring=scoring_options())
def compare(
    a: Annotated[str, typer.Argument(help="Predictions: a rows file, or other JSON Lines.")],
    b: Annotated[str, typer.Argument(help="Other predictions of the same rows.")],
    common: bool = option(False, "Compare the rows both have, also of runs over different manifests."),
    show_changes: int = option(5, "Of the largest changes, so many each way.", flags="--show", minimum=0),
    as_json: AsJson = False,
    *,
    scoring: "ScoreOptions",
) -> None:
    """Compare two files of predictions row by row: which is better, by how much, is it chance, and where.

    \b
    Example:
      asrbatch compare run/turbo.jsonl run/large.jsonl --by dataset

    Without references it says how far they agree.

    Exit codes: 0 compared; 1 stopped by an error; 2 usage, or different manifests; 3 compared, and rows that failed or
    are missing count as empty."""
    from asrbatch.cli.display.scores import compare_parts
    from asrbatch.evaluation.compare import compare as compare_files

    paths = [predictions_path(each) for each in (a, b)]
    metrics = compare_files(*paths, scoring, log, common=common, shown=show_changes)
    print_result(metrics, compare_parts, as_json, ascii=True)
    raise typer.Exit(metrics["exit_code"])
