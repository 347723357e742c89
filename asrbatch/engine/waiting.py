"""Starts an engine where a signal cannot hit it.

A signal's handler runs in the main thread, between any two of its steps. One that raises there while a library's C++ is
being imported or is building an engine can end the process with SIGABRT: an exception of Python's goes through code that
may not throw. So libraries start in another thread, and the main thread does nothing but wait, which may be interrupted.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from .base import Engine


def start_aside(start: Callable[[], Engine]) -> Engine:
    """Calls `start` in a thread of its own and waits for its engine.

    An exception raised in the waiting thread (Ctrl-C) leaves at once; an engine that comes up after that is closed.

    Raises:
        BaseException: whatever `start` raised.
    """
    outcome: SimpleQueue = SimpleQueue()
    is_wanted: SimpleQueue = SimpleQueue()

    def call() -> None:
        try:
            engine = start()
        except BaseException as e:  # raised where somebody waits for it
            outcome.put((None, e))
            return
        outcome.put((engine, None))
        if not is_wanted.get():
            engine.close()

    threading.Thread(target=call, name="asrbatch-start", daemon=True).start()
    try:
        engine, error = outcome.get()
    except BaseException:
        is_wanted.put(False)
        raise
    if error is not None:
        raise error
    is_wanted.put(True)
    return engine
