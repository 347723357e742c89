"""How the windows of one kind of model become engine inputs, and engine outputs become answers.

The engine (`start.py`) moves requests and knows nothing of speech; an asker knows speech and moves nothing. Imports neither
torch nor vllm.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from ..types import Generation
from .base import Question, Request


class Asker(Protocol):
    """Asks one kind of model.

    Attributes:
        facts: JSON-serialisable, for the run record: how the model is asked.
        warm_ups: one question of each kind; each is asked about a second of silence before any clock runs.
    """

    facts: dict[str, Any]
    warm_ups: Sequence[Question]

    def prepare(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        """See `base.Engine.prepare`. Thread-safe.

        Raises:
            ValueError, TypeError: this input cannot be asked; of the tokenizer, the processor or vLLM's renderer.
        """

    def raise_floor(self, request: Request, loudest: float) -> None:
        """See `base.Engine.raise_floor`; does nothing where `Request.loudest` is None."""

    def input_of(self, request: Request, question: Question) -> Any:
        """vLLM's engine input; the request stays as it is, and may be asked again."""

    def params_of(self, question: Question) -> Any:
        """vLLM's sampling parameters; one object for each kind of question."""

    def recorded_params(self, temperature: float) -> dict[str, Any]:
        """The sampling parameters as the run record shows them."""

    def read(self, request: Request, question: Question, done: Any) -> Generation:
        """The answer in a finished request (`vllm_api.Finished`); runs in the driver's thread."""
