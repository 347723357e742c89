"""Audio that a worker process has its parent fetch: bytes inside a data set, which only the parent has open.

The worker says how to ask; an `AudioRef.load` that was made with `remote` asks when the row's turn has come, so that no
more audio travels than is being prepared.
"""

from collections.abc import Callable
from functools import partial

_ask: Callable[[int], bytes] | None = None


def install(ask: Callable[[int], bytes]) -> None:
    """Sets how this process asks for the audio of a row."""
    global _ask
    _ask = ask


def remote(index: int) -> Callable[[], bytes]:
    """A picklable `AudioRef.load` for row `index`."""
    return partial(_load, index)


def _load(index: int) -> bytes:
    return _ask(index)
