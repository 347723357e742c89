"""What travels through the pipeline: an utterance and its windows.

Both are handed from thread to thread by queues, and a queue is the only lock they need: what one thread wrote before
it handed an object on, the next one may read. The comments below say who writes which fields.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from asrbatch.audio.buffer import AudioWindow
from asrbatch.engine.base import AlignedWords, Request
from asrbatch.errors import RowError
from asrbatch.models.fallback import Attempts
from asrbatch.models.words import with_words
from asrbatch.pipeline.longform import AnswerQueue
from asrbatch.pipeline.queues import ReorderBuffer
from asrbatch.types import Utterance, Window, WordTiming

_NO_SAMPLES = np.zeros(0, np.float32)


@dataclass(eq=False)
class InFlightWindow:
    """A window from being cut until its row is written.

    Attributes:
        number: 0-based place among the windows of its utterance.
        audio: its span, samples and previous text; without samples once it is answered.
        budget_s: seconds of the budget that it holds until it is answered.
        covers_s: seconds from the end of the window before it to its own: windows may overlap, and between them may be
            silence.
        is_tail: it is the part of a window that the window's own answer left out.
        request: for the engine; None before its features are computed, and once it is answered.
        error: why there are no features.
        peak: largest feature of the recording up to its end; None where that does not matter.
        preprocess_s: seconds spent on its features.
        shared_from: `EngineMonitor.share_s` when the engine got it; None while the engine does not hold it.
        attempts: the answers to it.
        words: of the segments of the answer that counts; None where none are timed.
        audio_gains: see `AlignedWords`; None where the text was decoded.
    """

    # By the thread that makes it: one that cuts the recording, or for a tail the loop.
    utterance: "UtteranceState"
    number: int
    audio: AudioWindow
    budget_s: float = 0.0
    covers_s: float = 0.0
    is_tail: bool = False
    # By the preprocess thread that computes its features, until it is delivered to the loop. The peak also by the one
    # that lets it out of the `ReorderBuffer`, under its lock.
    request: Request | None = None
    error: RowError | None = None
    peak: float | None = None
    preprocess_s: float = 0.0
    # By the loop, when the features are there.
    shared_from: float | None = None
    attempts: Attempts = field(init=False, repr=False)
    words: tuple[tuple[WordTiming, ...], ...] | None = None
    audio_gains: tuple[float, ...] | None = None

    @property
    def span(self) -> Window:
        return self.audio.window

    @property
    def key(self) -> tuple[int, int]:
        """Names it to the engine; its tail has the same, because it enters when the window has left."""
        return self.utterance.utterance.index, self.number

    def clamp(self) -> None:
        """Gives its features the floor that they have in its recording."""
        request = self.request
        if request is None or request.clamp is None or request.peak is None or self.peak is None:
            return
        if self.peak > request.peak:
            request.clamp(self.peak)

    def tail(self, start: int) -> "InFlightWindow":
        """The rest of it from a sample of the recording on; takes over what it holds and covers."""
        audio = AudioWindow(Window(start, self.span.end), self.audio.samples[start - self.span.start :])
        held = self.budget_s, self.covers_s
        return InFlightWindow(self.utterance, self.number, audio, *held, is_tail=True, peak=self.peak)

    def set_words(self, words: AlignedWords) -> None:
        """Of the answer that counts. Of a given text they also say where its segments are, and how likely they are."""
        self.words, self.audio_gains = words.groups, words.audio_gains
        if words.token_logprobs is not None:
            self.attempts.replace_last(with_words(self.attempts.chosen, words.groups, words.token_logprobs))

    def drop_audio(self) -> None:
        """Of a recording of hours only the answers stay in memory."""
        self.audio, self.request = AudioWindow(self.span, _NO_SAMPLES), None

    @property
    def num_samples(self) -> int:
        return self.span.end - self.span.start


@dataclass(eq=False)
class UtteranceState:
    """An utterance between being taken from the manifest and its row being written.

    Attributes:
        language: it is decoded in, as the row or the run states it; None has it detected, or leaves it to the model.
        prompt: its previous text or instruction; None for none.
        is_cancelled: nobody needs the rest of it.
        is_ending: the run is being stopped; it is wanted only if no further window is needed.
        reserved_s: seconds of the budget reserved for it; None once it holds some for a window.
        read_s: seconds spent on decoding its audio.
        expected_s: seconds that it should have, by its file; None where that does not tell, and of short ones.
        is_cut_short: preprocessing ended before its end, because of a cancellation or a stop.
        is_preprocessed: all its windows were cut; they may still wait for features or answers.
        is_submitted: its first window has its features, and enters the engine.
        preprocess_s: seconds spent on features.
        engine_s: its windows' parts of the time that the engine held them; see `EngineMonitor.share_s`.
        held_back: windows that wait until the first one's answer says which language is spoken.
        answered: windows with their answers, in the order these came.
        num_finished: windows that were decoded to their end, some by way of a tail.
        answered_s: seconds of it that they cover; none counts twice.
        num_aligning: answers whose words are being timed.
    """

    # By the loop before it hands it to the pool.
    utterance: Utterance
    language: str | None = None
    prompt: str | None = None
    taken_at: float = field(default_factory=time.monotonic)
    # By the loop at any time; threads look at them between two windows.
    is_cancelled: bool = False
    is_ending: bool = False
    # By the one preprocess thread that cuts it. The loop reads them once that thread has delivered the state, `read_s`
    # and `expected_s` at any time.
    reserved_s: float | None = None
    read_s: float = 0.0
    expected_s: float | None = None
    audio_s: float = 0.0
    flags: tuple[str, ...] = ()
    track: int | None = None  # which was read, of a file with several
    num_windows: int = 0
    skips: list[Window] = field(default_factory=list)
    error: RowError | None = None
    is_cut_short: bool = False
    # Locked in themselves.
    peaks: ReorderBuffer = field(default_factory=ReorderBuffer)
    sequential_answers: AnswerQueue = field(default_factory=AnswerQueue)
    # By the loop, and read by it alone.
    is_preprocessed: bool = False
    detected_language: str | None = None
    is_submitted: bool = False
    preprocess_s: float = 0.0
    engine_s: float = 0.0
    held_back: list[InFlightWindow] = field(default_factory=list)
    answered: list[InFlightWindow] = field(default_factory=list)
    num_finished: int = 0
    answered_s: float = 0.0
    num_aligning: int = 0

    @property
    def timing(self) -> dict[str, float | None]:
        prepare = self.preprocess_s if self.is_submitted else None
        total = time.monotonic() - self.taken_at
        return {"read": self.read_s, "prepare": prepare, "engine": self.engine_s, "total": total}

    def cancel(self) -> None:
        self.is_cancelled = True
        # A thread may wait for an answer that nobody will give any more.
        self.sequential_answers.close()
