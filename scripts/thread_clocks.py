"""What the threads of a process use: processor time of each, and for how long each holds the interpreter's lock (GIL).

For scripts that measure. The measured process keeps `Clocks`; another, its parent, reads the lock with a `LockWatch`.
"""

import ctypes
import os
import random
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

LOOP, PREPARATION, DECODER, OTHER = GROUPS = ("loop", "preparation", "decoders", "other threads")


class Clocks:
    """What the threads of this process and its decoder processes use between `begin` and `end`.

    Attributes:
        lock: where the lock is, for `LockWatch`; None where it was not found.
        names: group of a thread by the address of its state in the interpreter.
        used: after `end`: seconds each group ran (`cpu`) and waited for a core (`wait`), bytes of system calls (`io`),
            of the largest decoder process the proportional share of memory (`pss`), `time.monotonic` of begin and end
            (`span`), and `names`.
    """

    def __init__(self) -> None:
        self.lock = _find_lock()
        self.names: dict[int, str] = {}
        self.used: dict[str, Any] = {}
        self.name_thread()

    def name_thread(self) -> None:
        """Call it in each thread whose hold of the lock is to be told from others'."""
        self.names[_thread_state()] = _group(threading.current_thread().name)

    def begin(self) -> None:
        # Decoder processes start meanwhile, which is not what is measured.
        before = -1.0
        while before != (before := sum(ran for group, ran, _ in _times().values() if group == DECODER)):
            time.sleep(0.3)
        self._began, self._io, self._began_at = _times(), _io(), time.monotonic()

    def end(self) -> None:
        span = self._began_at, time.monotonic()
        ended, io, cpu, wait = _times(), _io(), Counter[str](), Counter[str]()
        for thread, (group, ran, waited) in ended.items():
            _, ran_before, waited_before = self._began.get(thread, (group, 0.0, 0.0))
            cpu[group] += ran - ran_before
            wait[group] += waited - waited_before
        pss = max((process.memory_full_info().pss for process in _decoders()), default=0)
        moved = {name: io[name] - self._io[name] for name in io}
        self.used = {"cpu": cpu, "wait": wait, "io": moved, "pss": pss, "span": span, "names": self.names}


def _times() -> dict[int, tuple[str, float, float]]:
    """Of each thread its group, and the seconds that it ran and that it waited for a core."""
    ours = {thread.native_id: _group(thread.name) for thread in threading.enumerate()}
    times = {int(tid): (ours.get(int(tid), OTHER), *_schedstat("self", tid)) for tid in os.listdir("/proc/self/task")}
    for process in _decoders():
        times |= {thread.id: (DECODER, *_schedstat(process.pid, thread.id)) for thread in process.threads()}
    return times


def _schedstat(process: Any, thread: Any) -> tuple[float, float]:
    ran, waited, _ = Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def _io() -> dict[str, int]:
    counts = dict.fromkeys(("decoders wrote", "we read"), 0)
    for name, pids in (("decoders wrote", [p.pid for p in _decoders()]), ("we read", ["self"])):
        for pid in pids:
            fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            counts[name] += int(fields["wchar" if name == "decoders wrote" else "rchar"])
    return counts


def _decoders() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if any("decoder_process" in word for word in p.cmdline())]


def _group(thread: str) -> str:
    return LOOP if thread == "MainThread" else PREPARATION if thread.startswith("asrbatch-preprocess") else OTHER


def _thread_state() -> int:
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    return get()


def _find_lock() -> int | None:
    """Where the interpreter keeps the last holder of its lock (8 bytes) and whether it is held (4); None if not found.

    Found by what stands there now: the interval of switches in microseconds, this thread, 1."""
    start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    wanted = struct.pack("<QQi", round(sys.getswitchinterval() * 1e6), _thread_state(), 1)
    # `string_at` keeps the lock; a system call would let it go, and not find it held.
    place = ctypes.string_at(start, 16_384).find(wanted)
    return None if place < 0 else start + place + 8


class LockWatch:
    """Looks into the memory of a child process of ours: who holds its interpreter's lock?

    Args:
        address: `Clocks.lock` there.
    """

    def __init__(self, pid: int, address: int | None):
        self._address, self._memory = address, os.open(f"/proc/{pid}/mem", os.O_RDONLY)

    def until(self, connection: Connection) -> Callable[[dict[str, Any]], dict[str, float]]:
        """Looks about 1,000 times a second until something comes; returns what makes seconds by group of `Clocks.used`.

        On a busy machine a thread holds the lock while it waits for a core. That is taken off: of its time with the
        lock as much as of all its time between running and waiting.
        """
        seen = []  # when, and who held it; 0 for nobody
        while not connection.poll(random.uniform(0, 0.002)):  # an even beat might keep time with theirs
            if self._address is not None:
                holder, is_held = struct.unpack("<Qi", os.pread(self._memory, 12, self._address))
                seen.append((time.monotonic(), holder if is_held else 0))

        def held_s(used: dict[str, Any]) -> dict[str, float]:
            begin, end = used["span"]
            during = [holder for at, holder in seen if begin <= at <= end]
            held = Counter(used["names"].get(holder, OTHER) for holder in during if holder)
            ran = {group: used["cpu"][group] / ((used["cpu"][group] + used["wait"][group]) or 1) for group in GROUPS}
            return {group: held[group] / len(during) * (end - begin) * ran[group] for group in GROUPS if during}

        return held_s
