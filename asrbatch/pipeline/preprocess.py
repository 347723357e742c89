"""A bounded pool that turns utterances into engine requests: decode, resample, cut into windows, compute features.

A thread takes one utterance at a time and owns one decoder process (a decoder may crash or hang; the thread outlives
it). Audio is decoded as it is needed: of a recording of hours a thread holds a window or two, and it waits for the
budget before it goes on. Threads with nothing to take compute features for those that cut long recordings, so that one
recording at a run's end keeps the engine as busy as many.

Knows the engine only by `preprocess`, and nothing of answers; where windows wait for each other, `longform.py` does.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from asrbatch.audio.buffer import AudioBuffer, AudioWindow
from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import DecodedStream, Decoder
from asrbatch.audio.decoder_process import DecodeRequest
from asrbatch.audio.windows import SPLITTERS, WindowConfig, cut
from asrbatch.engine.base import Engine
from asrbatch.errors import RowError
from asrbatch.pipeline.budget import Budget
from asrbatch.pipeline.given_text import given_texts, given_windows
from asrbatch.pipeline.longform import sequential_windows
from asrbatch.pipeline.queues import TaskQueue
from asrbatch.pipeline.state import InFlightWindow, UtteranceState
from asrbatch.types import Utterance

# How often a thread that waits for the budget looks for windows that wait for a thread.
_POLL_S = 0.05
# What threads may take to end what they are at when the pool is closed; then their decoders are killed.
_CLOSE_S = 1.0


class PreprocessPool:
    """The pool. Its decoder processes start at once, so that they are up when the engine is; work starts with `begin`.

    Args:
        num_workers: threads at work at once, each with a decoder process.

    Attributes:
        num_workers: as given.
        tasks: what waits for its threads; to be put there from any thread.
    """

    def __init__(self, num_workers: int, config: WindowConfig, *, decode_timeout_s: float):
        self.num_workers = num_workers
        self._config, self._decode_timeout_s = config, decode_timeout_s
        # Of sequential windows there are more threads than that, most of them waiting for an answer.
        self._cores = threading.BoundedSemaphore(num_workers)
        self._begun, self._ended = threading.Event(), False
        self.tasks = TaskQueue()
        self._decoders: list[Decoder] = []
        self._threads: list[threading.Thread] = []
        self._add_threads(num_workers, starts_decoder=True)

    def begin(self, engine: Engine, deliver: Callable[[Any], None], budget: Budget, num_recordings: int) -> None:
        """Lets the threads work.

        Args:
            deliver: receives `InFlightWindow`s, each `UtteranceState` once its last window is cut, or the exception of
                a broken thread; from that thread.
            budget: where a thread waits before it computes the features of a window.
            num_recordings: how many may be in the engine at once, where each waits for its own answers.
        """
        self._engine, self._deliver, self._budget = engine, deliver, budget
        if self._config.is_sequential:
            self._add_threads(num_recordings - len(self._threads), starts_decoder=False)
        self._begun.set()

    def close(self) -> None:
        """Ends the threads and their decoders; what they are at is given a second. Utterances waiting are dropped."""
        # First, so that threads which still wait for `begin` do not start to work when they are let go.
        self._ended = True
        # Until `begin` there is no budget to wait for.
        if self._begun.is_set():
            self._budget.close()
        self._begun.set()
        self.tasks.close()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        # One that hangs gives its thread back.
        for decoder in self._decoders:
            decoder.close()

    def _add_threads(self, count: int, *, starts_decoder: bool) -> None:
        for _ in range(count):
            decoder = Decoder(timeout_s=self._decode_timeout_s)
            name = f"asrbatch-preprocess-{len(self._threads)}"
            thread = threading.Thread(target=self._run, args=(decoder, starts_decoder), name=name, daemon=True)
            self._decoders.append(decoder)
            self._threads.append(thread)
            thread.start()

    def _run(self, decoder: Decoder, starts_decoder: bool) -> None:
        try:
            if starts_decoder:
                decoder.start()
            self._begun.wait()
            if not self._ended:
                self._work(decoder)
        except BaseException as e:
            # A defect of ours, or no decoder: the loop raises it in the main thread.
            self._begun.wait()
            if not self._ended:
                self._deliver(e)
        finally:
            decoder.close()

    def _work(self, decoder: Decoder) -> None:
        self._engine.start_preprocess_thread()
        while (task := self.tasks.next()) is not None:
            if isinstance(task, InFlightWindow):
                self._compute_features(task)
                continue
            try:
                task.is_cut_short = task.is_cancelled or not self._cut(task, decoder)
            except RowError as e:
                task.error = e
            # It failed or was stopped before a window of its own took room in place of the reservation.
            if task.reserved_s is not None:
                self._budget.unreserve(task.reserved_s)
            self._deliver(task)

    def _cut(self, state: UtteranceState, decoder: Decoder) -> bool:
        """Delivers the windows of an utterance, or has them delivered. False when it was stopped on the way."""
        rate, covered = self._config.sample_rate, 0
        stream = decoder.stream(_decode_request(state.utterance, self._config))
        with closing(stream):
            for audio in self._windows(state, AudioBuffer(self._blocks(stream, state))):
                # Windows may overlap.
                covers, covered = max(0, audio.window.end - covered), max(audio.window.end, covered)
                window = InFlightWindow(state, state.num_windows, audio, len(audio.samples) / rate, covers / rate)
                if not self._reserve(window):
                    return False
                # A thread that will wait for the answer gains nothing by another that computes the features.
                if self._config.is_sequential or not self.tasks.put_window(window, only_if_idle=True):
                    self._compute_features(window)
                state.num_windows += 1
        state.audio_s, state.flags, state.track = stream.num_samples / rate, stream.flags, stream.track
        return not state.is_cancelled

    def _windows(self, state: UtteranceState, buffer: AudioBuffer) -> Iterator[AudioWindow]:
        config = self._config
        if config.text_field is not None:
            texts = given_texts(state.utterance.fields, config.text_field)
            return given_windows(
                buffer,
                texts,
                config.in_samples,
                state.skips,
                partial(self._engine.has_room_for, language=state.language),
            )
        if config.is_sequential:
            return sequential_windows(buffer, config, state.sequential_answers, state.skips)
        return cut(buffer, config.in_samples, SPLITTERS[config.windows](config.in_samples), state.skips)

    def _blocks(self, stream: DecodedStream, state: UtteranceState) -> Iterator[Any]:
        """The stream's blocks, each decoded when it is asked for."""
        while True:
            with self._computing(state, "read_s"):
                block = next(stream, None)
            state.expected_s = stream.expected_s
            if block is None:
                return
            yield block

    def _reserve(self, window: InFlightWindow) -> bool:
        """Waits for the budget, and computes meanwhile the features that others need to release theirs.

        False: do not go on."""
        state = window.utterance
        while not (state.is_cancelled or state.is_ending or self._budget.is_closed):
            if (other := self.tasks.next_window()) is not None:
                self._compute_features(other)
            elif self._budget.take(window.budget_s, reserved_s=state.reserved_s, timeout_s=_POLL_S):
                state.reserved_s = None
                return True
        return False

    def _compute_features(self, window: InFlightWindow) -> None:
        state = window.utterance
        try:
            with self._computing(window, "preprocess_s"):
                window.request = self._engine.preprocess(window.audio.samples, state.prompt, state.language)
                window.peak = window.request.peak if not window.is_tail else window.peak
        except RowError as e:
            window.error = e
        # A tail is part of a window that has passed there already.
        for ready in [window] if window.is_tail else state.peaks.add(window):
            ready.clamp()
            self._deliver(ready)

    @contextmanager
    def _computing(self, owner: UtteranceState | InFlightWindow, seconds: str) -> Iterator[None]:
        """Within the number of workers; the time it takes is added to an attribute of what it is spent on."""
        with self._cores:
            started = time.monotonic()
            try:
                yield
            finally:
                setattr(owner, seconds, getattr(owner, seconds) + time.monotonic() - started)


def _decode_request(utterance: Utterance, config: WindowConfig) -> DecodeRequest:
    # Let through by --on-bad-row fail: a fault of the row, told when its turn has come.
    if utterance.problem is not None:
        raise RowError("bad_row", utterance.problem)
    audio = utterance.audio
    track = config.track if utterance.track is None else utterance.track
    clip = Clip(audio.name, utterance.offset_s, utterance.duration_s, utterance.channel, config.max_s, track)
    return DecodeRequest(audio.resolve(), clip, config.sample_rate, config.min_samples)
