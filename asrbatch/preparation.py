"""A bounded pool that turns utterances into engine requests: decode, resample, cut into windows, compute features.

Each thread owns one decoder process (a decoder may crash or hang; the thread outlives it) and takes one utterance at a
time. Audio is decoded as it is needed: of a recording of hours a thread holds one window and a little more, and it
waits for room before it prepares the next.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from .decoding import Decoder, DecodeRequest
from .engine import Engine, Request
from .errors import RowError
from .room import Room
from .types import Utterance, Window
from .windows import SPLITTERS, Rules


@dataclass(frozen=True)
class AudioRules:
    """What the model can hear, and how longer audio is cut for it.

    Attributes:
        sample_rate: Hz.
        window_s: the longest audio it hears at once, in seconds.
        min_samples: the fewest samples that hold anything to hear.
        windows: a key of `windows.SPLITTERS`.
        search_s, frame_s, min_tail_s: see `windows.Rules`.
    """

    sample_rate: int
    window_s: float
    min_samples: int
    windows: str = "none"
    search_s: float = 5.0
    frame_s: float = 0.1
    min_tail_s: float = 1.0

    @property
    def choices(self) -> dict[str, Any]:
        """What of this decides where windows begin and end; part of a run's fingerprint."""
        if self.windows == "none":
            return {"splitter": "none", "limit_s": self.window_s}
        choices = {"splitter": self.windows, "limit_s": self.window_s, "min_tail_s": self.min_tail_s}
        return choices | ({"search_s": self.search_s, "frame_s": self.frame_s} if self.windows == "energy" else {})

    @property
    def in_samples(self) -> Rules:
        seconds = (self.window_s, self.search_s, self.frame_s, self.min_tail_s)
        return Rules(*(round(s * self.sample_rate) for s in seconds))


class Job:
    """An utterance on its way through the pool.

    Attributes:
        reserved_s: seconds of audio that were reserved for it.
        is_cancelled: nobody wants the rest of it.
    """

    def __init__(self, utterance: Utterance, reserved_s: float):
        self.utterance, self.reserved_s = utterance, reserved_s
        self.is_cancelled = False


@dataclass(frozen=True)
class PreparedWindow:
    """A window ready for the engine.

    Attributes:
        number: 0-based place among the windows of its utterance.
        audio_s: room it holds until it is answered.
    """

    job: Job
    number: int
    window: Window
    request: Request
    audio_s: float


@dataclass(frozen=True)
class Prepared:
    """All windows of an utterance are prepared, or the reason why it cannot be transcribed.

    Attributes:
        read_s, prepare_s: seconds spent on decoding and on features.
        audio_s: seconds of audio decoded.
        flags: of the audio.
        num_windows: how many there were.
        is_cut_short: it was cancelled on the way.
    """

    job: Job
    error: RowError | None = None
    audio_s: float = 0.0
    flags: tuple[str, ...] = ()
    num_windows: int = 0
    read_s: float = 0.0
    prepare_s: float | None = None
    is_cut_short: bool = False


class Preparers:
    """The pool. Its decoder processes start at once, so that they are up when the engine is; work starts with `begin`.

    Args:
        num_workers: threads, and decoder processes.
        language_of: the language an utterance is asked in, None to have it detected.
        prompt_of: the previous text it is asked with, or None.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        rules: AudioRules,
        decode_timeout_s: float,
        language_of: Callable[[Utterance], str | None],
        prompt_of: Callable[[Utterance], str | None],
    ):
        self._rules = rules
        self._language_of, self._prompt_of = language_of, prompt_of
        self._begun, self._ended = threading.Event(), False
        self._inbox: SimpleQueue = SimpleQueue()
        self._decoders = [Decoder(timeout_s=decode_timeout_s) for _ in range(num_workers)]
        self._threads = [
            threading.Thread(target=self._run, args=(decoder,), name=f"asrbatch-prepare-{i}", daemon=True)
            for i, decoder in enumerate(self._decoders)
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, engine: Engine, deliver: Callable[[Any], None], room: Room) -> None:
        """Lets the threads work.

        Args:
            deliver: receives `PreparedWindow`s and then a `Prepared` for each utterance, or the exception of a broken
                thread, from that thread.
            room: where a thread waits before it prepares a window.
        """
        self._engine, self._deliver, self._room = engine, deliver, room
        self._begun.set()

    def put(self, job: Job) -> None:
        self._inbox.put(job)

    def close(self) -> None:
        """Ends the threads and their decoders; what they are at is given a second. Utterances waiting are dropped."""
        self._ended = True
        if self._begun.is_set():
            self._room.close()
        self._begun.set()
        self.drop_waiting()
        for _ in self._threads:
            self._inbox.put(None)
        deadline = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for decoder in self._decoders:  # one that hangs gives its thread back
            decoder.close()

    def drop_waiting(self) -> None:
        """Forgets the utterances that no thread has taken yet."""
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()

    def _run(self, decoder: Decoder) -> None:
        try:
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
        while (job := self._inbox.get()) is not None:
            self._room.unreserve(job.reserved_s)
            if not job.is_cancelled:
                self._deliver(self._prepare(job, decoder))

    def _prepare(self, job: Job, decoder: Decoder) -> Prepared:
        """Delivers the windows; returns what ends them."""
        reading, preparing, num_windows = _Stopwatch(), _Stopwatch(), 0
        try:
            with reading:
                stream = decoder.stream(self._decode_request(job.utterance))
            with closing(stream):
                for window, samples in self._windows(stream, reading):
                    audio_s = len(samples) / self._rules.sample_rate
                    if job.is_cancelled or not self._room.take(audio_s):
                        return Prepared(job, is_cut_short=True)
                    try:
                        with preparing:
                            request = self._request(job.utterance, samples)
                    except BaseException:
                        self._room.give_back(audio_s)
                        raise
                    self._deliver(PreparedWindow(job, num_windows, window, request, audio_s))
                    num_windows += 1
        except RowError as e:
            return Prepared(job, error=e, num_windows=num_windows, read_s=reading.s, prepare_s=preparing.s or None)
        audio_s = stream.num_samples / self._rules.sample_rate
        return Prepared(job, None, audio_s, stream.flags, num_windows, reading.s, preparing.s)

    def _windows(self, stream: Any, reading: "_Stopwatch") -> Iterator[tuple[Window, np.ndarray]]:
        """Cuts audio while it is being decoded; holds what one window needs."""
        rules, end_of_window = self._rules.in_samples, SPLITTERS[self._rules.windows]
        blocks, ahead, start = iter(stream), np.empty(0, np.float32), 0
        while True:
            with reading:
                held = [ahead]
                while sum(map(len, held)) < rules.lookahead and (block := next(blocks, None)) is not None:
                    held.append(block)
                ahead = np.concatenate(held)
            if not len(ahead):
                return
            # A copy: whoever holds the window must not hold what follows it.
            end = end_of_window(ahead[: rules.lookahead], rules)
            yield Window(start, start + end), ahead[:end].copy()
            start, ahead = start + end, ahead[end:]

    def _request(self, utterance: Utterance, samples: Any) -> Request:
        return self._engine.prepare(samples, self._language_of(utterance), self._prompt_of(utterance))

    def _decode_request(self, utterance: Utterance) -> DecodeRequest:
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
            max_s=self._rules.window_s if self._rules.windows == "none" else None,
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
