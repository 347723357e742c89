"""What the rest of asrbatch sees of an engine. Imports neither torch nor vllm."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import EngineDiedError, RowError
from ..prompts import Ask
from ..types import Generation


@dataclass(frozen=True, slots=True)
class Request:
    """One window, ready to be submitted: features computed, prompt tokens set.

    Attributes:
        ask: what is asked; needed again to read the answer.
        engine_input: vLLM's rendered input; holds the features (mel), not the samples.
    """

    ask: Ask
    engine_input: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine gave no answer. `error` is a `RowError` when one request is at fault, `EngineDiedError` when all are."""

    error: RowError | EngineDiedError


Deliver = Callable[[Any, Generation | Failure], None]
"""Called with a request's key and its outcome, once per submitted request, from a thread of the engine's.

When the engine dies, requests in it fail with `EngineDiedError`; one with the key None says so when there were none.
"""


class Engine(Protocol):
    """A running engine.

    Attributes:
        facts: JSON-serialisable description for the run record: versions, device, mode, settings, sampling parameters.
        max_num_seqs: windows the engine works on at once.
        deliver: where outcomes go; may be set anew while no request is in the engine.
    """

    deliver: Deliver
    facts: dict[str, Any]
    max_num_seqs: int

    def prepare_thread(self) -> None:
        """Call once in each thread that will call `prepare`."""

    def prepare(self, samples: Any, language: str | None, prompt: str | None) -> Request:
        """Computes the features of one window. Thread-safe; this is where a preparation thread spends its time.

        Args:
            samples: 1-D float32, mono, at the checkpoint's rate, no longer than its window.
            language: ISO 639-1 code the checkpoint has, or None to have it detected.
            prompt: previous text, or None.

        Raises:
            RowError: the window cannot be asked.
        """

    def submit(self, key: Any, request: Request) -> None:
        """Queues one window; its outcome arrives through `deliver`. Thread-safe, returns at once."""

    def close(self, timeout_s: float = 10.0) -> None:
        """Stops the engine; requests still in it are abandoned without an outcome."""
