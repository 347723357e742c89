"""Where a run's wall time goes, and whether the engine still answers. Standard library and our errors only."""

import time
from dataclasses import dataclass
from typing import NamedTuple

from asrbatch.errors import EngineDiedError
from asrbatch.timeouts import running_s


@dataclass
class StageTimes:
    """Where a run's wall time went; seconds.

    Attributes:
        wall: from the loop's start to its end.
        engine: of those, how long the engine held at least one window.
        full: of those, how long it held as many windows as it works on at once.
        read, prepare: summed over the preprocess threads, beside the engine.
        write: spent writing rows.
        encoded_again: no time, but windows that were encoded a second time for their words.
    """

    wall: float = 0.0
    engine: float = 0.0
    full: float = 0.0
    read: float = 0.0
    prepare: float = 0.0
    write: float = 0.0
    encoded_again: int = 0

    @property
    def engine_idle(self) -> float:
        """How long the engine had nothing to do."""
        # Of several devices, wall time is the parent's clock and engine time that of the workers: it may be a bit more.
        return max(0.0, self.wall - self.engine)


class Answered(NamedTuple):
    """How far a recording is whose row is not written yet.

    Attributes:
        answered_s: seconds of it whose windows are answered.
        expected_s: seconds that it should have, by its file; None where that does not tell.
    """

    answered_s: float
    expected_s: float | None


class EngineMonitor:
    """Watches one engine; used by the loop alone.

    Attributes:
        share_s: a window's part of the time that the engine held it, as the difference of two readings: each second is
            shared evenly among the windows that it holds, so that all parts add up to `times.engine`.

    Args:
        capacity: windows it works on at once.
        hang_timeout_s: seconds it may hold windows and answer none before it is taken for dead.
    """

    def __init__(self, capacity: int, hang_timeout_s: float):
        self.times, self.share_s = StageTimes(), 0.0
        self._capacity, self._hang_timeout_s = capacity, hang_timeout_s
        self._in_engine = 0
        self.start()

    def start(self) -> None:
        """Time from here on counts."""
        self._tracked_at, self._answered_at = time.monotonic(), running_s()

    def track(self, decoding: int, aligning: int = 0, *, is_answer: bool = False) -> None:
        """Adds the time since the last call under the load there was; call before each change of it.

        Args:
            decoding, aligning: windows in the engine until now, and those whose words it is yet to time.
            is_answer: one of them has just been answered.
        """
        now = time.monotonic()
        elapsed, self._tracked_at, self._in_engine = now - self._tracked_at, now, decoding + aligning
        self.times.wall += elapsed
        if self._in_engine:
            self.times.engine += elapsed
            self.share_s += elapsed / self._in_engine
        if decoding >= self._capacity:
            self.times.full += elapsed
        # An engine that holds nothing owes no answer: waiting for slow audio is no hang.
        if is_answer or not self._in_engine:
            self._answered_at = running_s()

    def check_for_hang(self) -> None:
        """A GPU that hangs holds its requests for ever, and nobody says so. To be called when no answer waits."""
        if running_s() - self._answered_at > self._hang_timeout_s and self._in_engine:
            since = f"has answered none for {self._hang_timeout_s:g} s (--hang-timeout)"
            raise EngineDiedError(f"the engine hangs: it holds {self._in_engine} windows and {since}")
