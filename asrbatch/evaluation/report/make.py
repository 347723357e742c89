"""Makes a report: scores the predictions of one run or several, lists the worst, writes the page.

Knows nothing of how the page looks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asrbatch.config import SourceOptions, descriptor_of
from asrbatch.errors import OutputError, UsageError
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.report.page import ReportedRun, page
from asrbatch.evaluation.report.rows import worst_rows
from asrbatch.evaluation.report.runs import run_facts, score_runs
from asrbatch.evaluation.row_fields import DURATION
from asrbatch.evaluation.summary import short_names
from asrbatch.formatting import shorten
from asrbatch.manifest.formats import files_of
from asrbatch.storage.files import explained, remove_dead, replacing
from asrbatch.storage.paths import RunPaths, check_outputs
from asrbatch.storage.run_files import RunFacts, rows_files

MOST_ROWS = 100_000
_NAME_CHARS = 60  # of a page of several runs
# How every report begins: whatever begins otherwise is somebody's file, and is not replaced.
MARK = b'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"'
# In percent.
_RATE_BOUNDS = {
    "no error": 0,
    "up to 5 %": 5,
    "5 to 10 %": 10,
    "10 to 20 %": 20,
    "20 to 50 %": 50,
    "50 to 100 %": 100,
    "over 100 %": math.inf,
}


def make_report(
    paths: Sequence[Path],
    to: Path,
    options: ScoreOptions,
    *,
    title: str | None = None,
    most_rows: int = MOST_ROWS,
    price_per_hour: float | None = None,
    common: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Writes the page, whole or not at all.

    Args:
        paths: predictions, absolute, or `-` for standard input; several are runs over the same rows, side by side.
        to: absolute; the HTML file.
        options: of `score`; groups of duration are added.
        title: None takes the names of the files.
        most_rows: utterances on the page; where there are more, those with the most errors.
        price_per_hour: of a device; None takes what the runs' sessions stated.
        common: of several runs the rows that all have, whatever manifests they are of.
        overwrite: a report that stands there is replaced; another file never is.

    Returns:
        The metrics of `score` of each run; where no row can be scored, the same with nothing in them but times and the
        reason.

    Raises:
        UsageError, ManifestError, OutputError: as `score`, but that rows need no references; runs are not of the same
            rows; something stands at `to` that is not to be replaced, or is what is read; or the disk refused.
    """
    # Asked first: counting a million rows takes minutes, and the page is written after it.
    _refuse_target(paths, to, options.references, overwrite)
    spent = [_spending(path, price_per_hour) for path in paths]
    options = replace(options, by=tuple(dict.fromkeys((*options.by, DURATION))))
    # What was transcribed can be looked at without a reference.
    metrics, scored_rows = score_runs(paths, options, log, common=common)
    inputs = scored_rows.inputs
    folder = _audio_folder(inputs.runs[0], metrics[0]["references"])
    rows, rates = worst_rows(scored_rows, folder, most_rows, log)
    names = short_names(paths)
    runs = [
        ReportedRun(name, of | cost, run_facts(run, file), _by_rate(each) if each else {})
        for name, of, cost, run, file, each in zip(names, metrics, spent, inputs.runs, inputs.files, rates, strict=True)
    ]
    if not inputs.has_references:
        runs[0].metrics["notes"].insert(0, f"no references: the predictions of {names[0]} are taken for them")
    text = page(title or ", ".join(names), runs, rows, options.by, f"{datetime.now(UTC):%F %R} UTC")
    with (
        explained(to, fix="choose another --to, or run the same command again when that is fixed"),
        replacing(to) as f,
    ):
        f.write(text.encode("utf-8", "replace"))  # a half of a surrogate pair becomes a question mark
    return metrics


def default_target(paths: Sequence[Path]) -> Path:
    """`X.report.html` beside X.jsonl, `X+Y.report.html` for several. Raises UsageError: beside a pipe is no folder."""
    if descriptor_of(str(paths[0])) is not None:
        raise UsageError(f"{paths[0]}: --to is missing; give the HTML file that the report is written to")
    names = "+".join(path.name.removesuffix(".jsonl") for path in paths)
    return paths[0].with_name(f"{shorten(names, _NAME_CHARS) if len(paths) > 1 else names}.report.html")


def _refuse_target(paths: Sequence[Path], to: Path, references: str | None, overwrite: bool) -> None:
    """Raises UsageError, OutputError: the page cannot be written there."""
    if not to.parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.parent}; make it, or choose another --to")
    files = [each for path in paths if descriptor_of(str(path)) is None for each in rows_files(path)]
    read = [] if references is None else files_of([references], SourceOptions())
    check_outputs([to], (*(each for file in files for each in RunPaths(file).written), *read), f"--to {to}")
    remove_dead(to.parent)
    if to.exists() and not _is_report(to):
        raise OutputError(f"{to}: exists already and is not a report; choose another --to")
    if to.exists() and not overwrite:
        raise OutputError(f"{to}: exists already; choose another --to, or --overwrite to replace it")


def _spending(path: Path, price: float | None) -> dict[str, Any]:
    """What the run took and cost. Raises UsageError: a price is given, and no record says how long devices worked."""
    spent = RunFacts(path).spending(price)
    if price is not None and not spent.get("cost"):
        raise UsageError(
            f"--price-per-hour {price:g}: no run record beside {path} says how long devices worked; leave it out"
        )
    return spent


def _by_rate(outcomes: dict[tuple[int, int], int]) -> dict[str, int]:
    """Rows by the range that their error rate is in; every range, in order."""
    found = dict.fromkeys(_RATE_BOUNDS, 0)
    for (errors, units), rows in outcomes.items():
        # In whole numbers, so that exactly 5 % stands in the range that ends there.
        found[next(name for name, bound in _RATE_BOUNDS.items() if 100 * errors <= bound * units)] += rows
    return found


def _audio_folder(run: RunFacts, references: str | None) -> Path:
    """What relative audio paths are relative to: the folder of the references, or what the run says."""
    if references is None:
        return Path(run.audio_base)
    return Path(references) if Path(references).is_dir() else Path(references).parent


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with explained(path), open(path, "rb") as file:
        return file.read(len(MARK)) == MARK
