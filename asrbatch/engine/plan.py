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
from ..speech import Speech
from ..types import Utterance
from .asking import Asking
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
        asking: how the model is asked.
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
    asking: Asking | None = None

    @property
    def speech(self) -> Speech:
        return self.asking.speech

    @property
    def detects_language(self) -> bool:
        """Whether the answer to a window that was asked without a language says which it is."""
        return "detection" in self.speech.can

    @property
    def is_translated(self) -> bool:
        """Whether texts are written in another language than they are spoken in."""
        return self.task == "translate"

    @property
    def target_language(self) -> str | None:
        """The language translations are written in; None where nothing is translated, or nobody knows."""
        return (self.asking.target_language or self.speech.default_target) if self.is_translated else None

    @cached_property
    def prompts(self) -> WhisperPrompts:
        """Of a Whisper checkpoint."""
        return WhisperPrompts(self.checkpoint, self.task, timestamps=self.timestamps)

    def language_of(self, utterance: Utterance) -> str | None:
        """In which it is asked; None has it detected, or leaves it to the model."""
        if self.speech.is_whisper and not self.checkpoint.is_multilingual:
            return "en"
        return self.check_language(utterance.lang, "lang") if utterance.lang else self.language

    def check_language(self, language: str, option: str) -> str:
        """The model's own code for a language.

        Args:
            option: where it was said, for the message.

        Raises:
            UsageError: the model cannot be told languages, or lacks this one.
        """
        if self.speech.is_whisper:
            return self.prompts.check_language(language, option)
        return self.speech.check_language(language, f"{option} {language}")

    def prompt_of(self, utterance: Utterance) -> str | None:
        prompt = self.prompt if utterance.prompt is None else utterance.prompt
        if self.speech.is_whisper and self.asking.hotwords is not None:
            # Whisper expects words that stood in the text before. Last, because a long prompt loses its beginning.
            return f"{(prompt or '').strip()} {self.asking.hotwords}"
        return prompt

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
            asking=self.asking,
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
        how = "" if self.speech.is_whisper else f" asked by its {self.speech.style} style,"
        return f"{self.checkpoint.name},{how} {self.dtype} on {self.device.name}"
