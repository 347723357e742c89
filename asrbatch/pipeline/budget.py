"""Backpressure: how much may be between the manifest and the output at any time, and waiting for it.

Two parties take of the budget. The loop reserves for a row before it hands it to the preprocess pool; a reservation
holds no audio. A preprocess thread takes for each window before it computes its features, for a row's first window in
place of the reservation; that is released when the window's answer is there. A thread waits for windows in the engine
only, never for reservations, so that long recordings in all threads and short rows behind them cannot wait for each
other.
"""

import threading
from dataclasses import dataclass

from asrbatch.config import RunConfig
from asrbatch.engine.base import Engine


class Budget:
    """Counts windows and their seconds of audio; safe in any thread.

    Args:
        windows: most windows, taken and reserved.
        audio_s: seconds of audio; reached, no more is taken. The last window taken may exceed it.
    """

    def __init__(self, windows: int, audio_s: float):
        self._most_windows, self._most_audio_s = windows, audio_s
        self._windows = self._reserved = 0
        self._audio_s = self._reserved_s = 0.0
        self._changed = threading.Condition()
        self._closed = False

    def has_capacity(self) -> bool:
        """Whether another row may be reserved for."""
        with self._changed:
            # An empty engine takes any row, or one longer than the bound would wait for ever.
            windows, seconds = self._windows + self._reserved, self._audio_s + self._reserved_s
            # With nothing under way there is always room: what is longer than all of it must be done, too.
            return not windows or (windows < self._most_windows and seconds < self._most_audio_s)

    def reserve(self, audio_s: float) -> None:
        """A row waits for its turn, with so many seconds in its first window."""
        with self._changed:
            self._reserved += 1
            self._reserved_s += audio_s

    def unreserve(self, audio_s: float) -> None:
        """The row will take nothing, or nothing any more."""
        with self._changed:
            self._reserved -= 1
            self._reserved_s -= audio_s

    def take(self, audio_s: float, *, reserved_s: float | None = None, timeout_s: float | None = None) -> bool:
        """Waits until there is capacity for one window. False when there was none in time, or `close` was called.

        Args:
            reserved_s: what was reserved for its row, which this takes the place of; None when nothing was.
            timeout_s: how long to wait; None for ever.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_capacity_or_is_closed, timeout_s) or self._closed:
                return False
            self._windows += 1
            self._audio_s += audio_s
            if reserved_s is not None:
                self._reserved -= 1
                self._reserved_s -= reserved_s
            return True

    def release(self, audio_s: float) -> None:
        with self._changed:
            self._windows -= 1
            self._audio_s -= audio_s
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nobody needs to wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_capacity_or_is_closed(self) -> bool:
        # Reservations are left out on purpose: see above.
        has_capacity_now = not self._windows or (
            self._windows < self._most_windows and self._audio_s < self._most_audio_s
        )
        return self._closed or has_capacity_now


@dataclass(frozen=True)
class Limits:
    """Bounds on what is between the manifest and the output.

    Attributes:
        windows: windows being prepared, waiting for the engine, or in it, and rows that wait for their turn.
        audio_s: seconds of audio in them; reached, no more is taken. The last window taken may exceed it.
        grace_s: seconds a stopped run may take to finish what is in the engine.
        hang_timeout_s: seconds an engine that holds windows may answer none before it is taken for dead.
    """

    windows: int
    audio_s: float
    grace_s: float
    hang_timeout_s: float = 1800.0

    @classmethod
    def of(cls, config: RunConfig, engine: Engine, window_s: float) -> "Limits":
        """What the options ask for; by default twice as many full windows as the engine works on at once."""
        # So the next windows are ready when the engine's places become free, and it never waits for us.
        windows = config.max_windows or 2 * engine.max_num_seqs
        return cls(windows, config.max_audio_s or windows * window_s, config.grace_s, config.hang_timeout_s)
