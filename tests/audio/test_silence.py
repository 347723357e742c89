"""Voice activity, where every loud sound is speech: what is skipped, where windows end, and that nothing is lost."""

from itertools import cycle
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.audio.buffer import AudioBuffer, WindowLimits
from asrbatch.audio.silence import SilenceTracker, SpeechOnlyBuffer
from asrbatch.audio.vad import FRAME
from asrbatch.audio.windows import SilenceSplitter
from asrbatch.pipeline.longform import sequential_windows
from asrbatch.types import DecodingResult, Window

S = 16_000
RULES = WindowLimits(limit=30 * S, search=5 * S, frame=S // 10, min_tail=S)
PAD, MIN_SKIP, LONG, MIN_SPEECH = int(0.4 * S), 2 * S, int(2.8 * S), 5 * FRAME


class Loud:
    """Takes every loud frame for speech: stands for the model where a test must know exactly what is heard."""

    def __init__(self):
        self._held = np.empty(0, np.float32)

    def __call__(self, samples, is_end):
        held = np.concatenate([self._held, samples])
        if is_end:
            held = np.pad(held, (0, -len(held) % FRAME))
        num_frames = len(held) // FRAME
        self._held = held[num_frames * FRAME :]
        return np.abs(held[: num_frames * FRAME].reshape(-1, FRAME)).max(axis=1)


def cut(samples, rules, listen):
    """Windows, and skips where those that touch are one."""
    splitter, windows, skips, start = SilenceSplitter(rules, SilenceTracker(listen)), [], [], 0
    while start < len(samples):
        found = splitter(samples[start : start + rules.lookahead])
        piece = Window(start, start + found.end)
        if not found.is_skipped:
            windows.append(piece)
        elif skips and skips[-1].end == start:
            skips[-1] = Window(skips[-1].start, piece.end)
        else:
            skips.append(piece)
        start = piece.end
    return windows, skips


@st.composite
def recordings(draw):
    """Samples, and the [start, end) of loud sound in them: speech of all lengths, pauses short, long and very long."""
    frames = st.one_of(st.integers(1, 8), st.integers(9, 120), st.integers(80, 95), st.integers(120, 1500))
    lengths = draw(st.lists(frames, min_size=1, max_size=10))
    is_speech, loud, position = draw(st.booleans()), [], 0
    for length in lengths:
        if is_speech:
            loud.append((position, position + length * FRAME))
        position, is_speech = position + length * FRAME, not is_speech
    num_samples = position - draw(st.integers(0, FRAME - 1))
    samples = np.zeros(num_samples, np.float32)
    for start, end in loud:
        samples[start:end] = 0.9
    samples[::2] *= -1  # a constant is no sound
    return samples, [(start, min(end, num_samples)) for start, end in loud]


def is_partition(windows, skips, num_samples):
    pieces = sorted([*windows, *skips], key=lambda piece: piece.start)
    edges = [0, *(piece.end for piece in pieces)]
    return [piece.start for piece in pieces] == edges[:-1] and edges[-1] == num_samples


LIMITS = st.one_of(st.integers(1, 2000), st.integers(2000, 40 * S))


@given(LIMITS, st.integers(0, 6 * S), st.integers(1, 4000), st.floats(0, 0.5), recordings())
@settings(max_examples=150, deadline=None)
def test_windows_and_skips_are_a_partition_and_no_window_is_too_long(limit, search, frame, tail, recording):
    """Under any bounds, sensible or not."""
    samples, _ = recording
    samples = samples[: 400 * limit]
    windows, skips = cut(samples, WindowLimits(limit, search, frame, int(limit * tail)), Loud())
    assert is_partition(windows, skips, len(samples))
    assert all(0 < w.end - w.start <= limit for w in windows)
    assert all(type(edge) is int for piece in windows + skips for edge in (piece.start, piece.end))


def long_silences(loud, num_samples):
    """What must be skipped, found by looking at the whole recording at once."""
    stretches = []
    for start, end in loud:
        if stretches and start - stretches[-1][1] < LONG:
            stretches[-1][1:] = end, stretches[-1][2] + -(-(end - start) // FRAME)
        else:
            stretches.append([start, end, -(-(end - start) // FRAME)])
    kept = [(start, end) for start, end, num_frames in stretches if num_frames * FRAME >= MIN_SPEECH]
    edges = [0, *(edge for start, end in kept for edge in (start - PAD, end + PAD)), num_samples]
    silent = [Window(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start >= MIN_SKIP]
    return silent, kept


@given(st.integers(8 * S, 40 * S), st.integers(S // 2, 2 * S), recordings())
@settings(max_examples=300, deadline=None)
def test_every_long_silence_is_skipped_and_nothing_else(limit, min_tail, recording):
    samples, loud = recording
    windows, skips = cut(samples, WindowLimits(limit, limit // 6, 1600, min_tail), Loud())
    expected, speech = long_silences(loud, len(samples))
    if skips and skips[-1] not in expected:
        rest = skips.pop()  # of a recording that did not fit into the last window
        assert rest.end == len(samples) and rest.end - rest.start < MIN_SKIP and rest.start >= speech[-1][1]
    assert skips == expected
    assert all(any(w.start < end and start < w.end for start, end in speech) for w in windows) or len(windows) == 1
    starts_in_speech = [w for w in windows if any(start < w.start < end for start, end in speech)]
    assert all(w.end - w.start >= min_tail for w in starts_in_speech), "no crumb of speech is left alone"


def test_speech_that_goes_on_is_cut_in_the_longest_pause():
    samples = np.full(50 * S, 0.9, np.float32)
    for start_s, end_s in ((13, 14), (22, 22.7), (25, 25.6), (27, 27.2), (29.5, 30.6)):
        samples[int(start_s * S) : int(end_s * S)] = 0.0
    (first, *_), _ = cut(samples, RULES, Loud())
    assert 22.3 * S < first.end < 22.4 * S, "not one before half the limit, nor one that is cut off by it"


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    samples = np.full(50 * S, 0.9, np.float32)
    samples[20 * S : int(20.09 * S)] = 0.0  # a consonant
    samples[27 * S : int(27.3 * S)] = 0.6
    (first, *_), _ = cut(samples, RULES, Loud())
    assert 27 * S <= first.end <= 27.3 * S


def test_a_short_word_after_a_pause_belongs_to_what_was_said_before():
    samples = np.zeros(60 * S, np.float32)
    samples[: 29 * S] = samples[31 * S : int(31.1 * S)] = 0.9
    windows, (skip,) = cut(samples, RULES, Loud())
    assert len(windows) == 2 and 31.4 * S < skip.start < 31.6 * S and skip.end == len(samples)
    samples[: 29 * S] = 0.0
    assert cut(samples, RULES, Loud())[0] == [], "alone it is a click"


def test_speech_keeps_its_beginning_wherever_the_view_ended():
    """31 s are shown at a time."""
    for start in range(60 * FRAME * 16, 62 * FRAME * 16, FRAME):
        samples = np.zeros(50 * S, np.float32)
        samples[start : start + S] = 0.9
        _, skips = cut(samples, RULES, Loud())
        assert skips[0] == Window(0, start - PAD)


def test_a_rest_without_speech_is_no_window():
    samples = np.full(int(30.9 * S), 0.9, np.float32)
    samples[29 * S :] = 0.0
    (window,), (skip,) = cut(samples, RULES, Loud())
    assert skip == Window(window.end, len(samples)) and window.end < 29.5 * S


def test_what_fits_into_a_window_is_not_cut():
    samples = np.zeros(30 * S, np.float32)
    samples[2 * S : 28 * S] = 0.9
    assert cut(samples, RULES, Loud()) == ([Window(0, len(samples))], [])
    quiet = np.zeros(2 * S - 1, np.float32)
    assert cut(quiet, RULES, Loud()) == ([Window(0, len(quiet))], []), "shorter than a long silence: who knows"
    assert cut(np.zeros(100 * S, np.float32), RULES, Loud()) == ([], [Window(0, 100 * S)])


@given(st.integers(8 * S, 40 * S), st.integers(S // 2, 2 * S), recordings(), st.lists(st.floats(0, 1), min_size=1))
@settings(max_examples=60, deadline=None)
def test_sequential_passes_over_long_silences_wherever_the_model_leaves_a_window(limit, min_tail, recording, heard):
    samples, loud = recording
    rules, skips, windows = WindowLimits(limit, limit // 6, 1600, min_tail), [], []
    answers = cycle(heard)

    def answer():
        length = windows[-1].end - windows[-1].start
        return DecodingResult(
            "", 0, "stop", None, None, None, 0.0, 0.0, 0.0, resume_s=next(answers) * length / S or None
        )

    blocks = iter(samples[start : start + 7 * S] for start in range(0, len(samples), 7 * S))
    buffer = SpeechOnlyBuffer(AudioBuffer(blocks), SilenceTracker(Loud()), skips)
    config = SimpleNamespace(in_samples=rules, vad_filter=False, condition_on_previous=False, drop_no_speech=False)
    for piece in sequential_windows(buffer, config, SimpleNamespace(get=answer), skips):
        windows.append(piece.window)
        assert np.array_equal(piece.samples, samples[piece.window.start : piece.window.end])
    assert all(0 < w.end - w.start <= limit for w in windows)
    starts = sorted(piece.start for piece in windows + skips)
    assert starts[0] == 0 and len(set(starts)) == len(starts)
    for piece, following in zip(
        sorted(windows + skips, key=lambda p: p.start), [*starts[1:], len(samples)], strict=True
    ):
        assert following <= piece.end if piece in windows else following == piece.end, (
            "no gap; no word in a skip is asked for"
        )
    expected, speech = long_silences(loud, len(samples))
    for skip in skips:
        said = [(start, end) for start, end in loud if any(first <= start < last for first, last in speech)]
        assert not any(skip.start < end and start < skip.end for start, end in said)
    for silent in expected:
        asked = sum(max(0, min(w.end, silent.end) - max(w.start, silent.start)) for w in windows)
        # A window reaches into it only where its length was not known yet; what is left is then skipped if it is long.
        assert asked <= 2 * MIN_SKIP + PAD + 2 * FRAME
