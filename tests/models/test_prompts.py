"""Whisper's prompts and token rules as ids, and the reading of its answers, for a multilingual and an English-only
vocabulary.
"""

import math

import pytest

from asrbatch.config import TaskOptions
from asrbatch.errors import RowError, UsageError
from asrbatch.models.capabilities import whisper_capabilities
from asrbatch.models.checkpoint import WHISPER, Checkpoint
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.types import Segment

LANGUAGES = ["en", "zh", "de", "es", "fr", "haw", "yue"]
SOT, EN, DE, TRANSLATE, TRANSCRIBE, PREV, NO_SPEECH, NO_TIMESTAMPS = (
    50258,
    50259,
    50261,
    50358,
    50359,
    50361,
    50362,
    50363,
)
END, ZERO = 50257, 50364
SUPPRESS, BEGIN = [1, 2, 7, SOT], [220, END]


def checkpoint(*, english: bool = False, without: str | None = None, added: dict | None = None, **config) -> Checkpoint:
    """Whisper's control tokens; an English-only vocabulary has each one number earlier."""
    tokens = {
        "<|endoftext|>": END,
        "<|startoftranscript|>": SOT,
        **{f"<|{code}|>": EN + i for i, code in enumerate(LANGUAGES)},
        "<|translate|>": TRANSLATE,
        "<|transcribe|>": TRANSCRIBE,
        "<|startoflm|>": 50360,
        "<|startofprev|>": PREV,
        "<|nocaptions|>": NO_SPEECH,
        "<|notimestamps|>": NO_TIMESTAMPS,
        "<|0.00|>": ZERO,
    }
    tokens |= added or {}
    return Checkpoint(
        name="acme/whisper",
        folder="/models/whisper",
        revision=None,
        config={
            "architectures": ["WhisperForConditionalGeneration"],
            "vocab_size": 51864 if english else 51865,
            **config,
        },
        generation_config={"suppress_tokens": SUPPRESS, "begin_suppress_tokens": [220, END - english]},
        added_tokens={token: number - english for token, number in tokens.items() if token != without},
    )


@pytest.fixture
def prompts() -> WhisperPrompts:
    return WhisperPrompts(checkpoint())


def encode(text: str) -> list[int]:
    """One number for each character, its control tokens included: `\x01` stands for <|en|>, `\x02` for <|1.00|>."""
    return [{1: EN, 2: ZERO + 50}.get(ord(character), ord(character)) for character in text]


def decode(ids) -> str:
    return "".join(map(chr, ids))


# Asking


def test_rules_for_an_answer_without_timestamps(prompts):
    assert prompts.controls("de", timestamps=False).as_dict() == {
        "suppress": SUPPRESS,
        "begin_suppress": BEGIN,
        "forced": [[DE], [TRANSCRIBE], [NO_TIMESTAMPS]],
        "first_timestamp": None,
        "end": END,
    }


def test_rules_for_an_answer_with_timestamps(prompts):
    assert prompts.controls("de", timestamps=True).as_dict() == {
        "suppress": [*SUPPRESS, NO_TIMESTAMPS],
        "begin_suppress": BEGIN,
        "forced": [[DE], [TRANSCRIBE]],
        "first_timestamp": ZERO,
        "end": END,
    }


def test_language_to_be_detected(prompts):
    languages = tuple(EN + i for i in range(len(LANGUAGES)))
    assert prompts.controls(None, timestamps=True).forced == (languages, (TRANSCRIBE,))
    assert prompts.controls(None, timestamps=False).forced == (languages, (TRANSCRIBE,), (NO_TIMESTAMPS,))


@pytest.mark.parametrize("language", ["en", None])
def test_english_only_has_neither_language_nor_task(language):
    prompts = WhisperPrompts(checkpoint(english=True))
    assert prompts.controls(language, timestamps=True).forced == ()
    assert prompts.controls(language, timestamps=True).first_timestamp == ZERO - 1
    assert prompts.controls(language, timestamps=False).forced == ((NO_TIMESTAMPS - 1,),)


def test_translate():
    prompts = WhisperPrompts(checkpoint(), "translate")
    assert prompts.controls("de", timestamps=False).forced == ((DE,), (TRANSLATE,), (NO_TIMESTAMPS,))
    assert prompts.controls(None, timestamps=True).forced[1:] == ((TRANSLATE,),)


def test_checkpoint_without_suppressed_tokens():
    bare = Checkpoint(
        "m", "/m", None, checkpoint().config, {"suppress_tokens": None}, added_tokens=checkpoint().added_tokens
    )
    controls = WhisperPrompts(bare).controls("de", timestamps=False)
    assert (controls.suppress, controls.begin_suppress) == ((), ())


def test_rules_are_equal_for_all_requests_of_a_kind(prompts):
    """The engine keeps masks for each distinct value."""
    assert prompts.controls(None, timestamps=True) == prompts.controls(None, timestamps=True)
    assert hash(prompts.controls("de", timestamps=False)) == hash(prompts.controls("de", timestamps=False))


def test_the_token_of_no_speech(prompts):
    assert prompts.no_speech == NO_SPEECH
    assert WhisperPrompts(checkpoint(english=True)).no_speech == NO_SPEECH - 1
    newer = checkpoint(without="<|nocaptions|>", added={"<|nospeech|>": NO_SPEECH})
    assert WhisperPrompts(newer).no_speech == NO_SPEECH
    assert WhisperPrompts(checkpoint(without="<|nocaptions|>")).no_speech == NO_SPEECH, "found by its place"
    taken = checkpoint(without="<|nocaptions|>", added={"<|laughter|>": NO_SPEECH})
    assert WhisperPrompts(taken).no_speech is None


def test_the_prompt_of_a_row(prompts):
    ids = prompts.prompt_ids("  Über uns \n", encode)
    assert ids == tuple(encode(" Über uns"))
    assert prompts.decoder_ids(ids, ()) == [PREV, *ids, SOT]
    english = WhisperPrompts(checkpoint(english=True))
    assert english.decoder_ids(english.prompt_ids("Über uns", encode), ()) == [PREV - 1, *ids, SOT - 1]


@pytest.mark.parametrize("blank", [None, "", "  ", "\n\t"])
def test_a_blank_prompt_is_none(prompts, blank):
    assert prompts.prompt_ids(blank, encode) == ()
    assert prompts.decoder_ids((), ()) == [SOT]


def test_previous_text_follows_the_prompt(prompts):
    """As it was generated, with its timestamps."""
    previous = (ZERO, 11, 12, ZERO + 100)
    assert prompts.decoder_ids((7, 8), previous) == [PREV, 7, 8, *previous, SOT]
    assert prompts.decoder_ids((), previous) == [PREV, *previous, SOT]


@pytest.mark.parametrize("length, kept", [(222, 223), (223, 223), (5000, 223)])
def test_the_last_tokens_of_a_long_prompt(prompts, length, kept):
    """With <|startofprev|> they fill half of the 448 positions. The blank before the text is a token here."""
    text = "".join(chr(0x4E00 + i) for i in range(length))
    ids = prompts.prompt_ids(text, encode)
    assert ids == tuple(encode(" " + text)[-kept:])
    assert prompts.decoder_ids(ids, ()) == [PREV, *ids, SOT]


def test_the_last_tokens_of_prompt_and_previous_text(prompts):
    prompt, previous = tuple(range(100, 200)), tuple(range(1000, 1200))
    assert prompts.decoder_ids(prompt, previous) == [PREV, *prompt[-23:], *previous, SOT]
    assert prompts.decoder_ids(prompt, previous * 2) == [PREV, *(previous * 2)[-223:], SOT]


def test_room_follows_the_decoder():
    prompts = WhisperPrompts(checkpoint(max_target_positions=20))
    assert len(prompts.prompt_ids("x" * 99, encode)) == 9


@pytest.mark.parametrize("text", ["a \x01 b", "\x01" + "x" * 500, "\x02"])
def test_control_tokens_in_a_prompt(prompts, text):
    with pytest.raises(RowError) as error:
        prompts.prompt_ids(text, encode)
    assert error.value.kind == "bad_row"
    assert "holds a control token" in error.value.message and "remove it" in error.value.message
    assert len(error.value.message) < 200


def test_a_word_added_to_the_vocabulary_is_text():
    prompts = WhisperPrompts(checkpoint(added={"asrbatch": 51900}))
    assert prompts.prompt_ids("x", lambda _: [51900]) == (51900,)
    answer = read(prompts, "de", [DE, TRANSCRIBE, NO_TIMESTAMPS, 51900, END], [], str, timestamps=False)
    assert (answer.text, answer.num_tokens) == ("[51900]", 1)


# What is refused


@pytest.mark.parametrize("written", ["de", "DE", "de-AT", "de_at", " De ", "deu", "ger", "German", "deu-AT"])
def test_language_as_people_write_it(written):
    assert whisper_capabilities(checkpoint()).check_language(written, "lang") == "de"


def test_languages_of_three_letters():
    check = whisper_capabilities(checkpoint()).check_language
    assert [check(code, "lang") for code in ("haw", "yue-Hant-HK")] == ["haw", "yue"]


@pytest.mark.parametrize("written", ["xx", "germanic", "", "-", "d e"])
def test_language_the_checkpoint_lacks(written):
    with pytest.raises(UsageError) as error:
        whisper_capabilities(checkpoint()).check_language(written, "lang")
    assert str(error.value) == f'lang "{written}": {WHISPER} has no such language; it has de en es fr haw yue zh'


def test_language_of_an_english_only_checkpoint():
    check = whisper_capabilities(checkpoint(english=True)).check_language
    assert [check(code, "lang") for code in ("en", "EN", "en-US")] == ["en"] * 3
    with pytest.raises(UsageError) as error:
        check("de", "lang")
    assert str(error.value) == f'lang "de": {WHISPER} is English-only; give a multilingual checkpoint'


def test_translate_needs_a_multilingual_checkpoint():
    with pytest.raises(UsageError) as error:
        WhisperPrompts(checkpoint(english=True), "translate")
    assert str(error.value) == "--task translate: acme/whisper is English-only; give a multilingual checkpoint"


def test_unknown_task():
    with pytest.raises(UsageError, match="--task summarise: must be one of transcribe, translate"):
        TaskOptions(task="summarise")


@pytest.mark.parametrize(
    "token", ["<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>", "<|transcribe|>", "<|endoftext|>"]
)
def test_tokenizer_without_a_control_token(token):
    with pytest.raises(UsageError) as error:
        WhisperPrompts(checkpoint(without=token))
    assert "--model acme/whisper: its tokenizer lacks " in str(error.value)
    assert token in str(error.value) and "tokenizer.json" in str(error.value)


@pytest.mark.parametrize(
    "without",
    [
        checkpoint(vocab_size=51865 - 1),
        checkpoint(added={"<|0.00|>": ZERO + 1}),
        checkpoint(vocab_size=ZERO),
    ],
)
def test_timestamps_a_checkpoint_lacks(without):
    with pytest.raises(UsageError) as error:
        WhisperPrompts(without, timestamps=True)
    assert str(error.value) == "--model acme/whisper: it has no timestamps; give --no-timestamps"
    assert not WhisperPrompts(without).has_timestamps


def test_timestamps_that_the_tokenizer_does_not_name():
    for has in (checkpoint(), checkpoint(without="<|0.00|>"), checkpoint(english=True)):
        assert WhisperPrompts(has, timestamps=True).has_timestamps


# Reading

OF_ENGINE = {"finish_reason": "stop", "queue_s": 0.0, "first_token_s": 0.0, "generate_s": 0.0}


def read(prompts, *args, **options):
    return prompts.postprocess(*args, **options, **OF_ENGINE)


FORCED = [DE, TRANSCRIBE, NO_TIMESTAMPS]
CERTAIN = [0.0, 0.0, 0.0]


def test_answer_in_a_given_language(prompts):
    answer = read(
        prompts, "de", [*FORCED, 97, 98, 99, END], [*CERTAIN, -0.1, -0.2, -0.3, -0.4], decode, timestamps=False
    )
    assert (answer.text, answer.language, answer.language_prob, answer.num_tokens) == ("abc", "de", None, 3)
    assert answer.avg_logprob == pytest.approx(-0.25)
    assert (answer.segments, answer.resume_s) == ((), None)


def test_answer_with_a_detected_language(prompts):
    ids, logprobs = [*FORCED, 97, 98, END], [math.log(0.8), 0.0, 0.0, -1.0, -2.0, -3.0]
    answer = read(prompts, None, ids, logprobs, decode, timestamps=False)
    assert (answer.language, answer.num_tokens) == ("de", 2)
    assert answer.language_prob == pytest.approx(0.8)
    assert answer.avg_logprob == pytest.approx(-2.0)  # of the text and its end, not of the control tokens


def test_answer_with_timestamps(prompts):
    ids = [DE, TRANSCRIBE, ZERO, 97, 98, ZERO + 50, ZERO + 60, 99, END]
    logprobs = [math.log(0.8), 0.0, -9.0, -1.0, -2.0, -9.0, -9.0, -3.0, -4.0]
    answer = read(prompts, None, ids, logprobs, decode, timestamps=True)
    assert (answer.text, answer.language, answer.num_tokens, answer.resume_s) == ("abc", "de", 3, 1.0)
    assert answer.avg_logprob == pytest.approx(-2.5), "of the text and its end, not of the timestamps"
    assert answer.segments == (
        Segment(0.0, 1.0, "ab", (ZERO, 97, 98, ZERO + 50), 2, -1.5),
        Segment(1.2, None, "c", (ZERO + 60, 99), 1, -3.0),
    )


def test_control_and_timestamp_tokens_are_no_text(prompts):
    ids, logprobs = [*FORCED, 97, EN, 98, ZERO + 3, 99], [*CERTAIN, -1.0, -9.0, -2.0, -9.0, -3.0]
    answer = read(prompts, "de", ids, logprobs, decode, timestamps=False)
    assert (answer.text, answer.num_tokens, answer.avg_logprob) == ("abc", 3, -2.0)


def test_answer_that_was_cut_has_no_end_token(prompts):
    answer = read(prompts, "de", [*FORCED, 97, 98], [*CERTAIN, -1.0, -2.0], decode, timestamps=False)
    assert (answer.num_tokens, answer.avg_logprob) == (2, pytest.approx(-1.5))


def test_empty_answers(prompts):
    only_end = read(prompts, "de", [*FORCED, END], [*CERTAIN, -0.5], decode, timestamps=False)
    assert (only_end.text, only_end.num_tokens, only_end.avg_logprob) == ("", 0, -0.5)
    for timestamps in (True, False):
        for length in range(4):
            ids = [EN, TRANSCRIBE, ZERO if timestamps else NO_TIMESTAMPS][:length]
            for asked in ("en", None):
                answer = read(prompts, asked, ids, [-0.1] * length, decode, timestamps=timestamps)
                assert (answer.text, answer.num_tokens, answer.avg_logprob, answer.segments) == ("", 0, None, ())
                assert answer.language == (asked or ("en" if ids else None))


def test_answer_without_probabilities(prompts):
    answer = read(prompts, None, [DE, TRANSCRIBE, ZERO, 97, END], [], decode, timestamps=True)
    assert (answer.language, answer.language_prob, answer.num_tokens, answer.avg_logprob) == ("de", None, 1, None)
    assert answer.segments[0].avg_logprob is None


def test_answer_of_an_english_only_checkpoint():
    prompts = WhisperPrompts(checkpoint(english=True))
    plain = read(prompts, None, [NO_TIMESTAMPS - 1, 97, 98, END - 1], [0.0, -1.0, -1.0, -4.0], decode, timestamps=False)
    assert (plain.language, plain.language_prob, plain.num_tokens, plain.avg_logprob) == ("en", None, 2, -2.0)
    timed = read(prompts, "en", [ZERO - 1, 97, ZERO + 4, END - 1], [0.0, -1.0, -1.0, -4.0], decode, timestamps=True)
    assert [(s.start_s, s.end_s, s.text) for s in timed.segments] == [(0.0, 0.1, "a")]


def test_a_character_parted_by_a_timestamp_reads_as_its_segments_do(prompts):
    """Two tokens that are half of a character each: the text is the segments' texts, whatever a decoder makes of the
    whole.
    """
    ids = [DE, TRANSCRIBE, ZERO, 97, ZERO + 5, ZERO + 5, 98, END]
    answer = read(prompts, "de", ids, [], lambda text: "ä" if len(text) == 2 else "?", timestamps=True)
    assert answer.text == "".join(s.text for s in answer.segments) == "??"
