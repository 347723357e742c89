"""What parent and worker process agree on: what a worker is to do, and how it gets audio that only the parent has open.

Bytes inside a data set are such audio. An `AudioRef.load` that was made of `request_audio` requests them when the
row's turn has come, so that no more audio travels than is being preprocessed.

A module of its own, because it keeps a global: `worker.py` runs as `__main__`, and what is unpickled there would import
it a second time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asrbatch.config import RunConfig
    from asrbatch.engine.base import Engine
    from asrbatch.engine.spec import EngineSpec

_request: Callable[[int], bytes] | None = None


def install(request: Callable[[int], bytes]) -> None:
    """Sets how this process requests the audio of a row."""
    global _request
    _request = request


def request_audio(index: int) -> bytes:
    """The audio of row `index`, in the process that `install` was called in."""
    return _request(index)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know; picklable.

    Attributes:
        start: starts the engine; a function that can be imported by its name.
    """

    config: "RunConfig"
    engine: "EngineSpec"
    start: "Callable[..., Engine]"
