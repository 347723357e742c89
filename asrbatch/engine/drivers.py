"""vLLM stepped in a thread of this process: the faster way where frontend and model share the same few cores.

The engine is built and stepped by one thread, because OpenMP keeps a team of workers per thread that enters it.

vLLM's own EngineCore process, driven by an asyncio loop in a thread of ours: the way for GPUs.

A dead EngineCore is noticed by vLLM's own watch of that process and fails every waiting request at once; a step that
is merely slow fails nothing.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from typing import Any

from asrbatch.engine.base import Deliver, Failure
from asrbatch.errors import EngineDiedError, RowError

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


class ProcessDriver:
    """Starts an `AsyncLLM` and feeds it. Arguments and errors as for `thread.ThreadDriver`.

    Args:
        is_death: tells the exception of a dead engine from that of one refused request.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        deliver: Deliver,
        is_death: Callable[[BaseException], bool],
        extra: dict[str, Any] | None = None,
    ):
        self._start, self._deliver, self._is_death, self._extra = start, deliver, is_death, extra or {}
        self._started: SimpleQueue = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="asrbatch-engine", daemon=True)
        self._thread.start()
        self.engine = self._started.get()
        if isinstance(self.engine, BaseException):
            raise self.engine

    def submit(self, key: Any, engine_input: Any, params: Any) -> None:
        self._loop.call_soon_threadsafe(self._spawn, key, engine_input, params)

    def close(self, timeout_s: float) -> None:
        # The loop goes on until vLLM has stopped its process: its output handler lives there. The process is deaf to
        # the polite signal (see _start_in_loop) and has nothing left to save, so it is not given long.
        self._closing = True
        self.engine.shutdown(timeout=min(timeout_s, 1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            engine = self._loop.run_until_complete(self._start_in_loop())
        except BaseException as e:  # handed to the constructor, which raises it
            self._started.put(e)
            return
        self._started.put(engine)
        watch = self._loop.create_task(self._watch(engine))
        self._loop.run_forever()
        watch.cancel()
        for task in self._tasks:  # abandoned by close()
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))

    async def _start_in_loop(self) -> Any:
        # Ctrl-C in a terminal and SLURM's time limit signal every process of a job. vLLM's would stop with their
        # requests unfinished, while ours is about to let them finish; so they inherit a mask. Their end is `close`, or
        # our death.
        resource_tracker.ensure_running()  # starting it later, with the first process, would unblock both signals
        shielded = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, shielded)
        try:
            return self._start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, shielded)

    async def _watch(self, engine: Any) -> None:
        """Notices a death that no request is there to notice."""
        while not engine.errored:
            await asyncio.sleep(1.0)
        if not self._closing and not self._tasks:
            self._deliver(None, Failure(EngineDiedError("the engine process died while it had nothing to do")))

    def _spawn(self, key: Any, engine_input: Any, params: Any) -> None:
        task = self._loop.create_task(self._generate(key, engine_input, params))
        self._tasks.add(task)  # asyncio itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _generate(self, key: Any, engine_input: Any, params: Any) -> None:
        try:
            async for output in self.engine.generate(engine_input, params, str(key), **self._extra):
                if output.finished:
                    self._deliver(key, output)
        except Exception as e:
            self._deliver(key, Failure(self._explain(e)))

    def _explain(self, error: Exception) -> RowError | EngineDiedError:
        reason = str(error) or repr(error.__cause__ or error)  # vLLM wraps causes in errors without a message
        if self._is_death(error) or self.engine.errored:
            died = EngineDiedError(f"the engine process died: {reason}")
            died.__cause__ = error
            return died
        return RowError("rejected", f"the engine refused the request: {reason}")
