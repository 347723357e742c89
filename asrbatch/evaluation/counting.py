"""Counts rows in several processes, and says with what they were counted. Knows nothing of how results are shown."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar

from asrbatch.errors import UsageError
from asrbatch.evaluation.alignment import aligner
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.row_fields import DURATION, NO_VALUE
from asrbatch.evaluation.rows import ScoredRow, ScoredRows
from asrbatch.evaluation.stats.error_rates import TextTally
from asrbatch.evaluation.stats.significance import COVERAGE
from asrbatch.parallel import over_rows

# As often as a run says in a SLURM log how far it is.
_LOG_EVERY_S = 30.0


class RowTally(Protocol):
    """What is counted over a part of the rows; `groups` by field, then by its value."""

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]: ...

    def add(self, row: ScoredRow, groups: Mapping[str, list[str]]) -> None:
        """Counts one row, which is in these groups, by field."""

    def update(self, other: Self) -> None:
        """Adds what was counted over another part."""


AnyTally = TypeVar("AnyTally", bound=RowTally)


def count_rows(rows: ScoredRows, new_tally: Callable[[], AnyTally], log: Callable[[str], None]) -> AnyTally:
    """What a tally counts over all rows."""

    def count(start: int, stop: int) -> AnyTally:
        part = new_tally()
        for row in rows.read(start, stop):
            part.add(row, {} if row.texts.excluded else rows.groups_of(row))
        return part

    tally, logged = new_tally(), time.monotonic()
    for stop, part in over_rows(count, len(rows), rows.inputs.options.num_processes):
        tally.update(part)
        if time.monotonic() - logged >= _LOG_EVERY_S:
            logged = time.monotonic()
            log(f"{stop} of {len(rows)} rows counted")
    return tally


def refuse_unknown_groups(tally: RowTally) -> None:
    """Raises UsageError for a field of `--by` that no row has."""
    for name, values in tally.groups.items():
        # Bins of duration are no field of a row, and a report asks for them whatever its rows say.
        if name != DURATION and list(values) == [NO_VALUE]:
            raise UsageError(f"--by {name}: no row has this field")


def how_counted(inputs: EvaluationInputs, tally: TextTally) -> dict[str, Any]:
    """Against what and by which rules: whoever has the same of all of these gets the same numbers."""
    options, rules = inputs.options, inputs.rules
    bootstrap = {"resamples": options.resamples, "seed": options.seed, "coverage": COVERAGE, "unit": "utterance"}
    return {
        "references": None if inputs.references is None else inputs.references.source,
        "partial": inputs.is_partial,
        "normalizers": [
            {**rules.normalizer(name).as_dict(), "rows": rows} for name, rows in sorted(tally.normalizers.items())
        ],
        "normalizer_fell_back": tally.fell_back,
        "words": aligner(rules.with_compounds),
        "characters": aligner(False),
        "bootstrap": bootstrap,
    }
