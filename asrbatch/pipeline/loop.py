"""THE LOOP: take utterances, have them preprocessed, submit their windows, write each row after its last answer.

It runs in one thread and owns all its state. Preprocess threads and engine answer through one queue of events, so there
is one place where things happen, one after the other:

    manifest -> schedule -> [preprocess pool] -> submit -> [engine] -> collect -> postprocess -> row

Where words are timed, the engine is given each answer back, and the row waits for its words. Knows nothing of vLLM, of
audio formats or of files. Memory is bounded by the `Budget`, whatever the manifest's length.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from asrbatch.config import RunConfig
from asrbatch.engine.base import AlignedWords, DecodingOptions, Engine, Outcome
from asrbatch.engine.spec import EngineSpec
from asrbatch.errors import EngineDiedError, RowError
from asrbatch.models import quality
from asrbatch.models.fallback import Attempts
from asrbatch.pipeline.budget import Budget
from asrbatch.pipeline.longform import unheard_tail
from asrbatch.pipeline.monitor import Answered, EngineMonitor, StageTimes
from asrbatch.pipeline.preprocess import PreprocessPool
from asrbatch.pipeline.queues import EngineOutcome, EventQueue, StopRequest
from asrbatch.pipeline.result import failed_row, ok_row
from asrbatch.pipeline.state import InFlightWindow, UtteranceState
from asrbatch.timeouts import running_s
from asrbatch.types import DecodingResult, Utterance


class Pipeline:
    """One loop over some utterances; made by `assembly.make_pipeline`.

    Args:
        events: the queue that the engine's outcomes come through.
        spec: languages spoken and written, temperatures and timestamps.
        write: takes a finished row.
        on_submit: called with an utterance's index before its first window enters the engine.
        on_tick: called a few times a second with the stage times so far, the number of windows in the engine, and how
            far recordings are of which some is answered.
    """

    def __init__(
        self,
        engine: Engine,
        pool: PreprocessPool,
        events: EventQueue,
        budget: Budget,
        config: RunConfig,
        spec: EngineSpec,
        write: Callable[[dict[str, Any]], None],
        on_submit: Callable[[int], None],
        on_tick: Callable[[StageTimes, int, dict[int, Answered]], None],
    ):
        self.engine, self.budget, self._grace_s = engine, budget, config.grace_s
        self.monitor = EngineMonitor(engine.max_num_seqs, config.hang_timeout_s)
        self._pool, self._events, self._spec, self._windows = pool, events, spec, spec.window_config
        self._write, self._on_submit, self._on_tick = write, on_submit, on_tick
        self._working: dict[int, UtteranceState] = {}
        self._in_flight: dict[tuple[int, int], InFlightWindow] = {}
        # Answered, and their words are being timed; those are True that hold a part of the budget until then.
        self._aligning: dict[InFlightWindow, bool] = {}
        self._source_ended = False
        self._stop_by = math.inf

    @property
    def stopped(self) -> bool:
        return self._stop_by < math.inf

    def request_stop(self) -> None:
        """Takes no more rows; what is in the engine is finished within the grace period. Safe in a signal handler."""
        self._events.put(StopRequest())

    def wake(self) -> None:
        """Makes the loop look for more work at once. Safe in any thread."""
        self._events.put(None)

    def run(self, utterances: Iterable[Utterance | None], *, alone: bool = False) -> None:
        """Transcribes until the utterances end or a stop is requested and its grace is over.

        Args:
            utterances: in the order they are taken; None where there is none at the moment (`wake` when there is).
            alone: one utterance at a time, with nothing else in the engine.

        Raises:
            EngineDiedError: the engine died; rows written so far are written.
        """
        source = iter(utterances)
        self._source_ended = False
        self.monitor.start()
        try:
            self._schedule(source, alone)
            while self._working or not (self._source_ended or self.stopped):
                if running_s() >= self._stop_by:
                    break
                self._handle(self._events.next(self._watch))
                self._schedule(source, alone)
            self._tick()
        finally:
            self._track()
            # Threads may wait for answers that will not come.
            for state in self._working.values():
                state.cancel()

    def _schedule(self, source: Iterator[Utterance | None], alone: bool) -> None:
        """Hands utterances to the pool as long as the budget allows."""
        window_s = self._windows.window_s
        while not (self.stopped or self._source_ended):
            is_full = bool(self._working) if alone else not self.budget.has_capacity()
            if is_full:
                return
            try:
                utterance = next(source)
            except StopIteration:
                self._source_ended = True
                return
            if utterance is None:
                return
            state = UtteranceState(utterance, self._spec.language_of(utterance), self._spec.prompt_of(utterance))
            # One that does not state its duration is taken for a full window until it is decoded.
            state.reserved_s = min(utterance.duration_s or window_s, window_s)
            self._working[utterance.index] = state
            self.budget.reserve(state.reserved_s)
            self._pool.tasks.put_utterance(state)

    def _watch(self) -> None:
        self._tick()
        # After a disk that was slow, or a stop of this process, answers lie in the queue.
        if self._events.is_empty():
            self.monitor.check_for_hang()

    def _track(self, *, is_answer: bool = False) -> None:
        self.monitor.track(len(self._in_flight), len(self._aligning), is_answer=is_answer)

    def _tick(self) -> None:
        self._track()
        begun = [(index, state) for index, state in self._working.items() if state.answered_s]
        answered = {index: Answered(state.answered_s, state.expected_s) for index, state in begun}
        self._on_tick(self.monitor.times, len(self._in_flight), answered)

    def _handle(self, event: Any) -> None:
        match event:
            case None:
                pass
            case StopRequest():
                self._stop()
            case InFlightWindow():
                self._on_features(event)
            case UtteranceState():
                self._on_preprocessed(event)
            case EngineOutcome(InFlightWindow() as window, AlignedWords() as words):
                self._on_words(window, words)
            case EngineOutcome(key, outcome):
                self._collect(key, outcome)
            case BaseException():
                raise event
            case _:
                raise TypeError(f"unknown event {event!r}")

    def _on_features(self, window: InFlightWindow) -> None:
        """A window has its features, or none can be computed."""
        state = window.utterance
        if state.is_cancelled or window.error:
            self._drop(window, window.error)
            return
        # Noted before the engine sees it, so that a row that kills the engine is known to the next session.
        if not state.is_submitted:
            self._on_submit(state.utterance.index)
            state.is_submitted = True
        state.preprocess_s += window.preprocess_s
        self.monitor.times.prepare += window.preprocess_s
        window.attempts = Attempts(self._spec.temperatures)
        # The first window says which language is spoken, so that all of a recording is written in one.
        is_unknown = state.language is None and self._spec.detects_language and not state.answered
        if window.number and is_unknown:
            state.held_back.append(window)
        else:
            self._submit(window)

    def _submit(self, window: InFlightWindow) -> None:
        state, temperature, request = window.utterance, window.attempts.next_temperature, window.request
        # Only a window with features, and with a temperature left to try, comes here.
        assert temperature is not None and request is not None
        language = state.language or state.detected_language
        audio, timestamps = window.audio, self._spec.timestamps
        options = DecodingOptions(language, audio.previous, temperature, timestamps, audio.given or None)
        self._track()
        self._in_flight[window.key] = window
        window.shared_from = self.monitor.share_s
        self.engine.submit(window.key, request, options)

    def _collect(self, key: tuple[int, int], outcome: Outcome) -> None:
        """The engine has an answer: it is asked again at a higher temperature, or the answer counts."""
        self._track(is_answer=True)
        # All windows have failed with it; there may have been none, and so no key.
        if isinstance(outcome, EngineDiedError):
            raise outcome
        window = self._in_flight.pop(key)
        self._count_share(window)
        if isinstance(outcome, RowError):
            self._drop(window, outcome)
        elif window.utterance.is_cancelled:
            self._drop(window, None)
        else:
            assert isinstance(outcome, DecodingResult)  # words come to `_on_words`
            window.attempts.add(outcome)
            if window.attempts.next_temperature is None:
                self._postprocess(window)
            else:
                self._submit(window)

    def _count_share(self, window: InFlightWindow) -> None:
        """Adds to its row what a window had of the engine since that was last counted; call after `_track`."""
        if window.shared_from is not None:
            window.utterance.engine_s += self.monitor.share_s - window.shared_from
            window.shared_from = None

    def _drop(self, window: InFlightWindow, error: RowError | None) -> None:
        """A window will have no answer; a stop or another window may have let its utterance go already."""
        self.budget.release(window.budget_s)
        self._discard(window)
        if error and not window.utterance.is_cancelled:
            self._fail(window.utterance, error)

    def _postprocess(self, window: InFlightWindow) -> None:
        """A window has its answer: its tail, and the windows that waited for it, come next."""
        state, result = window.utterance, window.attempts.chosen
        # Sequential windows leave no tail: the next one starts where this one was heard to.
        start = None if self._windows.is_sequential else unheard_tail(window.audio, result, self._windows.in_samples)
        self._time_words(window, result, releases_budget=start is None)
        if start is not None:
            # Within the budget that the whole window holds.
            self._pool.tasks.put_window(window.tail(start))
        else:
            state.num_finished += 1
            state.answered_s += window.covers_s
        window.drop_audio()
        state.answered.append(window)
        state.sequential_answers.put(result)
        state.detected_language = state.detected_language or result.language
        while state.held_back:
            self._submit(state.held_back.pop(0))
        self._write_if_done(state)

    def _time_words(self, window: InFlightWindow, result: DecodingResult, *, releases_budget: bool) -> None:
        """Has the words of an answer timed, where that is wanted and there are some. Nothing waits for it but its row
        and, because the features are still needed, the budget."""
        is_dropped = self._windows.drop_no_speech and quality.is_no_speech(result)
        if self._spec.word_timestamps and result.text.strip() and not is_dropped:
            assert window.request is not None  # only an answered window comes here
            self._aligning[window] = releases_budget
            window.shared_from = self.monitor.share_s
            window.utterance.num_aligning += 1
            self.engine.align(window, window.request, result, window.num_samples)
            return
        self._discard(window)
        if releases_budget:
            self.budget.release(window.budget_s)

    def _discard(self, window: InFlightWindow) -> None:
        if self._spec.word_timestamps and window.request is not None:
            self.engine.discard(window.request)

    def _on_words(self, window: InFlightWindow, words: AlignedWords) -> None:
        """The words of an answer have their times."""
        state = window.utterance
        self._track(is_answer=True)
        if self._aligning.pop(window):
            self.budget.release(window.budget_s)
        self._count_share(window)
        window.set_words(words)
        self.monitor.times.encoded_again += words.is_encoded_again
        state.num_aligning -= 1
        if not state.is_cancelled:
            self._write_if_done(state)

    def _on_preprocessed(self, state: UtteranceState) -> None:
        """All windows of an utterance are cut, or a thread gave it up."""
        if state.is_cancelled:
            return
        if state.is_cut_short:
            self._release(state)
        elif state.error:
            self._fail(state, state.error)
        else:
            state.is_preprocessed = True
            self._write_if_done(state)

    def _write_if_done(self, state: UtteranceState) -> None:
        if state.is_preprocessed and state.num_finished == state.num_windows and not state.num_aligning:
            self._write_row(state, ok_row(state, self._spec))

    def _fail(self, state: UtteranceState, error: RowError) -> None:
        if state.is_submitted:  # most have not come so far, and there may be many
            # Windows still in the engine have had their part as well; what they have from here on is lost.
            self._track()
            for window in (*self._in_flight.values(), *self._aligning):
                if window.utterance is state:
                    self._count_share(window)
        self._write_row(
            state, failed_row(state.utterance, error, state.timing, aligns=self._windows.text_field is not None)
        )

    def _write_row(self, state: UtteranceState, row: dict[str, Any]) -> None:
        started = time.monotonic()
        self._write(row)
        self.monitor.times.write += time.monotonic() - started
        self.monitor.times.read += state.read_s
        self._release(state)

    def _stop(self) -> None:
        """What has not reached the engine is let go: it is unfinished, and the next session takes it again."""
        if self.stopped:
            return
        self._stop_by = running_s() + self._grace_s
        # Their reservations stay: after a stop nobody asks for capacity.
        self._pool.tasks.drop_utterances()
        for state in [s for s in self._working.values() if not s.is_preprocessed]:
            state.is_ending = True
            # Of one that has begun, all windows may be in the engine already.
            if not state.is_submitted:
                self._release(state)

    def _release(self, state: UtteranceState) -> None:
        # Windows of it that are still to come are dropped when they do.
        state.cancel()
        for window in state.held_back:
            self.budget.release(window.budget_s)
        del self._working[state.utterance.index]
