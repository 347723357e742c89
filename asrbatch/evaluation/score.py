"""Scores predictions: word and character error rates over all rows and over groups, with intervals, and how long rows
took.

Knows nothing of how rows are counted (`scoring`) nor of how results are shown.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, UsageError
from asrbatch.evaluation.alignment import aligner
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.references import References, join, resolve
from asrbatch.evaluation.rows import DURATION, NO_VALUE
from asrbatch.evaluation.scoring import ScoreOptions, Scoring, count_all
from asrbatch.evaluation.stats.error_rates import Tally, group_rates, percentiles_s, rates
from asrbatch.evaluation.stats.languages import check_language
from asrbatch.evaluation.stats.significance import COVERAGE, LEAST_UTTERANCES
from asrbatch.evaluation.texts import EXCLUDED, TextRules
from asrbatch.storage.run_files import RunFacts
from asrbatch.version import __version__


def score(path: Path, options: ScoreOptions, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Scores the predictions in a file.

    Args:
        path: absolute; JSON Lines.
        say: told, in one line, how far it is.

    Returns:
        What `--json` prints; see docs/scoring.md.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or no row has a reference.
        OutputError: the file is damaged.
    """
    return score_rows(path, options, say).figures


class Scored(NamedTuple):
    """Predictions scored: the figures, the counts that they are made of, and what can go over the rows again."""

    figures: dict[str, Any]
    tally: Tally
    work: "Scoring"


def score_rows(path: Path, options: ScoreOptions, say: Callable[[str], None], *, needs_rates: bool = True) -> Scored:
    """The same as `score`, with what the figures are made of.

    Args:
        needs_rates: where no row has a reference, refuse; else rates are null then, and there are no groups.
    """
    rules = TextRules(options.normalizer)
    check_language(options.language)
    predictions = Predictions(path, options.pred_field, options.text_field)
    facts = RunFacts(path)
    references, fate, is_partial = resolve(options.references, options.split, facts, len(predictions))
    check_split(options, references)
    is_partial = is_partial or (predictions.torn and references is None)
    joined_by: list[str] = []
    if references is not None:
        (predictions,), references, joined_by = join([predictions], references, [facts.audio_folder])
    language = options.language or facts.language or "en"
    # A row's `lang` is the one spoken; what a translation is held against is written in another.
    written = facts.written_language and (options.language or facts.written_language)
    work = Scoring(predictions, references, rules, language, options, written)
    tally = count_all(work, Tally(), options, say)
    if needs_rates and not tally.total.rows:
        raise UsageError(_why_nothing(path, tally, options.text_field))
    check_groups(tally.groups)
    unmatched = 0 if references is None else len(predictions.without(references.keys))
    by = {name: group_rates(groups, options.resamples, options.seed) for name, groups in tally.groups.items()}
    figures = {
        "asrbatch": __version__,
        "predictions": str(path),
        "pred_field": predictions.pred_field,
        "references": None if references is None else references.source,
        "partial": is_partial,
        **described(rules, tally.normalizers, tally.fell_back, options),
        "total": rates(tally.total, options.resamples, options.seed)[0],
        "excluded": dict(tally.excluded),
        "words_said_in_excluded": dict(tally.excluded_words),
        "failed_kinds": dict(tally.failed_kinds),
        "unmatched_predictions": unmatched,
        "languages": tally.languages.as_dict(),
        "by": by,
        "speed": {**facts.speed(len(predictions)), **_stated_speed(tally)},
        "latency_s": percentiles_s(tally.stages_s),
        "notes": [
            *facts.notes(len(predictions), predictions.torn, fate),
            *predictions.notes(),
            *text_notes(tally, language, options),
            *joined_by,
            *unmatched_notes(unmatched),
            *_mean_notes(by),
        ],
        "exit_code": EXIT_ROWS_FAILED if is_partial or tally.total.failed or tally.total.missing else EXIT_COMPLETE,
    }
    return Scored(figures, tally, work)


def check_split(options: ScoreOptions, references: References | None) -> None:
    """Raises UsageError for a `--split` of no manifest."""
    if options.split is not None and references is None:
        raise UsageError(f"--split {options.split}: is of a manifest, and none is read here; name it with --references")


def check_groups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UsageError for a field that no row has."""
    for name, values in groups.items():
        if name != DURATION and list(values) == [NO_VALUE]:
            raise UsageError(f"--by {name}: no row has it")


def described(
    rules: TextRules, normalizers: Mapping[str, int], fell_back: int, options: ScoreOptions
) -> dict[str, Any]:
    """With what it was counted: whoever has the same of all of these gets the same numbers.

    Args:
        normalizers: rows by the names of their normalisers.
        fell_back: rows that their normaliser could not do.
    """
    return {
        "normalizers": [
            {**rules.normalizer(name).as_dict(), "rows": rows} for name, rows in sorted(normalizers.items())
        ],
        "normalizer_fell_back": fell_back,
        "words": aligner(rules.with_compounds),
        "characters": aligner(False),
        "bootstrap": {"resamples": options.resamples, "seed": options.seed, "coverage": COVERAGE, "unit": "utterance"},
    }


def text_notes(tally: Any, language: str, options: ScoreOptions) -> list[str]:
    """What a person should know about the languages of rows, and about texts that their normaliser could not do.

    Args:
        tally: of `score` or `compare`.
        language: what rows that do not say theirs were taken for.
    """
    notes = tally.languages.notes(language, options.language is None, options.normalizer)
    if tally.fell_back:
        notes.append(
            f"{tally.fell_back} rows hold what their normaliser cannot read; whisper-basic was used for all texts of "
            f"those rows"
        )
    return notes


def unmatched_notes(number: int) -> list[str]:
    return [f"{number} predictions have no reference row and were left out"] if number else []


def _mean_notes(by: Mapping[str, Any]) -> list[str]:
    """Why an unweighted mean has no interval."""
    notes = []
    for name, part in by.items():
        mean = part["unweighted_mean"]
        small, groups = max((mean[f"groups_too_small_in_{rate}"], mean[f"groups_in_{rate}"]) for rate in ("wer", "cer"))
        if small:
            notes.append(
                f"--by {name}: the unweighted mean has no interval, because {small} of {groups} groups have fewer than "
                f"{LEAST_UTTERANCES} utterances"
            )
    return notes


def _stated_speed(tally: Tally) -> dict[str, Any]:
    """The leaderboard's RTFx, of a file whose rows all say `time` and `duration`; nothing otherwise."""
    rows = tally.total.rows + tally.excluded.total() - tally.total.missing
    if not tally.stated_time_us or not tally.stated_duration_us or tally.stated_rows < rows:
        return {}
    return {"rtfx_stated": round(tally.stated_duration_us / tally.stated_time_us, 4)}


def _why_nothing(path: Path, tally: Tally, text_field: str) -> str:
    reasons = ", ".join(f"{rows} rows: {EXCLUDED[reason]}" for reason, rows in tally.excluded.items())
    return (
        f"{path}: no row can be scored ({reasons}); give their manifest with --references, or name the field with "
        f"--text-field "
        f"(now {text_field}); two runs without references can be compared with asrbatch compare"
    )
