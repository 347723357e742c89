"""Every problem of a manifest in one file, a JSON line each, in the order of finding.

Problems come in any order and from any thread; memory does not grow with their number. Knows nothing of how they are
found."""

import shutil
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from asrbatch.storage.files import explained, json_bytes, replacing
from asrbatch.types import Issue


class ProblemFile:
    """Collects problems, then writes them all; what it has to put on disk meanwhile is gone when it is closed.

    Attributes:
        num_problems: added so far.

    Args:
        path: absolute. Nothing is there, or what was there before, until `write`; its folder is made with the first
            problem.
    """

    def __init__(self, path: Path):
        self.path, self.num_problems = path, 0
        self._file: BinaryIO | None = None  # has no name: nothing is left behind whatever happens
        self._refused: OSError | None = None  # by the disk; told by `write`, so that no problem is hidden by this one
        self._lock = threading.Lock()

    def add(self, problem: Issue) -> None:
        """From any thread."""
        line = json_bytes(problem._asdict()) + b"\n"
        with self._lock:
            self.num_problems += 1
            try:
                if self._refused is None:
                    self._open().write(line)
            # Not raised here, in a reader's thread: the problem of the manifest matters more than where it is listed.
            except OSError as e:
                self._refused = e

    def write(self) -> None:
        """Replaces `path` by all problems; once. Raises OutputError: the disk refused."""
        with explained(self.path):
            if self._refused is not None:
                raise self._refused
            found = self._open()
            found.seek(0)
            with replacing(self.path) as file:
                shutil.copyfileobj(found, file)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.path.parent)
        return self._file

    def close(self) -> None:
        """Forgets what is not written."""
        if self._file is not None:
            self._file.close()
