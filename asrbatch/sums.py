"""Counts of parts of a file that add up to those of the file."""

from dataclasses import dataclass, fields
from typing import Self


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
