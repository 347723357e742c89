"""By which language a row is scored, and letters whose other case is not one letter.

What became of a row of ours that does not say its `lang`, before and now:

    detected as French                        English rules, a note at the end     by the rules for any language
    detected, and `lang` of the row           the row's                            the row's
    detected, and --language                  --language's                         --language's
    detected, and told by the run             the run's                            the run's
    failed, others detected as French         English                              French
    its manifest says nothing (--references)  English                              as detected, or as the row says
    detected as Japanese, written in English  words, as English                    words, as most rows
    detected as Japanese, written so          one word, as English                 characters
    translated into English                   English                              English
    detected as another by B (compare)        English                              refused where rules differ
    leaderboard file, its note of languages   counted as English                   counted as French
    `language` that is none                   English                              as most rows
"""

import json
import re
import unicodedata
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import write_jsonl

from asrbatch.errors import UsageError
from asrbatch.evaluation.compare import compare
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.report.make import make_report
from asrbatch.evaluation.report.rows import worst_rows
from asrbatch.evaluation.rows import ScoredRows
from asrbatch.evaluation.score import score
from asrbatch.evaluation.text_rules import TextRules
from asrbatch.export.formats import FORMATS
from asrbatch.export.options import CueLimits, ResultNames
from asrbatch.export.results import LeaderboardFile
from asrbatch.export.transcript import transcript_of

INTO_GERMAN = {"task": "translate", "asked": {"style": "transcription", "target_language": "de"}}
# English rules make `do not` of `don't`; those for any language part it: two errors of two words, or of one.
TEXT, SAID = "don't", "do not"


def row(row_id: str, heard: str | None = "fr", text: str = TEXT, said: str | None = SAID, **fields) -> dict:
    status = {"status": "ok"} if said is not None else {"status": "failed", "error": {"kind": "missing"}}
    return {"id": row_id, "text": text, "pred_text": said, "language": heard, **status, **fields}


def scored(path: Path, **options) -> dict:
    return score(path, ScoreOptions(**{"resamples": 20, **options}))


def rules(figures: dict) -> dict[str, int]:
    return {each["name"]: each["rows"] for each in figures["normalizers"]}


def with_record(path: Path, **fingerprint) -> Path:
    record = {"fingerprint": {"manifest": "m", **fingerprint}, "total_rows": 2, "sessions": []}
    path.with_suffix(".run.json").write_text(json.dumps(record))
    return path


def test_a_row_is_scored_by_the_language_it_was_detected_in(tmp_path):
    rows = [row("a"), row("b", "English"), row("c", "fr"), row("d", "fr", lang="en"), row("e", None), row("f", "x?")]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    figures = scored(path)
    # Those that were detected in nothing are taken for what most were.
    assert rules(figures) == {"whisper-basic": 4, "whisper-english": 2}
    assert figures["languages"]["detected"] == {"en": 1, "fr": 2} and figures["languages"]["unstated"] == 2
    assert figures["notes"][:2] == [
        "2 rows do not say their `lang` and were taken for fr; --language says another",
        "3 rows do not say their `lang` and are scored as what they were detected in (fr 2, en 1); where the model is "
        "wrong, give them their `lang`, or all of them --language",
    ]
    told = scored(path, language="en")
    assert rules(told) == {"whisper-english": 6} and not told["languages"]["detected"]
    assert told["total"]["wer_percent"] == 0 < figures["total"]["wer_percent"]
    assert rules(scored(path, normalizer="leaderboard")) == {"leaderboard": 6}
    assert scored(path, normalizer="leaderboard")["languages"]["english_rules"] == {"fr": 4}
    make_report([path], tmp_path / "report.html", ScoreOptions(resamples=20), title="x", most_rows=10)
    assert "scored as what they were detected in (fr 2, en 1)" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("told", "rows", "expected"),
    [
        ({"language": "fr"}, [row("a", "en"), row("b", None)], {"whisper-basic": 2}),
        ({}, [row("a"), row("b", None, said=None)], {"whisper-basic": 2}),
        ({}, [row("a", None), row("b", None)], {"whisper-english": 2}),
        ({}, [row("a", lang="en"), row("b", None)], {"whisper-english": 2}),  # the other says it: nothing is guessed
        ({"task": "translate"}, [row("a"), row("b", "ja")], {"whisper-english": 2}),
        (INTO_GERMAN, [row("a", "en")], {"whisper-basic": 1}),
        # Rows of other tools state it so.
        ({}, [{"id": "a", "text": TEXT, "pred_text": SAID, "language": "fr"}], {"whisper-basic": 1}),
    ],
)  # fmt: skip
def test_what_is_said_comes_before_what_was_detected(told, rows, expected, tmp_path):
    path = with_record(write_jsonl(tmp_path / "rows.jsonl", rows), **told)
    assert rules(scored(path)) == expected


def test_references_without_a_language_take_that_of_the_prediction(tmp_path):
    manifest = [{"id": name, "audio_filepath": f"{name}.wav", "text": TEXT} for name in "abcd"]
    manifest[3]["lang"] = "en"
    references = write_jsonl(tmp_path / "m.jsonl", manifest)
    predictions = write_jsonl(tmp_path / "rows.jsonl", [row("a"), row("b", "en", lang="de"), row("c", "en"), row("d")])
    figures = scored(predictions, references=str(references))
    assert rules(figures) == {"whisper-basic": 2, "whisper-english": 2}
    assert figures["languages"]["detected"] == {"en": 1, "fr": 1} and figures["languages"]["heard_as_another"] == 2


def test_a_wrong_detection_takes_no_row_out_of_wer(tmp_path):
    japanese = row("c", "ja", "今日は晴れ", "今日晴れ")
    path = write_jsonl(
        tmp_path / "rows.jsonl", [row("a", "ja"), row("b", "en"), row("d", "en"), row("e", "en"), japanese]
    )
    figures = scored(path)
    total = figures["total"]
    assert (total["rows"], total["rows_in_words"], total["reference_words"]) == (5, 4, 8)
    assert figures["languages"]["detected"] == {"en": 3, "ja": 1} and figures["languages"]["heard_as_another"] == 1


def test_two_detections_by_other_rules_are_refused_until_language_says(tmp_path):
    def compared(a: list[str | None], b: list[str | None], **options) -> dict:
        paths = [
            write_jsonl(tmp_path / f"{side}.jsonl", [row(str(at), lang) for at, lang in enumerate(heard)])
            for side, heard in (("a", a), ("b", b))
        ]
        figures, swapped = (compare(*pair, ScoreOptions(resamples=20, **options)) for pair in (paths, paths[::-1]))
        assert figures["normalizers"] == swapped["normalizers"] and figures["languages"] == swapped["languages"]
        return figures

    assert rules(compared(["fr", "it"], ["it", "fr"])) == {"whisper-basic": 2}
    assert rules(compared(["fr", None], [None, "fr"])) == {"whisper-basic": 2}
    assert rules(compared(["en", "fr"], ["en", "fr"])) == {"whisper-basic": 1, "whisper-english": 1}
    with pytest.raises(UsageError, match="id 1: does not say its lang, and was detected as en and as fr, .*--language"):
        compared(["en", "fr"], ["en", "en"])
    with pytest.raises(UsageError, match="detected as fr and as ja"):
        write_jsonl(tmp_path / "a.jsonl", [row("0", "ja", "今日", "今日")])
        compare(tmp_path / "a.jsonl", write_jsonl(tmp_path / "b.jsonl", [row("0", "fr", "今日", "x")]), ScoreOptions())
    assert rules(compared(["en", "fr"], ["en", "en"], language="en")) == {"whisper-english": 2}
    assert rules(compared(["en", "fr"], ["en", "en"], normalizer="none")) == {"none": 2}


@pytest.mark.parametrize("side", [0, 1])
def test_chunks_of_sessions_are_refused_by_both_commands(side, tmp_path):
    """`compare` took them for utterances."""
    rows = [[row("a", "en")], [row("a", "en")]]
    rows[side][0] |= {"parent_id": "session", "chunk_index": 0}
    paths = [write_jsonl(tmp_path / f"{at}.jsonl", each) for at, each in enumerate(rows)]
    options = ScoreOptions(resamples=20, normalizer="leaderboard")
    refusal = "--normalizer leaderboard: id a is a chunk of a session"
    with pytest.raises(UsageError, match=refusal):
        compare(*paths, options)
    with pytest.raises(UsageError, match=refusal):
        score(paths[side], options)
    assert compare(*paths, ScoreOptions(resamples=20))["total"]["rows"] == 1


def test_the_leaderboards_file_counts_detected_languages(tmp_path):
    path = write_jsonl(tmp_path / "out.jsonl", [row("a"), row("b", "en")])
    mark = {"rows": 2, "statuses": {"ok": 2}, "sha256": "0", "rtfx_engine": 10.0}
    path.with_suffix(".done.json").write_text(json.dumps(mark))
    for told, expected in (({}, {"fr": 1}), ({"language": "de"}, {"de": 2}), ({"task": "translate"}, {})):
        with_record(path, **told)
        with ExitStack() as files:
            names = ResultNames("m/x", "d", "n", "s")
            result = LeaderboardFile(path, tmp_path, names, True, files)
            for each in (row("a"), row("b", "en")):
                assert result.result_of({**each, "audio_s": 1.0, "audio_filepath": "a.wav"}) is not None
        assert dict(result.not_english) == expected, told


# Letters whose small or capital form is not one letter. In the first seven the dot of İ was a space: two words.
CASES = [
    ("tr", "İstanbul güzel", "istanbul güzel", (0, 2), (0, 14)),  # was 2 errors of 3 words
    ("tr", "I\u0307stanbul", "istanbul", (0, 1), (0, 8)),  # 2 of 2
    ("tr", "i\u0307stanbul", "istanbul", (0, 1), (0, 8)),  # what lower() made of it: 2 of 2
    ("az", "İSTİ", "isti", (0, 1), (0, 4)),  # 2 of 2
    ("tr", "İİİ", "iii", (0, 1), (0, 3)),  # 3 of 3
    ("tr", "İzmir", "izmit", (1, 1), (1, 5)),  # 2 of 2
    ("lt", "li\u0307\u0300", "lì", (0, 1), (0, 2)),  # 1 of 1
    ("en", "İstanbul", "istanbul", (0, 1), (0, 8)),
    ("de", "Straße", "straße", (0, 1), (0, 6)),
    ("de", "Straße", "STRASSE", (1, 1), (2, 6)),  # another spelling, and no shift
    ("de", "STRAẞE", "straße", (0, 1), (0, 6)),
    ("fr", "ﬁn", "fin", (0, 1), (0, 3)),
    ("fr", "e\u0301te\u0301", "été", (0, 1), (0, 3)),
    ("el", "Ϊ\u0301", "ΐ", (0, 1), (0, 1)),
    ("el", "ΟΔΟΣ", "οδος", (0, 1), (0, 4)),
    ("sv", "\u212bngstrom", "ångstrom", (0, 1), (0, 8)),
    ("hy", "և", "ԵՒ", (0, 1), (0, 2)),
    ("ja", "ｶﾞﾗｽ", "ガラス", None, (0, 3)),
]


@pytest.mark.parametrize(("lang", "reference", "said", "words", "characters"), CASES)
def test_letters_that_change_their_length_shift_no_score(lang, reference, said, words, characters):
    text_rules = TextRules("auto")
    for texts in ((reference, said), (unicodedata.normalize("NFD", reference), said)):
        prepared = text_rules.prepare(texts[0], [texts[1]], lang)
        [[(in_words, in_characters)]] = text_rules.count([prepared])
        assert (in_words and (in_words.errors, in_words.reference)) == words
        assert (in_characters.errors, in_characters.reference) == characters


def test_errors_of_a_report_play_from_their_segment(tmp_path):
    """Words that the dot of İ had parted moved all errors behind them: the one below was heard from 0 s."""
    segments = [{"start": 0.0, "end": 5.0, "text": "bir iki üç"}, {"start": 5.0, "end": 9.0, "text": "İİ İİ İİ"}]
    said = row("a", "tr", "bir iki üç dört İİ İİ", "bir iki üç İİ İİ İİ", segments=segments)
    inputs = EvaluationInputs([write_jsonl(tmp_path / "rows.jsonl", [said])], ScoreOptions())
    [entry], _ = worst_rows(ScoredRows(inputs), tmp_path, 10, lambda line: None)
    [run] = entry["runs"]
    assert run["pieces"] == [0, 3, 3, 1, 1, 1, 0, 2, 2] and run["times"] == [0.0, 5.0, 5.0]


def times(name: str, text: str) -> list[str]:
    """What a file of subtitles says but for the words."""
    made = {"pred_text": text, "segments": [{"start": 0.0, "end": 10.0, "text": text}], "windows": []}
    transcript = transcript_of({"id": "a", "index": 0, "audio_filepath": "a", "audio_s": 10.0, **made})
    lines = FORMATS[name].write(transcript, CueLimits(max_line_chars=10)).splitlines()
    return [" ".join(line.split()[2:4]) for line in lines] if name == "ctm" else [x for x in lines if "-->" in x]


@pytest.mark.parametrize("name", ["srt", "vtt", "ctm"])
@pytest.mark.parametrize("text", ["été à la fête de Noël", "Việt Nam đất nước", "İstanbul'da İyi", "über große Straße"])
def test_letters_of_several_code_points_shift_no_time(name, text):
    """In CTM each combining mark took time from the words behind it."""
    assert len(times(name, text)) > 1
    for form in (unicodedata.normalize("NFD", text), text.lower(), unicodedata.normalize("NFD", text.lower())):
        assert times(name, form) == times(name, text)


def test_sums_above_the_wall_time_are_explained_where_they_are_printed(tmp_path):
    timing = {"read": 0.1, "prepare": 0.1, "queue": 0.2, "first_token": 0.1, "generate": 9.0, "total": 4.0}
    path = write_jsonl(tmp_path / "rows.jsonl", [row("a", "en", timing=timing)])
    assert scored(path)["latency_s"]["generate"]["max"] == 9.0
    assert not any("`total`" in note for note in scored(path)["notes"])
    make_report([path], tmp_path / "report.html", ScoreOptions(resamples=20), title="x", most_rows=10)
    page = re.sub("</?code>", "`", (tmp_path / "report.html").read_text())
    assert page.count("so that they can be above `total`, which is wall time") == 1
