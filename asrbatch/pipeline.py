"""The one loop: take rows, prepare them, feed the engine, write each row when its last window returns.

Runs in one thread and owns all its state; preparation and engine answer through one queue. Knows nothing of vLLM, of
audio formats or of files. Memory is bounded by `Limits`, whatever the manifest's length.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .config import RunConfig
from .engine import Engine, Failure
from .errors import EngineDiedError, RowError
from .feed import Feed, Given, Source
from .output.rows import failed_row, ok_row
from .preparation import Job, Prepared, PreparedWindow, Preparers
from .room import Room
from .types import Generation, Utterance, Window

_STOP = "stop"
_TICK_S = 0.1


@dataclass(frozen=True)
class Limits:
    """Bounds on what is between the manifest and the output.

    Attributes:
        windows: windows being prepared, waiting for the engine, or in it, and rows that wait for their turn.
        audio_s: seconds of audio in them; reached, no more is taken. The last window taken may exceed it.
        grace_s: seconds a stopped run may take to finish what is in the engine.
        hang_timeout_s: seconds an engine that holds windows may answer none before it is taken for dead.
    """

    windows: int
    audio_s: float
    grace_s: float
    hang_timeout_s: float = 1800.0

    @classmethod
    def of(cls, config: RunConfig, engine: Engine, window_s: float) -> "Limits":
        """What the options ask for; by default twice as many full windows as the engine works on at once."""
        windows = config.max_windows or 2 * engine.max_num_seqs
        return cls(windows, config.max_audio_s or windows * window_s, config.grace_s, config.hang_timeout_s)


@dataclass
class Clocks:
    """Where a run's wall time went; seconds.

    Attributes:
        wall: from the loop's start to its end.
        engine: of those, how long the engine held at least one window.
        full: of those, how long it held as many windows as it works on at once.
        read, prepare: summed over the preparation threads, beside the engine.
        write: spent writing rows.
    """

    wall: float = 0.0
    engine: float = 0.0
    full: float = 0.0
    read: float = 0.0
    prepare: float = 0.0
    write: float = 0.0

    @property
    def starved(self) -> float:
        """How long the engine had nothing to do."""
        return max(0.0, self.wall - self.engine)


@dataclass
class _Work:
    """An utterance between being taken and being written."""

    job: Job
    taken_at: float
    prepared: Prepared | None = None
    windows: dict[int, Window] = field(default_factory=dict)
    generations: dict[int, Generation] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.prepared is not None and len(self.generations) == self.prepared.num_windows


class Pipeline:
    """One run of the loop over some utterances.

    Args:
        engine: for its `submit` and `max_num_seqs`.
        preparers: the pool; the pipeline lets it begin, its maker closes it.
        write: takes a finished row.
        submitted: told an utterance's index before its first window enters the engine.
        tick: called a few times a second, to let others report.
        sample_rate: Hz, of the windows.
        window_s: the longest window, in seconds: what an utterance without a duration is taken for until it is decoded.
        events: the queue that the engine delivers `(key, outcome)` into.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        preparers: Preparers,
        events: SimpleQueue,
        limits: Limits,
        write: Callable[[dict[str, Any]], None],
        submitted: Callable[[int], None],
        tick: Callable[[], None],
        sample_rate: int,
        window_s: float,
    ):
        self._engine, self._events, self._limits = engine, events, limits
        self._write, self._submitted, self._tick = write, submitted, tick
        self._sample_rate, self._window_s = sample_rate, window_s
        self._room = Room(limits.windows, limits.audio_s)
        self._preparers = preparers
        preparers.begin(engine, events.put, self._room)
        self._working: dict[int, _Work] = {}
        self._asked: dict[tuple[int, int], float] = {}  # windows in the engine, with the room they hold
        self._in_engine = 0
        self._level_since = time.monotonic()
        self._stop_by: float | None = None
        self._ticked_at = 0.0
        self._answered_at = time.monotonic()
        self.clocks = Clocks()

    @property
    def stopped(self) -> bool:
        return self._stop_by is not None

    @property
    def in_engine(self) -> int:
        """Windows in the engine now."""
        return self._in_engine

    def request_stop(self) -> None:
        """Takes no more rows; what is in the engine is finished within the grace period. Safe in a signal handler."""
        self._events.put(_STOP)

    def wake(self) -> None:
        """Makes the loop look for more work at once. Safe in any thread."""
        self._events.put(None)

    def run(self, utterances: Iterable[Utterance] | Feed, *, alone: bool = False) -> None:
        """Transcribes until the utterances end or a stop is requested and its grace is over.

        Args:
            utterances: in the order they are taken; a `Feed` may be filled meanwhile.
            alone: one utterance at a time, with nothing else in the engine.

        Raises:
            EngineDiedError: the engine died; rows written so far are written.
        """
        source = utterances if isinstance(utterances, Feed) else Given(utterances)
        self._level_since = time.monotonic()
        try:
            self._take(source, alone)
            while (self._working or not (source.ended or self.stopped)) and not self._out_of_time():
                self._handle(self._next_event())
                self._take(source, alone)
        finally:
            self._engine_holds(self._in_engine)

    def _take(self, source: Source, alone: bool) -> None:
        while not self.stopped and self._has_room(alone) and (utterance := source.take()):
            job = Job(utterance, min(utterance.duration_s or self._window_s, self._window_s))
            self._working[utterance.index] = _Work(job, time.monotonic())
            self._room.reserve(job.reserved_s)
            self._preparers.put(job)

    def _has_room(self, alone: bool) -> bool:
        return not self._working if alone else self._room.has_room()

    def _next_event(self) -> Any:
        if time.monotonic() - self._ticked_at >= _TICK_S:
            self._ticked_at = time.monotonic()
            self._engine_holds(self._in_engine)
            self._check_that_it_answers()
            self._tick()
        try:
            return self._events.get(timeout=0.2)
        except Empty:
            return None

    def _check_that_it_answers(self) -> None:
        """A GPU that hangs holds its requests for ever, and nobody says so."""
        now = time.monotonic()
        if not self._in_engine:
            self._answered_at = now
        elif now - self._answered_at > self._limits.hang_timeout_s:
            since = f"has answered none for {self._limits.hang_timeout_s:g} s (--hang-timeout)"
            raise EngineDiedError(f"the engine hangs: it holds {self._in_engine} windows and {since}")

    def _handle(self, event: Any) -> None:
        match event:
            case None:
                pass
            case "stop":
                self._stop()
            case PreparedWindow():
                self._submit(event)
            case Prepared():
                self._end(event)
            case None, Failure() as failure:
                raise failure.error
            case (int() as index, int() as window), outcome:
                self._collect(index, window, outcome)
            case BaseException():
                raise event
            case _:
                raise TypeError(f"unknown event {event!r}")

    def _stop(self) -> None:
        """What has not reached the engine is let go: it is unfinished, and the next session takes it again."""
        if self.stopped:
            return
        self._stop_by = time.monotonic() + self._limits.grace_s
        self._preparers.drop_waiting()
        for work in [w for w in self._working.values() if w.prepared is None]:
            work.job.is_cancelled = True
            if not work.windows:  # else it may be all there, and only not said yet
                self._release(work)

    def _out_of_time(self) -> bool:
        return self.stopped and time.monotonic() >= self._stop_by

    def _submit(self, ready: PreparedWindow) -> None:
        index = ready.job.utterance.index
        work = self._working.get(index)
        if work is None:  # let go by a stop, or failed
            self._room.give_back(ready.audio_s)
            return
        if ready.number == 0:
            self._submitted(index)
        key = (index, ready.number)
        work.windows[ready.number] = ready.window
        self._asked[key] = ready.audio_s
        self._engine_holds(self._in_engine + 1)
        self._engine.submit(key, ready.request)

    def _end(self, prepared: Prepared) -> None:
        work = self._working.get(prepared.job.utterance.index)
        if work is None:
            return
        if prepared.is_cut_short:
            self._release(work)
            return
        work.prepared = prepared
        self.clocks.read += prepared.read_s
        self.clocks.prepare += prepared.prepare_s or 0.0
        if prepared.error:
            self._fail(work, prepared.error)
        elif work.is_done:
            self._finish(work)

    def _collect(self, index: int, window: int, outcome: Generation | Failure) -> None:
        self._engine_holds(self._in_engine - 1)
        self._answered_at = time.monotonic()
        self._room.give_back(self._asked.pop((index, window)))
        if isinstance(outcome, Failure) and isinstance(outcome.error, EngineDiedError):
            raise outcome.error
        work = self._working.get(index)
        if work is None:  # another window of this utterance failed already
            return
        if isinstance(outcome, Failure):
            self._fail(work, outcome.error)
            return
        work.generations[window] = outcome
        if work.is_done:
            self._finish(work)

    def _finish(self, work: _Work) -> None:
        prepared = work.prepared
        row = ok_row(
            work.job.utterance,
            audio_s=prepared.audio_s,
            sample_rate=self._sample_rate,
            windows=[work.windows[i] for i in range(prepared.num_windows)],
            generations=[work.generations[i] for i in range(prepared.num_windows)],
            flags=prepared.flags,
            timing=self._timing(work),
        )
        self._put(work, row)

    def _fail(self, work: _Work, error: RowError) -> None:
        self._put(work, failed_row(work.job.utterance, error, self._timing(work)))

    def _timing(self, work: _Work) -> dict[str, float | None]:
        read_s, prepare_s = (work.prepared.read_s, work.prepared.prepare_s) if work.prepared else (None, None)
        return {"read": read_s, "prepare": prepare_s, "total": time.monotonic() - work.taken_at}

    def _put(self, work: _Work, row: dict[str, Any]) -> None:
        started = time.monotonic()
        self._write(row)
        self.clocks.write += time.monotonic() - started
        self._release(work)

    def _release(self, work: _Work) -> None:
        work.job.is_cancelled = True  # as far as anything of it is still to come
        del self._working[work.job.utterance.index]

    def _engine_holds(self, windows: int) -> None:
        """Books the time since the last change under the level the engine had."""
        now = time.monotonic()
        self.clocks.wall += now - self._level_since
        if self._in_engine > 0:
            self.clocks.engine += now - self._level_since
        if self._in_engine >= self._engine.max_num_seqs:
            self.clocks.full += now - self._level_since
        self._in_engine, self._level_since = windows, now
