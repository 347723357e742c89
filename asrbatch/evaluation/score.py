"""Scores predictions: word and character error rates over all rows and over groups, with intervals, and row times.

Reads predictions, joins them with references, counts edits of normalised texts in several processes, and makes rates
of the counts: of one file, or of several, such as one for each data set, with their composite. Knows nothing of how
results are shown.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch import __version__
from asrbatch.config import descriptor_of
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.evaluation.counting import count_rows, how_counted, refuse_unknown_groups
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.rows import ScoredRows
from asrbatch.evaluation.stats.error_rates import Tally, UnweightedMean
from asrbatch.evaluation.stats.significance import LEAST_UTTERANCES
from asrbatch.evaluation.summary import short_names
from asrbatch.formatting import counted

_COMPARED_ROWS = 10


def score(path: Path, options: ScoreOptions, log: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Scores the predictions in a file.

    Args:
        path: absolute, or `-` for standard input; JSON Lines.
        log: gets a line now and then about how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or no row has a reference.
        OutputError: the file is damaged.
    """
    inputs, tally = _count(path, options, log)
    refuse_unknown_groups(tally)
    return score_metrics(inputs, tally)


def score_files(
    paths: Sequence[Path], options: ScoreOptions, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Scores several files of predictions: each alone, the composite (the mean of their rates, in which each file has
    the same weight), and all their rows together.

    Args:
        paths: at least one; each as for `score`.

    Returns:
        What `--json` prints of several files; see docs/scoring.md.

    Raises:
        UsageError: a file is given twice; and what `score` raises.
    """
    refuse_doubled(paths)
    files, notes, pooled, recordings = {}, [], Tally(), SharedRecordings()
    composite = {rate: UnweightedMean(rate, options.resamples) for rate in ("wer", "cer")}
    # Each file is held against its own references: ids of different data sets may be the same.
    for name, path in zip(short_names(paths), paths, strict=True):
        inputs, tally = _count(path, options, log)
        recordings.add(inputs)
        files[name] = score_metrics(inputs, tally)
        notes += [f"{name}: {note}" for note in files[name]["notes"]]
        resampled = tally.total.resampled(options.resamples, options.seed)
        for rate, outcomes in tally.total.outcomes().items():
            composite[rate].add(outcomes, resampled[rate])
        pooled.update(tally)
        log(f"{name}: {counted(tally.total.rows, 'row')} scored")
    refuse_unknown_groups(pooled)
    mean = {**composite["wer"].as_dict(), **composite["cer"].as_dict()}
    about_mean = _composite_notes(mean)
    if recordings.are_shared:
        about_mean = [
            "files are of the same recordings, so rates and groups over all of them together would count a recording "
            "twice, and are not shown; asrbatch compare and asrbatch report put two runs side by side, also with --by"
        ]
    return {
        "asrbatch": __version__,
        "files": files,
        "composite": mean,
        "same_recordings": recordings.are_shared,
        **_pooled(inputs, pooled),
        "partial": any(of_file["partial"] for of_file in files.values()),
        "notes": [*notes, *about_mean],
        "exit_code": max(of_file["exit_code"] for of_file in files.values()),
    }


class SharedRecordings:
    """Whether two of the files that are scored are of the same recordings, such as those of two models.

    Attributes:
        are_shared: some two that were added are.
    """

    def __init__(self) -> None:
        self.are_shared = False
        self._seen: set[Any] = set()

    def add(self, inputs: EvaluationInputs) -> None:
        """Adds the one file of these inputs."""
        of_file = {*self._signatures(inputs)}
        self.are_shared |= not self._seen.isdisjoint(of_file)
        self._seen |= of_file

    @staticmethod
    def _signatures(inputs: EvaluationInputs) -> Iterator[Any]:
        [file], [run] = inputs.files, inputs.runs
        if inputs.options.references is not None:
            yield inputs.options.references
        if run.covers is not None:
            yield run.covers
        # Data sets may have the same ids: some rows must have the same audio and reference, too.
        order = np.argsort(file.keys)
        names = "audio_filepath", "offset", "duration", inputs.options.text_field
        shown = [tuple(map(file.read(int(at)).get, names)) for at in order[:_COMPARED_ROWS]]
        if all(type(row[0]) is str for row in shown):
            yield file.keys[order].tobytes(), str(shown)


def refuse_doubled(paths: Sequence[Path]) -> None:
    """Raises UsageError: a file is given twice, and would count twice."""
    seen = set()
    for path in paths:
        place = descriptor_of(str(path)) if descriptor_of(str(path)) is not None else os.path.realpath(path)
        if place in seen:
            raise UsageError(f"{path}: is given twice; give each file once")
        seen.add(place)


def _count(path: Path, options: ScoreOptions, log: Callable[[str], None]) -> tuple[EvaluationInputs, Tally]:
    inputs = EvaluationInputs([path], options)
    tally = count_rows(ScoredRows(inputs), Tally, log)
    if not tally.total.rows:
        raise UsageError(
            f"{path}: no row can be scored ({', '.join(tally.reasons())}); give their manifest with --references, or "
            f"name the field with --text-field (now {options.text_field}); two runs without references can be compared "
            "with asrbatch compare"
        )
    return inputs, tally


def _pooled(inputs: EvaluationInputs, tally: Tally) -> dict[str, Any]:
    """What is counted over all rows, of however many files."""
    options = inputs.options
    return {
        **how_counted(inputs, tally),
        "total": tally.total.as_dict(tally.total.resampled(options.resamples, options.seed)),
        "excluded": dict(tally.excluded),
        "words_said_in_excluded": dict(tally.excluded_words),
        "failed_kinds": dict(tally.failed_kinds),
        "languages": tally.languages.as_dict(),
        "by": tally.by_group(options.resamples, options.seed),
        "speed": tally.stated_speed(),
        "latency_s": tally.stage_seconds.as_dict(),
    }


def score_metrics(inputs: EvaluationInputs, tally: Tally, at: int = 0, *, shows_means: bool = True) -> dict[str, Any]:
    """The metrics of one file, as `--json` prints them.

    Args:
        at: which of the files; `tally` is what was counted of it.
        shows_means: the unweighted means of groups are shown, and notes are about them.
    """
    file, run = inputs.files[at], inputs.runs[at]
    pooled = _pooled(inputs, tally)
    # Failed and missing rows count as empty hypotheses, and the exit code tells that the rate is theirs too.
    is_whole = not (inputs.is_partial or tally.total.failed or tally.total.missing)
    return {
        "asrbatch": __version__,
        "predictions": str(file.path),
        "pred_field": file.pred_field,
        **pooled,
        "unmatched_predictions": inputs.unmatched[at],
        "speed": {**run.speed(len(file)), **pooled["speed"]},
        "notes": [
            *inputs.notes_of(at),
            *tally.notes(inputs.language, inputs.options),
            *inputs.join_notes,
            *inputs.unmatched_notes(at),
            *(_mean_notes(pooled["by"]) if shows_means else ()),
        ],
        "exit_code": EXIT_COMPLETE if is_whole else EXIT_ROWS_FAILED,
    }


def _mean_notes(by_group: Mapping[str, Any]) -> list[str]:
    """Why an unweighted mean has no interval."""
    notes = []
    for name, part in by_group.items():
        small, groups = _too_small(part["unweighted_mean"])
        if small:
            notes.append(
                f"--by {name}: the unweighted mean has no interval, because {small} of {groups} groups have fewer than "
                f"{LEAST_UTTERANCES} utterances"
            )
    return notes


def _composite_notes(mean: Mapping[str, Any]) -> list[str]:
    small, files = _too_small(mean)
    if not small:
        return []
    return [
        f"the composite has no interval, because {small} of {files} files {'has' if small == 1 else 'have'} fewer than "
        f"{LEAST_UTTERANCES} utterances"
    ]


def _too_small(mean: Mapping[str, Any]) -> tuple[int, int]:
    """Groups that are too small for an interval, and all of them."""
    return max((mean[f"groups_too_small_in_{rate}"], mean[f"groups_in_{rate}"]) for rate in ("wer", "cer"))
