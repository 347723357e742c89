"""A model's prompts, rendered by vLLM: of its transcription interface, Whisper among them, or of its chat template.

Knows nothing of requests, and does not judge what a model makes of a prompt. Import it late, like `api.py`.
"""

import dataclasses
import re
from functools import cached_property, lru_cache, partial
from typing import Any

import jinja2.meta
from vllm.config import ModelConfig
from vllm.config.speech_to_text import SpeechToTextParams
from vllm.model_executor.models.interfaces import SupportsTranscription
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import resolve_chat_template
from vllm.renderers.params import ChatParams

from asrbatch.engine.vllm.registry import placeholder_of
from asrbatch.engine.vllm.rendering import Frontend
from asrbatch.errors import RowError
from asrbatch.formatting import show
from asrbatch.models.capabilities import CHAT_STYLE, WHISPER_STYLE

# What every template is given, and Jinja's and transformers' own functions.
_STANDARD_VARIABLES = frozenset((
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception",
    "strftime_now",
))  # fmt: skip
# A tag of transformers' that marks what the assistant says; Jinja itself does not know it.
_GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

_MAX_PROMPTS = 64  # of a chat that are kept

# Where `SpeechToTextParams` lacks a field in some vLLM, no model of that vLLM takes it.
_PARAMS = {field.name for field in dataclasses.fields(SpeechToTextParams)}


def make_frontend(
    model_config: ModelConfig,
    renderer: BaseRenderer,
    style: str,
    *,
    task: str,
    template_kwargs: dict[str, Any],
    words: dict[str, str | None] | None = None,
) -> "InterfaceFrontend | ChatFrontend":
    """The frontend for a prompt style.

    Args:
        style: `whisper`, `transcription` or `chat`.
        template_kwargs: variables of a chat template.
        words: `hotwords` and `to_language` of every prompt of the interface; None for none.
    """
    if style == CHAT_STYLE:
        return ChatFrontend(model_config, renderer, template_kwargs)
    return InterfaceFrontend(model_config, renderer, task, words or {}, is_thread_safe=style == WHISPER_STYLE)


def template_variables(template: str) -> frozenset[str] | None:
    """The names that a chat template looks up; None where it cannot be read as Jinja."""
    # transformers renders templates with `break` and `continue`, so they must be read with them.
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        found = jinja2.meta.find_undeclared_variables(environment.parse(_GENERATION_TAG.sub("", template)))
    except jinja2.TemplateError:
        return None
    return frozenset(found - environment.globals.keys())


class InterfaceFrontend(Frontend):
    """Prompts of a model that implements vLLM's `SupportsTranscription`.

    Args:
        task: `transcribe` or `translate`.
        words: `hotwords` and `to_language` of every prompt; None for none.
    """

    model: type[SupportsTranscription]

    def __init__(
        self,
        model_config: ModelConfig,
        renderer: BaseRenderer,
        task: str,
        words: dict[str, str | None],
        *,
        is_thread_safe: bool = False,
    ):
        super().__init__(model_config, renderer, is_thread_safe=is_thread_safe)
        self._task, self.words = task, words
        self.speech_config = self.model.get_speech_to_text_config(model_config, task)

    @property
    def sample_rate(self) -> int:
        return int(self.speech_config.sample_rate)  # vLLM states it as a float

    def prompt(self, samples: Any, **words: Any) -> Any:
        """vLLM's prompt, audio included.

        Args:
            samples: 1-D float32 at `sample_rate`.
            words: `language`, `request_prompt`, `hotwords`, `to_language`, `task_type`; None for not given.
        """
        given = {name: value for name, value in words.items() if value is not None}
        if missing := given.keys() - _PARAMS:
            raise ValueError(f"this vLLM has no {', '.join(sorted(missing))} for any model")
        settled = {"stt_config": self.speech_config, "model_config": self.model_config, "task_type": self._task}
        return self.model.get_generation_prompt(SpeechToTextParams(audio=samples, **(settled | given)))

    def render(self, samples: Any, prompt: str | None = None, language: str | None = None) -> Any:
        """Features and prompt of one window as vLLM's engine input."""
        self.check_words("prompt", prompt)
        self.check_words("hotwords", self.words.get("hotwords"))
        language = language or self.default_language
        with self.lock:
            return self._render(self.prompt(samples, language=language, request_prompt=prompt, **self.words))

    @cached_property
    def default_language(self) -> str | None:
        """What the class takes when nobody states a language; None where it does without.

        Found once: some classes log a warning each time, and the log would grow with the manifest.
        """
        return self.model.validate_language(None)

    def prompt_text(self, samples: Any, **words: Any) -> str | None:
        """The prompt as text, for `option_support.py`; in the class's default language where `words` has none."""
        try:
            prompt = self.prompt(samples, **{"language": self.default_language, **words})
        except Exception:  # a class refuses in ways of its own what it does not know
            return None
        ids = prompt.get("prompt_token_ids")
        return str(list(ids)) if ids is not None else prompt.get("prompt")


class ChatFrontend(Frontend):
    """Prompts of a chat template, with one audio part; each is built once and kept.

    Args:
        template_kwargs: variables of the template.
    """

    def __init__(self, model_config: ModelConfig, renderer: BaseRenderer, template_kwargs: dict[str, Any]):
        super().__init__(model_config, renderer)
        # Without it a template leaves the user's turn open, and the model goes on in it.
        self._kwargs = {"add_generation_prompt": True, **template_kwargs}
        # Rows may bring their own prompts, and memory must not grow with them.
        self.prompt_ids = lru_cache(_MAX_PROMPTS)(partial(self._prompt_ids, kwargs=self._kwargs))
        # There is one: `inspector_process.py` refuses models without.
        self.placeholder = placeholder_of(self.model)

    @property
    def sample_rate(self) -> int:
        info = self._renderer.get_mm_processor().info
        parser = getattr(info, "data_parser", None) or info.get_data_parser()
        return int(parser.audio_resampler.target_sr)

    @property
    def clip_s(self) -> float | None:
        """The longest audio its feature extractor takes without dropping some; None where it does not say."""
        length = getattr(self.feature_extractor, "chunk_length", None)
        return None if length is None else float(length)

    def _prompt_ids(self, prompt: str, kwargs: dict[str, Any]) -> list[int]:
        """Token ids of the whole chat, the audio a placeholder.

        The audio stands where the text says `{audio}`, otherwise at its end. A template that takes parts puts in its
        own text for the audio; one that takes plain text is given the model class's placeholder.

        Raises:
            RowError: `bad_row`, the prompt would be read as something else than one text with one audio.
        """
        self._check(prompt)
        before, _, after = prompt.partition("{audio}")
        texts = [{"type": "text", "text": t} for t in (before, after)]
        # A part with a uuid promises its audio for later; vLLM 0.28 takes that promise of an `audio_url` alone.
        audio = {"type": "audio_url", "audio_url": None, "uuid": "window"}
        parts = [part for part in (texts[0], audio, texts[1]) if part is audio or part["text"].strip()]
        conversation, chat = self._chat(parts, "auto", kwargs)
        # For plain text vLLM writes the placeholder before it, unless the text has it: so it is written in.
        if isinstance(conversation[0]["content"], str):
            gap = "" if "{audio}" in prompt or not before.strip() else " "
            text = f"{before}{gap}{self.placeholder}{after}"
            _, chat = self._chat([audio, {"type": "text", "text": text}], "string", kwargs)
        return list(chat["prompt_token_ids"])

    def render(self, samples: Any, prompt: str, language: str | None = None) -> Any:
        """Features and prompt of one window as vLLM's engine input; a chat has no place for a language."""
        with self.lock:
            ids = self.prompt_ids(prompt)
            return self._render({"prompt_token_ids": ids, "multi_modal_data": {"audio": [(samples, self.sample_rate)]}})

    @property
    def takes_prompts(self) -> bool:
        """Whether the template writes the text of its message."""
        return self.prompt_ids("Norland") != self.prompt_ids("Write down")

    @property
    def settable_variables(self) -> list[str]:
        """Those of the template's variables that somebody may want to set."""
        names = self.template_variables - _STANDARD_VARIABLES
        return sorted(name for name in names if not name.endswith("_token"))

    @property
    def template_variables(self) -> frozenset[str]:
        """The names that the chat template looks up; none where it cannot be read."""
        try:
            template = resolve_chat_template(self._tokenizer, None, None, model_config=self.model_config)
        except Exception:  # tokenizers that are not transformers' have no template to be read
            template = None
        return (template_variables(template) if template else None) or frozenset()

    @property
    def ignored_kwargs(self) -> list[str]:
        """Variables that the template does not look up and that change the prompt neither by being there nor by another
        value.

        One that states what the template does anyway changes nothing, and is no mistake.
        """
        known = self.template_variables
        return [name for name in self._kwargs if name not in known and not self._matters(name)]

    def _matters(self, name: str) -> bool:
        without = {key: value for key, value in self._kwargs.items() if key != name}
        others = [without, *({**without, name: other} for other in (True, False, "Norland"))]
        try:
            return any(self._prompt_ids("Norland", kwargs) != self.prompt_ids("Norland") for kwargs in others)
        except Exception:  # a template that does not take every value looks at it
            return True

    def _check(self, prompt: str) -> None:
        if prompt.count("{audio}") > 1:
            raise RowError("bad_row", f"prompt {show(prompt)}: says {{audio}} more than once; a row has one audio")
        text = prompt.replace("{audio}", " ")
        if self.placeholder in text:
            raise RowError(
                "bad_row", f"prompt {show(prompt)}: holds the audio placeholder {self.placeholder}; write {{audio}}"
            )
        self.check_words("prompt", text)

    def _chat(self, parts: list[dict[str, Any]], content_format: str, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        params = ChatParams(chat_template_content_format=content_format, chat_template_kwargs=kwargs)
        return self._renderer.render_messages([{"role": "user", "content": parts}], params)
