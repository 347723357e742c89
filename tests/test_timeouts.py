"""Time-outs count the time in which this process runs.

Tried: everything in asrbatch that waits with a time-out, in a process that is stopped (SIGSTOP) for longer than it may
wait. Before, the clock ran on:

| waits for | before | now |
|---|---|---|
| a block of a decoder | `decode_timeout`, tried again | decoded |
| a command in place of a file | `unreadable`: took longer | read |
| a beat of a foreign lease | taken over | the holder is alive |
| an answer of the engine | `EngineDiedError`: it hangs | the answer |
| the end of what is in the engine, at a stop | let go | written |
| an engine, or a worker, that starts | waited for ever | up; where it hangs, an error after half an hour |
| a sign of life of a worker | its death, and that of its rows | the row, nobody died |
"""

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import PYTHON, REPO
from processes import state, wait_until
from stopped_waits import CASES, STOPPED_S, TIMEOUT_S

from asrbatch import timeouts
from asrbatch.engine.environment import start_aside
from asrbatch.errors import EngineStartError
from asrbatch.timeouts import running_s, waited


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tiny_en) -> dict[str, str]:
    """What came of every case; all at once, because each stands still most of the time."""

    folders = {case: tmp_path_factory.mktemp(case) for case in CASES}

    def outcome(case: str) -> str:
        folder = folders[case]
        command = [PYTHON, REPO / "tests/stopped_waits.py", case, folder, tiny_en]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: state(process.pid) in ("T", "Z"), 120)
        assert state(process.pid) == "T", f"{case} ended before it was stopped: {process.communicate()}"
        time.sleep(STOPPED_S)
        os.kill(process.pid, signal.SIGCONT)
        (folder / "gate").touch()
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        return stdout.strip()

    with ThreadPoolExecutor(len(CASES)) as pool:
        return dict(zip(CASES, pool.map(outcome, CASES), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_stop_counts_for_no_time_out(outcomes, case):
    assert STOPPED_S > TIMEOUT_S
    assert outcomes[case] == CASES[case][1]


def test_an_engine_that_does_not_come_up_is_an_error():
    with pytest.raises(EngineStartError, match=r"the engine did not start within 0\.1 s"):
        start_aside(threading.Event().wait, 0.1)


def test_a_step_counts_as_a_second_at_most(monkeypatch):
    clock = iter([10.0, 10.4, 700.0, 700.5])
    monkeypatch.setattr(timeouts, "_last_look", (10.0, 0.0))
    monkeypatch.setattr(timeouts, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert [running_s() for _ in range(4)] == pytest.approx([0.0, 0.4, 1.4, 1.9])


@pytest.mark.parametrize("timeout_s", [0.0, 0.05, 2.5])
def test_what_is_waited_for_is_asked_every_second(timeout_s, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(timeouts, "_last_look", (0.0, 0.0))
    monkeypatch.setattr(timeouts, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds):
        asked.append(seconds)
        now[0] += seconds
        return None

    assert waited(wait, timeout_s) is None
    assert sum(asked) == pytest.approx(timeout_s) and max(asked) <= 1.0
    assert waited(lambda seconds: "there", 1e12) == "there"
