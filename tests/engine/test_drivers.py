"""Whatever an engine ends with, each request is answered, and nobody waits for ever.

The engines here are small functions that raise where vLLM's code might. Before, only Exceptions were told: what
`sys.exit`, an interrupt or a cancelled task of a library's raises ended the thread in silence, and requests that were
queued, or came later, were never answered.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from asrbatch.engine.drivers import ProcessDriver, ThreadDriver
from asrbatch.errors import EngineDiedError, RowError

ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError("x"), RuntimeError("x")]
WAIT_S = 20


def called(error: BaseException, at: int = 1) -> Callable:
    """Raises the error when it is called for the n-th time."""
    left = at

    def call(*_, **__):
        nonlocal left
        left -= 1
        if left == 0:
            raise error
        return []

    return call


@pytest.mark.parametrize("error", ENDS, ids=repr)
@pytest.mark.parametrize("where", ["add_request", "step"])
def test_an_engine_stepped_in_a_thread_that_ends(error, where):
    answers: SimpleQueue = SimpleQueue()
    engine = SimpleNamespace(**{"add_request": lambda *_: None, "step": lambda: [], where: called(error)})
    with closing(Closing(ThreadDriver(lambda: engine, lambda *answer: answers.put(answer), {}))) as driver:
        for key in "abc":
            driver.submit(key, None, None)
        got = dict(answers.get(timeout=WAIT_S) for _ in "abc"[: 1 if is_refusal(error, where) else 3])
        if is_refusal(error, where):  # of one request: the engine goes on
            assert list(got) == ["a"] and isinstance(got["a"], RowError)
            return
        assert set(got) == set("abc") and all(isinstance(each, EngineDiedError) for each in got.values())
        assert type(error).__name__ in str(got["a"])
        driver.submit("late", None, None)
        assert answers.get(timeout=WAIT_S)[0] == "late"
        with pytest.raises(EngineDiedError, match=type(error).__name__):
            driver.call("a_method")
        assert answers.empty()


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_a_call_of_a_worker_that_ends(error):
    engine = SimpleNamespace(add_request=lambda *_: None, step=lambda: [], collective_rpc=called(error))
    with (
        closing(Closing(ThreadDriver(lambda: engine, lambda *answer: None, {}))) as driver,
        pytest.raises(EngineDiedError, match="a_method"),
    ):
        driver.call("a_method")


def is_refusal(error: BaseException, where: str) -> bool:
    return where == "add_request" and isinstance(error, Exception)


def test_an_answer_that_cannot_be_delivered_is_the_end_of_the_engine():
    answers: SimpleQueue = SimpleQueue()
    output = SimpleNamespace(finished=True, request_id="a")
    engine = SimpleNamespace(add_request=lambda *_: None, step=lambda: [output])

    def deliver(key, outcome):
        if outcome is output:
            raise SystemExit(3)
        answers.put((key, outcome))

    with closing(Closing(ThreadDriver(lambda: engine, deliver, {}))) as driver:
        driver.submit("a", None, None)
        key, died = answers.get(timeout=WAIT_S)
        assert key is None and isinstance(died, EngineDiedError)


@pytest.mark.parametrize("error", [*ENDS, asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("where", ["in a request", "beside it"])
def test_an_engine_process_that_ends(error, where):
    answers: SimpleQueue = SimpleQueue()

    async def generate(*_, **__):
        if where == "beside it":
            tasks.append(asyncio.get_running_loop().create_task(end()))  # as vLLM's task that takes its outputs
            await asyncio.sleep(3600)
        raise error
        yield

    async def end():
        raise error

    tasks: list = []
    engine = SimpleNamespace(generate=generate, errored=False, shutdown=lambda timeout: None)
    driver = ProcessDriver(lambda: engine, lambda *answer: answers.put(answer), {}, death=ZeroDivisionError)
    with closing(Closing(driver)):
        driver.submit("a", None, None)
        if where == "beside it" and isinstance(error, (Exception, GeneratorExit, asyncio.CancelledError)):
            return  # a task's own matter: vLLM tells of it
        key, outcome = answers.get(timeout=WAIT_S)
        assert key == (None if where == "beside it" else "a")
        is_refused = isinstance(error, Exception) and where == "in a request"
        assert isinstance(outcome, RowError if is_refused else EngineDiedError)


def test_sockets_that_are_closed_by_another_thread_are_closed_before_the_loop_ends():
    """As vLLM's watch of its process does at a death: left open, they made the garbage collector wait for ever."""
    closed = []

    def start():
        loop = asyncio.get_running_loop()
        taking = loop.create_task(asyncio.sleep(3600))  # as vLLM's task that takes its outputs

        def close_sockets():
            closed.append(True)
            taking.cancel()

        threading.Timer(0.5, loop.call_soon_threadsafe, [close_sockets]).start()
        return SimpleNamespace(errored=True, shutdown=lambda timeout: None)

    driver = ProcessDriver(start, lambda *answer: None, {}, death=ZeroDivisionError)
    with closing(Closing(driver)):
        pass
    assert closed


class Closing:
    """A driver that is closed with the time it needs."""

    def __init__(self, driver):
        self.submit, self.call, self._driver = driver.submit, driver.call, driver

    def close(self):
        self._driver.close(WAIT_S)
        assert not self._driver._thread.is_alive()
