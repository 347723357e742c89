"""`asrbatch status`: real runs, complete, going, killed, stopped and damaged, told from their files alone."""

import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beep_engine import DiesOn
from beep_run import Settings, beep_manifest, start_beeps
from conftest import REPO, read_jsonl, write_jsonl
from rich.console import Console

from asrbatch.cli.display.plan_status import _status_table, status_parts
from asrbatch.cli.display.tables import show
from asrbatch.cluster import status
from asrbatch.cluster.merge import merge
from asrbatch.cluster.status import Watch, run_status
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EXIT_USAGE,
    EngineDiedError,
    UsageError,
)
from asrbatch.runs.progress import Stop
from asrbatch.runs.runner import run
from asrbatch.storage.files import write_json_atomically
from asrbatch.storage.paths import RunPaths, chunk_path
from asrbatch.storage.record import RECORD_REFRESH_S, read_record
from asrbatch.storage.run_files import read_files_of

pytest_plugins = "command_line"

CHUNK_FIELDS = {
    "chunk_id", "output", "state", "note", "rows", "total_rows", "failed", "audio_s", "total_audio_s", "rtfx_session",
    "rtfx",
    "eta_s", "heartbeat", "silent_s", "host", "slurm_job", "devices", "sessions", "gpu_h",
}  # fmt: skip
TOTAL_FIELDS = {
    "output", "num_chunks", "states", "rows", "total_rows", "failed", "audio_s", "rtfx_running", "rtfx", "eta_s",
    "without_eta",
    "gpu_h", "gpu_h_to_come", "device_hours_of", "killed_sessions", "cost", "merged", "notes", "exit_code",
}  # fmt: skip
LATER = timedelta(seconds=status.SILENT_AFTER_S + 10)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """24 rows of tone bursts."""
    return beep_manifest(tmp_path_factory.mktemp("beeps"), 24)


@pytest.fixture(scope="module")
def four_chunks(manifest, tiny_en, tmp_path_factory) -> Path:
    """The output of a complete run of 4 chunks, one of them with a failed row. Copy it before changing it."""
    rows = read_jsonl(manifest)
    rows[0]["audio_filepath"] = "nowhere.wav"
    broken = write_jsonl(tmp_path_factory.mktemp("four") / "m.jsonl", rows)
    output = broken.with_name("out.jsonl")
    for chunk_id in range(4):
        run(config(broken, tiny_en, output, num_chunks=4, chunk_id=chunk_id), start=start_beeps)
    return output


@pytest.fixture
def copy(four_chunks, tmp_path) -> Path:
    shutil.copytree(four_chunks.parent, tmp_path / "copy")
    return tmp_path / "copy" / four_chunks.name


def config(manifest, model: str, output, **options) -> RunConfig:
    return RunConfig(manifest=str(manifest), engine=EngineConfig(model=model), output=str(output), **options)


def start_run(*arguments, **settings) -> subprocess.Popen:
    """A real process whose engine beeps."""
    command = [sys.executable, str(REPO / "tests/beep_run.py"), *map(str, arguments)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command, env=Settings(**settings).environment(), start_new_session=True, text=True, **output
    )


def wait_for(condition, most_s: float = 60.0):
    deadline = time.monotonic() + most_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def without_bytes(paths: RunPaths) -> None:
    """The mark as an earlier version wrote it."""
    edit(paths.done, lambda mark: mark.pop("bytes"))


def states(figures) -> list[str]:
    return [chunk["state"] for chunk in figures["chunks"]]


def test_a_complete_run_in_chunks(four_chunks):
    figures = run_status(four_chunks)
    assert states(figures).count("complete") == 3 and states(figures).count("complete with failures") == 1
    assert all(set(chunk) == CHUNK_FIELDS for chunk in figures["chunks"]) and set(figures["total"]) == TOTAL_FIELDS
    total = figures["total"]
    assert (total["rows"], total["total_rows"], total["failed"], total["num_chunks"]) == (24, 24, 1, 4)
    rows = [row for i in range(4) for row in read_jsonl(chunk_path(four_chunks, i, 4))]
    assert total["audio_s"] == pytest.approx(sum(row["audio_s"] or 0 for row in rows), abs=0.01)
    assert total["rtfx"] > 0 and (total["rtfx_running"], total["eta_s"], total["without_eta"]) == (None, None, 0)
    assert total["states"] == {"complete": 3, "complete with failures": 1} and total["exit_code"] == EXIT_ROWS_FAILED
    assert [chunk["chunk_id"] for chunk in figures["chunks"]] == [0, 1, 2, 3]
    assert {chunk["silent_s"] for chunk in figures["chunks"]} == {None}
    (note,) = total["notes"]
    assert note.startswith(f"complete, not merged: asrbatch merge-shards {four_chunks} --manifest ")
    assert sum(chunk["total_rows"] for chunk in figures["chunks"]) == 24


def test_a_run_in_one_piece(manifest, tiny_en, tmp_path):
    output = tmp_path / "out.jsonl"
    run(config(manifest, tiny_en, output), start=start_beeps)
    figures = run_status(output)
    assert (states(figures), figures["chunks"][0]["chunk_id"]) == (["complete"], None)
    assert figures["total"]["num_chunks"] is None and figures["total"]["exit_code"] == EXIT_COMPLETE


def test_looking_changes_nothing(four_chunks):
    def everything():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in four_chunks.parent.iterdir()}

    before = everything()
    run_status(four_chunks)
    assert everything() == before


def test_a_run_is_seen_while_it_goes_and_when_it_was_killed(manifest, tiny_en, tmp_path):
    """The engine stops at a gate: the record then counts what was written until there, and the rest has an ETA."""
    output, gate = tmp_path / "out.jsonl", tmp_path / "gate"
    assert_nothing_is_there(output)
    process = start_run(
        "transcribe", manifest, "-m", tiny_en, "-o", output, "--num-chunks", 2, "--chunk-id", 1, "--max-windows", 2,
        gate=str(gate), answers_before_gate=7, answer_s=0.2, record_every_s=0.5, refresh_s=0.3,
    )  # fmt: skip
    try:
        seen = []

        def written():
            if chunk_path(output, 1, 2).exists():
                seen.append(run_status(output))
            return seen and (seen[-1]["chunks"][1]["rows"] or 0) >= 7 and seen[-1]["chunks"][1]["eta_s"]

        wait_for(written)
        before, going = seen[-1], run_status(output)
        chunk, total = going["chunks"][1], going["total"]
        assert states(going) == ["not started", "running"] and "starting" in {
            figures["chunks"][1]["state"] for figures in seen
        }
        assert 7 <= chunk["rows"] < chunk["total_rows"] == 12 and total["total_rows"] == 24
        assert chunk["eta_s"] > 0 and total["eta_s"] == chunk["eta_s"] and total["without_eta"] == 1
        assert chunk["rtfx_session"] == chunk["rtfx"] == total["rtfx_running"] > 0
        assert chunk["silent_s"] < status.SILENT_AFTER_S and chunk["host"] == os.uname().nodename
        assert before["total"]["exit_code"] == EXIT_INTERRUPTED
        later = datetime.now(UTC) + LATER
        assert states(run_status(output, now=later)) == ["not started", "silent"], "by the clock alone"
        assert states(run_status(output, now=later - 2 * LATER)) == ["not started", "running"], (
            "a clock behind: no negative age"
        )
        assert run_status(output, now=later - 2 * LATER)["chunks"][1]["silent_s"] == 0.0
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert states(run_status(output)) == ["not started", "killed"], "this machine's kernel knows at once"
    lease = tmp_path / "out.chunk-00001-of-00002.lease"
    ours = lease.read_text()
    lease.write_text(json.dumps({**json.loads(ours), "host": "another"}))
    killed = run_status(output, now=datetime.now(UTC) + LATER)
    lease.write_text(ours)
    chunk = killed["chunks"][1]
    assert chunk["state"] == "silent" and chunk["eta_s"] is None and chunk["silent_s"] > status.SILENT_AFTER_S
    assert chunk["note"].startswith(f"no sign of life since {chunk['heartbeat']}")
    assert killed["total"]["exit_code"] == EXIT_INTERRUPTED and killed["total"]["rtfx_running"] is None

    gate.touch()
    finished = start_run("transcribe", manifest, "-m", tiny_en, "-o", output, "--num-chunks", 2, "--chunk-id", 1)
    assert finished.wait(60) == EXIT_COMPLETE, finished.communicate()
    resumed = run_status(output)
    assert states(resumed) == ["not started", "complete"] and resumed["chunks"][1]["sessions"] == 2
    assert resumed["total"]["exit_code"] == EXIT_INTERRUPTED


def assert_nothing_is_there(output: Path) -> None:
    with pytest.raises(UsageError, match="no run is there, neither in one piece nor in chunks"):
        run_status(output)


def test_how_a_session_ended(manifest, tiny_en, tmp_path):
    output, of = tmp_path / "out.jsonl", {"num_chunks": 5}
    stop = Stop()
    stop.request()
    run(config(manifest, tiny_en, output, **of, chunk_id=0), start=start_beeps, stop=stop)
    with pytest.raises(EngineDiedError):
        run(config(manifest, tiny_en, output, **of, chunk_id=1), start=DiesOn(int(rows_of(manifest, 5, 1)[0])))
    with pytest.raises(ZeroDivisionError):
        run(config(manifest, tiny_en, output, **of, chunk_id=2), start=lambda *args, **options: 1 / 0)
    figures = run_status(output)
    assert states(figures) == ["interrupted", "engine died", "stopped by an error", "not started", "not started"]
    assert figures["total"]["exit_code"] == EXIT_ERROR, "somebody must look at chunk 2"
    died, stopped = figures["total"]["notes"]
    assert died.endswith("engine died; see out.chunk-00001-of-00005.log and what the command printed")
    assert "out.chunk-00002-of-00005.jsonl: stopped by an error" in stopped
    run(config(manifest, tiny_en, output, **of, chunk_id=2), start=start_beeps)
    figures = run_status(output)
    assert states(figures)[2] == "complete" and figures["chunks"][2]["sessions"] == 2
    assert figures["total"]["exit_code"] == EXIT_INTERRUPTED, "the same commands go on"


def rows_of(manifest: Path, num_chunks: int, chunk_id: int):
    from asrbatch.manifest.manifest import open_manifest
    from asrbatch.manifest.sharding import Sharding

    return Sharding(open_manifest(manifest).scan.durations_s, num_chunks).rows(chunk_id)


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda p: p.record.write_text('{"fingerprint": {"num'), "not valid JSON"),
        (lambda p: p.record.write_text('{"sessions": []}'), "has no fingerprint"),
        (lambda p: p.done.write_text("[]"), "holds no JSON object"),
        (lambda p: edit(p.record, lambda r: r.update(sessions="none")), "not what asrbatch writes"),
        (
            lambda p: edit(p.record, lambda r: r["sessions"][-1].update(heartbeat="yesterday")),
            "not what asrbatch writes",
        ),
        (lambda p: edit(p.record, lambda r: r.update(chunk_id=3)), "is the record of chunk 3 of 4; was it renamed?"),
        (lambda p: edit(p.done, lambda m: m.update(fingerprint="0" * 64)), "done.json: belongs to another run"),
        (lambda p: p.rows.unlink(), "is gone, although out.chunk-00002-of-00004.done.json says that it is complete"),
        (lambda p: p.record.unlink(), "the run record out.chunk-00002-of-00004.run.json is not there"),
        (lambda p: p.rows.write_bytes(p.rows.read_bytes()[:-7]), "bytes instead of"),
        (lambda p: p.rows.write_bytes(p.rows.read_bytes().partition(b"\n")[2]), "bytes instead of"),
        (lambda p: p.rows.write_bytes(p.rows.read_bytes() + b"{"), "bytes instead of"),
        (lambda p: p.rows.write_bytes(b""), "0 bytes instead of"),
        (lambda p: (without_bytes(p), os.truncate(p.rows, 99)), "it ends in a part of a row"),
        (lambda p: (without_bytes(p), p.rows.write_bytes(p.rows.read_bytes().partition(b"\n")[2])), "rows instead of"),
        (lambda p: (without_bytes(p), p.rows.write_bytes(p.rows.read_bytes() * 2)), "rows instead of"),
        (lambda p: (without_bytes(p), p.rows.write_bytes(b"")), "0 rows instead of"),
        (lambda p: (without_bytes(p), p.rows.write_bytes(p.rows.read_bytes() + b"{")), "it ends in a part of a row"),
        (lambda p: (p.rows.unlink(), p.rows.mkdir()), "is a folder, not a rows file"),
    ],
)
def test_a_damaged_chunk_is_named_and_hides_no_other(copy, damage, note):
    damage(RunPaths(chunk_path(copy, 2, 4)))
    figures = run_status(copy)
    assert states(figures)[2] == "damaged" and note in figures["chunks"][2]["note"]
    assert "out.chunk-00002-of-00004" in figures["chunks"][2]["note"]
    assert figures["chunks"][2]["note"] in figures["total"]["notes"]
    assert all(state.startswith("complete") for i, state in enumerate(states(figures)) if i != 2)
    assert figures["total"]["exit_code"] == EXIT_ERROR
    assert all(set(chunk) == CHUNK_FIELDS for chunk in figures["chunks"])


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda rows: None, "has all its rows, and no completion mark"),
        (
            lambda rows: os.truncate(rows, rows.stat().st_size - 5),
            r"has \d+ of \d+ rows, ends in a part of a row, and no",
        ),
        (lambda rows: rows.write_bytes(rows.read_bytes().partition(b"\n")[2]), r"has \d+ of \d+ rows, and no"),
        (lambda rows: rows.write_bytes(b""), r"has 0 of \d+ rows, and no"),
        (lambda rows: rows.unlink(), r"has 0 of \d+ rows, and no"),
    ],
)
def test_without_a_mark_the_rows_are_counted(copy, damage, note):
    paths = RunPaths(chunk_path(copy, 2, 4))
    paths.done.unlink()
    edit(paths.record, lambda r: r["sessions"][-1].update(heartbeat="2026-01-01T00:00:00+00:00"))
    damage(paths.rows)
    chunk = run_status(copy)["chunks"][2]
    assert chunk["state"] == "interrupted" and re.search(note, chunk["note"]), chunk


def test_an_older_mark_of_whole_rows_is_believed(copy):
    without_bytes(RunPaths(chunk_path(copy, 2, 4)))
    assert states(run_status(copy))[2].startswith("complete")


def test_any_field_may_be_spoiled_without_hiding_the_others(copy):
    """Every value of a record and of a mark, replaced by one of another type in its turn."""
    paths = RunPaths(chunk_path(copy, 1, 4))
    for path in (paths.record, paths.done):
        whole = path.read_text()
        for name in json.loads(whole):
            for value in (None, 7, "x", [], {}, [None]):
                edit(path, lambda r, name=name, value=value: r.update({name: value}))
                figures = run_status(copy)
                assert len(figures["chunks"]) == 4 and states(figures)[0].startswith("complete"), (name, value)
                json.dumps(figures, allow_nan=False)
                show(*status_parts(figures, every_chunk=True))
                path.write_text(whole)
    whole = paths.record.read_text()
    for name in json.loads(whole)["sessions"][-1]:
        for value in (None, 7, "x", [], {}, [None]):
            edit(paths.record, lambda r, name=name, value=value: r["sessions"][-1].update({name: value}))
            json.dumps(run_status(copy), allow_nan=False)
            show(*status_parts(run_status(copy), every_chunk=True))


def test_a_chunk_of_another_run_is_found(copy, manifest, tiny_en):
    run(config(manifest, tiny_en, copy, num_chunks=4, chunk_id=3, prompt="Hello.", overwrite=True), start=start_beeps)
    total = run_status(copy)["total"]
    (note,) = [note for note in total["notes"] if "another run" in note]
    assert note.startswith("chunk 3 is of another run than chunk 0: ") and "prompt: was null" in note
    assert total["exit_code"] == EXIT_ERROR


def test_runs_side_by_side(copy, manifest, tiny_en):
    with pytest.raises(UsageError, match="no such chunk of .* is there; found 4 of 4 chunks"):
        run_status(copy, 6)
    run(config(manifest, tiny_en, copy, num_chunks=6, chunk_id=5), start=start_beeps)
    with pytest.raises(UsageError, match="4 of 4 chunks and 1 of 6 chunks; choose one with --num-chunks"):
        run_status(copy)
    assert len(run_status(copy, 4)["chunks"]) == 4
    assert states(run_status(copy, 6)) == ["not started"] * 5 + ["complete"]
    run(config(manifest, tiny_en, copy), start=start_beeps)
    total = run_status(copy, 4)["total"]
    assert total["rows"] == 24 and total["merged"] is None
    assert total["notes"] == [
        "out.jsonl beside the chunks was not merged from them and is not counted; see out.run.json"
    ]


def test_a_merged_run(copy, cli_here):
    manifest = copy.with_name("m.jsonl")
    assert run_status(copy)["total"]["merged"] is None
    done = cli_here("merge-shards", copy, "--manifest", manifest)
    assert done.returncode in (EXIT_COMPLETE, EXIT_ROWS_FAILED), done.stderr
    total = run_status(copy)["total"]
    assert (total["merged"], total["rows"], total["exit_code"]) == ("complete", 24, EXIT_ROWS_FAILED)
    assert total["notes"] == []
    for path in copy.parent.glob("out.chunk-*"):
        path.unlink()
    figures = run_status(copy)
    assert figures["chunks"] == [] and set(figures["total"]) == TOTAL_FIELDS
    assert (figures["total"]["rows"], figures["total"]["failed"], figures["total"]["merged"]) == (24, 1, "complete")
    assert figures["total"]["exit_code"] == EXIT_ROWS_FAILED
    RunPaths(copy).done.unlink()
    assert run_status(copy)["total"]["exit_code"] == EXIT_INTERRUPTED


@pytest.mark.parametrize("has_chunks", [True, False])
@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda rows: os.truncate(rows, rows.stat().st_size - 1), "bytes instead of"),
        (lambda rows: rows.write_bytes(rows.read_bytes().partition(b"\n")[2]), "bytes instead of"),
        (lambda rows: rows.unlink(), "is gone, although out.done.json says that it is complete"),
    ],
)
def test_a_merged_file_that_is_torn_is_not_complete(copy, damage, note, has_chunks):
    """Before: `complete`, exit 0 or 3."""
    merge(copy, str(copy.with_name("m.jsonl")))
    for path in [] if has_chunks else copy.parent.glob("out.chunk-*"):
        path.unlink()
    damage(copy)
    total = run_status(copy)["total"]
    assert (total["merged"], total["exit_code"]) == ("damaged", EXIT_ERROR)
    assert note in total["notes"][-1]


def test_an_incomplete_merge_says_so(copy, cli_here):
    for path in copy.parent.glob("out.chunk-00001-*"):
        path.unlink()
    cli_here("merge-shards", copy, "--manifest", copy.with_name("m.jsonl"), "--allow-incomplete")
    figures = run_status(copy)
    assert states(figures)[1] == "not started" and figures["total"]["merged"] == "incomplete"
    assert figures["total"]["exit_code"] == EXIT_INTERRUPTED


def test_life_is_judged_by_change_on_our_own_clock():
    watch, path = Watch(), Path("out.run.json")
    now = datetime(2025, 1, 1, 12, tzinfo=UTC)

    def look(heartbeat: datetime, clock_s: float) -> float:
        return watch.silent_s(path, heartbeat.isoformat(), now=now + timedelta(seconds=clock_s), clock_s=clock_s)

    behind = now - timedelta(hours=3)  # that machine's clock
    assert look(behind, 0) == 3 * 3600, "at first there is nothing to go by but its clock"
    assert look(behind, 20) == 3 * 3600 + 20
    assert look(behind + timedelta(seconds=30), 30) == 0, "it changed: it lives"
    assert look(behind + timedelta(seconds=30), 50) == 20
    ahead = now + timedelta(hours=3)
    watch = Watch()
    assert look(ahead, 0) == 0
    assert look(ahead, 100) == 100, "it stood still for so long before our eyes, whatever its clock says"


def running(**changes) -> tuple[dict, dict]:
    """A record and its newest session, as the ETA sees them."""
    session = {"loop_s": 50.0, "stated_s": 1000.0, "rows": 100} | changes.pop("session", {})
    record = {"total_audio_s": 7000.0, "stated_s": 3000.0, "total_rows": 500, "tally": {"rows": 300}} | changes
    return record, session


@pytest.mark.parametrize(
    ("changes", "eta_s"),
    [
        ({}, 200.0),  # 4000 s left, at 1000 s of audio in 50 s
        ({"total_audio_s": None}, 100.0),  # 200 rows left, at 100 rows in 50 s
        ({"stated_s": None}, 100.0),
        ({"session": {"stated_s": None}}, 100.0),
        ({"session": {"stated_s": 0.0}}, None),
        ({"session": {"loop_s": 0.5}}, None),  # too early to tell
        ({"session": {"loop_s": None}}, None),
        ({"stated_s": 7000.5}, 0.0),
    ],
)
def test_the_eta_is_made_of_this_sessions_pace(changes, eta_s):
    assert status._eta_s(*running(**changes)) == eta_s


def test_the_slowest_running_chunk_is_the_eta_of_all(copy, manifest):
    """Three records put back to where they were, half way; the fourth chunk's are gone."""
    for chunk_id, loop_s in ((0, 10.0), (1, 30.0), (2, 20.0)):
        paths = RunPaths(chunk_path(copy, chunk_id, 4))
        paths.done.unlink()
        edit(paths.record, lambda record, loop_s=loop_s: half_way(record, loop_s))
    for path in copy.parent.glob("out.chunk-00003-*"):
        path.unlink()
    figures = run_status(copy)
    assert states(figures) == ["running"] * 3 + ["not started"]
    etas_s = [chunk["eta_s"] for chunk in figures["chunks"]]
    assert etas_s == [pytest.approx(10.0, abs=0.1), pytest.approx(30.0, abs=0.1), pytest.approx(20.0, abs=0.1), None]
    total = figures["total"]
    assert (total["eta_s"], total["without_eta"]) == (etas_s[1], 1)
    assert total["rtfx_running"] == pytest.approx(
        sum(chunk["rtfx_session"] for chunk in figures["chunks"][:3]), abs=0.02
    )


def test_the_rest_is_foreseen_with_the_pace_and_the_prices_so_far(copy):
    """A chunk of two devices half way with an ETA, one that was killed, one that is complete, one not started."""
    session = {"wall_s": 100.0, "startup_s": 20.0, "loop_s": 80.0, "price_per_hour": 3.6, "num_devices": 1}
    changes = [
        {"total_audio_s": 8.0, "stated_s": 4.0, "tally": {"rows": 3, "audio_s": 4.0, "statuses": {"ok": 3}}},
        {"tally": {"rows": 2, "audio_s": 2.0, "statuses": {"ok": 2}}},
        {},
    ]
    of_session = [
        {"num_devices": 2, "rows": 3, "stated_s": 4.0, "outcome": None, "heartbeat": datetime.now(UTC).isoformat()},
        {"rows": 2, "outcome": "interrupted", "price_per_hour": 7.2},
        {"rows": 6, "outcome": "complete"},
    ]
    for chunk_id, (changed, worked) in enumerate(zip(changes, of_session, strict=True)):
        paths = RunPaths(chunk_path(copy, chunk_id, 4))
        sessions = [read_record(paths)["sessions"][-1] | session | worked]
        edit(paths.record, lambda record, more={**changed, "sessions": sessions}: record.update(more))
        if chunk_id < 2:
            paths.done.unlink()
    for path in copy.parent.glob("out.chunk-00003-*"):
        path.unlink()
    total = run_status(copy)["total"]
    pace_s = (2 * 80 + 80 + 80) / (3 + 2 + 6)  # device-seconds for a row, start-up aside
    start_s = (2 * 20 + 20 + 20) / 3
    left_s = 2 * 80 + (4 * pace_s + start_s) + (6 * pace_s + start_s)
    assert total["gpu_h"] == pytest.approx(400 / 3600, abs=2e-6) and total["gpu_h_to_come"] == round(left_s / 3600, 6)
    assert total["cost"]["total"] == pytest.approx(0.2 + 0.2 + 0.1, abs=1e-6)
    assert total["cost"]["at_end"] == pytest.approx(0.5 * (1 + left_s / 400), abs=1e-5)
    assert total["cost"]["prices_per_hour"] == [3.6, 7.2]
    at_ten = run_status(copy, price_per_hour=10)["total"]["cost"]
    assert (at_ten["total"], at_ten["prices_per_hour"]) == (pytest.approx(4000 / 3600, abs=1e-5), [10])


def half_way(record: dict, loop_s: float) -> None:
    half_s = record["total_audio_s"] / 2
    record["stated_s"] = half_s
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record["sessions"][-1].update(outcome=None, ended=None, heartbeat=now, stated_s=half_s, loop_s=loop_s)


def test_a_thousand_chunks_are_counted(four_chunks, tmp_path):
    output = tmp_path / "out.jsonl"
    paths = RunPaths(chunk_path(four_chunks, 1, 4))
    record, mark, rows = json.loads(paths.record.read_text()), paths.done.read_text(), paths.rows.read_bytes()
    for chunk_id in range(1000):
        made = RunPaths(chunk_path(output, chunk_id, 1000))
        made.record.write_text(json.dumps(record | {"chunk_id": chunk_id, "num_chunks": 1000}))
        made.done.write_text(mark)
        made.rows.write_bytes(rows)
    figures = run_status(output)
    assert figures["total"]["states"] == {"complete": 1000}


def test_the_command_prints_a_table_and_its_exit_code_says_how_it_stands(cli, copy, four_chunks):
    done = cli("status", four_chunks)
    assert done.returncode == EXIT_ROWS_FAILED and done.stderr == ""
    assert "3 complete, 1 complete with failures" in done.stdout and "rows 24/24 (1 failed)" in done.stdout
    RunPaths(chunk_path(copy, 1, 4)).record.write_text("{")
    done = cli("status", copy)
    assert done.returncode == EXIT_ERROR and "out.chunk-00001-of-00004.run.json: not valid JSON" in done.stdout
    done = cli("status", copy.with_name("other.jsonl"))
    assert done.returncode == EXIT_USAGE and "no run is there" in done.stderr and done.stdout == ""
    done = cli("status", chunk_path(copy, 1, 4))
    assert (
        done.returncode == EXIT_USAGE
        and "is the name of one chunk's file; give the run's own, out.jsonl" in done.stderr
    )
    assert cli("status", copy.parent / "nowhere" / "out.jsonl").returncode == EXIT_USAGE


def test_a_narrow_table_leaves_out_columns_and_never_the_state(four_chunks):
    shown = {width: status_lines(four_chunks, width) for width in (60, 80, 200)}
    for width, lines in shown.items():
        assert max(map(len, lines)) <= width and sum("complete" in line for line in lines) == 4
        assert sum("6/6" in line for line in lines) == 4
    assert "sessions" in shown[200][1] and "sessions" not in shown[80][1]


def status_lines(output: Path, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(_status_table(run_status(output)["chunks"], width))
    return console.export_text().splitlines()


def test_json_is_one_object(cli_here, four_chunks):
    done = cli_here("status", four_chunks, "--json")
    figures = json.loads(done.stdout)
    assert set(figures) == {"chunks", "total"} and figures["total"]["exit_code"] == done.returncode == EXIT_ROWS_FAILED


def many_chunks(folder: Path, of: Path) -> Path:
    """50 chunks, of which the last has not started."""
    paths, output = RunPaths(chunk_path(of, 1, 4)), folder / "out.jsonl"
    record = json.loads(paths.record.read_text())
    for chunk_id in range(49):
        made = RunPaths(chunk_path(output, chunk_id, 50))
        made.record.write_text(json.dumps(record | {"chunk_id": chunk_id, "num_chunks": 50}))
        shutil.copy(paths.done, made.done)
        shutil.copy(paths.rows, made.rows)
    return output


def test_of_many_chunks_only_the_unfinished_are_listed(cli_here, four_chunks, tmp_path):
    output = many_chunks(tmp_path, four_chunks)
    done = cli_here("status", output)
    assert done.returncode == EXIT_INTERRUPTED
    assert "49 complete chunks are not shown; --all shows them" in done.stdout
    assert re.findall(r"^ *(\d+) +(not started|complete)  ", done.stdout, flags=re.M) == [("49", "not started")]
    listed = re.findall(r"^ *(\d+) +(not started|complete)  ", cli_here("status", output, "--all").stdout, flags=re.M)
    assert [int(number) for number, _ in listed] == list(range(50))


def test_watch_goes_on_until_the_run_is_complete(manifest, tiny_en, tmp_path, start_cli):
    output, gate = tmp_path / "out.jsonl", tmp_path / "gate"
    process = start_run(
        "transcribe", manifest, "-m", tiny_en, "-o", output, gate=str(gate), record_every_s=0.5, refresh_s=0.3
    )
    try:
        wait_for(lambda: RunPaths(output).record.exists())
        watching = start_cli("status", output, "--watch", "--every", "0.2", "--json")
        blocks = start_cli("status", output, "--watch", "--every", "0.2")
        looks = [json.loads(watching.stdout.readline()) for _ in range(4)]
        wait_for_lines(blocks, "last sign", 3)
        gate.touch()
        stdout, stderr = watching.communicate(timeout=60)
        assert watching.returncode == EXIT_COMPLETE, stderr
        looks += [json.loads(line) for line in stdout.splitlines()]
        assert looks[-1]["total"]["exit_code"] == EXIT_COMPLETE
        assert {look["total"]["exit_code"] for look in looks[:-1]} == {EXIT_INTERRUPTED}
        stdout, _ = blocks.communicate(timeout=60)
        assert blocks.returncode == EXIT_COMPLETE and "1 complete" in stdout and "\x1b" not in stdout
    finally:
        process.communicate(timeout=60)


def wait_for_lines(process: subprocess.Popen, text: str, count: int) -> None:
    while count:
        count -= text in process.stdout.readline()


def test_watch_ends_at_ctrl_c_with_what_it_last_saw(copy, start_cli):
    for path in copy.parent.glob("out.chunk-00003-*"):
        path.unlink()
    watching = start_cli("status", copy, "--watch", "--every", "0.1", "--json")
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=30)
    assert watching.returncode == EXIT_INTERRUPTED and stderr == ""


def test_a_terminal_is_refreshed_in_place(copy):
    """On a real pseudo-terminal; the run completes while we look."""
    mark = RunPaths(chunk_path(copy, 3, 4)).done
    content = mark.read_bytes()
    mark.unlink()
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    command = [sys.executable, "-m", "asrbatch", "status", str(copy), "--watch", "--every", "0.2"]
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(main, 65536):
            shown += piece
            if b"complete" in shown and not mark.exists():
                mark.write_bytes(content)
    except OSError:  # the terminal's other end is closed
        pass
    os.close(main)
    assert process.wait() == EXIT_ROWS_FAILED
    assert b"\x1b[" in shown and b"3 complete, 1 complete with failures" in shown


def test_a_real_engine_is_seen_at_work(engines, demo_rows, tiny_en, tmp_path):
    """On speech: before the engine is up, at each of its answers, and at the end."""
    output = tmp_path / "out.jsonl"
    listed = write_jsonl(tmp_path / "m.jsonl", demo_rows[1:3])
    seen = []

    def start(spec, deliver, on_step):
        def look_and_deliver(*answer):
            seen.append(states(run_status(output))[0])
            deliver(*answer)

        seen.append(states(run_status(output))[0])
        return engines.start(spec, look_and_deliver, on_step)

    engine = EngineConfig(model=tiny_en, dtype="float32", mode="thread", args=("max_num_seqs=4",))
    summary = run(RunConfig(manifest=str(listed), engine=engine, output=str(output)), start=start)
    assert summary.exit_code == EXIT_COMPLETE and seen[0] == "starting"
    assert len(seen) > 2 and set(seen[1:]) <= {"starting", "running"}
    figures = run_status(output)
    assert states(figures) == ["complete"] and figures["chunks"][0]["rtfx"] > 0


def test_the_times_rest_on_the_records_refresh():
    assert status.SILENT_AFTER_S == 3 * RECORD_REFRESH_S
    assert read_record(RunPaths(Path("/nowhere/x.jsonl"))) is None


def test_a_run_that_completes_while_it_is_looked_at_is_not_damaged(copy):
    """Begun anew and completed again and again, with another number of bytes each time."""
    paths = RunPaths(chunk_path(copy, 2, 4))
    record, mark, rows = json.loads(paths.record.read_text()), json.loads(paths.done.read_text()), paths.rows
    line, ended = rows.read_bytes().splitlines(keepends=True)[0], threading.Event()

    def complete_again() -> None:
        for turn in range(1, 200):
            paths.done.unlink(missing_ok=True)
            rows.write_bytes(line * (turn % 7))
            rows.write_bytes(line * (1 + turn % 5))
            write_json_atomically(paths.record, {**record, "turn": turn})
            write_json_atomically(paths.done, {**mark, "bytes": len(line) * (1 + turn % 5)})
        ended.set()

    writer = threading.Thread(target=complete_again)
    writer.start()
    while not ended.is_set():
        files = read_files_of(paths, 2)
        assert files.changed is None and files.problem is None
    writer.join()
