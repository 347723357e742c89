"""What an observer of a run sees while it goes and when it ends, and how it may end it.

Plain data: `session.Session` alone writes a `Progress`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from asrbatch.formatting import printable
from asrbatch.pipeline.monitor import StageTimes
from asrbatch.pipeline.result import flat_row
from asrbatch.storage.journal import StatusCounts
from asrbatch.storage.paths import RunPaths, short_path


@dataclass
class Progress:
    """How far a run is; what an observer shows.

    Attributes:
        total_rows, total_audio_s: of the manifest; the latter None when a row has no duration.
        tally: over all rows written, earlier sessions' included.
        stated_s: seconds that the manifest states for the rows written, failed ones included; NaN where it does not.
        session_rows, session_stated_s, session_audio_s: the same for what this session wrote.
        session_engine_s: by status, seconds that engines worked for the rows this session wrote.
        open_s: seconds that are answered of rows which are not written yet; of each at most what the manifest states.
        open_rows: the same as parts of rows, as far as their files say how long they are: 0.5 for half of one.
        in_engine, capacity: windows in the engine, and how many it works on at once.
        stage_times: of this session so far.
        startup_s: until the engine was ready.
        startup_steps: what it took of that for each step.
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
    open_s: float = 0.0
    open_rows: float = 0.0
    in_engine: int = 0
    capacity: int = 0
    stage_times: StageTimes = field(default_factory=StageTimes)
    startup_s: float = 0.0
    startup_steps: dict[str, float] = field(default_factory=dict)
    workers_died: int = 0


class Observer:
    """Told what happens; the default shows nothing."""

    def log(self, line: str) -> None:
        """Something a person should know."""

    def starting(self, step: str, seconds: float) -> None:
        """Called when start-up begins a step, and about once a second while it lasts, as far as we can.

        Args:
            step: such as `loading the model`.
            seconds: since it began.
        """

    def update(self, progress: Progress) -> None:
        """Called a few times a second, once the first row can be transcribed."""


class StartUp:
    """Names the steps until the first row can be transcribed to an observer, and clocks them.

    Attributes:
        began_at: by `time.monotonic`.
        steps: seconds of each that is over.
    """

    def __init__(self, observer: Observer):
        self._observer = observer
        self.began_at = time.monotonic()
        self.steps: dict[str, float] = {}
        self._step, self._step_began_at = "", self.began_at

    def begin(self, step: str) -> None:
        """Another step begins. May be called in another thread than the observer is told in."""
        now = time.monotonic()
        if self._step:
            self.steps[self._step] = self.steps.get(self._step, 0.0) + now - self._step_began_at
        self._step, self._step_began_at = step, now

    def tell(self, detail: str = "") -> None:
        """Tells the observer where it is.

        Args:
            detail: how far it is with the step.
        """
        if self._step:
            said = f"{self._step}, {detail}" if detail else self._step
            self._observer.starting(said, time.monotonic() - self._step_began_at)

    def say(self, step: str) -> None:
        """Another step begins, and the observer is told."""
        self.begin(step)
        self.tell()


@dataclass(frozen=True, repr=False)
class Summary:
    """How a session ended.

    For example `Summary(complete: 120 of 120 rows, 0 failed, RTFx 31.2, run/out.jsonl)`.

    Attributes:
        paths: the run's files; `paths.rows` has the output rows.
        outcome: `complete`, `interrupted`, or `already_complete` when there was nothing to do.
        exit_code: what the command ends with.
        progress: how far the run is.
        figures: the completion mark's figures where there is one, the session's otherwise, with what
            all of them took so far.
    """

    paths: RunPaths
    outcome: str
    exit_code: int
    progress: Progress
    figures: dict[str, Any]

    def __repr__(self) -> str:
        tally = self.progress.tally
        parts = [
            f"{self.outcome.replace('_', ' ')}: {tally.rows} of {self.progress.total_rows} rows",
            f"{tally.failed} failed",
        ]
        if speed := self.figures.get("rtfx_engine"):
            parts.append(f"RTFx {speed:.1f}")
        return f"Summary({', '.join(parts)}, {printable(short_path(self.output))})"

    @property
    def output(self) -> Path:
        """The rows file, absolute."""
        return self.paths.rows

    def rows(self, *, flat: bool = False) -> Iterator[dict[str, Any]]:
        """The output rows, in the order they finished, as they stand in the file.

        Args:
            flat: for a table: `error` and `timing` as columns such as `error.kind` and `timing.engine`, so that
                `pandas.DataFrame(summary.rows(flat=True))` has a number or a text in each of them.
        """
        return output_rows(self.output, flat=flat)


def output_rows(path: Path, *, flat: bool) -> Iterator[dict[str, Any]]:
    """The rows of a file that is complete; see `Summary.rows`."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield flat_row(row) if flat else row


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
