"""The one loop: take rows, prepare them, feed the engine, write each row when its last window returns.

Runs in one thread and owns all its state; preparation and engine answer through one queue. Knows nothing of vLLM, of
audio formats or of files. Memory is bounded by `Limits`, whatever the manifest's length.
"""

import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.engine.base import DecodingOptions, Engine, Failure
from asrbatch.engine.spec import EngineSpec
from asrbatch.errors import EngineDiedError, RowError
from asrbatch.models.fallback import Attempts
from asrbatch.pipeline.budget import Budget, Limits
from asrbatch.pipeline.longform import unheard_tail
from asrbatch.pipeline.preprocess import PreprocessPool, PreprocessResult, UtteranceTask, WindowRequest
from asrbatch.pipeline.queues import IterableSource, QueueSource, UtteranceSource
from asrbatch.pipeline.result import WindowResult, failed_row, ok_row
from asrbatch.pipeline.state import InFlightWindow, StageTimes, UtteranceState
from asrbatch.types import DecodingResult, Utterance

_STOP = "stop"
_TICK_S = 0.1


class Pipeline:
    """One run of the loop over some utterances.

    Args:
        engine: for its `submit` and `max_num_seqs`.
        pool: the pool; the pipeline lets it begin, its maker closes it.
        write: takes a finished row.
        submitted: told an utterance's index before its first window enters the engine.
        tick: called a few times a second, to let others report.
        asks: languages spoken and written, temperatures and timestamps.
        rules: of the windows.
        events: the queue that the engine delivers `(key, outcome)` into.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: PreprocessPool,
        events: SimpleQueue,
        limits: Limits,
        write: Callable[[dict[str, Any]], None],
        submitted: Callable[[int], None],
        tick: Callable[[], None],
        asks: EngineSpec,
        rules: WindowConfig,
    ):
        self._engine, self._events, self._limits = engine, events, limits
        self._write, self._submitted, self._tick = write, submitted, tick
        self._asks, self._rules = asks, rules
        self._budget = Budget(limits.windows, limits.audio_s)
        self._pool = pool
        pool.begin(engine, events.put, self._budget, min(limits.windows, engine.max_num_seqs + pool.num_workers))
        self._working: dict[int, UtteranceState] = {}
        self._asked: dict[tuple[int, int], InFlightWindow] = {}
        self._in_engine = 0
        self._level_since = time.monotonic()
        self._stop_by: float | None = None
        self._ticked_at = 0.0
        self._answered_at = time.monotonic()
        self.stage_times = StageTimes()

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

    def run(self, utterances: Iterable[Utterance] | QueueSource, *, alone: bool = False) -> None:
        """Transcribes until the utterances end or a stop is requested and its grace is over.

        Args:
            utterances: in the order they are taken; a `QueueSource` may be filled meanwhile.
            alone: one utterance at a time, with nothing else in the engine.

        Raises:
            EngineDiedError: the engine died; rows written so far are written.
        """
        source = utterances if isinstance(utterances, QueueSource) else IterableSource(utterances)
        self._level_since = time.monotonic()
        try:
            self._take(source, alone)
            while (self._working or not (source.ended or self.stopped)) and not self._out_of_time():
                self._handle(self._next_event())
                self._take(source, alone)
        finally:
            self._engine_holds(self._in_engine)
            for work in self._working.values():  # threads may wait for answers that will not come
                work.job.cancel()

    def _take(self, source: UtteranceSource, alone: bool) -> None:
        while not self.stopped and self._has_capacity(alone) and (utterance := source.take()):
            # An utterance without a duration is taken for a full window until it is decoded.
            job = UtteranceTask(utterance, min(utterance.duration_s or self._rules.window_s, self._rules.window_s))
            self._working[utterance.index] = UtteranceState(job, time.monotonic(), self._asks.language_of(utterance))
            self._budget.reserve(job.reserved_s)
            self._pool.put(job)

    def _has_capacity(self, alone: bool) -> bool:
        return not self._working if alone else self._budget.has_capacity()

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
            case WindowRequest():
                self._submit(event)
            case PreprocessResult():
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
        self._pool.drop_waiting()
        for work in [w for w in self._working.values() if w.prepared is None]:
            work.job.is_ending = True
            if not work.is_begun:  # else all of it may be in the engine
                self._release(work)

    def _out_of_time(self) -> bool:
        return self.stopped and time.monotonic() >= self._stop_by

    def _submit(self, ready: WindowRequest) -> None:
        work = self._working.get(ready.job.utterance.index)
        if work is None:  # let go by a stop, or failed
            self._budget.release(ready.audio_s)
            return
        if not work.is_begun:
            self._submitted(ready.job.utterance.index)
        work.prepare_s = (work.prepare_s or 0.0) + ready.prepare_s
        self.stage_times.prepare += ready.prepare_s
        if ready.number and work.language is None and self._asks.detects_language and 0 not in work.heard:
            work.held_back.append(ready)
        else:
            self._ask(work, ready)

    def _ask(self, work: UtteranceState, ready: WindowRequest) -> None:
        asked = InFlightWindow(ready, Attempts(self._asks.temperatures))
        self._asked[ready.job.utterance.index, ready.number] = asked
        self._attempt(work, asked, self._asks.temperatures[0])

    def _attempt(self, work: UtteranceState, asked: InFlightWindow, temperature: float) -> None:
        ready = asked.ready
        question = DecodingOptions(work.language, ready.piece.previous, temperature, self._asks.timestamps)
        self._engine_holds(self._in_engine + 1)
        self._engine.submit((ready.job.utterance.index, ready.number), ready.request, question)

    def _collect(self, index: int, number: int, outcome: DecodingResult | Failure) -> None:
        self._engine_holds(self._in_engine - 1)
        self._answered_at = time.monotonic()
        if isinstance(outcome, Failure) and isinstance(outcome.error, EngineDiedError):
            raise outcome.error
        asked, work = self._asked[index, number], self._working.get(index)
        if work is None:  # another window of this utterance failed already
            self._forget(index, number)
        elif isinstance(outcome, Failure):
            self._forget(index, number)
            self._fail(work, outcome.error)
        else:
            asked.attempts.add(outcome)
            if (temperature := asked.attempts.next_temperature) is not None:
                self._attempt(work, asked, temperature)
            else:
                self._answered(work, asked)

    def _answered(self, work: UtteranceState, asked: InFlightWindow) -> None:
        ready, chosen = asked.ready, asked.attempts.chosen
        work.heard.setdefault(ready.number, []).append(WindowResult(ready.piece.window, asked.attempts))
        rest = None if self._rules.is_sequential else unheard_tail(ready.piece, chosen, self._rules.in_samples)
        if rest is not None:
            del self._asked[ready.job.utterance.index, ready.number]
            self._pool.put_rest(ready, rest)
        else:
            self._forget(ready.job.utterance.index, ready.number)
            work.whole.add(ready.number)
        work.job.answer(chosen)
        work.language = work.language or chosen.language  # detected once, for all its windows
        if ready.number == 0:
            held_back, work.held_back = work.held_back, []
            for window in held_back:
                self._ask(work, window)
        if work.is_done:
            self._finish(work)

    def _forget(self, index: int, number: int) -> None:
        self._budget.release(self._asked.pop((index, number)).ready.audio_s)

    def _end(self, prepared: PreprocessResult) -> None:
        work = self._working.get(prepared.job.utterance.index)
        if work is None:
            return
        if prepared.is_cut_short:
            self._release(work)
            return
        work.prepared = work.prepared or prepared  # the rest of a window may fail when all is read
        self.stage_times.read += prepared.read_s or 0.0
        if prepared.error:
            self._fail(work, prepared.error)
        elif work.is_done:
            self._finish(work)

    def _finish(self, work: UtteranceState) -> None:
        prepared = work.prepared
        row = ok_row(
            work.job.utterance,
            audio_s=prepared.audio_s,
            sample_rate=self._rules.sample_rate,
            heard=[heard for i in range(prepared.num_windows) for heard in work.heard[i]],
            skips=prepared.skips,
            flags=prepared.flags,
            drop_no_speech=self._rules.drop_no_speech,
            is_translated=self._asks.is_translated,
            target_language=self._asks.target_language,
            timing=work.timing,
        )
        self._put(work, row)

    def _fail(self, work: UtteranceState, error: RowError) -> None:
        self._put(work, failed_row(work.job.utterance, error, work.timing))

    def _put(self, work: UtteranceState, row: dict[str, Any]) -> None:
        started = time.monotonic()
        self._write(row)
        self.stage_times.write += time.monotonic() - started
        self._release(work)

    def _release(self, work: UtteranceState) -> None:
        work.job.cancel()  # as far as anything of it is still to come
        for ready in work.held_back:
            self._budget.release(ready.audio_s)
        del self._working[work.job.utterance.index]

    def _engine_holds(self, windows: int) -> None:
        """Books the time since the last change under the level the engine had."""
        now = time.monotonic()
        self.stage_times.wall += now - self._level_since
        if self._in_engine > 0:
            self.stage_times.engine += now - self._level_since
        if self._in_engine >= self._engine.max_num_seqs:
            self.stage_times.full += now - self._level_since
        self._in_engine, self._level_since = windows, now
