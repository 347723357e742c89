"""Counts that add up: those of the parts of a file are those of the file, in whatever order."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from heapq import nsmallest
from typing import Any, Self, TypeVar

from asrbatch.errors import UsageError

# Some 2 kB each; a field with more values than this names rows, not groups.
MOST_GROUPS = 100_000


@dataclass
class Sums:
    """A dataclass whose fields are all numbers, or have an `update` that adds: Counters, other Sums."""

    def update(self, other: Self) -> None:
        """Adds what was counted over another part."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, int | float):
                setattr(self, each.name, mine + theirs)
            else:
                mine.update(theirs)


AnySums = TypeVar("AnySums", bound=Sums)


class Groups(dict[str, dict[str, AnySums]]):
    """Counts of the rows of each group: by field, then by its value.

    Args:
        new: counts of nothing.
    """

    def __init__(self, new: Callable[[], AnySums]):
        super().__init__()
        self._new = new

    def counts_of(self, values: Mapping[str, list[str]]) -> Iterator[AnySums]:
        """The counts that a row belongs to, which has these values by field.

        Raises:
            UsageError: a field has more values than can be kept.
        """
        for name, of_row in values.items():
            for value in of_row:
                yield self._counts(name, value)

    def update(self, other: "Groups[AnySums]") -> None:
        """Adds what was counted over another part. Raises UsageError as `counts_of` does."""
        for name, groups in other.items():
            for value, counts in groups.items():
                # The bound is on all parts together, not on each of them.
                self._counts(name, value).update(counts)

    def in_order(self, name: str) -> Iterator[tuple[str, AnySums]]:
        """The groups of a field: values that begin with a number by it, then the others, those without one last."""
        return iter(sorted(self[name].items(), key=lambda group: group_order(group[0])))

    def _counts(self, name: str, value: str) -> AnySums:
        of_field = self.setdefault(name, {})
        if value not in of_field:
            if len(of_field) >= MOST_GROUPS:
                raise UsageError(f"--by {name}: more than {MOST_GROUPS} different values; name a field that rows share")
            of_field[value] = self._new()
        return of_field[value]


class LargestItems:
    """The items with the largest sizes, the largest first, of equals by name.

    Args:
        most: so many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._ranked: list[tuple[int, str, Any]] = []  # minus size, name, item

    def add(self, size: int, name: str, item: Any) -> None:
        self._ranked.append((-size, name, item))
        # An item holds texts, of long recordings perhaps: not many more than are wanted are ever in memory.
        if len(self._ranked) > 2 * self._most + 100:
            self._ranked = self.ranked()

    def update(self, other: "LargestItems") -> None:
        """Adds what was found in another part."""
        self._ranked += other._ranked
        self._ranked = self.ranked()

    def ranked(self) -> list[tuple[int, str, Any]]:
        """Minus size, name and item of each."""
        # By names of rows: items cannot be compared.
        return nsmallest(self._most, self._ranked, key=lambda ranked: ranked[:2])


def group_order(value: str) -> tuple[int, float, str]:
    """What values are sorted by: those that begin with a number by it, then the others, `(none)` last."""
    number = value.removeprefix("< ").split(" ")[0]
    if value.startswith("("):
        return 2, 0.0, value
    try:
        # `< 2 s` stands before `2 to 5 s`, which begins with the same number.
        found = float(number) - (0.5 if value.startswith("< ") else 0)
    except ValueError:
        found = math.nan
    return (0, found, value) if math.isfinite(found) else (1, 0.0, value)
