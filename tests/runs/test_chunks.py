"""`transcribe` with chunks, end to end: together they hold every row exactly once, and none takes another's place."""

import json
import re

import file_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from beep_run import beep_manifest, check_rows, start_beeps
from conftest import read_jsonl, write_jsonl

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, OutputError, UsageError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.runs import fingerprint
from asrbatch.runs.progress import Observer
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths, chunk_path, find_chunks


class LogObserver(Observer):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


def never(*args, **options):
    raise AssertionError("the engine was started for nothing")


@pytest.fixture
def job(tiny_en, tmp_path):
    """Runs one chunk of a manifest with the beep engine; returns its summary."""

    def call(
        manifest, num_chunks=None, chunk_id=None, *, output="out.jsonl", start=start_beeps, observer=None, **options
    ):
        config = RunConfig(
            manifest=str(manifest),
            engine=EngineConfig(model=tiny_en),
            output=str(tmp_path / output),
            num_chunks=num_chunks,
            chunk_id=chunk_id,
            workers=1,
            **options,
        )
        return run(config, observer=observer, start=start)

    return call


@pytest.fixture
def manifest(tmp_path):
    return beep_manifest(tmp_path / "in", 10)


def record_of(paths: RunPaths) -> dict:
    return json.loads(paths.record.read_text())


def mark_of(paths: RunPaths) -> dict:
    return json.loads(paths.done.read_text())


def lines_of(paths: RunPaths) -> list[bytes]:
    return paths.rows.read_bytes().splitlines(keepends=True)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*")}


@pytest.mark.parametrize(
    ("num_chunks", "strategy"),
    [(1, "balanced"), (3, "balanced"), (3, "contiguous"), (3, "strided"), (3, "consecutive"), (12, "balanced")],
)
def test_all_chunks_together_hold_every_row_once(job, manifest, tmp_path, num_chunks, strategy):
    durations_s = open_manifest(manifest).scan.durations_s
    sharding = Sharding(durations_s, num_chunks, strategy)
    digests = set()
    for chunk_id in range(num_chunks):
        summary = job(manifest, num_chunks, chunk_id, strategy=strategy)
        expected = sharding.rows(chunk_id).tolist()
        assert (summary.outcome, summary.exit_code) == ("complete", EXIT_COMPLETE)
        assert summary.paths.rows == chunk_path(tmp_path / "out.jsonl", chunk_id, num_chunks)
        check_rows([summary.paths.rows], expected)
        record, mark = record_of(summary.paths), mark_of(summary.paths)
        assert (record["chunk_id"], record["num_chunks"], record["total_rows"]) == (chunk_id, num_chunks, len(expected))
        assert record["total_audio_s"] == pytest.approx(durations_s[expected].sum())
        folder = str(manifest.parent)
        assert record["manifest"] == {"source": str(manifest), "rows": 10, "audio_folder": folder, "holds_audio": False}
        assert record["fingerprint"]["num_rows"] == 10 and record["fingerprint"]["chunks"] == sharding.digest
        assert mark["rows"] == len(expected)
        digests.add(mark["fingerprint"])
        assert digests == {fingerprint.digest(record["fingerprint"])}, "one run, one fingerprint"
    found = find_chunks(tmp_path / "out.jsonl")
    assert list(found) == [num_chunks] and list(found[num_chunks]) == list(range(num_chunks))
    check_rows([paths.rows for paths in found[num_chunks].values()], range(10))
    assert not (tmp_path / "out.jsonl").exists(), "that name is for the merged rows"


def test_an_empty_chunk_completes_at_once_without_an_engine(job, tmp_path):
    summary = job(beep_manifest(tmp_path / "in", 2), 16, 7, start=never)
    assert (summary.outcome, summary.exit_code) == ("complete", EXIT_COMPLETE)
    assert summary.paths.rows.read_bytes() == b""
    assert (mark_of(summary.paths)["rows"], record_of(summary.paths)["total_rows"]) == (0, 0)
    assert record_of(summary.paths)["sessions"][-1]["outcome"] == "complete"
    assert not summary.paths.lease.exists() and not summary.paths.in_flight.exists()
    again = job(beep_manifest(tmp_path / "in", 2), 16, 7, start=never)
    assert (again.outcome, again.exit_code) == ("already_complete", EXIT_COMPLETE)


# Which chunk


def test_two_chunks_of_sixteen_as_a_slurm_array(cli, tiny_en, tmp_path):
    """`--array=3,7`: the array's size says nothing about how many chunks there are."""
    manifest = beep_manifest(tmp_path / "in", 2)
    command = ("transcribe", manifest, "-m", tiny_en, "-o", tmp_path / "out.jsonl", "--num-chunks", 16)
    for task in ("3", "7"):
        slurm = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7"}
        done = cli(*command, env={"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": "41", **slurm})
        assert done.returncode == EXIT_COMPLETE, done.stderr
        assert done.stdout.strip() == str(chunk_path(tmp_path / "out.jsonl", int(task), 16))
        assert f"chunk {task} of 16: 0 of 2 rows" in done.stderr
    found = find_chunks(tmp_path / "out.jsonl")
    assert list(found) == [16] and list(found[16]) == [3, 7]
    (session,) = record_of(found[16][7])["sessions"]
    assert session["slurm"] == {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "7"}
    assert session["chunk_source"] == "SLURM_ARRAY_TASK_ID=7"
    # Another scheduler runs the chunk again with an offset, and then somebody by hand.
    for options, env in (
        (("--chunk-offset", 4, "--overwrite"), {"SGE_TASK_ID": "4", "LSB_JOBINDEX": "0"}),
        (("--chunk-id", 7, "--overwrite"), {"SGE_TASK_ID": "4"}),
    ):
        done = cli(*command, *options, env=env)
        assert done.returncode == EXIT_COMPLETE, done.stderr
        (session,) = record_of(found[16][7])["sessions"]
        assert session["chunk_source"] == (
            "--chunk-id 7" if "--chunk-id" in options else "SGE_TASK_ID=4 --chunk-offset 4"
        )


def test_a_chunk_on_the_real_engine(transcribe, tiny_en, demo_rows, tmp_path):
    """Its rows carry their places in the whole manifest. As a task: test_slurm.py."""
    rows = [row for row in demo_rows if row["duration"] < 8][:4]
    manifest, output = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out.jsonl"
    summary = transcribe(manifest, tiny_en, output, num_chunks=2, chunk_id=1, strategy="strided")
    paths = RunPaths(chunk_path(output, 1, 2))
    assert summary.exit_code == EXIT_COMPLETE and summary.paths.rows == paths.rows
    written = {row["index"]: row for row in read_jsonl(paths.rows)}
    assert sorted(written) == [1, 3] and len(read_jsonl(paths.rows)) == 2
    assert {i: row["id"] for i, row in written.items()} == {1: rows[1]["id"], 3: rows[3]["id"]}
    assert all(row["status"] == "ok" and row["pred_text"] for row in written.values())
    assert mark_of(paths)["rows"] == 2


@pytest.mark.parametrize(
    ("options", "slurm", "complaint"),
    [
        (("--num-chunks", 4, "--chunk-id", 4), {}, "--chunk-id 4: must be from 0 to 3, for 4 chunks"),
        (
            ("--num-chunks", 4, "--chunk-offset", 2),
            {"SLURM_ARRAY_TASK_ID": "2"},
            "SLURM_ARRAY_TASK_ID=2 --chunk-offset 2: is chunk 4, which must be from 0 to 3, for 4 chunks; --ch",
        ),
        (
            ("--num-chunks", 4),
            {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "JOB_COMPLETION_INDEX": "1"},
            "JOB_COMPLETION_INDEX=1 and AWS_BATCH_JOB_ARRAY_INDEX=2: two arrays",
        ),
        (
            ("--chunk-id", 0),
            {"SLURM_ARRAY_TASK_ID": "2"},
            "--chunk-id 0: needs the number of chunks; give --num-chunks as well",
        ),
    ],
)
def test_a_wrong_chunk_is_a_usage_error(cli, manifest, tmp_path, options, slurm, complaint):
    done = cli("transcribe", manifest, "-m", "unused", "-o", tmp_path / "out.jsonl", *options, env=slurm)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith(f"asrbatch: {complaint}") and done.stderr.count("\n") == 1
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_chunks": 0, "chunk_id": 0}, "--num-chunks 0: must be at least 1"),
        ({"num_chunks": 4, "chunk_id": -1}, "--chunk-id -1: must be from 0 to 3"),
        ({"num_chunks": 4}, "--num-chunks and --chunk-id: give both"),
        ({"strategy": "strided"}, "--strategy strided: is for chunks; give --num-chunks as well"),
        (
            {"num_chunks": 4, "chunk_id": 0, "strategy": "even"},
            "--strategy even: must be one of balanced, contiguous, strided, con",
        ),
        ({"output": "out.chunk-00000-of-00004.jsonl"}, r"one chunk's file; give the run's own, out\.jsonl"),
        (
            {"output": "out.chunk-00000-of-00004.jsonl", "num_chunks": 4, "chunk_id": 0},
            r"one chunk's file; give the run's own, out\.jsonl",
        ),
    ],
)
def test_options_that_contradict_each_other(job, manifest, tmp_path, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        job(manifest, start=never, **options)
    assert list(tmp_path.glob("out*")) == []


# Resuming


def kill(paths: RunPaths, rows: int) -> None:
    """Leaves the files as a kill within the row after the first `rows` leaves them."""
    lines = lines_of(paths)
    paths.rows.write_bytes(b"".join(lines[:rows]) + lines[rows][:40])
    paths.done.unlink()


def test_a_killed_chunk_goes_on_where_it_was(job, manifest):
    first = job(manifest, 3, 1)
    kill(first.paths, 1)
    kept = lines_of(first.paths)[0]
    again = job(manifest, 3, 1)
    assert again.outcome == "complete" and len(record_of(first.paths)["sessions"]) == 2
    assert lines_of(first.paths)[0] == kept
    check_rows([first.paths.rows], Sharding(open_manifest(manifest).scan.durations_s, 3).rows(1).tolist())


def test_another_number_of_chunks_is_another_file(job, manifest, tmp_path):
    first = job(manifest, 3, 1)
    kill(first.paths, 1)
    before = contents(tmp_path)
    other = job(manifest, 4, 1)
    assert other.paths.rows.name == "out.chunk-00001-of-00004.jsonl"
    check_rows([other.paths.rows], Sharding(open_manifest(manifest).scan.durations_s, 4).rows(1).tolist())
    assert before.items() <= contents(tmp_path).items(), "the chunk of the other number is as it was"
    assert list(find_chunks(tmp_path / "out.jsonl")) == [3, 4]


@pytest.mark.parametrize("complete", [False, True])
def test_another_strategy_is_refused(job, manifest, tmp_path, complete):
    first = job(manifest, 3, 1)
    if not complete:
        kill(first.paths, 1)
    before = contents(tmp_path)
    with pytest.raises(OutputError) as error:
        job(manifest, 3, 1, strategy="strided", start=never)
    message = str(error.value)
    assert message.startswith(f"{first.paths.rows}: holds rows of another run. What differs: ")
    assert 'strategy: was "balanced", now "strided"' in message and "chunks: was " in message
    assert "Give the same options, choose another --output, or --overwrite to start over" in message
    assert contents(tmp_path) == before


def test_balanced_where_nothing_can_be_balanced_is_strided(job, tmp_path):
    """Without durations the two deal out the same rows, so one may go on with what the other began."""
    manifest = beep_manifest(tmp_path / "in", 10, durations="none")
    listener = LogObserver()
    first = job(manifest, 3, 1, observer=listener)
    complaint = "chunks are not balanced by audio: 10 of 10 rows have no duration; those are split in turn (strided)"
    assert complaint in listener.lines and "chunk 1 of 3: 3 of 10 rows" in listener.lines
    check_rows([first.paths.rows], [1, 4, 7])
    record = record_of(first.paths)
    assert record["fingerprint"]["strategy"] == "strided" and record["total_audio_s"] is None
    kill(first.paths, 1)
    listener = LogObserver()
    assert job(manifest, 3, 1, strategy="strided", observer=listener).outcome == "complete"
    assert not any("not balanced" in line for line in listener.lines), "who asks for strided needs no explanation"


def test_partly_absent_durations_say_how_many(job, tmp_path):
    manifest = beep_manifest(tmp_path / "in", 10, durations="some")
    listeners = [LogObserver(), LogObserver()]
    summaries = [job(manifest, 2, chunk_id, observer=listener) for chunk_id, listener in enumerate(listeners)]
    for listener in listeners:
        assert any(
            "4 of 10 rows have no duration; those are split in turn (strided)" in line for line in listener.lines
        )
    check_rows([summary.paths.rows for summary in summaries], range(10))
    assert record_of(summaries[0].paths)["fingerprint"]["strategy"] == "balanced"
    listener = LogObserver()
    job(beep_manifest(tmp_path / "full", 10), 2, 0, output="out2.jsonl", observer=listener)
    assert not any("not balanced" in line for line in listener.lines)


def test_a_row_of_another_chunk_is_refused(job, manifest, tmp_path):
    mine, other = job(manifest, 3, 1), job(manifest, 3, 2)
    kill(mine.paths, 1)
    kept = lines_of(mine.paths)[0]
    foreign = lines_of(other.paths)[0]
    index = json.loads(foreign)["index"]
    mine.paths.rows.write_bytes(kept + foreign)
    before = contents(tmp_path)
    with pytest.raises(
        OutputError, match=re.escape(f"{mine.paths.rows}:2: index {index} (id u{index}) belongs to another chunk")
    ):
        job(manifest, 3, 1, start=never)
    after = contents(tmp_path)
    assert after == before
    assert job(manifest, 3, 1, overwrite=True).outcome == "complete"
    check_rows([mine.paths.rows], Sharding(open_manifest(manifest).scan.durations_s, 3).rows(1).tolist())


def test_a_row_of_another_chunk_in_a_complete_one_is_refused(job, manifest):
    mine, other = job(manifest, 3, 1), job(manifest, 3, 2)
    with open(mine.paths.rows, "ab") as file:
        file.write(lines_of(other.paths)[0])
    with pytest.raises(OutputError, match="was changed after the run completed"):
        job(manifest, 3, 1, start=never)


@pytest.mark.parametrize("option", ["retry_failed", "overwrite"])
def test_retrying_and_starting_anew_touch_only_the_chunk(job, tmp_path, option):
    manifest = beep_manifest(tmp_path / "in", 10)
    broken = [
        row | ({"audio_filepath": "absent.wav"} if index < 3 else {}) for index, row in enumerate(read_jsonl(manifest))
    ]
    write_jsonl(manifest, broken)
    summaries = [job(manifest, 3, chunk_id, strategy="strided") for chunk_id in range(3)]
    assert [summary.exit_code for summary in summaries] == [EXIT_ROWS_FAILED] * 3
    before = contents(tmp_path)
    (tmp_path / "in" / "absent.wav").write_bytes((tmp_path / "in" / "2.wav").read_bytes())
    again = job(manifest, 3, 1, strategy="strided", **{option: True})
    assert (again.outcome, again.exit_code) == ("complete", EXIT_COMPLETE)
    check_rows([again.paths.rows], [1, 4, 7])
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {
        f"out.chunk-00001-of-00003.{ending}" for ending in ("jsonl", "run.json", "done.json")
    }
    assert len(record_of(again.paths)["sessions"]) == (2 if option == "retry_failed" else 1)


def test_a_manifest_that_changed_between_two_chunks(job, manifest, tmp_path):
    """A chunk that was begun refuses; one that begins carries another fingerprint, so that the run
    cannot pass for one.
    """
    first = job(manifest, 3, 0)
    begun = job(manifest, 3, 1)
    kill(begun.paths, 1)
    rows = read_jsonl(manifest)
    write_jsonl(
        manifest, [*rows, {**rows[0], "id": "u10", "audio_filepath": rows[3]["audio_filepath"], "speaker": "s10"}]
    )
    for chunk_id in (0, 1):
        with pytest.raises(OutputError) as error:
            job(manifest, 3, chunk_id, start=never)
        for name in ("manifest: was", "num_rows: was 10, now 11", "chunks: was"):
            assert name in str(error.value)
    later = job(manifest, 3, 2)
    differing = fingerprint.differences(record_of(first.paths)["fingerprint"], record_of(later.paths)["fingerprint"])
    assert [line.partition(":")[0] for line in differing] == ["manifest", "num_rows", "chunks"]
    assert mark_of(first.paths)["fingerprint"] != mark_of(later.paths)["fingerprint"]


def test_another_place_of_the_same_manifest_is_the_same_manifest(job, manifest, tmp_path):
    """Nodes may have local copies, as long as the audio paths are written the same."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "manifest.jsonl").write_bytes(manifest.read_bytes())
    summaries = [job(manifest, 2, 0), job(copy / "manifest.jsonl", 2, 1)]
    assert len({mark_of(summary.paths)["fingerprint"] for summary in summaries}) == 1
    check_rows([summary.paths.rows for summary in summaries], range(10))


def test_a_chunk_says_when_another_was_made_otherwise(job, demo_rows, tmp_path):
    """merge-shards would refuse them only when all the work is done."""
    manifest = write_jsonl(tmp_path / "m.jsonl", demo_rows[:4])

    def warnings(chunk_id, **options):
        listener = LogObserver()
        job(manifest, 2, chunk_id, observer=listener, **options)
        return [line for line in listener.lines if "another run" in line]

    assert warnings(0) == []
    (warning,) = warnings(1, prompt="Names: Ada")
    assert "chunk 0 belongs to another run" in warning and 'prompt: was null, now "Names: Ada"' in warning
    assert warnings(1, overwrite=True) == []


def test_sequential_begins_long_recordings_first_and_the_others_in_manifest_order(job, tmp_path):
    """Another order among those of one window would be another pass over a packed list or a row group for each."""
    manifest = beep_manifest(tmp_path / "m", 14)
    rows = read_jsonl(manifest)
    for index, repeats in ((3, 20), (9, 75), (11, 20)):  # 35, 131 and 35 s, the longest of them second
        samples, rate = soundfile.read(rows[6]["audio_filepath"], dtype="float32")
        rows[index] |= {"audio_filepath": f"{index}.wav", "duration": repeats * len(samples) / rate}
        soundfile.write(tmp_path / "m" / f"{index}.wav", np.tile(samples, repeats), rate)
    job(write_jsonl(manifest, rows), windows="sequential", max_windows=1)
    order = [row["index"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert order == [9, 3, 11, *(index for index in range(14) if index not in (9, 3, 11))]


def test_a_chunk_reads_the_row_groups_of_its_own_rows_only(job, tmp_path):
    """Parquet of 400 rows in groups of 100 behind a URL, where every byte that is read has been asked for."""
    rows = read_jsonl(beep_manifest(tmp_path / "m", 400))
    cells = [{"bytes": open(row.pop("audio_filepath"), "rb").read(), "path": None} for row in rows]
    path = tmp_path / "d" / "m.parquet"
    path.parent.mkdir()
    kept = {"compression": "none", "use_dictionary": False}
    pq.write_table(
        pa.Table.from_pylist([{"audio": cell, **row} for cell, row in zip(cells, rows, strict=True)]),
        path,
        row_group_size=100,
        **kept,
    )
    groups = [pq.read_metadata(path).row_group(number).column(0) for number in range(4)]
    assert {group.path_in_schema for group in groups} == {"audio.bytes"}
    spans = [(group.data_page_offset, group.data_page_offset + group.total_compressed_size) for group in groups]
    with file_server.http(path.parent) as url:
        summary = job(f"{url}/m.parquet", 8, 2)
        asked = (path.parent / "requests.log").read_text().splitlines()
    indexes = sorted(row["index"] for row in read_jsonl(summary.paths.rows))
    assert indexes == list(range(indexes[0], indexes[-1] + 1)) and 100 <= indexes[0] < 140 <= indexes[-1] < 200
    ranges = [tuple(map(int, line.rpartition("=")[2].split("-"))) for line in asked if line.startswith("GET")]
    ranges = [(first, last) for first, last in ranges if first]  # not the head that told the format
    read = [sum(max(0, min(last + 1, end) - max(first, start)) for first, last in ranges) for start, end in spans]
    assert read[0] == read[2] == 0 and 0 < read[1] <= spans[1][1] - spans[1][0]
