"""The `asrbatch` command with a small real function in the engine's place: it counts the tone bursts and says "beep".

For tests of everything around the engine, in processes that are stopped, killed, doubled, or out of space:
`python tests/beep_run.py transcribe MANIFEST -m MODEL -o OUTPUT`. A run takes a second instead of ten, and a lost,
doubled or misplaced row changes the text. Settings come as JSON in the environment variable `BEEP`; see `Settings`.
"""

import functools
import itertools
import json
import logging
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from beep_engine import RATE, BeepEngine
from conftest import read_jsonl, write_jsonl

from asrbatch.engine.base import Engine

NUM_SOUNDS = 7


@dataclass(frozen=True)
class Settings:
    """What a test may say about a command that it starts.

    Attributes:
        answer_s: seconds the engine takes for one window.
        refresh_s, stale_after_s: of the lease.
        record_every_s: how often the run record is refreshed while rows come.
        log_bytes: what the engine logs while it starts, as vLLM does.
        gate: a file that the engine waits for after `answers_before_gate` answers; none when empty.
    """

    answer_s: float = 0.002
    refresh_s: float = 10.0
    stale_after_s: float = 60.0
    record_every_s: float = 30.0
    log_bytes: int = 0
    gate: str = ""
    answers_before_gate: int = 0

    def environment(self) -> dict[str, str]:
        return {**os.environ, "BEEP": json.dumps(vars(self))}


def start_beeps(spec, deliver, on_step, *, settings: Settings = Settings()) -> Engine:
    """Takes what `engine.start_engine` takes."""
    if settings.log_bytes:
        logging.getLogger("beeps").warning("x" * settings.log_bytes)
    answers, closed = itertools.count(), threading.Event()

    def wait_at_gate(key) -> None:
        if settings.gate and next(answers) >= settings.answers_before_gate:
            while not os.path.exists(settings.gate) and not closed.wait(0.01):
                pass

    engine = BeepEngine(deliver, wait_at_gate, lambda key: settings.answer_s)
    engine.facts, engine.close = {"vllm": "-", "torch": "-", "device": "-"}, closed.set
    return engine


def beep_manifest(folder: Path, num_rows: int, *, durations: str = "all") -> Path:
    """Rows of 1 to 7 tone bursts; row i says `text_of(i)`.

    Args:
        durations: which rows state theirs: `all`, `some` (two of three) or `none`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tone = np.sin(np.arange(1600) * 0.3).astype(np.float32) * 0.5
    burst = np.concatenate([tone, np.zeros(2400, np.float32)])
    for bursts in range(1, NUM_SOUNDS + 1):
        soundfile.write(folder / f"{bursts}.wav", np.tile(burst, bursts), RATE)
    rows = []
    for index in range(num_rows):
        bursts = 1 + index % NUM_SOUNDS
        row = {"id": f"u{index}", "audio_filepath": str(folder / f"{bursts}.wav"), "speaker": f"s{index}"}
        if durations == "all" or (durations == "some" and index % 3):
            row["duration"] = bursts * len(burst) / RATE
        rows.append(row)
    return write_jsonl(folder / "manifest.jsonl", rows)


def text_of(index: int) -> str:
    return " ".join(["beep"] * (1 + index % NUM_SOUNDS))


def check_rows(paths, expected) -> None:
    """The files hold every expected row exactly once, whole and with its own text.

    Args:
        paths: rows files that together are to hold them.
        expected: indices of manifest rows.
    """
    rows = [row for path in paths for row in read_jsonl(path)]
    assert sorted(row["index"] for row in rows) == sorted(expected)
    for row in rows:
        index = row["index"]
        assert (row["id"], row["speaker"], row["status"], row["pred_text"]) == (
            f"u{index}",
            f"s{index}",
            "ok",
            text_of(index),
        )


def main() -> int:
    from asrbatch.cli import app
    from asrbatch.runs import runner, session
    from asrbatch.storage import lease
    from asrbatch.storage.lease import Lease

    settings = Settings(**json.loads(os.environ.get("BEEP", "{}")))
    Lease.__init__.__kwdefaults__.update(refresh_s=settings.refresh_s, stale_after_s=settings.stale_after_s)
    session.RECORD_REFRESH_S = lease.RECORD_REFRESH_S = settings.record_every_s
    runner.run = functools.partial(runner.run, start=functools.partial(start_beeps, settings=settings))
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
