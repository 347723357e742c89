"""Figures and flags of texts, the ladder of temperatures, where a window is left, and the times of segments."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.audio.buffer import AudioWindow, WindowLimits
from asrbatch.models import quality
from asrbatch.models.fallback import GREEDY, TEMPERATURES, Attempts, as_rows, failure_reasons
from asrbatch.pipeline import result
from asrbatch.pipeline.longform import heard, unheard_tail
from asrbatch.types import DecodingResult, Segment, Window

GOOD = DecodingResult(" A sentence like any other, said once.", 9, "stop", -0.2, "en", None, 0.1, 0.2, 0.3)
PSALM = (
    "He maketh me lie down in green pastures: he leadeth me beside the still waters. He restoreth my soul. Yea, "
    "though I walk"
    " through the vale of the shadow of death, I will fear no evil: for thou art with me: thy rod and thy staff they "
    "comfort me."
)
RULES = WindowLimits(limit=480_000, search=16_000, frame=1_600, min_tail=16_000)


def said(text: str, **more) -> DecodingResult:
    return replace(GOOD, text=text, **more)


@pytest.mark.parametrize(
    "generation, flags",
    [
        (GOOD, []),
        (said("  "), ["empty"]),
        (said(" Thank you." * 6), ["loop"]),
        (said(" Thank you." * 4), []),
        (said(" It was the best of times and it was the worst" * 8), ["loop", "too_fast"]),
        (said(" and so on", finish_reason="length"), ["truncated"]),
        (said(" you", avg_logprob=-1.2), ["low_confidence"]),
        (said(" you", avg_logprob=-1.2, no_speech_prob=0.7), ["low_confidence", "no_speech"]),
        (said(" you", avg_logprob=-0.9, no_speech_prob=0.99), []),
        (said(" you", avg_logprob=-1.2, no_speech_prob=0.6), ["low_confidence"]),
        (said(PSALM), ["too_fast"]),
        (said("", avg_logprob=None, num_tokens=0), ["empty"]),
    ],
)
def test_flags(generation, flags):
    assert quality.flags(generation, seconds=5.0) == flags


def test_figures():
    figures = quality.metrics("Thank you. Thank you. Thank you.", 2.0, -0.25, 0.01234567)
    assert figures == {
        "avg_logprob": -0.25,
        "compression_ratio": pytest.approx(32 / 19, abs=0.3),
        "repeats": 3,
        "chars_per_s": 16.0,
        "no_speech_prob": 0.0123,
    }
    assert quality.metrics("", 0.0, None, None) == {
        "avg_logprob": None,
        "compression_ratio": 0.0,
        "repeats": 0,
        "chars_per_s": None,
        "no_speech_prob": None,
    }


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_repeats_finds_the_longest_row_of_a_phrase(words):
    # Independently: every phrase from every place, counted as far as it goes on.
    expected = 0
    for length in range(1, 9):
        for start in range(len(words) - length + 1):
            phrase, count = words[start : start + length], 1
            while words[start + length * count : start + length * (count + 1)] == phrase:
                count += 1
            expected = max(expected, count)
    assert quality.repeats(" ".join(words)) == expected


def test_repeats_counts_characters_where_there_are_no_spaces():
    assert quality.repeats("ご視聴ありがとうございました" + "はい" * 7) == 7
    assert quality.repeats("three") == 1


def climb(*answers: DecodingResult) -> Attempts:
    attempts = Attempts(TEMPERATURES)
    for answer, temperature in zip(answers, TEMPERATURES, strict=False):
        assert not attempts.results or attempts.next_temperature == temperature
        attempts.add(replace(answer, temperature=temperature))
    return attempts


def test_a_good_answer_is_not_asked_for_again():
    attempts = climb(GOOD)
    assert attempts.next_temperature is None and attempts.chosen.temperature == 0.0 and attempts.reason is None
    assert as_rows(attempts) == []


def test_without_fallback_a_bad_answer_stands():
    attempts = Attempts(GREEDY)
    attempts.add(said(" la" * 100))
    assert attempts.next_temperature is None and attempts.chosen.text == " la" * 100


def test_the_first_answer_without_faults_counts():
    attempts = climb(said(" la" * 100), said(" you", avg_logprob=-1.5), GOOD)
    assert attempts.next_temperature is None
    assert attempts.chosen.temperature == 0.4 and attempts.reason == "first without faults"
    loop, unsure, good = (row["faults"] for row in as_rows(attempts))
    assert loop[0].startswith("compression_ratio ") and float(loop[0].split()[1]) > 10 and loop[1:] == ["repeats 100"]
    assert (unsure, good) == (["avg_logprob -1.50"], [])


def test_when_all_are_bad_the_most_probable_that_does_not_repeat_counts():
    loop, unsure = said(" la" * 100, avg_logprob=-0.1), said(" you", avg_logprob=-1.5)
    attempts = climb(loop, unsure, said(" me", avg_logprob=-1.4), unsure, unsure, unsure)
    assert attempts.next_temperature is None and attempts.chosen.text == " me"
    assert attempts.reason == "highest avg_logprob of those without loop or cut"
    attempts = climb(loop, *[replace(loop, avg_logprob=-0.3)] * 5)
    assert attempts.chosen.temperature == 0.0 and attempts.reason == "highest avg_logprob"


def test_silence_has_no_faults_whatever_it_says():
    assert failure_reasons(said(" you", avg_logprob=-1.5)) and not failure_reasons(
        said(" you", avg_logprob=-1.5, no_speech_prob=0.9)
    )


@pytest.mark.parametrize(
    "resume_s, seconds, is_last, passed_s",
    [
        (None, 30.0, False, 30.0),
        (21.5, 30.0, False, 21.5),
        (21.5, 30.0, True, 21.5),
        (0.5, 30.0, False, 0.5),
        (0.0, 30.0, False, 30.0),  # never at all
        (29.5, 30.0, False, 29.5),
        (29.5, 30.0, True, 30.0),  # the model heard the crumbs
        (30.0, 12.0, True, 12.0),  # beyond the audio
    ],
)
def test_where_a_window_is_left(resume_s, seconds, is_last, passed_s):
    """Where the sound is the same all around a timestamp, at the timestamp, but for a step of 10 ms."""
    generation, samples = replace(GOOD, resume_s=resume_s), np.ones(round(seconds * 16_000), np.float32)
    assert heard(generation, samples, RULES, is_last=is_last) == pytest.approx(passed_s * 16_000, abs=160)


@pytest.mark.parametrize(
    "pauses, passed_s",
    [
        ([(9.9, 10.1)], 10.0),  # the timestamp is in one
        ([(9.75, 9.9)], 9.85),  # the next word has begun
        ([(10.05, 10.2)], 10.1),  # the last word goes on
        ([(9.8, 9.92), (10.12, 10.3)], 9.87),  # a short word between two pauses is not passed over
        ([(9.0, 9.3), (10.6, 11.0)], 10.0),  # none is near
    ],
)
def test_a_window_is_left_in_the_pause_that_a_timestamp_means(pauses, passed_s):
    samples = np.random.default_rng(0).normal(0, 0.1, 30 * 16_000).astype(np.float32)
    for start_s, end_s in pauses:
        samples[round(start_s * 16_000) : round(end_s * 16_000)] *= 0.01
    passed = heard(replace(GOOD, resume_s=10.0), samples, RULES, is_last=False)
    assert passed == pytest.approx(passed_s * 16_000, abs=0.06 * 16_000)
    if any(start_s < passed_s < end_s for start_s, end_s in pauses):
        assert np.abs(samples[passed - 160 : passed + 160]).max() < 0.01, "in a pause"


def piece(start_s: float, end_s: float | None, text: str) -> Segment:
    return Segment(start_s, end_s, text, (), 1, -0.1)


def times(rows: list[dict]) -> list[tuple[float, float, str]]:
    return [(row["start"], row["end"], row["text"]) for row in rows]


def test_segments_lie_in_their_window_and_ascend():
    window = Window(100 * 16_000, 110 * 16_000)
    answer = replace(
        GOOD, segments=(piece(0.0, 4.0, " a"), piece(4.5, 11.0, " b"), piece(12.0, None, " c"), piece(13.0, 14.0, " "))
    )
    assert times(result.segment_rows(answer, window, window.end, 16_000)) == [
        (100.0, 104.0, "a"), (104.5, 110.0, "b"), (110.0, 110.0, "c"),
    ]  # fmt: skip


def test_a_segment_that_nothing_closes_ends_where_the_next_begins():
    answer = replace(GOOD, segments=(piece(0.0, None, " a"), piece(4.0, None, " b")))
    window = Window(0, 10 * 16_000)
    assert times(result.segment_rows(answer, window, window.end, 16_000)) == [(0.0, 4.0, "a"), (4.0, 10.0, "b")]


def test_what_is_heard_again_is_left_to_the_next_window():
    answer = replace(GOOD, segments=(piece(0.0, 4.0, " a"), piece(4.0, 7.0, " b"), piece(7.0, None, " c")))
    window, left_at = Window(0, 10 * 16_000), 7 * 16_000
    kept = result.kept_part(replace(answer, resume_s=7.0, finish_reason="length"), window, left_at)
    assert (kept.text, kept.num_tokens, kept.finish_reason, kept.avg_logprob) == (
        " a b",
        2,
        "stop",
        pytest.approx(-0.1),
    )
    assert times(result.segment_rows(kept, window, left_at, 16_000)) == [(0.0, 4.0, "a"), (4.0, 7.0, "b")]
    assert result.kept_part(answer, window, window.end) is answer


@pytest.mark.parametrize(
    "segment, resume_s, rest_s",
    [
        ((piece(0.0, 4.0, " a"),), None, None),
        ((piece(0.0, 4.0, " a"),), 4.0, 4.0),  # it closed a segment, expected more, and stopped
        ((piece(0.0, 4.0, " a"), piece(4.0, None, " b")), 4.0, None),  # what nothing closes was heard all the same
        ((piece(0.0, 9.5, " a"),), 9.5, None),  # half a second is not asked again
        ((piece(0.0, 0.5, " a"),), 0.5, None),  # nor nearly the whole
    ],
)
def test_where_the_rest_of_a_window_begins(segment, resume_s, rest_s):
    whole = AudioWindow(Window(16_000, 11 * 16_000), np.tile(np.array([1, -1], np.float32), 5 * 16_000))
    rest = unheard_tail(whole, replace(GOOD, segments=segment, resume_s=resume_s), RULES)
    assert rest == (None if rest_s is None else pytest.approx((1 + rest_s) * 16_000, abs=160))


def test_without_timestamps_a_window_is_one_segment():
    window = Window(16_000, 48_000)
    assert times(result.segment_rows(GOOD, window, window.end, 16_000)) == [(1.0, 3.0, GOOD.text.strip())]
    assert result.segment_rows(said(" "), window, window.end, 16_000) == []
