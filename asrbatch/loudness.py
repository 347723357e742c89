"""How loud a recording has been when each of its windows begins to be asked, in whatever order their features come."""

import threading
from typing import Any


class LoudestSoFar:
    """Of one recording. Windows wait in it until all before them are there. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float | None, Any]] = {}
        self._next = 0
        self._loudest: float | None = None

    def add(self, number: int, loudest: float | None, window: Any) -> list[tuple[float | None, Any]]:
        """Returns the windows that need wait no longer, in order, each with the loudest up to and with it.

        Args:
            number: 0-based place of the window in the recording; each once.
            loudest: of this window; None where the engine does not say.
            window: None for one that will not come: those after it do not wait for it.
        """
        with self._lock:
            self._waiting[number] = (loudest, window)
            ready = []
            while self._next in self._waiting:
                loudest, window = self._waiting.pop(self._next)
                self._next += 1
                self._loudest = max((each for each in (self._loudest, loudest) if each is not None), default=None)
                if window is not None:
                    ready.append((self._loudest, window))
            return ready
