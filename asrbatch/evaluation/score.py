"""Scores predictions: word and character error rates over all rows and over groups, with intervals, and row times.

Reads predictions, joins them with references, counts edits of normalised texts in several processes, and makes rates
of the counts. Knows nothing of how results are shown.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asrbatch import __version__
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.evaluation.counting import count_rows, how_counted
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.rows import ScoredRows
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.stats.significance import LEAST_UTTERANCES


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
    return score_rows(path, options, log)[0]


def score_rows(
    path: Path, options: ScoreOptions, log: Callable[[str], None], *, needs_rates: bool = True
) -> tuple[dict[str, Any], ScoredRows]:
    """The same as `score`, with the rows that the metrics are made of.

    Args:
        needs_rates: where no row has a reference, refuse; else rates are null then, and there are no groups.
    """
    inputs = EvaluationInputs([path], options)
    rows = ScoredRows(inputs)
    tally = count_rows(rows, Tally, log)
    if needs_rates and not tally.total.rows:
        raise UsageError(
            f"{path}: no row can be scored ({', '.join(tally.reasons())}); give their manifest with --references, or "
            f"name the field with --text-field (now {options.text_field}); two runs without references can be compared "
            "with asrbatch compare"
        )
    return _metrics(inputs, tally), rows


def _metrics(inputs: EvaluationInputs, tally: Tally) -> dict[str, Any]:
    options, [file], [run] = inputs.options, inputs.files, inputs.runs
    by_group = tally.by_group(options.resamples, options.seed)
    # Failed and missing rows count as empty hypotheses, and the exit code tells that the rate is theirs too.
    is_whole = not (inputs.is_partial or tally.total.failed or tally.total.missing)
    return {
        "asrbatch": __version__,
        "predictions": str(file.path),
        "pred_field": file.pred_field,
        **how_counted(inputs, tally),
        "total": tally.total.as_dict(tally.total.resampled(options.resamples, options.seed)),
        "excluded": dict(tally.excluded),
        "words_said_in_excluded": dict(tally.excluded_words),
        "failed_kinds": dict(tally.failed_kinds),
        "unmatched_predictions": inputs.unmatched[0],
        "languages": tally.languages.as_dict(),
        "by": by_group,
        "speed": {**run.speed(len(file)), **tally.stated_speed()},
        "latency_s": tally.stage_seconds.as_dict(),
        "notes": [
            *inputs.notes_of(0),
            *tally.notes(inputs.language, options),
            *inputs.join_notes,
            *inputs.unmatched_notes(0),
            *_mean_notes(by_group),
            *tally.stage_seconds.notes(),
        ],
        "exit_code": EXIT_COMPLETE if is_whole else EXIT_ROWS_FAILED,
    }


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
