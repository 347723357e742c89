"""Queues between threads: what waits for the preprocess threads, windows in order again, and events for a loop."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from asrbatch.engine.base import Outcome

if TYPE_CHECKING:
    from asrbatch.pipeline.state import InFlightWindow, UtteranceState

_TICK_S = 0.1
# A loop looks again though nothing came: for time that has run out.
_MAX_WAIT_S = 0.2


class StopRequest(NamedTuple):
    """No more rows are to be taken."""


class EngineOutcome(NamedTuple):
    """What the engine delivers of an `InFlightWindow`; the key is None where it died and held none."""

    key: Any
    outcome: Outcome


class EventQueue:
    """What threads report to a loop; `put` is safe in any of them, and in a signal handler."""

    def __init__(self) -> None:
        # Its `put` may interrupt another in the same thread, as a signal handler's does; that of `Queue` would lock.
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._ticked_at = 0.0
        self.put, self.is_empty = self._events.put, self._events.empty

    def next(self, tick: Callable[[], None]) -> Any:
        """The next event; None when there was none for a while. Calls `tick` when it is due, ten times a second."""
        if time.monotonic() - self._ticked_at >= _TICK_S:
            self._ticked_at = time.monotonic()
            tick()
        try:
            return self._events.get(timeout=_MAX_WAIT_S)
        except Empty:
            return None


class TaskQueue:
    """Two queues in one, for many threads: windows without features, and utterances.

    Windows hold a part of the budget already, and others wait for that part: so they never wait behind an utterance,
    and a thread that waits for the budget takes them as well (`next_window`).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._windows: deque[InFlightWindow] = deque()
        self._utterances: deque[UtteranceState] = deque()
        self._num_idle = 0
        self._closed = False

    def put_utterance(self, state: "UtteranceState") -> None:
        with self._changed:
            self._utterances.append(state)
            self._changed.notify()

    def put_window(self, window: "InFlightWindow", *, only_if_idle: bool = False) -> bool:
        """Queues a window; on demand only if a thread waits that has nothing else to take. Returns whether it did."""
        with self._changed:
            # Each thing that is queued already will take one of the idle threads.
            if only_if_idle and self._num_idle <= len(self._windows) + len(self._utterances):
                return False
            self._windows.append(window)
            self._changed.notify()
            return True

    def next(self) -> "InFlightWindow | UtteranceState | None":
        """Waits for something to do; windows first. None after `close`."""
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: self._closed or self._windows or self._utterances)
            self._num_idle -= 1
            if self._closed:
                return None
            return self._windows.popleft() if self._windows else self._utterances.popleft()

    def next_window(self) -> "InFlightWindow | None":
        """A window without features, if any waits."""
        with self._changed:
            return self._windows.popleft() if self._windows else None

    def drop_utterances(self) -> None:
        """Forgets the utterances that no thread has taken yet."""
        with self._changed:
            self._utterances.clear()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class ReorderBuffer:
    """Holds the windows of one recording back until all before them are there. For many threads.

    Several threads compute the features of one recording, so they come in any order; but how loud the recording was up
    to a window is known only when all before it are there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, InFlightWindow] = {}
        self._next = 0
        self._peak: float | None = None

    def add(self, window: "InFlightWindow") -> list["InFlightWindow"]:
        """Returns the windows that need wait no longer, in order, each with the peak of all up to and with it."""
        with self._lock:
            self._waiting[window.number] = window
            ready = []
            while ready_one := self._waiting.pop(self._next, None):
                self._next += 1
                # A window that failed has no peak, nor has any of a model whose features do not depend on it.
                self._peak = max((peak for peak in (self._peak, ready_one.peak) if peak is not None), default=None)
                ready_one.peak = self._peak
                ready.append(ready_one)
            return ready
