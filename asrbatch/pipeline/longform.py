"""Long-form decoding, `--windows sequential`: the next window starts where the last segment that was heard whole ended.

The algorithm of openai/whisper, `transcribe.py`, with these differences, so that nothing is lost or asked for ever: the
next window starts in the pause around that end; at the end of a recording what is left is asked again only when it is a
second or longer (the model heard it already, and invents text for crumbs); text that no timestamp closes is kept there;
and after some windows in a row of which less than a second was heard whole, the next counts as heard to its end.

How windows wait for each other: a preprocess thread runs the generator `sequential_windows` of its recording. It yields
a window, and then blocks in `AnswerQueue.get` until the loop, which knows nothing of the order, has put the answer
there. While it waits it uses no core, so there are as many threads as recordings the engine can hold, and recordings
run side by side though the windows of each run one after the other. Three other places know of it: the pool starts
those threads (`preprocess.PreprocessPool.begin`), the session begins the longest recordings first (`longest_first`),
and the loop asks again about the unheard tail of a window only of all other ways to cut (`unheard_tail`), because here
the next window starts there anyway.

Knows nothing of the engine or of files.
"""

from collections.abc import Iterator
from queue import SimpleQueue

import numpy as np

from asrbatch.audio.buffer import AudioBuffer, AudioWindow, WindowLimits, pause_near
from asrbatch.audio.silence import SpeechOnlyBuffer, add_skip, is_digital_silence, silence_tracker
from asrbatch.audio.windows import WindowConfig
from asrbatch.models import quality
from asrbatch.types import DecodingResult, Window

# The original's: a text that needed more than this to come out is nothing to build on.
_MAX_TEMPERATURE_TO_CONDITION_ON = 0.5
# Most tokens of previous text that a decoder of 448 positions is given; the prompt cuts to what the checkpoint has.
_MAX_PREVIOUS = 223
# So often in a row a window may be left after less than a second; else a recording could be heard 0.02 s at a time.
_MAX_SMALL_STEPS = 5
# Seconds before and after a timestamp in which the pause is looked for that it means.
_AROUND_S = 0.3
# Most windows of recordings that are begun together, up to four days.
_LENGTHS = 4.0 ** np.arange(8)


def longest_first(durations_s: np.ndarray, window_s: float) -> np.ndarray:
    """In which order to begin recordings whose windows wait for each other: int64 [rows], places in `durations_s`.

    Longest first, but only by a factor of four, and manifest order among those: every change of order is one more pass
    over a packed list or a Parquet row group, from its beginning. So speech of one window each is read once, in order.

    Args:
        durations_s: float [rows], seconds; NaN where the manifest does not say, which may be long.
        window_s: up to which recordings are all alike.
    """
    bounds_s = window_s * _LENGTHS
    return np.argsort(-np.searchsorted(bounds_s, np.nan_to_num(durations_s, nan=np.inf)), kind="stable")


class AnswerQueue:
    """The answers to one recording's windows, in order; from the loop to the thread that cuts the next window."""

    def __init__(self) -> None:
        self._answers: SimpleQueue[DecodingResult | None] = SimpleQueue()
        self._closed = False

    def put(self, answer: DecodingResult) -> None:
        self._answers.put(answer)

    def get(self) -> DecodingResult | None:
        """Waits for the next answer. None when nobody wants the rest of the recording."""
        return None if self._closed else self._answers.get()

    def close(self) -> None:
        self._closed = True
        # Wakes a thread that waits already.
        self._answers.put(None)


def sequential_windows(
    buffer: AudioBuffer, config: WindowConfig, answers: AnswerQueue, skips: list[Window]
) -> Iterator[AudioWindow]:
    """The windows of a recording, each after the answer to the one before.

    Args:
        skips: receives windows of digital silence, and long silences where the options say that they are passed over.
    """
    limits, condition = config.in_samples, config.condition_on_previous
    spoken: AudioBuffer | SpeechOnlyBuffer = buffer
    if config.vad_filter:
        spoken = SpeechOnlyBuffer(buffer, silence_tracker(limits), skips)
    previous: tuple[int, ...] = ()
    num_small = 0
    while len(shown := spoken.peek(limits.lookahead)):
        samples, start = shown[: _length(len(shown), limits)], spoken.position
        if is_digital_silence(samples):
            add_skip(skips, Window(start, start + len(samples)))
            spoken.advance(len(samples))
            continue
        # A copy: a view would keep all that the buffer holds in memory for as long as the window waits for its answer.
        yield AudioWindow(Window(start, start + len(samples)), samples.copy(), previous if condition else ())
        result = answers.get()
        if result is None:
            return
        if config.drop_no_speech and quality.is_no_speech(result):
            spoken.advance(len(samples))
            continue
        passed = heard(result, samples, limits, is_last=len(samples) == len(shown))
        num_small = num_small + 1 if passed < limits.min_tail else 0
        if num_small > _MAX_SMALL_STEPS:
            passed = len(samples)
        kept = result.segments if passed == len(samples) else result.closed_segments
        previous = (*previous, *(i for segment in kept for i in segment.token_ids))[-_MAX_PREVIOUS:]
        if result.temperature > _MAX_TEMPERATURE_TO_CONDITION_ON:
            previous = ()
        spoken.advance(passed)


def _length(num_shown: int, limits: WindowLimits) -> int:
    """Of the next window: as long as the model hears, but what it leaves must be long enough to be a window itself."""
    if limits.limit < num_shown < limits.lookahead:
        return num_shown - limits.min_tail
    return min(num_shown, limits.limit)


def heard(result: DecodingResult, samples: np.ndarray, limits: WindowLimits, *, is_last: bool) -> int:
    """How many samples of a window were heard whole, 1 to all.

    Up to the pause around the model's timestamp, which is coarse: cut at the timestamp itself, 3 in 100 words beside a
    seam were lost or doubled that were not elsewhere, and none are so (docs/measurements/long-recordings.md).

    Args:
        samples: float32 [n] of the window.
        is_last: what follows it is asked anyway, or nothing does.
    """
    # None: heard to its end. 0.0: nothing was heard whole, and a step of nothing would ask the same for ever.
    if not result.resume_s:
        return len(samples)
    resume = min(round(result.resume_s * limits.sample_rate), len(samples))
    if is_last and len(samples) - resume < limits.min_tail:
        return len(samples)
    return pause_near(samples, resume, round(_AROUND_S * limits.sample_rate), limits)


def unheard_tail(audio: AudioWindow, result: DecodingResult, limits: WindowLimits) -> int | None:
    """Where to ask again about the rest of a window that no other overlaps: a sample of the recording; None for
    nowhere.

    With timestamps a model may end its answer behind a segment though people speak on, and says so by how it ends:
    tiny.en left out 6 % of the words of 20 minutes of prompts in this way. Text that no timestamp closes is no such
    end. A rest shorter than a second, one of digital silence, or one that would hardly be shorter than the window, is
    left."""
    last = result.segments[-1] if result.segments else None
    if quality.is_no_speech(result) or (last and last.end_s is None and last.text.strip()):
        return None
    resume = heard(result, audio.samples, limits, is_last=True)
    if resume == len(audio.samples) or resume < limits.min_tail or is_digital_silence(audio.samples[resume:]):
        return None
    return audio.window.start + resume
