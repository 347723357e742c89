"""What all ways to prompt a model have in common: its class, its tokenizer, and rendering by vLLM.

Works in two places: with the renderer of a running engine, and without an engine, from the configuration alone
(`inspector_process.py`). Knows nothing of requests. Import it late, like `api.py`.
"""

import copy
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from vllm.config import ModelConfig
from vllm.model_executor.model_loader import get_model_cls
from vllm.renderers.base import BaseRenderer
from vllm.renderers.inputs.preprocess import parse_model_prompt

from asrbatch.errors import RowError
from asrbatch.formatting import show


class Frontend:
    """What the transcription interface and chat templates have in common: the tokenizer, and rendering.

    Args:
        is_thread_safe: whether several windows may be rendered at once. vLLM's renderers and the processors of models
            are not written for that; Whisper's is, without a multimodal cache (tested equal to serial).
    """

    def __init__(self, model_config: ModelConfig, renderer: BaseRenderer, *, is_thread_safe: bool = False):
        self.model_config, self._renderer = model_config, renderer
        self.model = get_model_cls(model_config)
        self.lock = nullcontext() if is_thread_safe else threading.Lock()
        self._tokenizer = renderer.get_tokenizer()
        self._special = frozenset(getattr(self._tokenizer, "all_special_ids", ()))
        self._fast = copy.deepcopy(getattr(self._tokenizer, "backend_tokenizer", None))
        if self._fast is not None:
            # One of our own: vLLM's is also used by its renderer, in several threads, and the Python class around it
            # may set truncation and padding, which is refused ("Already borrowed") while another thread reads. Nobody
            # changes this one.
            self._fast.no_truncation()
            self._fast.no_padding()
            added = self._fast.get_added_tokens_decoder()
            self._special |= {i for i, token in added.items() if token.special}

    @property
    def feature_extractor(self) -> Any:
        """Of the model's processor; None where it has none, or there is no such processor."""
        try:
            processor = self._renderer.get_mm_processor().info.get_hf_processor()
        except Exception:  # a plugin need not have one
            return None
        return getattr(processor, "feature_extractor", None)

    @property
    def processor_kwargs(self) -> dict[str, Any]:
        """What the user wants of the model's processor (--engine-arg mm_processor_kwargs)."""
        return getattr(self.model_config.multimodal_config, "mm_processor_kwargs", None) or {}

    def is_special(self, token: int) -> bool:
        return token in self._special

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens around them. Thread-safe, as is `decode`."""
        if self._fast is not None:
            return self._fast.encode(text, add_special_tokens=False).ids
        with self.lock:
            return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text with special tokens; nothing is tidied up."""
        if self._fast is not None:
            return self._fast.decode(list(token_ids), skip_special_tokens=False)
        with self.lock:
            return self._tokenizer.decode(list(token_ids))

    def decode_text(self, token_ids: Sequence[int], keep: frozenset[int] = frozenset()) -> str:
        """Text without special tokens, as vLLM's server makes it.

        Args:
            keep: special tokens that stay.
        """
        return self.decode([i for i in token_ids if i not in self._special or i in keep])

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary that stands for itself; None where there is none."""
        return None if self._fast is None else self._fast.token_to_id(token)

    def check_words(self, option: str, text: str | None) -> None:
        """Refuses words that would be read as something else than words.

        Args:
            option: `prompt` or `hotwords`, for the message.

        Raises:
            RowError: `bad_row`; they hold a control token, such as one that ends the turn or stands for audio.
        """
        if text is None:
            return
        if self._fast is not None:
            found = [i for i in self.encode(text) if i in self._special]
            shown = self.decode(found[:1])
        else:  # its encoder may split a control token, so that only the text shows it
            found = [token for token in getattr(self._tokenizer, "all_special_tokens", ()) if token in text]
            shown = found[0] if found else ""
        if found:
            raise RowError("bad_row", f"{option} {show(text)}: holds the control token {shown}; remove it")

    def post_process(self, text: str) -> str:
        """As the model's own class does; a class that does nothing changes nothing."""
        own = getattr(self.model, "post_process_output", None)
        return text if own is None else own(text)

    def _render(self, prompt: Any) -> Any:
        # Raw prompts are deprecated in vLLM, and unparsed ones fail.
        (engine_input,) = self._renderer.render_cmpl([parse_model_prompt(self.model_config, prompt)])
        return engine_input
