"""Rows of a session that no worker holds, and which of them a device may be given next."""

from collections import deque
from collections.abc import Iterable

from .blame import Blame
from .output.inflight import RUN_ALONE_AFTER
from .session import Session


class Todo:
    """Rows nobody holds: new ones, those that came back, and those to be run with nothing else in the engine."""

    def __init__(self, session: Session, blame: Blame):
        self._deaths, self._blame = session.deaths, blame
        self._new = session.unfinished(lambda deaths: deaths == 0)
        self._again: deque[int] = deque()
        # From the few that have deaths: two more passes over a long manifest would keep the devices waiting.
        seen = sorted(session.deaths.items())
        self._suspects = deque(index for index, deaths in seen if deaths < RUN_ALONE_AFTER)
        self._alone = deque(index for index, deaths in seen if deaths >= RUN_ALONE_AFTER)

    def next(self, device: str) -> int | None:
        """A row to run beside others; those that saw an engine die come last, and not to where they saw it."""
        if self._again:
            return self._again.popleft()
        if (index := next(self._new, None)) is not None:
            return index
        return self._take(self._suspects, device, self._blame.devices)

    def next_alone(self, device: str, others: list[str]) -> int | None:
        """A row to run alone; on a device where it did not die, as long as there is one among the others."""
        return self._take(self._alone, device, others)

    def _take(self, rows: deque[int], device: str, others: Iterable[str]) -> int | None:
        for index in rows:
            if self._blame.suits(index, device, others):
                rows.remove(index)
                return index
        return None

    def put_back(self, index: int) -> None:
        deaths = self._deaths.get(index, 0)
        (self._alone if deaths >= RUN_ALONE_AFTER else self._suspects if deaths else self._again).append(index)
