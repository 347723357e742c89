"""Decodes audio in a separate process, because a decoder may crash (a fault in a C library) or hang (NFS, a pipe).

A `Decoder` owns one child, started when first needed. A child that dies or takes too long is killed and the file tried
once more in a fresh one; then it is the row's fault, and the next row starts with a fresh child. The child is a plain
`python -m asrbatch.decoding`, not a multiprocessing one, which would import the user's `__main__` again.

Knows how to talk to the child, not how audio is decoded: `audio.py` is imported in the child only.

The child has no memory limit: `audio.py` bounds what a row can allocate, and RLIMIT_AS counts address space that
libraries reserve and never use, so a limit that stops a runaway would also stop a long recording. A `MemoryError` fails
the row; a child taken by the OOM killer is an ordinary crash.
"""

import contextlib
import faulthandler
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from .audio_header import Header
from .errors import AsrbatchError, RowError
from .types import Audio

# How long Python and its libraries may take to load from a busy shared file system (0.3 s from a local disk).
START_TIMEOUT_S = 120.0
# A killed process that sleeps in the kernel (a dead NFS server) ends when the server answers; we do not wait for it.
REAP_TIMEOUT_S = 1.0
# How often the child looks whether its parent lives, beside waiting for the end of the pipe: a process that the parent
# forked meanwhile may hold a copy of the pipe.
WATCH_S = 1.0
READY = "ready"


@dataclass(frozen=True)
class DecodeRequest:
    """What `audio.load_audio` is asked for; its arguments, one for one."""

    source: str | bytes
    name: str
    sample_rate: int
    offset_s: float | None = None
    duration_s: float | None = None
    channel: int | None = None
    max_s: float | None = None
    min_samples: int = 1


@dataclass(frozen=True)
class HeaderRequest:
    """What `audio.read_header` is asked for; its arguments, one for one."""

    source: str | bytes
    name: str


class _ChildLostError(Exception):
    """The child did not answer: (error kind, what happened)."""


class Decoder:
    """One child process, for use by one thread at a time.

    Args:
        timeout_s: seconds a file may take to read and decode, in each of two tries; at most a day.
        log_fd: open file descriptor for what the child and its C libraries print; None means the parent's stderr.
    """

    def __init__(self, *, timeout_s: float, log_fd: int | None = None):
        self.timeout_s = min(timeout_s, 86_400.0)  # poll() and faulthandler overflow at some weeks
        self.log_fd = 2 if log_fd is None else log_fd
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._lifeline: int | None = None  # closes when we die; the child's watchdog waits for that
        self._closed = False

    def start(self) -> None:
        """Starts the child ahead of its first file, whose turn is then shorter by 0.1 to 0.2 s.

        Raises:
            AsrbatchError: the child cannot be started.
        """
        if self._process is None:
            self._start()

    def decode(self, request: DecodeRequest) -> Audio:
        """Decodes in the child; see `audio.load_audio`.

        Raises:
            RowError: those of `load_audio`; decode_timeout or decode_crash after two tries; unreadable for an exception
                in the child that nobody foresaw.
            AsrbatchError: the child cannot be started at all, or the decoder was closed.
        """
        return self._insist(request, _receive_audio)

    def read_header(self, request: HeaderRequest) -> Header:
        """Reads a header in the child; see `audio.read_header`.

        Raises:
            RowError, AsrbatchError: as `decode`.
        """
        return self._insist(request, lambda connection, answer: answer)

    def close(self) -> None:
        """Ends the child; may be called more than once, and from another thread to abandon a decode."""
        self._closed = True
        self._kill()

    def _insist(self, request: DecodeRequest | HeaderRequest, receive: Callable[[Connection, Any], Any]) -> Any:
        lost: list[_ChildLostError] = []
        while len(lost) < 2:
            try:
                return self._ask(request, receive)
            except _ChildLostError as e:
                self._kill()
                lost.append(e)
        (_, first), (kind, second) = lost[0].args, lost[1].args
        how = f"{first}, twice" if first == second else f"{first}, then {second}"
        raise RowError(kind, f"{request.name}: decoding {how}")

    def _ask(self, request: DecodeRequest | HeaderRequest, receive: Callable[[Connection, Any], Any]) -> Any:
        connection = self._connection if self._process else self._start()
        try:
            connection.send((type(request).__name__, asdict(request)))
            if not connection.poll(self.timeout_s):
                raise _ChildLostError("decode_timeout", f"took longer than {self.timeout_s:g} s")
            answer = connection.recv()
            if isinstance(answer, RowError):
                raise answer
            return receive(connection, answer)
        except (EOFError, OSError) as e:  # the other end is gone
            raise _ChildLostError("decode_crash", f"ended its process ({self._how_it_ended()})") from e

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        watched, lifeline = os.pipe()
        # -P and PYTHONPATH: this very package, and no file of the user's working directory in place of a library.
        package_root = str(Path(__file__).resolve().parent.parent)
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        arguments = [theirs.fileno(), watched, os.getpid(), self.timeout_s]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "asrbatch.decoding", *map(str, arguments)],
                    pass_fds=(theirs.fileno(), watched),
                    stdin=subprocess.DEVNULL,
                    stdout=self.log_fd,  # stdout carries results only
                    stderr=self.log_fd,
                    env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent
                )
            finally:
                os.close(watched)
        self._lifeline, self._connection = lifeline, Connection(ours.detach())
        problem = f"did not start within {START_TIMEOUT_S:g} s"
        try:
            if self._connection.poll(START_TIMEOUT_S) and self._connection.recv() == READY and not self._closed:
                return self._connection
        except (EOFError, OSError):
            problem = f"ended while it started ({self._how_it_ended()}); the reason is in the log"
        self._kill()
        raise AsrbatchError("the decoder was closed" if self._closed else f"the decoder process {problem}")

    def _how_it_ended(self) -> str:
        if self._closed:
            raise AsrbatchError("the decoder was closed")
        try:
            status = self._process.wait(REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"exit status {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"

    def _kill(self) -> None:
        process, connection, lifeline = self._process, self._connection, self._lifeline
        self._process = self._connection = self._lifeline = None
        if process is None:
            return
        process.kill()
        connection.close()
        os.close(lifeline)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_TIMEOUT_S)


def _receive_audio(connection: Connection, announced: tuple[int, int, tuple[str, ...], float]) -> Audio:
    num_samples, sample_rate, flags, read_s = announced
    samples = np.empty(num_samples, np.float32)
    connection.recv_bytes_into(samples)
    return Audio(samples, sample_rate, flags, read_s)


def _exit_with_parent(watched: int, parent_pid: int) -> None:
    """Runs in a thread of the child: ends it when the parent is gone, even while a decoder hangs."""
    while not select.select([watched], [], [], WATCH_S)[0] and os.getppid() == parent_pid:
        pass
    os._exit(1)


def _serve(connection: Connection, timeout_s: float) -> None:
    """The child: answers requests until the parent closes its end."""
    from .audio import load_audio, read_header

    do = {DecodeRequest.__name__: load_audio, HeaderRequest.__name__: read_header}
    connection.send(READY)
    while True:
        try:
            what, request = connection.recv()
        except EOFError:
            return
        # The parent kills us at `timeout_s`. Should it be gone, and the decoder hold the interpreter so that the watchdog
        # cannot run, this ends us: it needs no interpreter.
        faulthandler.dump_traceback_later(timeout_s + 5, exit=True)
        try:
            answer = do[what](**request)
        except RowError as e:
            connection.send(e)
        except Exception as e:  # a bug must cost one row, and be seen in it
            text = " ".join(f"{type(e).__name__}: {e}".split())
            connection.send(RowError("unreadable", f"{request['name']}: {text}"))
        else:
            if isinstance(answer, Audio):  # its samples are not copied into a pickle first
                connection.send((len(answer.samples), answer.sample_rate, answer.flags, answer.read_s))
                connection.send_bytes(answer.samples)
            else:
                connection.send(answer)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent decides when we end
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    descriptor, watched, parent_pid, timeout_s = sys.argv[1:]
    threading.Thread(target=_exit_with_parent, args=(int(watched), int(parent_pid)), daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(Connection(int(descriptor)), float(timeout_s))
    os._exit(0)  # no library may hang in its clean-up


if __name__ == "__main__":
    _main()
