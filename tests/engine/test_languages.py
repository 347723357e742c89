"""Languages, on the real multilingual Whisper base: detected, told, translated, biased by words; telephone prompts in
five.
"""

import jiwer
import pytest
from conftest import read_jsonl, script_output, write_jsonl
from engine_client import EngineClient
from transformers import WhisperTokenizer

from asrbatch.errors import EXIT_COMPLETE, ManifestError, UsageError

# Of Asterisk's prompts, each by one speaker over the telephone.
PROMPTS = {
    "en": "queue-periodic-announce",
    "fr": "vm-opts",
    "es": "vm-nobox",
    "it": "confbridge-lock-extended",
    "ru": "queue-periodic-announce",
}
WORDS = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)
ENGLISH = {"the", "you", "is", "to", "your", "for", "of", "this", "when", "are"}


@pytest.fixture(scope="module")
def spoken() -> dict[str, dict[str, dict]]:
    """Language and name of a prompt to its row, which does not state the language."""
    sets = {lang: read_jsonl(script_output("scripts/get_speech.py", f"prompts-{lang}-g722")) for lang in PROMPTS}
    return {lang: {r["id"]: {k: r[k] for k in ("audio_filepath", "text")} for r in rows} for lang, rows in sets.items()}


@pytest.fixture(scope="module")
def mixed(spoken, tmp_path_factory):
    """Five languages that nobody states, and a Spanish sentence that base hears as Catalan, twice: once it is told."""
    rows = [{"id": lang, **spoken[lang][name]} for lang, name in PROMPTS.items()]
    mistaken = spoken["es"]["dir-instr"]
    rows += [{"id": "mistaken", **mistaken}, {"id": "told", "lang": "es-MX", **mistaken}]
    return write_jsonl(tmp_path_factory.mktemp("mixed") / "m.jsonl", rows)


def rows_of(summary) -> dict[str, dict]:
    assert summary.exit_code == EXIT_COMPLETE
    return {row["id"]: row for row in summary.rows()}


def wer(row) -> float:
    return jiwer.wer(row["text"], row["pred_text"], reference_transform=WORDS, hypothesis_transform=WORDS)


def test_a_manifest_of_many_languages_in_one_run(transcribe, base, mixed, tmp_path):
    rows = rows_of(transcribe(mixed, base, tmp_path / "o.jsonl"))
    for lang in PROMPTS:
        assert rows[lang]["language"] == lang and 0.8 < rows[lang]["language_prob"] <= 1.0
        assert wer(rows[lang]) < 0.35, rows[lang]["pred_text"]
    mistaken, told = rows["mistaken"], rows["told"]
    assert mistaken["language"] == "ca" and mistaken["language_prob"] > 0.5
    assert (told["language"], told["language_prob"], told["lang"]) == ("es", None, "es-MX")
    assert wer(told) < 0.35 < wer(mistaken), (told["pred_text"], mistaken["pred_text"])


def test_a_language_is_detected_once_for_a_long_recording(transcribe, base, spoken, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"id": "long", **spoken["fr"]["demo-echotest"]}])
    options = {"windows": "fixed", "window_s": 12.0}
    row = rows_of(transcribe(manifest, base, tmp_path / "o.jsonl", **options))["long"]
    assert len(row["windows"]) >= 2 and row["language"] == "fr" and row["language_prob"] > 0.5
    assert wer(row) < 0.6, row["pred_text"]


def test_many_languages_are_translated_into_english(transcribe, base, mixed, tmp_path):
    others = ("fr", "it", "ru")
    manifest = write_jsonl(tmp_path / "m.jsonl", [row for row in read_jsonl(mixed) if row["id"] in others])
    rows = rows_of(transcribe(manifest, base, tmp_path / "o.jsonl", task="translate", target_language="en"))
    for lang in others:
        assert rows[lang]["language"] == lang, "in which it was said, not written"
        words = set(rows[lang]["pred_text"].lower().replace(",", " ").replace(".", " ").split())
        assert len(words & ENGLISH) >= 2, rows[lang]["pred_text"]
        assert wer(rows[lang]) > 0.8


def test_windows_of_a_translation_are_joined_as_what_is_written(transcribe, base, spoken, tmp_path):
    """Said to be Japanese, whose windows would be joined without a space."""
    rows = [{"id": "a", "lang": "ja", **spoken["ru"][PROMPTS["ru"]]}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    options = {"task": "translate", "windows": "fixed", "window_s": 4.0, "timestamps": False}
    row = rows_of(transcribe(manifest, base, tmp_path / "o.jsonl", **options))["a"]
    texts = [window["text"] for window in row["windows"] if window["text"]]
    assert len(texts) > 1 and row["pred_text"] == " ".join(texts) and row["language"] == "ja"


def test_hotwords_change_a_word(transcribe, base, spoken, tmp_path):
    """Misheard words, spelt by telling which to expect; a row's prompt says the same to that row alone."""
    rows = [
        {"id": "es", "lang": "es", **spoken["es"]["vm-nobox"]},
        {"id": "fr", "lang": "fr", **spoken["fr"]["vm-record-prepend"]},
    ]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    plain = rows_of(transcribe(manifest, base, tmp_path / "plain.jsonl", timestamps=False))
    expected = rows_of(transcribe(manifest, base, tmp_path / "hot.jsonl", timestamps=False, hotwords="dièse"))
    said = write_jsonl(tmp_path / "p.jsonl", [{**rows[0], "prompt": "buzón"}])
    prompted = rows_of(transcribe(said, base, tmp_path / "said.jsonl", timestamps=False))
    heard = {"fr": ("10", "dièse"), "es": ("busón", "buzón")}
    for name, biased in (("fr", expected), ("es", prompted)):
        misheard, word = heard[name]
        assert misheard in plain[name]["pred_text"] and word not in plain[name]["pred_text"]
        assert word in biased[name]["pred_text"] and misheard not in biased[name]["pred_text"]


def test_previous_text_is_what_whispers_own_tokenizer_makes_of_it(engines, base, demo_rows):
    """`<|startofprev|>` as one token, and `<|startoftranscript|>` once: what reaches the engine, beside transformers'
    prompt.
    """
    from engine_client import samples_of

    asked, tokenizer = EngineClient(engines.start, base), WhisperTokenizer.from_pretrained(base)
    processor = asked.engine._processor
    request = asked.engine.preprocess(samples_of(demo_rows)[0], "buzón, dièse")
    ids = processor.engine_input(request, processor.warm_ups[0])["decoder_prompt"]["prompt_token_ids"]
    assert ids == [
        *tokenizer.get_prompt_ids("buzón, dièse").tolist(),
        tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "translate", "target_language": "de"},
            "--target-language de: Whisper.* would ignore it; .*: Gemma3n, GlmAsr",
        ),
        (
            {"hotwords": "x", "windows": "sequential", "condition_on_previous": True},
            "--hotwords and --condition-on-previous: both need the room",
        ),
        ({"language": "xx"}, 'language "xx": .* has no such language; it has af am ar'),
    ],
)
def test_what_base_cannot_do_is_refused(options, message, transcribe, base, mixed, tmp_path):
    with pytest.raises(UsageError, match=message):
        transcribe(mixed, base, tmp_path / "o.jsonl", **options)


def test_a_row_in_a_language_the_model_lacks_is_named(transcribe, base, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav", "lang": "tlh"}])
    with pytest.raises(ManifestError, match=r'm.jsonl:1: lang.*"tlh": .* has no such language'):
        transcribe(manifest, base, tmp_path / "o.jsonl")


def test_rows_that_write_languages_otherwise_than_the_model(transcribe, base, spoken, tmp_path):
    """Previously a row in Javanese, by any code but Whisper's own, had the manifest refused."""
    codes = {"jw": "jw", "jv": "jw", "Javanese": "jw", "iw": "he", "in": "id", "nb": "no", "zh-Hant": "zh"}
    rows = [{"id": lang, "lang": lang, **spoken["es"][PROMPTS["es"]]} for lang in codes]
    summary = transcribe(write_jsonl(tmp_path / "m.jsonl", rows), base, tmp_path / "o.jsonl", language="jv")
    assert {lang: row["language"] for lang, row in rows_of(summary).items()} == codes
