"""`export --format nemo|leaderboard`: what those tools read, with no row dropped to look better."""

import json
from pathlib import Path

import pytest
from conftest import REPO, read_jsonl, write_jsonl

from asrbatch.errors import EXIT_ROWS_FAILED, EXIT_USAGE, UsageError
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.row_fields import audio_seconds
from asrbatch.evaluation.score import score
from asrbatch.export.exporter import export
from asrbatch.export.options import ResultNames
from asrbatch.export.results import nemo_row
from asrbatch.pipeline.result import RESULT_FIELDS

pytest_plugins = "command_line"

PAIRS = read_jsonl(REPO / "tests/data/prompts.tiny-en.jsonl")
RECORDED = json.loads((REPO / "tests/data/leaderboard.json").read_text(encoding="utf-8"))
NAMES = ResultNames("openai/whisper-tiny.en", "asterisk/prompts", "en", "test")
ASKED = ("--model-id", "a/b", "--dataset", "c/d", "--dataset-name", "e", "--split", "f")


def run_of(folder: Path, rows: list[dict]) -> Path:
    """A complete run of these rows, as its files say."""
    more = {"windows": [], "segments": [], "flags": [], "timing": {}}
    path = write_jsonl(
        folder / "out.jsonl", [{"audio_filepath": f"{row['id']}.wav", "error": None, **row, **more} for row in rows]
    )
    mark = {"rows": len(rows), "statuses": {}, "sha256": "0", "rtfx_engine": 7.9}
    (folder / "out.done.json").write_text(json.dumps(mark))
    return path


def test_the_leaderboard_finds_every_row_and_the_speed_of_the_engine(tmp_path):
    exported = export(run_of(tmp_path, PAIRS), ["leaderboard"], names=NAMES)
    path = exported.outputs["leaderboard"].path
    assert path.name == "MODEL_openai-whisper-tiny.en_DATASET_asterisk-prompts_en_test.jsonl"
    rows = read_jsonl(path)
    assert [row["text"] for row in rows] == [row["text"] for row in PAIRS]  # raw
    assert [row["pred_text"] for row in rows] == [row["pred_text"] or "" for row in PAIRS]
    assert list(rows[0])[:5] == ["audio_filepath", "duration", "time", "text", "pred_text"]
    assert [row["audio_filepath"] for row in rows] == [f"{row['id']}.wav" for row in PAIRS]
    assert all(row["time_is"].startswith("engine wall time") for row in rows)
    figures = score(path, ScoreOptions(normalizer="leaderboard", resamples=10))
    assert round(figures["total"]["wer_percent"], 2) == RECORDED["all_rows"]["wer_percent"]
    assert exported.exit_code == EXIT_ROWS_FAILED and exported.failed.total() == 3
    # The engine worked so long on what it transcribed, and this is not more: failed rows have no share of it.
    done = [row["status"] == "ok" for row in PAIRS]
    assert [row["time"] is not None for row in rows] == done and all(row["duration"] for row in rows)
    audio_s = sum(audio_seconds(row) for row in PAIRS if row["status"] == "ok")
    assert sum(row["time"] or 0 for row in rows) == pytest.approx(audio_s / 7.9, abs=1e-6)
    assert exported.outputs["leaderboard"].without_time == {"failed": 3} and figures["speed"] == {}
    ok = write_jsonl(tmp_path / "ok.jsonl", [row for row in rows if row["time"] is not None])
    assert score(ok, ScoreOptions(resamples=10))["speed"] == {"rtfx_stated": pytest.approx(7.9, abs=1e-3)}


def test_rows_that_the_leaderboard_drops_are_left_out_and_counted(tmp_path):
    texts = ["hello", None, "", "(laughs)", "Ignore time segment in scoring"]
    rows = [{**PAIRS[0], "id": f"r{at}", "index": at, "text": text} for at, text in enumerate(texts)]
    exported = export(run_of(tmp_path, rows), ["leaderboard"], names=NAMES)
    assert [row["text"] for row in read_jsonl(exported.outputs["leaderboard"].path)] == ["hello"]
    assert exported.outputs["leaderboard"].left_out == dict.fromkeys(
        ("no_reference", "empty_reference", "nothing_left", "marked_to_ignore"), 1
    )


def test_rows_that_are_not_english_are_said(cli_here, tmp_path):
    rows = [
        {**PAIRS[at], "id": f"r{at}", "index": at, "lang": lang}
        for at, lang in enumerate(["en", "German", "de-AT", "fr"])
    ]
    done = cli_here("export", run_of(tmp_path, rows), "--format", "leaderboard,nemo", *ASKED)
    said = [line for line in done.stderr.splitlines() if "not in English" in line]
    assert len(said) == 1 and said[0].startswith("leaderboard: 3 rows are not in English (de 2, fr 1): ")
    assert len(read_jsonl(Path(done.stdout.splitlines()[0]))) == 4


def test_a_nemo_manifest_has_the_fields_of_the_input_and_can_be_scored(tmp_path):
    path = run_of(tmp_path, PAIRS)
    found = export(path, ["nemo"]).outputs["nemo"].path
    rows = read_jsonl(found)
    assert [list(row) for row in rows] == [["audio_filepath", "id", "duration", "lang", "text", "pred_text"]] * len(
        PAIRS
    )
    ours, theirs = (score(each, ScoreOptions(resamples=10))["total"] for each in (path, found))
    assert theirs["wer_percent"] == ours["wer_percent"] and theirs["failed"] == 0


@pytest.mark.parametrize(
    ("source", "found", "folder"),
    [
        ("/data/list.jsonl", None, "/data"),
        ("/data/a.jsonl,/data/b.jsonl", None, "/data"),
        ("/data/**/*.wav", None, "/data"),
        ("/data/set[ab]/x.wav", None, "/data"),
        ("-", "/began/here", "/began/here"),
        ("/data/wav.scp", "/elsewhere", "/elsewhere"),
    ],
)
def test_paths_are_relative_to_where_the_run_looked(tmp_path, source, found, folder):
    path = run_of(tmp_path, [{**PAIRS[0], "audio_filepath": "a/b.wav"}])
    fingerprint = {"audio_folder": found} if found else {}
    record = {"manifest": {"source": source, "rows": 1}, "total_rows": 1, "fingerprint": fingerprint, "sessions": []}
    (tmp_path / "out.run.json").write_text(json.dumps(record))
    (row,) = read_jsonl(export(path, ["nemo"]).outputs["nemo"].path)
    assert row["audio_filepath"] == f"{folder}/a/b.wav"


@pytest.mark.parametrize(
    ("manifest", "written", "expected"),
    [
        ({"audio_folder": "/data/deep", "source": "/data/**/*.wav"}, "a.wav", "/data/deep/a.wav"),
        ({"audio_folder": "https://host/m", "source": "https://host/m/l.jsonl"}, "../a.wav", "https://host/a.wav"),
        ({"audio_folder": "/data"}, "https://host/a.wav", "https://host/a.wav"),
        ({"audio_folder": "/data"}, "pipe:sox a.wav -t wav - |", "dog"),
        ({"audio_folder": None, "holds_audio": True, "source": "/data/a.tar"}, "a.tar/k.wav", "dog"),
        ({"audio_folder": "/data", "holds_audio": True}, "https://host/a.wav", "https://host/a.wav"),
        ({"audio_folder": "HERE", "holds_audio": True}, "gone.wav", "dog"),
        ({"audio_folder": "HERE", "holds_audio": True}, "out.jsonl", "HERE/out.jsonl"),  # a file that is there
        ({"audio_folder": "HERE", "holds_audio": False}, "gone.wav", "HERE/gone.wav"),
    ],
)
def test_a_path_is_that_of_a_file_or_else_the_id(tmp_path, manifest, written, expected):
    path = run_of(tmp_path, [{**PAIRS[0], "id": "dog", "audio_filepath": written}])
    folder = manifest["audio_folder"] and manifest["audio_folder"].replace("HERE", str(tmp_path))
    record = {
        "manifest": {"rows": 1, **manifest, "audio_folder": folder},
        "total_rows": 1,
        "fingerprint": {},
        "sessions": [],
    }
    (tmp_path / "out.run.json").write_text(json.dumps(record))
    (row,) = read_jsonl(export(path, ["nemo"]).outputs["nemo"].path)
    assert row["audio_filepath"] == expected.replace("HERE", str(tmp_path))


def test_nemo_gets_a_length_a_text_and_an_absolute_path_of_every_row(cli_here, tmp_path):
    rows = [
        {"id": "stated", "index": 0, "status": "ok", "pred_text": "a", "duration": 2.0, "audio_s": 1.9, "text": "a"},
        {"id": "decoded", "index": 1, "status": "ok", "pred_text": "a", "audio_s": 1.5, "text": None},
        {
            "id": "unknown",
            "index": 2,
            "status": "failed",
            "error": {"kind": "missing", "message": ""},
            "pred_text": None,
            "audio_s": 0.0,
        },
        {
            "id": "bytes",
            "index": 3,
            "status": "ok",
            "pred_text": "a",
            "duration": 10**400,
            "audio_s": 1.0,
            "audio_filepath": None,
        },
        {
            "id": "absolute",
            "index": 4,
            "status": "ok",
            "pred_text": "a",
            "audio_s": 1.0,
            "audio_filepath": "/far/x.wav",
        },
    ]
    path = run_of(tmp_path, rows)
    record = {"manifest": {"source": "/corpus/manifest.jsonl"}, "fingerprint": {}, "total_rows": 5, "sessions": []}
    (tmp_path / "out.run.json").write_text(json.dumps(record))
    done = cli_here("export", path, "--format", "nemo")
    assert "nemo: left out 1 row: nobody knows how long it is" in done.stderr, done.stderr
    found = {row["id"]: row for row in read_jsonl(Path(done.stdout.strip()))}
    assert {row_id: (row["duration"], row["text"], row["audio_filepath"]) for row_id, row in found.items()} == {
        "stated": (2.0, "a", "/corpus/stated.wav"),
        "decoded": (1.5, "", "/corpus/decoded.wav"),
        "bytes": (1.0, "", "bytes"),
        "absolute": (1.0, "", "/far/x.wav"),
    }


def test_a_row_of_unknown_length_is_in_the_leaderboards_file_and_said(cli_here, tmp_path):
    rows = [{**PAIRS[0], "index": 0}, {**PAIRS[1], "index": 1, "audio_s": 0.0, "duration": None}]
    rows.append({**PAIRS[2], "id": "short", "index": 2, "audio_s": 0.0001, "duration": 0.0001})
    done = cli_here("export", run_of(tmp_path, rows), "--format", "leaderboard", *ASKED)
    assert "leaderboard: 1 row has no time, because nobody knows how long they are; state `duration`" in done.stderr
    assert "makes no RTFx" in done.stderr and "not in English" not in done.stderr
    found = read_jsonl(Path(done.stdout.strip()))
    assert [(row["duration"] is None, row["time"] is None) for row in found] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert found[2]["time"] > 0  # to the leaderboard 0 is no time


def test_rows_of_a_run_that_were_aligned_leave_out_what_that_run_said():
    before = {**dict.fromkeys(RESULT_FIELDS), "status": "ok", "index": 3, "input": {"index": 7}}
    row = {
        "id": "a",
        "index": 0,
        "audio_filepath": "/a.wav",
        **dict.fromkeys(RESULT_FIELDS),
        "pred_text": "x",
        "input": before,
    }
    written = nemo_row(row, "/")
    assert (written["index"], written["pred_text"]) == (7, "x") and not {"status", "segments"} & written.keys()


def test_fields_that_had_our_names_get_them_back():
    row = {
        "id": "a",
        "index": 3,
        "input": {"status": "draft", "pred_text": "old", "index": 7},
        "status": "ok",
        "pred_text": "new",
    }
    row |= {"audio_s": 2.5, "duration": None, "speaker": "x"}
    expected = {
        "id": "a",
        "duration": 2.5,
        "speaker": "x",
        "status": "draft",
        "index": 7,
        "input": {"pred_text": "old"},
    }
    assert nemo_row(row, "/data") == {**expected, "audio_filepath": "a", "text": "", "pred_text": "new"}


def test_what_is_missing_is_named(tmp_path):
    path = run_of(tmp_path, PAIRS[:1])
    with pytest.raises(UsageError, match="--format leaderboard: --dataset-name, --split missing"):
        export(path, ["leaderboard"], names=ResultNames("a", "b"))
    (tmp_path / "out.done.json").unlink()
    with pytest.raises(UsageError, match=r"out\.done\.json does not say how fast the engine was"):
        export(path, ["leaderboard"], names=NAMES)
    assert export(path, ["nemo"]).outputs["nemo"].written == 1


def test_the_command_beside_other_formats(cli_here, tmp_path):
    path = run_of(tmp_path, [row for row in PAIRS if row["status"] == "failed" or row["index"] < 3])
    done = cli_here("export", path, "--format", "txt,nemo,leaderboard", "--per-run", *ASKED)
    assert done.returncode == EXIT_ROWS_FAILED, done.stderr
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names == ["out.txt", "out.nemo.json", "MODEL_a-b_DATASET_c-d_e_f.jsonl"]
    assert "left out: 3 failed rows (3 too_long)" in done.stderr
    assert "nemo, leaderboard: with an empty prediction 3 failed rows" in done.stderr
    assert "nemo: 6 utterances, 1 files written" in done.stderr and "txt: 3 utterances, 1 files written" in done.stderr
    again = cli_here("export", path, "--format", "leaderboard", *ASKED)
    assert "0 files written, 1 there already" in again.stderr
    (tmp_path / "out.export/MODEL_a-b_DATASET_c-d_e_f.jsonl").write_text("by hand\n")
    in_the_way = cli_here("export", path, "--format", "leaderboard", *ASKED)
    assert in_the_way.returncode == 1 and "is there already and says something else" in in_the_way.stderr
    assert cli_here("export", path, "--format", "leaderboard").returncode == EXIT_USAGE
