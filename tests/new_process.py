"""Work in a new Python process. That of the tests has grown large once it has held an engine, and each of its forks
takes a tenth of a second then."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def in_new_process(work: Callable, *arguments: Any) -> Any:
    """What `work` returns; raises what it raises. It is a function of a module, which the process imports."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
