"""What a speech model can do and how it is asked: plain facts, and what to say when somebody asks for more.

Knows neither vLLM nor where facts come from: Whisper's are read from its files (`whisper_capabilities`), those of any
other model are asked of vLLM's class in a process of its own (`engine/look.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.languages import find
from asrbatch.models.checkpoint import Checkpoint

# By our own token ids; by vLLM's SupportsTranscription interface; by the checkpoint's chat template with one audio
# part.
WHISPER_STYLE, INTERFACE_STYLE, CHAT_STYLE = "whisper", "transcription", "chat"
PROMPT_STYLES = ("auto", INTERFACE_STYLE, CHAT_STYLE)
CHAT_PROMPT = "Transcribe the following:"

# What can be asked of some models, to the architectures that honour it: read from the classes of vLLM 0.32, and
# compared with those of the installed vLLM by a test. `asrbatch models` prints what is installed.
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

    Attributes: architecture: name of the model class. style: how it is asked; `whisper`, `transcription` or `chat`.
        sample_rate: Hz. window_s: the longest audio that is asked about at once, in seconds. window_from: where that
        comes from, for people. min_samples: the fewest samples the model can be given. languages: ISO 639-1 codes to
        names; empty where the model does not say. can: keys of `MODELS_SUPPORTING` that it honours. max_model_len:
        tokens of prompt, audio and answer together; None for Whisper, whose audio counts apart. window_tokens: prompt
        tokens of a full window, audio included; None for Whisper. kv_bytes_per_token: of the key-value cache, for each
        byte of the dtype's width; None for Whisper. placeholder: what stands for the audio in a chat prompt, from the
        model class; None where it is not asked so. asked_about: prompt tokens of one second of audio as text, for
        people; None for Whisper. silent_language: what the model class takes, without a word, when nobody states a
        language; None where it needs none. default_target: language it translates into when none is named; None where
        it has to be named, or nobody knows.
    """

    architecture: str
    style: str
    sample_rate: int
    window_s: float
    window_from: str
    min_samples: int
    languages: Mapping[str, str] = field(default_factory=dict)
    can: tuple[str, ...] = ()
    max_model_len: int | None = None
    window_tokens: int | None = None
    kv_bytes_per_token: int | None = None
    placeholder: str | None = None
    asked_about: str | None = None
    silent_language: str | None = None
    default_target: str | None = None

    @property
    def is_whisper(self) -> bool:
        return self.style == WHISPER_STYLE

    def check(self, what: str, option: str) -> None:
        """Refuses what the model does not honour.

        Args:
            what: a key of `MODELS_SUPPORTING`.
            option: as the user wrote it, value included.

        Raises:
            UsageError: it cannot; says which models can.
        """
        if what not in self.can:
            raise UsageError(
                f"{option}: {self.architecture}, asked by its {_BY[self.style]}, would ignore it; "
                f"models that honour it: {MODELS_SUPPORTING[what]}"
            )

    def check_language(self, language: str, option: str) -> str:
        """The model's own code for a language (`EN`, `en-US`, `eng`, `English` → `en`).

        Raises:
            UsageError: it cannot be told a language, or lacks this one.
        """
        try:
            self.check("language", option)
        except UsageError as e:
            raise UsageError(f"{e}; say it in the prompt instead" if self.style == CHAT_STYLE else str(e)) from None
        if (code := find(language, self.languages)) is not None:
            return code
        raise UsageError(
            f"{option}: {self.architecture} has no such language; it has {' '.join(sorted(self.languages))}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For the run record."""
        return {
            "architecture": self.architecture,
            "style": self.style,
            "sample_rate": self.sample_rate,
            "window_s": self.window_s,
            "window_from": self.window_from,
            "min_samples": self.min_samples,
            "languages": sorted(self.languages),
            "can": list(self.can),
            "placeholder": self.placeholder,
            "asked_about": self.asked_about,
        }


_BY = {WHISPER_STYLE: "token ids", INTERFACE_STYLE: "transcription interface", CHAT_STYLE: "chat template"}


def whisper_capabilities(checkpoint: Checkpoint) -> ModelCapabilities:
    """The facts of a Whisper checkpoint, from its files."""
    can = ["prompt", "hotwords", "timestamps"]
    if checkpoint.is_multilingual:
        can += ["language", "translation", "detection"]
    return ModelCapabilities(
        architecture=checkpoint.architecture,
        style=WHISPER_STYLE,
        sample_rate=checkpoint.sample_rate,
        window_s=checkpoint.window_s,
        window_from="the checkpoint's feature extractor",
        min_samples=checkpoint.hop_length,
        languages=dict.fromkeys(checkpoint.languages, ""),
        can=tuple(can),
        default_target="en" if checkpoint.is_multilingual else None,
    )
