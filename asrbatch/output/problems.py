"""Every problem of a manifest in one file, a JSON line each, in the order of its rows.

Problems come in any order and from any thread; memory does not grow with their number. Knows nothing of how they are found.
"""

import threading
from pathlib import Path
from types import TracebackType

from ..spill_sort import SpillSort
from ..types import Problem
from .files import explained, json_bytes, replacing

_BLOCK_LINES = 50_000  # some 20 MB
_ROW_DIGITS = 20


class ProblemFile:
    """Collects problems, then writes them all. A context manager: what it had to put on disk meanwhile ends with it.

    Attributes:
        num_problems: added so far.

    Args:
        path: absolute. Nothing is there, or what was there before, until `write`; its folder is made with the first problem.
    """

    def __init__(self, path: Path):
        self.path, self.num_problems = path, 0
        self._sort = SpillSort(lambda line: line[:_ROW_DIGITS], path.parent, _BLOCK_LINES)
        self._refused: OSError | None = None  # by the disk; told by `write`, so that no problem is hidden by this one
        self._lock = threading.Lock()

    def add(self, problem: Problem) -> None:
        """From any thread. Problems of one row stay in the order they come."""
        line = b"%0*d%s\n" % (_ROW_DIGITS, problem.row, json_bytes(problem._asdict()))
        with self._lock:
            self.num_problems += 1
            try:
                if self.num_problems == 1:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._refused is None:
                    self._sort.add(line)
            except OSError as e:
                self._refused = e

    def write(self) -> None:
        """Replaces `path` by all problems, in the order of their rows; once. Raises OutputError: the disk refused."""
        with explained(self.path):
            if self._refused is not None:
                raise self._refused
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                for line in self._sort.sorted():
                    file.write(line[_ROW_DIGITS:])

    def __enter__(self) -> "ProblemFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sort.__exit__(kind, error, trace)
