"""What waits for the preparation threads: features first, then utterances.

Where the loop's utterances come from: an iterable that is all there, or rows that arrive while the loop runs.

How loud a recording has been when each of its windows begins to be asked, in whatever order their features come.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from asrbatch.types import Utterance


class TaskQueue:
    """Two queues in one, for many threads.

    Features belong to windows that hold room already, and others wait for that room: so they never wait behind an
    utterance, and a thread that waits for room takes them as well (`next_features`).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._features: deque[Any] = deque()
        self._jobs: deque[Any] = deque()
        self._num_waiting = 0
        self._closed = False

    def put(self, job: Any) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def put_features(self, features: Any) -> None:
        with self._changed:
            self._features.append(features)
            self._changed.notify()

    def hand_over(self, features: Any) -> bool:
        """Puts features only if a thread waits that has nothing else to take."""
        with self._changed:
            if self._num_waiting <= len(self._features) + len(self._jobs):
                return False
            self._features.append(features)
            self._changed.notify()
            return True

    def next(self) -> Any:
        """Waits for something to do; features first. None after `close`."""
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(lambda: self._closed or self._features or self._jobs)
            self._num_waiting -= 1
            if self._closed:
                return None
            return self._features.popleft() if self._features else self._jobs.popleft()

    def next_features(self) -> Any:
        """Features to compute, if any wait."""
        with self._changed:
            return self._features.popleft() if self._features else None

    def drop_jobs(self) -> None:
        """Forgets the utterances that no thread has taken yet."""
        with self._changed:
            self._jobs.clear()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class UtteranceSource(Protocol):
    """Utterances, one at a time.

    Attributes:
        ended: no more will come.
    """

    ended: bool

    def take(self) -> Utterance | None:
        """The next one; None when there is none at the moment."""


class IterableSource:
    """A `UtteranceSource` of what is there already."""

    def __init__(self, utterances: Iterable[Utterance]):
        self._utterances = iter(utterances)
        self.ended = False

    def take(self) -> Utterance | None:
        utterance = next(self._utterances, None)
        self.ended = utterance is None
        return utterance


class QueueSource:
    """A `UtteranceSource` that another thread fills.

    Args:
        wake: called when something changed, so that a loop that waits for events looks again.
    """

    def __init__(self, wake: Callable[[], None]):
        self._wake = wake
        self._utterances: deque[Utterance] = deque()
        self._closed = False

    @property
    def ended(self) -> bool:
        return self._closed and not self._utterances

    def put(self, utterance: Utterance) -> None:
        self._utterances.append(utterance)
        self._wake()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        self._wake()

    def take(self) -> Utterance | None:
        return self._utterances.popleft() if self._utterances else None


class ReorderBuffer:
    """Of one recording. Windows wait in it until all before them are there. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float | None, Any]] = {}
        self._next = 0
        self._peak: float | None = None

    def add(self, number: int, peak: float | None, window: Any) -> list[tuple[float | None, Any]]:
        """Returns the windows that need wait no longer, in order, each with the loudest up to and with it.

        Args:
            number: 0-based place of the window in the recording; each once.
            peak: of this window; None where the engine does not say.
            window: None for one that will not come: those after it do not wait for it.
        """
        with self._lock:
            self._waiting[number] = (peak, window)
            ready = []
            while self._next in self._waiting:
                peak, window = self._waiting.pop(self._next)
                self._next += 1
                self._peak = max((each for each in (self._peak, peak) if each is not None), default=None)
                if window is not None:
                    ready.append((self._peak, window))
            return ready
