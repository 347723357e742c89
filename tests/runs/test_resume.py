"""Runs that are killed, stopped, doubled or poisoned, as real commands: nothing is lost, nothing is written twice."""

import dataclasses
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from beep_engine import DiesOn
from conftest import read_jsonl, write_jsonl
from processes import command_line, descendants
from run_output import EXACT, stable, wait_for_rows

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.engine import start_engine
from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_HELD,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EXIT_USAGE,
    EngineDiedError,
)
from asrbatch.runs.runner import run


@pytest.fixture(scope="module")
def manifest(demo_rows, tmp_path_factory) -> Path:
    """30 rows of a few seconds each; one of them fails."""
    short = [row for row in demo_rows if row["duration"] < 8]
    rows = [{**short[i % len(short)], "id": f"row-{i}"} for i in range(30)]
    rows[5]["audio_filepath"] = "nowhere.wav"
    return write_jsonl(tmp_path_factory.mktemp("resume") / "m.jsonl", rows)


def test_killed_and_then_stopped_the_rows_are_those_of_an_uninterrupted_run(
    start_cli, cli, transcribe, tiny_en, manifest, tmp_path
):
    manifest = write_jsonl(tmp_path / "m.jsonl", read_jsonl(manifest)[:8])
    whole = transcribe(manifest, tiny_en, tmp_path / "whole.jsonl", args=("max_num_seqs=1",))
    out, record = tmp_path / "out.jsonl", tmp_path / "out.run.json"
    command = ("transcribe", manifest, "-m", tiny_en, "-o", out, *EXACT)
    process = start_cli(*command)
    wait_for_rows(process, out, 1)
    os.killpg(process.pid, signal.SIGSTOP)  # or it would be at its end by then
    second = cli(*command)
    assert second.returncode == EXIT_HELD, "a second writer is refused"
    assert re.search(rf"process {process.pid} on .* is writing this output", second.stderr)
    assert "Traceback" not in second.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = out.read_bytes()
    before = before[: before.rindex(b"\n") + 1]
    with open(out, "ab") as file:
        file.write(b'{"id": "row-7", "index": 7, "status": "o')  # as a kill within a write leaves it

    code, shown = on_a_terminal(
        *command, stop_after=lambda process: wait_for_rows(process, out, before.count(b"\n") + 1)
    )
    assert code == EXIT_INTERRUPTED, shown
    check_shown(shown, out)
    assert len(read_jsonl(out)) < 8 and not (tmp_path / "out.done.json").exists()

    last = transcribe(manifest, tiny_en, out, args=("max_num_seqs=1",))
    assert last.exit_code == EXIT_ROWS_FAILED
    assert out.read_bytes().startswith(before)
    assert stable(out) == stable(whole.paths.rows) and sorted(stable(out)) == list(range(8))
    sessions = json.loads(record.read_text())["sessions"]
    assert [s["outcome"] for s in sessions] == [None, "interrupted", "complete"]
    assert sum(s.get("rows", 0) for s in sessions) <= 8
    assert json.loads((tmp_path / "out.done.json").read_text())["rows"] == 8


def on_a_terminal(*arguments, stop_after) -> tuple[int, str]:
    """Runs the command on a real pseudo-terminal, and tells it to stop when `stop_after(process)` returns: its exit
    code, and all that it shows.
    """
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    command = [sys.executable, "-m", "asrbatch", *map(str, arguments)]
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""

    def stop() -> None:
        stop_after(process)
        process.send_signal(signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    try:
        while piece := os.read(main, 65536):
            shown += piece
    except OSError:  # the terminal's other end is closed
        pass
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def check_shown(text: str, out: Path) -> None:
    """The bar, the summary, and no line that vLLM or torch printed."""
    assert re.search(r"[2-7]/8 rows", text) and "starved" in text and str(out) in text
    assert "SIGTERM: finishing the windows in the engine" in text and "run the same command to continue" in text
    for word in ("INFO", "WARNING", "Warning", "Triton", "vllm.", "Error"):
        assert word not in text, text
    assert "INFO" in out.with_suffix(".log").read_text()


@pytest.mark.parametrize("moment", ["", "Starting to load model"])
def test_ctrl_c_during_start_up_leaves_at_once(start_cli, tiny_en, manifest, tmp_path, moment):
    process = start_cli("transcribe", manifest, "-m", tiny_en, "-o", tmp_path / "out.jsonl")
    log = tmp_path / "out.log"
    deadline = time.monotonic() + 300
    while not (log.exists() and moment in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == EXIT_INTERRUPTED, stderr
    assert time.monotonic() - started < 40
    assert "stopped by SIGINT" in stderr and "Traceback" not in stderr
    assert json.loads((tmp_path / "out.run.json").read_text())["sessions"][-1]["outcome"] == "interrupted"
    assert not (tmp_path / "out.lease").exists()


def test_a_mistyped_option_does_not_lock_the_output(cli, transcribe, tiny_en, demo_rows, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", demo_rows[1:2])
    wrong = cli("transcribe", manifest, "-m", tiny_en, "-o", tmp_path / "out.jsonl", "--engine-arg", "max_num_seq=4")
    assert wrong.returncode == EXIT_USAGE and "did you mean max_num_seqs?" in wrong.stderr
    whole = transcribe(manifest, tiny_en, tmp_path / "out.jsonl", args=("max_num_seqs=1",))
    assert whole.exit_code == EXIT_COMPLETE


def test_an_engine_process_drains_at_ctrl_c_and_ends_with_a_killed_run(start_cli, tiny_en, manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ("--engine-mode", "process", "--engine-arg", "max_num_seqs=4")
    command = ("transcribe", manifest, "-m", tiny_en, "-o", out, *options)
    process = start_cli(*command)
    wait_for_rows(process, out, 2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the engine process gets it too
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == EXIT_INTERRUPTED, stderr
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert record["sessions"][-1]["outcome"] == "interrupted"
    written = len(stable(out))
    assert 2 <= written < 30

    process = start_cli(*command)
    wait_for_rows(process, out, written + 1)
    engines = [pid for pid in descendants(process.pid) if is_engine(pid)]
    assert engines
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(is_engine(pid) for pid in engines) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_engine(pid) for pid in engines), "a killed run leaves no engine behind that holds the memory"


def test_the_death_of_an_engine_process_is_an_error(tiny_en, manifest, tmp_path):
    out = tmp_path / "out.jsonl"
    engine = EngineConfig(model=tiny_en, mode="process", args=("max_num_seqs=4",))
    others, killed_at, deaths = set(filter(is_engine, descendants(os.getpid()))), [], []

    def start(spec, deliver, on_step):
        def deliver_when_all_know(key, outcome) -> None:
            if isinstance(outcome, EngineDiedError):
                deaths.append(key)
                if len(deaths) < 4:  # as many as are in a step
                    return
            deliver(key, outcome)

        return start_engine(spec, deliver_when_all_know, on_step)

    def kill() -> None:
        while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        (core,) = set(filter(is_engine, descendants(os.getpid()))) - others
        killed_at.append(time.monotonic())
        os.kill(core, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    written = r"Run the same command to continue \(\d+ of 30 rows written\)"
    with pytest.raises(EngineDiedError, match=rf"engine process died.*; the log is {tmp_path}/out\.log\. {written}"):
        run(RunConfig(manifest=str(manifest), engine=engine, output=str(out), hang_timeout_s=60.0), start=start)
    assert time.monotonic() - killed_at[0] < 40 and len(set(deaths) - {None}) >= 4
    assert json.loads((tmp_path / "out.run.json").read_text())["sessions"][-1]["outcome"] == "engine_died"
    assert 2 <= len(stable(out)) < 30


def is_engine(pid: int) -> bool:
    return b"EngineCore" in command_line(pid)


def test_a_poisonous_row_stops_the_run_three_times_and_never_again(tiny_en, demo_rows, tmp_path):
    rows = [{**demo_rows[1], "id": f"row-{i}"} for i in range(16)]
    config = RunConfig(
        manifest=str(write_jsonl(tmp_path / "m.jsonl", rows)),
        engine=EngineConfig(model=tiny_en),
        output=str(tmp_path / "out.jsonl"),
    )
    deadly = DiesOn(7)
    for _ in range(3):
        with pytest.raises(EngineDiedError, match="killed by row 7; the log is .*") as died:
            run(config, start=deadly)
        written = len(read_jsonl(tmp_path / "out.jsonl"))
        assert str(died.value).endswith(f". Run the same command to continue ({written} of 16 rows written)")
    assert deadly.held_at_death[-1] == {7}, "the third time it was alone"
    assert 8 <= len(read_jsonl(tmp_path / "out.jsonl")) <= 15, "the others go on meanwhile"
    summary = run(config, start=deadly)
    assert summary.exit_code == EXIT_ROWS_FAILED and len(read_jsonl(tmp_path / "out.jsonl")) == 16
    (failed,) = [row for row in summary.rows() if row["status"] == "failed"]
    assert (failed["index"], failed["error"]["kind"]) == (7, "engine_crash")
    deadly.index = 99  # as if the engine had been mended
    config = dataclasses.replace(config, retry_failed=True)
    assert run(config, start=deadly).exit_code == EXIT_COMPLETE, "asked to, it tries again"


def test_kills_are_told_as_kills(tiny_en, demo_rows, tmp_path):
    """Of three rows two were in flight at kills: six before the row ran alone often enough, and seven."""
    rows = [{**demo_rows[1], "id": f"row-{i}"} for i in range(3)]
    manifest, output = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out.jsonl"
    config = RunConfig(manifest=str(manifest), engine=EngineConfig(model=tiny_en), output=str(output))
    well = DiesOn(99)
    assert run(config, start=well).exit_code == EXIT_COMPLETE
    (tmp_path / "out.done.json").unlink()
    output.write_bytes(output.read_bytes().splitlines(keepends=True)[0])
    spared, given_up = {0, 1, 2} - {row["index"] for row in read_jsonl(output)}
    record = json.loads((tmp_path / "out.run.json").read_text())
    record["kills"] = {str(spared): [6, 2], str(given_up): [7, 3]}
    (tmp_path / "out.run.json").write_text(json.dumps(record))
    summary = run(config, start=well)
    (failed,) = [row for row in summary.rows() if row["status"] == "failed"]
    assert (failed["index"], failed["error"]["kind"]) == (given_up, "killed")
    assert "asrbatch was killed 3 times while this row alone was in the engine" in failed["error"]["message"]
    assert json.loads((tmp_path / "out.run.json").read_text())["kills"] == {str(spared): [6, 2]}
    assert run(dataclasses.replace(config, retry_failed=True), start=well).exit_code == EXIT_COMPLETE


def test_an_empty_rest_needs_no_engine(tiny_en, tmp_path, demo_rows):
    """All rows are there but the completion mark is not: the session only marks the run complete."""
    config = RunConfig(
        manifest=str(write_jsonl(tmp_path / "m.jsonl", demo_rows[1:2])),
        engine=EngineConfig(model=tiny_en),
        output=str(tmp_path / "out.jsonl"),
    )
    assert run(config, start=DiesOn(99)).exit_code == EXIT_COMPLETE
    (tmp_path / "out.done.json").unlink()

    def never(*args, **options):
        raise AssertionError("the engine was started for nothing")

    assert run(config, start=never).outcome == "complete"
    assert (tmp_path / "out.done.json").exists()
