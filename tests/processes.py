"""What processes do: whether they run, hang or have children, and a death at any step of their work."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path


def state(pid: int) -> str:
    """The kernel's letter for what a process does: T stopped, Z a zombie; empty when there is none."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().strip()[:1]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    return state(pid) not in ("", "Z")


def command_line(pid: int) -> bytes:
    """What a process was started with; empty once it is a zombie, or gone."""
    return _read(f"/proc/{pid}/cmdline")


def _read(path: str) -> bytes:
    """A file of /proc; empty when its process ends meanwhile, which shows when it is opened or when it is read."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(condition, most_s: float = 30.0):
    """Calls `condition` until it answers with something true, and returns that."""
    deadline = time.monotonic() + most_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


_held: dict[Path, int] = {}


def hold_file(path: Path) -> Path:
    """A file that whoever opens it waits for, as for one on a server that does not answer: 45 s, or till `let_go`."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's word that somebody waits
    _held[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(_held[path], b"no audio")
    fcntl.fcntl(_held[path], fcntl.F_SETLEASE, fcntl.F_WRLCK)
    return path


def let_go(path: Path) -> None:
    os.close(_held.pop(path))


def hangs_in_pipe(pid: int) -> bool:
    """Whether a process waits for the other end of a pipe, or for a file of `hold_file` (the kernel's names for that
    have changed over time)."""
    try:
        waits_in = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False
    return any(name in waits_in for name in ("partner", "fifo", "lease"))


def children(pid: int) -> list[int]:
    """The processes that a process started, as far as they run; threads and processes may end meanwhile."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(pid: int) -> list[int]:
    """Children, and theirs."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def die_at(step: int, work) -> bool:
    """Runs `work` in a child that kills itself just before its `step`-th open, link, rename or removal of a file.

    Python announces those to audit hooks, so the death is a real one, between two steps of the code as it stands.
    Returns whether the child died; False when it had no such step and went to its end.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            left = step

            def hook(event: str, _arguments) -> None:
                nonlocal left
                if event in ("open", "os.link", "os.rename", "os.remove", "os.truncate"):
                    left -= 1
                    if left < 0:
                        signal.raise_signal(signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL
