"""A worker process as its parent sees it: started, given rows, listened to, ended.

Rows are read and sent by a thread of its own, so that neither a slow manifest nor a full pipe holds up the others.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from asrbatch.child_process import ChildProcess
from asrbatch.engine.devices import Slot
from asrbatch.errors import RowError
from asrbatch.pipeline.monitor import Answered, StageTimes
from asrbatch.runs.workers.protocol import WorkerSetup, request_audio
from asrbatch.timeouts import running_s
from asrbatch.types import AudioRef, Utterance

_END = object()


class WorkerHandle:
    """One worker process.

    Args:
        slot: where it runs.
        setup: what it is to do.
        read: reads a row of the manifest; called in the worker's sending thread.
        deliver: receives `(worker, message)` from threads; see `worker.py` for the messages. `("lost", how)` is the
            last one of a process that said no goodbye; an exception is one that `read` raised.

    Attributes:
        held: rows given and not yet answered, in the order they were given, with their seconds of audio.
        submitted: those of them that have entered the engine.
        is_ready: its engine is up.
        has_ended: it will send no more.
        runs_alone: what it holds is one row that killed engines before.
        num_answered: rows that its engine has answered since it started.
        last_message_at: when it sent something last, or was started; by `running_s`.
        capacity: windows its engine works on at once.
        windows: most rows to give it.
        stage_times, in_engine, answered: as it sent last.
    """

    def __init__(
        self,
        slot: Slot,
        setup: WorkerSetup,
        read: Callable[[int], Utterance],
        deliver: Callable[["WorkerHandle", Any], None],
    ):
        self.slot = slot
        self.held: dict[int, float] = {}
        self.submitted: set[int] = set()
        self.is_ready = self.has_ended = self.runs_alone = False
        self.num_answered = self.capacity = self.windows = self.in_engine = 0
        self.stage_times = StageTimes()
        self.answered: dict[int, Answered] = {}
        self.last_message_at = running_s()
        self._read, self._deliver = read, deliver
        self._stopping = False
        self._outbox: SimpleQueue = SimpleQueue()
        self._process = ChildProcess(
            "asrbatch.runs.workers.worker",
            ",".join(map(str, slot.cores)),
            # There when it starts: libraries look once at which devices are visible.
            environment={**os.environ, **slot.environment},
            reap_timeout_s=5.0,
        )
        for name, target in (("receive", self._receive), ("send", self._send)):
            threading.Thread(target=target, name=f"asrbatch-{name}-{slot.name}", daemon=True).start()
        self._outbox.put(setup)

    def submit(self, index: int, audio_s: float) -> None:
        """Hands it a row."""
        self.held[index] = audio_s
        self._outbox.put(index)

    def end(self) -> None:
        """No more rows will come."""
        self._outbox.put("end")

    def stop(self) -> None:
        """It may finish what is in its engine; the rest of what it holds is let go."""
        self._stopping = True
        self._outbox.put("stop")

    def close(self) -> None:
        """Ends the process at once, and all it started."""
        self.has_ended = True
        self._outbox.put(_END)
        self._process.kill()

    def _send(self) -> None:
        try:
            while (item := self._outbox.get()) is not _END:
                match item:
                    case int() as index:
                        # Rows that wait here for a slow manifest or pipe are not begun any more.
                        if self._stopping:
                            continue
                        item = _to_send(self._read(index))
                    case "audio", index:
                        item = ("audio", index, _audio(self._read(index)))
                self._process.connection.send(item)
        except OSError:
            # The process is gone; `_receive` reports it.
            pass
        except Exception as e:
            # Of reading the manifest: the run stops.
            self._deliver(self, e)

    def _receive(self) -> None:
        how = None
        try:
            while True:
                message = self._process.connection.recv()
                # Here, and not when its turn has come: whoever waits for its parent does not hang.
                self.last_message_at = running_s()
                match message:
                    case "audio", index:
                        self._outbox.put(("audio", index))
                    case _:
                        self._deliver(self, message)
        except (EOFError, OSError):
            pass
        except Exception as e:
            # A message that cannot be loaded: nothing after it can be trusted.
            how = f"it sent what cannot be read ({type(e).__name__}: {e})"
        finally:
            # After a goodbye too: whoever has ended is not listened to any more.
            self._deliver(self, ("lost", how or self._process.how_it_ended()))


def _to_send(utterance: Utterance) -> Utterance:
    """The same with its audio in a form that travels: a path, or a way to ask for the bytes."""
    if utterance.audio.load is None:
        return utterance
    return replace(utterance, audio=AudioRef(utterance.audio.name, load=partial(request_audio, utterance.index)))


def _audio(utterance: Utterance) -> bytes | Exception:
    """The bytes, or why there are none, as a preprocess thread would meet it in a run without workers."""
    try:
        return utterance.audio.resolve()
    except RowError as e:
        return e
