"""Shared file systems at their worst, around real commands: doubled tasks, stopped ones, wrong clocks, full and
read-only disks, folders and manifests that go away. An error that says what to do; never a doubled or lost row."""

import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beep_run import Settings, beep_manifest, check_rows
from conftest import PYTHON, REPO, read_jsonl, write_jsonl
from namespaces import Disk, Machines, command_of, namespaces, start, start_elsewhen  # noqa: F401 (namespaces is a fixture)
from output_rows import row as output_row

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_HELD, EXIT_USAGE, OutputError
from asrbatch.storage.files import replacing
from asrbatch.storage.inflight import InFlightLog
from asrbatch.storage.journal import Journal
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import write_completion_mark

BEEP_RUN = REPO / "tests/beep_run.py"
NUM_ROWS = 20
STALE_S = 1.5
QUICK = {"refresh_s": 0.1, "stale_after_s": STALE_S, "record_every_s": 0.3}
READ_ONLY = "the file system is read-only: make it writable and run the same command again, or choose another --output"
FULL = (
    "No space left on device; the disk is full: free some space and run the same command again; rows written so "
    "far are kept"
)


class Job:
    """One manifest and what starts commands on it, with the beep engine and a lease in quick motion."""

    def __init__(self, folder: Path, model: str, num_rows: int = NUM_ROWS):
        self.manifest = beep_manifest(folder / "in", num_rows)
        self._model = model
        self._started = []

    def start(self, output: Path, *options, on=start, **settings) -> subprocess.Popen:
        """`on` starts the command somewhere else; settings are those of the beep engine."""
        command = ("transcribe", self.manifest, "-m", self._model, "-o", output, "--workers", 1, *options)
        environment = Settings(**{**QUICK, **settings}).environment()
        process = on(PYTHON, BEEP_RUN, *command, env=environment)
        self._started.append(process)
        return process

    def run(self, output: Path, *options, **more) -> tuple[int, str]:
        return ended(self.start(output, *options, **more))

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def job(tmp_path, tiny_en):
    made = Job(tmp_path, tiny_en)
    yield made
    made.close()


@pytest.fixture
def machines(namespaces, tmp_path):  # noqa: F811
    with Machines(tmp_path) as made:
        yield made


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and what it said, which is never a traceback."""
    _, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stderr and "a defect" not in stderr, stderr
    return process.returncode, stderr


def complaint(stderr: str) -> str:
    """The last line, which is the only one that begins so."""
    assert stderr.count("asrbatch: ") == 1, stderr
    return stderr.splitlines()[-1].removeprefix("asrbatch: ")


def wait_for(condition, process: subprocess.Popen, what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.01)


def wait_for_rows(process: subprocess.Popen, path: Path, count: int) -> None:
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, process, f"{count} rows")


def gated(path: Path, answers: int) -> dict:
    """Settings for an engine that gives so many answers and no more until the file `path` is there."""
    return {"gate": str(path), "answers_before_gate": answers}


def check_complete(output: Path, num_rows: int = NUM_ROWS) -> dict:
    """Every row once, a mark that fits, and nothing left over; returns the run record."""
    paths = RunPaths(output)
    check_rows([output], range(num_rows))
    assert json.loads(paths.done.read_text())["rows"] == num_rows
    left = {path.name for path in output.parent.iterdir()} - {"ballast"}
    assert left == {path.name for path in (paths.rows, paths.record, paths.done, paths.log)}
    record = json.loads(paths.record.read_text())
    assert record["sessions"][-1]["outcome"] == "complete"
    return record


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "out.jsonl"


# Two tasks with one chunk id

RACE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import beep_run
import asrbatch.cli.app, asrbatch.cli.commands.transcribe, asrbatch.runs.runner
folder, rounds, command = sys.argv[2], int(sys.argv[3]), sys.argv[4:]
codes = []
for turn in range(rounds):
    wait, go = os.pipe()
    racers = []
    for number in range(3):
        racers.append(os.fork())
        if not racers[-1]:
            os.close(go)
            os.read(wait, 1)  # until our parent closes its end: all at the same moment
            said = os.open(f"{folder}/said-{turn}-{number}", os.O_CREAT | os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.environ["BEEP"] = json.dumps({"gate": f"{folder}/gate-{turn}"})
            sys.argv[1:] = [*command, "-o", f"{folder}/run-{turn}/out.jsonl"]
            os._exit(beep_run.main())
    os.close(wait)
    os.close(go)
    first = [os.waitpid(-1, 0) for _ in range(2)]  # the two that are refused
    open(f"{folder}/gate-{turn}", "w").close()
    last = os.waitpid(-1, 0)
    codes.append({"refused": [(racers.index(pid), os.waitstatus_to_exitcode(status)) for pid, status in first],
                  "wrote": (racers.index(last[0]), os.waitstatus_to_exitcode(last[1])), "writer": last[0]})
print(json.dumps(codes))
"""


def test_tasks_started_at_the_same_moment_on_one_machine(tmp_path, job, tiny_en):
    rounds = 5
    command = ("transcribe", job.manifest, "-m", tiny_en, "--workers", 1, "--num-chunks", 2, "--chunk-id", 1)
    race = start(PYTHON, "-c", RACE, BEEP_RUN.parent, tmp_path, rounds, *command)
    stdout, stderr = race.communicate(timeout=300)
    assert race.returncode == 0, stderr
    codes = json.loads(stdout)
    assert len(codes) == rounds
    for turn, outcome in enumerate(codes):
        assert outcome["wrote"][1] == EXIT_COMPLETE and [code for _, code in outcome["refused"]] == [EXIT_HELD] * 2, (
            outcome
        )
        for number, _ in outcome["refused"]:
            said = complaint((tmp_path / f"said-{turn}-{number}").read_text())
            lease = rf"{tmp_path}/run-{turn}/out\.chunk-00001-of-00002\.lease"
            holder = rf"process {outcome['writer']} on \S+ is writing this output"
            assert re.fullmatch(f"{lease}: {holder}; wait for it, stop it, or choose another --output", said), said
        rows = read_jsonl(tmp_path / f"run-{turn}" / "out.chunk-00001-of-00002.jsonl")
        assert len({row["index"] for row in rows}) == len(rows) == NUM_ROWS / 2
        assert len(os.listdir(tmp_path / f"run-{turn}")) == 4


def test_tasks_started_at_the_same_moment_on_two_machines(tmp_path, job, machines, out):
    gate = tmp_path / "gate"
    tasks = {
        host: job.start(out, on=functools.partial(machines.start, host), **gated(gate, 2))
        for host in ("node7", "node8")
    }
    deadline = time.monotonic() + 120
    while all(task.poll() is None for task in tasks.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = next(host for host, task in tasks.items() if task.poll() is not None)
    writer = next(host for host in tasks if host != refused)
    code, said = ended(tasks[refused])
    assert code == EXIT_HELD
    assert f"{out.with_suffix('.lease')} is held by process 1 on {writer}; watching it for 1.5 s" in said
    assert f"out.lease: process 1 on {writer} is writing this output; wait for it, stop it" in complaint(said)
    gate.touch()
    assert ended(tasks[writer])[0] == EXIT_COMPLETE
    assert len(check_complete(out)["sessions"]) == 1


# A requeued task that finds its older self


@pytest.mark.parametrize("wakes", ["while the newer writes", "when the newer is done"])
def test_a_stopped_task_of_another_node_wakes_up_after_it_was_succeeded(tmp_path, job, machines, out, wakes):
    older_gate, newer_gate = tmp_path / "older", tmp_path / "newer"
    older = job.start(out, on=functools.partial(machines.start, "node7"), **gated(older_gate, 3))
    wait_for_rows(older, out, 3)
    os.kill(command_of(older), signal.SIGSTOP)
    began = time.monotonic()
    newer = job.start(out, on=functools.partial(machines.start, "node8"), **gated(newer_gate, 4))
    wait_for(lambda: out.read_bytes().count(b"\n") >= 7, newer, "7 rows")
    assert time.monotonic() - began >= STALE_S
    if wakes == "when the newer is done":
        newer_gate.touch()
        assert ended(newer)[0] == EXIT_COMPLETE
    before = out.read_bytes()
    in_flight = out.with_suffix(".inflight")
    older_gate.touch()  # the answers it waits for are there at once
    os.kill(command_of(older), signal.SIGCONT)
    code, said = ended(older)
    assert code == (EXIT_HELD if "taken over" in complaint(said) else EXIT_ERROR)
    expected = (
        "our lease was (taken over by process 1 on node8|removed); this process stops before it writes another row"
    )
    # Stopped between writing its record aside and putting it in place, it finds that file removed by the newer one.
    half_written = rf"{out.with_suffix('.run.json')}: No such file"
    assert re.match(rf"{out.with_suffix('.lease')}: {expected}|{half_written}", complaint(said)), said
    assert out.read_bytes() == before, "it wrote a row after all"
    if wakes == "while the newer writes":
        taken = [int(line) for line in in_flight.read_text().splitlines()[1:]]
        assert len(set(taken)) == len(taken) <= 4 + 8, "the newer one's rows in flight, and no other's"
        newer_gate.touch()
        code, said = ended(newer)
        assert code == EXIT_COMPLETE and "watching it for 1.5 s" in said
    sessions = check_complete(out)["sessions"]
    assert [(session["host"], session["outcome"]) for session in sessions] == [("node7", None), ("node8", "complete")]
    assert sessions[1]["rows"] == NUM_ROWS - 3


def test_tasks_stopped_at_any_moment(tmp_path, tiny_en, machines):
    """The older self is stopped wherever it happens to be, and wakes up whenever: rows are there once all the same."""
    job = Job(tmp_path, tiny_en, 60)
    moments = random.Random(11)
    for turn in range(2):
        out = tmp_path / f"run-{turn}" / "out.jsonl"
        older = job.start(out, on=functools.partial(machines.start, "node7"), answer_s=0.05)
        wait_for_rows(older, out, 1)
        time.sleep(moments.uniform(0.0, 0.2))
        os.kill(command_of(older), signal.SIGSTOP)
        newer = job.start(out, on=functools.partial(machines.start, "node8"), answer_s=0.05)
        time.sleep(moments.uniform(2.0, 2.7))
        os.kill(command_of(older), signal.SIGCONT)
        codes = {ended(older)[0], ended(newer)[0]}
        # Exit 1 where the newer has ended by then: its lease is gone, and there is nobody to wait for.
        sessions = check_complete(out, 60)["sessions"]
        # On a slow machine the newer may come when all is done, and has nothing to do.
        came_late = codes == {EXIT_COMPLETE} and len(sessions) == 1
        assert came_late or codes in ({EXIT_COMPLETE, EXIT_HELD}, {EXIT_COMPLETE, EXIT_ERROR})
        assert len({row["index"] for row in read_jsonl(out)}) == 60, sessions


def test_what_a_former_holder_adds_to_the_rows_in_flight_lands_nowhere(tmp_path):
    """A row it had prepared may still enter its engine after it wakes up, before it looks at the lease."""
    path = tmp_path / "out.inflight"
    older = InFlightLog(path, "1.1")
    older.add(1)
    newer = InFlightLog(path, "2.1")
    newer.add(2)
    older.add(3)
    assert path.read_text() == "log 2.1\n2\n"
    newer.close(remove=True)
    older.close(remove=False)


def test_no_mark_for_rows_that_are_another_files(tmp_path):
    """A holder that is stopped for long at the very end finds a file of the same size in place of its own."""
    paths = RunPaths(tmp_path / "out.jsonl")
    journal = Journal(paths.rows, 1)
    journal.write(output_row(0))
    Journal(paths.rows, 1, new_file=True).close()  # as a successor does that judged by time
    with pytest.raises(OutputError, match="another file took its place: something else changed it"):
        write_completion_mark(paths, journal, "digest", {})
    assert not paths.done.exists()


def test_two_processes_of_one_number_do_not_share_a_half_written_file(tmp_path):
    """In containers, the older self and the newer one are often both process 1."""
    path = tmp_path / "out.run.json"
    with replacing(path) as older:
        older.write(b"older")
        with replacing(path) as newer:
            newer.write(b"newer")
        assert path.read_bytes() == b"newer"
        older.write(b", to its end")
    assert path.read_bytes() == b"older, to its end"
    assert os.listdir(tmp_path) == ["out.run.json"]


def test_what_killed_tasks_left_half_written_is_removed(job, out):
    for name in (".out.jsonl.tmp-77", ".out.run.json.tmp-77", ".out.done.json.tmp-77"):
        out.with_name(name).write_text("{")
    assert job.run(out)[0] == EXIT_COMPLETE
    check_complete(out)


# Clocks that disagree


def test_a_machine_that_has_been_up_for_weeks_is_judged_by_our_own_clock(tmp_path, job, machines, out):
    gate = tmp_path / "gate"
    holder = job.start(out, on=functools.partial(machines.start, "node7", uptime_s=3_000_000), **gated(gate, 3))
    wait_for_rows(holder, out, 3)
    code, said = job.run(out)
    assert code == EXIT_HELD and "process 1 on node7 is writing this output" in complaint(said)
    os.kill(command_of(holder), signal.SIGKILL)
    began = time.monotonic()
    assert job.run(out)[0] == EXIT_COMPLETE
    assert STALE_S <= time.monotonic() - began < STALE_S + 60
    check_complete(out)


def test_a_newcomer_whose_clock_is_weeks_ahead_finds_the_holder_alive(tmp_path, job, machines, out):
    gate = tmp_path / "gate"
    holder = job.start(out, **gated(gate, 3))
    wait_for_rows(holder, out, 3)
    code, said = job.run(out, on=functools.partial(machines.start, "node8", uptime_s=3_000_000))
    assert code == EXIT_HELD and f"process {holder.pid} on " in complaint(said)
    gate.touch()
    assert ended(holder)[0] == EXIT_COMPLETE
    check_complete(out)


def test_another_time_namespace_of_this_machine_is_judged_by_time(tmp_path, job, namespaces, out):  # noqa: F811
    """The kernel tells the start of a process in the asker's own time: a holder in a container must
    not pass for dead.
    """
    gate = tmp_path / "gate"
    holder = job.start(out, on=start_elsewhen, **gated(gate, 3))
    wait_for_rows(holder, out, 3)
    code, said = job.run(out)
    assert code == EXIT_HELD and "is writing this output" in complaint(said), said
    gate.touch()
    assert ended(holder)[0] == EXIT_COMPLETE
    assert len(check_complete(out)["sessions"]) == 1


@pytest.mark.parametrize("hours", [-30, 30])
def test_wall_clocks_decide_nothing(tmp_path, job, machines, out, hours):
    """A node whose clock was far off leaves its times in the record and on the files; its successor
    looks at neither.
    """
    holder = job.start(out, on=functools.partial(machines.start, "node7"), **gated(tmp_path / "gate", 3))
    wait_for_rows(holder, out, 3)
    wait_for(
        lambda: "wall_s" in json.loads(out.with_suffix(".run.json").read_text())["sessions"][0], holder, "sign of life"
    )
    os.kill(command_of(holder), signal.SIGKILL)
    holder.wait()
    paths = RunPaths(out)
    off = datetime.now(UTC) + timedelta(hours=hours)
    record = json.loads(paths.record.read_text())
    record["created"] = record["sessions"][0]["started"] = record["sessions"][0]["heartbeat"] = off.isoformat(
        timespec="seconds"
    )
    paths.record.write_text(json.dumps(record))
    for path in (paths.rows, paths.record, paths.lease, paths.in_flight):
        os.utime(path, (off.timestamp(), off.timestamp()))
    began = time.monotonic()
    code, said = job.run(out)
    took_s = time.monotonic() - began
    assert code == EXIT_COMPLETE and "process 1 on node7; watching it for 1.5 s" in said
    assert STALE_S <= took_s < STALE_S + 60
    sessions = check_complete(out)["sessions"]
    mark = json.loads(paths.done.read_text())
    assert 0 < sessions[1]["wall_s"] <= took_s, "a session's time is measured, not subtracted"
    assert mark["wall_s"] == pytest.approx(sum(session["wall_s"] for session in sessions), abs=0.01)


# A full disk


@pytest.fixture(scope="module")
def speech_rows(demo_rows, tmp_path_factory) -> tuple[Path, int]:
    """A manifest of real sentences, and how many there are."""
    short = [row for row in demo_rows if row["duration"] < 8]
    # So many that a fast machine is still at them when the disk is full.
    rows = [{**short[i % len(short)], "id": f"u{i}"} for i in range(14)]
    return write_jsonl(tmp_path_factory.mktemp("speech") / "m.jsonl", rows), len(rows)


def check_speech(paths: RunPaths, num_rows: int) -> None:
    rows = read_jsonl(paths.rows)
    assert sorted(row["index"] for row in rows) == list(range(num_rows))
    assert all(row["id"] == f"u{row['index']}" and row["status"] == "ok" and row["pred_text"] for row in rows)
    assert json.loads(paths.done.read_text())["rows"] == num_rows


@pytest.fixture
def disk(namespaces, tmp_path):  # noqa: F811
    """Makes a small disk at the folder of `out`."""
    made = []

    def make(options: str) -> Disk:
        made.append(Disk(tmp_path / "run", options))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


def whole_rows(path: Path) -> int:
    """How many rows a file holds, all of them whole and different."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    indices = [json.loads(line)["index"] for line in data.splitlines()]
    assert len(set(indices)) == len(indices)
    return len(indices)


def fill(small: Disk) -> None:
    small.sh(f"dd if=/dev/zero of={small.folder}/ballast bs=4k 2>/dev/null || true")


@pytest.mark.parametrize(
    ("amounts", "files"),
    [
        (
            # The first blocks each end it at another file; from then on rows come, a few more with each.
            [f"size={4 * blocks}k" for blocks in (*range(1, 5), *range(5, 30, 3))],
            {"out.lease", "out.run.json", "out.inflight", "out.jsonl"},
        ),
        ([f"nr_inodes={inodes}" for inodes in range(1, 30)], {"out.lease", "out.inflight", "out.log"}),
    ],
    ids=["blocks", "inodes"],
)
def test_a_disk_that_is_too_small_at_any_point(job, disk, out, amounts, files):
    """From no room at all upwards: each amount ends the run at another write, and a little more takes it further.

    Args:
        files: those at whose writes it ends at some amount.
    """
    small = disk(amounts[0])
    fill(small)
    seen, named, written = RunPaths(small.seen / out.name), [], [0]
    for amount in amounts:
        small.remount(amount)
        code, said = job.run(out, on=small.start, log_bytes=300)
        if code == EXIT_COMPLETE:
            break
        assert code == EXIT_ERROR
        name, _, fix = complaint(said).removeprefix(f"{out.parent}/").partition(": ")
        assert fix == FULL, said
        named.append(name)
        written.append(whole_rows(seen.rows))
        assert written[-1] >= written[-2] and not seen.done.exists()
    assert code == EXIT_COMPLETE
    # On a slow machine the record is refreshed meanwhile, and may be what finds no room, in the place of the log of
    # rows in flight, which is written at the same time.
    assert files - {"out.inflight"} <= set(named) <= files | {"out.run.json"}
    # Where there are too few inodes, how far it got depends on when the record was refreshed.
    assert written[-1] > 5 or "out.jsonl" not in files
    seen.lease.unlink(missing_ok=True)  # releasing it takes an inode for a moment; who finds it will judge it dead
    check_complete(seen.rows)


def test_a_disk_that_fills_up_while_rows_wait(tmp_path, job, disk, out):
    """No row comes that could notice it; the signs of life do."""
    small = disk("size=1m")
    task = job.start(out, on=small.start, **gated(tmp_path / "gate", 3))
    wait_for_rows(task, small.seen / out.name, 3)
    fill(small)
    code, said = ended(task)
    assert code == EXIT_ERROR and complaint(said) == f"{out.with_suffix('.run.json')}: {FULL}"
    assert whole_rows(small.seen / out.name) == 3
    small.remount("size=2m")
    assert job.run(out, on=small.start)[0] == EXIT_COMPLETE
    check_complete(small.seen / out.name)


def test_a_disk_without_room_for_a_beat(tmp_path, job, disk, out):
    """Where every write takes new room, as on file systems that copy on write, a full disk ends the beats as well."""
    small = disk("size=1m")
    task = job.start(out, on=small.start, record_every_s=1000.0, **gated(tmp_path / "gate", 3))
    wait_for_rows(task, small.seen / out.name, 3)
    task.send_signal(signal.SIGSTOP)
    small.sh(f"fallocate --punch-hole --offset 0 --length 4096 {out.with_suffix('.lease')}")  # its only block
    fill(small)
    task.send_signal(signal.SIGCONT)
    code, said = ended(task)
    assert code == EXIT_ERROR and complaint(said) == f"{out.with_suffix('.lease')}: {FULL}"
    small.sh(f"rm {out.parent}/ballast")
    assert job.run(out, on=small.start)[0] == EXIT_COMPLETE
    check_complete(small.seen / out.name)


def test_the_real_engine_on_a_full_disk(speech_rows, disk, tiny_en, out):
    """The room ends in the middle of a row; what the engine held then is run again, and counts as nobody's death."""
    manifest, num_rows = speech_rows
    small = disk("size=1m")
    command = [PYTHON, "-m", "asrbatch", "transcribe", manifest, "-m", tiny_en, "-o", out]
    command += ["--engine-arg", "max_num_seqs=1"]
    task = small.start(*command)
    seen = RunPaths(small.seen / out.name)
    wait_for_rows(task, seen.rows, 1)
    fill(small)
    code, said = ended(task)
    assert code == EXIT_ERROR and re.fullmatch(
        rf"{out.parent}/out\.(jsonl|inflight|run\.json): {FULL}", complaint(said)
    ), said
    written = whole_rows(seen.rows)
    assert 1 <= written < num_rows and not seen.done.exists()
    assert not seen.lease.exists() and not seen.in_flight.exists()
    before = seen.rows.read_bytes()

    small.remount("size=2m")
    code, said = ended(small.start(*command))
    assert code == EXIT_COMPLETE, said
    assert seen.rows.read_bytes().startswith(before)
    check_speech(seen, num_rows)
    record = json.loads(seen.record.read_text())
    assert record["engine_deaths"] == {} and record["sessions"][-1]["rows"] == num_rows - written


# A read-only disk


def test_a_folder_that_is_read_only_from_the_start(job, disk, out):
    small = disk("size=1m")
    small.remount("ro")
    code, said = job.run(out, on=small.start)
    assert code == EXIT_ERROR
    assert complaint(said) == f"{out.with_suffix('.lease')}: Read-only file system; {READ_ONLY}"
    small.remount("rw")
    assert job.run(out, on=small.start)[0] == EXIT_COMPLETE
    check_complete(small.seen / out.name)


def test_a_folder_that_becomes_read_only_midway(tmp_path, job, disk, out):
    small = disk("size=1m")
    gate = tmp_path / "gate"
    task = job.start(out, on=small.start, **gated(gate, 3))
    wait_for_rows(task, small.seen / out.name, 3)
    small.cover_read_only()
    code, said = ended(task)
    assert code == EXIT_ERROR and READ_ONLY in complaint(said)
    code, said = job.run(out, on=small.start)
    assert code == EXIT_ERROR and READ_ONLY in complaint(said), "still read-only"
    small.uncover()
    assert whole_rows(small.seen / out.name) == 3
    assert job.run(out, on=small.start)[0] == EXIT_COMPLETE
    check_complete(small.seen / out.name)


# Folders and manifests that go away


def test_an_output_folder_removed_midway(tmp_path, job, out):
    task = job.start(out, **gated(tmp_path / "gate", 3))
    wait_for_rows(task, out, 3)
    shutil.rmtree(out.parent)
    code, said = ended(task)
    assert code == EXIT_ERROR
    removed = (
        "our lease was removed; this process stops before it writes another row. Put the folder back if it was moved"
    )
    gone = "No such file or directory; the folder does not exist, or was removed or renamed"
    assert re.match(rf"{out.parent}/out[.a-z]+: ({removed}|{gone})", complaint(said)), said
    assert not out.parent.exists()
    assert job.run(out)[0] == EXIT_COMPLETE
    check_complete(out)


def test_an_output_folder_renamed_midway(tmp_path, job, out):
    """Open files go with it: its rows are kept, and a command that names its new place goes on with them."""
    gate = tmp_path / "gate"
    task = job.start(out, **gated(gate, 3))
    wait_for_rows(task, out, 3)
    moved = out.parent.rename(tmp_path / "moved") / out.name
    gate.touch()
    code, said = ended(task)
    assert code == EXIT_ERROR and re.search(r"if it was moved|was removed or renamed", complaint(said)), said
    assert not out.parent.exists(), "nothing was begun anew in the old place"
    assert 3 <= whole_rows(moved) <= NUM_ROWS
    assert job.run(moved)[0] == EXIT_COMPLETE
    assert len(check_complete(moved)["sessions"]) == 2


def test_a_manifest_replaced_midway(tmp_path, job, out):
    """A file renamed over it is another file: the run ends with the rows it began with, and another run is refused."""
    gate = tmp_path / "gate"
    task = job.start(out, **gated(gate, 3))
    wait_for_rows(task, out, 3)
    rows = read_jsonl(job.manifest)
    other = write_jsonl(tmp_path / "other.jsonl", [{**row, "id": f"x{row['id']}"} for row in reversed(rows)])
    os.replace(other, job.manifest)
    gate.touch()
    assert ended(task)[0] == EXIT_COMPLETE
    check_complete(out)
    code, said = job.run(out)
    assert code == EXIT_USAGE and "holds rows of another run. What differs: manifest: was" in complaint(said)
    check_complete(out)


def test_a_manifest_rewritten_midway(tmp_path, job, out):
    """In place, the rows that are left cannot be trusted: the run stops, and goes on once the old content is back."""
    gate = tmp_path / "gate"
    task = job.start(out, **gated(gate, 3))
    wait_for_rows(task, out, 3)
    content = job.manifest.read_bytes()
    job.manifest.write_bytes(content + content.splitlines(keepends=True)[0])
    gate.touch()
    code, said = ended(task)
    assert code == EXIT_USAGE
    assert f"{job.manifest}: the manifest changed since it was opened; leave it alone during a run" in complaint(said)
    assert 3 <= whole_rows(out) < NUM_ROWS
    job.manifest.write_bytes(content)
    assert job.run(out)[0] == EXIT_COMPLETE
    assert [session["outcome"] for session in check_complete(out)["sessions"]] == ["error", "complete"]


def test_a_manifest_touched_midway(tmp_path, job, out, cli):
    """Another time is no other content: for a run that goes on, one that is resumed, and those who read its files."""
    gate = tmp_path / "gate"
    chunks = ("--num-chunks", 2, "--chunk-id")
    task = job.start(out, *chunks, 0, **gated(gate, 3))
    rows = out.with_name("out.chunk-00000-of-00002.jsonl")
    wait_for_rows(task, rows, 3)
    os.utime(job.manifest, ns=(1, 1))
    gate.touch()
    assert ended(task)[0] == EXIT_COMPLETE
    gate.unlink()
    task = job.start(out, *chunks, 1, **gated(gate, 3))
    wait_for_rows(task, out.with_name("out.chunk-00001-of-00002.jsonl"), 3)
    task.kill()
    task.communicate()
    os.utime(job.manifest, ns=(2, 2))
    assert job.run(out, *chunks, 1)[0] == EXIT_COMPLETE
    os.utime(job.manifest, ns=(3, 3))
    for command in (("status", out), ("merge-shards", out, "--manifest", job.manifest)):
        done = cli(*command)
        assert done.returncode == EXIT_COMPLETE, done.stderr
    check_rows([out], range(NUM_ROWS))
