"""What an observer of a run sees while it goes and when it ends, and how it may end it.

Plain data: `session.Session` alone writes a `Progress`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from asrbatch.pipeline.monitor import StageTimes
from asrbatch.storage.journal import StatusCounts
from asrbatch.storage.paths import RunPaths


@dataclass
class Progress:
    """How far a run is; what an observer shows.

    Attributes:
        total_rows, total_audio_s: of the manifest; the latter None when a row has no duration.
        tally: over all rows written, earlier sessions' included.
        stated_s: seconds that the manifest states for the rows written, failed ones included; NaN where it does not.
        session_rows, session_stated_s, session_audio_s: the same for what this session wrote.
        session_engine_s: by status, seconds that engines worked for the rows this session wrote.
        in_engine, capacity: windows in the engine, and how many it works on at once.
        stage_times: of this session so far.
        startup_s: until the engine was ready.
        workers_died: worker processes that died in this session, or did not start.
    """

    total_rows: int
    total_audio_s: float | None
    tally: StatusCounts
    stated_s: float
    session_rows: int = 0
    session_stated_s: float = 0.0
    session_audio_s: float = 0.0
    session_engine_s: dict[str, float] = field(default_factory=lambda: {"ok": 0.0, "failed": 0.0})
    in_engine: int = 0
    capacity: int = 0
    stage_times: StageTimes = field(default_factory=StageTimes)
    startup_s: float = 0.0
    workers_died: int = 0


class Observer:
    """Told what happens; the default shows nothing."""

    def log(self, line: str) -> None:
        """Something a person should know."""

    def update(self, progress: Progress) -> None:
        """Called a few times a second."""


@dataclass(frozen=True)
class Summary:
    """How a session ended.

    Attributes:
        outcome: `complete`, `interrupted`, or `already_complete` when there was nothing to do.
        exit_code: what the command ends with.
        figures: the completion mark's figures where there is one, the session's otherwise, with what
            all of them took so far.
    """

    paths: RunPaths
    outcome: str
    exit_code: int
    progress: Progress
    figures: dict[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The output rows, in the order they finished."""
        with open(self.paths.rows, encoding="utf-8") as file:
            yield from map(json.loads, file)


class Stoppable(Protocol):
    """A running loop."""

    def request_stop(self) -> None:
        """Lets it end in an orderly way. Safe in a signal handler."""


class Stop:
    """Lets another thread or a signal handler end a run in an orderly way."""

    def __init__(self) -> None:
        self.requested = False
        self._loop: Stoppable | None = None

    def request(self) -> bool:
        """Asks for the end. False when the loop is not running, so that nobody will look."""
        self.requested = True
        if self._loop is None:
            return False
        self._loop.request_stop()
        return True

    @contextmanager
    def attached(self, loop: Stoppable) -> Iterator[None]:
        """A loop that runs inside the block is the one to be stopped."""
        self._loop = loop
        # It may have been requested before there was a loop.
        if self.requested:
            loop.request_stop()
        try:
            yield
        finally:
            self._loop = None
