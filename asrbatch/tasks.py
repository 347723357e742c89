"""What waits for the preparation threads: features first, then utterances."""

import threading
from collections import deque
from typing import Any


class Tasks:
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
