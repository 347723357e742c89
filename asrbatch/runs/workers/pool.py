"""Transcribes the rest of a session with one worker process per device.

The parent hands out rows one by one, writes what comes back, and is the only one that touches the run's files. A
worker holds no more than its fair share of what is left, so that all of them end together; one that has nothing left
to take doubles rows that others hold, and the first answer counts: no device idles while rows remain, and one that
hangs does not hold up the end. What a dead worker held is done again, by others where there are any. Whether a row or a
device is to blame for deaths is for `failures.py` to judge.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

from asrbatch.config import RunConfig
from asrbatch.engine.base import Engine
from asrbatch.engine.devices import Slot
from asrbatch.engine.environment import MOST_START_S
from asrbatch.errors import AsrbatchError, EngineDiedError, EngineStartError
from asrbatch.pipeline.monitor import Answered, StageTimes
from asrbatch.pipeline.queues import EventQueue
from asrbatch.runs.progress import Stop
from asrbatch.runs.session import Session
from asrbatch.runs.workers.failures import FailureTracker, RowQueue
from asrbatch.runs.workers.handle import WorkerHandle
from asrbatch.runs.workers.protocol import WorkerSetup
from asrbatch.storage.inflight import GIVE_UP_AFTER, Deaths
from asrbatch.timeouts import running_s

_STOP = "stop"
# Beyond the grace: what a worker may take to end when it is told to stop.
_STOP_S = 2.0
# What idle workers may take at the end to send their last stage times.
_SHUTDOWN_S = 2.0


def transcribe_on_devices(session: Session, stop: Stop, start: Callable[..., Engine]) -> None:
    """Transcribes until no row is left or a stop is requested.

    Args:
        start: starts the engine in each worker; can be imported by its name.

    Raises:
        EngineStartError, EngineDiedError: no worker is left; rows written so far are kept.
    """
    with closing(WorkerPool(session, start)) as pool:
        pool.start()
        with session.in_flight.watching(), stop.attached(pool):
            pool.run()


class WorkerPool:
    """The workers of a session, and the loop that serves them."""

    def __init__(self, session: Session, start: Callable[..., Engine]):
        self._session, self._start = session, start
        self._events = EventQueue()
        self._stop_by = math.inf
        # When the first worker was.
        self._ready_at: float | None = None
        self._steps: set[str] = set()  # of start-up, that any has begun
        # Of workers that have ended: what they did counts in the session's stage times.
        self._past_times: list[StageTimes] = []
        # Of the last worker that died: why the run ends where none is left.
        self._last_error: AsrbatchError | None = None
        self._workers: list[WorkerHandle] = []
        self._failures = FailureTracker([slot.name for slot in session.plan.slots])
        self._rows = RowQueue(session, self._failures)
        self._restarts: list[tuple[float, Slot]] = []  # when, and where

    def start(self) -> None:
        """Starts a worker on every device; they come up while `run` goes on."""
        session, slots = self._session, self._session.plan.slots
        session.log(
            f"starting vLLM on {len(slots)} devices ({', '.join(slot.name for slot in slots)}): {session.plan.engine}; "
            f"its log is {session.paths.log}"
        )
        session.start_up.say("starting the processes")
        for slot in slots:
            self._start_worker(slot)

    def request_stop(self) -> None:
        """Hands out no more rows; what is in the engines is finished within the grace period. Safe
        in a signal handler.
        """
        self._events.put((None, _STOP))

    def run(self) -> None:
        """Transcribes until every row is written, or as much as a stop allows."""
        while self._session.journal.num_missing and not self._is_over():
            self._restart_workers()
            self._handle(self._events.next(self._tick))
            self._check_for_hangs()
            self._schedule()
        self._shut_down()
        self._tick()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    @property
    def _is_stopped(self) -> bool:
        return self._stop_by < math.inf

    def _start_worker(self, slot: Slot) -> None:
        plan = self._session.plan
        setup = WorkerSetup(
            config=_share_of(self._session.config, slot, len(plan.slots)),
            engine=replace(plan.engine, device=slot.device),
            start=self._start,
        )
        try:
            worker = WorkerHandle(slot, setup, self._session.read, lambda *event: self._events.put(event))
        except OSError as e:
            # No process or memory to be had at the moment.
            error = EngineStartError(f"device {slot.name}: its process cannot be started: {e}")
            self._on_device_failure(slot, error, num_answered=0)
        else:
            self._workers.append(worker)

    def _restart_workers(self) -> None:
        due = [slot for when, slot in self._restarts if when <= running_s()]
        self._restarts = [(when, slot) for when, slot in self._restarts if slot not in due]
        for slot in due:
            self._start_worker(slot)

    def _is_over(self) -> bool:
        if self._is_stopped:
            return not self._workers or running_s() >= self._stop_by
        # Where no engine has ever come up, trying again is for whoever reads why.
        if self._workers or (self._restarts and self._ready_at is not None):
            return False
        raise self._last_error

    def _handle(self, event: tuple[WorkerHandle | None, Any] | None) -> None:
        worker, message = event or (None, None)
        # Sent before it was closed. What it held was given to others since.
        if worker is not None and worker.has_ended:
            return
        match message:
            case None:
                pass
            case "stop":
                self._stop()
            case "step", step:
                self._on_step(step)
            case "ready", facts, capacity, windows:
                self._on_ready(worker, facts, capacity, windows)
            case "submitted", index:
                worker.submitted.add(index)
                self._session.in_flight.add(index)
            case "row", row:
                self._collect(worker, row)
            case "status", stage_times, in_engine, answered:
                worker.stage_times, worker.in_engine, worker.answered = stage_times, in_engine, answered
            case ("ended",):
                self._remove(worker)
            case (("failed" | "lost"), _) if not self._session.journal.num_missing:
                # Its work is done, however it ends.
                self._remove(worker)
            case "failed", EngineStartError() | EngineDiedError() as error:
                self._on_worker_death(worker, error)
            case "failed", error:
                raise error
            case "lost", how:
                when = "" if worker.is_ready else " while it started"
                self._on_worker_loss(worker, f"the worker process ended{when}: {how}")
            case BaseException():
                raise message
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _on_step(self, step: str) -> None:
        """The worker that is farthest will be the first to take rows."""
        if self._ready_at is None and step not in self._steps:
            self._steps.add(step)
            self._session.start_up.say(step)

    def _on_ready(self, worker: WorkerHandle, facts: dict[str, Any], capacity: int, windows: int) -> None:
        worker.is_ready, worker.capacity, worker.windows = True, capacity, windows
        if self._ready_at is None:
            self._ready_at = time.monotonic()
            facts = {**facts, "devices": [slot.name for slot in self._session.plan.slots]}
            self._session.engine_is_up(facts, capacity)

    def _collect(self, worker: WorkerHandle, row: dict[str, Any]) -> None:
        index = row["index"]
        worker.held.pop(index, None)
        # A missing file says nothing about the engine.
        worker.num_answered += index in worker.submitted
        worker.submitted.discard(index)
        worker.runs_alone = worker.runs_alone and bool(worker.held)
        # A row may be done twice; the first answer counts.
        if not self._session.journal.finished[index]:
            self._session.deaths.pop(index, None)
            self._session.write(row)

    def _schedule(self) -> None:
        if self._is_stopped:
            return
        ready = [worker for worker in self._workers if worker.is_ready]
        # The emptiest first: near the end every row should begin at once.
        for worker in sorted(ready, key=lambda worker: len(worker.held)):
            while self._has_capacity(worker) and (index := self._rows.next(worker.slot.name)) is not None:
                self._submit(worker, index)
            if not worker.held:
                self._schedule_idle(worker)

    def _submit(self, worker: WorkerHandle, index: int) -> None:
        # A worker holds no more than a window or two of a recording at a time, however long that is.
        window_s = self._session.plan.engine.window_config.window_s
        worker.submit(index, min(self._session.duration_s(index) or window_s, window_s))

    def _schedule_idle(self, worker: WorkerHandle) -> None:
        """To a worker that has nothing: a row to run alone, or copies of what others hold."""
        others = [other.slot.name for other in self._workers if other is not worker]
        if (index := self._rows.next_alone(worker.slot.name, others)) is not None:
            worker.runs_alone = True
            self._submit(worker, index)
            return
        for index in self._held_elsewhere()[: min(worker.capacity, self._fair_share())]:
            self._submit(worker, index)

    def _has_capacity(self, worker: WorkerHandle) -> bool:
        if not worker.held:
            return True
        most_audio_s = (
            self._session.config.max_audio_s or worker.windows * self._session.plan.engine.window_config.window_s
        )
        return (
            not worker.runs_alone
            and len(worker.held) < min(worker.windows, self._fair_share())
            and sum(worker.held.values()) < most_audio_s
        )

    def _fair_share(self) -> int:
        # Rounded up, or the last rows would be in nobody's share.
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

    def _check_for_hangs(self) -> None:
        """A process that does not even send its stage times is stuck, whatever its engine does; and so is one that does
        not come up.
        """
        hang_s = self._session.config.hang_timeout_s
        for worker in list(self._workers):
            most_s = hang_s if worker.is_ready else max(hang_s, MOST_START_S)
            if running_s() - worker.last_message_at > most_s:
                what = "sent nothing for" if worker.is_ready else "did not start within"
                self._on_worker_loss(worker, f"its process {what} {most_s:g} s")

    def _on_worker_loss(self, worker: WorkerHandle, how: str) -> None:
        """A worker that said nothing of its end itself."""
        kind = EngineDiedError if worker.is_ready else EngineStartError
        self._on_worker_death(worker, kind(f"device {worker.slot.name}: {how}"))

    def _on_worker_death(self, worker: WorkerHandle, why: AsrbatchError) -> None:
        """A worker died: what it held is done again, and its device gets another unless that seems pointless."""
        session = self._session
        lost = [index for index in worker.held if not session.journal.finished[index]]
        for index in worker.submitted.intersection(lost):
            before = session.deaths.get(index, Deaths())
            died = self._failures.row_died(index, worker.slot.name, before.engine, worker.runs_alone)
            session.deaths[index] = before._replace(engine=died)
            if died >= GIVE_UP_AFTER:
                session.give_up(index)
        self._remove(worker)
        # Those of the dead engine were counted just now, and must not be counted again by the next session.
        session.begin_in_flight({index for other in self._workers for index in other.submitted})
        for index in lost:
            # A copy in another worker goes on.
            if not session.journal.finished[index] and not any(index in other.held for other in self._workers):
                self._rows.put_back(index)
        self._on_device_failure(worker.slot, why, worker.num_answered, was_alone=worker.runs_alone)

    def _on_device_failure(self, slot: Slot, why: AsrbatchError, num_answered: int, *, was_alone: bool = False) -> None:
        self._session.count_worker_death()
        self._last_error = why
        delay_s = None if self._is_stopped else self._failures.device_died(slot.name, num_answered, was_alone)
        if delay_s is None:
            then = "the other devices do its rows"
        else:
            self._restarts.append((running_s() + delay_s, slot))
            then = "its rows are done again, and it is started again" + (f" in {delay_s:g} s" if delay_s else "")
        self._session.log(f"device {slot.name}: {str(why).removeprefix(f'device {slot.name}: ')}; {then}")

    def _remove(self, worker: WorkerHandle) -> None:
        worker.close()
        self._workers.remove(worker)
        self._past_times.append(worker.stage_times)

    def _stop(self) -> None:
        if self._is_stopped:
            return
        self._stop_by = running_s() + self._session.config.grace_s + _STOP_S
        self._restarts.clear()
        for worker in list(self._workers):
            # One that still starts has nothing in its engine to finish.
            if worker.is_ready:
                worker.stop()
            else:
                self._remove(worker)

    def _shut_down(self) -> None:
        """Lets idle workers send their last stage times."""
        waiting = {worker for worker in self._workers if worker.is_ready and not worker.held}
        for worker in waiting:
            worker.end()
        deadline = running_s() + _SHUTDOWN_S
        while waiting.intersection(self._workers) and running_s() < deadline:
            self._handle(self._events.next(self._tick))

    def _tick(self) -> None:
        wall = 0.0 if self._ready_at is None else time.monotonic() - self._ready_at
        stage_times = [*(worker.stage_times for worker in self._workers), *self._past_times]
        self._session.update(
            _mean(stage_times, wall, len(self._session.plan.slots)),
            in_engine=sum(worker.in_engine for worker in self._workers),
            answered=_farthest([worker.answered for worker in self._workers]),
            capacity=sum(worker.capacity for worker in self._workers),
        )


def _farthest(of_workers: list[dict[int, Answered]]) -> dict[int, Answered]:
    """How far each row is: one that two workers hold is as far as the faster one has come."""
    farthest: dict[int, Answered] = {}
    for answered in of_workers:
        for index, how_far in answered.items():
            farthest[index] = max(how_far, farthest.get(index, how_far), key=lambda known: known.answered_s)
    return farthest


def _mean(stage_times: list[StageTimes], wall: float, num_devices: int) -> StageTimes:
    """One process's stage times over its devices: engine times are means, so that they compare with wall time."""
    total = {field.name: sum(getattr(times, field.name) for times in stage_times) for field in fields(StageTimes)}
    means = {name: total[name] / num_devices for name in ("engine", "full")}
    return StageTimes(**{**total, **means, "wall": wall})


def _share_of(config: RunConfig, slot: Slot, num_devices: int) -> RunConfig:
    """The options of one worker: the cores are shared."""
    # On CPUs a device is a share of the cores already; GPUs share all of them.
    workers = config.workers or min(16, max(1, len(slot.cores) // (1 if slot.device.kind == "cpu" else num_devices)))
    return replace(config, workers=workers)
