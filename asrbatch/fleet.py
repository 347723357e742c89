"""Transcribes the rest of a session with one worker process per device.

The parent hands out rows one by one, writes what comes back, and is the only one that touches the run's files. A
worker holds no more than its fair share of what is left, so that all of them end together; one that has nothing left
to take doubles a row that another holds, and the first answer counts: no device idles while rows remain, and one that
hangs does not hold up the end. What a dead worker held is done again by the others.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from . import logs
from .config import RunConfig
from .engine import Engine
from .engine.devices import Slot
from .errors import AsrbatchError, EngineDiedError, EngineStartError
from .fleet_worker import FleetWorker
from .local import explain_start
from .output.inflight import RUN_ALONE_AFTER
from .pipeline import Clocks
from .session import Session
from .worker import WorkerSetup

_STOP = "stop"
_TICK_S = 0.1
# Beyond the grace: what a worker may take to say goodbye.
_GOODBYE_S = 10.0
_LAST_CLOCKS_S = 2.0


def transcribe_on_devices(session: Session, start: Callable[..., Engine]) -> None:
    """Transcribes until no row is left or a stop is requested.

    Args:
        start: starts the engine in each worker; can be imported by its name.

    Raises:
        EngineStartError, EngineDiedError: no worker is left; rows written so far are kept.
    """
    with logs.captured(session.paths.log) as log_start, ExitStack() as stack:
        fleet = Fleet(session, start)
        stack.callback(fleet.close)
        fleet.start()
        session.stop.attach(fleet)
        stack.callback(session.stop.attach, None)
        try:
            fleet.run()
        except EngineStartError as e:
            explain_start(e, session, log_start)
            raise


class Fleet:
    """The workers of a session, and the loop that serves them."""

    def __init__(self, session: Session, start: Callable[..., Engine]):
        self._session, self._start = session, start
        self._events: SimpleQueue = SimpleQueue()
        self._todo = _Todo(session)
        self._stop_by: float | None = None
        self._ticked_at = 0.0
        self._began: float | None = None  # when the first worker was ready
        self._ended_clocks: list[tuple[Slot, Clocks]] = []
        self._why: AsrbatchError | None = None  # of the last worker that died
        self._workers: list[FleetWorker] = []

    def start(self) -> None:
        """Starts a worker on every device; they come up while `run` goes on."""
        session, slots = self._session, self._session.plan.slots
        session.observer.say(
            f"starting vLLM on {len(slots)} devices ({', '.join(slot.name for slot in slots)}): {session.plan.engine}; "
            f"its log is {session.paths.log}"
        )
        for slot in slots:
            self._begin(slot)

    def request_stop(self) -> None:
        """Hands out no more rows; what is in the engines is finished within the grace period. Safe in a signal handler."""
        self._events.put((None, _STOP))

    def run(self) -> None:
        """Transcribes until every row is written, or as much as a stop allows."""
        while self._session.journal.num_missing and not self._is_over():
            self._handle(*self._next_event())
            self._hand_out()
        self._say_goodbye()
        self._tick()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _begin(self, slot: Slot) -> None:
        plan = self._session.plan
        setup = WorkerSetup(
            config=_share_of(self._session.config, slot, len(plan.slots)),
            engine=plan.engine.on(slot.device),
            rules=plan.rules,
            start=self._start,
        )
        self._workers.append(
            FleetWorker(slot, setup, self._session.read, lambda worker, message: self._events.put((worker, message)))
        )

    def _is_over(self) -> bool:
        if self._stop_by is not None:
            return not self._workers or time.monotonic() >= self._stop_by
        if self._workers:
            return False
        self._session.deaths_are_booked = True
        raise self._why

    def _next_event(self) -> tuple[FleetWorker | None, Any]:
        if time.monotonic() - self._ticked_at >= _TICK_S:
            self._ticked_at = time.monotonic()
            self._tick()
        try:
            return self._events.get(timeout=0.2)
        except Empty:
            return None, None

    def _handle(self, worker: FleetWorker | None, message: Any) -> None:
        if worker is not None and worker.has_ended:
            return
        match message:
            case None:
                pass
            case "stop":
                self._stop()
            case "ready", facts, capacity, windows:
                self._ready(worker, facts, capacity, windows)
            case "submitted", index:
                worker.submitted.add(index)
                self._session.in_flight.add(index)
            case "row", row:
                self._collect(worker, row)
            case "clocks", clocks, in_engine:
                worker.clocks, worker.in_engine = clocks, in_engine
            case "ended", clocks, in_engine:
                worker.clocks, worker.in_engine = clocks, in_engine
                self._remove(worker)
            case "failed", EngineStartError() | EngineDiedError() as error:
                self._bury(worker, error)
            case "failed", error:
                raise error
            case "lost", how:
                self._bury(worker, EngineDiedError(f"the worker process on device {worker.slot.name} ended: {how}"))
            case BaseException():
                raise message
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _ready(self, worker: FleetWorker, facts: dict[str, Any], capacity: int, windows: int) -> None:
        worker.is_ready, worker.capacity, worker.windows = True, capacity, windows
        if self._began is None:
            self._began = time.monotonic()
            self._session.engine_is_up({**facts, "devices": [slot.name for slot in self._session.plan.slots]})

    def _collect(self, worker: FleetWorker, row: dict[str, Any]) -> None:
        index = row["index"]
        worker.held.pop(index, None)
        worker.submitted.discard(index)
        worker.num_answered += 1
        worker.runs_alone = worker.runs_alone and bool(worker.held)
        if not self._session.journal.finished[index]:  # else it was done twice, and another was faster
            self._session.deaths.pop(index, None)
            self._session.write(row)

    def _hand_out(self) -> None:
        if self._stop_by is not None:
            return
        ready = [worker for worker in self._workers if worker.is_ready]
        # The emptiest first: near the end every row should begin at once.
        for worker in sorted(ready, key=lambda worker: len(worker.held)):
            while self._has_room(worker) and (index := self._next_row(worker)) is not None:
                worker.give(index, self._audio_s(index))

    def _has_room(self, worker: FleetWorker) -> bool:
        if not worker.held:
            return True
        fair_share = -(-self._session.journal.num_missing // len(self._workers))
        most_audio_s = self._session.config.max_audio_s or worker.windows * self._session.plan.rules.window_s
        return (
            not worker.runs_alone
            and len(worker.held) < min(worker.windows, fair_share)
            and sum(worker.held.values()) < most_audio_s
        )

    def _next_row(self, worker: FleetWorker) -> int | None:
        if (index := self._todo.next()) is not None:
            return index
        if worker.held:
            return None
        if (index := self._todo.next_alone()) is not None:
            worker.runs_alone = True
            return index
        return self._held_elsewhere()

    def _held_elsewhere(self) -> int | None:
        """The row that waits longest for its turn: the one given last to the worker with the most on its hands.

        None that is done already (its copy was faster), is being done twice, or saw an engine die.
        """
        finished, deaths = self._session.journal.finished, self._session.deaths
        for busiest in sorted(self._workers, key=lambda worker: len(worker.held) - worker.capacity, reverse=True):
            for index in reversed(busiest.held):
                is_held_once = sum(index in worker.held for worker in self._workers) == 1
                if is_held_once and not finished[index] and index not in deaths:
                    return index
        return None

    def _audio_s(self, index: int) -> float:
        return self._session.duration_s(index) or self._session.plan.rules.window_s

    def _bury(self, worker: FleetWorker, why: AsrbatchError) -> None:
        """A worker died: what it held is done again, and it gets a successor unless that seems pointless."""
        session = self._session
        session.workers_died += 1
        self._why = why
        lost = [index for index in worker.held if not session.journal.finished[index]]
        for index in worker.submitted.intersection(lost):
            session.deaths[index] = session.deaths.get(index, 0) + 1
        session.give_up_on_poison()
        self._remove(worker)
        for index in lost:
            if not session.journal.finished[index] and not any(index in other.held for other in self._workers):
                self._todo.put_back(index)
        # One that has never answered would die again, unless a single row is to blame.
        again = self._stop_by is None and (worker.num_answered > 0 or worker.runs_alone)
        then = "its rows are done again, and it is started again" if again else "its rows are left to the others"
        session.observer.say(f"device {worker.slot.name}: {why}; {then}")
        if again:
            self._begin(worker.slot)

    def _remove(self, worker: FleetWorker) -> None:
        worker.close()
        self._workers.remove(worker)
        self._ended_clocks.append((worker.slot, worker.clocks))

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + self._session.config.grace_s + _GOODBYE_S
        for worker in list(self._workers):
            if worker.is_ready:
                worker.stop()
            else:
                self._remove(worker)

    def _say_goodbye(self) -> None:
        """Lets idle workers tell their last clocks."""
        waiting = {worker for worker in self._workers if worker.is_ready and not worker.held}
        for worker in waiting:
            worker.end()
        deadline = time.monotonic() + _LAST_CLOCKS_S
        while waiting.intersection(self._workers) and time.monotonic() < deadline:
            self._handle(*self._next_event())

    def _tick(self) -> None:
        session, progress = self._session, self._session.progress
        progress.in_engine = sum(worker.in_engine for worker in self._workers)
        progress.capacity = sum(worker.capacity for worker in self._workers)
        wall = 0.0 if self._began is None else time.monotonic() - self._began
        clocks = [worker.clocks for worker in self._workers] + [clocks for _, clocks in self._ended_clocks]
        progress.clocks = _mean(clocks, wall, len(session.plan.slots))
        session.tick()


class _Todo:
    """Rows nobody holds: new ones, those that came back, and those to be run with nothing else in the engine."""

    def __init__(self, session: Session):
        self._deaths = session.deaths
        self._new = session.unfinished(lambda deaths: deaths == 0)
        self._again: deque[int] = deque()
        self._suspects = deque(session.unfinished(lambda deaths: 0 < deaths < RUN_ALONE_AFTER))
        self._alone = deque(session.unfinished(lambda deaths: deaths >= RUN_ALONE_AFTER))

    def next(self) -> int | None:
        """A row to run beside others; those that saw an engine die come last."""
        if self._again:
            return self._again.popleft()
        if (index := next(self._new, None)) is not None:
            return index
        return self._suspects.popleft() if self._suspects else None

    def next_alone(self) -> int | None:
        return self._alone.popleft() if self._alone else None

    def put_back(self, index: int) -> None:
        deaths = self._deaths.get(index, 0)
        (self._alone if deaths >= RUN_ALONE_AFTER else self._suspects if deaths else self._again).append(index)


def _mean(clocks: list[Clocks], wall: float, num_devices: int) -> Clocks:
    """One process's clocks over its devices: engine times are means, so that they compare with wall time."""
    return Clocks(
        wall=wall,
        engine=sum(c.engine for c in clocks) / num_devices,
        full=sum(c.full for c in clocks) / num_devices,
        read=sum(c.read for c in clocks),
        prepare=sum(c.prepare for c in clocks),
        write=sum(c.write for c in clocks),
    )


def _share_of(config: RunConfig, slot: Slot, num_devices: int) -> RunConfig:
    """The options of one worker: the cores are shared."""
    workers = config.workers or min(16, max(1, len(slot.cores) // (1 if slot.device.kind == "cpu" else num_devices)))
    return replace(config, workers=workers)
