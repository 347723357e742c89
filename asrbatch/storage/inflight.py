"""Which rows were in the engine when it died, so that one poisonous row cannot stop a run for ever.

A row's index is appended here before its first window is submitted; those not in the rows file at the next start were
in flight. A row that was in flight at `RUN_ALONE_AFTER` deaths is run when nothing else is, and if the engine dies
once more, the row becomes `engine_crash`. A session that was killed from outside looks the same as a death of an
engine that lives in our process, and counts; that costs such rows some company, never their transcript, unless it
happens to the same row three times.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from asrbatch.storage.files import explained

RUN_ALONE_AFTER = 2
GIVE_UP_AFTER = 3


class InFlightLog:
    """Append-only list of row indices taken by this session; replaces the last session's.

    A new file: what a former holder of the lease may still add, should it wake up, lands in the old one.
    """

    def __init__(self, path: Path):
        self._path = path
        with explained(path):
            path.unlink(missing_ok=True)
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)

    def add(self, index: int) -> None:
        with explained(self._path):
            # No fsync: the log is for a process that died, and what was written survives that.
            os.write(self._fd, b"%d\n" % index)

    def keep_only(self, indexes: Iterable[int]) -> None:
        """Forgets all but these: the others came back from an engine whose death has been counted."""
        with explained(self._path):
            os.ftruncate(self._fd, 0)
            os.write(self._fd, b"".join(b"%d\n" % index for index in indexes))

    def close(self, *, remove: bool) -> None:
        with explained(self._path):
            os.close(self._fd)
            if remove:
                self._path.unlink(missing_ok=True)


def update_deaths(record: dict[str, Any] | None, path: Path, finished: bytearray) -> dict[int, int]:
    """Deaths of the engine by row index, brought up to date with how the last session ended.

    Args:
        record: the run record before this session; None for a new run.
        path: the last session's in-flight log.
        finished: 1 for every row in the rows file.
    """
    if not record:
        return {}
    deaths = {int(i): n for i, n in record.get("engine_deaths", {}).items()}
    last = record["sessions"][-1] if record["sessions"] else None
    # None: killed before it could say how it ended, which is also what a death in our own process looks like.
    if last and last["outcome"] in (None, "engine_died"):
        for index in _unfinished(path, finished):
            deaths[index] = deaths.get(index, 0) + 1
    # Of a row that was written since, nobody asks any more.
    return {i: n for i, n in deaths.items() if i < len(finished) and not finished[i]}


def _unfinished(path: Path, finished: bytearray) -> set[int]:
    """Rows of the log that have no output row; few, however long the log."""
    found = set()
    with explained(path), suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and line[:-1].isdigit():  # else torn: the row was not submitted yet
                index = int(line)
                if index < len(finished) and not finished[index]:
                    found.add(index)
    return found
