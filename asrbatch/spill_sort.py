"""Sorts more lines than memory holds: sorted blocks go to temporary files, which are merged. Standard library only."""

import heapq
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

BLOCK_LINES = 500_000  # some 100 MB in memory; a hundred million lines are 200 open files


class SpillSort:
    """Takes lines in any order and gives them back sorted; equal ones in the order they came.

    Args:
        key: of a line; what lines are compared by.
        folder: where the temporary files go; they have no names, so nothing is left behind whatever happens.

    Raises (from every method): OSError when the disk refuses.
    """

    def __init__(self, key: Callable[[bytes], Any], folder: Path, block_lines: int = BLOCK_LINES):
        self._key = key
        self._folder = folder
        self._block_lines = block_lines
        self._block: list[bytes] = []
        self._spilled: list[BinaryIO] = []
        self._files = ExitStack()

    def add(self, line: bytes) -> None:
        """`line` ends in the only newline it has."""
        self._block.append(line)
        if len(self._block) >= self._block_lines:
            self._block.sort(key=self._key)
            file = self._files.enter_context(tempfile.TemporaryFile(dir=self._folder))
            file.writelines(self._block)
            self._spilled.append(file)
            self._block = []

    def sorted(self) -> Iterator[bytes]:
        """All lines; once, after the last `add`."""
        self._block.sort(key=self._key)
        for file in self._spilled:
            file.seek(0)
        return heapq.merge(*self._spilled, self._block, key=self._key)

    def __enter__(self) -> "SpillSort":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()
