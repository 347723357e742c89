"""What a speech model supports, as plain facts; and the message for whoever wants more of it.

Knows neither vLLM nor how the facts are found: Whisper's stand in its files (`whisper_capabilities`), those of any
other model are found by trying vLLM's class in a process of its own (`engine/inspector.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asrbatch.config import PROMPT_STYLES
from asrbatch.errors import UsageError
from asrbatch.formatting import show
from asrbatch.languages import find
from asrbatch.models.checkpoint import WHISPER, Checkpoint

# Where a prompt comes from: our own token ids; the class's SupportsTranscription interface; the checkpoint's chat
# template with one audio part.
WHISPER_STYLE = "whisper"
_, INTERFACE_STYLE, CHAT_STYLE = PROMPT_STYLES
CHAT_PROMPT = "Transcribe the following:"
STYLE_NAMES = {WHISPER_STYLE: "token ids", INTERFACE_STYLE: "transcription interface", CHAT_STYLE: "chat template"}

# For messages only: what some models support, to the architectures that do. No run is decided by it (a model is tried);
# read from the classes of vLLM 0.32, and compared with those of the installed vLLM by a test.
MODELS_SUPPORTING = {
    "language": "Whisper, CohereAsr, Gemma3n, Qwen3ASR, Qwen3ASRRealtime, Qwen3OmniMoe, Voxtral, VoxtralRealtime",
    "prompt": "Whisper, MoonshotKimia, MossTranscribeDiarize, Qwen3ASR, Qwen3ASRRealtime, Qwen3OmniMoe, "
    "and models asked by their chat template",
    "hotwords": "Whisper, FunASR",
    "translation": "multilingual Whisper (into English), Gemma3n, GlmAsr, GraniteSpeech, GraniteSpeechPlus, Qwen3ASR, "
    "Qwen3ASRRealtime, Qwen3OmniMoe",
    "target_language": "Gemma3n, GlmAsr, GraniteSpeech, GraniteSpeechPlus, Qwen3ASR, Qwen3ASRRealtime, Qwen3OmniMoe",
    "timestamps": "Whisper",
    "detection": "multilingual Whisper",
}


@dataclass(frozen=True)
class ModelCapabilities:
    """One model.

    Attributes:
        architecture: name of the model class.
        prompt_style: where its prompt comes from; `whisper`, `transcription` or `chat`.
        sample_rate: Hz.
        window_s: the longest window, in seconds.
        window_source: where that comes from, for people.
        min_samples: the fewest samples the model can be given.
        languages: ISO 639-1 codes to names; empty where the model does not say.
        supports: keys of `MODELS_SUPPORTING`, and `lora`.
        max_model_len: tokens of prompt, audio and answer together; None for Whisper, whose audio counts apart.
        window_tokens: prompt tokens of the longest request, audio included; None for Whisper.
        kv_bytes_per_token: of the key-value cache, for each byte of the dtype's width; None for Whisper.
        placeholder: of the audio in a chat prompt, from the model class; None for other prompts.
        example_prompt: prompt tokens of one second of audio as text, for people; None for Whisper.
        default_language: what the model class takes, without a word, when nobody states a language; None where it needs
            none.
        default_target: language it translates into when none is named; None where it has to be named, or nobody knows.
        most_s: the longest audio of one request, in seconds: a window of `--windows fixed` with the tail that joins it.
    """

    architecture: str
    prompt_style: str
    sample_rate: int
    window_s: float
    window_source: str
    min_samples: int
    languages: Mapping[str, str] = field(default_factory=dict)
    supports: tuple[str, ...] = ()
    max_model_len: int | None = None
    window_tokens: int | None = None
    kv_bytes_per_token: int | None = None
    placeholder: str | None = None
    example_prompt: str | None = None
    default_language: str | None = None
    default_target: str | None = None
    most_s: float = 0.0

    @property
    def is_whisper(self) -> bool:
        return self.prompt_style == WHISPER_STYLE

    @property
    def is_chat(self) -> bool:
        return self.prompt_style == CHAT_STYLE

    @property
    def takes_language(self) -> bool:
        """Whether what a row or a run states as its language is asked for, or held against the only one there is."""
        return self.is_whisper or "language" in self.supports

    def require(self, feature: str, option: str, chat_fix: str = "") -> None:
        """Refuses an option that the model would ignore.

        Args:
            feature: a key of `MODELS_SUPPORTING`.
            option: as the user wrote it, value included.
            chat_fix: what to do instead where there is a chat template.

        Raises:
            UsageError: not supported; says which models support it.
        """
        if feature not in self.supports:
            raise UsageError(
                f"{option}: {self.architecture}, asked by its {STYLE_NAMES[self.prompt_style]}, would ignore it; "
                f"models that support it: {MODELS_SUPPORTING[feature]}{chat_fix if self.is_chat else ''}"
            )

    def check_language(self, language: str, option: str) -> str:
        """The model's own code for a language (`EN`, `en-US`, `eng`, `English` → `en`).

        Args:
            option: where it was written, for the message.

        Raises:
            UsageError: it takes no language, or lacks this one.
        """
        given = f"{option} {show(language)}"
        problem = f"has no such language; it has {' '.join(sorted(self.languages))}"
        if self.is_whisper and "language" not in self.supports:  # its rows may say all the same that they are English
            problem = "is English-only; give a multilingual checkpoint"
        else:
            self.require("language", given, "; say it in the prompt instead")
        if (code := find(language, self.languages)) is None:
            raise UsageError(f"{given}: {self.architecture} {problem}")
        return code

    def as_dict(self) -> dict[str, Any]:
        """For the run record, whose keys are older than the names here."""
        return {
            "architecture": self.architecture,
            "style": self.prompt_style,
            "sample_rate": self.sample_rate,
            "window_s": self.window_s,
            "window_from": self.window_source,
            "min_samples": self.min_samples,
            "languages": sorted(self.languages),
            "can": list(self.supports),
            "placeholder": self.placeholder,
            "asked_about": self.example_prompt,
        }


def whisper_capabilities(checkpoint: Checkpoint) -> ModelCapabilities:
    """Those of a Whisper checkpoint, from its files: neither vLLM nor an engine is needed."""
    multilingual = ("language", "translation", "detection") if checkpoint.is_multilingual else ()
    return ModelCapabilities(
        architecture=WHISPER,
        prompt_style=WHISPER_STYLE,
        sample_rate=checkpoint.sample_rate,
        window_s=checkpoint.window_s,
        window_source="the checkpoint's feature extractor",
        # vLLM itself refuses nothing: it answers ` you` to no samples at all.
        min_samples=checkpoint.hop_length,
        languages=dict.fromkeys(checkpoint.languages, ""),
        supports=("prompt", "hotwords", "timestamps", *multilingual),
        default_target="en" if checkpoint.is_multilingual else None,
        most_s=checkpoint.window_s,
    )
