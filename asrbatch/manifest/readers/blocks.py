"""Any place in what can only be read forwards: blocks of text, batches of a table.

Knows nothing of what a block is but how long it is.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sized
from typing import Any


class ForwardBlocks:
    """Blocks by the places in them; the last few are kept. From any thread.

    Args:
        walk: (start, block) in order, from the block that `entry` names on to the end.
        entry: where a walk that is to find a place begins.
        most_kept: blocks that are kept.
    """

    def __init__(self, walk: Callable[[int], Iterator[tuple[int, Sized]]], entry: Callable[[int], int], most_kept: int):
        self._new_walk, self._entry, self._most_kept = walk, entry, most_kept
        self._kept: OrderedDict[int, Any] = OrderedDict()  # by start; the last used one last
        self._walk: Iterator[tuple[int, Any]] = iter(())
        self._next = -1  # where the walk's next block starts; -1 where it cannot go on
        self._lock = threading.Lock()

    def find(self, place: int) -> tuple[int, Any] | None:
        """(start, block) of the block with that place; None behind the end. Raises what a walk raises."""
        with self._lock:
            for start, block in self._kept.items():
                if start <= place < start + len(block):
                    self._kept.move_to_end(start)
                    return start, block
            # Mostly places come in order: then the walk goes on. Not backwards, nor where an entry is nearer.
            if not self._entry(place) <= self._next <= place:
                self._walk, self._next = self._new_walk(place), self._entry(place)
            end, self._next = self._next, -1  # until this has worked
            for start, block in self._walk:
                end = start + len(block)
                # Several threads read rows that are near each other, not at the same place.
                self._kept[start] = block
                if len(self._kept) > self._most_kept:
                    self._kept.popitem(last=False)
                if place < end:
                    self._next = end
                    return start, block
            self._next = end
            return None
