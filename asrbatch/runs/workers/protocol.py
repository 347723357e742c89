"""Audio that a worker process has its parent fetch: bytes inside a data set, which only the parent has open.

The worker says how to ask; an `AudioRef.load` that was made with `remote_audio` asks when the row's turn has come, so
that no more audio travels than is being prepared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asrbatch.audio.windows import WindowConfig
    from asrbatch.config import RunConfig
    from asrbatch.engine.base import Engine
    from asrbatch.engine.spec import EngineSpec

_ask: Callable[[int], bytes] | None = None


def install(ask: Callable[[int], bytes]) -> None:
    """Sets how this process asks for the audio of a row."""
    global _ask
    _ask = ask


def remote_audio(index: int) -> Callable[[], bytes]:
    """A picklable `AudioRef.load` for row `index`."""
    return partial(_load, index)


def _load(index: int) -> bytes:
    return _ask(index)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know; picklable.

    Attributes:
        start: starts the engine; a function that can be imported by its name.
    """

    config: "RunConfig"
    engine: "EngineSpec"
    rules: "WindowConfig"
    start: "Callable[..., Engine]"
