"""Compares two files of predictions row by row: over the same references, or, where there are none, with each other.

Rows are paired by id. What one of two runs over the same manifest lacks counts as an empty hypothesis, as in `score`.
With references A and B are treated alike: swapping them mirrors every number. Without references A's prediction is
taken for the reference: how far B is from A, not which is better.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from asrbatch.evaluation.options import CompareOptions, ScoreOptions
from asrbatch.evaluation.pair_counter import SIDES, PairCounter
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import FoundReferences, find_references, join
from asrbatch.evaluation.stats.languages import check_language
from asrbatch.evaluation.stats.paired_counts import PairTally
from asrbatch.evaluation.text_rules import TextRules
from asrbatch.formatting import show
from asrbatch.languages import primary
from asrbatch.storage.run_files import RunFacts
from asrbatch.version import __version__


def compare(
    a: Path, b: Path, options: CompareOptions, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Compares the predictions in two files.

    Args:
        a, b: absolute; JSON Lines.
        log: gets a line now and then about how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or the files are of different manifests.
        OutputError: a file is damaged, or the references of the two differ.
    """
    scoring = options.scoring
    rules = TextRules(scoring.normalizer)
    check_language(scoring.language)
    files = [Predictions(path, scoring.pred_field, scoring.text_field) for path in (a, b)]
    runs = [RunFacts(path) for path in (a, b)]
    _refuse_pairs_by_line(files)
    # A row that only one of them has may be missing from the other: it counts as empty, if both should have it.
    if not options.common:
        _refuse_different_rows(files, runs)
    found = _find_references(scoring, files, runs, options.common)
    references = next((each.references for each in found if each.references is not None), None)
    check_split(scoring, references)
    files, references, join_notes = join(files, references, [run.audio_folder for run in runs])
    language = scoring.language or _language_of_runs(files, runs) or "en"
    counter = PairCounter(files, references, rules, language, options, _written_language(scoring, files, runs))
    tally = count_all(counter, PairTally.keeping(options.shown), scoring, log)
    if not tally.total.rows:
        raise UsageError(_why_nothing(a, b, tally))
    check_groups(tally)
    unmatched = [0 if references is None else len(file.without(references.keys)) for file in files]
    # With --common a row that only one of the files has does not count, so a torn one leaves no gap either.
    is_partial = references is None and (
        any(each.is_partial for each in found) or (any(file.torn for file in files) and not options.common)
    )
    is_whole = not (is_partial or tally.failed.total() or tally.missing.total())
    draws = scoring.resamples, scoring.seed, counter.has_references
    return {
        "asrbatch": __version__,
        "a": _file_as_dict("a", files[0], tally, unmatched[0]),
        "b": _file_as_dict("b", files[1], tally, unmatched[1]),
        "against": "references" if counter.has_references else "a",
        "references": None if references is None else references.source,
        "partial": is_partial,
        **rules_as_dict(rules, tally, scoring),
        "total": tally.total.as_dict(*draws),
        "same_text": tally.same_text,
        "same_normalized": tally.same_normalized,
        "languages": tally.languages.as_dict(),
        "excluded": dict(tally.excluded),
        "left_out": tally.left_out,
        **_changes(tally, counter.has_references),
        "by": tally.by_group(*draws),
        "notes": [
            *(
                f"{side.upper()}: {note}"
                for side, file, run, each, left in zip(SIDES, files, runs, found, unmatched, strict=True)
                for note in (*run.notes(len(file), file.torn, each.fate), *file.notes(), *unmatched_notes(left))
            ),
            *join_notes,
            *text_notes(tally, language, scoring),
        ],
        "exit_code": EXIT_COMPLETE if is_whole else EXIT_ROWS_FAILED,
    }


def _find_references(
    scoring: ScoreOptions, files: list[Predictions], runs: list[RunFacts], common: bool
) -> list[FoundReferences]:
    """What to compare over: a manifest that was given, or that of runs which are not complete."""
    # Rows in common need no manifest: what neither or only one of them has is not counted.
    if scoring.references is not None:
        return [find_references(scoring.references, scoring.split, runs[0], len(files[0]))] * 2
    if common or not any(file.num_references for file in files):
        return [FoundReferences(None, "", False)] * 2
    return [find_references(None, scoring.split, run, len(file)) for run, file in zip(runs, files, strict=True)]


def _language_of_runs(files: list[Predictions], runs: list[RunFacts]) -> str | None:
    """What the runs were told to take rows for. Raises UsageError where they were told different languages."""
    told = [run.language for run in runs]
    if None not in told and primary(told[0]) != primary(told[1]):
        raise UsageError(
            f"{files[0].path} was told that rows are {show(told[0])}, {files[1].path} that they are {show(told[1])}; "
            "say which counts for scoring with --language"
        )
    # A run that was told nothing contradicts nobody.
    return told[0] or told[1]


def _written_language(scoring: ScoreOptions, files: list[Predictions], runs: list[RunFacts]) -> str | None:
    """The language that translations are written in; None of two transcripts, and where no record tells.

    Raises:
        UsageError: only one was translated, or the two into different languages, and `--language` does not settle it.
    """
    if "translate" not in (tasks := [run.task for run in runs]):
        return None
    if scoring.language:
        return scoring.language
    into = [run.written_language for run in runs]
    if None not in tasks and into[0] != into[1]:
        did = [
            "transcribed" if task != "translate" else f"translated into {show(lang)}" if lang else "translated"
            for task, lang in zip(tasks, into, strict=True)
        ]
        raise UsageError(
            f"{files[0].path} was {did[0]}, {files[1].path} was {did[1]}: their texts are written in different "
            "languages; --language says which one to take both for"
        )
    return into[0] if into[0] == into[1] else None


def _refuse_pairs_by_line(files: list[Predictions]) -> None:
    for file in files:
        if file.num_by_line:
            raise UsageError(
                f"{file.path}: {file.num_by_line} rows have neither an id nor audio_filepath, and pairing them by line "
                "would be a guess; give them ids"
            )


def _refuse_different_rows(files: list[Predictions], runs: list[RunFacts]) -> None:
    covers = [run.covers for run in runs]
    names = " and ".join(str(file.path) for file in files)
    if None not in covers:
        # Over the same rows of one manifest, what one of the runs lacks is known to be missing, and counts as empty.
        if covers[0] != covers[1]:
            raise UsageError(
                f"{names}: are of different manifests, or of different chunks; --common compares the rows both have"
            )
        return
    only = [len(files[0].without(files[1].keys)), len(files[1].without(files[0].keys))]
    if any(only):
        raise UsageError(
            f"{names}: do not have the same rows ({only[0]} only in the first, {only[1]} only in the second), and "
            "without run records beside both it is unknown whether they should; --common compares the rows both have"
        )


def _file_as_dict(side: str, file: Predictions, tally: PairTally, unmatched: int) -> dict[str, Any]:
    return {
        "predictions": str(file.path),
        "pred_field": file.pred_field,
        "failed": tally.failed[side],
        "missing": tally.missing[side],
        "unmatched_predictions": unmatched,
    }


def _changes(tally: PairTally, has_references: bool) -> dict[str, list[dict[str, Any]]]:
    """Without references no change is for the better, and all of them are differences."""
    if not has_references:
        return {"most_different": tally.got_worse.as_list()}
    return {"got_worse": tally.got_worse.as_list(), "got_better": tally.got_better.as_list()}


def _why_nothing(a: Path, b: Path, tally: PairTally) -> str:
    left_out = [f"{tally.left_out} rows are in one of them only"] if tally.left_out else []
    return f"{a} and {b}: there is nothing to compare ({', '.join([*reasons(tally), *left_out])})"
