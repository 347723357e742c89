"""Engines for worker processes: the tone-burst counter of test_pipeline, and ways for it to die.

A worker imports `start` by its name, so what a test wants of it travels in environment variables:
BEEP_LOG names a file that gets a line `device pid index` for every row submitted; BEEP_FATE is one of the below.
"""

import os
import signal
import time
from pathlib import Path

from test_pipeline import BeepEngine

from asrbatch.errors import EngineDiedError, EngineStartError

POISON = 7


def start(checkpoint, *, device, deliver, **options):
    fate, log = os.environ.get("BEEP_FATE", ""), Path(os.environ["BEEP_LOG"])
    cores = sorted(os.sched_getaffinity(0))
    if fate == "none starts" or (fate == "one starts" and 0 not in cores):
        raise EngineStartError("the engine did not start: not on these cores")
    if fate == "wrong option":
        raise ValueError("not a death: a defect")
    if fate in ("together", "one hangs", "one slow"):  # the first row waits until both engines are up
        (log.parent / f"up-{cores[0]}").touch()
        while len(list(log.parent.glob("up-*"))) < 2:
            time.sleep(0.01)
    seconds = {"slow": 0.2, "together": 0.2, "one hangs": 1e6 if 0 in cores else 0.01}.get(fate, 0.01)
    if fate == "one slow" and 0 in cores:  # one after the other
        engine = BeepEngine(deliver, seconds=lambda key: 0.3 * engine.held)
    else:
        engine = BeepEngine(deliver, seconds=lambda key: seconds)
    answer = engine.submit

    def submit(key, request):
        with open(log, "a", encoding="ascii") as file:
            file.write(f"{cores[0]} {os.getpid()} {key[0]}\n")
        dies = {"poison": True, "one death": not (log.parent / "died").exists(), "death told": True}.get(fate, False)
        if key[0] == POISON and dies:
            (log.parent / "died").touch()
            time.sleep(0.1)  # others are in flight by now
            if fate == "death told":
                from asrbatch.engine import Failure

                deliver(key, Failure(EngineDiedError("the engine process died: killed by row 7")))
                return
            os.kill(os.getpid(), signal.SIGKILL)
        answer(key, request)

    engine.submit = submit
    engine.facts = {"vllm": "-", "torch": "-", "device": device.name}
    engine.close = lambda timeout_s=0.0: None
    return engine
