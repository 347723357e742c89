"""`asrbatch align` on the real engine: words of texts that are there, told from texts that are not said."""

import json

import numpy as np
import pytest
from conftest import read_jsonl, write_jsonl
from engine_client import spec_of
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_ROWS_FAILED, ManifestError, RefusedOutputError, UsageError
from asrbatch.models.quality import AUDIO_GAIN


@pytest.fixture(scope="module")
def speech(demo_rows, two_windows) -> list[dict]:
    """Five sentences, and a recording of two windows."""
    return [*[row for row in demo_rows if row["duration"] < 8][:5], two_windows]


@pytest.fixture(scope="module")
def heard(transcribe, tiny_en, speech, tmp_path_factory):
    """A run of it with times of words: the rows file."""
    folder = tmp_path_factory.mktemp("heard")
    manifest = write_jsonl(folder / "m.jsonl", speech)
    options = {"args": ("max_num_seqs=1",), "word_timestamps": True}
    return transcribe(manifest, tiny_en, folder / "out.jsonl", **options).paths.rows


@pytest.fixture(scope="module")
def align(transcribe, tiny_en, tmp_path_factory):
    """Aligns on one engine; returns rows by id, and the summary."""

    def call(manifest, **options):
        output = tmp_path_factory.mktemp("aligned") / "out.jsonl"
        summary = transcribe(
            manifest, tiny_en, output, args=("max_num_seqs=1",), **{"text_field": "pred_text", **options}
        )
        return {row["id"]: row for row in read_jsonl(summary.paths.rows)}, summary

    return call


def words_of(row: dict) -> list[dict]:
    return [word for segment in row["segments"] for word in segment["words"]]


def test_the_texts_of_a_run_get_the_words_of_that_run(align, heard):
    """Along its segments: the long recording too. Segments are cut otherwise there, so not to the last frame."""
    rows, summary = align(heard)
    assert summary.exit_code == 0 and len(rows) == 6
    differences = []
    for before in read_jsonl(heard):
        row = rows[before["id"]]
        assert row["status"] == "ok" and "text_mismatch" not in row["flags"]
        assert row["pred_text"] == before["pred_text"] and row["input"]["segments"] == before["segments"]
        assert [w["word"].strip() for w in words_of(row)] == [w["word"].strip() for w in words_of(before)]
        starts = [np.array([w["start"] for w in words_of(each)]) for each in (row, before)]
        differences += list(np.abs(starts[0] - starts[1]))
        for segment in row["segments"]:
            words = segment["words"]
            assert (segment["start"], segment["end"]) == (words[0]["start"], words[-1]["end"])
            assert all(0 < w["probability"] <= 1 for w in words)
        times = [s for w in words_of(row) for s in (w["start"], w["end"])]
        assert times == sorted(times) and times[-1] <= row["audio_s"]
    assert np.median(differences) <= 0.02 and np.quantile(differences, 0.9) < 0.3
    recorded = json.loads(summary.paths.record.read_text())["fingerprint"]
    assert recorded["text_field"] == "pred_text" and recorded["windows"]["splitter"] == "given"


def test_references_right_and_wrong(align, speech, tmp_path):
    short = speech[:5]
    rows = [{**row, "id": f"right {n}", "words": "of another tool"} for n, row in enumerate(short)]
    rows += [{**row, "id": f"wrong {n}", "text": short[n - 1]["text"]} for n, row in enumerate(short)]
    found, _ = align(write_jsonl(tmp_path / "m.jsonl", rows), text_field="text")
    for row_id, row in found.items():
        (window,) = row["windows"]
        assert ("text_mismatch" in row["flags"]) == (window["audio_gain"] < AUDIO_GAIN)
        assert row["pred_text"] == row["text"] == "".join(w["word"] for w in words_of(row)).strip(), "forced, and said"
        if row_id.startswith("right"):
            assert window["audio_gain"] > 3 and row["input"] == {"words": "of another tool"}
    assert sum("text_mismatch" in found[f"wrong {n}"]["flags"] for n in range(5)) >= 4


def test_rows_that_have_nothing_to_align(align, speech, tmp_path):
    audio, words = speech[0]["audio_filepath"], "word " * 500
    rows = [
        {"id": "null", "audio_filepath": audio, "pred_text": None},
        {"id": "empty", "audio_filepath": audio, "pred_text": " "},
        {**speech[5], "id": "long", "pred_text": "no segments"},
        {"id": "control", "audio_filepath": audio, "pred_text": "<|endoftext|>"},
        {"id": "many", "audio_filepath": audio, "pred_text": words},
        {"id": "gone", "audio_filepath": "gone.wav", "pred_text": "x", "words": 1},
        {"id": "control prompt", "audio_filepath": audio, "pred_text": "x", "prompt": "<|en|>"},
    ]
    found, summary = align(write_jsonl(tmp_path / "m.jsonl", rows))
    assert summary.exit_code == EXIT_ROWS_FAILED
    errors = {row_id: row["error"] and row["error"]["kind"] for row_id, row in found.items()}
    assert errors == {
        "null": "bad_row", "empty": None, "long": "too_long", "control": "bad_row", "many": "too_long",
        "gone": "missing", "control prompt": None,
    }  # fmt: skip
    assert found["empty"]["flags"] == ["empty"] and found["empty"]["segments"] == []
    assert "`segments` with start, end and text" in found["many"]["error"]["message"]
    assert found["gone"]["input"]["words"] == 1


def test_a_wrong_segment_among_right_ones_is_flagged(align, heard, tmp_path):
    """And segments of other tools, which overlap here."""
    (row,) = [row for row in read_jsonl(heard) if row["id"] == "two windows"]
    row = {name: row[name] for name in ("audio_filepath", "offset", "duration", "pred_text", "segments")}
    wrong = json.loads(json.dumps(row))
    wrong["segments"][2]["text"] = "The cat was sleeping on the kitchen table all day long"
    wrong["pred_text"] = " ".join(segment["text"] for segment in wrong["segments"])
    middle = wrong["segments"][2]
    found, _ = align(write_jsonl(tmp_path / "m.jsonl", [{"id": "right", **row}, {"id": "wrong", **wrong}]))
    assert "text_mismatch" not in found["right"]["flags"] and "text_mismatch" in found["wrong"]["flags"]
    below = [s for s in found["wrong"]["segments"] if s["audio_gain"] < AUDIO_GAIN]
    assert [s["text"] for s in below] == [middle["text"]]
    two = [{"text": s["text"], "start": max(0, s["start"] - 0.4), "end": s["end"] + 0.4} for s in row["segments"][:4]]
    rows = [{**row, "id": "two", "pred_text": " ".join(s["text"] for s in two), "segments": two}]
    overlapping, _ = align(write_jsonl(tmp_path / "o.jsonl", rows))
    # Not the first word, to which all goes that is before it.
    second_words = [segment["words"][1]["start"] for segment in overlapping["two"]["segments"]]
    expected = [segment["words"][1]["start"] for segment in found["right"]["segments"][:4]]
    assert second_words == pytest.approx(expected, abs=0.5)


def test_another_text_is_another_run(align, transcribe, tiny_en, speech, tmp_path):
    """Of the texts the digest of a manifest says nothing: before, a corrected one kept its old words."""
    rows = [{"id": "a", "audio_filepath": speech[0]["audio_filepath"], "text": "He was not"}]
    manifest, output = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "o.jsonl"
    options = {"args": ("max_num_seqs=1",), "text_field": "text"}
    transcribe(manifest, tiny_en, output, **options)
    write_jsonl(manifest, [{**rows[0], "text": "He is not"}])
    with pytest.raises(RefusedOutputError, match="What differs: texts: was"):
        transcribe(manifest, tiny_en, output, **options)


def test_a_row_without_the_field_or_a_language_is_refused(tiny_en, base, speech, transcribe, tmp_path):
    audio = speech[0]["audio_filepath"]
    for row, model, message in (
        ({"text": "x", "lang": "fr"}, tiny_en, 'lang "fr": .* is English-only; give a multilingual checkpoint'),
        ({"text": "x", "language": "fr"}, tiny_en, 'language "fr": .* is English-only'),
        ({"text": "x", "language": "xx"}, base, 'language "xx": .* has no such language'),
        ({"text": "a \ud800"}, tiny_en, "holds half of a surrogate pair"),
        ({"text": "ab", "segments": [{"start": 3, "end": 1, "text": "ab"}]}, tiny_en, "begins at 3 s and ends at 1 s"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(json.dumps({"audio_filepath": audio, **row}) + "\n")
        with pytest.raises(ManifestError, match=message):
            transcribe(bad, model, tmp_path / "o.jsonl", text_field="text")
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": speech[0]["audio_filepath"], "text": "x"}])
    with pytest.raises(ManifestError, match="has no pred_text; --text-field names the field that holds the text"):
        transcribe(manifest, tiny_en, tmp_path / "o.jsonl", text_field="pred_text")
    with pytest.raises(ManifestError, match="states no language in which its text could be read; give it `lang`"):
        transcribe(manifest, base, tmp_path / "o.jsonl", text_field="text")


def test_options_of_decoding_are_refused(tiny_en):
    for option, value in (("fallback", True), ("windows", "silence"), ("prompt", "x"), ("timestamps", False)):
        with pytest.raises(UsageError, match=f"--{option}: align decodes no text"):
            RunConfig("-", EngineConfig(tiny_en), text_field="text", **{option: value})
    with pytest.raises(UsageError, match="--text-field and --engine-arg worker_extension_cls: words need it"):
        spec_of(tiny_en, args=("worker_extension_cls=mine.Extension",), text_field="text")


def test_a_chunk_goes_on_where_it_was_stopped(transcribe, heard, tiny_en, tmp_path):
    output, rows = tmp_path / "o.jsonl", tmp_path / "o.chunk-00001-of-00002.jsonl"
    how = {"args": ("max_num_seqs=1",), "text_field": "pred_text", "num_chunks": 2, "chunk_id": 1}
    transcribe(heard, tiny_en, output, **how)
    whole = {row["index"]: {**row, "timing": None} for row in read_jsonl(rows)}
    first, *rest = (whole_file := rows.read_bytes()).splitlines(keepends=True)
    rows.with_suffix(".done.json").unlink()
    rows.write_bytes(first)
    transcribe(heard, tiny_en, output, **how)
    assert rows.read_bytes().startswith(first) and rows.read_bytes() != whole_file, "the rest alone was done again"
    assert rest and {row["index"]: {**row, "timing": None} for row in read_jsonl(rows)} == whole


def test_plan_and_submit_say_align(heard, tiny_en, tmp_path):
    long = next(row for row in read_jsonl(heard) if row["audio_s"] > 30)
    untimed = [{**long, "id": name, "segments": [], "windows": [], "duration": s} for name, s in (("a", 73), ("b", 9))]
    manifest = write_jsonl(tmp_path / "m.jsonl", [*read_jsonl(heard), *untimed])
    options = [
        str(manifest),
        "-m",
        tiny_en,
        "-o",
        str(tmp_path / "o.jsonl"),
        "--num-chunks",
        "2",
        "--text-field",
        "pred_text",
    ]
    planned = json.loads(CliRunner().invoke(app, ["plan", *options, "--json"]).stdout)
    assert planned["model"]["refused"] is None and planned["commands"]["chunk"].startswith("asrbatch align ")
    (note,) = [note for note in planned["notes"] if "too_long" in note]
    assert note.startswith("1 row has a text, or a part of one, for more audio than the 30 s")
    submitted = CliRunner().invoke(app, ["submit", *options, "--dry-run"])
    assert submitted.exit_code == 0 and "asrbatch align " in submitted.stdout.replace("-m asrbatch", "asrbatch")
    assert "--text-field pred_text" in submitted.stdout
