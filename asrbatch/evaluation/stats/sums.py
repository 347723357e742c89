"""Counts of parts of a file that add up to those of the file.

Counts of the rows of each group, which add up over the parts of a file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Self, TypeVar

from asrbatch.errors import UsageError


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


# Some 2 kB each; a field with more values than this names rows, not groups.
MOST_GROUPS = 100_000

AnySums = TypeVar("AnySums", bound=Sums)


class Groups(dict[str, dict[str, AnySums]]):
    """By field, then by its value.

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

    def merge(self, other: "Groups[AnySums]") -> None:
        """Adds what was counted over another part. Raises UsageError as `counts_of` does."""
        for name, groups in other.items():
            for value, counts in groups.items():
                self._counts(name, value).update(counts)

    def _counts(self, name: str, value: str) -> AnySums:
        of_field = self.setdefault(name, {})
        if value not in of_field:
            if len(of_field) >= MOST_GROUPS:
                raise UsageError(f"--by {name}: more than {MOST_GROUPS} different values; name a field that rows share")
            of_field[value] = self._new()
        return of_field[value]
