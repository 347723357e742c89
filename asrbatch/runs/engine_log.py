"""Keeps what vLLM and other libraries print out of the terminal: it goes to the run's log while the engine is up.

File descriptors 1 and 2 point at the log, not `sys.stdout`: C++ libraries and child processes write to them directly.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from asrbatch.engine.engine import likely_fix
from asrbatch.errors import EngineStartError
from asrbatch.storage.files import explained

# Of the log: shown with an engine that did not start, and searched for the reason.
_SHOWN_LINES, _SEARCHED_LINES = 15, 200


@contextmanager
def engine_log(path: Path) -> Iterator[None]:
    """`captured`, and an engine that does not start comes with the end of the log and what usually helps."""
    with captured(path) as start:
        try:
            yield
        except EngineStartError as e:
            lines = _tail(path, start)
            e.add_note("\n".join(lines[-_SHOWN_LINES:]))
            e.add_note(f"the whole log: {path}")
            if fix := likely_fix(e, "\n".join(lines)):
                e.add_note(f"likely fix: {fix}")
            raise


@contextmanager
def captured(path: Path) -> Iterator[int]:
    """Standard output and error go to the end of `path` inside the block; yields where the file ended before."""
    sys.stdout.flush()
    sys.stderr.flush()
    with explained(path):
        # Appending: processes that vLLM starts, and workers, write to the same file at the same time.
        log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    saved = os.dup(1), os.dup(2)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield os.lseek(log, 0, os.SEEK_END)
    finally:
        for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
            _flush(stream, fd)
        for fd, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(log)


def _flush(stream: TextIO, fd: int) -> None:
    """A log that the disk refuses ends no run; what is lost of it must not come out at the terminal instead."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)
        stream.flush()


def _tail(path: Path, start: int) -> list[str]:
    """The last lines written to `path` after byte `start`, without blank ones."""
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return list(deque((line.rstrip() for line in file if line.strip()), maxlen=_SEARCHED_LINES))
