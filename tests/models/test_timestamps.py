"""Segments cut at timestamps: nothing lost, times as the model said them, and where it wants to listen on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.models.timestamps import NUM_TIMESTAMPS, cut_segments, resume_s

ZERO, END = 1000, 999


def at(seconds: float) -> int:
    return ZERO + round(seconds / 0.02)


def cut(ids, logprobs=()):
    """`(start_s, end_s, text)` of each segment; text is characters, END is no text."""
    return cut_segments(
        ids, logprobs, first_timestamp=ZERO, is_text=lambda t: t < END, decode=lambda t: "".join(map(chr, t))
    )


def times(ids):
    return [(s.start_s, s.end_s, s.text) for s in cut(ids)]


A, B, C = 97, 98, 99


@pytest.mark.parametrize(
    ("ids", "segments", "resume"),
    [
        # The forms Whisper's own rules allow: one segment heard to its end; one that the window's end cut; pairs.
        ([at(0), A, B, at(5.0), END], [(0.0, 5.0, "ab")], None),
        ([at(0), A, B, END], [(0.0, None, "ab")], None),
        ([at(0), A, at(5.0), at(5.0), END], [(0.0, 5.0, "a")], 5.0),
        ([at(0.5), A, at(5.0), at(5.5), B, END], [(0.5, 5.0, "a"), (5.5, None, "b")], 5.0),
        ([at(0), A, at(5.0), at(5.0), B, at(9.98), END], [(0.0, 5.0, "a"), (5.0, 9.98, "b")], None),
        ([at(0), A, at(1.0), at(1.2), B, at(2.0), at(2.02), END], [(0.0, 1.0, "a"), (1.2, 2.0, "b")], 2.0),
        ([at(0), END], [], None),
        # The token limit reached: no end token.
        ([at(0), A, at(1.0), at(1.2), B], [(0.0, 1.0, "a"), (1.2, None, "b")], 1.0),
        ([at(0), A, at(1.0)], [(0.0, 1.0, "a")], None),
        # Others that a model without the rules would give: no text is lost.
        ([], [], None),
        ([A, B, END], [(0.0, None, "ab")], None),
        ([A, at(2.0), B, END], [(0.0, 2.0, "a"), (2.0, None, "b")], None),
        ([at(1.0), at(2.0), A, at(3.0), END], [(2.0, 3.0, "a")], None),
        ([at(30.0), A, at(29.0), at(1.0), B, END], [(30.0, 29.0, "a"), (1.0, None, "b")], 29.0),
    ],
)
def test_segments_of_an_answer(ids, segments, resume):
    assert times(ids) == segments
    assert resume_s([i for i in ids if i != END], ZERO) == resume


def test_what_a_segment_holds():
    ids = [at(0), A, B, at(1.0), at(1.2), C, END]
    first, second = cut(ids, [-9.0, -1.0, -2.0, -9.0, -9.0, -3.0, -9.0])
    assert (first.token_ids, first.num_tokens, first.avg_logprob) == ((at(0), A, B, at(1.0)), 2, -1.5)
    assert (second.token_ids, second.num_tokens, second.avg_logprob) == ((at(1.2), C), 1, -3.0)
    assert cut(ids)[0].avg_logprob is None, "no probabilities were asked for"


def test_times_are_as_written():
    """0.02 s a step is no binary fraction: 0.58 must not become 0.5800000000000001."""
    for k in range(NUM_TIMESTAMPS):
        ((start_s, end_s, _),) = times([ZERO + k, A, ZERO + k])
        assert start_s == end_s == float(f"{k // 50}.{k % 50 * 2:02}")


def test_ids_beyond_the_timestamps_are_none():
    beyond = ZERO + NUM_TIMESTAMPS
    ids = [at(0), A, beyond, B, at(1.0), END]
    assert times(ids) == [(0.0, 1.0, "ab")]
    assert resume_s([at(0), A, at(1.0), beyond], ZERO) is None


tokens = st.one_of(st.integers(97, 122), st.integers(ZERO, ZERO + NUM_TIMESTAMPS - 1), st.sampled_from([END]))


@given(st.lists(tokens, max_size=40))
def test_no_text_is_lost_and_all_ids_come_from_the_answer(ids):
    segments = cut(ids)
    assert "".join(s.text for s in segments) == "".join(chr(t) for t in ids if t < END)
    assert all(s.num_tokens == len(s.text) > 0 for s in segments)
    assert all(s.end_s is not None for s in segments[:-1])
    rest = iter(ids)
    assert all(t in rest for s in segments for t in s.token_ids), "in the order they were generated"


@given(st.lists(tokens.filter(lambda t: t != END), max_size=40))
def test_listening_on_is_at_the_end_of_a_closed_segment_or_nowhere(ids):
    resume = resume_s(ids, ZERO)
    pairs = [i for i in range(1, len(ids)) if ids[i - 1] >= ZERO <= ids[i]]
    single = len(ids) > 1 and ids[-1] >= ZERO > ids[-2]
    assert resume == (round((ids[pairs[-1] - 1] - ZERO) * 0.02, 2) if pairs and not single else None)
