"""The run record, the completion mark and the log of rows in flight, over sessions that end in every way."""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from output_rows import failed, row
from processes import die_at

from asrbatch.errors import OutputError
from asrbatch.storage.files import write_json_atomically
from asrbatch.storage.inflight import RUN_ALONE_AFTER, Deaths, InFlightLog, deaths_as_record, update_deaths
from asrbatch.storage.journal import Journal
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import RunRecord, read_completion_mark, read_record, write_completion_mark

FINGERPRINT = {"manifest": "abc", "sampling": {"temperature": 0.0}}


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    return RunPaths(tmp_path / "out.jsonl")


def names(paths: RunPaths) -> list[str]:
    return sorted(os.listdir(paths.rows.parent))


def test_names_of_the_files():
    paths = RunPaths(Path("run/out.v2.jsonl"))
    found = (paths.record, paths.done, paths.lease, paths.in_flight, paths.log)
    assert [str(path) for path in found] == [
        f"run/out.v2.{end}" for end in ("run.json", "done.json", "lease", "inflight", "log")
    ]


# The record


def test_new_record(paths, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert read_record(paths) is None
    record = RunRecord(paths, None, FINGERPRINT, 12)
    assert names(paths) == []
    record.write()
    assert names(paths) == ["out.run.json"]
    value = read_record(paths)
    assert (value["fingerprint"], value["total_rows"]) == (FINGERPRINT, 12)
    (session,) = value["sessions"]
    assert (session["pid"], session["host"], session["slurm"]["SLURM_JOB_ID"]) == (
        os.getpid(),
        os.uname().nodename,
        "4711",
    )
    assert session["outcome"] is None and session["ended"] is None
    assert session["heartbeat"] >= session["started"] >= value["created"]


def test_sessions_are_appended(paths):
    first = RunRecord(paths, None, FINGERPRINT, 12)
    first.value["created"] = "2026-01-01T00:00:00+00:00"
    first.session["rows"] = 5
    first.end("interrupted")
    second = RunRecord(paths, read_record(paths), FINGERPRINT, 12)
    second.write()  # and is killed
    third = RunRecord(paths, read_record(paths), FINGERPRINT, 12)
    third.session |= {"rows": 7}
    third.end("complete")
    value = read_record(paths)
    assert value["created"] == "2026-01-01T00:00:00+00:00"
    assert [s["outcome"] for s in value["sessions"]] == ["interrupted", None, "complete"]
    assert [s.get("rows") for s in value["sessions"]] == [5, None, 7]
    assert [s["ended"] is None for s in value["sessions"]] == [False, True, False]


def test_killed_session_is_visible_and_was_recorded_before_its_first_row(paths):
    child = os.fork()
    if not child:
        record = RunRecord(paths, read_record(paths), FINGERPRINT, 3)
        record.write()
        journal = Journal(paths.rows, 3)
        for index in range(3):
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            journal.write(row(index))
    os.waitpid(child, 0)
    (session,) = read_record(paths)["sessions"]
    assert (session["pid"], session["outcome"], session["ended"]) == (child, None, None)
    assert session["heartbeat"]
    assert Journal(paths.rows, 3).tally.rows == 2
    assert read_completion_mark(paths) is None


def test_record_killed_at_every_step_of_being_written(paths):
    RunRecord(paths, None, FINGERPRINT, 1).write()
    before = paths.record.read_bytes()
    outcomes = set()
    for step in itertools.count():
        paths.record.write_bytes(before)
        died = die_at(step, lambda: RunRecord(paths, read_record(paths), FINGERPRINT, 1).end("complete"))
        outcomes.add(len(read_record(paths)["sessions"]))  # reads: so it is whole
        if not died:
            break
    assert step >= 4
    assert outcomes == {1, 2}


def test_odd_values_do_not_damage_a_record(paths):
    """A command line may hold bytes that are no UTF-8; Python keeps them as halves of surrogate pairs."""
    prompt = b"caf\xe9".decode("utf-8", "surrogateescape")
    RunRecord(paths, None, {"prompt": prompt, "name": "Wörter\u2028"}, 1).write()
    assert read_record(paths)["fingerprint"] == {"prompt": prompt, "name": "Wörter\u2028"}
    before = paths.record.read_bytes()
    with pytest.raises(ValueError):
        RunRecord(paths, None, {"speed": float("nan")}, 1).write()
    assert paths.record.read_bytes() == before
    assert names(paths) == ["out.run.json"]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "not valid JSON"),
        ('{"fingerprint": ', "not valid JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "has no fingerprint, sessions"),
        ('{"fingerprint": {}}', "has no sessions"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_damaged_record(paths, text, problem):
    paths.record.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OutputError) as error:
        read_record(paths)
    message = str(error.value)
    assert message.startswith(f"{paths.record}: {problem}")
    assert "put the original back, or --overwrite" in message


def test_the_disk_refuses(tmp_path):
    with pytest.raises(OutputError, match=r"out\.run\.json: No such file or directory; the folder does not exist"):
        RunRecord(RunPaths(tmp_path / "absent" / "out.jsonl"), None, FINGERPRINT, 1).write()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a part of the path is a file: choose another --output"):
        write_json_atomically(tmp_path / "file" / "out.run.json", {})
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"it is a folder: give --output a file name ending in \.jsonl"):
        Journal(tmp_path / "folder.jsonl", 1)


# The completion mark


def complete_journal(paths: RunPaths) -> Journal:
    journal = Journal(paths.rows, 3)
    for each in (row(1, flags=["empty"]), failed(0, "too_long"), row(2)):
        journal.write(each)
    return journal


def test_completion_mark(paths):
    mark = write_completion_mark(paths, complete_journal(paths), "digest", {"rtfx_engine": 12.5})
    assert mark == read_completion_mark(paths)
    sha256 = hashlib.sha256(paths.rows.read_bytes()).hexdigest()
    expected = {
        "rows": 3,
        "audio_s": 3.0,
        "statuses": {"ok": 2, "failed": 1},
        "flags": {"empty": 1},
        "errors": {"too_long": 1},
        "sha256": sha256,
        "bytes": paths.rows.stat().st_size,
        "fingerprint": "digest",
        "rtfx_engine": 12.5,
    }
    assert {name: mark[name] for name in expected} == expected
    assert set(mark) - set(expected) == {"asrbatch", "completed"}


def test_no_completion_mark_for_an_incomplete_run(paths):
    journal = Journal(paths.rows, 3)
    journal.write(row(1))
    with pytest.raises(ValueError, match="2 rows are missing"):
        write_completion_mark(paths, journal, "digest", {})
    assert not paths.done.exists()


def test_no_completion_mark_for_rows_that_are_not_there(paths):
    journal = complete_journal(paths)
    with open(paths.rows, "ab") as file:
        file.write(b"\n")
    with pytest.raises(OutputError, match="something else changed it"):
        write_completion_mark(paths, journal, "digest", {})
    paths.rows.unlink()
    with pytest.raises(OutputError, match=r"out\.jsonl: No such file"):
        write_completion_mark(paths, journal, "digest", {})
    assert not paths.done.exists()


def test_foreign_completion_mark(paths):
    paths.done.write_text('{"done": true}')
    with pytest.raises(OutputError, match=r"out\.done\.json: has no rows, statuses, sha256; it was edited"):
        read_completion_mark(paths)


# Rows in flight

KILL = Deaths(kills=1)


def session(paths: RunPaths, outcome: str | None, submitted=(), finished=(), num_rows=6, torn=b"") -> dict[int, Deaths]:
    """One session as `runs/session.py` has it; returns the deaths it began with. Outcome None: it was killed."""
    previous = read_record(paths)
    journal = Journal(paths.rows, num_rows)
    deaths = update_deaths(previous, paths.in_flight, journal.finished)
    record = RunRecord(paths, previous, FINGERPRINT, num_rows)
    name = str(len(record.value["sessions"]))
    record.update({"in_flight": name}, **deaths_as_record(deaths))
    record.write()
    in_flight = InFlightLog(paths.in_flight, name)
    for index in submitted:
        in_flight.add(index)
    for index in finished:
        journal.write(row(index))
    journal.close()
    if outcome is None:
        with open(paths.in_flight, "ab") as file:
            file.write(torn)
        in_flight.close(remove=False)
    else:
        record.end(outcome)
        in_flight.close(remove=outcome == "complete")
    return deaths


@pytest.mark.parametrize("end", ["engine_died", None])
def test_two_deaths_then_alone_then_given_up(paths, end):
    """Also where the engine crashes in our process, which then leaves its trace."""
    crash = {} if end else {"torn": b"Fatal Python error: Segmentation fault\n\nThread 0x1:\n  File 7\n"}
    assert session(paths, end, submitted=[0, 1, 2, 3], finished=[1], **crash) == {}
    assert session(paths, end, submitted=[4, 0, 2], finished=[4], **crash) == dict.fromkeys((0, 2, 3), Deaths(1))
    deaths = session(paths, end, submitted=[3, 0], finished=[3], **crash)
    assert deaths == {0: Deaths(2), 2: Deaths(2), 3: Deaths(1)}
    assert [i for i, n in deaths.items() if n.caution == RUN_ALONE_AFTER] == [0, 2]
    deaths = session(paths, "complete", submitted=[2], finished=[0, 2, 5])
    assert deaths == {0: Deaths(3), 2: Deaths(2)}  # 3 has its row; 2 was not in flight at the third
    assert [(i, n.error.kind) for i, n in deaths.items() if n.error] == [(0, "engine_crash")]
    assert not paths.in_flight.exists()
    assert session(paths, "complete") == {}


@pytest.mark.parametrize("outcome", ["interrupted", "error", "complete"])
def test_an_orderly_end_does_not_count(paths, outcome):
    session(paths, outcome, submitted=[0, 1, 2], finished=[1])
    assert session(paths, "engine_died", submitted=[0, 2]) == {}
    session(paths, outcome, submitted=[0, 2])
    assert session(paths, outcome) == dict.fromkeys((0, 2), Deaths(1))


def test_a_kill_is_no_death_of_the_engine(paths):
    """From outside or for lack of memory, nobody knows. Before, six made an `engine_crash` that nobody had seen."""
    seen = [session(paths, None, submitted=[0, 1], finished=() if turn else [1]).get(0, Deaths()) for turn in range(8)]
    assert seen == [Deaths(0, kills, max(0, kills - 4)) for kills in range(8)]
    assert [each.caution for each in seen] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [each.error is None for each in seen] == [True] * 7 + [False]
    assert seen[7].error.kind == "killed"
    assert "asrbatch was killed 3 times while this row alone was in the engine" in seen[7].error.message


@pytest.mark.parametrize(
    ("ends", "counted", "kind"),
    [
        # A kill each. Before: the last weight that made `engine_crash` could be a kill's.
        ([None] * 6, Deaths(0, 6, 2), None),
        (["engine_died", "engine_died", None, None], Deaths(2, 2, 2), None),
        (["engine_died", "engine_died", None, None, None], Deaths(2, 3, 3), "killed"),
        ([None] * 4 + ["engine_died"] * 2, Deaths(2, 4, 0), None),
        ([None] * 4 + ["engine_died"] * 3, Deaths(3, 4, 0), "engine_crash"),
        (["engine_died", None, None, None], Deaths(1, 3, 1), None),
        ([None] * 5 + ["interrupted"] * 3, Deaths(0, 5, 1), None),
    ],
)
def test_deaths_and_kills_are_told_apart(paths, ends, counted, kind):
    for end in ends:
        session(paths, end, submitted=[0])
    deaths = session(paths, "interrupted")[0]
    assert deaths == counted and (deaths.error and deaths.error.kind) == kind
    if kind == "engine_crash":
        assert "the engine died 3 times" in deaths.error.message


def test_killed_before_the_engine_took_a_row(paths):
    session(paths, "engine_died", submitted=[0])
    assert session(paths, None) == {0: Deaths(1)}
    assert session(paths, None) == {0: Deaths(1)}  # nothing was in flight, so nothing is to blame
    assert session(paths, "interrupted") == {0: Deaths(1)}


def test_a_torn_or_absent_log(paths):
    session(paths, None, submitted=[1, 2], torn=b"45", num_rows=460)  # of 456, say
    assert session(paths, None, submitted=[3], num_rows=460) == {1: KILL, 2: KILL}
    paths.in_flight.unlink()
    assert session(paths, None, submitted=[3], num_rows=460) == {1: KILL, 2: KILL}


def test_a_log_that_is_no_log(paths):
    session(paths, None, submitted=[1], torn=b"\n-1\nabc\n99\n\xff\n5\n")
    assert session(paths, None) == {1: KILL, 5: KILL}


def test_a_new_run_has_no_deaths(paths):
    paths.in_flight.write_text("0\n1\n")
    assert update_deaths(None, paths.in_flight, bytearray(3)) == {}


def test_a_long_log_does_not_fill_the_memory(paths):
    """Ten million rows may have passed; those unfinished are few."""
    num_rows = 50_000
    RunRecord(paths, None, FINGERPRINT, num_rows).write()
    paths.in_flight.write_text("".join(f"{i}\n" for i in range(num_rows)))
    finished = bytearray(b"\1") * num_rows
    finished[17] = finished[-1] = 0
    record = json.loads(paths.record.read_text())
    tracemalloc.start()
    assert update_deaths(record, paths.in_flight, finished) == {17: KILL, num_rows - 1: KILL}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_rows_that_came_back_from_a_counted_death_are_not_counted_again(tmp_path):
    """With several devices a death is counted while the session goes on; a kill later must not count it once more."""
    log = InFlightLog(tmp_path / "x.inflight", "1.1")
    for index in (1, 2, 3):
        log.add(index)
    log.begin("1.2", [3])
    log.add(4)
    record = {"engine_deaths": {"1": 1, "2": 1}, "sessions": [{"outcome": None, "in_flight": "1.2"}]}
    counted = {1: Deaths(1), 2: Deaths(1)}
    assert update_deaths(record, tmp_path / "x.inflight", bytearray(9)) == {**counted, 3: KILL, 4: KILL}
    # Killed between the record and the log: what the log holds was counted.
    record["sessions"][0]["in_flight"] = "1.3"
    assert update_deaths(record, tmp_path / "x.inflight", bytearray(9)) == counted


CRASH = """
import os, sys
from pathlib import Path
from asrbatch.storage.inflight import InFlightLog
log = InFlightLog(Path(sys.argv[1]), "1.1")
with log.watching():
    log.add(3)
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("number", "counted"),
    [*((number, Deaths(1)) for number in ("SEGV", "ABRT", "BUS", "FPE", "ILL")), ("KILL", KILL), ("TERM", KILL)],
)
def test_a_crash_is_told_from_a_kill_by_its_trace(tmp_path, number, counted):
    path = tmp_path / "x.inflight"
    number = signal.Signals[f"SIG{number}"]
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), str(int(number))], capture_output=True)
    assert done.returncode == -number
    record = {"sessions": [{"outcome": None, "in_flight": "1.1"}]}
    assert update_deaths(record, path, bytearray(9)) == {3: counted}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OutputError("read-only"), SystemExit, None])
def test_a_stop_leaves_nothing_in_flight_whatever_the_folder(tmp_path, stop):
    """Where the log cannot be removed, nor the record say how the session ended, rows must not seem to have died."""
    path = tmp_path / "x.inflight"
    log = InFlightLog(path, "1.1")
    with contextlib.suppress(BaseException), log.watching():
        log.add(3)
        if stop:
            raise stop
    record = {"sessions": [{"outcome": None, "in_flight": "1.1"}]}
    assert update_deaths(record, path, bytearray(9)) == {}
