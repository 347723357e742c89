"""Whisper's prompts as token ids, and the reading of its answers, for a multilingual and an English-only vocabulary."""

import math

import pytest

from asrbatch.checkpoint import Checkpoint
from asrbatch.errors import RowError, UsageError
from asrbatch.prompts import Ask, WhisperPrompts

LANGUAGES = ["en", "zh", "de", "es", "fr", "haw", "yue"]
SOT, EN, DE, TRANSLATE, TRANSCRIBE, PREV, NO_TIMESTAMPS, END = 50258, 50259, 50261, 50358, 50359, 50361, 50363, 50257


def checkpoint(*, english: bool = False, without: str | None = None, **config) -> Checkpoint:
    """Whisper's control tokens; an English-only vocabulary has each one number earlier."""
    tokens = {
        "<|endoftext|>": END,
        "<|startoftranscript|>": SOT,
        **{f"<|{code}|>": EN + i for i, code in enumerate(LANGUAGES)},
        "<|translate|>": TRANSLATE,
        "<|transcribe|>": TRANSCRIBE,
        "<|startoflm|>": 50360,
        "<|startofprev|>": PREV,
        "<|nocaptions|>": 50362,
        "<|notimestamps|>": NO_TIMESTAMPS,
        "<|0.00|>": 50364,
    }
    return Checkpoint(
        name="acme/whisper",
        folder="/models/whisper",
        revision=None,
        config={"architectures": ["WhisperForConditionalGeneration"], "vocab_size": 51864 if english else 51865, **config},
        generation_config={"suppress_tokens": [1, 2, 7, SOT], "begin_suppress_tokens": [220, END - english]},
        added_tokens={token: number - english for token, number in tokens.items() if token != without},
    )


@pytest.fixture
def prompts() -> WhisperPrompts:
    return WhisperPrompts(checkpoint())


def encode(text: str) -> list[int]:
    """One number for each character, its control tokens included: `\\x01` stands for <|en|>."""
    return [EN if character == "\x01" else ord(character) for character in text]


# Asking


def test_language_given(prompts):
    assert prompts.ask("de", None, encode) == Ask((SOT, DE, TRANSCRIBE, NO_TIMESTAMPS), "de")
    assert not prompts.ask("de", None, encode).detects
    assert prompts.controls(detects=False).as_dict() == {
        "suppress": [1, 2, 7, SOT],
        "begin_suppress": [220, END],
        "forced": [],
    }


def test_language_to_be_detected(prompts):
    ask = prompts.ask(None, None, encode)
    assert ask == Ask((SOT,), None)
    assert ask.detects
    languages = [EN + i for i in range(len(LANGUAGES))]
    assert prompts.controls(detects=True).as_dict() == {
        "suppress": [1, 2, 7, SOT],
        "begin_suppress": [220, END],
        "forced": [languages, [TRANSCRIBE], [NO_TIMESTAMPS]],
    }


def test_english_only_has_neither_language_nor_task():
    prompts = WhisperPrompts(checkpoint(english=True))
    for language in ("en", None):
        ask = prompts.ask(language, None, encode)
        assert ask == Ask((SOT - 1, NO_TIMESTAMPS - 1), "en")
        assert not ask.detects


def test_translate():
    prompts = WhisperPrompts(checkpoint(), "translate")
    assert prompts.ask("de", None, encode).decoder_ids == (SOT, DE, TRANSLATE, NO_TIMESTAMPS)
    assert prompts.controls(detects=True).forced[1:] == ((TRANSLATE,), (NO_TIMESTAMPS,))


def test_checkpoint_without_suppressed_tokens():
    bare = Checkpoint("m", "/m", None, checkpoint().config, {"suppress_tokens": None}, added_tokens=checkpoint().added_tokens)
    assert WhisperPrompts(bare).controls(detects=False).as_dict() == {"suppress": [], "begin_suppress": [], "forced": []}


def test_previous_text(prompts):
    previous = (PREV, *encode(" Über uns"))
    assert prompts.ask("de", "  Über uns \n", encode).decoder_ids == (*previous, SOT, DE, TRANSCRIBE, NO_TIMESTAMPS)
    assert prompts.ask(None, "Über uns", encode).decoder_ids == (*previous, SOT)
    english = WhisperPrompts(checkpoint(english=True)).ask(None, "Über uns", encode)
    assert english.decoder_ids == (PREV - 1, *encode(" Über uns"), SOT - 1, NO_TIMESTAMPS - 1)


@pytest.mark.parametrize("blank", [None, "", "  ", "\n\t"])
def test_blank_previous_text_is_none(prompts, blank):
    assert prompts.ask("en", blank, encode).decoder_ids == (SOT, EN, TRANSCRIBE, NO_TIMESTAMPS)


@pytest.mark.parametrize("length, kept", [(222, 223), (223, 223), (5000, 223)])
def test_the_last_tokens_of_a_long_previous_text(prompts, length, kept):
    """With <|startofprev|> they fill half of the 448 positions. The blank before the text is a token here."""
    text = "".join(chr(0x4E00 + i) for i in range(length))
    ids = prompts.ask("en", text, encode).decoder_ids
    assert ids == (PREV, *encode(" " + text)[-kept:], SOT, EN, TRANSCRIBE, NO_TIMESTAMPS)
    assert len(ids) == 1 + kept + 4


def test_room_follows_the_decoder():
    prompts = WhisperPrompts(checkpoint(max_target_positions=20))
    assert len(prompts.ask("en", "x" * 99, encode).decoder_ids) == 1 + 9 + 4


@pytest.mark.parametrize("text", ["a \x01 b", "\x01" + "x" * 500])
def test_control_tokens_in_previous_text(prompts, text):
    with pytest.raises(RowError) as error:
        prompts.ask("en", text, encode)
    assert error.value.kind == "bad_row"
    assert "holds a control token" in error.value.message and "remove it" in error.value.message
    assert len(error.value.message) < 200


# What is refused


@pytest.mark.parametrize("written", ["de", "DE", "de-AT", "de_at", " De "])
def test_language_as_people_write_it(prompts, written):
    assert prompts.check_language(written) == "de"


def test_languages_of_three_letters(prompts):
    assert [prompts.check_language(code) for code in ("haw", "yue-Hant-HK")] == ["haw", "yue"]


@pytest.mark.parametrize("written", ["xx", "german", "", "-", "d e"])
def test_language_the_checkpoint_lacks(prompts, written):
    with pytest.raises(UsageError) as error:
        prompts.check_language(written)
    assert str(error.value) == f"language {written!r}: acme/whisper has no such language; it has de en es fr haw yue zh"


def test_language_of_an_english_only_checkpoint():
    prompts = WhisperPrompts(checkpoint(english=True))
    assert [prompts.check_language(code) for code in ("en", "EN", "en-US")] == ["en"] * 3
    with pytest.raises(UsageError) as error:
        prompts.check_language("de")
    assert str(error.value) == "language 'de': acme/whisper is English-only; give a multilingual checkpoint"


def test_translate_needs_a_multilingual_checkpoint():
    with pytest.raises(UsageError) as error:
        WhisperPrompts(checkpoint(english=True), "translate")
    assert str(error.value) == "--task translate: acme/whisper is English-only; give a multilingual checkpoint"


def test_unknown_task():
    with pytest.raises(UsageError, match="--task summarise: must be one of transcribe, translate"):
        WhisperPrompts(checkpoint(), "summarise")


@pytest.mark.parametrize(
    "token", ["<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>", "<|transcribe|>", "<|endoftext|>"]
)
def test_tokenizer_without_a_control_token(token):
    with pytest.raises(UsageError) as error:
        WhisperPrompts(checkpoint(without=token))
    assert "--model acme/whisper: its tokenizer lacks " in str(error.value)
    assert token in str(error.value) and "tokenizer.json" in str(error.value)


# Reading


def test_answer_in_a_given_language(prompts):
    answer = prompts.read(prompts.ask("de", None, encode), [11, 12, 13, END], [-0.1, -0.2, -0.3, -0.4])
    assert (answer.language, answer.language_prob, answer.num_tokens) == ("de", None, 3)
    assert answer.avg_logprob == pytest.approx(-0.25)


def test_answer_with_a_detected_language(prompts):
    ask = prompts.ask(None, None, encode)
    answer = prompts.read(ask, [DE, TRANSCRIBE, NO_TIMESTAMPS, 11, 12, END], [math.log(0.8), 0.0, 0.0, -1.0, -2.0, -3.0])
    assert (answer.language, answer.num_tokens) == ("de", 2)
    assert answer.language_prob == pytest.approx(0.8)
    assert answer.avg_logprob == pytest.approx(-2.0)  # of the text and its end, not of the control tokens


def test_answer_that_was_cut_has_no_end_token(prompts):
    answer = prompts.read(prompts.ask("en", None, encode), [11, 12], [-1.0, -2.0])
    assert (answer.num_tokens, answer.avg_logprob) == (2, pytest.approx(-1.5))


def test_empty_answers(prompts):
    given, detected = prompts.ask("en", None, encode), prompts.ask(None, None, encode)
    nothing = prompts.read(given, [], [])
    assert (nothing.language, nothing.num_tokens, nothing.avg_logprob) == ("en", 0, None)
    only_end = prompts.read(given, [END], [-0.5])
    assert (only_end.num_tokens, only_end.avg_logprob) == (0, -0.5)
    for ids in ([], [EN], [EN, TRANSCRIBE], [EN, TRANSCRIBE, NO_TIMESTAMPS]):
        answer = prompts.read(detected, ids, [-0.1] * len(ids))
        assert (answer.language, answer.num_tokens, answer.avg_logprob) == ("en" if ids else None, 0, None)


def test_answer_without_probabilities(prompts):
    answer = prompts.read(prompts.ask(None, None, encode), [DE, TRANSCRIBE, NO_TIMESTAMPS, 11, END], [])
    assert (answer.language, answer.language_prob, answer.num_tokens, answer.avg_logprob) == ("de", None, 1, None)


def test_answer_of_an_english_only_checkpoint():
    prompts = WhisperPrompts(checkpoint(english=True))
    answer = prompts.read(prompts.ask(None, None, encode), [11, 12, END - 1], [-1.0, -1.0, -4.0])
    assert (answer.language, answer.language_prob, answer.num_tokens, answer.avg_logprob) == ("en", None, 2, -2.0)


def test_controls_are_equal_for_all_requests_of_a_kind(prompts):
    """The engine keeps masks for each distinct value."""
    assert prompts.controls(detects=True) == prompts.controls(detects=True)
    assert hash(prompts.controls(detects=False)) == hash(prompts.controls(detects=False))
