"""The rules of subtitles, held over made-up and hostile texts; `test_export.py` has them in files that others' parsers
read.
"""

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from asrbatch.errors import UsageError
from asrbatch.export.cue_layout import count_lines, joined, lay_out, pieces, width
from asrbatch.export.cues import Cue, cues
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import TranscriptSegment, ordered_ms, single_line, spread_ms

ENGLISH = (
    "If you would like to learn more technical information about Asterisk dial 2 now. If you'd like to test out the "
    "voice over "
    "IP capabilities of Asterisk you can dial 500 to attempt a connection to a demonstration server at Digium."
)
CHINESE = (
    "我们正在讨论一个非常重要的问题，这个问题关系到每一个人的生活。"
    "你觉得应该怎么办呢？我认为我们需要更多的时间来研究它。"
)
JAPANESE = (
    "「吾輩は猫である。」名前はまだ無い。"
    "どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた。"
)
KOREAN = "안녕하세요 여러분 오늘은 날씨가 아주 좋습니다 그래서 우리는 바다에 가서 하루 종일 놀다가 저녁에 돌아왔습니다"
THAI = "สวัสดีครับวันนี้อากาศดีมากเราไปเที่ยวทะเลกันเถอะแล้วกลับมากินข้าวเย็นด้วยกันที่บ้านของคุณยาย"
ARABIC = "كان يا ما كان في قديم الزمان، ملك عظيم يعيش في قصر كبير مع زوجته وأولاده الثلاثة. وكان الملك يحب الصيد كثيرا."
HINDI = "यह एक बहुत लंबा वाक्य है जो हिंदी में लिखा गया है। इसमें कई शब्द हैं और इसे दो पंक्तियों में बाँटना होगा।"
LANGUAGES = {"en": ENGLISH, "zh": CHINESE, "ja": JAPANESE, "ko": KOREAN, "th": THAI, "ar": ARABIC, "hi": HINDI}


def segment(start_s: float, end_s: float, text: str) -> TranscriptSegment:
    return TranscriptSegment(start_s, end_s, text, {})


def without_spaces(text: str) -> str:
    return "".join(single_line(text).split(" "))


held = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

words = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12),
    st.sampled_from(
        ["the", "word,", "end.", "Inter-Asterisk", "-->", "&", "<b>", "x" * 60, "…", "\u200f", "1", "e\u0301"]
    ),
    st.sampled_from([CHINESE[:9], JAPANESE[:14], THAI[:20], "مرحبا", "हिंदी", "👩‍👩‍👧‍👦", "日本OK", "（笑）"]),
)
texts = st.lists(words, max_size=40).map(" ".join)
# Times as a model may give them: out of order, past the end, of no length, all the same.
times = st.one_of(st.floats(0, 40), st.sampled_from([0.0, 5.0, 30.0, 1e6]))
segments = st.lists(st.builds(segment, times, times, texts), max_size=8)
audio_ms = st.one_of(st.integers(0, 200_000), st.sampled_from([0, 1, 40, 500, 900, 30_000]))
limits = st.one_of(
    st.just(CueLimits()),
    st.builds(
        CueLimits,
        max_line_chars=st.integers(10, 60),
        max_lines=st.integers(1, 4),
        min_duration_s=st.floats(0.01, 2),
        max_duration_s=st.floats(2, 10),
        max_chars_per_s=st.floats(5, 40),
        min_gap_s=st.floats(0, 0.5),
    ),
)


@held
@given(segments, audio_ms, limits)
@example([segment(0, 0, ENGLISH)], 10, CueLimits())
@example([segment(1e6, 0, "late"), segment(0, 5, "early")], 100, CueLimits())
def test_cues_are_in_order_apart_and_inside_the_audio(segments, audio_ms, limits):
    found = cues(segments, audio_ms, limits)
    assert all(cue.start_ms < cue.end_ms <= cue.start_ms + max(limits.max_ms, 1) for cue in found)
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
    if found:
        assert found[0].start_ms >= 0
        assert found[-1].end_ms <= max(audio_ms, len(found))


@held
@given(segments, audio_ms, limits)
def test_no_word_is_lost_added_or_moved(segments, audio_ms, limits):
    shown = "".join(line for cue in cues(segments, audio_ms, limits) for line in cue.lines)
    assert without_spaces(shown) == "".join(without_spaces(s.text) for s in segments)


@held
@given(
    st.lists(
        st.builds(segment, times, times, st.lists(st.sampled_from(ENGLISH.split()), max_size=30).map(" ".join)),
        max_size=6,
    )
)
def test_words_between_spaces_stay_whole(segments):
    shown = [word for cue in cues(segments, 40_000, CueLimits()) for line in cue.lines for word in line.split(" ")]
    assert shown == [word for s in segments for word in s.text.split()]


@held
@given(segments, audio_ms, limits)
def test_lines_keep_to_their_width_and_number_unless_one_piece_is_wider(segments, audio_ms, limits):
    for cue in cues(segments, audio_ms, limits):
        assert 1 <= len(cue.lines) <= limits.max_lines
        for line in cue.lines:
            assert line and line == line.strip(" ") and line == single_line(line)
            assert width(line) <= limits.max_line_chars or len(pieces(line)) == 1


@held
@given(segments, audio_ms, limits)
def test_shortest_duration_and_gap_are_kept_where_the_audio_has_time_for_them(segments, audio_ms, limits):
    found = cues(segments, audio_ms, limits)
    assume(len(found) * (limits.min_ms + limits.gap_ms) - limits.gap_ms <= audio_ms)
    assert all(cue.end_ms - cue.start_ms >= limits.min_ms for cue in found)
    assert all(b.start_ms - a.end_ms >= limits.gap_ms for a, b in pairwise(found))


@held
@given(segments, audio_ms, limits)
def test_a_cue_that_is_too_fast_to_read_stays_as_long_as_it_may(segments, audio_ms, limits):
    found = cues(segments, audio_ms, limits)
    assume(len(found) * (limits.min_ms + limits.gap_ms) - limits.gap_ms <= audio_ms)
    until_ms = [*(cue.start_ms - limits.gap_ms for cue in found[1:]), audio_ms]
    for cue, latest_ms in zip(found, until_ms, strict=False):
        readable = (cue.end_ms - cue.start_ms) * limits.max_chars_per_s >= 1000 * sum(width(line) for line in cue.lines)
        # 1.5 s after its speech it goes, however much there was to read.
        assert readable or cue.end_ms >= min(latest_ms, cue.start_ms + limits.max_ms, cue.start_ms + 1500)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("seconds", [4, 12, 29])
def test_real_sentences_keep_every_rule(language, seconds):
    text, r = LANGUAGES[language], CueLimits()
    found = cues([segment(0, seconds, text)], seconds * 1000, r)
    assert without_spaces("".join(line for cue in found for line in cue.lines)) == without_spaces(text)
    for cue in found:
        assert len(cue.lines) <= 2 and all(width(line) <= 42 for line in cue.lines)
        assert r.min_ms <= cue.end_ms - cue.start_ms <= r.max_ms
    if seconds >= 12:
        assert all(sum(map(width, c.lines)) <= 20.5 * (c.end_ms - c.start_ms) / 1000 for c in found)


def test_a_sentence_is_not_torn_where_it_need_not_be():
    found = cues([segment(0, 14.6, ENGLISH)], 14_600, CueLimits())
    assert found[0] == Cue(
        0, found[0].end_ms, ("If you would like to learn more technical", "information about Asterisk dial 2 now.")
    )
    assert found[1].lines[0].startswith("If you'd like")


def test_short_segments_share_a_cue_and_a_pause_divides():
    found = cues(
        [segment(0, 0.3, "Yes."), segment(0.3, 0.6, "No."), segment(4, 4.2, "Well, maybe.")], 10_000, CueLimits()
    )
    assert found == [Cue(0, 834, ("Yes. No.",)), Cue(4000, 4834, ("Well, maybe.",))]


def test_a_last_word_at_the_very_end_appears_early_enough():
    assert cues([segment(9.9, 10, "Bye.")], 10_000, CueLimits()) == [Cue(9166, 10_000, ("Bye.",))]


def test_small_gaps_are_closed_and_larger_ones_left():
    first, second = ENGLISH[:79], ENGLISH[80:150]
    near, far = ([segment(0, 4, first), segment(at, at + 4, second)] for at in (4.4, 6.0))
    assert cues(near, 10_000, CueLimits())[0].end_ms == 4400 - 83
    assert cues(far, 10_000, CueLimits())[0].end_ms == 4000


def test_a_long_silence_after_a_short_text_does_not_stay_on_the_screen():
    assert cues([segment(0, 30, "Hello you there.")], 30_000, CueLimits()) == [Cue(0, 7000, ("Hello you there.",))]


def test_speech_too_fast_to_read_keeps_its_words_and_says_them_in_time():
    text = " ".join(["quickly"] * 40)
    found = cues([segment(0, 4, text)], 4000, CueLimits())
    assert " ".join(line for cue in found for line in cue.lines) == text
    assert found[-1].end_ms == 4000


def test_more_cues_than_milliseconds_last_a_millisecond_each():
    found = cues([segment(0, 0, " ".join(["word"] * 200))], 2, CueLimits())
    assert [(c.start_ms, c.end_ms) for c in found] == [(n, n + 1) for n in range(len(found))] and len(found) > 2


def test_nothing_said_makes_no_cue():
    assert cues([], 5000, CueLimits()) == cues([segment(0, 5, " \n ")], 5000, CueLimits()) == []


# Lines


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("日本", 4),
        ("ｱ", 1),
        ("Ａ", 2),
        ("e\u0301", 1),
        ("한", 2),
        ("हिं", 2),
        ("ที่", 1),
        ("\u200fx", 1),
        ("", 0),
    ],
)
def test_wide_characters_count_double_and_marks_not(text, columns):
    assert width(text) == columns


def test_japanese_lines_begin_with_no_closing_mark_and_end_with_no_opening_one():
    text = (JAPANESE + "（笑）「はい」、ッッーー。") * 5
    for max_width in range(10, 40):
        lines = lay_out(pieces(text), max_width)
        assert "".join(lines) == text
        assert not any(line[0] in "。、）」ーッ" or line[-1] in "（「" for line in lines)


def test_letters_written_as_one_are_not_parted():
    for text in (THAI, "សួស្តីពិភពលោក", "မင်္ဂလာပါကမ္ဘာ", "👩‍👩‍👧‍👦👍🏽👍🏽"):
        for piece in pieces(text):
            assert unicodedata.category(piece.text[0])[0] != "M" and piece.text[0] not in "\u200dะาำ🏽"
            assert piece.text[-1] not in "\u200dเแโใไ\u17d2\u1039"


def test_korean_and_latin_words_stay_whole():
    assert [p.text for p in pieces(KOREAN)] == KOREAN.split()
    assert [p.text for p in pieces("Größe café-au-lait l’été")] == ["Größe", "café-au-lait", "l’été"]


@held
@given(texts.map(single_line), st.integers(5, 60))
def test_lines_are_as_few_as_can_be_and_hold_the_text(text, max_width):
    assume(text)
    found = pieces(text)
    lines = lay_out(found, max_width)
    assert joined(found) == text
    assert len(lines) == count_lines(found, max_width)
    assert re.sub(" ", "", "".join(lines)) == re.sub(" ", "", text)


def test_two_lines_are_balanced_and_prefer_punctuation():
    assert lay_out(pieces("He went to that market to buy a loaf of bread"), 42) == (
        "He went to that market",
        "to buy a loaf of bread",
    )
    assert lay_out(pieces("When he had seen it all, he went home again to bed"), 42) == (
        "When he had seen it all,",
        "he went home again to bed",
    )


# Text and times


@given(st.text())
def test_text_on_one_line_has_nothing_that_breaks_a_line(text):
    line = single_line(text)
    assert len(line.splitlines()) <= 1 and "  " not in line and line == line.strip(" ")
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in line)
    line.encode()


def test_spaces_that_glue_words_stay():
    assert single_line("Bonjour\u00a0!\tÇa\u2028va\x00\u202f?\r\n\ud800") == "Bonjour\u00a0! Ça va\u202f? \ufffd"


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.lists(st.integers(0, 50), max_size=50))
def test_time_is_shared_out_in_order_and_without_rest(start, length, weights):
    bounds = spread_ms(start, start + length, weights)
    assert len(bounds) == max(len(weights), 0) + 1 and bounds == sorted(bounds)
    assert bounds[-1] == start + length and (not weights or bounds[0] == start)


@given(segments, audio_ms)
def test_segments_are_put_in_order_inside_the_audio(segments, audio_ms):
    spans = ordered_ms(segments, audio_ms)
    assert all(0 <= start <= end <= audio_ms for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_line_chars": 1}, "--max-line-chars 1: must be at least 2"),
        ({"max_lines": 0}, "--max-lines 0: must be at least 1"),
        ({"min_duration_s": 0.0}, "--min-duration 0.0: must be at least 0.001"),
        ({"max_duration_s": 0.5}, "--max-duration 0.5: must be at least --min-duration, 0.833"),
        ({"max_chars_per_s": 0.0}, "--max-chars-per-s 0.0: must be at least 1"),
        ({"min_gap_s": float("nan")}, "--min-gap nan: must be at least 0"),
        ({"max_duration_s": float("inf")}, "--max-duration inf: must be"),
    ],
)
def test_rules_that_no_cue_can_keep_are_refused(wrong, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        CueLimits(**wrong)
