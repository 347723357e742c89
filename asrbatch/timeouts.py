"""Time-outs count the time in which this process runs, not that in which it is stopped (SIGSTOP, a suspended job).

The kernel has no such clock. So whoever waits looks again every second, and what was longer counts as a second: nobody
could have been heard in it. A busy machine may thereby wait longer than it was told to, never less.
"""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_STEP_S = 1.0
_T = TypeVar("_T")
# (the clock's time, seconds counted until then), replaced as one: threads and signal handlers look whenever they like.
_last_look = time.monotonic(), 0.0


def running_s() -> float:
    """Seconds that this process has run, to be subtracted; whoever measures by it calls it every second or oftener."""
    global _last_look
    looked_at, seconds = _last_look
    now = time.monotonic()
    seconds += min(now - looked_at, _STEP_S)
    _last_look = now, seconds
    return seconds


def waited(wait: Callable[[float], _T], timeout_s: float) -> _T:
    """Calls `wait` with a second or less at a time, until it returns something true or the time is over.

    Returns:
        What `wait` returned last.
    """
    left_s, ends_at = timeout_s, running_s() + timeout_s
    while not (found := wait(min(left_s, _STEP_S))) and (left_s := ends_at - running_s()) > 0:
        pass
    return found


def output_of(process: subprocess.Popen, timeout_s: float) -> tuple[Any, Any] | None:
    """Standard output and error of a process, once it has ended; None where it has not in time."""

    def communicate(seconds: float) -> tuple[Any, Any] | None:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=seconds)
        return None

    return waited(communicate, timeout_s)
