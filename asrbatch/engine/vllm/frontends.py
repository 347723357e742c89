"""Asks a model as its class, or its chat template, wants to be asked: prompts with audio in, text out of tokens.

Works in two places: in the process of an engine, with that engine's renderer, and without an engine, from the
configuration alone (`engine/look_child.py`). Import it late, like `vllm_api.py`.

The variables of a chat template, read from its source. Knows nothing of vLLM.
"""

import copy
import dataclasses
import re
import threading
from collections.abc import Sequence
from typing import Any

import jinja2.meta
from vllm.config.speech_to_text import SpeechToTextParams
from vllm.renderers.hf import resolve_chat_template
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.renderers.params import ChatParams

from asrbatch.engine.vllm.registry import model_of, placeholder_of
from asrbatch.errors import RowError

# What a template is given whatever anybody asks for, and Jinja's and transformers' own functions.
_GIVEN = frozenset(
    (
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "raise_exception",
        "strftime_now",
    )
)
# A tag of transformers' that marks what the assistant says; Jinja itself does not know it.
_MARK = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


def variables(template: str) -> frozenset[str] | None:
    """The names that a template looks up; None where it cannot be read as Jinja."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        found = jinja2.meta.find_undeclared_variables(environment.parse(_MARK.sub("", template)))
    except jinja2.TemplateError:
        return None
    return frozenset(found - environment.globals.keys())


def to_choose(names: frozenset[str]) -> list[str]:
    """Those of a template's variables that somebody may want to set."""
    return sorted(name for name in names - _GIVEN if not name.endswith("_token"))


# Prompts of a chat that are kept: rows may bring their own, and memory must not grow with them.
_MAX_PROMPTS = 64

# Where `SpeechToTextParams` lacks a field in some vLLM, no model of that vLLM honours it.
_PARAMS = {field.name for field in dataclasses.fields(SpeechToTextParams)}


class _Frontend:
    """What asking by the interface and by a chat template have in common.

    vLLM's renderers and the processors of models are not written for several threads (Whisper's, which is, has a
    frontend of its own): one window at a time is rendered."""

    def __init__(self, model_config: Any, renderer: Any):
        self.model_config, self._renderer = model_config, renderer
        self.model = model_of(model_config)
        self.lock = threading.Lock()
        self._tokenizer = renderer.get_tokenizer()
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        # One of our own, which nobody sets truncation on while another thread reads; see vllm_api.Frontend.
        self._fast = copy.deepcopy(fast) if fast is not None else None
        self._special = frozenset(getattr(self._tokenizer, "all_special_ids", ()))
        if self._fast is not None:
            added = self._fast.get_added_tokens_decoder()
            self._special |= {i for i, token in added.items() if token.special}

    def is_special(self, token: int) -> bool:
        return token in self._special

    def decode(self, token_ids: Sequence[int], keep: frozenset[int] = frozenset()) -> str:
        """Text without special tokens, as vLLM's server makes it; nothing is tidied up.

        Args:
            keep: special tokens that stay.
        """
        ids = [i for i in token_ids if i not in self._special or i in keep]
        if self._fast is not None:
            return self._fast.decode(ids, skip_special_tokens=False)
        with self.lock:
            return self._tokenizer.decode(ids)

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Text with special tokens."""
        if self._fast is not None:
            return self._fast.decode(list(token_ids), skip_special_tokens=False)
        with self.lock:
            return self._tokenizer.decode(list(token_ids))

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary that stands for itself; None where there is none."""
        return None if self._fast is None else self._fast.token_to_id(token)

    def check_words(self, what: str, text: str | None) -> None:
        """Refuses words that would be read as something else than words.

        Args:
            what: `prompt` or `hotwords`, for the message.

        Raises:
            RowError: `bad_row`; they hold a control token, such as one that ends the turn or stands for audio.
        """
        if text is None:
            return
        if self._fast is not None:
            found = [i for i in self._fast.encode(text, add_special_tokens=False).ids if i in self._special]
            shown = self.decode_all(found[:1])
        else:
            found = [token for token in getattr(self._tokenizer, "all_special_tokens", ()) if token in text]
            shown = found[0] if found else ""
        if found:
            raise RowError("bad_row", f"{what} {text[:60]!r}: holds the control token {shown}; remove it")

    def post_process(self, text: str) -> str:
        """As the model's own class does; a class without a word on it changes nothing."""
        own = getattr(self.model, "post_process_output", None)
        return text if own is None else own(text)

    def _render(self, prompt: Any) -> Any:
        (engine_input,) = self._renderer.render_cmpl([parse_model_prompt(self.model_config, prompt)])
        return engine_input


class InterfaceFrontend(_Frontend):
    """Asks a model that implements vLLM's `SupportsTranscription`.

    Args:
        task: `transcribe` or `translate`.
    """

    def __init__(self, model_config: Any, renderer: Any, task: str):
        super().__init__(model_config, renderer)
        self._task = task
        self.capabilities = self.model.get_speech_to_text_config(model_config, task)

    @property
    def sample_rate(self) -> int:
        return int(self.capabilities.sample_rate)

    def prompt(self, samples: Any, **words: Any) -> Any:
        """vLLM's prompt, audio included.

        Args:
            samples: 1-D float32 at `sample_rate`.
            words: `language`, `request_prompt`, `hotwords`, `to_language`, `task_type`; None for not given.
        """
        given = {name: value for name, value in words.items() if value is not None}
        if missing := given.keys() - _PARAMS:
            raise ValueError(f"this vLLM has no {', '.join(sorted(missing))} for any model")
        params = {
            "audio": samples,
            "stt_config": self.capabilities,
            "model_config": self.model_config,
            "task_type": self._task,
        }
        return self.model.get_generation_prompt(SpeechToTextParams(**{**params, **given}))

    def render(self, samples: Any, **words: Any) -> Any:
        self.check_words("prompt", words.get("request_prompt"))
        self.check_words("hotwords", words.get("hotwords"))
        with self.lock:
            return self._render(self.prompt(samples, **words))

    @property
    def default_language(self) -> str | None:
        """What the class takes when nobody states a language; None where it does without."""
        return self.model.validate_language(None)

    def say(self, samples: Any, **words: Any) -> str | None:
        """The prompt as text, for `honoured.py`; in the class's default language where `words` has none."""
        try:
            prompt = self.prompt(samples, **{"language": self.default_language, **words})
        except Exception:  # a class refuses in ways of its own what it does not know
            return None
        ids = prompt.get("prompt_token_ids")
        return str(list(ids)) if ids is not None else prompt.get("prompt")


class ChatFrontend(_Frontend):
    """Asks a model by its chat template, with one audio part; a prompt is built once and kept.

    Args:
        template_kwargs: variables of the template.

    Raises:
        ValueError: the model class has no placeholder for audio, or the tokenizer no chat template.
    """

    def __init__(self, model_config: Any, renderer: Any, template_kwargs: dict[str, Any]):
        super().__init__(model_config, renderer)
        self._kwargs = {"add_generation_prompt": True, **template_kwargs}
        self.placeholder = placeholder_of(self.model)
        if self.placeholder is None:
            raise ValueError(f"{self.model.__name__} has no placeholder for audio, so vLLM cannot give it any")
        self._prompts: dict[str, list[int]] = {}

    @property
    def sample_rate(self) -> int:
        info = self._renderer.get_mm_processor().info
        parser = getattr(info, "data_parser", None) or info.get_data_parser()
        return int(parser.audio_resampler.target_sr)

    @property
    def clip_s(self) -> float | None:
        """The longest audio its feature extractor takes without dropping some; None where it does not say."""
        try:
            processor = self._renderer.get_mm_processor().info.get_hf_processor()
        except Exception:  # a plugin need not have one
            return None
        extractor = getattr(processor, "feature_extractor", None)
        length = getattr(extractor, "chunk_length", None)
        return None if length is None else float(length)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of the whole chat, the audio a placeholder.

        The audio stands where the text says `{audio}`, otherwise at its end. A template that takes parts puts in its
        own text for the audio; one that takes plain text is given the model class's placeholder.

        Raises:
            RowError: `bad_row`, the prompt would be read as something else than one text with one audio.
        """
        if prompt not in self._prompts:
            self._check(prompt)
            before, _, after = prompt.partition("{audio}")
            texts = [{"type": "text", "text": t} for t in (before, after)]
            # A part with a uuid promises its audio for later; vLLM 0.28 takes that promise of an `audio_url` alone.
            audio = {"type": "audio_url", "audio_url": None, "uuid": "window"}
            parts = [part for part in (texts[0], audio, texts[1]) if part is audio or part["text"].strip()]
            conversation, chat = self._chat(parts, "auto")
            if isinstance(conversation[0]["content"], str):
                gap = "" if "{audio}" in prompt or not before.strip() else " "
                text = f"{before}{gap}{self.placeholder}{after}"
                _, chat = self._chat([audio, {"type": "text", "text": text}], "string")
            if len(self._prompts) == _MAX_PROMPTS:
                del self._prompts[next(iter(self._prompts))]
            self._prompts[prompt] = list(chat["prompt_token_ids"])
        return self._prompts[prompt]

    def render(self, samples: Any, prompt: str) -> Any:
        with self.lock:
            ids = self.prompt_ids(prompt)
            return self._render({"prompt_token_ids": ids, "multi_modal_data": {"audio": [(samples, self.sample_rate)]}})

    @property
    def takes_prompts(self) -> bool:
        """Whether the template writes what it is given to say."""
        return self.prompt_ids("Norland") != self.prompt_ids("Write down")

    @property
    def template_variables(self) -> frozenset[str]:
        """The names that the chat template looks up; none where it cannot be read."""
        try:
            template = resolve_chat_template(self._tokenizer, None, None, model_config=self.model_config)
        except Exception:  # tokenizers that are not transformers' have no template to be read
            template = None
        return (variables(template) if template else None) or frozenset()

    @property
    def ignored_kwargs(self) -> list[str]:
        """Variables that the template does not look up and that change the prompt neither by being there nor by another
        value.

        One that says what the template does anyway changes nothing, and is no mistake.
        """
        known = self.template_variables
        return [name for name in self._kwargs if name not in known and not self._matters(name)]

    def _matters(self, name: str) -> bool:
        given, without = self._kwargs, {key: value for key, value in self._kwargs.items() if key != name}
        prompts = []
        try:
            for kwargs in (given, without, *({**given, name: other} for other in (True, False, "Norland"))):
                self._kwargs, self._prompts = kwargs, {}
                prompts.append(self.prompt_ids("Norland"))
        except Exception:  # the template does not take every value: it looks at it
            return True
        finally:
            self._kwargs, self._prompts = given, {}
        return any(prompt != prompts[0] for prompt in prompts)

    def _check(self, prompt: str) -> None:
        if prompt.count("{audio}") > 1:
            raise RowError("bad_row", f"prompt {prompt[:60]!r}: says {{audio}} more than once; a row has one audio")
        text = prompt.replace("{audio}", " ")
        if self.placeholder in text:
            raise RowError(
                "bad_row", f"prompt {prompt[:60]!r}: holds the audio placeholder {self.placeholder}; write {{audio}}"
            )
        self.check_words("prompt", text)

    def _chat(self, parts: list[dict[str, Any]], content_format: str) -> tuple[Any, Any]:
        params = ChatParams(chat_template_content_format=content_format, chat_template_kwargs=self._kwargs)
        return self._renderer.render_messages([{"role": "user", "content": parts}], params)
