"""`asrbatch report`: a page to look at what was transcribed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrbatch.cli.common import log, print_line
from asrbatch.cli.options import options_of, scoring_options, takes
from asrbatch.config import PriceOptions
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(prices=options_of(PriceOptions), options=scoring_options())
def report(
    predictions: Annotated[str, typer.Argument(help="A rows file, or other JSON Lines with predictions.")],
    to: str | None = option(None, "The HTML file. [default: X.report.html beside X.jsonl]"),
    title: str | None = option(None, "Of the page. [default: the name of the rows file]"),
    max_rows: int = option(100_000, "Utterances on the page; of more, those with the most errors.", minimum=1),
    *,
    prices: PriceOptions,
    options: "ScoreOptions",
) -> None:
    """Write one HTML page of a score: rates by group, time by stage, and every utterance with what is wrong in it.

    \b
    Example:
      asrbatch report run/out.jsonl

    Exit codes: those of score.
    """
    from asrbatch.evaluation.report.make import make_report

    path = Path(predictions).expanduser().absolute()
    stem = path.name.removesuffix(".jsonl")
    target = path.with_name(f"{stem}.report.html") if to is None else Path(to).expanduser().absolute()
    how = {"title": title or stem, "most_rows": max_rows, "price_per_hour": prices.price_per_hour}
    metrics = make_report(path, target, options, **how, log=log)
    print_line(target)
    raise typer.Exit(metrics["exit_code"])
