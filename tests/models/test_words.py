"""Words of tokens and frames: every token in one word, times ascending and inside, marks and pauses as in Whisper."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.models.words import fit, split_words, words_of
from asrbatch.types import WordTiming


def decode(ids) -> str:
    """Tokens of one byte each: every character outside ASCII is split over several."""
    return bytes(ids).decode("utf-8", errors="replace")


def split(text: str, *, has_spaces=True) -> list[str]:
    return [word.text for word in split_words(text.encode(), decode, has_spaces=has_spaces)]


TEXTS = st.text(st.sampled_from(" ab.,'\"(-é漢字あ👩\u200d👧🏽e\u0301ก็\u0e34\ufffd"), max_size=20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" to be or to be", [" to", " be", " or", " to", " be"]),
        (" don't, he-man.", [" don", "'t", ",", " he", "-man", "."]),
        ("one", ["one"]),
        ("", []),
        (" a 👩\u200d👧🏽 b", [" a", " 👩\u200d👧🏽", " b"]),
        (" cafe\u0301 né", [" cafe\u0301", " né"]),
    ],
)
def test_words_with_spaces(text, words):
    # Of one byte each, a mark and the letters after it are tokens of their own, and only the mark begins a word.
    assert "".join(split(text)) == text
    assert split(text) == words


def test_words_without_spaces_are_characters_with_what_belongs_to_them():
    assert split("漢字。", has_spaces=False) == ["漢", "字", "。"]
    assert split("👩\u200d👧🏽e\u0301กิ", has_spaces=False) == ["👩\u200d👧", "🏽", "e\u0301", "กิ"]


@given(TEXTS, st.booleans())
def test_every_token_is_in_one_word_and_every_character_once(text, has_spaces):
    words = split_words(text.encode(), decode, has_spaces=has_spaces)
    assert "".join(word.text for word in words) == text
    assert sum(word.num_tokens for word in words) == len(text.encode())
    assert all(word.num_tokens for word in words)


@given(st.binary(max_size=12), st.booleans())
def test_bytes_that_are_no_characters_are_in_one_word(data, has_spaces):
    words = split_words(list(data), decode, has_spaces=has_spaces)
    assert sum(word.num_tokens for word in words) == len(data)
    assert "".join(word.text for word in words) == decode(data)


@st.composite
def windows(draw):
    segments = [text.encode() for text in draw(st.lists(TEXTS, max_size=4))]
    num_tokens = sum(map(len, segments))
    steps = draw(st.lists(st.integers(0, 90), min_size=num_tokens, max_size=num_tokens))
    return segments, np.cumsum([0, *steps]), draw(st.booleans())


@given(windows())
def test_words_join_to_their_segments_and_fit_into_them(window):
    segments, frames, has_spaces = window
    groups = words_of(segments, frames, np.full(len(frames) - 1, 0.5), decode, has_spaces=has_spaces)
    assert ["".join(word.text for word in group) for group in groups] == [decode(ids) for ids in segments]
    until_s = 0.0
    for number, group in enumerate(groups):
        end_s = until_s + number + 0.1
        fitted = fit(group, until_s, end_s)
        assert [word.text for word in fitted] == [word.text for word in group]
        times = [time for word in fitted for time in (word.start_s, word.end_s)]
        assert all(a <= b + 1e-9 for a, b in pairwise([until_s, *times, end_s]))
        assert all(word.end_s - word.start_s > 1e-6 for word in fitted)
        assert all(word.probability == 0.5 for word in fitted)
        until_s = end_s


def test_a_segment_without_time_has_words_without_time():
    words = [WordTiming(" a", 1.0, 2.0, 0.5), WordTiming(" b", 2.0, 3.0, 0.5)]
    assert [(w.start_s, w.end_s) for w in fit(words, 2.0, 2.0)] == [(2.0, 2.0), (2.0, 2.0)]
    # Inside, what the path says stays; outside, each is given the least there is.
    assert [(w.start_s, w.end_s) for w in fit(words, 0.0, 9.0)] == [(1.0, 2.0), (2.0, 3.0)]
    assert [(w.start_s, w.end_s) for w in fit(words, 0.0, 0.5)] == [(0.48, 0.49), (0.49, 0.5)]
    assert fit([], 0.0, 1.0) == []


def words(*tokens: tuple[str, int], until: int) -> list[tuple[str, float, float]]:
    """Words of one segment, each token a text with the frame where it begins."""
    texts, frames = zip(*tokens, strict=True)
    (group,) = words_of(
        [range(len(texts))],
        np.array([*frames, until]),
        np.linspace(0, 1, len(texts)),
        lambda ids: "".join(texts[i] for i in ids),
        has_spaces=True,
    )
    return [(word.text, round(word.start_s, 3), round(word.end_s, 3)) for word in group]


def test_marks_go_with_their_words_and_give_them_no_time():
    said = words((" I", 0), (" said", 10), (' "', 20), ("yes", 25), (",", 35), (" sir", 40), ('."', 50), until=60)
    assert [text for text, _, _ in said] == [" I", " said", ' "yes,', ' sir."']
    assert said[2] == (' "yes,', 0.4, 0.7)  # the mark before begins a word of which the letters are a part


def test_a_word_after_a_sentence_is_at_most_twice_as_long_as_usual():
    said = words((" a", 0), (" b", 10), (".", 20), (" c", 30), (" d", 130), (" e", 140), until=150)
    # Usual is 0.2 s; the word after the mark got the two seconds of the pause.
    assert said == [(" a", 0.0, 0.2), (" b.", 0.2, 0.4), (" c", 2.2, 2.6), (" d", 2.6, 2.8), (" e", 2.8, 3.0)]


def test_a_word_after_a_pause_is_at_most_twice_as_long_as_usual():
    said = words((" a", 0), (" b", 100), (" c", 110), (" d", 120), until=130)
    assert said[0] == (" a", 1.6, 2.0)
