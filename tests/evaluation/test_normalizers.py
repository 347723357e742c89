"""Normalisers: against the implementations that others use, on real texts and on any text."""

import hashlib
import json
import re
from importlib.resources import files

import pytest
from conftest import REPO, read_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from asrbatch.errors import UsageError
from asrbatch.evaluation.leaderboard import join_letters
from asrbatch.evaluation.normalizers import NORMALIZERS, choose, counts_characters, load_normalizer
from asrbatch.evaluation.text_rules import TextRules

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work may slow the machine
PAIRS = read_jsonl(REPO / "tests/data/prompts.tiny-en.jsonl")
TEXTS = [text for row in PAIRS for text in (row["text"], row["pred_text"] or "")]
RECORDED = json.loads((REPO / "tests/data/leaderboard.json").read_text(encoding="utf-8"))
SPELLINGS = json.loads(files("whisper_normalizer").joinpath("normalizers/english.json").read_text(encoding="utf-8"))
# transformers has a copy of OpenAI's rules of its own, and is told the table of spellings.
OTHERS = {"whisper-english": EnglishTextNormalizer(SPELLINGS), "whisper-basic": BasicTextNormalizer()}


@pytest.mark.parametrize("name", OTHERS)
def test_whispers_rules_are_those_of_transformers_on_real_texts(name):
    ours, theirs = load_normalizer(name), OTHERS[name]
    assert len(TEXTS) > 1000
    assert [ours.normalize(text) for text in TEXTS] == [theirs(text) for text in TEXTS]
    assert [ours.normalize(text) for text in RECORDED["normalized"]] == [
        theirs(text) for text in RECORDED["normalized"]
    ]


@pytest.mark.parametrize("name", OTHERS)
@relaxed
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(" ".join(RECORDED["normalized"]).split())).map(" ".join)))
def test_whispers_rules_are_those_of_transformers_on_any_text(name, text):
    wanted = text if name == "whisper-english" else re.sub("\u0130|[iI]\u0307", "i", text)  # the one step of ours
    assert load_normalizer(name).normalize(text) == OTHERS[name](wanted)


def test_the_leaderboards_rules_are_what_its_code_was_seen_to_do():
    ours = load_normalizer("leaderboard")
    squashed = [" ".join(ours.normalize(text).split()) for text in TEXTS]
    assert hashlib.sha256("\n".join(squashed).encode()).hexdigest() == RECORDED["normalized_sha256"]
    assert {text: " ".join(ours.normalize(text).split()) for text in RECORDED["normalized"]} == RECORDED["normalized"]
    assert RECORDED["source"].startswith(ours.version.split(",")[0])  # the same commit
    whisper = load_normalizer("whisper-english")
    assert sum(whisper.normalize(text) != ours.normalize(text) for text in RECORDED["normalized"]) > 10


@relaxed
@given(words=st.lists(st.sampled_from(["a", "i", "b", "5", "big", "é", "-", "10"])))
def test_only_letters_that_stand_beside_each_other_are_joined(words):
    joined = join_letters(" ".join(words))
    assert joined.replace(" ", "") == "".join(words)
    assert [word for word in words if len(word) > 1] == [word for word in joined.split() if word in ("big", "10")]


def test_an_edited_comment_leaves_a_score_comparable():
    """The digest is over tables and a version number. What the rules do is held by the recorded texts above: whoever
    has to change those raises `RULES_VERSION`, and then this digest."""
    assert load_normalizer("leaderboard").sha256 == RECORDED["rules_sha256"]


def test_a_normaliser_is_known_by_its_rules():
    loaded = {name: load_normalizer(name) for name in NORMALIZERS}
    digests = {normalizer.sha256 for normalizer in loaded.values()}
    assert len(digests) == len(NORMALIZERS) and all(len(digest) == 64 for digest in digests)
    assert loaded["whisper-english"].as_dict() == load_normalizer("whisper-english").as_dict()
    assert "whisper_normalizer 0.1.0" in loaded["whisper-basic"].version
    with pytest.raises(UsageError, match="--normalizer whisper: unknown; known: auto, whisper-english"):
        load_normalizer("whisper")


def test_the_language_of_the_reference_chooses():
    assert [choose("auto", lang) for lang in ("en", "en-GB", "EN_us", "de", "zh")] == ["whisper-english"] * 3 + [
        "whisper-basic"
    ] * 2
    assert choose("none", "en") == choose("none", "de") == "none"
    assert [counts_characters(lang) for lang in ("zh", "zh-Hant", "JA", "th", "yue", "ko", "en", "vi")] == [
        True
    ] * 5 + [False] * 3


@relaxed
@given(
    pair=st.tuples(st.text(), st.text()),
    name=st.sampled_from(["auto", *NORMALIZERS]),
    lang=st.sampled_from(["en", "fr", "zh"]),
)
def test_errors_are_none_exactly_where_normalised_texts_are_equal(pair, name, lang):
    rules = TextRules(name)
    for reference, hypothesis in (pair, (pair[0], pair[0])):
        texts = rules.prepare(reference, [hypothesis], lang)._replace(excluded=None)
        (((words, characters),),) = rules.count([texts])
        same = texts.reference == texts.hypotheses[0]
        if name == "leaderboard" and words is not None:  # compounds: the same but for spaces
            assert words.errors > 0 or texts.reference.replace(" ", "") == texts.hypotheses[0].replace(" ", "")
            assert not same or words.errors == 0
        elif words is not None:
            assert (words.errors == 0) == same and words.reference == len(texts.reference.split())
        assert (characters.errors == 0) == same and characters.reference == len(texts.reference)


def test_what_a_normaliser_cannot_read_another_does():
    looped = "1" * 5000
    with pytest.raises(AssertionError):
        load_normalizer("whisper-english").normalize(looped)
    texts = TextRules("auto").prepare("It's one, two", [looped], "en")
    assert texts.fell_back and texts.hypotheses == (looped,) and texts.reference == "it s one two"
