"""Where the loop's utterances come from: an iterable that is all there, or rows that arrive while the loop runs."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from .types import Utterance


class Source(Protocol):
    """Utterances, one at a time.

    Attributes:
        ended: no more will come.
    """

    ended: bool

    def take(self) -> Utterance | None:
        """The next one; None when there is none at the moment."""


class Given:
    """A `Source` of what is there already."""

    def __init__(self, utterances: Iterable[Utterance]):
        self._utterances = iter(utterances)
        self.ended = False

    def take(self) -> Utterance | None:
        utterance = next(self._utterances, None)
        self.ended = utterance is None
        return utterance


class Feed:
    """A `Source` that another thread fills.

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
