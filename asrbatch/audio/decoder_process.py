"""The decoder process: answers requests, until its parent closes the pipe or is gone.

Defines what the two say to each other. The child says READY once. A request comes as the name of its class and its
fields. It is answered by any number of blocks, each as the number of its samples and then their bytes (float32), and at
last by a `RowError`, a `Header`, or flags, track and seconds of an `AudioStream` at its end. Before the blocks of a
long recording comes how many seconds are expected, a float. While the parent does not read, the child waits in its
send, holds two blocks and no clock runs.

Imports the decoders when it serves, not before: the parent, which imports this for the requests, must not load them.
"""

import contextlib
import faulthandler
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from asrbatch.audio.clip import Clip
from asrbatch.child_process import connect
from asrbatch.errors import RowError
from asrbatch.formatting import one_line

READY = "ready"


@dataclass(frozen=True)
class DecodeRequest:
    """What `load.stream_audio` takes; its arguments, one for one."""

    source: str | bytes
    clip: Clip
    sample_rate: int
    min_samples: int = 1


@dataclass(frozen=True)
class HeaderRequest:
    """What `load.read_header` takes; its arguments, one for one."""

    source: str | bytes
    clip: Clip


def main() -> None:
    """Runs the child; its argument is the time limit of a block."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent decides when we end
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    connection, (timeout_s,) = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(connection, float(timeout_s))
    os._exit(0)  # no library may hang in its clean-up


def _serve(connection: Connection, timeout_s: float) -> None:
    from asrbatch.audio.load import BLOCK_S, read_header, stream_audio

    connection.send(READY)
    while True:
        try:
            what, request = connection.recv()
        except EOFError:
            return
        try:
            with _time_limit(timeout_s):
                answer = stream_audio(**request) if what == DecodeRequest.__name__ else read_header(**request)
            if what == DecodeRequest.__name__:
                # Of others the end comes with their only block.
                if (answer.expected_s or 0.0) > BLOCK_S:
                    connection.send(answer.expected_s)
                answer = _send_blocks(connection, answer, timeout_s)
        except RowError as e:
            answer = e
        except ConnectionError:  # the parent hung up
            raise
        except Exception as e:  # a bug must cost one row, and be seen in it
            answer = RowError("unreadable", f"{request['clip'].name}: {one_line(e)}")
        connection.send(answer)


def _send_blocks(connection: Connection, stream, timeout_s: float) -> tuple[tuple[str, ...], int | None, float]:
    """Sends all blocks of an `AudioStream`; the limit is for decoding each, not for the parent to take it."""
    with contextlib.closing(stream):
        while True:
            with _time_limit(timeout_s):
                block = next(stream, None)
            if block is None:
                return stream.flags, stream.track, stream.read_s
            connection.send(len(block))
            left = memoryview(block).cast("B")
            while left:
                left = left[os.write(connection.fileno(), left) :]


@contextlib.contextmanager
def _time_limit(timeout_s: float) -> Iterator[None]:
    """Ends the child where it hangs.

    The parent kills us at `timeout_s`. Should it be gone, and the decoder hold the interpreter so that the watchdog
    cannot run, this ends us: the kernel's signal needs no interpreter. By the processor's time, which stands still
    while we are stopped.
    """
    signal.setitimer(signal.ITIMER_PROF, timeout_s + 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
