"""Decodes audio in a separate process, because a decoder may crash (a fault in a C library) or hang (NFS, a pipe).

A `Decoder` owns one child, started when first needed. A child that dies or takes too long is killed and the file tried
once more in a fresh one; then it is the row's fault, and the next row starts with a fresh child.

Audio comes in blocks, and the time limit is for each. At the second try the blocks that were handed out already are
decoded again, compared and passed over: decoding is deterministic.

Knows how to talk to the child (see `decoder_process.py`), not how audio is decoded: the child alone imports `load.py`.

The child has no memory limit: `load.py` bounds what a row can allocate, and RLIMIT_AS counts address space that
libraries reserve and never use, so a limit that stops a runaway would also stop a long recording. A `MemoryError` fails
the row; a child taken by the OOM killer is an ordinary crash.
"""

import contextlib
import errno
import itertools
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from asrbatch.audio.decoder_process import READY, DecodeRequest, HeaderRequest
from asrbatch.audio.header import Header
from asrbatch.child_process import ChildProcess
from asrbatch.errors import AsrbatchError, RowError
from asrbatch.timeouts import waited

# How long Python and its libraries may take to load from a busy shared file system (0.3 s from a local disk).
START_TIMEOUT_S = 120.0
# Where memory is short the OOM killer takes what has just begun; a child that ends by itself will always do so.
START_TRIES = 3
START_AGAIN_S = 0.5  # how long to wait where the system has no memory, or too many processes, for one more
# The child's C library keeps so much freed memory. It would give every block's back, and 1000 pages a block have to be
# faulted in again: 2.9 ms in place of 1.6 ms for 26 s of WAV.
KEPT_BYTES = str(32 << 20)


class _ChildLostError(Exception):
    """The child did not answer: (error kind, what happened)."""


class Decoder:
    """One child process, for use by one thread at a time.

    Args:
        timeout_s: seconds a block may take to read and decode, in each of two tries; at most a day.
        log_fd: open file descriptor for what the child and its C libraries print; None means the parent's stderr.
    """

    def __init__(self, *, timeout_s: float, log_fd: int | None = None):
        self.timeout_s = min(timeout_s, 86_400.0)  # the kernel's timers overflow at some weeks
        self.log_fd = 2 if log_fd is None else log_fd
        self._process: ChildProcess | None = None
        self._closed = False
        self._ending = threading.Lock()
        self._stream: DecodedStream | None = None  # the last one that was handed out

    def start(self) -> None:
        """Starts the child ahead of its first file, whose turn is then shorter by 0.1 to 0.2 s.

        Raises:
            AsrbatchError: the child cannot be started.
        """
        if self._process is None:
            with contextlib.suppress(_ChildLostError):  # the first file tries again
                self._start()

    def stream(self, request: DecodeRequest) -> "DecodedStream":
        """Decodes in the child, block by block; see `load.stream_audio`. Begins with the first block asked for.

        The next request closes a stream that was not read to its end.
        """
        self._close_stream()
        self._stream = DecodedStream(request, self._answers(request))
        return self._stream

    def read_header(self, request: HeaderRequest) -> Header:
        """Reads a header in the child; see `load.read_header`.

        Raises:
            RowError, AsrbatchError: as a `DecodedStream`.
        """
        self._close_stream()
        answers = self._answers(request)
        try:
            next(answers)
        except StopIteration as e:
            return e.value
        raise AssertionError("the child answered a question for a header by audio")

    def close(self) -> None:
        """Ends the child; may be called more than once, and from another thread to abandon a decode."""
        self._closed = True
        self._kill()

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _answers(self, request: DecodeRequest | HeaderRequest) -> Generator[np.ndarray, None, Any]:
        """Yields the blocks of the child's answer, each once, and returns its last word; tries twice."""
        lost: list[_ChildLostError] = []
        checksums: list[int] = []
        while len(lost) < 2:
            try:
                answer = yield from self._new_blocks(self._send(request), request.clip.name, checksums)
            except _ChildLostError as e:
                self._kill()
                lost.append(e)
            except BaseException:  # the reader gave up, say: the rest is in the pipe, or still to come
                self._kill()
                raise
            else:
                if isinstance(answer, RowError):
                    raise answer
                return answer
        (_, first), (kind, second) = lost[0].args, lost[1].args
        how = f"{first}, twice" if first == second else f"{first}, then {second}"
        raise RowError(kind, f"{request.clip.name}: decoding {how}")

    def _send(self, request: DecodeRequest | HeaderRequest) -> Connection:
        connection = self._process.connection if self._process else self._start()
        with self._watching():
            connection.send((type(request).__name__, vars(request)))
        return connection

    def _new_blocks(self, connection: Connection, name: str, checksums: list[int]) -> Generator[np.ndarray, None, Any]:
        """Yields the blocks that come after those which `checksums` knows, adds theirs, and returns the last word."""
        for i in itertools.count():
            answer = self._receive(connection)
            if i < len(checksums):
                if isinstance(answer, RowError):
                    return answer
                if not isinstance(answer, np.ndarray) or zlib.crc32(answer) != checksums[i]:
                    problem = "decoded a second time, it gave other samples; convert it again"
                    raise RowError("unreadable", f"{name}: {problem}")
            elif not isinstance(answer, np.ndarray):
                return answer
            else:
                checksums.append(zlib.crc32(answer))
                yield answer

    def _receive(self, connection: Connection) -> Any:
        """A block (1-D float32), or the last word on a request."""
        with self._watching():
            if not waited(connection.poll, self.timeout_s):
                raise self._timed_out()
            answer = connection.recv()
            if isinstance(answer, float):  # before the blocks of a long recording
                self._stream.expected_s = answer
                return self._receive(connection)
            if not isinstance(answer, int):
                return answer
            block = np.empty(answer, np.float32)
            left = memoryview(block).cast("B")
            # `recv_bytes_into` would read into memory of its own, piece by piece, and copy that: three times the cost.
            while left:
                if not (count := os.readv(connection.fileno(), [left])):
                    raise EOFError
                left = left[count:]
            return block

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError as e:  # it stopped in the middle of a message
            raise self._timed_out() from e
        except (EOFError, OSError) as e:  # the other end is gone
            raise _ChildLostError("decode_crash", f"ended its process ({self._how_it_ended()})") from e

    def _start(self) -> Connection:
        """Raises _ChildLostError: it was killed, or refused by the system, again and again."""
        for _ in range(START_TRIES):
            try:
                process = self._process = self._new_child()
            except OSError as e:
                problem = f"could not start its process: {e.strerror}"
                if e.errno not in (errno.ENOMEM, errno.EAGAIN):
                    raise AsrbatchError(f"decoding {problem}") from e
                time.sleep(START_AGAIN_S)
                continue
            try:
                is_there = waited(process.connection.poll, START_TIMEOUT_S)
                if is_there and process.connection.recv() == READY and not self._closed:
                    return process.connection
                problem = f"did not start within {START_TIMEOUT_S:g} s"
            except (EOFError, OSError):
                problem = f"ended while it started ({self._how_it_ended()}); the reason is in the log"
            was_killed = process.was_killed()
            self._kill()
            if self._closed or not was_killed:
                raise AsrbatchError("the decoder was closed" if self._closed else f"the decoder process {problem}")
        raise _ChildLostError("decode_crash", f"{problem.partition(';')[0]}, {START_TRIES} times")

    def _new_child(self) -> ChildProcess:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        memory = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), KEPT_BYTES)
        child = ChildProcess(
            "asrbatch.audio.decoder_process",
            self.timeout_s,
            environment={**memory, **os.environ, **one_thread},
            output=self.log_fd,  # stdout carries results only
            reap_timeout_s=1.0,
        )
        # `poll` waits for the beginning of a message; what is longer than a socket holds may stop on the way.
        with socket.socket(fileno=os.dup(child.connection.fileno())) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(self.timeout_s) + 1, 0))
        return child

    def _timed_out(self) -> _ChildLostError:
        return _ChildLostError("decode_timeout", f"took longer than {self.timeout_s:g} s")

    def _how_it_ended(self) -> str:
        if self._closed:
            raise AsrbatchError("the decoder was closed")
        return self._process.how_it_ended()

    def _kill(self) -> None:
        with self._ending:  # `close` may come from another thread
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.connection.close()


class DecodedStream:
    """Iterates once over blocks of audio, as `load.AudioStream` does.

    Attributes:
        sample_rate: Hz.
        num_samples: how many the blocks so far have.
        expected_s: that of `load.AudioStream`, known with the first block of a long recording; None of others.
        flags, track, read_s: those of `load.AudioStream`; known after the last block.
    """

    def __init__(self, request: DecodeRequest, answers: Generator[np.ndarray, None, Any]):
        self.sample_rate, self.num_samples, self.flags, self.track, self.read_s = request.sample_rate, 0, (), None, 0.0
        self.expected_s: float | None = None
        self._name, self._answers, self._is_closed = request.clip.name, answers, False

    def __iter__(self) -> "DecodedStream":
        return self

    def __next__(self) -> np.ndarray:
        """The next block.

        Raises:
            RowError: those of `load.stream_audio` and its stream; decode_timeout or decode_crash after two tries;
                unreadable for an exception in the child that nobody foresaw, and for a file that gave other samples at
                the second try.
            AsrbatchError: the child cannot be started at all, or the decoder was closed.
            ValueError: the stream was closed before its end.
        """
        if self._is_closed:
            raise ValueError(f"{self._name}: this stream was closed before its end")
        try:
            block = next(self._answers)
        except StopIteration as e:
            if e.value is not None:
                self.flags, self.track, self.read_s = e.value
            raise
        self.num_samples += len(block)
        return block

    def close(self) -> None:
        """Forgets what was not read; may be called more than once. Ends the child if there is something to forget."""
        self._is_closed = self._is_closed or self._answers.gi_frame is not None
        self._answers.close()
