"""vLLM stepped in a thread of this process: the faster way where frontend and model share the same few cores.

The engine is built and stepped by one thread, because OpenMP keeps a team of workers per thread that enters it.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import EngineDiedError, RowError
from .base import Deliver, Failure

_STOP = object()


class ThreadDriver:
    """Starts an in-process engine and steps it until closed.

    Args:
        start: builds the engine; runs in the stepping thread.
        deliver: receives `(key, output)` for a finished request, `(key, Failure)` otherwise.
        extra: more arguments of every request.

    Raises:
        Exception: whatever `start` raised.
    """

    def __init__(self, start: Callable[[], Any], deliver: Deliver, extra: dict[str, Any] | None = None):
        self._start, self._deliver, self._extra = start, deliver, extra or {}
        self._inbox: SimpleQueue = SimpleQueue()
        self._started: SimpleQueue = SimpleQueue()
        self._in_engine: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="asrbatch-engine", daemon=True)
        self._thread.start()
        self.engine = self._started.get()
        if isinstance(self.engine, BaseException):
            raise self.engine

    def submit(self, key: Any, engine_input: Any, params: Any) -> None:
        self._inbox.put((key, engine_input, params))

    def close(self, timeout_s: float) -> None:
        self._inbox.put(_STOP)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            engine = self._start()
        except BaseException as e:  # handed to the constructor, which raises it
            self._started.put(e)
            return
        self._started.put(engine)
        try:
            while self._admit(engine):
                for output in engine.step():
                    if output.finished:
                        self._deliver(self._in_engine.pop(output.request_id), output)
        except Exception as e:  # the engine is unusable: every request in it fails the same way, and the run stops
            died = EngineDiedError(f"the engine failed: {type(e).__name__}: {e}")
            died.__cause__ = e
            for key in self._in_engine.values():
                self._deliver(key, Failure(died))

    def _admit(self, engine: Any) -> bool:
        """Adds what waits; blocks while the engine has nothing to do. False when it is time to stop."""
        while True:
            try:
                item = self._inbox.get(block=not self._in_engine)
            except Empty:
                return True
            if item is _STOP:
                return False
            key, engine_input, params = item
            try:
                request_id = str(key)
                engine.add_request(request_id, engine_input, params, **self._extra)
                self._in_engine[request_id] = key
            except Exception as e:
                reason = str(e) or repr(e.__cause__ or e)
                self._deliver(key, Failure(RowError("rejected", f"the engine refused the request: {reason}")))
