"""Transcribes the rest of a session with one worker process per device.

The parent hands out rows one by one, writes what comes back, and is the only one that touches the run's files. A
worker holds no more than its fair share of what is left, so that all of them end together; one that has nothing left
to take doubles rows that others hold, and the first answer counts: no device idles while rows remain, and one that
hangs does not hold up the end. What a dead worker held is done again, by others where there are any. Who is to blame
for deaths, a row or a device, is for `blame.py` to judge.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from asrbatch.config import RunConfig
from asrbatch.engine.base import Engine
from asrbatch.engine.devices import Slot
from asrbatch.errors import AsrbatchError, EngineDiedError, EngineStartError
from asrbatch.pipeline.state import StageTimes
from asrbatch.runs import progress
from asrbatch.runs.local import explain_start
from asrbatch.runs.session import Session
from asrbatch.runs.workers.failures import FailureTracker, RowQueue
from asrbatch.runs.workers.handle import WorkerHandle
from asrbatch.runs.workers.protocol import WorkerSetup
from asrbatch.storage.inflight import GIVE_UP_AFTER

_STOP = "stop"
_TICK_S = 0.1
# Beyond the grace: what a worker may take to say goodbye.
_GOODBYE_S = 2.0
_LAST_CLOCKS_S = 2.0


def transcribe_on_devices(session: Session, start: Callable[..., Engine]) -> None:
    """Transcribes until no row is left or a stop is requested.

    Args:
        start: starts the engine in each worker; can be imported by its name.

    Raises:
        EngineStartError, EngineDiedError: no worker is left; rows written so far are kept.
    """
    with progress.captured(session.paths.log) as log_start, ExitStack() as stack:
        fleet = WorkerPool(session, start)
        stack.callback(fleet.close)
        fleet.start()
        session.stop.attach(fleet)
        stack.callback(session.stop.attach, None)
        try:
            fleet.run()
        except EngineStartError as e:
            explain_start(e, session, log_start)
            raise


class WorkerPool:
    """The workers of a session, and the loop that serves them."""

    def __init__(self, session: Session, start: Callable[..., Engine]):
        self._session, self._start = session, start
        self._events: SimpleQueue = SimpleQueue()
        self._stop_by: float | None = None
        self._ticked_at = 0.0
        self._began: float | None = None  # when the first worker was ready
        self._ended_clocks: list[StageTimes] = []
        self._why: AsrbatchError | None = None  # of the last worker that died
        self._workers: list[WorkerHandle] = []
        self._blame = FailureTracker([slot.name for slot in session.plan.slots])
        self._todo = RowQueue(session, self._blame)
        self._to_begin: list[tuple[float, Slot]] = []  # when, and where

    def start(self) -> None:
        """Starts a worker on every device; they come up while `run` goes on."""
        session, slots = self._session, self._session.plan.slots
        session.observer.log(
            f"starting vLLM on {len(slots)} devices ({', '.join(slot.name for slot in slots)}): {session.plan.engine}; "
            f"its log is {session.paths.log}"
        )
        for slot in slots:
            self._begin(slot)

    def request_stop(self) -> None:
        """Hands out no more rows; what is in the engines is finished within the grace period. Safe
        in a signal handler.
        """
        self._events.put((None, _STOP))

    def run(self) -> None:
        """Transcribes until every row is written, or as much as a stop allows."""
        while self._session.journal.num_missing and not self._is_over():
            self._begin_again()
            self._handle(*self._next_event())
            self._bury_the_silent()
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
        try:
            worker = WorkerHandle(
                slot, setup, self._session.read, lambda worker, message: self._events.put((worker, message))
            )
        except OSError as e:  # no process or memory to be had at the moment
            self._count_death(slot, EngineStartError(f"device {slot.name}: its process cannot be started: {e}"), 0)
        else:
            self._workers.append(worker)

    def _begin_again(self) -> None:
        due = [slot for when, slot in self._to_begin if when <= time.monotonic()]
        self._to_begin = [(when, slot) for when, slot in self._to_begin if slot not in due]
        for slot in due:
            self._begin(slot)

    def _is_over(self) -> bool:
        if self._stop_by is not None:
            return not self._workers or time.monotonic() >= self._stop_by
        # Where no engine has ever come up, trying again is for whoever reads why.
        if self._workers or (self._to_begin and self._began is not None):
            return False
        raise self._why

    def _next_event(self) -> tuple[WorkerHandle | None, Any]:
        if time.monotonic() - self._ticked_at >= _TICK_S:
            self._ticked_at = time.monotonic()
            self._tick()
        try:
            return self._events.get(timeout=0.2)
        except Empty:
            return None, None

    def _handle(self, worker: WorkerHandle | None, message: Any) -> None:
        if worker is not None:
            if worker.has_ended:
                return
            worker.heard_at = time.monotonic()
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
            case "clocks", stage_times, in_engine:
                worker.stage_times, worker.in_engine = stage_times, in_engine
            case "ended", stage_times, in_engine:
                worker.stage_times, worker.in_engine = stage_times, in_engine
                self._remove(worker)
            case (("failed" | "lost"), _) if not self._session.journal.num_missing:
                self._remove(worker)  # its work is done
            case "failed", EngineStartError() | EngineDiedError() as error:
                self._bury(worker, error)
            case "failed", error:
                raise error
            case "lost", how:
                kind, when = (EngineDiedError, "") if worker.is_ready else (EngineStartError, " while it started")
                self._bury(worker, kind(f"device {worker.slot.name}: the worker process ended{when}: {how}"))
            case BaseException():
                raise message
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _ready(self, worker: WorkerHandle, facts: dict[str, Any], capacity: int, windows: int) -> None:
        worker.is_ready, worker.capacity, worker.windows = True, capacity, windows
        if self._began is None:
            self._began = time.monotonic()
            self._session.engine_is_up({**facts, "devices": [slot.name for slot in self._session.plan.slots]})

    def _collect(self, worker: WorkerHandle, row: dict[str, Any]) -> None:
        index = row["index"]
        worker.held.pop(index, None)
        worker.num_answered += index in worker.submitted  # a missing file says nothing about the engine
        worker.submitted.discard(index)
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
            while self._has_room(worker) and (index := self._todo.next(worker.slot.name)) is not None:
                self._give(worker, index)
            if not worker.held:
                self._give_special(worker)

    def _give(self, worker: WorkerHandle, index: int) -> None:
        worker.give(index, self._room_s(index))

    def _room_s(self, index: int) -> float:
        """A worker holds no more than a window or two of a recording at a time, however long that is."""
        window_s = self._session.plan.rules.window_s
        return min(self._session.duration_s(index) or window_s, window_s)

    def _give_special(self, worker: WorkerHandle) -> None:
        """To a worker that has nothing: a row to run alone, or copies of what others hold."""
        others = [other.slot.name for other in self._workers if other is not worker]
        if (index := self._todo.next_alone(worker.slot.name, others)) is not None:
            worker.runs_alone = True
            self._give(worker, index)
            return
        for index in self._held_elsewhere()[: min(worker.capacity, self._fair_share())]:
            self._give(worker, index)

    def _has_room(self, worker: WorkerHandle) -> bool:
        if not worker.held:
            return True
        most_audio_s = self._session.config.max_audio_s or worker.windows * self._session.plan.rules.window_s
        return (
            not worker.runs_alone
            and len(worker.held) < min(worker.windows, self._fair_share())
            and sum(worker.held.values()) < most_audio_s
        )

    def _fair_share(self) -> int:
        return -(-self._session.journal.num_missing // len(self._workers))

    def _held_elsewhere(self) -> list[int]:
        """Rows to double, those first that wait longest for their turn: given last to the worker with most on its
        hands.

        None that is done already (its copy was faster), is being done twice, or saw an engine die.
        """
        finished, deaths = self._session.journal.finished, self._session.deaths
        times_held = Counter(index for worker in self._workers for index in worker.held)
        busiest_first = sorted(self._workers, key=lambda worker: len(worker.held) - worker.capacity, reverse=True)
        rows = [index for worker in busiest_first for index in reversed(worker.held)]
        return [index for index in rows if times_held[index] == 1 and not finished[index] and index not in deaths]

    def _bury_the_silent(self) -> None:
        """A process that does not even tell its clocks is stuck, whatever its engine does."""
        most_s = self._session.config.hang_timeout_s
        for worker in list(self._workers):
            if worker.is_ready and time.monotonic() - worker.heard_at > most_s:
                self._bury(
                    worker, EngineDiedError(f"device {worker.slot.name}: its process said nothing for {most_s:g} s")
                )

    def _bury(self, worker: WorkerHandle, why: AsrbatchError) -> None:
        """A worker died: what it held is done again, and its device gets another unless that seems pointless."""
        session = self._session
        lost = [index for index in worker.held if not session.journal.finished[index]]
        for index in worker.submitted.intersection(lost):
            others = [slot.name for slot in session.plan.slots if slot.name not in self._blame.retired]
            deaths = self._blame.row_died(
                index, worker.slot.name, session.deaths.get(index, 0), worker.runs_alone, others
            )
            session.deaths[index] = deaths
            if deaths >= GIVE_UP_AFTER:
                session.give_up(index)
        self._remove(worker)
        session.book_deaths()
        session.in_flight.keep_only({index for other in self._workers for index in other.submitted})
        for index in lost:
            if not session.journal.finished[index] and not any(index in other.held for other in self._workers):
                self._todo.put_back(index)
        self._count_death(worker.slot, why, worker.num_answered, one_row_is_to_blame=worker.runs_alone)

    def _count_death(
        self, slot: Slot, why: AsrbatchError, num_answered: int, *, one_row_is_to_blame: bool = False
    ) -> None:
        self._session.progress.workers_died += 1
        self._why = why
        delay_s = None
        if self._stop_by is None:
            delay_s = self._blame.device_died(slot.name, num_answered, one_row_is_to_blame)
        if delay_s is None:
            then = "its rows are left to the others"
        else:
            self._to_begin.append((time.monotonic() + delay_s, slot))
            then = "its rows are done again, and it is started again" + (f" in {delay_s:g} s" if delay_s else "")
        self._session.observer.log(f"device {slot.name}: {str(why).removeprefix(f'device {slot.name}: ')}; {then}")

    def _remove(self, worker: WorkerHandle) -> None:
        worker.close()
        self._workers.remove(worker)
        self._ended_clocks.append(worker.stage_times)

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + self._session.config.grace_s + _GOODBYE_S
        self._to_begin.clear()
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
        stage_times = [worker.stage_times for worker in self._workers]
        progress.stage_times = _mean([*stage_times, *self._ended_clocks], wall, len(session.plan.slots))
        session.tick()


def _mean(stage_times: list[StageTimes], wall: float, num_devices: int) -> StageTimes:
    """One process's clocks over its devices: engine times are means, so that they compare with wall time."""
    return StageTimes(
        wall=wall,
        engine=sum(c.engine for c in stage_times) / num_devices,
        full=sum(c.full for c in stage_times) / num_devices,
        read=sum(c.read for c in stage_times),
        prepare=sum(c.prepare for c in stage_times),
        write=sum(c.write for c in stage_times),
    )


def _share_of(config: RunConfig, slot: Slot, num_devices: int) -> RunConfig:
    """The options of one worker: the cores are shared."""
    workers = config.workers or min(16, max(1, len(slot.cores) // (1 if slot.device.kind == "cpu" else num_devices)))
    return replace(config, workers=workers)
