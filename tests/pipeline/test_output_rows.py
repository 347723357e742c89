"""What an output row holds: the manifest's fields as they were, then ours, in one fixed order."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from asrbatch.audio.buffer import AudioWindow
from asrbatch.audio.windows import WindowConfig
from asrbatch.errors import RowError
from asrbatch.models.fallback import Attempts
from asrbatch.pipeline.result import RESULT_FIELDS, TIMING_FIELDS, failed_row, ok_row
from asrbatch.pipeline.state import InFlightWindow, UtteranceState
from asrbatch.types import AudioRef, DecodingResult, Segment, Utterance, Window

ORDER = [
    "status",
    "error",
    "pred_text",
    "reasoning",
    "audio_s",
    "language",
    "language_prob",
    "windows",
    "skips",
    "segments",
    "num_tokens",
    "avg_logprob",
    "finish_reason",
    "flags",
    "timing",
]
CLOCKS = {"read": 0.25, "prepare": 0.5, "engine": 0.75, "total": 9.0}


def utterance(**fields) -> Utterance:
    return Utterance(
        7, str(fields.get("id", "u7")), AudioRef("a.wav", "/data/a.wav"), fields={"audio_filepath": "a.wav", **fields}
    )


def generation(
    text=" one two", num_tokens=3, finish_reason="stop", avg_logprob: float | None = -0.5, **more
) -> DecodingResult:
    facts = {"language": "en", "language_prob": None, "queue_s": 0.1, "first_token_s": 0.2, "generate_s": 0.3, **more}
    return DecodingResult(text, num_tokens, finish_reason, avg_logprob, **facts)


class Timed(UtteranceState):
    """With stage times of our own."""

    timing = CLOCKS


def answered(window: Window, *generations: DecodingResult) -> InFlightWindow:
    attempts = Attempts(temperatures=range(len(generations)))
    for answer in generations:
        attempts.add(answer)
    answered = InFlightWindow(None, 0, AudioWindow(window, None))
    answered.attempts = attempts
    return answered


def row_of(
    utterance: Utterance,
    windows: list[InFlightWindow],
    audio_s: float,
    *,
    sample_rate=16000,
    state=Timed,
    skips=(),
    flags=(),
    drop_no_speech=False,
    is_translated=False,
    target_language=None,
) -> dict:
    state = state(utterance, audio_s=audio_s, flags=flags, skips=list(skips), answered=windows)
    window_config = WindowConfig(sample_rate, 30.0, 160, drop_no_speech=drop_no_speech)
    spec = SimpleNamespace(is_translated=is_translated, target_language=target_language, window_config=window_config)
    return ok_row(state, spec)


def transcribed(*generations: DecodingResult, audio_flags=(), options=(), **fields) -> dict:
    windows = [answered(Window(i * 16000, (i + 1) * 16000), answer) for i, answer in enumerate(generations)]
    row = row_of(utterance(**fields), windows, float(len(generations)), flags=audio_flags, **dict(options))
    json.dumps(row, allow_nan=False)
    return row


def test_order_of_fields():
    row = transcribed(generation(), speaker="s1", id="u7", duration=1.0, index=3)
    assert list(row) == ["id", "index", "audio_filepath", "speaker", "duration", "input", *ORDER]
    assert list(row["timing"]) == ["read", "prepare", "queue", "first_token", "generate", "engine", "total"]
    assert (list(RESULT_FIELDS), list(TIMING_FIELDS)) == (ORDER, list(row["timing"]))


def test_a_whole_row():
    fields = {"id": "u7", "audio_filepath": "a.wav", "text": "One, two.", "lang": "en", "nested": {"a": [1, None]}}
    row = transcribed(generation(), generation("", 0, "length", None), generation(" three ", 5, "stop", -1.0), **fields)
    figures = {"repeats": 1, "no_speech_prob": None}
    one_two = {"avg_logprob": -0.5, "compression_ratio": 0.467, "chars_per_s": 7.0, **figures}
    three = {"avg_logprob": -1.0, "compression_ratio": 0.385, "chars_per_s": 5.0, **figures}
    asked_once = {"reasoning": None, "temperature": 0.0, "flags": [], "attempts": [], "chosen_because": None}
    window = {"num_tokens": 3, "finish_reason": "stop", **asked_once}
    assert row == {
        "id": "u7",
        "index": 7,
        "audio_filepath": "a.wav",
        "text": "One, two.",
        "lang": "en",
        "nested": {"a": [1, None]},
        "status": "ok",
        "error": None,
        "pred_text": "one two three",
        "reasoning": None,
        "audio_s": 3.0,
        "language": "en",
        "language_prob": None,
        "windows": [
            {**window, "start": 0.0, "end": 1.0, "kept_until": 1.0, "text": "one two", **one_two},
            {
                **window,
                "start": 1.0,
                "end": 2.0,
                "kept_until": 2.0,
                "text": "",
                "num_tokens": 0,
                "finish_reason": "length",
                "avg_logprob": None,
                "compression_ratio": 0.0,
                "repeats": 0,
                "chars_per_s": 0.0,
                "no_speech_prob": None,
                "flags": ["empty", "truncated"],
            },
            {**window, "start": 2.0, "end": 3.0, "kept_until": 3.0, "text": "three", "num_tokens": 5, **three},
        ],
        "skips": [],
        "segments": [
            {"start": 0.0, "end": 1.0, "text": "one two", **one_two},
            {"start": 2.0, "end": 3.0, "text": "three", **three},
        ],
        "num_tokens": 8,
        "avg_logprob": -0.8,  # (4 · -0.5 + 6 · -1.0) / 10: end tokens count, the window without tokens does not
        "finish_reason": "length",
        "flags": ["truncated"],
        "timing": {
            "read": 0.25,
            "prepare": 0.5,
            "queue": 0.3,
            "first_token": 0.2,
            "generate": 0.9,
            "engine": 0.75,
            "total": 9.0,
        },
    }


@pytest.mark.parametrize("name", ["index", "input", *ORDER])
def test_reserved_names_move_under_input(name):
    row = transcribed(generation(), **{name: "the manifest's", "speaker": "s1"})
    assert row["input"] == {name: "the manifest's"}
    assert row["speaker"] == "s1"
    if name != "input":
        assert row[name] != "the manifest's"
    failure = failed_row(utterance(**{name: "the manifest's"}), RowError("missing", "gone"), {})
    assert failure["input"] == {name: "the manifest's"}


def test_no_input_without_such_names():
    assert "input" not in transcribed(generation(), text="x", windowss=1)


def test_id_is_a_string():
    row = transcribed(generation(), id=17)
    assert (row["id"], next(iter(row))) == ("17", "id")
    assert "input" not in row


def test_non_finite_numbers_become_null():
    nan, inf = float("nan"), float("inf")
    row = transcribed(
        generation(avg_logprob=-inf, language_prob=nan, first_token_s=nan),
        options={"state": type("Endless", (Timed,), {"timing": {"read": inf, "total": 1}})},
        snr=nan,
        deep={"a": [1.5, {"b": [inf, -inf]}], "nan": "NaN"},
    )
    assert row["snr"] is None
    assert row["deep"] == {"a": [1.5, {"b": [None, None]}], "nan": "NaN"}
    assert (row["avg_logprob"], row["windows"][0]["avg_logprob"], row["language_prob"]) == (None, None, None)
    assert row["timing"] == {
        "read": None,
        "prepare": None,
        "queue": 0.1,
        "first_token": None,
        "generate": 0.3,
        "engine": None,
        "total": 1,
    }


@pytest.mark.parametrize("head", ["data:audio/wav;base64", "DATA:audio/flac;Base64", "data:;base64"])
def test_embedded_audio_comes_back_as_its_digest(head):
    uri = f"{head},UklGRg" + "A" * 100_000
    row = transcribed(generation(), audio_filepath=uri, deep=[{"clip": uri}])
    expected = f"{head},sha256={hashlib.sha256(uri.encode()).hexdigest()}"
    assert row["audio_filepath"] == expected
    assert row["deep"] == [{"clip": expected}]


@pytest.mark.parametrize(
    "text", ["data: the new oil, they say", "data:", "Data: base64, and more", "see data:audio/wav;base64,AA"]
)
def test_texts_that_only_look_like_it_stay(text):
    assert transcribed(generation(), text=text)["text"] == text


def test_failed_row_has_the_same_fields():
    row = failed_row(
        utterance(id="u7", speaker="s1"), RowError("too_long", "a.wav: 40 s"), {"read": 0.5, "total": 1.25}
    )
    assert list(row) == list(transcribed(generation(), id="u7", speaker="s1"))
    assert row == {
        "id": "u7",
        "index": 7,
        "audio_filepath": "a.wav",
        "speaker": "s1",
        "status": "failed",
        "error": {"kind": "too_long", "message": "a.wav: 40 s"},
        "pred_text": None,
        "reasoning": None,
        "audio_s": None,
        "language": None,
        "language_prob": None,
        "windows": [],
        "skips": [],
        "segments": [],
        "num_tokens": None,
        "avg_logprob": None,
        "finish_reason": None,
        "flags": [],
        "timing": {
            "read": 0.5,
            "prepare": None,
            "queue": None,
            "first_token": None,
            "generate": None,
            "engine": None,
            "total": 1.25,
        },
    }


def test_flags():
    assert transcribed(generation())["flags"] == []
    assert transcribed(generation(" \n"))["flags"] == ["empty"]
    assert transcribed(generation(""), generation())["flags"] == []
    assert transcribed(generation(), generation(finish_reason="length"))["flags"] == ["truncated"]
    both = transcribed(generation("", 0, "length", None), audio_flags=("duration_mismatch", "no_speech"))
    assert both["flags"] == ["duration_mismatch", "no_speech", "empty", "truncated"]
    assert both["pred_text"] == ""


def test_text_is_as_the_reader_gave_it():
    text = ' He said "hello",  and left — «twice» twice twice\u2028'
    assert transcribed(generation(text))["pred_text"] == text.strip()


def test_numbers_over_one_window_are_that_windows():
    row = transcribed(generation(num_tokens=40, finish_reason="length", avg_logprob=-0.123456))
    assert (row["num_tokens"], row["finish_reason"], row["avg_logprob"]) == (40, "length", -0.1235)


def test_a_cut_window_has_no_end_token_to_weigh():
    row = transcribed(
        generation(num_tokens=4, finish_reason="length", avg_logprob=-1.0), generation(num_tokens=3, avg_logprob=0.0)
    )
    assert row["avg_logprob"] == -0.5


@pytest.mark.parametrize(
    ("spoken", "target", "answers", "text"),
    [
        ("ja", "en", ("I see.", "Yes."), "I see. Yes."),
        ("en", "zh", ("你好。", "OK"), "你好。OK"),
        ("ja", None, ("I see.", "Yes."), "I see. Yes."),
    ],
)
def test_translated_windows_are_joined_as_the_language_written_is(spoken, target, answers, text):
    options = {"is_translated": True, "target_language": target}
    row = transcribed(*(generation(answer, language=spoken) for answer in answers), options=options)
    assert (row["pred_text"], row["language"]) == (text, spoken)


def test_language_is_the_first_windows():
    row = transcribed(generation(language="fr", language_prob=0.987654), generation(language="de", language_prob=0.5))
    assert (row["language"], row["language_prob"]) == ("fr", 0.9877)


def test_window_times_count_from_the_rows_own_start():
    heard = [answered(Window(0, 4001), generation()), answered(Window(4001, 10000), generation())]
    row = row_of(utterance(offset=100.0), heard, 1.25, sample_rate=8000)
    assert [(w["start"], w["end"]) for w in row["windows"]] == [(0.0, 0.500125), (0.500125, 1.25)]


def test_the_part_of_a_window_that_the_next_one_hears_again_is_left_to_it():
    segments = (Segment(0.0, 0.4, " one", (), 1, -0.1), Segment(0.5, None, " tw", (), 1, -0.1))
    first = generation(" one tw", segments=segments, resume_s=0.4)
    heard = [answered(Window(0, 16000), first), answered(Window(6400, 20000), generation(" two"))]
    row = row_of(utterance(), heard[::-1], 1.25)
    assert row["pred_text"] == "one two"
    assert [(w["start"], w["kept_until"], w["end"], w["text"]) for w in row["windows"]] == [
        (0.0, 0.4, 1.0, "one"), (0.4, 1.25, 1.25, "two"),
    ]  # fmt: skip
    assert [(s["start"], s["end"], s["text"]) for s in row["segments"]] == [(0.0, 0.4, "one"), (0.4, 1.25, "two")]


def test_text_where_nobody_speaks_is_left_out_on_demand_and_stays_in_its_window():
    answers = generation(), generation(" you", 1, avg_logprob=-1.3, no_speech_prob=0.8)
    kept, dropped = transcribed(*answers), transcribed(*answers, options={"drop_no_speech": True})
    assert (kept["pred_text"], dropped["pred_text"]) == ("one two you", "one two")
    assert [len(row["segments"]) for row in (kept, dropped)] == [2, 1]
    assert [row["windows"][1]["text"] for row in (kept, dropped)] == ["you", "you"]
    assert kept["windows"][1]["flags"] == ["low_confidence", "no_speech"]
    assert dropped["windows"][1]["flags"] == ["low_confidence", "no_speech", "dropped"]
    assert kept["flags"] == dropped["flags"] == ["low_confidence"], "somebody speaks in the row"
    assert transcribed(answers[1])["flags"] == ["no_speech", "low_confidence"]


def test_a_recording_without_speech_is_a_row_with_its_skips():
    row = transcribed(options={"skips": [Window(0, 8000), Window(9000, 16000)]}, audio_flags=("duration_mismatch",))
    assert row["skips"] == [{"start": 0.0, "end": 0.5}, {"start": 0.5625, "end": 1.0}]
    assert (row["status"], row["pred_text"], row["windows"], row["segments"]) == ("ok", "", [], [])
    assert row["flags"] == ["duration_mismatch", "empty", "no_speech"]
    assert (row["language"], row["avg_logprob"], row["finish_reason"], row["num_tokens"]) == (None, None, "stop", 0)


@pytest.mark.parametrize(
    "language, text", [("en", "one two three four"), ("ja", "one twothree four"), ("zh", "one twothree four")]
)
def test_windows_are_joined_as_the_language_is_written(language, text):
    assert transcribed(generation(language=language), generation(" three four", language=language))["pred_text"] == text


def test_every_attempt_counts_in_time_and_one_in_text():
    bad, good = generation(" la" * 50, temperature=0.0), generation(" two", temperature=1.0)
    row = row_of(utterance(), [answered(Window(0, 16000), bad, good)], 1.0)
    (window,) = row["windows"]
    assert (row["pred_text"], row["timing"]["generate"], row["flags"]) == ("two", 0.6, [])
    assert [(a["temperature"], a["chosen"]) for a in window["attempts"]] == [(0.0, False), (1.0, True)]
    assert window["temperature"] == 1.0 and window["chosen_because"] == "first without faults"


def test_what_a_model_thought_stands_beside_what_it_said():
    row = transcribed(generation(" one", reasoning="It says one."), generation(" two"))
    assert (row["pred_text"], row["reasoning"]) == ("one two", "It says one.")
    assert [window["reasoning"] for window in row["windows"]] == ["It says one.", None]
    cut = transcribed(generation("", reasoning="It says", is_cut=True))
    assert (cut["pred_text"], cut["flags"], cut["finish_reason"]) == ("", ["empty", "truncated"], "stop")


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (("你好", "世界。"), "你好世界。"),
        (("สวัสดี", "ครับ"), "สวัสดีครับ"),
        (("안녕", "하세요"), "안녕 하세요"),
        (("你好", "Ada"), "你好 Ada"),
    ],
)
def test_where_nobody_knows_the_language_the_letters_at_a_seam_tell(texts, joined):
    assert transcribed(*(generation(text, language=None) for text in texts))["pred_text"] == joined
