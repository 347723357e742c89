"""Names a process so that another may prove it dead: this machine's kernel knows its number and when it began.

Proof needs the same boot of the same machine and the same namespaces; of a process elsewhere nothing is known.
"""

import functools
import hashlib
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from asrbatch.child_process import start_time

_TAG = re.compile(r"([0-9a-f]{12})-([0-9]+)-([0-9]+)")


def describe_self() -> dict[str, Any]:
    """This process, for those who find what it has written; see `is_alive_here`."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_start": start_time(os.getpid()),
        "pid_space": pid_space(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def is_alive_here(process: Mapping[str, Any]) -> bool | None:
    """Whether it lives, when this machine's kernel can tell; None when it cannot.

    Args:
        process: what `describe_self` said there; anything else is nobody that can be told of.
    """
    pid, space = process.get("pid"), pid_space()
    same_space = space and (process.get("pid_space"), process.get("host")) == (space, socket.gethostname())
    return _lives(pid, process.get("pid_start")) if same_space and type(pid) is int else None


def _lives(pid: int, start: Any) -> bool | None:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    # A process id is used again; with its start time it names one process.
    began = start_time(pid)  # None where /proc hides other users' processes
    return None if began is None else began == start


def process_tag() -> str:
    """This process in a few characters, for the name of a file; `has_ended` reads it."""
    return _tag_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _tag_of(pid: int) -> str:
    start = start_time(pid)
    return f"{_view() if start else ''}-{pid}-{start or 0}"


def has_ended(tag: str) -> bool:
    """Whether this machine's kernel knows that the process which made the tag is no more."""
    match = _TAG.fullmatch(tag)
    return match is not None and match[1] == _view() and _lives(int(match[2]), match[3]) is False


def _view() -> str:
    """Short for machine and `pid_space`; empty, which no tag matches, where that is unknown."""
    space = pid_space()
    return hashlib.sha256(f"{socket.gethostname()}\0{space}".encode()).hexdigest()[:12] if space else ""


def pid_space() -> str | None:
    """Names the set of processes whose ids and start times mean the same: one boot of one machine, one PID namespace
    (containers), one time namespace (the kernel tells start times in the asker's own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
    with suppress(FileNotFoundError):  # before Linux 5.6 there are none
        space += f"/{os.readlink('/proc/self/ns/time')}"
    return space
