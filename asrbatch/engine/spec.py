"""The engine of a run as plain data: the model, how it is run, what was chosen for its prompts and parameters.

Everything a process with an engine needs to know, so that it can be sent to a worker process. Settled by
`runs/model_selection.py`; knows nothing of manifests and outputs.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.engine import plugins
from asrbatch.engine.devices import Device, num_ranks
from asrbatch.languages import find
from asrbatch.models import fallback
from asrbatch.models.capabilities import CHAT_PROMPT, ModelCapabilities
from asrbatch.models.checkpoint import Checkpoint, hash_folder
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.types import Utterance


@dataclass(frozen=True)
class ModelOptions:
    """What was chosen for a model.

    Attributes:
        capabilities: the model.
        plugins: of vLLM's, the only ones to be loaded; None for those that are installed, or that VLLM_PLUGINS names.
        tokenizer: folder of a tokenizer that is not the checkpoint's own; None for the checkpoint's.
        trust_remote_code: run Python code that comes with the checkpoint.
        chat_template_kwargs: variables of the chat template.
        hotwords: words the model is to expect; None for none.
        target_language: into which it translates; None for the model's own choice.
        lora: folder of a LoRA adapter; None for none.
        lora_rank: as vLLM takes it.
    """

    capabilities: ModelCapabilities
    plugins: tuple[str, ...] | None = None
    tokenizer: str | None = None
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    hotwords: str | None = None
    target_language: str | None = None
    lora: str | None = None
    lora_rank: int | None = None

    @property
    def default_prompt(self) -> str | None:
        """Of rows and runs that give none."""
        return CHAT_PROMPT if self.capabilities.is_chat else None

    @property
    def plugin_versions(self) -> dict[str, str]:
        """What is installed of the plugins that vLLM will load."""
        return plugins.versions(self.plugins)

    @property
    def engine_settings(self) -> dict[str, Any]:
        """vLLM's engine arguments that follow from it. What was not given is left out: to vLLM an empty string is not
        "none".
        """
        settings = {name: value for name in ("tokenizer", "trust_remote_code") if (value := getattr(self, name))}
        if self.lora is not None:
            settings |= {"enable_lora": True, "max_lora_rank": self.lora_rank, "max_loras": 1}
        return settings

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What of it decides the rows; only what was chosen, so that a plain Whisper run has none."""
        capabilities = self.capabilities
        chosen: dict[str, Any] = {}
        if not capabilities.is_whisper:
            chosen["style"] = capabilities.prompt_style
            chosen["default_prompt"] = self.default_prompt
            # Found by trying: another version of the processor may take less, and other rows would fail as too_short.
            chosen["min_samples"] = capabilities.min_samples
        # A plugin may bring the model's class. Whisper's is vLLM's own, so only plugins that were asked for count.
        if self.plugins or not capabilities.is_whisper:
            chosen["plugins"] = self.plugin_versions
        # By content: a folder may be moved, and another may take its place.
        for name in ("tokenizer", "lora"):
            if (folder := getattr(self, name)) is not None:
                chosen[name] = hash_folder(folder)
        for name in ("trust_remote_code", "chat_template_kwargs", "hotwords", "target_language"):
            if value := getattr(self, name):
                chosen[name] = value
        return chosen


@dataclass(frozen=True)
class EngineSpec:
    """An engine to be started, and the requests it will get.

    Attributes:
        mode: `thread` or `process`.
        prompt: previous text for rows without `prompt`.
        max_tokens: most tokens generated for one window.
        engine_args: vLLM's, as the user gave them; they win over the automatic settings.
        model_options: what was chosen for the model.
        window_config: what the model takes at once, and how longer audio is cut.
        language: ISO 639-1 code for rows without `lang`; None has it detected.
        timestamps: whether results carry timestamps.
        temperatures: those that requests may have, 0.0 (greedy) first.
        word_timestamps: whether words of results are given times.
        encoder_cache_mb: MB of encoder outputs kept for that; None for the engine's own choice.
    """

    checkpoint: Checkpoint
    device: Device
    dtype: str
    mode: str
    task: str
    prompt: str | None
    max_tokens: int
    seed: int
    engine_args: dict[str, Any]
    model_options: ModelOptions
    window_config: WindowConfig
    language: str | None = None
    timestamps: bool = True
    temperatures: tuple[float, ...] = fallback.GREEDY
    word_timestamps: bool = False
    encoder_cache_mb: int | None = None

    @property
    def aligns(self) -> bool:
        """Whether the texts of rows are aligned with their audio, and none is decoded."""
        return self.window_config.text_field is not None

    @property
    def capabilities(self) -> ModelCapabilities:
        return self.model_options.capabilities

    @property
    def num_ranks(self) -> int:
        """Devices that the model is spread over."""
        return num_ranks(self.engine_args)

    @property
    def detects_language(self) -> bool:
        """Whether the result of a window without a stated language says which it is."""
        return "detection" in self.capabilities.supports

    @property
    def is_translated(self) -> bool:
        """Whether texts are written in another language than they are spoken in."""
        return self.task == "translate"

    @property
    def target_language(self) -> str | None:
        """The language translations are written in; None where nothing is translated, or nobody knows."""
        return (self.model_options.target_language or self.capabilities.default_target) if self.is_translated else None

    @cached_property
    def prompts(self) -> WhisperPrompts:
        """Of a Whisper checkpoint."""
        return WhisperPrompts(self.checkpoint, self.task, timestamps=self.timestamps)

    def language_of(self, utterance: Utterance) -> str | None:
        """Of its requests; None has it detected, or leaves it to the model."""
        if self.capabilities.is_whisper and not self.checkpoint.is_multilingual:
            return "en"
        lang = utterance.lang if self.capabilities.takes_language else None
        language = self.capabilities.check_language(lang, "lang") if lang else self.language
        # A row of a run says what was heard in it.
        if language is None and self.aligns and isinstance(heard := utterance.fields.get("language"), str):
            return find(heard, self.capabilities.languages)
        return language

    def prompt_of(self, utterance: Utterance) -> str | None:
        if self.aligns:
            return None
        prompt = self.prompt if utterance.prompt is None else utterance.prompt
        if self.capabilities.is_whisper and self.model_options.hotwords is not None:
            # Whisper expects words that stood in the text before. Last, because a long prompt loses its beginning.
            return f"{(prompt or '').strip()} {self.model_options.hotwords}"
        return prompt

    @property
    def sampling(self) -> dict[str, Any]:
        """What requests share of their sampling parameters, and when one is tried again; part of a run's
        fingerprint.
        """
        sampling = {"temperature": 0.0, "max_tokens": self.max_tokens, "seed": self.seed, "timestamps": self.timestamps}
        if len(self.temperatures) == 1:
            return sampling
        return sampling | {"fallback": {"temperatures": list(self.temperatures), **fallback.THRESHOLDS}}

    def __str__(self) -> str:
        how = "" if self.capabilities.is_whisper else f" asked by its {self.capabilities.prompt_style} style,"
        return f"{self.checkpoint.name},{how} {self.dtype} on {self.device.name}"
