"""Makes a report: scores the predictions, lists the worst, writes the page. Knows nothing of how the page looks."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.errors import OutputError, UsageError
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.report.page import page
from asrbatch.evaluation.report.rows import worst_rows
from asrbatch.evaluation.report.runs import score_runs
from asrbatch.evaluation.row_fields import DURATION
from asrbatch.manifest.formats import files_of
from asrbatch.storage.files import explained, remove_dead, replacing
from asrbatch.storage.paths import RunPaths, check_outputs
from asrbatch.storage.run_files import RunFacts, rows_files

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
    path: Path,
    to: Path,
    options: ScoreOptions,
    *,
    title: str,
    most_rows: int,
    price_per_hour: float | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Writes the page, whole or not at all; a report that stands there is replaced, another file is not.

    Args:
        path: absolute; predictions.
        to: absolute; the HTML file.
        options: of `score`; groups of duration are added.
        most_rows: utterances on the page; where there are more, those with the most errors.
        price_per_hour: of a device; None takes what the run's sessions stated.

    Returns:
        The metrics of `score`; where no row can be scored, the same with nothing in them but times and the reason.

    Raises:
        UsageError, ManifestError, OutputError: as `score`, but that rows need no references; something that is no
            report, or is what is read, stands at `to`; or the disk refused.
    """
    # Asked first: counting a million rows takes minutes, and the page is written after it.
    if not to.parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.parent}; make it, or choose another --to")
    rows = [RunPaths(each) for each in rows_files(path)]
    references = [] if options.references is None else files_of([options.references], SourceOptions())
    check_outputs([to], (*(each for paths in rows for each in paths.written), *references), f"--to {to}")
    remove_dead(to.parent)
    if to.exists() and not _is_report(to):
        raise OutputError(f"{to}: is there already and is no report; choose another --to")
    spent = _spending(path, price_per_hour)
    options = replace(options, by=tuple(dict.fromkeys((*options.by, DURATION))))
    # What was transcribed can be looked at without a reference.
    [metrics], scored_rows = score_runs([path], options, log)
    rows, rates = worst_rows(scored_rows, _audio_folder(path, metrics["references"]), most_rows, log)
    metrics |= spent
    text = page(title, metrics, _by_rate(rates) if rates else {}, rows, options.by)
    with (
        explained(to, fix="choose another --to, or run the same command again when that is mended"),
        replacing(to) as f,
    ):
        f.write(text.encode("utf-8", "replace"))  # a half of a surrogate pair becomes a question mark
    return metrics


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


def _audio_folder(path: Path, references: str | None) -> Path:
    """What relative audio paths are relative to: the folder of the references, or what the run says."""
    if references is None:
        return Path(RunFacts(path).audio_base)
    return Path(references) if Path(references).is_dir() else Path(references).parent


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with explained(path), open(path, "rb") as file:
        return file.read(len(MARK)) == MARK
