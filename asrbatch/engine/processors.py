"""Asks Whisper: by token ids of our own making, with its rules for tokens enforced by a logits processor.

vLLM's own prompt for Whisper breaks English-only checkpoints and knows no previous text; see `prompts.py` and
`logits.py`.

Asks models that write their answer as text: by vLLM's transcription interface, or by the checkpoint's chat template.

The prompt goes with the features here, so a window's language must be known when it is prepared; none of these models
gives timestamps, or is asked with the text before a window."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Any

from asrbatch.engine.base import DecodingOptions, Request
from asrbatch.engine.spec import ModelOptions
from asrbatch.models import postprocess
from asrbatch.models.capabilities import INTERFACE_STYLE
from asrbatch.models.whisper import CONTROLS_KEY, WhisperPrompts
from asrbatch.types import DecodingResult

LOGITS_PROCESSOR = "asrbatch.engine.vllm.logits:WhisperLogitsProcessor"
# Between Whisper's loudest feature and its floor: 80 dB, of which 40 make 1 (openai/whisper, audio.py).
_FEATURE_RANGE = 2.0


class WhisperProcessor:
    """`asker.Asker` for Whisper checkpoints.

    Args:
        vllm_api: the module of that name.
        frontend: of the running engine.
    """

    def __init__(self, vllm_api: Any, frontend: Any, prompts: WhisperPrompts, *, max_tokens: int, seed: int):
        self.prompts, self.frontend = prompts, frontend
        self._api, self._max_tokens, self._seed = vllm_api, max_tokens, seed
        self._params: dict[tuple[str | None, float, bool], Any] = {}
        kinds = (True, False) if prompts.has_timestamps else (False,)
        self.warm_ups = [DecodingOptions(timestamps=timestamps) for timestamps in kinds]
        self.facts = {
            "token_rules": {
                "timestamps" if timestamps else "no_timestamps": prompts.controls(None, timestamps=timestamps).as_dict()
                for timestamps in kinds
            },
        }

    def prepare(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        prompt_ids, engine_input = self.prompts.prompt_ids(prompt, self.frontend.encode), self.frontend.render(samples)
        features = self._api.features(engine_input)
        return Request(prompt_ids, engine_input, float(features.max()), partial(_clamp, features))

    def input_of(self, request: Request, question: DecodingOptions) -> Any:
        decoder_ids = self.prompts.decoder_ids(request.prompt_ids, question.previous)
        return self._api.with_decoder_ids(request.engine_input, decoder_ids)

    def params_of(self, question: DecodingOptions) -> Any:
        kind = (question.language, question.temperature, question.timestamps)
        if kind not in self._params:
            controls = self.prompts.controls(question.language, timestamps=question.timestamps)
            self._params[kind] = self._api.sampling_params(
                self._max_tokens + len(controls.forced),
                self._seed,
                question.temperature,
                {CONTROLS_KEY: controls.as_dict()},
                watched=self.prompts.no_speech,
            )
        return self._params[kind]

    def recorded_params(self, temperature: float) -> dict[str, Any]:
        """What differs between languages and timestamps is recorded apart, in `facts`."""
        params = self._api.as_json(self.params_of(DecodingOptions(temperature=temperature)))
        return {**params, "max_tokens": self._max_tokens, "extra_args": None}

    def read(self, request: Request, question: DecodingOptions, done: Any) -> DecodingResult:
        decode, timestamps = self.frontend.decode, question.timestamps
        answer = self.prompts.read(question.language, done.token_ids, done.logprobs, decode, timestamps=timestamps)
        return DecodingResult(
            text=answer.text,
            num_tokens=answer.num_tokens,
            finish_reason=done.finish_reason,
            avg_logprob=answer.avg_logprob,
            language=answer.language,
            language_prob=answer.language_prob,
            queue_s=done.queue_s,
            first_token_s=done.first_token_s,
            generate_s=done.generate_s,
            segments=answer.segments,
            resume_s=answer.resume_s,
            no_speech_prob=math.exp(done.watched[0]) if done.watched else None,
            temperature=question.temperature,
        )


def _clamp(features: Any, peak: float) -> None:
    features.clamp_(min=peak - _FEATURE_RANGE)  # in place: a copy of a mel spectrogram for each window costs more


class GenerativeProcessor:
    """`asker.Asker` for every model but Whisper.

    Args:
        vllm_api, vllm_frontends: the modules of those names.
        engine: vLLM's, running.
    """

    def __init__(
        self,
        vllm_api: Any,
        vllm_frontends: Any,
        engine: Any,
        model_options: ModelOptions,
        *,
        task: str,
        max_tokens: int,
        seed: int,
    ):
        self._api, self._asking, self._max_tokens, self._seed = vllm_api, model_options, max_tokens, seed
        config, renderer = engine.model_config, engine.renderer
        if model_options.capabilities.style == INTERFACE_STYLE:
            self.frontend = vllm_frontends.InterfaceFrontend(config, renderer, task)
            words = {"hotwords": model_options.hotwords, "to_language": model_options.target_language}
            self._default_language = self.frontend.default_language
            self._render = partial(self._render_interface, words)
        else:
            self.frontend = vllm_frontends.ChatFrontend(config, renderer, model_options.chat_template_kwargs)
            self._render = self._render_chat
        # The tags of a thought may be special tokens, which are left out of a text otherwise.
        tags = (self.frontend.id_of(tag) for tag in (postprocess.OPEN, postprocess.CLOSE))
        self._kept = frozenset(i for i in tags if i is not None)
        self._params: dict[float, Any] = {}
        self.warm_ups = [DecodingOptions(timestamps=False)]
        self.facts: dict[str, Any] = {}

    def prepare(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        try:
            return Request((), self._render(samples, prompt, language))
        except (
            RuntimeError,
            IndexError,
            KeyError,
            AssertionError,
        ) as e:  # how processors refuse what they were not made for
            raise ValueError(f"{type(e).__name__}: {e}") from e

    def input_of(self, request: Request, question: DecodingOptions) -> Any:
        return request.engine_input

    def params_of(self, question: DecodingOptions) -> Any:
        if question.temperature not in self._params:
            self._params[question.temperature] = self._api.sampling_params(
                self._max_tokens, self._seed, question.temperature, None
            )
        return self._params[question.temperature]

    def recorded_params(self, temperature: float) -> dict[str, Any]:
        return self._api.as_json(self.params_of(DecodingOptions(temperature=temperature)))

    def read(self, request: Request, question: DecodingOptions, done: Any) -> DecodingResult:
        frontend, last = self.frontend, done.finish_reason == "stop"
        parts = postprocess.read(frontend.decode(done.token_ids, self._kept), is_opened=self._is_opened(request))
        text = frontend.post_process(parts.text)
        before = self._until(postprocess.CLOSE, done.token_ids) if parts.reasoning is not None else 0
        if (stated := postprocess.stated(parts.text, text)) is not None:
            before = max(before, self._until(postprocess.TAG, done.token_ids))
        # A token of the text, and where it came to that, the end token.
        is_text = [n >= before and not frontend.is_special(i) for n, i in enumerate(done.token_ids)]
        counted = [p for p, text in zip(done.logprobs, is_text, strict=False) if text]
        if last and is_text and not is_text[-1]:
            counted += done.logprobs[-1:]
        return DecodingResult(
            text=text,
            num_tokens=sum(is_text),
            finish_reason=done.finish_reason,
            avg_logprob=sum(counted) / len(counted) if counted else None,
            language=stated or question.language,
            language_prob=None,
            queue_s=done.queue_s,
            first_token_s=done.first_token_s,
            generate_s=done.generate_s,
            temperature=question.temperature,
            reasoning=parts.reasoning,
            is_cut=parts.is_unclosed,
        )

    def _until(self, tag: str, token_ids: Sequence[int]) -> int:
        """How many tokens an answer takes up to the end of a tag; all where it does not come to that."""
        lengths = range(len(token_ids))
        return bisect_left(lengths, True, key=lambda n: tag in self.frontend.decode(token_ids[:n], self._kept))

    def _is_opened(self, request: Request) -> bool:
        return postprocess.ends_open(self.frontend.decode_all(self._api.prompt_ids(request.engine_input)[-8:]))

    def _render_interface(self, words: dict[str, Any], samples: Any, prompt: str | None, language: str | None) -> Any:
        return self.frontend.render(
            samples, language=language or self._default_language, request_prompt=prompt, **words
        )

    def _render_chat(self, samples: Any, prompt: str | None, language: str | None) -> Any:
        return self.frontend.render(samples, prompt or self._asking.default_prompt)
