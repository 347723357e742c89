"""Backpressure: how much may be between the manifest and the output at any time, and waiting for it.

Two parties take of the budget. The loop reserves for a row before it hands it to the preprocess pool; a reservation
holds no audio. A preprocess thread takes for each window before it computes its features, for a row's first window in
place of the reservation; that is released when the window's answer is there. A thread waits for windows in the engine
only, never for reservations, so that long recordings in all threads and short rows behind them cannot wait for each
other.
"""

import threading


class Budget:
    """Counts windows and their seconds of audio; safe in any thread.

    Args:
        most_windows: being prepared, waiting for the engine, or in it, and rows that wait for their turn.
        most_audio_s: seconds of audio in them; reached, no more is taken. The last window taken may exceed it.
    """

    def __init__(self, most_windows: int, most_audio_s: float):
        self.most_windows, self._most_audio_s = most_windows, most_audio_s
        self._windows = self._reserved = 0
        self._audio_s = self._reserved_s = 0.0
        self._changed = threading.Condition()
        self._closed = False

    def has_capacity(self) -> bool:
        """Whether another row may be reserved for."""
        with self._changed:
            return self._fits(self._windows + self._reserved, self._audio_s + self._reserved_s)

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
            # Reservations are left out on purpose: see above.
            self._changed.wait_for(lambda: self._closed or self._fits(self._windows, self._audio_s), timeout_s)
            if self._closed or not self._fits(self._windows, self._audio_s):
                return False
            self._windows += 1
            self._audio_s += audio_s
            if reserved_s is not None:
                self.unreserve(reserved_s)
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

    def _fits(self, windows: int, audio_s: float) -> bool:
        # With nothing under way there is always room, or what is longer than all of it would wait for ever.
        return not windows or (windows < self.most_windows and audio_s < self._most_audio_s)
