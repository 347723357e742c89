"""What a process with an engine needs to know: the model, how it is run, how it is asked.

Plain data that can be sent to a worker process; knows nothing of manifests and outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .. import attempts
from ..checkpoint import Checkpoint
from ..prompts import WhisperPrompts
from ..types import Utterance
from .base import Deliver, Engine
from .settings import Device


@dataclass(frozen=True)
class EnginePlan:
    """An engine to be started, and the questions it will be asked.

    Attributes:
        mode: `thread` or `process`.
        language: ISO 639-1 code for rows without `lang`; None has it detected.
        prompt: previous text for rows without `prompt`.
        max_tokens: most tokens generated for one window.
        engine_args: vLLM's, as the user gave them.
        timestamps: whether answers carry timestamps.
        temperatures: those that questions may ask for, 0.0 (greedy) first.
    """

    checkpoint: Checkpoint
    device: Device
    dtype: str
    mode: str
    task: str
    language: str | None
    prompt: str | None
    max_tokens: int
    seed: int
    engine_args: dict[str, Any]
    timestamps: bool = True
    temperatures: tuple[float, ...] = (0.0,)

    @cached_property
    def prompts(self) -> WhisperPrompts:
        return WhisperPrompts(self.checkpoint, self.task, timestamps=self.timestamps)

    def language_of(self, utterance: Utterance) -> str | None:
        """In which it is asked; None has it detected."""
        if not self.checkpoint.is_multilingual:
            return "en"
        return self.prompts.check_language(utterance.lang) if utterance.lang else self.language

    def prompt_of(self, utterance: Utterance) -> str | None:
        return self.prompt if utterance.prompt is None else utterance.prompt

    def start(self, start: Callable[..., Engine], deliver: Deliver) -> Engine:
        """Starts it with `engine.start_engine`, or with what has its signature."""
        return start(
            self.checkpoint,
            device=self.device,
            dtype=self.dtype,
            mode=self.mode,
            task=self.task,
            max_tokens=self.max_tokens,
            seed=self.seed,
            user_args=self.engine_args,
            temperatures=self.temperatures,
            deliver=deliver,
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """What requests share of their sampling parameters, and when one is asked again; part of a run's fingerprint."""
        sampling = {"temperature": 0.0, "max_tokens": self.max_tokens, "seed": self.seed, "timestamps": self.timestamps}
        if len(self.temperatures) == 1:
            return sampling
        return sampling | {"fallback": {"temperatures": list(self.temperatures), **attempts.THRESHOLDS}}

    def on(self, device: Device) -> "EnginePlan":
        """The same on another device of the same kind."""
        return replace(self, device=device)

    def __str__(self) -> str:
        return f"{self.checkpoint.name}, {self.dtype} on {self.device.name}"
