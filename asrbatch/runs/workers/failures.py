"""What engine deaths mean, a row that kills every engine or a device that kills every row, and which row goes where.

Rules. A row in flight at a death is a suspect; it next runs on another device if there is one. A row in flight at
`RUN_ALONE_AFTER` deaths runs alone. It is given up only when it has died alone on two devices, or on the only one
there is: a sick device must not cost good rows their transcripts. A device whose workers die `_MOST_DEATHS` times in a
row, none of them after `_HEALTHY_AFTER` answered rows, is retired, unless a single row was to blame.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

from asrbatch.runs.session import Session
from asrbatch.storage.inflight import GIVE_UP_AFTER, RUN_ALONE_AFTER

_MOST_DEATHS = 3
# Before a device is started again: at once after its first death, later with time for what is wrong to pass.
_DELAYS_S = (0.0, 2.0)
# So many rows answered by one worker are proof of health.
_HEALTHY_AFTER = 100


class FailureTracker:
    """What is known of this session's deaths.

    Attributes:
        devices: those that may still be used.
    """

    def __init__(self, devices: Iterable[str]):
        self.devices = list(devices)
        self._died_on: dict[int, set[str]] = defaultdict(set)
        self._died_alone_on: dict[int, set[str]] = defaultdict(set)
        self._deaths: dict[int, int] = {}
        self._deaths_in_a_row: dict[str, int] = defaultdict(int)

    def row_died(self, index: int, device: str, deaths: int, was_alone: bool) -> int:
        """A row was in flight when a device's engine died.

        Args:
            deaths: how often that had happened to it.

        Returns:
            How often it has happened now; no more than one less than `GIVE_UP_AFTER` as long as a device may be to
                blame.
        """
        self._died_on[index].add(device)
        self._deaths[index] = self._deaths.get(index, deaths) + 1
        if was_alone:
            self._died_alone_on[index].add(device)
        proven = was_alone and (len(self._died_alone_on[index]) > 1 or not set(self.devices) - {device})
        return self._deaths[index] if proven else min(self._deaths[index], GIVE_UP_AFTER - 1)

    def may_run_on(self, index: int, device: str, others: Iterable[str]) -> bool:
        """Whether a suspect should run on a device: not where it died, unless no other is left to try."""
        # Only deaths alone tell a row from what was beside it, so they decide where there are any.
        died_on = self._died_alone_on[index] or self._died_on[index]
        return device not in died_on or set(others).intersection(self.devices) <= died_on | {device}

    def device_died(self, device: str, num_answered: int, was_alone: bool) -> float | None:
        """Seconds until a device should be started again; None when it is retired.

        Args:
            num_answered: rows its engine had answered since it was started.
            was_alone: one row was in it, known to have killed engines before, so that it is to blame.
        """
        if num_answered >= _HEALTHY_AFTER:
            self._deaths_in_a_row[device] = 0
        if was_alone:
            return 0.0
        self._deaths_in_a_row[device] += 1
        if self._deaths_in_a_row[device] >= _MOST_DEATHS:
            self.devices.remove(device)
            return None
        return _DELAYS_S[self._deaths_in_a_row[device] - 1]


class RowQueue:
    """Rows nobody holds: new ones, those that came back, and those to be run with nothing else in the engine."""

    def __init__(self, session: Session, failures: FailureTracker):
        self._caution, self._failures = session.caution, failures
        self._new = session.unfinished(0)
        self._again: deque[int] = deque()
        # From the few that have deaths: two more passes over a long manifest would keep the devices waiting.
        seen = sorted((index, deaths.caution) for index, deaths in session.deaths.items())
        self._suspects = deque(index for index, caution in seen if caution == 1)
        self._alone = deque(index for index, caution in seen if caution == RUN_ALONE_AFTER)

    def next(self, device: str) -> int | None:
        """A row to run beside others; those that saw an engine die come last, and not to where they saw it."""
        if self._again:
            return self._again.popleft()
        if (index := next(self._new, None)) is not None:
            return index
        return self._take(self._suspects, device, self._failures.devices)

    def next_alone(self, device: str, others: list[str]) -> int | None:
        """A row to run alone; on a device where it did not die, as long as there is one among the others."""
        return self._take(self._alone, device, others)

    def _take(self, rows: deque[int], device: str, others: Iterable[str]) -> int | None:
        for index in rows:
            if self._failures.may_run_on(index, device, others):
                rows.remove(index)
                return index
        return None

    def put_back(self, index: int) -> None:
        caution = self._caution(index)
        # Without a death it only waited in the worker that died, and is no suspect.
        (self._alone if caution == RUN_ALONE_AFTER else self._suspects if caution else self._again).append(index)
