"""`asrbatch report`: a page to look at what was transcribed."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from asrbatch.cli.common import Predictions, log, predictions_path, print_line
from asrbatch.cli.options import options_of, scoring_options, takes
from asrbatch.config import PriceOptions
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.evaluation.options import ScoreOptions


@takes(prices=options_of(PriceOptions), options=scoring_options())
def report(
    predictions: Predictions,
    to: str | None = option(None, "The HTML file. [default: X.report.html beside X.jsonl; X+Y.report.html of two]"),
    title: str | None = option(None, "Of the page. [default: the names of the rows files]"),
    overwrite: bool = option(False, "Replace the report that stands there."),
    common: bool = option(
        False, "Of several runs, show the rows that all have, also of runs over different manifests."
    ),
    max_rows: int = option(100_000, "Utterances on the page; of more, those with the most errors.", minimum=1),
    *,
    prices: PriceOptions,
    options: "ScoreOptions",
) -> None:
    """Write one HTML page of a score: rates by group, time by stage, and every utterance with what is wrong in it.

    \b
    Example:
      asrbatch report run/out.jsonl
      asrbatch report run/turbo.jsonl run/large.jsonl --to models.html

    Several runs over the same rows stand side by side.

    Exit codes: those of score; 1 also where a file is in the way.
    """
    from asrbatch.evaluation.report.make import default_target, make_report

    paths = [predictions_path(each) for each in predictions]
    target = default_target(paths) if to is None else Path(to).expanduser().absolute()
    how = {"title": title, "most_rows": max_rows, "price_per_hour": prices.price_per_hour}
    metrics = make_report(paths, target, options, **how, common=common, overwrite=overwrite, log=log)
    print_line(target)
    raise typer.Exit(max(of_run["exit_code"] for of_run in metrics))
