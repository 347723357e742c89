"""Whatever in asrbatch waits with a time-out, in a process that stops itself meanwhile.

`python tests/stopped_waits.py CASE FOLDER MODEL` begins to wait, with a time-out of `TIMEOUT_S`, and stops as a
suspended SLURM job does. Whoever continues it then
makes the file FOLDER/gate, and what it waits for is there. It prints what came of it.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from beep_engine import BeepEngine
from beep_pipeline import Limits, Run
from beep_run import beep_manifest
from processes import descendants

from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import Decoder, DecodeRequest
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine.environment import start_aside
from asrbatch.errors import AsrbatchError, LeaseError, RowError
from asrbatch.manifest.readers import base
from asrbatch.runs.runner import run
from asrbatch.runs.workers import pool
from asrbatch.storage.lease import Lease
from asrbatch.types import AudioRef, Utterance

TIMEOUT_S = 3.0
STOPPED_S = 3.5


def stop_soon(folder: Path, then=lambda: None) -> None:
    """Stops this process and all it started, while its main thread waits; does `then` when the gate is there."""

    def work():
        time.sleep(0.3)
        started = descendants(os.getpid())
        send(signal.SIGSTOP, started)
        send(signal.SIGSTOP, [os.getpid()])
        wait_at(folder / "gate")
        send(signal.SIGCONT, started)
        then()

    threading.Thread(target=work, daemon=True).start()


def send(signal_number: int, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal_number)


def wait_at(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.01)


def one_row(folder: Path) -> Utterance:
    beep_manifest(folder, 1)
    return Utterance(0, "u0", AudioRef("1.wav", str(folder / "1.wav")), duration_s=0.25)


def decoding(folder: Path, model: str) -> str:
    one_row(folder)
    decoder = Decoder(timeout_s=TIMEOUT_S)
    decoder.start()
    os.kill(decoder._process.pid, signal.SIGSTOP)  # or it would be faster
    stop_soon(folder)
    try:
        blocks = list(decoder.stream(DecodeRequest(str(folder / "1.wav"), Clip("1.wav"), 16000)))
    except RowError as e:
        return str(e)
    return "decoded" if sum(map(len, blocks)) else "nothing"


def a_command_in_place_of_a_file(folder: Path, model: str) -> str:
    base.TIMEOUT_S = TIMEOUT_S
    stop_soon(folder)
    try:
        return base.run_pipe("until [ -e gate ]; do sleep 0.05; done; printf read", "row 0", str(folder)).decode()
    except RowError as e:
        return str(e)


def watching_a_lease(folder: Path, model: str) -> str:
    path = folder / "x.lease"
    holder = {"token": "a", "host": "elsewhere", "pid": 1, "beat": 1}
    path.write_text(json.dumps(holder))
    stop_soon(folder, lambda: path.write_text(json.dumps({**holder, "beat": 2})))
    try:
        Lease(path, stale_after_s=TIMEOUT_S).release()
    except LeaseError:
        return "alive"
    return "taken over"


def an_answer(folder: Path, model: str) -> str:
    with Run(limits=Limits(8, 1e9, 10.0, TIMEOUT_S), fate=lambda key: wait_at(folder / "gate")) as loop:
        stop_soon(folder)
        try:
            loop.pipeline.run(iter([one_row(folder)]))
        except AsrbatchError as e:
            return str(e)
        return loop.rows[0]["pred_text"]


def the_grace_of_a_stop(folder: Path, model: str) -> str:
    with Run(limits=Limits(8, 1e9, TIMEOUT_S), fate=lambda key: wait_at(folder / "gate")) as loop:

        def stop_when_submitted():
            while not loop.submitted:
                time.sleep(0.01)
            loop.pipeline.request_stop()
            stop_soon(folder)

        threading.Thread(target=stop_when_submitted).start()
        loop.pipeline.run(iter([one_row(folder)]))
        return " ".join(row["pred_text"] for row in loop.rows)


def the_start_of_an_engine(folder: Path, model: str) -> str:
    stop_soon(folder)
    try:
        start_aside(lambda: wait_at(folder / "gate"), TIMEOUT_S)
    except AsrbatchError as e:
        return str(e)
    return "up"


def worker_engine(spec, deliver, on_step):
    """Comes up, or answers, at the gate."""
    folder = Path(os.environ["STOPPED_FOLDER"])
    if os.environ["STOPPED_CASE"] == "the_start_of_a_worker":
        (folder / "begun").touch()
        wait_at(folder / "gate")

    def answer(key) -> None:
        (folder / "begun").touch()
        wait_at(folder / "gate")

    engine = BeepEngine(deliver, answer)
    engine.facts = {"vllm": "-", "torch": "-", "device": "-"}
    return engine


def on_devices(folder: Path, model: str) -> str:
    os.environ |= {"STOPPED_FOLDER": str(folder), "STOPPED_CASE": sys.argv[1], "PYTHONPATH": str(Path(__file__).parent)}

    def stop_when_begun():
        while not descendants(os.getpid()):
            time.sleep(0.01)
        started = time.monotonic()
        wait_at(folder / "begun")
        # It may take a while until it waits.
        pool.MOST_START_S = time.monotonic() - started + TIMEOUT_S
        stop_soon(folder)

    threading.Thread(target=stop_when_begun, daemon=True).start()
    config = RunConfig(
        manifest=str(beep_manifest(folder, 1)), engine=EngineConfig(model=model), output=str(folder / "out.jsonl"),
        devices="0", workers=1, hang_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    import stopped_waits  # a worker imports it by this name

    summary = run(config, start=stopped_waits.worker_engine)
    return f"{summary.outcome}, {summary.progress.workers_died} died"


CASES = {
    "decoding": (decoding, "decoded"),
    "a_command_in_place_of_a_file": (a_command_in_place_of_a_file, "read"),
    "watching_a_lease": (watching_a_lease, "alive"),
    "an_answer": (an_answer, "beep"),
    "the_grace_of_a_stop": (the_grace_of_a_stop, "beep"),
    "the_start_of_an_engine": (the_start_of_an_engine, "up"),
    "the_start_of_a_worker": (on_devices, "complete, 0 died"),
    "an_answer_of_a_worker": (on_devices, "complete, 0 died"),
}

if __name__ == "__main__":
    print(CASES[sys.argv[1]][0](Path(sys.argv[2]), sys.argv[3]), flush=True)
    os._exit(0)
