"""One worker process: an engine on one device, the same loop as a run in one process, rows from and to the parent.

Started by `handle.py` as `python -m asrbatch.runs.workers.worker`. Knows nothing of the files of a run: only the parent
writes.

What it sends, each a tuple: `("step", name)` while its engine starts, `("ready", facts, max_num_seqs, windows)`,
`("audio", index)` when it wants a row's bytes, `("submitted", index)` before a row enters the engine, `("row", row)`,
`("status", StageTimes, in_engine, answered)` a few times a second, and last one of `("ended",)`,
`("failed", exception)`. What it receives: a `WorkerSetup`, then utterances, `("audio", index, bytes or exception)`,
`"end"` or `"stop"`.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from asrbatch.child_process import connect, travelling
from asrbatch.runs.workers.protocol import WorkerSetup

if TYPE_CHECKING:
    from asrbatch.pipeline.loop import Pipeline
    from asrbatch.types import Utterance


def _main() -> None:
    # Its watchdog sees to it that a parent that was killed leaves no engine behind that holds the device's memory.
    connection, (cores,) = connect()
    # Before any library is imported that makes a thread for each core it sees.
    os.sched_setaffinity(0, map(int, cores.split(",")))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The parent decides when we end. A handler, because "ignore" would pass to the processes vLLM starts.
        signal.signal(number, lambda *_: None)
    try:
        _work(connection, connection.recv())
    except Exception as e:
        # The log is our standard error.
        traceback.print_exc()
        _send(connection, ("failed", travelling(e)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # No library may hang in its clean-up.
        os._exit(0)


def _work(connection: Connection, setup: WorkerSetup) -> None:
    # Late, so that a broken environment is reported to the parent.
    from asrbatch.pipeline.assembly import make_pipeline
    from asrbatch.runs.workers import protocol

    rows: SimpleQueue[Utterance | None] = SimpleQueue()
    audio = _RemoteAudio(connection)
    protocol.install(audio.request)
    pipeline = make_pipeline(
        setup.config,
        setup.engine,
        lambda deliver: setup.start(setup.engine, deliver, lambda step: _send(connection, ("step", step))),
        write=lambda row: _send(connection, ("row", row)),
        on_submit=lambda index: _send(connection, ("submitted", index)),
        on_tick=lambda *status: _send(connection, ("status", *status)),
    )
    with pipeline as loop:
        threading.Thread(target=_receive, args=(connection, rows, loop, audio), daemon=True).start()
        _send(connection, ("ready", loop.engine.facts, loop.engine.max_num_seqs, loop.budget.most_windows))
        loop.run(_received(rows))
        _send(connection, ("ended",))


def _received(rows: "SimpleQueue[Utterance | None]") -> "Iterator[Utterance | None]":
    """The rows as they come; None as long as there is none."""
    while True:
        try:
            row = rows.get_nowait()
        except Empty:
            yield None
            continue
        # No more will come.
        if row is None:
            return
        yield row


class _RemoteAudio:
    """Audio that preprocess threads request from the parent."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._waiting: dict[int, SimpleQueue] = {}

    def request(self, index: int) -> bytes:
        """The bytes of row `index`. Raises what the parent met while it read them."""
        # Before it is asked for, because the answer comes in another thread.
        self._waiting[index] = SimpleQueue()
        _send(self._connection, ("audio", index))
        answer = self._waiting[index].get()
        del self._waiting[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, index: int, answer: bytes | Exception) -> None:
        self._waiting[index].put(answer)


def _receive(
    connection: Connection, rows: "SimpleQueue[Utterance | None]", loop: "Pipeline", audio: _RemoteAudio
) -> None:
    """Runs in a thread: what the parent sends. Its end is ours."""
    try:
        while True:
            match connection.recv():
                case "stop":
                    loop.request_stop()
                case "audio", index, answer:
                    audio.put(index, answer)
                case row:
                    rows.put(None if row == "end" else row)
                    loop.wake()
    except (EOFError, OSError):
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


# Preprocess threads request audio while the loop reports.
_sending = threading.Lock()


def _send(connection: Connection, message: Any) -> None:
    try:
        with _sending:
            connection.send(message)
    except OSError:
        # The parent is gone, and with it whoever wanted to know.
        os._exit(1)


if __name__ == "__main__":
    _main()
