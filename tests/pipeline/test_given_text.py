"""Windows along texts that are there: every text in one of them, at its time, whatever the times are."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.audio.buffer import AudioBuffer, WindowLimits
from asrbatch.errors import RowError
from asrbatch.pipeline.given_text import given_texts, given_windows, is_too_long, text_problem
from asrbatch.types import GivenText

RATE = 100
LIMITS = WindowLimits(limit=30 * RATE, search=5 * RATE, frame=10, min_tail=RATE, sample_rate=RATE)


def windows_of(texts, audio_s, block_s=7.0, fits=lambda texts: True):
    audio = np.arange(round(audio_s * RATE), dtype=np.float32)
    blocks = np.array_split(audio, max(1, round(audio_s / block_s)))
    skips = []
    windows = list(given_windows(AudioBuffer(iter(blocks)), texts, LIMITS, skips, fits))
    pieces = sorted([(w.window.start, w.window.end) for w in windows] + [(s.start, s.end) for s in skips])
    assert pieces[0][0] == 0 and pieces[-1][1] == len(audio)
    assert all(before[1] >= after[0] for before, after in itertools.pairwise(pieces)), "all of it"
    for w in windows:
        assert np.array_equal(w.samples, audio[w.window.start : w.window.end]) and len(w.samples) <= LIMITS.limit
        times = [s for text in w.given for s in (text.start_s, text.end_s)]
        assert min(times) >= 0 and max(times) <= len(w.samples) / RATE + 1e-9
    return windows


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 30)), min_size=1, max_size=20), st.floats(0, 40))
def test_every_text_is_in_one_window_at_its_time(pauses_and_lengths, rest_s):
    texts, at = [], 0.0
    for n, (pause_s, length_s) in enumerate(pauses_and_lengths):
        texts.append(GivenText(str(n), at + pause_s, at + pause_s + length_s))
        at += pause_s + length_s
    windows = windows_of(texts, at + rest_s + 0.5)
    assert [text.text for w in windows for text in w.given] == [text.text for text in texts]
    placed = [(w.window.start / RATE + t.start_s, w.window.start / RATE + t.end_s) for w in windows for t in w.given]
    for (start_s, end_s), text in zip(placed, texts, strict=True):
        # Texts without length, or of exactly as much as the model hears, lose the rounding to samples.
        assert start_s == pytest.approx(text.start_s, abs=0.25) and end_s == pytest.approx(text.end_s, abs=0.25)


@given(st.floats(0.5, 60), st.booleans())
def test_what_will_fail_as_too_long_is_known_from_the_times(length_s, has_times):
    length_s = round(length_s * RATE) / RATE
    texts = [GivenText("a", 1.0, 1.0 + length_s) if has_times else GivenText("a")]
    if is_too_long(texts, length_s, 30.0):
        with pytest.raises(RowError, match="longer than the model takes at once"):
            windows_of(texts, length_s + has_times)
    else:
        windows_of(texts, length_s + has_times)
    assert not is_too_long([GivenText("a")], None, 30.0), "nobody knows"


def test_as_many_as_the_model_hears_go_together():
    texts = [GivenText(str(n), 6.0 * n, 6.0 * n + 5) for n in range(12)]
    assert [len(w.given) for w in windows_of(texts, 72.0)] == [5, 5, 2]


def test_overlapping_texts_each_have_all_of_their_audio():
    texts = [GivenText("a", 0.0, 20.0), GivenText("b", 10.0, 35.0), GivenText("c", 34.8, 39.0)]
    windows = windows_of(texts, 60.0)
    assert [[t.text for t in w.given] for w in windows] == [["a"], ["b", "c"]]
    assert [(w.window.start / RATE, w.window.end / RATE) for w in windows] == [(0.0, 20.0), (10.0, 39.2)]
    assert windows[1].given == (GivenText("b", 0.0, 25.0), pytest.approx(("c", 24.8, 29.0)))


def test_no_more_go_together_than_the_model_reads():
    texts = [GivenText("word " * 50, 6.0 * n, 6.0 * n + 5) for n in range(4)]
    windows = windows_of(texts, 24.0, fits=lambda texts: sum(map(len, texts)) <= 500)
    assert [len(w.given) for w in windows] == [2, 2]
    with pytest.raises(RowError, match=r"too_long: its text from 0 to 5 s is longer than the model takes at once"):
        windows_of(texts, 24.0, fits=lambda texts: False)


def test_a_text_of_just_what_the_model_hears():
    """Times are rounded, and their difference once more."""
    for start_s in np.arange(0, 40, 0.02):
        (window,) = windows_of([GivenText("a", float(start_s), float(start_s) + 30.0)], 75.0)
        assert len(window.samples) == LIMITS.limit


def test_a_text_without_times_is_of_the_whole():
    (window,) = windows_of([GivenText("all of it")], 29.0)
    assert window.given == (GivenText("all of it", 0.0, 29.0),)
    with pytest.raises(RowError, match=r"too_long: it is longer than the model takes at once \(30 s, or"):
        windows_of([GivenText("all of it")], 30.1)


def test_a_text_longer_than_the_model_hears():
    with pytest.raises(RowError, match=r"too_long: its text from 1 to 32 s is longer than the model takes"):
        windows_of([GivenText("a", 1.0, 32.0)], 60.0)


def test_a_text_behind_the_end():
    with pytest.raises(RowError, match=r"bad_row: a text begins at 70 s, after the end of the audio"):
        windows_of([GivenText("a", 70.0, 75.0)], 60.0)


SEGMENTS = [{"start": 0, "end": 1.5, "text": "One two"}, {"start": 2, "end": 3, "text": " three."}]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"t": " One two three. ", "segments": SEGMENTS}, [("One two", 0.0, 1.5), ("three.", 2.0, 3.0)]),
        ({"t": "One two three.", "segments": [], "windows": [{**SEGMENTS[0], "kept_until": 1.2}, SEGMENTS[1]]},
         [("One two", 0.0, 1.2), ("three.", 2.0, 3.0)]),
        ({"t": "一二三", "segments": [{"start": 0, "end": 1, "text": "一二"}, {"start": 1, "end": 2, "text": "三"}]},
         [("一二", 0.0, 1.0), ("三", 1.0, 2.0)]),
        # Of another text, or of none.
        ({"t": "Another", "segments": SEGMENTS}, [("Another", 0.0, None)]),
        ({"t": "One two three.", "segments": "no list"}, [("One two three.", 0.0, None)]),
        ({"t": "One", "segments": [{"text": "One", "start": None, "end": 1}]}, [("One", 0.0, None)]),
        ({"t": "One", "segments": [{"text": "One"}]}, [("One", 0.0, None)]),
        ({"t": "One", "segments": [{"text": "One", "start": 1e306, "end": 1e307}]}, [("One", 0.0, None)]),
        ({"t": "One", "segments": ["One"]}, [("One", 0.0, None)]),
        ({"t": "  "}, []),
    ],
)  # fmt: skip
def test_pieces_of_a_row_are_taken_where_they_say_its_text(fields, texts):
    assert [tuple(text) for text in given_texts(fields, "t")] == texts


def test_rows_without_a_text():
    assert text_problem({}, "t") == "has no t; --text-field names the field that holds the text"
    assert text_problem({"t": 7}, "t") == "t = 7: must be a string"
    assert text_problem({"t": None}, "t") is None and text_problem({"t": ""}, "t") is None
    with pytest.raises(RowError, match="bad_row: t is null: there is nothing to align; transcribe this row first"):
        given_texts({"t": None}, "t")
    with pytest.raises(RowError, match="bad_row: segments: one begins at 2 s, and the next at 0 s; sort them"):
        given_texts({"t": "three.One two", "segments": SEGMENTS[::-1]}, "t")
