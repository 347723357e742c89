"""The same work over many items, several at a time in processes of this machine, results in order.

Processes are forked: what the work needs is large, and Python's `hash` of ids means nothing to a process started
afresh. Knows nothing of what the work is.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from asrbatch.child_process import WATCH_S, end_when, travelling
from asrbatch.errors import OutputError

Item = TypeVar("Item")
Result = TypeVar("Result")

PIECE_ROWS = 2000
MOST_PROCESSES = 16
_WORTH_PROCESSES_ROWS = 20_000


def over_rows(
    work: Callable[[int, int], Result], num_rows: int, num_processes: int | None = None
) -> Iterator[tuple[int, Result]]:
    """Calls `work(start, stop)` for rows [start, stop) until all rows were in one piece.

    Args:
        num_processes: None takes one for each core where there are rows enough.

    Yields:
        (stop, result), in the order of the rows.

    Raises:
        OutputError: a process was killed. Whatever `work` raises.
    """
    if num_processes is None:
        # The cores we may use, not those of the machine: SLURM gives a task a share.
        num_processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0))) if num_rows >= _WORTH_PROCESSES_ROWS else 1
    pieces = [(start, min(start + PIECE_ROWS, num_rows)) for start in range(0, num_rows, PIECE_ROWS)]
    results = over_items(lambda piece: work(*piece), pieces, num_processes, "counting")
    yield from zip((stop for _, stop in pieces), results, strict=True)


def over_items(
    work: Callable[[Item], Result], items: Sequence[Item], num_processes: int, doing: str
) -> Iterator[Result]:
    """Yields `work(item)` in the order of the items. What a process has finished waits in its pipe: no process is more
    than a pipe and one item ahead.

    Args:
        doing: what a process does, for the message about one that was killed.

    Raises:
        OutputError: a process was killed. Whatever `work` raises.
    """
    # pyarrow has threads of its own, which do not survive a fork.
    if min(num_processes, len(items)) <= 1 or "pyarrow" in sys.modules:
        yield from map(work, items)
        return
    processes: list[BaseProcess] = []
    receivers: list[Connection] = []
    try:
        for place in range(min(num_processes, len(items))):
            # Every n-th item, settled before they start: no queue lies between processes, whose lock a killed one could
            # keep.
            receiver, process = _start(work, items[place::num_processes])
            receivers.append(receiver)
            processes.append(process)
        for i in range(len(items)):
            # Whose turn it is, not who is ready: results keep the order of the items, and none pile up here.
            receiver = receivers[i % len(receivers)]
            _wait_for(receiver, processes, doing)
            try:
                result, error = receiver.recv()
            except EOFError as e:
                raise _killed(doing) from e
            if error is not None:
                raise error
            yield result
    finally:
        # Also when the caller stops early, and when the work has failed: nobody wants what is left.
        for process in processes:
            process.kill()
            process.join()


def _start(work: Callable[[Item], Result], items: Sequence[Item]) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work_off, args=(work, items, sender, os.getpid()), daemon=True)
    process.start()
    sender.close()  # else the end of the process would not be noticed
    return receiver, process


def _wait_for(receiver: Connection, processes: list[BaseProcess], doing: str) -> None:
    """Waits for the next result, or for the death of any process: that of the one waited for may never end."""
    while True:
        # Looked at once: a process that dies between two looks would be in neither list, and never be noticed.
        codes = [process.exitcode for process in processes]
        if any(codes):  # 0 has done its share, None goes on
            raise _killed(doing)
        running = [process.sentinel for process, code in zip(processes, codes, strict=True) if code is None]
        if receiver in wait([receiver, *running]):
            return


def _killed(doing: str) -> OutputError:
    return OutputError(f"a process that was {doing} died, perhaps for lack of memory; run the same command again")


def _work_off(work: Callable[[Item], Result], items: Sequence[Item], results: Connection, parent_pid: int) -> None:
    """In a process of its own: sends (result, None) for each item, or (None, what stops it)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals all of us; the one that waits for us ends us
    # A parent that was killed cannot; and a pipe that later processes inherited does not break with it.
    end_when(lambda: time.sleep(WATCH_S) or os.getppid() != parent_pid)
    try:
        for item in items:
            results.send((work(item), None))
    except BaseException as e:
        # Raised again in the parent, as if there were no processes.
        results.send((None, travelling(e)))
