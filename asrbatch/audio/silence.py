"""Where a recording holds no speech for long, found as it is decoded. Knows nothing of how speech is found (`vad.py`),
and of where windows end (`windows.py`).

Whisper invents text where nobody speaks ("you", "Thanks for watching"): what it does not get cannot be wrong. Words
that are skipped are lost, so that doubts are decided for speech: hysteresis, little that is too short to be speech, and
a skip that keeps well away from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asrbatch.audio.buffer import AudioBuffer, Split, WindowLimits
from asrbatch.audio.vad import FRAME, SAMPLE_RATE, SileroVad, check_available, model_digest
from asrbatch.types import Window

# Speech begins where the probability reaches the first and ends where it falls below the second: Silero's own defaults.
_BEGINS, _ENDS = 0.5, 0.35
# What is left of a silence must be as long as this to be skipped. Speakers pause for a second between sentences, and a
# window for each sentence would cost a pass of the encoder each, without the context of its neighbours; faster-whisper
# takes the same.
_MIN_SKIP_S = 2.0
# Kept before and after speech, whose quiet edges are found late: up to 0.3 s in 556 recorded prompts, 0.16 s in 99 % of
# them.
_PAD_S = 0.4
# Speech shorter than this, alone between two long silences, is none: a false alarm of music. Silero's default, 0.25 s,
# leaves no margin for short words: of 556 prompts "s", "x" and "old" are heard for 0.26 s ("at", which is heard for
# 0.06 s, is lost).
_MIN_SPEECH_S = 0.15
# Silero hears speech whose loudest second is 0.005 (RMS, full scale 1; 80 of 80 prompts), misses 5 of 80 at 0.0018 and
# most below. A recording whose loudest second so far is below the first is amplified to it; noise is speech at no
# level. The second is less than 16 bits can hold.
_LOUD_ENOUGH, _QUIETEST = 1e-2, 1e-5

MIN_SKIP, PAD = (round(s * SAMPLE_RATE) for s in (_MIN_SKIP_S, _PAD_S))
_MIN_SPEECH = round(_MIN_SPEECH_S * SAMPLE_RATE / FRAME) * FRAME
_LONG = MIN_SKIP + 2 * PAD  # silence between two spans of speech

# Digital silence, of which no model can hear anything: one value throughout. Whisper's features have a floor
# (openai/whisper, `audio.py`: 1e-10) that a tone of 5e-7 does not reach; what a resampler leaves where there was sound
# before is a tenth of that. Not more: of speech that is the signs of its samples, one bit of 16, Whisper base still
# makes out words.
_INAUDIBLE = 5e-7
# A-law, the telephone's code, has no zero: its silence is the constant 8 / 32,768. Up to 6 ms of its ends ring when it
# is resampled, by no more than itself.
_EDGE_S, _AT_EDGE = 0.01, 8 / 32_768
_EDGE = round(_EDGE_S * SAMPLE_RATE)

# Takes the samples that follow those it was given last, and whether the recording ends with them; returns the
# probability of speech for every `FRAME` samples, counted from the recording's start. See `vad.SileroVad`.
DetectSpeech = Callable[[np.ndarray, bool], np.ndarray]


def choices_of_skips() -> dict[str, Any]:
    """What decides what is skipped; part of a run's fingerprint. Imports no library.

    Raises:
        UsageError: the extra `vad` is not installed.
    """
    return {
        "vad_digest": model_digest(),
        "speech_begins": _BEGINS,
        "speech_ends": _ENDS,
        "min_skip_s": _MIN_SKIP_S,
        "pad_s": _PAD_S,
        "min_speech_s": _MIN_SPEECH_S,
        "loud_enough": _LOUD_ENOUGH,
    }


@dataclass(slots=True)
class SpeechSpan:
    """Speech without a long silence in it. Positions are samples from the recording's start.

    Attributes:
        parts: [start, end) of what lies between its pauses; those that were passed are forgotten.
        end: of the last part.
        num_samples: how much of it is speech, with the forgotten parts.
    """

    parts: list[list[int]] = field(default_factory=list)
    end: int = 0
    num_samples: int = 0


class SilenceTracker:
    """Of one recording.

    Args:
        detect: finds speech; belongs to this recording.

    Attributes:
        position: samples passed so far.
    """

    def __init__(self, detect: DetectSpeech):
        self._detector = detect
        self.position = 0
        # Samples from the recording's start: how far it was shown, how far the detector got.
        self._shown = self._detected = 0
        self._loudest = _QUIETEST
        self._is_speech = False
        self._spans: list[SpeechSpan] = []
        self._is_skipping = False

    def silence_ahead(self, buffer: np.ndarray, is_end: bool) -> int:
        """How much of what comes next to skip; 0 where speech begins. A silence longer than what is shown comes in
        parts.

        Args:
            buffer: float32 [n], n >= 1, from `position` on.
            is_end: the recording ends with it.
        """
        self._detect(buffer[self._shown - self.position :], is_end)
        num_silent = self._num_silent(is_end)
        self._is_skipping = (
            num_silent >= MIN_SKIP
            or (num_silent > 0 and self._is_skipping)
            or (num_silent == len(buffer) and self.position > 0)  # the rest of a recording, shorter than a long silence
        )
        return num_silent if self._is_skipping else 0

    def next(self, buffer: np.ndarray, is_end: bool) -> Split:
        """The silence to skip, or all up to the next one. See `silence_ahead` for what it takes."""
        if num_silent := self.silence_ahead(buffer, is_end):
            return Split(num_silent, is_skipped=True)
        span = self.span
        end = len(buffer) if span is None else min(span.end + PAD - self.position, len(buffer))
        # What follows speech may be no more than a pause, as far as can be seen.
        is_long = not self.is_last(span) or len(buffer) - end >= MIN_SKIP + (0 if is_end else PAD)
        return Split(end if is_long else len(buffer))

    def advance(self, num_samples: int) -> None:
        """Forgets what was shown."""
        self.position += num_samples
        for span in self._spans:
            span.parts = [part for part in span.parts if part[1] > self.position]
        # The last one stays: speech after a short pause belongs to it.
        self._spans = [s for s in self._spans if s.parts or s is self._spans[-1]]

    @property
    def span(self) -> SpeechSpan | None:
        """The next speech; None as far as was shown."""
        return next((span for span in self._spans if span.parts), None)

    def is_last(self, span: SpeechSpan | None) -> bool:
        """Whether no other is behind it, as far as was shown."""
        return span is None or span is self._spans[-1]

    def _detect(self, samples: np.ndarray, is_end: bool) -> None:
        """Finds speech in what was not shown before."""
        self._shown += len(samples)
        self._loudest = max(self._loudest, _loudness(samples))
        gain = np.float32(max(1.0, _LOUD_ENOUGH / self._loudest))
        for probability in self._detector(samples * gain, is_end):
            start, self._detected = self._detected, min(self._detected + FRAME, self._shown)
            was_speech, self._is_speech = self._is_speech, probability >= (_ENDS if self._is_speech else _BEGINS)
            if self._is_speech:
                self._add(start, self._detected, is_new=not was_speech)
        if self._spans and (is_end or self._detected - self._spans[-1].end >= _LONG):
            self._drop_click()

    def _add(self, start: int, end: int, is_new: bool) -> None:
        """A frame of speech."""
        if not self._spans or start - self._spans[-1].end >= _LONG:
            self._drop_click()
            self._spans.append(SpeechSpan())
        span = self._spans[-1]
        if is_new or not span.parts:
            span.parts.append([start, end])
        span.parts[-1][1] = span.end = end
        span.num_samples += FRAME

    def _drop_click(self) -> None:
        """Forgets the last span, which a long silence follows, where it is too short to be speech."""
        if self._spans and self._spans[-1].num_samples < _MIN_SPEECH:
            self._spans.pop()

    def _num_silent(self, is_end: bool) -> int:
        """How many samples come before speech, less what is kept before it."""
        if (span := self.span) is not None:
            silent_until = span.parts[0][0] - PAD
        else:
            # Speech may begin right after what the detector has seen.
            silent_until = self._shown if is_end else self._detected - PAD
        return max(0, silent_until - self.position)


def silence_tracker(limits: WindowLimits) -> SilenceTracker:
    """For one recording.

    Raises:
        UsageError: the extra `vad` is not installed, or the rate is not 16 kHz.
    """
    check_available(limits.sample_rate)
    return SilenceTracker(SileroVad())


class SpeechOnlyBuffer:
    """A recording without its long silences: stands where an `AudioBuffer` stands.

    Args:
        skips: receives what is skipped; what touches is one skip.
    """

    def __init__(self, buffer: AudioBuffer, tracker: SilenceTracker, skips: list[Window]):
        self._buffer, self._tracker, self._skips = buffer, tracker, skips

    @property
    def position(self) -> int:
        return self._buffer.position

    def peek(self, num_samples: int) -> np.ndarray:
        """What comes next, behind a silence and up to the next; the same number in every call,
        longer than a silence.
        """
        while len(shown := self._buffer.peek(num_samples)):
            found = self._tracker.next(shown, is_end=len(shown) < num_samples)
            if not found.is_skipped:
                return shown[: found.end]
            add_skip(self._skips, Window(self.position, self.position + found.end))
            self.advance(found.end)
        return shown

    def advance(self, num_samples: int) -> None:
        self._tracker.advance(num_samples)
        self._buffer.advance(num_samples)


def is_digital_silence(samples: np.ndarray) -> bool:
    """Whether no model could hear anything: one value throughout, but for what a resampler does to it.

    Args:
        samples: float32 [n], n >= 1, of a window.
    """
    inner = samples[_EDGE:-_EDGE] if len(samples) > 3 * _EDGE else samples
    lowest, highest = inner.min(), inner.max()
    if highest - lowest > 2 * _INAUDIBLE:  # nearly every window: no more passes over it
        return False
    return bool(samples.max() - highest <= _AT_EDGE and lowest - samples.min() <= _AT_EDGE)


def add_skip(skips: list[Window], skip: Window) -> None:
    """One more at the end; one that touches the last makes it longer."""
    if skips and skips[-1].end == skip.start:
        skip = Window(skips.pop().start, skip.end)
    skips.append(skip)


def _loudness(samples: np.ndarray) -> float:
    """RMS of the loudest second."""
    seconds = np.pad(samples, (0, -len(samples) % SAMPLE_RATE)).reshape(-1, SAMPLE_RATE)
    return float(np.sqrt(np.mean(np.square(seconds), axis=1).max(initial=0.0)))


# A shorter pause is none: a stop consonant is as silent.
_MIN_PAUSE_S = 0.1
MIN_PAUSE = round(_MIN_PAUSE_S * SAMPLE_RATE)


def choices() -> dict[str, Any]:
    """What decides the splits beside the bounds of a window; part of a run's fingerprint.

    Raises:
        UsageError: the extra `vad` is not installed.
    """
    return choices_of_skips() | {"min_pause_s": _MIN_PAUSE_S}
