"""Scores predictions: word and character error rates over all rows and over groups, with intervals, and row times.

Reads predictions, joins them with references, counts edits of normalised texts in several processes, and makes rates
of the counts. Knows nothing of how results are shown.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.evaluation.common import (
    check_groups,
    check_split,
    count_all,
    reasons,
    rules_as_dict,
    text_notes,
    unmatched_notes,
)
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import find_references, join
from asrbatch.evaluation.row_counter import RowCounter
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.stats.languages import check_language
from asrbatch.evaluation.stats.significance import LEAST_UTTERANCES
from asrbatch.evaluation.text_rules import TextRules
from asrbatch.storage.run_files import RunFacts
from asrbatch.version import __version__


def score(path: Path, options: ScoreOptions, log: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Scores the predictions in a file.

    Args:
        path: absolute; JSON Lines.
        log: gets a line now and then about how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or no row has a reference.
        OutputError: the file is damaged.
    """
    return score_rows(path, options, log).metrics


class ScoreResult(NamedTuple):
    """What `--json` prints of a score, and what can go over the rows again."""

    metrics: dict[str, Any]
    counter: RowCounter


def score_rows(
    path: Path, options: ScoreOptions, log: Callable[[str], None], *, needs_rates: bool = True
) -> ScoreResult:
    """The same as `score`, with what the metrics are made of.

    Args:
        needs_rates: where no row has a reference, refuse; else rates are null then, and there are no groups.
    """
    rules, run = TextRules(options.normalizer), RunFacts(path)
    check_language(options.language)
    predictions = Predictions(path, options.pred_field, options.text_field)
    found = find_references(options.references, options.split, run, len(predictions))
    check_split(options, found.references)
    (predictions,), references, join_notes = join([predictions], found.references, [run.audio_folder])
    language = options.language or run.language or "en"
    # A row's `lang` is the one spoken; what a translation is held against is written in another.
    written_language = run.written_language and (options.language or run.written_language)
    counter = RowCounter(predictions, references, rules, language, options, written_language)
    tally = count_all(counter, Tally(), options, log)
    if needs_rates and not tally.total.rows:
        raise UsageError(_why_nothing(path, tally, options.text_field))
    check_groups(tally)
    # With references a torn row is one without a prediction, and counts as that.
    is_partial = found.is_partial or (predictions.torn and references is None)
    # Failed and missing rows count as empty hypotheses, and the exit code tells that the rate is theirs too.
    is_whole = not (is_partial or tally.total.failed or tally.total.missing)
    unmatched = 0 if references is None else len(predictions.without(references.keys))
    by_group = tally.by_group(options.resamples, options.seed)
    metrics = {
        "asrbatch": __version__,
        "predictions": str(path),
        "pred_field": predictions.pred_field,
        "references": None if references is None else references.source,
        "partial": is_partial,
        **rules_as_dict(rules, tally, options),
        **_tally_as_dict(tally, options),
        "unmatched_predictions": unmatched,
        "languages": tally.languages.as_dict(),
        "by": by_group,
        "speed": {**run.speed(len(predictions)), **_stated_speed(tally)},
        "latency_s": tally.stage_seconds.as_dict(),
        "notes": [
            *run.notes(len(predictions), predictions.torn, found.fate),
            *predictions.notes(),
            *text_notes(tally, language, options),
            *join_notes,
            *unmatched_notes(unmatched),
            *_mean_notes(by_group),
        ],
        "exit_code": EXIT_COMPLETE if is_whole else EXIT_ROWS_FAILED,
    }
    return ScoreResult(metrics, counter)


def _tally_as_dict(tally: Tally, options: ScoreOptions) -> dict[str, Any]:
    return {
        "total": tally.total.as_dict(tally.total.resampled(options.resamples, options.seed)),
        "excluded": dict(tally.excluded),
        "words_said_in_excluded": dict(tally.excluded_words),
        "failed_kinds": dict(tally.failed_kinds),
    }


def _stated_speed(tally: Tally) -> dict[str, float]:
    """What another tool states, where every row with a prediction has it."""
    # Of some of the rows it would not be the number that the leaderboard makes of the file.
    return tally.stated.as_dict(tally.total.rows + tally.excluded.total() - tally.total.missing)


def _mean_notes(by_group: Mapping[str, Any]) -> list[str]:
    """Why an unweighted mean has no interval."""
    notes = []
    for name, part in by_group.items():
        mean = part["unweighted_mean"]
        small, groups = max((mean[f"groups_too_small_in_{rate}"], mean[f"groups_in_{rate}"]) for rate in ("wer", "cer"))
        if small:
            notes.append(
                f"--by {name}: the unweighted mean has no interval, because {small} of {groups} groups have fewer than "
                f"{LEAST_UTTERANCES} utterances"
            )
    return notes


def _why_nothing(path: Path, tally: Tally, text_field: str) -> str:
    return (
        f"{path}: no row can be scored ({', '.join(reasons(tally))}); give their manifest with --references, or name "
        f"the field with --text-field (now {text_field}); two runs without references can be compared with asrbatch "
        "compare"
    )
