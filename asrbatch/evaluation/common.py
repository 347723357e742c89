"""What `score` and `compare` share: counting rows in processes, checks of options, what a result says of its rules.

Knows nothing of how one row, or a pair of rows, is counted.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from asrbatch.errors import UsageError
from asrbatch.evaluation.alignment import aligner
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.pair_counter import PairCounter
from asrbatch.evaluation.references import References
from asrbatch.evaluation.row_counter import RowCounter
from asrbatch.evaluation.row_fields import DURATION, NO_VALUE
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.stats.paired_counts import PairTally
from asrbatch.evaluation.stats.significance import COVERAGE
from asrbatch.evaluation.text_rules import EXCLUDED, TextRules
from asrbatch.parallel import over_rows

# As often as a run says in a SLURM log how far it is.
_LOG_EVERY_S = 30.0
AnyTally = TypeVar("AnyTally", Tally, PairTally)


def count_all(
    counter: RowCounter | PairCounter, tally: AnyTally, options: ScoreOptions, log: Callable[[str], None]
) -> AnyTally:
    """Adds to `tally` what `counter` counts over all rows, and returns it."""
    logged = time.monotonic()
    for stop, part in over_rows(counter, len(counter), options.num_processes):
        tally.update(part)
        if time.monotonic() - logged >= _LOG_EVERY_S:
            logged = time.monotonic()
            log(f"{stop} of {len(counter)} rows counted")
    return tally


def check_groups(tally: Tally | PairTally) -> None:
    """Raises UsageError for a field that no row has."""
    for name, values in tally.groups.items():
        # Bins of duration are no field of a row, and a report asks for them whatever its rows say.
        if name != DURATION and list(values) == [NO_VALUE]:
            raise UsageError(f"--by {name}: no row has it")


def check_split(options: ScoreOptions, references: References | None) -> None:
    """Raises UsageError for a `--split` of no manifest."""
    if options.split is not None and references is None:
        raise UsageError(f"--split {options.split}: is of a manifest, and none is read here; name it with --references")


def rules_as_dict(rules: TextRules, tally: Tally | PairTally, options: ScoreOptions) -> dict[str, Any]:
    """With what it was counted: whoever has the same of all of these gets the same numbers."""
    return {
        "normalizers": [
            {**rules.normalizer(name).as_dict(), "rows": rows} for name, rows in sorted(tally.normalizers.items())
        ],
        "normalizer_fell_back": tally.fell_back,
        "words": aligner(rules.with_compounds),
        "characters": aligner(False),
        "bootstrap": {"resamples": options.resamples, "seed": options.seed, "coverage": COVERAGE, "unit": "utterance"},
    }


def text_notes(tally: Tally | PairTally, language: str, options: ScoreOptions) -> list[str]:
    """What a person should know about the languages of rows, and about texts that their normaliser could not do.

    Args:
        language: what rows that do not say theirs were taken for.
    """
    notes = tally.languages.notes(language, options.language is None, options.normalizer)
    if tally.fell_back:
        notes.append(
            f"{tally.fell_back} rows hold what their normaliser cannot read; whisper-basic was used for all texts of "
            "those rows"
        )
    return notes


def unmatched_notes(number: int) -> list[str]:
    return [f"{number} predictions have no reference row and were left out"] if number else []


def reasons(tally: Tally | PairTally) -> list[str]:
    """Why rows were not counted."""
    return [f"{rows} rows: {EXCLUDED[reason]}" for reason, rows in tally.excluded.items()]
