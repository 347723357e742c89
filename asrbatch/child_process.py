"""A module of ours in a process of its own: how it is started, how it ends with its parent, how its end is explained.

The child is a plain `python -P -m MODULE`, not one of multiprocessing's, which would import the user's `__main__`
again. The two talk over a socket. Knows nothing of what they say.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from asrbatch.errors import AsrbatchError
from asrbatch.formatting import one_line
from asrbatch.timeouts import waited

# How often a child looks whether its parent lives, beside waiting for the end of the socket: a process that the parent
# forked meanwhile may hold a copy of that.
WATCH_S = 1.0


class ChildProcess:
    """A running child.

    Args:
        module: what it runs; its first step is `connect()`.
        arguments: what `connect()` returns in the child, as text.
        environment: all its variables but PYTHONPATH.
        output: where the child and its C libraries print; None for where this process does.
        reap_timeout_s: how long to wait for the end of a process that was killed. One that sleeps in the kernel (a
            dead NFS server) ends when the server answers.

    Attributes:
        connection: to talk to it.
        pid: its process id, and that of its group.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        environment: Mapping[str, str],
        reap_timeout_s: float,
        output: int | IO | None = None,
    ):
        self._reap_timeout_s = reap_timeout_s
        # A socket, not the child's standard streams: C libraries print there.
        ours, theirs = socket.socketpair()
        # -P and PYTHONPATH: this very package, and no file of the user's working directory in place of a library.
        package_root = str(Path(__file__).resolve().parents[1])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, (theirs.fileno(), os.getpid(), *arguments))],
                pass_fds=(theirs.fileno(),),
                # A manifest may come on ours, and whoever reads it first has it.
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
                # Ctrl-C in the terminal is for the parent; and the child is a group, to be killed with all it started.
                start_new_session=True,
            )
        # Our copy of the child's end is closed by now: with it, the end of the child would go unnoticed.
        self.connection, self.pid = Connection(ours.detach()), self._process.pid

    def how_it_ended(self) -> str:
        """Of a child whose socket is closed."""
        if not self._has_ended():
            # It hangs in its own clean-up, or sleeps in the kernel: its status is not there to be read.
            return "it closed its pipe"
        status = self._process.returncode
        return f"exit status {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"

    def was_killed(self) -> bool:
        """Whether a signal ended it, such as the OOM killer's, and not its own code."""
        return self._process.returncode is not None and self._process.returncode < 0

    def kill(self) -> None:
        """Ends it at once, and all it started; may be called more than once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._has_ended()

    def _has_ended(self) -> bool:
        """Waits for its end."""

        def wait(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            return self._process.returncode is not None

        return waited(wait, self._reap_timeout_s)


def connect() -> tuple[Connection, list[str]]:
    """Called in the child: the socket to its parent, and its arguments. From now on the child ends with its parent."""
    descriptor, parent_pid, *arguments = sys.argv[1:]
    hangup = select.poll()
    hangup.register(int(descriptor), 0)  # no event asked for: reports only that the other end is gone
    end_when(lambda: bool(hangup.poll(WATCH_S * 1000)) or os.getppid() != int(parent_pid))
    return Connection(int(descriptor)), arguments


def travelling(error: BaseException) -> BaseException:
    """The error itself, or its words where another process could not load it: not every exception that can be pickled
    can be made again.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return AsrbatchError(one_line(error))
    return error


def end_when(is_orphan: Callable[[], bool]) -> None:
    """Ends this process as soon as `is_orphan`, which may wait, returns True; also while its other threads hang."""
    # A thread of its own: the main one may be in C, where a signal's handler in Python is never reached.
    threading.Thread(target=_watch, args=(is_orphan,), name="asrbatch-watchdog", daemon=True).start()


def _watch(is_orphan: Callable[[], bool]) -> None:
    while not is_orphan():
        pass
    os._exit(1)  # no library may hang in its clean-up


def start_time(pid: int) -> str | None:
    """When the process began, in clock ticks since boot: tells a live holder from a later process with its number.

    `ended` for one that only waits for its parent; None when the kernel does not say.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
