"""Where an utterance's audio is split into windows. Integer samples; knows nothing of files, of text or of vLLM.

A splitter is made for one recording and called again and again: it gets the audio from the end of the last split on,
`WindowLimits.lookahead` samples of it or all there is, and returns the next split; so a recording of hours can be
split while it is being decoded. Splits follow each other without gap or overlap. A new splitter is one function and a
line in `SPLITTERS`.

`sequential`, where the model's own timestamps say where the next window begins, is no splitter; see
`pipeline/longform.py`. `WindowConfig` is what a model can take and how longer audio is split: plain data, settled
before a run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from asrbatch.audio.buffer import AudioBuffer, AudioWindow, Split, Splitter, WindowLimits, quietest
from asrbatch.audio.silence import (
    MIN_PAUSE,
    MIN_SKIP,
    PAD,
    SilenceTracker,
    SpeechSpan,
    add_skip,
    is_digital_silence,
    silence_tracker,
)
from asrbatch.types import Window


def cut(buffer: AudioBuffer, limits: WindowLimits, splitter: Splitter, skips: list[Window]) -> Iterator[AudioWindow]:
    """The windows of a recording; with its skips they are all of it, without gap or overlap.

    Args:
        splitter: made for this recording.
        skips: receives what the model does not get, digital silence among it; what touches is one skip.
    """
    while len(shown := buffer.peek(limits.lookahead)):
        found = splitter(shown)
        window = Window(buffer.position, buffer.position + found.end)
        if found.is_skipped or is_digital_silence(shown[: found.end]):
            add_skip(skips, window)
        else:
            yield AudioWindow(window, shown[: found.end].copy())
        buffer.advance(found.end)


def whole(buffer: np.ndarray, limits: WindowLimits) -> Split:
    """One window with everything. Longer audio was refused while decoding (`too_long`), never cut."""
    if len(buffer) > limits.limit:
        raise ValueError(f"more samples than the {limits.limit} of one window")
    return Split(len(buffer))


def fixed(buffer: np.ndarray, limits: WindowLimits) -> Split:
    """As long as the limit; a tail too short to stand alone joins the window before it, where the model can hear both
    at once, else both are cut in halves.

    The rule of NeMo Skills (`chunk_audio`) and NeMo Gym (its pull request 1358), but that there they are always joined:
    a model with a limit never hears what exceeds it. docs/measurements/long-recordings.md compares."""
    if len(buffer) <= limits.limit:
        return Split(len(buffer))
    if len(buffer) >= limits.lookahead:
        return Split(limits.limit)
    return Split(len(buffer) if len(buffer) <= limits.most else -(-len(buffer) // 2))


def energy(buffer: np.ndarray, limits: WindowLimits) -> Split:
    """At the quietest point of the last `limits.search` samples before the limit, in the middle of the quietest frame.

    Frames overlap by nine tenths; of equally quiet ones the last counts, which makes the fewest windows.
    """
    if len(buffer) <= limits.limit:
        return Split(len(buffer))
    most = limits.limit
    if len(buffer) < limits.lookahead:  # leave the tail something
        most = len(buffer) - limits.min_tail
    least = max(1, min(limits.limit - limits.search, most))
    return Split(least + quietest(buffer[least:most], limits))


class SilenceSplitter:
    """Cuts one recording.

    A window begins a little before somebody speaks, goes on over short pauses, and ends a little after the last word
    or, at the limit, in a pause. A recording that fits into one window and holds no long silence is not cut, whatever
    is found in it. A silence longer than the lookahead comes as several skips that touch.

    Args:
        limits: `search` and `frame` matter where somebody speaks on without a pause.
        tracker: of this recording.
    """

    def __init__(self, limits: WindowLimits, tracker: SilenceTracker):
        self._limits, self._tracker = limits, tracker

    def __call__(self, buffer: np.ndarray) -> Split:
        """The next window, or the next skip.

        Args:
            buffer: float32 [n], n >= 1, from the end of the last cut on: `limits.lookahead` samples, or all there are.
        """
        is_end = len(buffer) < self._limits.lookahead
        num_silent = self._tracker.silence_ahead(buffer, is_end)
        end = num_silent or self._end_of_window(buffer, is_end)
        self._tracker.advance(end)
        return Split(end, is_skipped=num_silent > 0)

    def _end_of_window(self, buffer: np.ndarray, is_end: bool) -> int:
        """Samples from the start of what is shown, 1 to the limit."""
        limits, span = self._limits, self._tracker.span
        if span is None:
            return min(len(buffer), limits.limit)
        end = min(span.end + PAD - self._tracker.position, len(buffer))
        is_last = is_end and self._tracker.is_last(span)
        if is_last and len(buffer) <= limits.limit and len(buffer) - end < MIN_SKIP:
            return len(buffer)
        # Whether the silence after it is a long one may not be known yet, but that it is a pause.
        if end <= limits.limit:
            return end
        most = max(1, min(limits.limit, end - limits.min_tail))
        if (pause := self._longest_pause(span, most)) is not None:
            return pause
        least = max(1, min(limits.limit - limits.search, most))
        return least + quietest(buffer[least:most], limits)

    def _longest_pause(self, span: SpeechSpan, most: int) -> int | None:
        """Its middle, in samples from the start of what is shown, between half the limit and `most`; None without a
        pause.

        Windows that end in any pause near the limit would be fewer by a sixth, and cost a quarter more word errors
        (Whisper tiny.en, 86 minutes of prompts): a window that ends between two sentences holds no half of one.
        """
        found, position = [], self._tracker.position
        for before, after in pairwise(span.parts):
            start = max(before[1] - position, self._limits.limit // 2)
            end = min(after[0] - position, most)
            if end - start >= MIN_PAUSE:
                found.append((end - start, (start + end) // 2))
        return max(found)[1] if found else None


SPLITTERS: dict[str, Callable[[WindowLimits], Splitter]] = {
    "none": lambda limits: partial(whole, limits=limits),
    "fixed": lambda limits: partial(fixed, limits=limits),
    "energy": lambda limits: partial(energy, limits=limits),
    "silence": lambda limits: SilenceSplitter(limits, silence_tracker(limits)),
}

# Raise it when other windows, or other features of them, are made with the same figures: rows of two such runs must not
# share a file. 2: a window's features know how loud the recording was before it. 3: digital silence is no window, and
# the tail of `fixed` joins the window before it.
_VERSION = 3


@dataclass(frozen=True)
class WindowConfig:
    """Bounds in seconds, and choices.

    Attributes:
        sample_rate: Hz.
        window_s: the longest window, but for a tail that joins it.
        min_samples: the fewest samples the model can be given.
        windows: one of `config.WINDOWS`, or `given`: along the texts that a row has.
        search_s, frame_s, min_tail_s: see `windows.WindowLimits`.
        vad_filter: `sequential` passes over long silences.
        condition_on_previous: `sequential` prompts each window with the text before it.
        drop_no_speech: text of windows without speech counts for nothing.
        track: of files with several, where the row does not say it; None for the one that `ffmpeg.py` chooses.
        text_field: of rows, the text that is aligned, with `given`; None elsewhere.
        most_s: the longest audio the model takes at once: of `fixed`, the longest window with its tail.
    """

    sample_rate: int
    window_s: float
    min_samples: int
    windows: str = "none"
    search_s: float = 5.0
    frame_s: float = 0.1
    min_tail_s: float = 1.0
    vad_filter: bool = False
    condition_on_previous: bool = False
    drop_no_speech: bool = False
    track: int | None = None
    text_field: str | None = None
    most_s: float = 0.0

    @property
    def is_sequential(self) -> bool:
        return self.windows == "sequential"

    @property
    def max_s(self) -> float | None:
        """The longest audio that can be transcribed; None for any."""
        return self.window_s if self.windows == "none" else None

    @property
    def choices(self) -> dict[str, Any]:
        """What of this decides windows and their prompts; part of a run's fingerprint."""
        choices: dict[str, Any] = {
            "splitter": self.windows,
            "limit_s": self.window_s,
            "drop_no_speech": self.drop_no_speech,
            "version": _VERSION,
        }
        if self.track is not None:
            choices["track"] = self.track
        if self.windows not in ("none", "given"):
            choices["min_tail_s"] = self.min_tail_s
        if self.windows == "fixed" and self.most_s > self.window_s:
            choices["most_s"] = self.most_s
        if self.windows in ("energy", "silence"):
            choices |= {"search_s": self.search_s, "frame_s": self.frame_s}
        if self.is_sequential:
            choices |= {"vad_filter": self.vad_filter, "condition_on_previous": self.condition_on_previous}
        return choices

    @property
    def in_samples(self) -> WindowLimits:
        limit, search, frame, min_tail, most = (
            round(s * self.sample_rate)
            for s in (self.window_s, self.search_s, self.frame_s, self.min_tail_s, self.most_s)
        )
        return WindowLimits(limit, search, frame, min_tail, self.sample_rate, most)
