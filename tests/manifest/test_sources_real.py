"""Every format with real speech through the real engine: the same texts and ids, whatever held the audio.

The real engine hears each way to hold audio once; formats that hold it alike are read for one that counts beeps.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import file_server
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from beep_run import beep_manifest, start_beeps, text_of
from conftest import PYTHON, REPO, read_jsonl
from object_stores import amazon, google
from source_makers import MAKERS, make_kaldi

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, OutputError
from asrbatch.runs.runner import run
from asrbatch.storage import remote

pytest_plugins = "command_line"

BEEP_RUN = REPO / "tests/beep_run.py"
SPOKEN = {
    "0880": "He was not an old-sposed young man.",  # as tiny.en has it in float32; see test_transcribe.py
    "0930": "He might even have been made amiable himself.",
}


@pytest.fixture(scope="module")
def rows(demo_rows):
    found = []
    for number in SPOKEN:
        row = next(row for row in demo_rows if number in row["audio_filepath"])
        file = Path(row["audio_filepath"])
        length = sf.info(file).duration
        found.append(
            {"id": f"utt-{number}", "text": row["text"], "duration": round(length, 3), "lang": "en", "file": file}
        )
    assert len(found) == len(SPOKEN)
    return found


def check(summary, rows):
    assert summary.exit_code == EXIT_COMPLETE
    by_index = sorted(summary.rows(), key=lambda row: row["index"])
    assert [row["id"] for row in by_index] == [row["id"] for row in rows]
    assert [row["pred_text"] for row in by_index] == list(SPOKEN.values())
    assert [row["text"] for row in by_index] == [row["text"] for row in rows]


@pytest.fixture(scope="module")
def fingerprint(transcribe, tiny_en, rows, tmp_path_factory):
    """That of the run of plain JSON Lines."""
    folder = tmp_path_factory.mktemp("plain")
    summary = transcribe(MAKERS["jsonl"](folder, rows), tiny_en, folder / "out.jsonl", language="en")
    check(summary, rows)
    return json.loads(summary.paths.record.read_text())["fingerprint"]


# Files, base64, parts of files, tars with and without a list, cells of a table, cuts.
HOLDERS = ("csv", "data-uri", "kaldi", "nemo-tar", "webdataset", "parquet", "lhotse")


@pytest.mark.parametrize("kind", HOLDERS)
def test_every_format_gives_the_same_texts_ids_and_fingerprint(transcribe, tiny_en, rows, fingerprint, tmp_path, kind):
    (tmp_path / "d").mkdir()
    summary = transcribe(MAKERS[kind](tmp_path / "d", rows), tiny_en, tmp_path / "out.jsonl", language="en")
    check(summary, rows)
    assert json.loads(summary.paths.record.read_text())["fingerprint"] == fingerprint


@pytest.fixture(scope="module")
def beeps(tmp_path_factory):
    """Rows as those of speech."""
    listed = read_jsonl(beep_manifest(tmp_path_factory.mktemp("beeps"), 2))
    return [
        {"id": row["id"], "text": f"said {i}", "duration": row["duration"], "lang": "en"}
        | {"file": Path(row["audio_filepath"])}
        for i, row in enumerate(listed)
    ]


@pytest.fixture(scope="module")
def count_beeps(tiny_en, beeps):
    """One run of them; returns its fingerprint."""

    def call(manifest, output, **options):
        engine = EngineConfig(model=tiny_en, dtype="float32")
        summary = run(RunConfig(str(manifest), engine, output=str(output), language="en", **options), start=start_beeps)
        assert summary.exit_code == EXIT_COMPLETE
        by_index = sorted(summary.rows(), key=lambda row: row["index"])
        assert [(row["id"], row["text"], row["pred_text"]) for row in by_index] == [
            (row["id"], row["text"], text_of(i)) for i, row in enumerate(beeps)
        ]
        return json.loads(summary.paths.record.read_text())["fingerprint"]

    return call


@pytest.fixture(scope="module")
def fingerprint_of_beeps(count_beeps, beeps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain_beeps")
    return count_beeps(MAKERS["jsonl"](folder, beeps), folder / "out.jsonl")


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("jsonl", *HOLDERS)])
def test_formats_that_hold_audio_alike(count_beeps, beeps, fingerprint_of_beeps, tmp_path, kind):
    (tmp_path / "d").mkdir()
    assert count_beeps(MAKERS[kind](tmp_path / "d", beeps), tmp_path / "out.jsonl") == fingerprint_of_beeps


def test_urls_pipes_and_other_column_names(transcribe, tiny_en, rows, tmp_path):
    wavs = [f"{row['id']} cat {row['file']} |" for row in rows]
    make_kaldi(tmp_path, rows)
    (tmp_path / "segments").unlink()
    (tmp_path / "wav.scp").write_text("\n".join(wavs) + "\n")
    check(transcribe(tmp_path, tiny_en, tmp_path / "pipes.jsonl", allow_pipes=True), rows)
    with file_server.http(rows[0]["file"].parent) as url:
        lines = [{"wav": f"{url}/{row['file'].name}", "said": row["text"], "key": row["id"]} for row in rows]
        manifest = tmp_path / "other.list"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        columns = {"audio_column": "wav", "text_column": "said", "id_column": "key"}
        check(transcribe(manifest, tiny_en, tmp_path / "urls.jsonl", **columns), rows)
    (rows[0]["file"].parent / "requests.log").unlink()


def named_by_pattern(folder, rows):
    for number, row in enumerate(rows):
        MAKERS["jsonl"](folder, [row]).rename(folder / f"part_{number}.json")
    return str(folder / "part__OP_0..1_CL_.json"), {}


def tars_beside_their_list(folder, rows):
    manifest = MAKERS["nemo-tar"](folder, rows) / "tarred_audio_manifest.json"
    return str(manifest.rename(folder / "m.json")), {"tars": str(folder / "audio__OP_0..1_CL_.tar")}


def numbered_tars(folder, rows):
    for number, row in enumerate(rows):
        MAKERS["webdataset"](folder, [row]).rename(folder / f"shard-{number:03}.tar")
    return str(folder / "shard-{000..001}.tar"), {}


def table_of_paths(folder, rows):
    fields = [
        {"file": str(row["file"]), **{name: row[name] for name in ("id", "text", "duration", "lang")}} for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(fields), folder / "m.parquet")
    return str(folder / "m.parquet"), {}


def table_of_bytes(folder, rows):
    fields = [
        {"wav": row["file"].read_bytes(), **{name: row[name] for name in ("id", "text", "duration", "lang")}}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(fields), folder / "m.parquet")
    return str(folder / "m.parquet"), {"audio_column": "wav"}


@pytest.mark.parametrize(
    "make", [named_by_pattern, tars_beside_their_list, numbered_tars, table_of_paths, table_of_bytes]
)
def test_other_ways_to_name_and_hold_them(count_beeps, beeps, fingerprint_of_beeps, tmp_path, make):
    (tmp_path / "d").mkdir()
    source, options = make(tmp_path / "d", beeps)
    assert count_beeps(source, tmp_path / "out.jsonl", **options) == fingerprint_of_beeps


def test_manifests_and_tars_behind_a_server_that_fails_now_and_then(transcribe, tiny_en, rows, fingerprint, tmp_path):
    MAKERS["csv"](tmp_path, [{**row, "file": Path(f"{row['id']}.wav")} for row in rows])
    for row in rows:
        shutil.copy(row["file"], tmp_path / f"{row['id']}.wav")
    tar = MAKERS["webdataset"](tmp_path, rows)
    with file_server.http(tmp_path) as url:
        for number, source in enumerate((f"{url}/x/fail1/m.csv", f"{url}/x/cut1/{tar.name}")):
            summary = transcribe(source, tiny_en, tmp_path / f"out{number}.jsonl", language="en")
            check(summary, rows)
            assert json.loads(summary.paths.record.read_text())["fingerprint"] == fingerprint


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_manifest_and_its_audio_in_a_bucket(transcribe, tiny_en, rows, fingerprint, tmp_path, monkeypatch, scheme):
    with {"s3": file_server.s3, "gs": file_server.gs}[scheme]() as endpoint:
        bucket = {"s3": amazon, "gs": google}[scheme](monkeypatch, endpoint)
        for row in rows:
            bucket.pipe_file(f"speech/audio/{row['id']}.wav", row["file"].read_bytes())
        manifest = MAKERS["jsonl"](tmp_path, [{**row, "file": Path(f"../audio/{row['id']}.wav")} for row in rows])
        bucket.pipe_file("speech/lists/m.jsonl", manifest.read_bytes())
        summary = transcribe(f"{scheme}://speech/lists/m.jsonl", tiny_en, tmp_path / "out.jsonl", language="en")
    remote._system.cache_clear()
    check(summary, rows)
    assert json.loads(summary.paths.record.read_text())["fingerprint"] == fingerprint


def test_a_data_set_on_a_hub(tiny_en, beeps, fingerprint_of_beeps, tmp_path):
    """By the command's own options and clients."""
    data = tmp_path / "hub" / "me" / "speech" / "data"
    data.mkdir(parents=True)
    MAKERS["parquet"](tmp_path, beeps).rename(data / "test-00000-of-00001.parquet")
    out = tmp_path / "out.jsonl"
    with hub_server.serving(tmp_path / "hub") as (url, _):
        command = [
            PYTHON, BEEP_RUN, "transcribe", "--dataset", "me/speech", "--split", "test", "--streaming", "-m", tiny_en,
            "-o", out, "--language", "en", "--dtype", "float32",
        ]  # fmt: skip
        env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == EXIT_COMPLETE, done.stderr
    by_index = sorted(read_jsonl(out), key=lambda row: row["index"])
    assert [(row["id"], row["text"], row["pred_text"]) for row in by_index] == [
        (row["id"], row["text"], text_of(i)) for i, row in enumerate(beeps)
    ]
    assert json.loads((tmp_path / "out.run.json").read_text())["fingerprint"] == fingerprint_of_beeps


def test_a_folder_of_audio_without_a_list(transcribe, tiny_en, rows, tmp_path):
    folder = tmp_path / "recordings"
    (folder / "inner").mkdir(parents=True)
    for row, place in zip(rows, ("a", "inner/b"), strict=True):
        (folder / f"{place}{row['file'].suffix}").write_bytes(row["file"].read_bytes())
        (folder / f"{place}.txt").write_text(row["text"])
    by_index = sorted(transcribe(folder, tiny_en, tmp_path / "out.jsonl").rows(), key=lambda row: row["index"])
    assert [(row["text"], row["pred_text"]) for row in by_index] == [
        (row["text"], SPOKEN[row["id"][4:]]) for row in rows
    ]
    assert [row["audio_filepath"] for row in by_index] == ["a.wav", "inner/b.wav"]


BAD = [
    ("nonsense", "not JSON"),
    ('{"audio_filepath": 5}', "must be a string"),
    ('{"path": "a.wav"}', "no audio_filepath"),
    ('{"audio_filepath": "FILE", "offset": -1}', "offset = -1"),
    ('{"audio_filepath": "FILE", "duration": NaN}', "duration = NaN"),
    ('{"audio_filepath": "FILE", "id": "utt-0880"}', "has it already"),
    ('{"audio_filepath": "FILE", "temperature": 0.5}', "is set for the whole run"),
    ('{"audio_filepath": "FILE", "system_prompt": "x"}', "is set for the whole run"),
    ('{"audio_filepath": ["FILE", "FILE"]}', "several clips in one row"),
    ('{"audio_filepath": "data:audio/wav;base64,"}', "holds no audio"),
    ('{"audio_filepath": "caf\udce9.wav"}', "not UTF-8"),
    ('{"audio_filepath": "FILE", "id": 1, "note": "' + "x" * 10_000_000 + '", "offset": "1"}', "offset ="),
]


def test_bad_rows_stop_a_run_or_fail_and_the_others_are_transcribed(transcribe, tiny_en, rows, cli_here, tmp_path):
    """With a BOM, CRLF, blank lines, two encodings and a line of 10 MB."""
    good = [json.dumps({"audio_filepath": str(row["file"]), "id": row["id"], "text": row["text"]}) for row in rows]
    lines = [good[0], "", *(line.replace("FILE", str(rows[0]["file"])) for line, _ in BAD), "  ", good[1]]
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode("utf-8", "surrogateescape"))
    done = cli_here("transcribe", manifest, "-m", tiny_en, "-o", "out.jsonl")
    assert done.returncode == 2 and list(tmp_path.glob("out*")) == [tmp_path / "out.problems"]
    _, *said, last = done.stderr.splitlines()
    assert last == f"all of them, a JSON line each: {tmp_path / 'out.problems'}"
    listed = [line["where"] for line in read_jsonl(tmp_path / "out.problems")]  # in the order of finding
    assert sorted(listed) == sorted(line.split(": ")[0] for line in said)
    assert len(said) == len(BAD) and all(len(line) < 500 for line in said)
    for number, (line, (_, problem)) in enumerate(zip(said, BAD, strict=True)):
        assert line.startswith(f"{manifest}:{number + 3}: ") and problem in line
    summary = transcribe(manifest, tiny_en, tmp_path / "out.jsonl", on_bad_row="fail", language="en")
    assert summary.exit_code == EXIT_ROWS_FAILED and not (tmp_path / "out.problems").exists()
    by_index = sorted(summary.rows(), key=lambda row: row["index"])
    assert [row["pred_text"] for row in (by_index[0], by_index[-1])] == list(SPOKEN.values())
    assert {row["error"]["kind"] for row in by_index[1:-1]} == {"bad_row"} and len(by_index) == len(BAD) + 2
    assert all(problem in row["error"]["message"] for row, (_, problem) in zip(by_index[1:-1], BAD, strict=True))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_standard_input_is_resumed_and_merged(cli_here, transcribe, tiny_en, rows, tmp_path, monkeypatch, kind):
    if kind == "jsonl":
        lines = [json.dumps({"audio_filepath": row["file"].name, "id": row["id"], "text": row["text"]}) for row in rows]
    else:
        lines = ["audio_filepath,id", *(f"{row['file'].name},{row['id']}" for row in rows)]
    lines = "".join(f"{line}\n" for line in lines)
    monkeypatch.chdir(rows[0]["file"].parent)  # what relative paths are relative to
    output = tmp_path / "run" / "out.jsonl"
    read, written = os.pipe()
    os.write(written, lines.encode())
    os.close(written)
    with open(read, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": pipe}))
        first = transcribe("-", tiny_en, output, num_chunks=2, chunk_id=0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for row in rows:  # the same names for other recordings
        shutil.copy(rows[0]["file"], elsewhere / row["file"].name)
    monkeypatch.chdir(elsewhere)
    with open(os.devnull, "rb") as nothing:  # as a batch system gives it
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": nothing}))
        second = transcribe("-", tiny_en, output, num_chunks=2, chunk_id=1)
    assert (first.exit_code, second.exit_code) == (EXIT_COMPLETE, EXIT_COMPLETE)
    assert (tmp_path / "run" / "out.manifest.jsonl").read_text() == lines
    done = cli_here("merge-shards", output, "--manifest", "-")
    assert done.returncode == 0, done.stderr
    assert [row["pred_text"] for row in read_jsonl(output)] == list(SPOKEN.values())
    done = cli_here("status", output)
    assert done.returncode == 0, done.stderr


def test_a_kaldi_folder_of_paths_from_where_it_was_run_is_not_resumed_elsewhere(
    transcribe, tiny_en, rows, tmp_path, monkeypatch
):
    data, recipe, elsewhere = tmp_path / "data", tmp_path / "recipe", tmp_path / "elsewhere"
    for folder, row in ((recipe, rows[0]), (elsewhere, rows[1])):
        folder.mkdir()
        shutil.copy(row["file"], folder / "a.wav")
    data.mkdir()
    (data / "wav.scp").write_text("u1 a.wav\n")
    monkeypatch.chdir(recipe)
    summary = transcribe(data, tiny_en, tmp_path / "out.jsonl")
    assert [row["pred_text"] for row in summary.rows()] == [SPOKEN["0880"]]
    monkeypatch.chdir(elsewhere)
    with pytest.raises(OutputError, match=r'What differs: audio_folder: was .*recipe", now .*elsewhere"'):
        transcribe(data, tiny_en, tmp_path / "out.jsonl")
    shutil.copy(rows[0]["file"], data / "a.wav")  # the folder's own file goes before
    with pytest.raises(OutputError, match=r"What differs: audio_folder: was .*, now null"):
        transcribe(data, tiny_en, tmp_path / "out.jsonl")


def test_a_chunk_does_not_read_the_audio_of_others(transcribe, tiny_en, rows, tmp_path):
    """Behind a URL, where every byte that is read has been asked for."""
    (tmp_path / "d").mkdir()
    source = MAKERS["parquet"](tmp_path / "d", [*rows, {**rows[0], "id": "last"}])
    pq.write_table(pq.read_table(source), source, row_group_size=1, compression="none", use_dictionary=False)
    other = rows[1]["file"].read_bytes()
    at = source.read_bytes().find(other)
    assert at > 0
    with file_server.http(source.parent) as url:
        options = {"num_chunks": 2, "chunk_id": 0, "strategy": "strided"}  # without the one in the middle
        summary = transcribe(f"{url}/m.parquet", tiny_en, tmp_path / "out.jsonl", **options)
        asked = (source.parent / "requests.log").read_text().splitlines()
    assert [row["pred_text"] for row in summary.rows()] == [SPOKEN["0880"]] * 2
    ranges = [tuple(map(int, line.rpartition("=")[2].split("-"))) for line in asked if line.startswith("GET")]
    assert ranges and not [first for first, last in ranges if first < at + len(other) and last >= at]
