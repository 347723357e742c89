"""Engines for worker processes: the tone-burst counter of `beep_engine`, and ways for it to die.

A worker imports `start` by its name, so what a test wants of it travels in environment variables:
BEEP_LOG names a file that gets a line `device pid index` for every row submitted; BEEP_FATE is one of the below, and
BEEP_FIRST_CORE tells the first of two workers.
"""

import os
import signal
import time
from pathlib import Path

from beep_engine import BeepEngine

from asrbatch.errors import EngineDiedError, EngineStartError

POISON = 7
# How long an answer takes where a test needs the run to last until something has happened.
_SLOWED = ("one slow", "one sick", "one starts", "fails once", "first batch")
_SECONDS = {"slow": 0.2, "together": 0.2, **dict.fromkeys(_SLOWED, 0.1)}


class CannotBeLoaded(Exception):
    """Pickles, and cannot be made again: the shape of some libraries' exceptions."""

    def __init__(self, *, why):
        super().__init__(why)


def _wait_for(file: Path) -> None:
    """For what happens however slow the machine is; a minute, if it does not."""
    for _ in range(6000):
        if file.exists():
            return
        time.sleep(0.01)


def _wait_for_both(log: Path, name: str) -> None:
    """For a file of each worker's, beside the log."""
    for _ in range(6000):
        if len(list(log.parent.glob(f"{name}-*"))) >= 2:
            return
        time.sleep(0.01)


def start(spec, deliver, on_step):
    fate, log = os.environ.get("BEEP_FATE", ""), Path(os.environ["BEEP_LOG"])
    cores = sorted(os.sched_getaffinity(0))
    on_step("tuning in")
    is_first = int(os.environ["BEEP_FIRST_CORE"]) in cores
    if fate == "none starts" or (fate == "one starts" and not is_first):
        (log.parent / f"tried-{os.getpid()}").touch()
        raise EngineStartError("the engine did not start: not on these cores")
    while fate == "one starts" and len(list(log.parent.glob("tried-*"))) < 2:  # the other's failure was noticed
        time.sleep(0.01)
    while fate == "none comes up":
        time.sleep(1.0)
    if fate == "wrong option":
        raise ValueError("not a death: a defect")
    if fate == "odd exception":
        raise CannotBeLoaded(why="a defect that does not travel")
    first_start = not (log.parent / f"begun-{cores[0]}").exists()
    (log.parent / f"begun-{cores[0]}").touch()
    if fate == "fails once" and not is_first:
        if first_start:
            _wait_for(log)  # the other is at work
            raise EngineStartError("the engine did not start: address already in use")
        (log.parent / "again").touch()
    if fate in (
        "together",
        "one hangs",
        "one slow",
        "one sick",
        "first batch",
    ):  # the first row waits until both engines are up
        (log.parent / f"up-{cores[0]}").touch()
        _wait_for_both(log, "up")
    seconds = 1e6 if fate == "one hangs" and is_first else _SECONDS.get(fate, 0.01)
    if fate == "one slow" and is_first:  # one after the other
        engine = BeepEngine(deliver, seconds=lambda key: 0.3 * engine.held)
    elif fate == "one slow":  # and has some to be slow with
        engine = BeepEngine(deliver, lambda key: _wait_for(log.parent / "taken"), seconds=lambda key: seconds)
    elif fate == "together":  # nothing is answered before both have some
        engine = BeepEngine(deliver, lambda key: _wait_for_both(log, "took"), seconds=lambda key: seconds)
    elif fate == "fails once" and is_first:  # or all rows may be done before the other has failed
        engine = BeepEngine(deliver, lambda key: _wait_for(log.parent / "again"), seconds=lambda key: seconds)
    elif fate == "one sick" and not is_first:  # however slow the other's start was, it is met before all is done
        engine = BeepEngine(deliver, lambda key: _wait_for(log.parent / "died"), seconds=lambda key: seconds)
    else:
        engine = BeepEngine(deliver, seconds=lambda key: seconds)
    answer, num_submitted = engine.submit, 0

    def submit(key, request, question):
        nonlocal num_submitted
        num_submitted += 1
        with open(log, "a", encoding="ascii") as file:
            file.write(f"{cores[0]} {os.getpid()} {key[0]}\n")
        (log.parent / f"took-{cores[0]}").touch()
        dies = {"poison": True, "one death": not (log.parent / "died").exists(), "death told": True}.get(fate, False)
        if fate == "one slow" and is_first and num_submitted > 2:
            (log.parent / "taken").touch()
        if fate == "one sick" and is_first and num_submitted > 5:
            (log.parent / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "first batch" and first_start and num_submitted == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "dies, then hangs" and key[0] == POISON:
            if not (log.parent / "died").exists():
                (log.parent / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return  # never answered
        if key[0] == POISON and dies:
            (log.parent / "died").touch()
            if fate != "one death":
                time.sleep(0.1)  # others are in flight by now
            if fate == "death told":
                deliver(key, EngineDiedError("the engine process died: killed by row 7"))
                return
            os.kill(os.getpid(), signal.SIGKILL)
        answer(key, request, question)

    engine.submit = submit
    engine.facts = {"vllm": "-", "torch": "-", "device": spec.device.name}
    engine.close = lambda timeout_s=0.0: None
    return engine
