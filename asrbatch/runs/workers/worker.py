"""One worker process: an engine on one device, the same loop as a run in one process, rows from and to the parent.

Started by `handle.py` as `python -m asrbatch.runs.workers.worker`. Knows nothing of the files of a run: only the parent
writes.

What it says, each a tuple: `("ready", facts, max_num_seqs, windows)`, `("audio", index)` when it wants a row's bytes,
`("submitted", index)` before a row enters the engine, `("row", row)`, `("stage_times", Clocks, in_engine)` a few times
a second, and last one of `("ended", Clocks, in_engine)`, `("failed", exception)`. What it is told: a `WorkerSetup`,
then utterances, `("audio", index, bytes or exception)`, `"end"` or `"stop"`."""

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from asrbatch.child_process import connect
from asrbatch.errors import AsrbatchError
from asrbatch.runs.workers.protocol import WorkerSetup

if TYPE_CHECKING:
    from asrbatch.pipeline.loop import Pipeline
    from asrbatch.pipeline.queues import QueueSource

CLOCKS_EVERY_S = 0.2


def _main() -> None:
    # Its watchdog sees to it that a parent that was killed leaves no engine behind that holds the device's memory.
    connection, (cores,) = connect()
    os.sched_setaffinity(0, map(int, cores.split(",")))
    for number in (signal.SIGINT, signal.SIGTERM):
        # The parent decides when we end. A handler, because "ignore" would pass to the processes vLLM starts.
        signal.signal(number, lambda *_: None)
    try:
        _work(connection, connection.recv())
    except Exception as e:
        traceback.print_exc()  # in the log
        _say(connection, ("failed", e if _travels(e) else AsrbatchError(f"{type(e).__name__}: {e}")))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # no library may hang in its clean-up


def _travels(error: Exception) -> bool:
    """Whether the parent can load it: not every exception that can be pickled can be made again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _work(connection: Connection, setup: WorkerSetup) -> None:
    from contextlib import closing

    from asrbatch.pipeline.budget import Limits
    from asrbatch.pipeline.loop import Pipeline
    from asrbatch.pipeline.preprocess import PreprocessPool
    from asrbatch.pipeline.queues import QueueSource
    from asrbatch.runs.workers import protocol

    events: SimpleQueue = SimpleQueue()
    config, rules = setup.config, setup.rules
    pool = PreprocessPool(
        config.num_workers,
        rules=rules,
        decode_timeout_s=config.decode_timeout_s,
        prompt_of=setup.engine.prompt_of,
        language_of=setup.engine.language_of,
    )
    with closing(pool), closing(setup.start(setup.engine, lambda *answer: events.put(answer))) as engine:
        limits = Limits.of(config, engine, rules.window_s)
        pipeline = Pipeline(
            engine=engine,
            pool=pool,
            events=events,
            limits=limits,
            write=lambda row: _say(connection, ("row", row)),
            submitted=lambda index: _say(connection, ("submitted", index)),
            tick=_every(CLOCKS_EVERY_S, lambda: _say(connection, ("clocks", pipeline.stage_times, pipeline.in_engine))),
            asks=setup.engine,
            rules=rules,
        )
        feed, answers = QueueSource(pipeline.wake), _Answers(connection)
        protocol.install(answers.ask)
        threading.Thread(target=_listen, args=(connection, feed, pipeline, answers), daemon=True).start()
        _say(connection, ("ready", engine.facts, engine.max_num_seqs, limits.windows))
        pipeline.run(feed)
        _say(connection, ("ended", pipeline.stage_times, pipeline.in_engine))


class _Answers:
    """Audio asked of the parent by preparation threads."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._waiting: dict[int, SimpleQueue] = {}

    def ask(self, index: int) -> bytes:
        """The bytes of row `index`. Raises what the parent met while it read them."""
        self._waiting[index] = SimpleQueue()
        _say(self._connection, ("audio", index))
        answer = self._waiting[index].get()
        del self._waiting[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, index: int, answer: bytes | Exception) -> None:
        self._waiting[index].put(answer)


def _listen(connection: Connection, feed: "QueueSource", pipeline: "Pipeline", answers: _Answers) -> None:
    """Runs in a thread: what the parent says. Its end is ours."""
    try:
        while True:
            match connection.recv():
                case "end":
                    feed.close()
                case "stop":
                    pipeline.request_stop()
                case "audio", index, answer:
                    answers.put(index, answer)
                case utterance:
                    feed.put(utterance)
    except (EOFError, OSError):
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


_saying = threading.Lock()  # preparation threads ask for audio while the loop reports


def _say(connection: Connection, message: Any) -> None:
    try:
        with _saying:
            connection.send(message)
    except OSError:  # the parent is gone, and with it whoever wanted to know
        os._exit(1)


def _every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    called_at = 0.0

    def maybe() -> None:
        nonlocal called_at
        if time.monotonic() - called_at >= seconds:
            called_at = time.monotonic()
            call()

    return maybe


if __name__ == "__main__":
    _main()
