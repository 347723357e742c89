"""`merge-shards`: what it joins is the run, and what is not the whole run it names.

The chunks are real runs with the beep engine in the engine's place, and are then damaged in every way a file can be.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beep_run import beep_manifest, start_beeps, text_of
from chunk_damage import DAMAGE, NUM_CHUNKS, change_json, change_lines, chunk, copy, delete, edit, lines_of, tear, vouch
from conftest import REPO, read_jsonl, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_process import in_new_process
from processes import command_line, die_at

from asrbatch.cluster.merge import merge
from asrbatch.cluster.merge_report import KINDS, SHOWN_LINES, MergeReport, ranges
from asrbatch.config import EngineConfig, RunConfig, SourceOptions
from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR,
    EXIT_HELD,
    EXIT_ROWS_FAILED,
    EXIT_USAGE,
    ManifestError,
    OutputError,
    UsageError,
)
from asrbatch.manifest.manifest import open_manifest
from asrbatch.runs.fingerprint import digest
from asrbatch.runs.runner import run
from asrbatch.storage.lease import Lease
from asrbatch.storage.metrics import metrics_of_chunks
from asrbatch.storage.paths import RunPaths, chunk_path
from asrbatch.storage.record import read_completion_mark, read_record

pytest_plugins = "command_line"

NUM_ROWS = 14


def transcribe(model: str, manifest: Path, output: Path, num_chunks=None, chunk_id=None, **options):
    """One chunk, or all rows in one piece."""
    config = RunConfig(
        manifest=str(manifest),
        engine=EngineConfig(model=model),
        output=str(output),
        num_chunks=num_chunks,
        chunk_id=chunk_id,
        workers=1,
        **options,
    )
    return run(config, start=start_beeps)


def transcribe_all(model: str, manifest: Path, output: Path, num_chunks: int, **options) -> None:
    for chunk_id in range(num_chunks):
        transcribe(model, manifest, output, num_chunks, chunk_id, **options)


@pytest.fixture(scope="module")
def made(tiny_en, tmp_path_factory) -> Path:
    """A folder with a run of three chunks, all complete."""
    folder = tmp_path_factory.mktemp("merge")
    transcribe_all(tiny_en, beep_manifest(folder / "in", NUM_ROWS), folder / "run" / "out.jsonl", NUM_CHUNKS)
    return folder


@pytest.fixture(scope="module")
def expected(made) -> list[dict]:
    """The rows of that run as they should come out."""
    rows = [row for path in (made / "run").glob("*.chunk-*.jsonl") for row in without_clocks(path)]
    assert [row["pred_text"] for row in sorted(rows, key=by_index)] == [text_of(index) for index in range(NUM_ROWS)]
    return sorted(rows, key=by_index)


@pytest.fixture
def output(made, tmp_path) -> Path:
    """The output path of a copy of that run."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run" / "out.jsonl"


@pytest.fixture(scope="module")
def bench():
    """scripts/bench_merge.py, which makes large runs."""
    spec = importlib.util.spec_from_file_location("bench_merge", REPO / "scripts" / "bench_merge.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def manifest(made) -> Path:
    return made / "in" / "manifest.jsonl"


def snapshot(folder: Path) -> dict[str, tuple]:
    """Bytes and times of every file of a chunk."""
    files = sorted(folder.glob("*.chunk-*"))
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def without_clocks(path: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "timing"} for row in read_jsonl(path)]


def by_index(row: dict) -> int:
    return row["index"]


def check_merged(output: Path, expected: list[dict]) -> None:
    """The merged files hold exactly these rows, in this order, and vouch for each other."""
    assert without_clocks(output) == expected
    record, mark = read_record(RunPaths(output)), read_completion_mark(RunPaths(output))
    assert record["merged"] is True and record["complete"] is True
    assert (record["missing"], record["chunks_to_run_again"], record["total_rows"]) == (0, [], len(expected))
    assert mark["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert mark["fingerprint"] == digest(record["fingerprint"])
    assert mark["rows"] == record["tally"]["rows"] == len(expected)
    assert not [path.name for path in output.parent.iterdir() if ".tmp-" in path.name or path.name.endswith(".lease")]


# What is whole


@pytest.mark.parametrize(
    ("num_chunks", "strategy", "durations"),
    [
        (1, "balanced", "all"),
        (3, "balanced", "all"),
        (3, "balanced", "some"),
        (3, "balanced", "none"),
        (4, "contiguous", "all"),
        (4, "strided", "all"),
        (9, "balanced", "all"),  # more chunks than rows
    ],
)
def test_merged_rows_are_those_of_a_run_in_one_piece(tiny_en, tmp_path, num_chunks, strategy, durations):
    manifest = beep_manifest(tmp_path / "in", 7, durations=durations)
    whole = transcribe(tiny_en, manifest, tmp_path / "whole.jsonl")
    output = tmp_path / "out.jsonl"
    transcribe_all(tiny_en, manifest, output, num_chunks, strategy=strategy)
    before = snapshot(tmp_path)
    merged = merge(output, str(manifest))
    assert merged.exit_code == EXIT_COMPLETE and merged.report.complete and merged.paths == RunPaths(output)
    check_merged(output, sorted(without_clocks(whole.paths.rows), key=by_index))
    assert [row["pred_text"] for row in read_jsonl(output)] == [text_of(index) for index in range(7)]
    assert snapshot(tmp_path) == before, "the chunks stay as they are"


def test_the_record_of_a_merged_run(output, manifest):
    merge(output, str(manifest))
    record, mark = read_record(RunPaths(output)), read_completion_mark(RunPaths(output))
    marks = [read_completion_mark(chunk(output, chunk_id)) for chunk_id in range(NUM_CHUNKS)]
    records = [read_record(chunk(output, chunk_id)) for chunk_id in range(NUM_CHUNKS)]
    assert record["fingerprint"] == records[0]["fingerprint"]
    assert (record["num_chunks"], record["chunk_id"]) == (NUM_CHUNKS, None)
    folder = str(manifest.parent)
    expected = {"source": str(manifest), "rows": NUM_ROWS, "audio_folder": folder, "holds_audio": False}
    assert record["manifest"] == expected
    assert record["tally"] == {name: mark[name] for name in ("rows", "audio_s", "statuses", "flags", "errors")}
    assert mark["audio_s"] == pytest.approx(sum(each["audio_s"] for each in marks))
    assert mark["statuses"] == {"ok": NUM_ROWS}
    assert mark.keys() >= marks[0].keys(), "what a chunk's mark says, a merged run's says too"
    assert mark["sessions"] == NUM_CHUNKS
    assert mark["wall_s"] == pytest.approx(sum(each["wall_s"] for each in marks))
    assert mark["stages_s"]["engine"] == pytest.approx(sum(each["stages_s"]["engine"] for each in marks))
    assert mark["rtfx_end_to_end"] == pytest.approx(mark["audio_s"] / mark["wall_s"], rel=0.01)
    assert mark["device_hours"] == pytest.approx(mark["wall_s"] / 3600, abs=1e-6)
    slowest = max(range(NUM_CHUNKS), key=lambda chunk_id: marks[chunk_id]["wall_s"])
    assert mark["slowest_chunk"] == {"chunk_id": slowest, "wall_s": marks[slowest]["wall_s"]}
    assert record["slowest_chunk"] == mark["slowest_chunk"] and record["rtfx_engine"] == mark["rtfx_engine"]
    assert record["model"] == records[0]["model"]
    assert record["started"] == min(each["sessions"][0]["started"] for each in records) <= record["ended"]
    assert record["versions"] == {"asrbatch": {"0.1.0": 3}, "vllm": {"-": 3}, "torch": {"-": 3}, "device": {"-": 3}}
    assert [each["chunk_id"] for each in record["chunks"]] == list(range(NUM_CHUNKS))
    for summary, each, its_record in zip(record["chunks"], marks, records, strict=True):
        assert (summary["rows"], summary["failed"], summary["sha256"]) == (each["rows"], 0, each["sha256"])
        assert summary["hosts"] == [its_record["sessions"][0]["host"]] and summary["sessions"] == 1


def test_merging_again_changes_nothing(output, manifest):
    merge(output, str(manifest))
    rows, mark = output.read_bytes(), read_completion_mark(RunPaths(output))
    before = snapshot(output.parent)
    merged = merge(output, str(manifest))
    assert merged.exit_code == EXIT_COMPLETE and output.read_bytes() == rows and snapshot(output.parent) == before
    assert read_completion_mark(RunPaths(output)) | {"completed": 0} == mark | {"completed": 0}


def test_failed_rows_are_rows(tiny_en, tmp_path):
    source = beep_manifest(tmp_path / "in", 6)
    rows = read_jsonl(source)
    rows[4]["audio_filepath"] = "nowhere.wav"
    manifest = write_jsonl(source, rows)
    transcribe_all(tiny_en, manifest, tmp_path / "out.jsonl", 2)
    merged = merge(tmp_path / "out.jsonl", str(manifest))
    assert merged.exit_code == EXIT_ROWS_FAILED and merged.report.complete
    assert [row["status"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["ok"] * 4 + ["failed", "ok"]
    mark = read_completion_mark(merged.paths)
    assert (mark["statuses"], mark["errors"]) == ({"ok": 5, "failed": 1}, {"missing": 1})
    assert sum(each["failed"] for each in merged.record["chunks"]) == 1


def test_a_chunk_of_several_sessions(tiny_en, output, manifest):
    """One that was killed in the middle and has gone on: its time counts, its rows are there once."""
    change_lines(chunk(output, 1), lambda lines: lines.pop())
    chunk(output, 1).done.unlink()
    transcribe(tiny_en, manifest, output, NUM_CHUNKS, 1)
    merged = merge(output, str(manifest))
    assert merged.exit_code == EXIT_COMPLETE
    assert [each["sessions"] for each in merged.record["chunks"]] == [1, 2, 1]
    assert read_completion_mark(merged.paths)["sessions"] == 4


# What is not


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_not_the_whole_run_is_named_and_mended_as_advised(tiny_en, output, manifest, expected, what):
    damage, kinds, said, again, overwrite = DAMAGE[what]
    damage([chunk(output, chunk_id) for chunk_id in range(NUM_CHUNKS)])
    before = snapshot(output.parent)
    merged = merge(output, str(manifest))
    lines = merged.report.lines()
    assert merged.exit_code == EXIT_ERROR and merged.record is None
    titles = {line.split(":")[0] for line in lines} & set(KINDS.values())
    assert titles == {KINDS[kind] for kind in kinds}, lines
    assert any(re.search(said, line) for line in lines), lines
    assert (merged.report.run_again, sorted(merged.report.overwrite)) == (again, overwrite)
    if again:
        assert lines[-1] == f"chunks to run again: {ranges(again)}"
    assert snapshot(output.parent) == before
    assert not list(output.parent.glob("out.jsonl")) and not list(output.parent.glob("out.run.json"))

    if kinds != {"missing"} or overwrite:  # nor is it written when incomplete will do
        assert merge(output, str(manifest), allow_incomplete=True).record is None
        assert not output.exists()

    for path in output.parent.glob("out.chunk-00007-of-00003.*"):
        path.unlink()
    for chunk_id in again:
        transcribe(tiny_en, manifest, output, NUM_CHUNKS, chunk_id, overwrite=chunk_id in overwrite)
    assert merge(output, str(manifest)).exit_code == EXIT_COMPLETE
    check_merged(output, expected)


def test_a_chunk_made_with_other_options(tiny_en, output, manifest):
    for chunk_id in (0, 2):
        transcribe(tiny_en, manifest, output, NUM_CHUNKS, chunk_id, overwrite=True, prompt="Names: Ann")
    merged = merge(output, str(manifest))
    (line,) = [line for line in merged.report.lines() if "has other options" in line]
    assert line == '  chunk 1 has other options than the other chunks: prompt: was "Names: Ann", now null', (
        "most chunks decide"
    )
    assert merged.report.run_again == [1] and merged.report.overwrite == {1}
    assert merge(output, str(manifest), allow_incomplete=True).exit_code == EXIT_ERROR and not output.exists()


def test_a_chunk_of_another_manifest(tiny_en, output, manifest, tmp_path):
    rows = read_jsonl(manifest)
    rows[3]["prompt"] = "changed since"
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    transcribe(tiny_en, other, output, NUM_CHUNKS, 1, overwrite=True)
    transcribe(tiny_en, other, output, NUM_CHUNKS, 2, overwrite=True)
    merged = merge(output, str(manifest))  # two of three, but the manifest that was given decides
    assert merged.report.counts == {"other_run": 2} and merged.report.run_again == [1, 2]
    assert any("manifest: was" in line for line in merged.report.lines())
    assert merge(output, str(other)).report.run_again == [0]


def test_an_option_that_was_mistyped_first_binds_no_chunk(output, manifest):
    """A record without rows may say anything: the same command again goes on, as `transcribe` does."""
    paths = chunk(output, 1)
    paths.rows.write_bytes(b"")
    paths.done.unlink()
    change_json(paths.record, lambda record: record["fingerprint"].update(language="xx"))
    findings = merge(output, str(manifest)).report
    assert findings.run_again == [1] and not findings.overwrite and findings.only_missing


def test_everything_wrong_is_said_at_once(output, manifest):
    delete(chunk(output, 0))
    edit(chunk(output, 1), b"beep", b"boop")
    tear(chunk(output, 2))
    findings = merge(output, str(manifest)).report
    assert findings.run_again == [0, 1, 2] and findings.overwrite == {1}
    assert [line for line in findings.lines() if not line.startswith("  ")] == [
        "edited or damaged chunks: 1",
        f"missing rows: {findings.counts['missing']}",
        "run the same command again for: 0,2",
        "run again with --overwrite: 1",
        "chunks to run again: 0-2",
    ]


def test_a_changed_manifest_is_refused(output, manifest, tmp_path):
    rows = read_jsonl(manifest)
    rows[2]["offset"] = 0.5
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    with pytest.raises(
        OutputError, match=rf"other\.jsonl: is not the manifest of this run.*made from {manifest}, 14 rows"
    ):
        merge(output, str(other))
    with pytest.raises(OutputError, match="its 13 rows have digest"):
        merge(output, str(write_jsonl(tmp_path / "shorter.jsonl", rows[:-1])))
    assert not output.exists()


def test_a_manifest_moved_elsewhere_is_the_same(output, manifest, tmp_path):
    """Paths are compared as written: where the manifest lies, and a field that decides nothing, do not matter."""
    rows = [{**row, "note": 1} for row in read_jsonl(manifest)]
    assert merge(output, str(write_jsonl(tmp_path / "elsewhere.jsonl", rows))).exit_code == EXIT_COMPLETE


def test_chunks_that_an_unknown_version_dealt_out(output, manifest):
    for chunk_id in range(NUM_CHUNKS):
        paths = chunk(output, chunk_id)
        change_json(paths.record, lambda record: record["fingerprint"].update(strategy="shuffled"))
        change_json(paths.done, lambda mark, p=paths: mark.update(fingerprint=digest(read_record(p)["fingerprint"])))
    with pytest.raises(OutputError, match=r"does not know how its rows were split into chunks \(--strategy shuffled\)"):
        merge(output, str(manifest))


def test_rows_without_any_run_record(output, manifest):
    for chunk_id in range(NUM_CHUNKS):
        chunk(output, chunk_id).record.unlink()
    with pytest.raises(
        OutputError, match=r"no chunk has a run record that can be used: out\.chunk-00000.* put the records beside"
    ):
        merge(output, str(manifest))


def test_a_report_stays_short_however_much_is_wrong(output, manifest, tiny_en, tmp_path):
    manifest = beep_manifest(tmp_path / "in", 100)
    output = tmp_path / "out.jsonl"
    transcribe_all(tiny_en, manifest, output, 2)
    copy(chunk(output, 1, 2), chunk(output, 0, 2), "rows")
    findings = merge(output, str(manifest)).report
    assert findings.counts == {"damaged": 1, "doubled": 50, "foreign": 50, "missing": 50}
    lines = findings.lines()
    assert lines.count(f"  … and {50 - SHOWN_LINES} more") == 2
    assert len(lines) < 2 * SHOWN_LINES + 15
    assert any(re.search(r"50 of its 50 rows missing: index .*, … and 45 more$", line) for line in lines)


def test_many_chunks_missing_stay_short(output, manifest):
    findings = MergeReport()
    for chunk_id in range(1000):
        findings.add("missing", f"chunk {chunk_id}: not there", 10)
        findings.again.add(chunk_id)
    lines = findings.lines()
    assert lines[0] == "missing rows: 10000" and lines[SHOWN_LINES + 1] == "  … and 980 more"
    assert lines[-1] == "chunks to run again: 0-999" and len(lines) == SHOWN_LINES + 4


def test_an_id_may_hold_anything(tiny_en, tmp_path):
    rows = read_jsonl(beep_manifest(tmp_path / "in", 4))
    for row, row_id in zip(rows, ["two\nlines", "half \ud83d pair", "x" * 500, "\u2028"], strict=True):
        row["id"] = row_id
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    transcribe_all(tiny_en, tmp_path / "m.jsonl", output, 2)
    assert merge(output, str(tmp_path / "m.jsonl")).exit_code == EXIT_COMPLETE
    assert [json.loads(line)["id"] for line in output.read_bytes().splitlines()] == [row["id"] for row in rows]
    for chunk_id in range(2):
        change_lines(chunk(output, chunk_id, 2), list.clear)
    lines = merge(output, str(tmp_path / "m.jsonl")).report.lines()
    assert "(id two\\nlines)" in "".join(lines) and "(id half \\ud83d pair)" in "".join(lines)
    assert all(line.isprintable() and len(line) < 300 for line in lines)


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_what_sbatch_takes(numbers):
    text = ranges(numbers)
    found = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    assert found == sorted(numbers)
    assert len(text.split(",")) == max(1, sum(number - 1 not in numbers for number in numbers))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_anywhere_but_once_in_their_chunk_are_refused(made, data):
    """Lines moved, doubled and dropped at will, the marks mended: merged only if every chunk holds
    just its own rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(made / "run", folder, dirs_exist_ok=True)
        output = Path(folder) / "out.jsonl"
        output.unlink(missing_ok=True)
        own = [lines_of(chunk(output, chunk_id)) for chunk_id in range(NUM_CHUNKS)]
        held = [list(data.draw(st.permutations(lines))) for lines in own]
        for _ in range(data.draw(st.integers(0, 3))):
            source, target = (held[data.draw(st.integers(0, NUM_CHUNKS - 1))] for _ in range(2))
            action = data.draw(st.sampled_from(["move", "copy", "drop"]))
            if source:
                place = data.draw(st.integers(0, len(source) - 1))
                line = source[place] if action == "copy" else source.pop(place)
                if action != "drop":
                    target.insert(data.draw(st.integers(0, len(target))), line)
        for chunk_id, lines in enumerate(held):
            paths = chunk(output, chunk_id)
            paths.rows.write_bytes(b"".join(lines))
            vouch(paths)
        merged = merge(output, str(made / "in" / "manifest.jsonl"))
        whole = [sorted(lines) for lines in held] == [sorted(lines) for lines in own]
        assert merged.exit_code == (EXIT_COMPLETE if whole else EXIT_ERROR)
        assert output.exists() == whole
        if whole:
            assert [row["index"] for row in read_jsonl(output)] == list(range(NUM_ROWS))
        counts, occurs = merged.report.counts, {}
        for lines in held:
            for line in lines:
                occurs[line] = occurs.get(line, 0) + 1
        absent = sum(line not in held[chunk_id] for chunk_id, lines in enumerate(own) for line in lines)
        assert counts["missing"] == absent
        assert counts["foreign"] == sum(
            line not in own[chunk_id] for chunk_id, lines in enumerate(held) for line in lines
        )
        assert bool(counts["doubled"]) == any(times > 1 for times in occurs.values())


# Chunks that are being written


def test_a_chunk_that_still_runs_is_waited_for(output, manifest):
    tear(chunk(output, 1))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    change_json(
        chunk(output, 1).record, lambda record: record["sessions"][-1].update(outcome=None, ended=None, heartbeat=now)
    )
    delete(chunk(output, 2))
    findings = merge(output, str(manifest)).report
    assert (findings.running, findings.run_again) == ({1}, [2])
    assert "running, or killed just now: merge again when they have ended: 1" in findings.lines()
    assert any(
        re.search(r"chunk 1: still running on \S+, or killed less than 120 s ago; 1 of its \d rows missing", line)
        for line in findings.lines()
    )


def test_a_chunk_that_is_run_again_meanwhile_is_not_called_damaged(output, manifest):
    """`--retry-failed` takes the mark away and rows out of the file; advising --overwrite would throw rows away."""
    paths = chunk(output, 1)

    def meanwhile(line: str) -> None:
        if line.startswith("reading"):
            paths.done.unlink()
            change_lines(paths, lambda lines: lines.pop())

    findings = merge(output, str(manifest), log=meanwhile).report
    assert findings.running == {1} and not findings.overwrite and not findings.run_again
    assert any("chunk 1: was run again while it was being read" in line for line in findings.lines())


def test_a_chunk_that_changes_between_reading_and_writing_stops_the_merge(output, manifest):
    merge(output, str(manifest))
    before = output.read_bytes()

    def meanwhile(line: str) -> None:
        if line.startswith("writing"):
            edit(chunk(output, 1), b"beep", b"boop")

    with pytest.raises(OutputError, match=r"chunk-00001-of-00003\.jsonl: was changed while it was being merged"):
        merge(output, str(manifest), log=meanwhile)
    assert output.read_bytes() == before and not RunPaths(output).done.exists()
    assert not RunPaths(output).lease.exists()


# Incomplete on purpose


def test_what_there_is_may_be_written_marked_incomplete(tiny_en, output, manifest):
    delete(chunk(output, 0))
    tear(chunk(output, 2))
    there = [
        row["index"]
        for chunk_id in (1, 2)
        for row in map(json.loads, lines_of(chunk(output, chunk_id))[: None if chunk_id == 1 else -1])
    ]
    merged = merge(output, str(manifest), allow_incomplete=True)
    assert merged.exit_code == EXIT_ERROR and merged.report.run_again == [0, 2]
    assert [row["index"] for row in read_jsonl(output)] == sorted(there), "in manifest order; the torn row is left out"
    record = read_record(merged.paths)
    assert (record["merged"], record["complete"], record["missing"]) == (True, False, NUM_ROWS - len(there))
    assert record["chunks_to_run_again"] == [0, 2] and record["tally"]["rows"] == len(there)
    assert not merged.paths.done.exists()
    with pytest.raises(OutputError, match="holds rows of another run.*num_chunks: was 3, now 1"):
        transcribe(tiny_en, manifest, output)

    for chunk_id in (0, 2):
        transcribe(tiny_en, manifest, output, NUM_CHUNKS, chunk_id)
    assert merge(output, str(manifest), allow_incomplete=True).exit_code == EXIT_COMPLETE
    assert read_record(merged.paths)["complete"] is True and merged.paths.done.exists()
    assert len(read_jsonl(output)) == NUM_ROWS


def test_a_complete_result_that_became_incomplete_loses_its_mark(output, manifest):
    merge(output, str(manifest))
    delete(chunk(output, 0))
    assert merge(output, str(manifest)).exit_code == EXIT_ERROR
    assert RunPaths(output).done.exists() and len(read_jsonl(output)) == NUM_ROWS, "what was merged before stands"
    merge(output, str(manifest), allow_incomplete=True)
    assert not RunPaths(output).done.exists() and len(read_jsonl(output)) < NUM_ROWS


# Which chunks


def test_left_over_chunks_of_another_number(output, manifest):
    shutil.copy(chunk(output, 0).rows, chunk_path(output, 3, 16))
    shutil.copy(chunk(output, 0).record, chunk(output, 5, 16).record)
    with pytest.raises(OutputError) as refused:
        merge(output, str(manifest))
    first, of_3, of_16 = str(refused.value).splitlines()
    assert "chunks of several runs are there; give --num-chunks" in first
    assert of_3.startswith("chunks of 3: out.chunk-00000-of-00003.jsonl, ")
    assert of_16 == "chunks of 16: out.chunk-00003-of-00016.jsonl, out.chunk-00005-of-00016.jsonl"
    with pytest.raises(OutputError, match="none of 4, which --num-chunks asks for; chunks of several runs"):
        merge(output, str(manifest), num_chunks=4)
    said = []
    assert merge(output, str(manifest), num_chunks=3, log=said.append).exit_code == EXIT_COMPLETE
    assert said[0] == f"warning: files of another run were left as they are: {of_16}"


def test_no_chunks(tiny_en, output, manifest, tmp_path):
    with pytest.raises(
        OutputError, match=r"nothing\.jsonl: no chunks of it \(nothing\.chunk-\*-of-\*\.jsonl\) are there"
    ):
        merge(output.with_name("nothing.jsonl"), str(manifest))
    with pytest.raises(OutputError, match="the folder does not exist"):
        merge(tmp_path / "no" / "out.jsonl", str(manifest))
    with pytest.raises(OutputError, match="none of 4, which --num-chunks asks for; chunks of another run are there"):
        merge(output, str(manifest), num_chunks=4)
    whole = transcribe(tiny_en, manifest, tmp_path / "whole.jsonl").paths
    with pytest.raises(OutputError, match=r"whole\.jsonl: is a run in one piece, without chunks"):
        merge(whole.rows, str(manifest))
    merge(output, str(manifest))
    for chunk_id in range(NUM_CHUNKS):
        delete(chunk(output, chunk_id))
    with pytest.raises(OutputError, match="is merged already, and its chunks .* are not there any more"):
        merge(output, str(manifest))


def test_usage(output, manifest, tmp_path):
    with pytest.raises(UsageError, match="is the name of one chunk's file; give the run's own, out.jsonl"):
        merge(chunk(output, 0).rows, str(manifest))
    with pytest.raises(UsageError, match="must end in .jsonl"):
        merge(output.with_suffix(".json"), str(manifest))
    with pytest.raises(ManifestError, match="does not exist"):
        merge(output, str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UsageError, match="--split: means nothing for .*, which is read as --format jsonl"):
        merge(output, str(manifest), reading=SourceOptions(split="train"))
    merge(output, str(manifest))
    with pytest.raises(UsageError, match="is the input; give another name"):
        merge(output, str(output))


# What stands at the output


def test_a_run_in_one_piece_is_never_replaced(tiny_en, output, manifest):
    whole = transcribe(tiny_en, manifest, output)
    before = output.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(
            OutputError, match=r"out\.run\.json does not say that merge-shards wrote it; move it and the files"
        ):
            merge(output, str(manifest), overwrite=overwrite)
    whole.paths.record.unlink()
    with pytest.raises(OutputError, match="does not say that merge-shards wrote it"):
        merge(output, str(manifest), overwrite=True)
    assert output.read_bytes() == before and whole.paths.done.exists()


def test_another_run_that_was_merged_is_replaced_when_asked(tiny_en, output, manifest):
    merge(output, str(manifest))
    before = output.read_bytes()
    for chunk_id in range(NUM_CHUNKS):
        transcribe(tiny_en, manifest, output, NUM_CHUNKS, chunk_id, overwrite=True, prompt="Names: Ann")
    with pytest.raises(
        OutputError, match='holds the merged rows of another run. What differs: prompt: was null, now "Names: Ann"'
    ):
        merge(output, str(manifest))
    assert output.read_bytes() == before
    assert merge(output, str(manifest), overwrite=True).exit_code == EXIT_COMPLETE
    assert read_record(RunPaths(output))["fingerprint"]["prompt"] == "Names: Ann"


def test_two_merges_at_once(output, manifest, cli_here):
    lease = Lease(RunPaths(output).lease)
    done = cli_here("merge-shards", output, "--manifest", manifest)
    lease.release()
    assert done.returncode == EXIT_HELD and done.stdout == "" and not output.exists()
    assert re.search(rf"process {os.getpid()} on .* is writing this output", done.stderr)


def test_killed_at_every_step(output, manifest):
    """The old rows or the new ones are there, whole; a completion mark is true; merging again completes."""
    in_new_process(kill_at_every_step, output, manifest)


def kill_at_every_step(output: Path, manifest: Path) -> None:
    paths, seen = RunPaths(output), set()
    merge(output, str(manifest))
    new = output.read_bytes()
    old = b"".join(new.splitlines(keepends=True)[:5])  # as --allow-incomplete wrote them
    for step in range(1000):
        for path in (paths.done, paths.lease):
            path.unlink(missing_ok=True)
        output.write_bytes(old)
        change_json(paths.record, lambda record: record.update(complete=False))
        if not die_at(step, lambda: merge(output, str(manifest))):
            break
        found, complete = output.read_bytes(), read_record(paths)["complete"]
        assert found in (old, new)
        if paths.done.exists():
            assert (
                found == new and complete and read_completion_mark(paths)["sha256"] == hashlib.sha256(new).hexdigest()
            )
        seen.add((found == new, complete, paths.done.exists()))
    assert seen == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}, step
    assert output.read_bytes() == new and paths.done.exists()
    assert not [path.name for path in output.parent.iterdir() if ".tmp-" in path.name]


# Several processes, many files, much memory


def merge_apart(output: Path, manifest: Path, before: str = "", processes: int = 2) -> subprocess.CompletedProcess:
    """In a process of its own, with several that read chunks."""
    code = (
        "import sys; from pathlib import Path; from asrbatch.cluster.merge import merge\n"
        f"{before}\n"
        f"merged = merge(Path(sys.argv[1]), sys.argv[2], num_processes={processes})\n"
        "print(*merged.report.lines(), sep='\\n'); sys.exit(merged.exit_code)"
    )
    return subprocess.run([sys.executable, "-c", code, output, manifest], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_several_processes_read_the_same(output, manifest, processes):
    merge(output, str(manifest))
    new = output.read_bytes()
    output.unlink()
    done = merge_apart(output, manifest, processes=processes)
    assert done.returncode == EXIT_COMPLETE, done.stderr
    assert output.read_bytes() == new
    edit(chunk(output, 2), b"beep", b"boop")
    copy(chunk(output, 2), chunk(output, 0), "rows")
    done = merge_apart(output, manifest, processes=processes)
    assert done.returncode == EXIT_ERROR and "chunks to run again: 0,2" in done.stdout
    assert re.search(r"doubled rows: \d", done.stdout) and "in the files of chunks 0, 2" in done.stdout


READ_APART = """
import sys
from pathlib import Path
from asrbatch.cluster.shard_rows import read_chunks
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.sharding import Sharding
manifest = open_manifest(sys.argv[2])
chunks = {chunk_id: Path(f"{sys.argv[1]}-{chunk_id}") for chunk_id in range(3)}
list(read_chunks(chunks, manifest, Sharding(manifest.scan.durations_s, 3), 3))
"""


def read_apart(places: Path, manifest: Path, before: str = "") -> subprocess.CompletedProcess:
    """Three chunks by three processes: `places` with `-0`, `-1`, `-2` behind it."""
    command = [sys.executable, "-c", f"{before}\n{READ_APART}", places, manifest]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_a_reading_process_cannot_read_is_an_error(manifest, tmp_path):
    for chunk_id in range(NUM_CHUNKS):
        (tmp_path / f"rows-{chunk_id}").mkdir()
    done = read_apart(tmp_path / "rows", manifest)
    assert done.returncode == 1 and "OutputError" in done.stderr and "Is a directory" in done.stderr


KILL_A_READER = """
import multiprocessing, threading, time
def kill():
    while not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(0.3)
    multiprocessing.active_children()[0].kill()
threading.Thread(target=kill, daemon=True).start()
"""


def test_a_reading_process_that_is_killed_is_an_error(manifest, tmp_path):
    """As the kernel does when memory runs out."""
    for chunk_id in range(NUM_CHUNKS):
        os.mkfifo(tmp_path / f"rows-{chunk_id}")  # reading it never ends
    done = read_apart(tmp_path / "rows", manifest, KILL_A_READER)
    assert done.returncode == 1 and "a process that was reading chunks died" in done.stderr


DIE_WHILE_READING = """
import multiprocessing, os, signal, sys
from pathlib import Path
from asrbatch.cluster.shard_rows import read_chunks
from asrbatch.manifest.manifest import open_manifest
from asrbatch.storage.paths import chunk_path
from asrbatch.manifest.sharding import Sharding
manifest = open_manifest(sys.argv[2])
chunks = {chunk_id: chunk_path(Path(sys.argv[1]), chunk_id, 4) for chunk_id in range(4)}
reading = read_chunks(chunks, manifest, Sharding(manifest.scan.durations_s, 4), 2)
next(reading)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_reading_processes_end_with_the_one_that_waits_for_them(bench, tmp_path):
    """What they have to say is more than a pipe holds: they must notice that nobody reads it any more."""
    bench.make_manifest(tmp_path / "manifest.jsonl", 12000)
    bench.make_run(tmp_path / "out.jsonl", open_manifest(tmp_path / "manifest.jsonl"), 4)
    command = [sys.executable, "-c", DIE_WHILE_READING, tmp_path / "out.jsonl", tmp_path / "manifest.jsonl"]
    pids = [int(pid) for pid in subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(lives(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(lives(pid) for pid in pids)


def lives(pid: int) -> bool:
    return b"asrbatch.cluster.shard_rows" in command_line(pid)


def limited(limit: str, *arguments) -> subprocess.CompletedProcess:
    command = [
        "bash",
        "-c",
        f'ulimit {limit} && exec "$@"',
        "-",
        sys.executable,
        "-m",
        "asrbatch",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_more_chunks_than_files_may_be_open(output, manifest):
    done = limited("-n 30", "merge-shards", output, "--manifest", manifest)
    assert done.returncode == EXIT_ERROR and "Traceback" not in done.stderr
    assert re.search(
        r"3 chunks are 3 open files, and no more than 30 files may be open here; raise that with `ulimit", done.stderr
    )
    done = limited("-Sn 30", "merge-shards", output, "--manifest", manifest)  # a soft limit is ours to raise
    assert done.returncode == EXIT_COMPLETE, done.stderr


def test_a_full_disk_leaves_what_was_there(output, manifest):
    merge(output, str(manifest))
    before = output.read_bytes()
    largest = max(path.stat().st_size for path in output.parent.iterdir() if path.name != "out.jsonl")
    assert len(before) > largest // 1024 * 1024 + 1024
    done = limited(f"-f {largest // 1024 + 1}", "merge-shards", output, "--manifest", manifest)
    assert (
        done.returncode == EXIT_ERROR
        and "files may not grow larger here" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert output.read_bytes() == before and not RunPaths(output).done.exists() and not RunPaths(output).lease.exists()
    assert not [path.name for path in output.parent.iterdir() if ".tmp-" in path.name]


def test_memory_is_a_few_bytes_a_row(bench, tmp_path):
    """Rows are a kilobyte each. Beside a constant, what is kept of one must be some 100 bytes, the manifest's part
    included.
    """
    peaks = {}
    for num_rows in (3000, 9000):
        folder = tmp_path / str(num_rows)
        folder.mkdir()
        bench.make_manifest(folder / "manifest.jsonl", num_rows)
        bench.make_run(folder / "out.jsonl", open_manifest(folder / "manifest.jsonl"), 4)
        tracemalloc.start()
        assert merge(folder / "out.jsonl", str(folder / "manifest.jsonl")).exit_code == EXIT_COMPLETE
        peaks[num_rows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [row["index"] for row in read_jsonl(folder / "out.jsonl")] == list(range(num_rows))
    per_row = (peaks[9000] - peaks[3000]) / 6000
    print(f"{per_row:.0f} bytes a row")
    assert per_row < 150


# Figures


def test_figures_of_sessions_that_ended_in_every_way():
    def session(started, wall_s, *, ended=None, outcome="complete", **more):
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=started)
        beat = start + timedelta(seconds=wall_s)
        times = {
            "started": start.isoformat(),
            "heartbeat": beat.isoformat(),
            "ended": beat.isoformat() if ended else None,
        }
        return {**times, "outcome": outcome, "wall_s": wall_s, **more}

    records = {
        0: {
            "sessions": [
                session(0, 100, outcome=None, audio_s=1000, engine_s=50),
                session(500, 50, ended=True, audio_s=500, engine_s=50),
            ]
        },
        3: {"sessions": [session(10, 200, ended=True, audio_s=8000, engine_s=150, num_devices=4)]},
        4: {"sessions": [{**session(20, 0), "wall_s": None}]},  # killed before its first refresh
    }
    figures = metrics_of_chunks(records, 9500)
    assert figures["sessions"] == 4
    assert figures["wall_s"] == 350 and figures["device_hours"] == round((100 + 50 + 4 * 200) / 3600, 6)
    assert figures["rtfx_engine"] == round(9500 / (50 + 50 + 4 * 150), 2)
    assert figures["rtfx_end_to_end"] == round(9500 / (100 + 50 + 4 * 200), 2)
    assert figures["span_s"] == 550
    assert figures["slowest_chunk"] == {"chunk_id": 3, "wall_s": 200}
    assert metrics_of_chunks({}, 0) == {}


def test_other_versions_are_warned_of(output, manifest):
    change_json(chunk(output, 1).record, lambda record: record["sessions"][0]["engine"].update(vllm="0.28.0"))
    said = []
    assert merge(output, str(manifest), log=said.append).exit_code == EXIT_COMPLETE
    assert (
        "warning: rows of this run were made with different versions: vllm - (2 sessions), 0.28.0 (1 sessions)" in said
    )


# The command


def test_the_command_says_which_chunks_to_run_again_and_where_the_rows_are(cli, cli_here, output, manifest):
    done = cli("merge-shards", output, "--manifest", manifest)
    assert (done.returncode, done.stdout) == (EXIT_COMPLETE, f"{output}\n")
    assert "merged: 14 of 14 rows (0 failed), 0.004 h of audio, from 3 of 3 chunks" in done.stderr
    assert re.search(
        r"RTFx of one device: [\d.]+ while its engine worked, [\d.]+ end to end, start-up included", done.stderr
    )
    assert re.search(
        r"device-hours: wall time of 3 sessions times their devices; slowest chunk \d with 0:00:0\d;", done.stderr
    )

    delete(chunk(output, 0))
    edit(chunk(output, 2), b"beep", b"boop")
    done = cli_here("merge-shards", output, "--manifest", manifest)
    assert (done.returncode, done.stdout) == (EXIT_ERROR, "0,2\n"), "stdout is what sbatch --array takes"
    assert "chunks to run again: 0,2" in done.stderr
    assert done.stderr.splitlines()[-1] == f"asrbatch: {output}: not merged; the reasons are above"

    copy(chunk(output, 1), chunk(output, 2), "rows", "record", "done")
    done = cli_here("merge-shards", "out.jsonl", "--manifest", manifest, "--num-chunks", 4, cwd=output.parent)
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "") and done.stderr.startswith(
        f"asrbatch: {output}: none of 4"
    )


def test_the_command_writes_an_incomplete_run_and_does_not_call_it_complete(cli_here, output, manifest):
    delete(chunk(output, 1))
    done = cli_here("merge-shards", output, "--manifest", manifest, "--allow-incomplete")
    assert (done.returncode, done.stdout) == (EXIT_ERROR, "1\n")
    assert re.search(r"merged: \d of 14 rows \(0 failed\), .* h of audio, from 2 of 3 chunks", done.stderr)
    assert done.stderr.splitlines()[-1] == f"asrbatch: {output}: incomplete; the reasons are above"
    assert 0 < len(read_jsonl(output)) < NUM_ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.jsonl"], "--manifest is missing; give a file"),
        (["--manifest", "m.jsonl"], "Missing argument"),
        (["out.txt", "--manifest", "m.jsonl"], "must end in .jsonl"),
        (["out.jsonl", "--manifest", "m.jsonl", "--num-chunks", "many"], "--num-chunks"),
    ],
)
def test_usage_errors_exit_2(cli_here, arguments, message):
    done = cli_here("merge-shards", *arguments)
    assert (
        done.returncode == EXIT_USAGE and message in done.stderr and not done.stdout and "Traceback" not in done.stderr
    )


def test_merging_needs_none_of_the_heavy_libraries(output, manifest):
    code = (
        "import sys; from asrbatch.cli.app import main\n"
        f"sys.argv = ['asrbatch', 'merge-shards', {str(output)!r}, '--manifest', {str(manifest)!r}]\n"
        "code = main(); print('loaded', *sorted(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("loaded ")[1].split())
    assert "asrbatch.cluster.merge" in loaded
    assert not loaded & {
        "torch",
        "vllm",
        "transformers",
        "datasets",
        "pyarrow",
        "soundfile",
        "av",
        "asrbatch.runs.runner",
        "asrbatch.engine",
    }
