"""A bounded pool that turns utterances into engine requests: decode, resample, split, compute features.

Each thread owns one decoder process (a decoder may crash or hang; the thread outlives it) and computes features
itself, one window after another. How many utterances are under way is the pipeline's affair; the pool takes what it
is given.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from .decoding import Decoder, DecodeRequest
from .engine import Engine, Request
from .errors import RowError
from .types import Utterance, Window
from .windows import SPLITTERS


@dataclass(frozen=True)
class AudioRules:
    """What the model can hear.

    Attributes:
        sample_rate: Hz.
        window_s: the longest audio it hears at once, in seconds.
        min_samples: the fewest samples that hold anything to hear.
        windows: a key of `windows.SPLITTERS`.
    """

    sample_rate: int
    window_s: float
    min_samples: int
    windows: str = "none"


@dataclass(frozen=True)
class Prepared:
    """An utterance ready for the engine, or the reason why it cannot be.

    Attributes:
        read_s, prepare_s: seconds spent on decoding and on features.
        audio_s: seconds of audio decoded.
        flags: of the audio.
    """

    utterance: Utterance
    error: RowError | None = None
    audio_s: float = 0.0
    flags: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    requests: tuple[Request, ...] = ()
    read_s: float = 0.0
    prepare_s: float | None = None


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

    def begin(self, engine: Engine, deliver: Callable[[Prepared | BaseException], None]) -> None:
        """Lets the threads work; `deliver` receives a `Prepared`, or the exception of a broken thread, from that thread."""
        self._engine, self._deliver = engine, deliver
        self._begun.set()

    def put(self, utterance: Utterance) -> None:
        self._inbox.put(utterance)

    def close(self) -> None:
        """Ends the threads and their decoders; what they are at is given a second. Utterances waiting are dropped."""
        self._ended = True
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
        while (utterance := self._inbox.get()) is not None:
            self._deliver(self._prepare(utterance, decoder))

    def _prepare(self, utterance: Utterance, decoder: Decoder) -> Prepared:
        started = time.monotonic()
        read_at = None
        try:
            audio = decoder.decode(self._decode_request(utterance))
            read_at = time.monotonic()
            samples = audio.samples
            windows = SPLITTERS[self._rules.windows](len(samples), round(self._rules.window_s * audio.sample_rate))
            requests = [self._request(utterance, samples[w.start : w.end]) for w in windows]
        except RowError as e:
            now = time.monotonic()
            read_s, prepare_s = (now - started, None) if read_at is None else (read_at - started, now - read_at)
            return Prepared(utterance, error=e, read_s=read_s, prepare_s=prepare_s)
        return Prepared(
            utterance,
            audio_s=audio.duration_s,
            flags=audio.flags,
            windows=tuple(windows),
            requests=tuple(requests),
            read_s=read_at - started,
            prepare_s=time.monotonic() - read_at,
        )

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
            max_s=self._rules.window_s,
            min_samples=self._rules.min_samples,
        )
