"""`asrbatch report`: a page to look at what was transcribed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrbatch.cli.common import Verbose, log
from asrbatch.cli.options import scoring_options, takes

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(options=scoring_options())
def report(
    predictions: Annotated[
        str, typer.Argument(help="A rows file, merged or not, or other JSON Lines with predictions.")
    ],
    to: Annotated[str | None, typer.Option(help="The HTML file. [default: X.report.html beside X.jsonl]")] = None,
    title: Annotated[str | None, typer.Option(help="Of the page. [default: the name of the rows file]")] = None,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Utterances on the page; of more, those with the most errors.")
    ] = 100_000,
    verbose: Verbose = False,
    *,
    options: "ScoreOptions",
) -> None:
    """Write one HTML page of a score: rates by group, time by stage, and every utterance with what is wrong in it.

    Exit codes: those of score.
    """
    from asrbatch.evaluation.report.make import make_report

    path = Path(predictions).expanduser().absolute()
    stem = path.name.removesuffix(".jsonl")
    target = path.with_name(f"{stem}.report.html") if to is None else Path(to).expanduser().absolute()
    figures = make_report(path, target, options, title=title or stem, most_rows=max_rows, log=log)
    typer.echo(target)
    raise typer.Exit(figures["exit_code"])
