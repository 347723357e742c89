"""How one run asks its model: what the model is, and what the user chose. Plain data that can be sent to a worker."""

from dataclasses import dataclass, field
from typing import Any

from ..speech import CHAT_PROMPT, CHAT_STYLE, Speech
from . import plugins


@dataclass(frozen=True)
class Asking:
    """Attributes:
    speech: the model.
    plugins: of vLLM's, the only ones to be loaded; None for those that are installed, or that VLLM_PLUGINS names.
    tokenizer: folder of a tokenizer that is not the checkpoint's own; None for the checkpoint's.
    trust_remote_code: run Python code that comes with the checkpoint.
    chat_template_kwargs: variables of the chat template.
    hotwords: words the model is to expect; None for none.
    target_language: into which it translates; None for the model's own choice.
    lora: folder of a LoRA adapter; None for none.
    lora_rank: as vLLM has to be told it.
    """

    speech: Speech
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
        return CHAT_PROMPT if self.speech.style == CHAT_STYLE else None

    @property
    def plugin_versions(self) -> dict[str, str]:
        """What is installed of the plugins that vLLM will load."""
        return plugins.versions(self.plugins)

    @property
    def engine_settings(self) -> dict[str, Any]:
        """vLLM's engine arguments that follow from it. What was not given is left out: an empty string is not "none"."""
        settings: dict[str, Any] = {}
        if self.tokenizer is not None:
            settings["tokenizer"] = self.tokenizer
        if self.trust_remote_code:
            settings["trust_remote_code"] = True
        if self.lora is not None:
            settings |= {"enable_lora": True, "max_lora_rank": self.lora_rank, "max_loras": 1}
        return settings
