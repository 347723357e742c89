"""`asrbatch score`: word and character error rates of predictions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrbatch.cli.common import Verbose
from asrbatch.cli.options import AsJson, say, takes_scoring_options

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes_scoring_options()
def score(
    options: "ScoreOptions",
    predictions: Annotated[
        str, typer.Argument(help="A rows file, merged or not, or other JSON Lines with predictions.")
    ],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Score predictions: WER and CER with intervals, in all and by group, and how long rows took.

    Exit codes: 0 scored; 1 stopped by an error; 2 usage, or no row has a reference; 3 scored, and rows that failed or
    are missing count as empty."""
    from asrbatch.cli.display.scores import score_parts
    from asrbatch.cli.display.tables import show
    from asrbatch.evaluation.score import score as score_file

    figures = score_file(Path(predictions).expanduser().absolute(), options, say)
    if as_json:
        typer.echo(json.dumps(figures, ensure_ascii=True, allow_nan=False))
    else:
        show(*score_parts(figures))
    raise typer.Exit(figures["exit_code"])
