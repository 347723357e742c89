"""`--devices`: worker processes that share a process's rows, die, and lose nothing; on cores where
there are no GPUs.
"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import worker_engines
from beep_engine import RATE
from conftest import REPO, read_jsonl, write_jsonl
from processes import command_line, descendants, wait_until
from run_output import EXACT, stable, wait_for_rows

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.devices import Device, choose_slots
from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EXIT_WORKER_DIED,
    AsrbatchError,
    EngineStartError,
    UsageError,
)
from asrbatch.pipeline.monitor import Answered
from asrbatch.runs.progress import Observer, Stop
from asrbatch.runs.runner import run
from asrbatch.runs.workers import pool

CPU = Device("cpu", "some chip, 2 cores", True, 8 * 2**30)
GPU = Device("cuda", "some GPU", True)
CORES = sorted(os.sched_getaffinity(0))
BEGINS = CORES[0], CORES[len(CORES) // 2]  # the first core of each of two shares
needs_two_cores = pytest.mark.skipif(
    len(CORES) < 2 and not os.environ.get("CI"), reason="needs a machine with two cores"
)


def beeps(bursts: int) -> np.ndarray:
    tone = np.sin(np.arange(1600) * 0.3).astype(np.float32) * 0.5
    return np.concatenate([np.concatenate([tone, np.zeros(2400, np.float32)]) for _ in range(bursts)])


@pytest.fixture
def manifest(tmp_path) -> Path:
    """40 files with 1 to 7 bursts; one is missing, one travels inside the manifest."""
    rows = []
    for index in range(40):
        samples = beeps(1 + index % 7)
        soundfile.write(tmp_path / f"{index}.wav", samples, RATE)
        rows.append(
            {"audio_filepath": f"{index}.wav", "id": f"row-{index}", "duration": len(samples) / RATE, "note": index}
        )
    rows[3]["audio_filepath"] = "nowhere.wav"
    file = io.BytesIO()
    soundfile.write(file, beeps(1 + 5 % 7), RATE, format="FLAC")
    rows[5]["audio_filepath"] = "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()
    return write_jsonl(tmp_path / "m.jsonl", rows)


class Said(Observer):
    def __init__(self):
        self.lines, self.most_in_engine, self.capacity = [], 0, 0

    def log(self, line):
        self.lines.append(line)

    def update(self, progress):
        self.most_in_engine = max(self.most_in_engine, progress.in_engine)
        self.capacity = max(self.capacity, progress.capacity)


@pytest.fixture
def transcribe_on(tiny_en, manifest, tmp_path, monkeypatch):
    """Runs the manifest on worker processes with the tone-burst engine."""
    monkeypatch.setenv("PYTHONPATH", f"{REPO}/tests")
    monkeypatch.setenv("BEEP_LOG", str(tmp_path / "submitted"))
    monkeypatch.setenv("BEEP_FIRST_CORE", str(CORES[0]))

    def call(devices="0,1", fate="", observer=None, stop=None, **options):
        monkeypatch.setenv("BEEP_FATE", fate)
        config = RunConfig(
            manifest=str(manifest),
            engine=EngineConfig(model=tiny_en),
            output=str(tmp_path / "out.jsonl"),
            devices=devices,
            **{"workers": 1, **options},
        )
        return run(config, observer, stop, start=worker_engines.start)

    call.submitted = lambda: [
        tuple(map(int, line.split())) for line in (tmp_path / "submitted").read_text().splitlines()
    ]
    call.out = tmp_path / "out.jsonl"
    call.session = lambda: json.loads((tmp_path / "out.run.json").read_text())["sessions"][-1]
    return call


def check_rows(path: Path, failed: dict[int, str]) -> None:
    rows = read_jsonl(path)
    assert sorted(row["index"] for row in rows) == list(range(40)), "every row exactly once"
    for row in rows:
        assert row["id"] == f"row-{row['index']}" and row["note"] == row["index"]
        if row["index"] in failed:
            assert row["error"]["kind"] == failed[row["index"]]
        else:
            assert row["pred_text"] == " ".join(["beep"] * (1 + row["index"] % 7)), row


@needs_two_cores
def test_rows_are_shared_and_each_is_written_once(transcribe_on, tmp_path):
    said = Said()
    summary = transcribe_on(observer=said, fate="together")
    assert summary.exit_code == EXIT_ROWS_FAILED and summary.outcome == "complete"
    check_rows(transcribe_on.out, {3: "missing"})
    by_core = Counter(core for core, _, _ in transcribe_on.submitted())
    # How many more than it holds at once a worker gets is for its core to say, which others may use.
    assert set(by_core) == set(BEGINS) and min(by_core.values()) >= 4, "each on its own core"
    assert said.capacity == 8 and said.most_in_engine > 4, "one progress over both"
    session = transcribe_on.session()
    assert session["num_devices"] == 2 and session["workers_died"] == 0 and session["engine"]["devices"] == ["0", "1"]
    assert 0 < session["engine_s"] <= session["loop_s"] + 0.5 and session["rows"] == 40 and session["read_s"] > 0
    # What the rows had of both engines, as the mean that `engine_s` is.
    shares = Counter()
    for row in read_jsonl(transcribe_on.out):
        shares[row["status"]] += row["timing"]["engine"] / 2
    assert (session["ok_engine_s"], session["failed_engine_s"]) == pytest.approx((shares["ok"], 0.0), abs=0.002)
    assert 0 < session["ok_engine_s"] <= session["engine_s"] + 0.5
    assert not (tmp_path / "out.inflight").exists()
    assert transcribe_on().outcome == "already_complete"


@needs_two_cores
@pytest.mark.parametrize("fate", ["one death", "death told"])
def test_a_worker_that_dies_takes_nothing_with_it(transcribe_on, fate):
    said = Said()
    summary = transcribe_on(fate=fate, observer=said)
    assert summary.exit_code == EXIT_WORKER_DIED
    check_rows(transcribe_on.out, {3: "missing"} | ({7: "engine_crash"} if fate == "death told" else {}))
    died = transcribe_on.session()["workers_died"]
    assert died == (1 if fate == "one death" else 4)
    reason = r"signal 9" if fate == "one death" else "killed by row 7"
    assert sum(reason in line and "its rows are done again" in line for line in said.lines) == died
    assert transcribe_on().exit_code == EXIT_ROWS_FAILED, "the run itself is complete"


@needs_two_cores
def test_a_poisonous_row_is_given_up_and_no_other(transcribe_on):
    summary = transcribe_on(fate="poison")
    assert summary.exit_code == EXIT_WORKER_DIED and transcribe_on.session()["workers_died"] >= 4
    check_rows(transcribe_on.out, {3: "missing", 7: "engine_crash"})
    pids = [pid for _, pid, index in transcribe_on.submitted() if index == 7]
    assert len(pids) == len(set(pids)) >= 4
    alone = [[index for _, each, index in transcribe_on.submitted() if each == pid][-1] for pid in pids[-2:]]
    assert alone == [7, 7], "nothing was given to the workers that ran it alone"
    assert {core for core, pid, _ in transcribe_on.submitted() if pid in pids[-2:]} == set(BEGINS), "one on each device"
    transcribe_on(retry_failed=True)
    check_rows(transcribe_on.out, {3: "missing"})


@needs_two_cores
def test_a_sick_device_costs_no_row_its_transcript(transcribe_on):
    """One device dies after every five windows; the other is well, and must be the one that judges the rows."""
    said = Said()
    assert transcribe_on(fate="one sick", observer=said).exit_code == EXIT_WORKER_DIED
    check_rows(transcribe_on.out, {3: "missing"})
    assert transcribe_on.session()["workers_died"] <= 3, "and it is retired"


@needs_two_cores
def test_a_death_in_the_first_batch_does_not_retire_a_device(transcribe_on):
    said = Said()
    assert transcribe_on(fate="first batch", observer=said).exit_code == EXIT_WORKER_DIED
    check_rows(transcribe_on.out, {3: "missing"})
    assert len({pid for _, pid, _ in transcribe_on.submitted()}) >= 3, "they were started again"


@needs_two_cores
def test_a_row_that_killed_an_engine_and_then_hangs_one_ends_the_hang(transcribe_on):
    transcribe_on(fate="dies, then hangs", hang_timeout_s=2.0)
    check_rows(transcribe_on.out, {3: "missing", 7: "engine_crash"})


@needs_two_cores
def test_a_start_that_fails_once_is_tried_again(transcribe_on):
    said = Said()
    assert transcribe_on(fate="fails once", observer=said).exit_code == EXIT_WORKER_DIED
    check_rows(transcribe_on.out, {3: "missing"})
    assert any("address already in use" in line and "it is started again" in line for line in said.lines)


@needs_two_cores
def test_an_exception_that_does_not_travel_is_told_in_words(transcribe_on):
    with pytest.raises(AsrbatchError, match="CannotBeLoaded: a defect that does not travel"):
        transcribe_on(fate="odd exception")


@needs_two_cores
def test_one_worker_that_does_not_start_leaves_the_rows_to_the_others(transcribe_on):
    said = Said()
    assert transcribe_on(fate="one starts", observer=said).exit_code == EXIT_WORKER_DIED
    check_rows(transcribe_on.out, {3: "missing"})
    assert {core for core, _, _ in transcribe_on.submitted()} == {CORES[0]}
    assert any("device 1" in line and "it is started again" in line for line in said.lines)


@needs_two_cores
def test_no_worker_at_all_is_an_error(transcribe_on):
    with pytest.raises(EngineStartError, match="not on these cores"):
        transcribe_on(fate="none starts")
    assert transcribe_on.session()["outcome"] == "error"
    assert transcribe_on().exit_code == EXIT_ROWS_FAILED, "and the same command goes on"


@needs_two_cores
def test_workers_that_do_not_come_up_are_not_waited_for_for_ever(transcribe_on, monkeypatch):
    monkeypatch.setattr(pool, "MOST_START_S", 3.0)
    with pytest.raises(EngineStartError, match="device [01]: its process did not start within 3 s"):
        transcribe_on(fate="none comes up", hang_timeout_s=0.5)
    # Each at least once: one may be tried again before the other is given up.
    assert transcribe_on.session()["workers_died"] >= 2 and transcribe_on.session()["outcome"] == "error"


@needs_two_cores
def test_a_defect_in_a_worker_is_raised_and_logged(transcribe_on, tmp_path):
    with pytest.raises((ValueError, AsrbatchError), match="not a death: a defect"):
        transcribe_on(fate="wrong option")
    assert "Traceback" in (tmp_path / "out.log").read_text()


@needs_two_cores
def test_an_idle_device_doubles_what_waits_behind_a_busy_one(transcribe_on):
    """One worker takes its rows one by one, slowly; what waits there at the end is done by the
    other, and counts once.
    """
    transcribe_on(fate="one slow", max_windows=12)
    check_rows(transcribe_on.out, {3: "missing"})
    twice = [index for index, times in Counter(index for _, _, index in transcribe_on.submitted()).items() if times > 1]
    by_core = Counter(core for core, _, _ in transcribe_on.submitted())
    assert by_core[BEGINS[1]] > by_core[BEGINS[0]]
    assert 1 <= len(twice) <= 12


@needs_two_cores
def test_a_device_that_hangs_does_not_hold_up_the_end(transcribe_on):
    assert transcribe_on(fate="one hangs").exit_code == EXIT_ROWS_FAILED
    check_rows(transcribe_on.out, {3: "missing"})


@needs_two_cores
def test_one_recording_moves_the_bar_and_none_of_its_seconds_counts_twice(transcribe_on, tmp_path):
    """Both workers have it, because one would be idle."""
    samples = np.tile(beeps(1), 600)
    soundfile.write(tmp_path / "long.wav", samples, RATE)
    length_s = len(samples) / RATE
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "long.wav", "duration": length_s}])
    steps, seen = [], []

    class Watches(Observer):
        def starting(self, step, seconds):
            steps.append(step)

        def update(self, progress):
            seen.append((progress.stated_s + progress.open_s, progress.tally.rows + progress.open_rows))

    transcribe_on(fate="together", observer=Watches(), windows="sequential")
    assert len({core for core, _, _ in transcribe_on.submitted()}) == 2
    for values, total in zip(zip(*seen, strict=True), (length_s, 1.0), strict=True):
        assert list(values) == sorted(values) and values[-1] == pytest.approx(total)
        assert len({value for value in values if 0 < value < 0.99 * total}) >= 2
    told = list(dict.fromkeys(steps))
    assert told[:2] == ["checking the model", "reading the manifest"] and told[-2:] == [
        "starting the processes",
        "tuning in",
    ]


def test_of_a_row_that_two_workers_hold_the_one_that_is_farther_counts():
    slow, fast, alone = Answered(30.0, None), Answered(90.0, 150.0), Answered(5.0, 60.0)
    assert pool._farthest([{0: slow}, {}, {0: fast, 1: alone}]) == {0: fast, 1: alone}
    assert pool._farthest([{0: fast}, {0: slow}]) == {0: fast}


@needs_two_cores
def test_a_stop_drains_all_workers(transcribe_on):
    stop = Stop()
    seen = threading.Event()

    class StopsAtTheFirstRow(Observer):
        def update(self, progress):
            if progress.tally.rows >= 3 and not seen.is_set():
                seen.set()
                stop.request()

    summary = transcribe_on(fate="slow", observer=StopsAtTheFirstRow(), stop=stop, max_windows=4)
    assert summary.exit_code == EXIT_INTERRUPTED
    written = {row["index"] for row in read_jsonl(transcribe_on.out)}
    submitted = {index for _, _, index in transcribe_on.submitted()}
    assert submitted <= written and 3 <= len(written) < 40, "what reached an engine is written"
    assert transcribe_on.session()["outcome"] == "interrupted"
    assert transcribe_on().exit_code == EXIT_ROWS_FAILED
    check_rows(transcribe_on.out, {3: "missing"})


@needs_two_cores
def test_a_stop_before_the_engines_are_up_ends_at_once(transcribe_on):
    stop = Stop()
    stop.request()
    assert transcribe_on(stop=stop).exit_code == EXIT_INTERRUPTED
    assert read_jsonl(transcribe_on.out) == []


@needs_two_cores
def test_more_devices_than_rows_and_a_chunk(transcribe_on, tmp_path):
    for chunk_id in range(30):
        transcribe_on(num_chunks=30, chunk_id=chunk_id, strategy="strided") if chunk_id in (0, 29) else None
    rows = read_jsonl(tmp_path / "out.chunk-00000-of-00030.jsonl")
    assert sorted(row["index"] for row in rows) == [0, 30]
    assert [row["index"] for row in read_jsonl(tmp_path / "out.chunk-00029-of-00030.jsonl")] == [29]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("0,0", "0 is given twice"),
        ("0,", "write it as 0,1,2,3 or all"),
        ("1,2", "count from 0"),
        ("cuda:0", "count from 0"),
        (",".join(map(str, range(len(CORES) + 1))), "cores"),
    ],
)
def test_devices_that_are_not_there_on_a_machine_without_gpus(asked, message):
    with pytest.raises(UsageError, match=message):
        choose_slots(asked, CPU, {})


@pytest.mark.parametrize("asked", ["3", "GPU-other", "x", "0,all"])
def test_gpus_that_are_not_visible(asked, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-abc")
    with pytest.raises(UsageError, match="there is no GPU"):
        choose_slots(asked, GPU, {})


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_no_gpu_at_all_is_an_error(visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for asked in ("all", "0"):
        with pytest.raises(UsageError, match="no GPU is visible"):
            choose_slots(asked, GPU, {})


def test_gpus_are_those_this_process_may_see(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-abc")
    slots = choose_slots("all", GPU, {})
    assert [(s.name, s.environment["CUDA_VISIBLE_DEVICES"]) for s in slots] == [
        ("0", "4"),
        ("1", "5"),
        ("2", "GPU-abc"),
    ]
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in choose_slots("GPU-abc,0", GPU, {})] == ["GPU-abc", "4"]
    with pytest.raises(UsageError, match="2 and GPU-abc are one GPU"):
        choose_slots("2,GPU-abc", GPU, {})
    assert all(s.cores == tuple(CORES) for s in slots)


def test_cores_and_memory_are_shared_out():
    slots = choose_slots(",".join(map(str, range(len(CORES)))), CPU, {})
    assert [core for slot in slots for core in slot.cores] == CORES
    assert {slot.device.memory_bytes for slot in slots} == {8 * 2**30 // len(CORES)}
    assert [slot.cores for slot in choose_slots("all", CPU, {})] == [tuple(CORES)]
    assert choose_slots(None, CPU, {}) == []


def test_an_engine_of_several_devices_is_refused():
    with pytest.raises(UsageError, match="tensor_parallel_size=2 needs several devices"):
        choose_slots("0,1", GPU, {"tensor_parallel_size": 2})


@needs_two_cores
def test_real_engines_one_killed_give_the_rows_of_a_run_in_one_process(
    start_cli, transcribe, tiny_en, demo_rows, tmp_path
):
    short = [row for row in demo_rows if row["duration"] < 8]
    rows = [{**short[i % len(short)], "id": f"row-{i}"} for i in range(9)]
    rows[5]["audio_filepath"] = "nowhere.wav"
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    options = {"args": ("max_num_seqs=1",), "word_timestamps": True}
    whole = transcribe(manifest, tiny_en, tmp_path / "whole.jsonl", **options)
    out = tmp_path / "out.jsonl"
    command = ["transcribe", manifest, "-m", tiny_en, "-o", out, *EXACT, "--word-timestamps", "--devices", "0,1"]
    process = start_cli(*command)
    wait_for_rows(process, out, 3)
    workers = [pid for pid in descendants(process.pid) if is_worker(pid)]
    assert len(workers) == 2
    assert sorted(os.sched_getaffinity(pid) != set(CORES) for pid in workers) == [True, True]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == EXIT_WORKER_DIED, stderr
    assert "signal 9" in stderr and "Traceback" not in stderr and "complete: 9 rows" in stderr
    assert stable(out) == stable(whole.paths.rows)
    assert all(segment["words"] for row in read_jsonl(out) for segment in row["segments"] or ())
    assert json.loads((tmp_path / "out.run.json").read_text())["sessions"][-1]["workers_died"] == 1


RUNS = """
import sys
import worker_engines
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.runs.runner import run
manifest, model, output = sys.argv[1:]
engine = EngineConfig(model=model)
run(RunConfig(manifest=manifest, engine=engine, output=output, devices="0,1", workers=1), start=worker_engines.start)
"""


@needs_two_cores
def test_workers_end_with_their_parent(transcribe_on, tiny_en, manifest):
    """`transcribe_on` has set what the engines read from the environment."""
    command = [sys.executable, "-c", RUNS, manifest, tiny_en, transcribe_on.out]
    process = subprocess.Popen(command, env={**os.environ, "BEEP_FATE": "slow"})
    wait_for_rows(process, transcribe_on.out, 1)
    left = descendants(process.pid)
    assert len([pid for pid in left if is_worker(pid)]) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(lives, left)))


def is_worker(pid: int) -> bool:
    return b"asrbatch.runs.workers.worker" in command_line(pid)


def lives(pid: int) -> bool:
    return b"asrbatch" in command_line(pid)


def test_exit_code_of_a_clean_run(transcribe_on, manifest):
    rows = [row for row in read_jsonl(manifest) if row["note"] != 3]
    write_jsonl(manifest, rows)
    assert transcribe_on(devices="0").exit_code == EXIT_COMPLETE
