"""Two ways to run vLLM: stepped in a thread of this process, or in its own EngineCore process fed by an asyncio loop.

The thread is the faster way where frontend and model share the same few cores, the process the way for GPUs
(`settings.resolve_mode` chooses). Both have one interface; they know requests by their keys, and nothing of speech.
"""

import asyncio
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from asrbatch.errors import EngineDiedError, RowError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

_STOP = object()
# Seconds between two looks at whether an engine that owes an answer is still there.
_LOOK_S = 1.0
# Seconds that vLLM is given to close its sockets.
_SOCKETS_S = 5.0


class _Call(NamedTuple):
    """A method of the worker's that is to be called in the engine's thread."""

    method: str
    args: tuple[Any, ...]
    answer: "Future[Any]"


class Driver(ABC):
    """Starts an engine in a thread of its own and runs it until closed.

    Args:
        start: builds the engine; runs in that thread.
        deliver: receives `(key, RequestOutput)` for a finished request, `(key, error)` otherwise.
        request_args: more arguments of every request.

    Raises:
        Exception: whatever `start` raised.
    """

    def __init__(self, start: Callable[[], Any], deliver: Callable[[Any, Any], None], request_args: dict[str, Any]):
        self._start, self._deliver, self._request_args = start, deliver, request_args
        started: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, args=[started], name="asrbatch-engine", daemon=True)
        self._thread.start()
        self.engine = started.result()

    def _run(self, started: Future[Any]) -> None:
        try:
            engine = self._start_engine()
        except BaseException as e:  # handed to the constructor, which raises it
            started.set_exception(e)
            return
        started.set_result(engine)
        try:
            self._serve(engine)
        # Whatever it is, SystemExit out of a library among it: nobody else would tell those who wait for answers.
        except BaseException as e:
            self._fail_all(_death(f"the engine failed: {type(e).__name__}: {e}", e))

    def _start_engine(self) -> Any:
        return self._start()

    @abstractmethod
    def _serve(self, engine: Any) -> None:
        """Runs the engine until it is closed or dead. Raises what it died of, unless all requests know."""

    @abstractmethod
    def _fail_all(self, died: EngineDiedError) -> None:
        """Tells of the death in place of every answer that is still to come, or with no key where there is none."""

    @abstractmethod
    def submit(self, key: Any, engine_input: Any, params: Any) -> None:
        """Queues a request; returns at once."""

    @abstractmethod
    def call(self, method: str, *args: Any) -> Any:
        """Calls a method of the worker's between two steps of the engine, and waits for what it returns. Not from the
        engine's own thread.

        Args:
            args: plain lists, numbers, strings and bytes, as is what comes back.

        Raises:
            EngineDiedError: it failed, or the engine is dead.
        """

    @abstractmethod
    def close(self, timeout_s: float) -> None:
        """Stops the engine; requests in it are abandoned."""


class ThreadDriver(Driver):
    """Steps an `LLMEngine` in the thread that built it, because OpenMP keeps a team of workers per thread that enters
    it. Arguments and errors as for `Driver`.
    """

    engine: "LLMEngine"

    def __init__(self, *args: Any):
        self._inbox: SimpleQueue = SimpleQueue()
        self._in_engine: dict[str, Any] = {}
        super().__init__(*args)

    def submit(self, key: Any, engine_input: Any, params: Any) -> None:
        self._inbox.put((key, engine_input, params))

    def call(self, method: str, *args: Any) -> Any:
        answer: Future[Any] = Future()
        self._inbox.put(_Call(method, args, answer))
        return answer.result()

    def close(self, timeout_s: float) -> None:
        self._inbox.put(_STOP)
        self._thread.join(timeout_s)

    def _serve(self, engine: "LLMEngine") -> None:
        while self._admit(engine):
            for output in engine.step():
                if output.finished:
                    self._deliver(self._in_engine.pop(output.request_id), output)

    def _fail_all(self, died: EngineDiedError) -> None:
        for key in self._in_engine.values() or (None,):
            self._deliver(key, died)
        # Those who submit meanwhile do not know yet.
        while (item := self._inbox.get()) is not _STOP:
            if isinstance(item, _Call):
                item.answer.set_exception(died)
            else:
                self._deliver(item[0], died)

    def _admit(self, engine: "LLMEngine") -> bool:
        """Adds what waits; blocks while the engine has nothing to do. False when it is time to stop."""
        while True:
            try:
                item = self._inbox.get(block=not self._in_engine)
            except Empty:
                return True
            if item is _STOP:
                return False
            if isinstance(item, _Call):
                _answer(engine, item)
                continue
            key, engine_input, params = item
            request_id = str(key)
            self._in_engine[request_id] = key
            try:
                # Not `LLM.generate`, which drops the audio of an input that is rendered already.
                engine.add_request(request_id, engine_input, params, **self._request_args)
            except Exception as e:
                # One request's fault, so the engine goes on with the others. It is answered, and must not fail again
                # with the engine.
                del self._in_engine[request_id]
                self._deliver(key, _refusal(e))


class ProcessDriver(Driver):
    """Feeds an `AsyncLLM`. Arguments and errors as for `Driver`.

    A dead EngineCore is noticed by vLLM's own watch of that process and fails every waiting request at once (a
    synchronous engine would wait for ever); a step that is merely slow fails nothing.

    Args:
        death: what a dead engine raises; anything else is one refused request.
    """

    engine: "AsyncLLM"

    def __init__(self, *args: Any, death: type[Exception]):
        self._death = death
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task] = set()
        self._closing = False
        super().__init__(*args)

    def submit(self, key: Any, engine_input: Any, params: Any) -> None:
        self._loop.call_soon_threadsafe(self._spawn, key, engine_input, params)

    def call(self, method: str, *args: Any) -> Any:
        called = self.engine.collective_rpc(method, args=args)
        answer = asyncio.run_coroutine_threadsafe(called, self._loop)
        while True:
            try:
                return answer.result(_LOOK_S)[0]
            except TimeoutError as e:
                if answer.done():  # it is the call's own
                    raise _death(f"the engine failed at {method}: {_reason(e)}", e) from e
                # A dead engine fails its requests, and answers no call.
                if self.engine.errored:
                    raise _death("the engine process died") from None
            except Exception as e:
                raise _death(f"the engine failed at {method}: {_reason(e)}", e) from e

    def close(self, timeout_s: float) -> None:
        # The loop goes on until vLLM has stopped its process: its output handler lives there. The process is deaf to
        # the polite signal (see _start_in_loop) and has nothing left to save, so it is not given long.
        self._closing = True
        self.engine.shutdown(timeout=min(timeout_s, 1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)

    def _start_engine(self) -> Any:
        asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(self._start_in_loop())

    async def _start_in_loop(self) -> Any:
        # Ctrl-C in a terminal and SLURM's time limit signal every process of a job. vLLM's would stop with their
        # requests unfinished, while ours is about to let them finish; so they inherit a mask. Their end is `close`, or
        # our death.
        resource_tracker.ensure_running()  # starting it later, with the first process, would unblock two of them
        shielded = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, shielded)
        try:
            return self._start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, shielded)

    def _serve(self, engine: "AsyncLLM") -> None:
        watch = self._loop.create_task(self._watch(engine))
        self._loop.run_forever()
        watch.cancel()
        for task in self._tasks:  # abandoned by close()
            task.cancel()
        # Cancelled tasks end only when the loop runs once more.
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._wait_for_sockets())

    async def _wait_for_sockets(self) -> None:
        """Waits for vLLM's own tasks in the loop: they end when their sockets are closed.

        At a death vLLM does that by this loop, but out of a thread of its own, while `shutdown` has nothing left to do.
        Sockets that stay open make the garbage collector wait for ever, in any thread (seen with 0.26).
        """
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=_SOCKETS_S)

    async def _watch(self, engine: "AsyncLLM") -> None:
        """Notices a death that no request is there to notice."""
        while not engine.errored:
            await asyncio.sleep(1.0)
        # Requests in it tell of the death themselves.
        if not self._closing and not self._tasks:
            self._deliver(None, _death("the engine process died while it had nothing to do"))

    def _spawn(self, key: Any, engine_input: Any, params: Any) -> None:
        task = self._loop.create_task(self._generate(key, engine_input, params))
        self._tasks.add(task)  # asyncio itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    def _fail_all(self, died: EngineDiedError) -> None:
        self._deliver(None, died)

    async def _generate(self, key: Any, engine_input: Any, params: Any) -> None:
        try:
            async for output in self.engine.generate(engine_input, params, str(key), **self._request_args):
                if output.finished:
                    self._deliver(key, output)
        except BaseException as e:
            if self._closing:  # abandoned by close()
                raise
            # Any error of a dead engine is its death, whatever it is called: taken for a refusal, it would make a
            # failed row. So is what is no error of one request: a cancelled task of vLLM's, SystemExit.
            died = isinstance(e, self._death) or self.engine.errored or not isinstance(e, Exception)
            # vLLM's own says only that the reason is in the log.
            why = "" if isinstance(e, self._death) else f": {_reason(e)}"
            self._deliver(key, _death(f"the engine process died{why}", e) if died else _refusal(e))


def _answer(engine: "LLMEngine", call: _Call) -> None:
    try:
        call.answer.set_result(engine.collective_rpc(call.method, args=call.args)[0])
    except BaseException as e:
        # The worker may be in the middle of something: the run stops, as for a step that failed.
        call.answer.set_exception(_death(f"the engine failed at {call.method}: {_reason(e)}", e))


def _death(message: str, cause: BaseException | None = None) -> EngineDiedError:
    died = EngineDiedError(message)
    died.__cause__ = cause
    return died


def _refusal(error: BaseException) -> RowError:
    return RowError("rejected", f"the engine refused the request: {_reason(error)}")


def _reason(error: BaseException) -> str:
    if not isinstance(error, Exception):  # of SystemExit the number alone says nothing
        return repr(error)
    return str(error) or repr(error.__cause__ or error)  # vLLM wraps causes in errors without a message
