"""The same work over consecutive pieces of many rows, several pieces at a time, results in order.

Processes are forked: what the work needs is large, and Python's `hash` of ids means nothing to a process started
afresh. Knows nothing of what the work is."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from asrbatch.errors import OutputError

Result = TypeVar("Result")

PIECE_ROWS = 2000
_WORTH_PROCESSES_ROWS = 20_000
_MOST_PROCESSES = 16
_work: Callable[[int, int], object]


def over_rows(
    work: Callable[[int, int], Result], num_rows: int, num_processes: int | None = None
) -> Iterator[tuple[int, Result]]:
    """Calls `work(start, stop)` for rows [start, stop) until all rows were in one piece.

    Args: num_processes: None takes one for each core where there are rows enough. Libraries with threads of their own
        do not
            survive a fork: where pyarrow is loaded, it is always one.

    Yields:
        (stop, result), in the order of the rows; at most two pieces a process are waiting at any time.

    Raises:
        OutputError: a process was killed. Whatever `work` raises.
    """
    if num_processes is None:
        num_processes = min(_MOST_PROCESSES, len(os.sched_getaffinity(0))) if num_rows >= _WORTH_PROCESSES_ROWS else 1
    pieces = ((start, min(start + PIECE_ROWS, num_rows)) for start in range(0, num_rows, PIECE_ROWS))
    if num_processes <= 1 or "pyarrow" in sys.modules:
        for start, stop in pieces:
            yield stop, work(start, stop)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(work,))
    waiting: deque = deque()
    try:
        for start, stop in pieces:
            waiting.append((stop, pool.submit(_do, start, stop)))
            if len(waiting) >= 2 * num_processes:
                stop, future = waiting.popleft()
                yield stop, future.result()
        while waiting:
            stop, future = waiting.popleft()
            yield stop, future.result()
    except BrokenProcessPool as e:
        raise OutputError(
            "a process that was counting ended before its time; killed for want of memory? run the same command again"
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(work: Callable[[int, int], object]) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals all of us; the one that waits for us ends us
    _work = work


def _do(start: int, stop: int) -> object:
    return _work(start, stop)
