"""A bounded pool that turns utterances into engine requests: decode, resample, cut into windows, compute features.

A thread takes one utterance at a time and owns one decoder process (a decoder may crash or hang; the thread outlives
it). Audio is decoded as it is needed: of a recording of hours a thread holds a window or two, and it waits for room
before it prepares the next. Threads with nothing to take compute features for those that cut long recordings, so that
one recording at a run's end keeps the engine as busy as many.

With `sequential` windows a thread also waits for the answer to one window before it cuts the next. There are then as
many threads as recordings the engine can work on at once, and no more of them at work than `num_workers`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

from asrbatch.audio.buffer import AudioBuffer, AudioWindow
from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import DecodeRequest
from asrbatch.audio.silence import SpeechOnlyBuffer, silence_tracker
from asrbatch.audio.windows import SPLITTERS, WindowConfig, cut
from asrbatch.engine.base import Engine, Request
from asrbatch.errors import RowError
from asrbatch.pipeline.budget import Budget
from asrbatch.pipeline.longform import decode_sequentially
from asrbatch.pipeline.queues import ReorderBuffer, TaskQueue
from asrbatch.types import DecodingResult, Utterance, Window

# How often a thread that waits for room looks for features that wait for a thread.
_LOOK_EVERY_S = 0.05


class UtteranceTask:
    """An utterance on its way through the pool.

    Attributes:
        reserved_s: seconds of audio that are reserved for it; None once it holds room of its own.
        is_cancelled: nobody wants the rest of it.
        is_ending: the run is being stopped: it is wanted only if no further window is needed.
        peak_so_far: where its windows wait until it is known how loud the recording was before them.
    """

    def __init__(self, utterance: Utterance, reserved_s: float):
        self.utterance = utterance
        self.reserved_s: float | None = reserved_s
        self.is_cancelled = self.is_ending = False
        self.peak_so_far = ReorderBuffer()
        self._answers: SimpleQueue[DecodingResult | None] = SimpleQueue()

    def cancel(self) -> None:
        self.is_cancelled = True
        self._answers.put(None)

    def answer(self, generation: DecodingResult) -> None:
        """The answer to its next window; to be given in order."""
        self._answers.put(generation)

    def next_answer(self) -> DecodingResult | None:
        """Waits for the answer to its next window. None when it was cancelled."""
        return None if self.is_cancelled else self._answers.get()


@dataclass(frozen=True)
class WindowRequest:
    """A window ready for the engine.

    Attributes:
        number: 0-based place among the windows of its utterance.
        piece: the window with its audio, of which the rest may have to be asked again.
        audio_s: room it holds until it is answered.
        prepare_s: seconds spent on its features.
        peak: the loudest feature of the recording up to its end; None where that does not matter.
    """

    job: UtteranceTask
    number: int
    piece: AudioWindow
    request: Request
    audio_s: float
    prepare_s: float
    peak: float | None = None


@dataclass(frozen=True)
class PreprocessResult:
    """All windows of an utterance are prepared or being prepared; or the reason why it cannot be transcribed.

    Attributes:
        audio_s: seconds of audio decoded.
        flags: of the audio.
        num_windows: how many there are.
        skips: audio that nobody is asked about.
        read_s: seconds spent on decoding; None when it did not come to that.
        is_cut_short: it was cancelled on the way.
    """

    job: UtteranceTask
    error: RowError | None = None
    audio_s: float = 0.0
    flags: tuple[str, ...] = ()
    num_windows: int = 0
    skips: tuple[Window, ...] = ()
    read_s: float | None = None
    is_cut_short: bool = False


@dataclass(frozen=True)
class FeatureTask:
    """Features to be computed; room for them is taken.

    Attributes:
        read_s: seconds spent on decoding so far; None where that is told elsewhere.
        rest_of: the window this is the rest of, if it is one.
    """

    job: UtteranceTask
    number: int
    piece: AudioWindow
    audio_s: float
    read_s: float | None
    rest_of: WindowRequest | None = None


class PreprocessPool:
    """The pool. Its decoder processes start at once, so that they are up when the engine is; work starts with `begin`.

    Args:
        num_workers: threads at work at once, each with a decoder process.
        prompt_of: the prompt an utterance is asked with, or None.
        language_of: the language it is asked in; None has it detected, or leaves it to the model.

    Attributes:
        num_workers: as given.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        rules: WindowConfig,
        decode_timeout_s: float,
        prompt_of: Callable[[Utterance], str | None],
        language_of: Callable[[Utterance], str | None] = lambda utterance: None,
    ):
        self.num_workers = num_workers
        self._rules, self._decode_timeout_s, self._prompt_of = rules, decode_timeout_s, prompt_of
        self._language_of = language_of
        self._cores = threading.BoundedSemaphore(num_workers)
        self._begun, self._ended = threading.Event(), False
        self._tasks = TaskQueue()
        self._decoders: list[Decoder] = []
        self._threads: list[threading.Thread] = []
        self._add_threads(num_workers, starts_decoder=True)

    def begin(self, engine: Engine, deliver: Callable[[Any], None], budget: Budget, num_recordings: int) -> None:
        """Lets the threads work.

        Args: deliver: receives `WindowRequest`s and a `PreprocessResult` for each utterance, or the exception of a
            broken thread,
                from that thread.
            budget: where a thread waits before it prepares a window.
            num_recordings: how many may be in the engine at once, where each waits for its own answers.
        """
        self._engine, self._deliver, self._budget = engine, deliver, budget
        if self._rules.is_sequential:
            self._add_threads(num_recordings - len(self._threads), starts_decoder=False)
        self._begun.set()

    def put(self, job: UtteranceTask) -> None:
        self._tasks.put(job)

    def put_rest(self, ready: WindowRequest, start: int) -> None:
        """Has the rest of a window prepared as a window of its own, in the room that the whole one holds.

        Args:
            start: sample of the recording.
        """
        window, samples = ready.piece.window, ready.piece.samples
        rest = AudioWindow(Window(start, window.end), samples[start - window.start :])
        self._tasks.put_features(FeatureTask(ready.job, ready.number, rest, ready.audio_s, None, rest_of=ready))

    def close(self) -> None:
        """Ends the threads and their decoders; what they are at is given a second. Utterances waiting are dropped."""
        self._ended = True
        if self._begun.is_set():
            self._budget.close()
        self._begun.set()
        self._tasks.close()
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for decoder in self._decoders:  # one that hangs gives its thread back
            decoder.close()

    def drop_waiting(self) -> None:
        """Forgets the utterances that no thread has taken yet."""
        self._tasks.drop_jobs()

    def _add_threads(self, count: int, *, starts_decoder: bool) -> None:
        for _ in range(count):
            decoder = Decoder(timeout_s=self._decode_timeout_s)
            name = f"asrbatch-prepare-{len(self._threads)}"
            thread = threading.Thread(target=self._run, args=(decoder, starts_decoder), name=name, daemon=True)
            self._decoders.append(decoder)
            self._threads.append(thread)
            thread.start()

    def _run(self, decoder: Decoder, starts_decoder: bool) -> None:
        try:
            if starts_decoder:
                decoder.start()
            self._work(decoder)
        except BaseException as e:  # a defect of ours, or no decoder: the pipeline raises it in the main thread
            self._begun.wait()
            if not self._ended:
                self._deliver(e)
        finally:
            decoder.close()

    def _work(self, decoder: Decoder) -> None:
        self._begun.wait()
        if self._ended:
            return
        self._engine.prepare_thread()
        while (task := self._tasks.next()) is not None:
            if isinstance(task, FeatureTask):
                self._compute(task)
                continue
            end = self._prepare(task, decoder)
            if task.reserved_s is not None:
                self._budget.unreserve(task.reserved_s)
            self._deliver(end)

    def _prepare(self, job: UtteranceTask, decoder: Decoder) -> PreprocessResult:
        """Delivers the windows, or has them delivered; returns what ends them."""
        reading, num_windows, skips = _Stopwatch(), 0, []
        if job.is_cancelled:
            return PreprocessResult(job, is_cut_short=True)
        try:
            stream = decoder.stream(self._decode_request(job.utterance))
            with closing(stream):
                for piece in self._pieces(job, AudioBuffer(self._blocks(stream, reading)), skips):
                    audio_s = len(piece.samples) / self._rules.sample_rate
                    if not self._reserve_window(job, audio_s):
                        return PreprocessResult(job, is_cut_short=True)
                    self._hand_over(FeatureTask(job, num_windows, piece, audio_s, reading.s))
                    num_windows += 1
        except RowError as e:
            return PreprocessResult(job, error=e, num_windows=num_windows, read_s=reading.s)
        if job.is_cancelled:
            return PreprocessResult(job, is_cut_short=True)
        audio_s = stream.num_samples / self._rules.sample_rate
        return PreprocessResult(job, None, audio_s, stream.flags, num_windows, tuple(skips), reading.s)

    def _pieces(self, job: UtteranceTask, buffer: AudioBuffer, skips: list[Window]) -> Iterator[AudioWindow]:
        rules = self._rules
        if rules.is_sequential:
            condition, drop = rules.condition_on_previous, rules.drop_no_speech
            if rules.vad_filter:
                buffer = SpeechOnlyBuffer(buffer, silence_tracker(rules.in_samples), skips)
            return decode_sequentially(
                buffer, rules.in_samples, job.next_answer, condition=condition, drop_no_speech=drop
            )
        return cut(buffer, rules.in_samples, SPLITTERS[rules.windows](rules.in_samples), skips)

    def _blocks(self, stream: Any, reading: "_Stopwatch") -> Iterator[Any]:
        """The stream's blocks, each decoded when it is asked for."""
        while True:
            with self._cores, reading:
                block = next(stream, None)
            if block is None:
                return
            yield block

    def _reserve_window(self, job: UtteranceTask, audio_s: float) -> bool:
        """Waits for room for a window, and computes meanwhile what others need to give theirs back. False: do not go
        on.
        """
        while not (job.is_cancelled or job.is_ending or self._budget.is_closed):
            if (features := self._tasks.next_features()) is not None:
                self._compute(features)
            elif self._budget.take(audio_s, reserved_s=job.reserved_s, timeout_s=_LOOK_EVERY_S):
                job.reserved_s = None
                return True
        return False

    def _hand_over(self, features: FeatureTask) -> None:
        # A thread that will wait for the answer gains nothing by it.
        if self._rules.is_sequential or not self._tasks.hand_over(features):
            self._compute(features)

    def _compute(self, features: FeatureTask) -> None:
        job, number, preparing = features.job, features.number, _Stopwatch()
        try:
            with self._cores, preparing:
                prompt, language = self._prompt_of(job.utterance), self._language_of(job.utterance)
                request = self._engine.preprocess(features.piece.samples, prompt, language)
        except BaseException as e:
            self._budget.release(features.audio_s)
            if not isinstance(e, RowError):
                raise
            self._deliver(PreprocessResult(job, error=e, read_s=features.read_s))
            if features.rest_of is None:
                self._deliver_all(job.peak_so_far.add(number, None, None))
            return
        ready = WindowRequest(job, number, features.piece, request, features.audio_s, preparing.s)
        if features.rest_of is None:
            self._deliver_all(job.peak_so_far.add(number, request.peak, ready))
        else:
            self._deliver_all([(features.rest_of.peak, ready)])

    def _deliver_all(self, windows: list[tuple[float | None, WindowRequest]]) -> None:
        for peak, ready in windows:
            if peak is not None and peak > ready.request.peak:
                ready.request.clamp(peak)
            self._deliver(replace(ready, peak=peak))

    def _decode_request(self, utterance: Utterance) -> DecodeRequest:
        if utterance.problem is not None:
            raise RowError("bad_row", utterance.problem)
        try:
            source = utterance.audio.resolve()
        except (OSError, ValueError) as e:
            raise RowError("unreadable", f"{utterance.audio.name}: {e}") from e
        return DecodeRequest(
            source=source,
            name=utterance.audio.name,
            sample_rate=self._rules.sample_rate,
            offset_s=utterance.offset_s,
            duration_s=utterance.duration_s,
            channel=utterance.channel,
            max_s=self._rules.max_s,
            min_samples=self._rules.min_samples,
        )


class _Stopwatch:
    """Adds up the seconds spent in its blocks."""

    def __init__(self) -> None:
        self.s = 0.0

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.s += time.monotonic() - self._since
