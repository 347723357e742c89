"""One processor for each kind of model: samples to vLLM's input, vLLM's output to a `DecodingResult`.

Whisper's makes token ids of its own, with its rules for tokens enforced by a logits processor: vLLM's own prompt for
Whisper breaks English-only checkpoints and knows no previous text (`models/whisper.py`, `vllm/logits.py`). Every other
model gets its prompt from vLLM's transcription interface or from the checkpoint's chat template. There the prompt goes
with the features, so a window's language must be known when it is preprocessed; none of these models gives timestamps,
or takes the text before a window. Knows nothing of drivers and queues."""

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asrbatch.engine.base import DecodingOptions, Processor, Request
from asrbatch.engine.spec import EngineSpec
from asrbatch.models import postprocess
from asrbatch.models.whisper import CONTROLS_KEY
from asrbatch.types import DecodingResult

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

# Between Whisper's loudest feature and its floor: 80 dB, of which 40 make 1 (openai/whisper, audio.py).
_FEATURE_RANGE = 2.0


def make_processor(api: Any, engine: "LLMEngine | AsyncLLM", spec: EngineSpec) -> Processor:
    """The processor of a model.

    Args:
        api: the module `vllm/api.py`.
        engine: vLLM's, running.
    """
    from asrbatch.engine.vllm.frontends import make_frontend  # imports vllm

    options, is_whisper = spec.model_options, spec.capabilities.is_whisper
    frontend = make_frontend(
        engine.model_config,
        engine.renderer,
        spec.capabilities.prompt_style,
        task=spec.task,
        template_kwargs=options.chat_template_kwargs,
        # Whisper's stand in the text before.
        words={} if is_whisper else {"hotwords": options.hotwords, "to_language": options.target_language},
    )
    return (WhisperProcessor if is_whisper else GenerativeProcessor)(api, frontend, spec)


class WhisperProcessor:
    """`base.Processor` for Whisper checkpoints."""

    def __init__(self, api: Any, frontend: Any, spec: EngineSpec):
        from asrbatch.engine.vllm.log_mel import make_render  # imports torch

        self.prompts, self.frontend = spec.prompts, frontend
        self._render = make_render(frontend, spec.capabilities.sample_rate)
        self._api, self._max_tokens, self._seed = api, spec.max_tokens, spec.seed
        self._params = functools.cache(self._make_params)
        kinds = {"timestamps": True, "no_timestamps": False}
        if not self.prompts.has_timestamps:
            del kinds["timestamps"]
        self.warm_ups = [DecodingOptions(timestamps=kind) for kind in kinds.values()]
        rules = {name: self.prompts.controls(None, timestamps=kind).as_dict() for name, kind in kinds.items()}
        self.facts = {"token_rules": rules}

    def preprocess(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        prompt_ids = self.prompts.prompt_ids(prompt, self.frontend.encode)
        engine_input = self._render(samples)
        features = self._api.features(engine_input)
        return Request(prompt_ids, engine_input, float(features.max()), functools.partial(_clamp, features))

    def engine_input(self, request: Request, options: DecodingOptions) -> Any:
        decoder_ids = self.prompts.decoder_ids(request.prompt_ids, options.previous)
        return self._api.with_decoder_ids(request.engine_input, decoder_ids)

    def sampling_params(self, options: DecodingOptions) -> Any:
        return self._params(options.language, options.temperature, options.timestamps)

    def _make_params(self, language: str | None, temperature: float, timestamps: bool) -> Any:
        controls = self.prompts.controls(language, timestamps=timestamps)
        return self._api.sampling_params(
            self._max_tokens + len(controls.forced),  # those are generated, too
            self._seed,
            temperature,
            {CONTROLS_KEY: controls.as_dict()},
            watched=self.prompts.no_speech,
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text tokens to text."""
        return self.frontend.post_process(self.frontend.decode(token_ids))

    def postprocess(self, request: Request, options: DecodingOptions, output: Any) -> DecodingResult:
        token_ids, logprobs, watched = self._api.tokens_of(output)
        return self.prompts.postprocess(
            options.language,
            token_ids,
            logprobs,
            self.decode,
            timestamps=options.timestamps,
            finish_reason=self._api.finish_reason(output),
            no_speech_prob=math.exp(watched[0]) if watched else None,
            temperature=options.temperature,
            **self._api.timing(output),
        )


def _clamp(features: Any, peak: float) -> None:
    features.clamp_(min=peak - _FEATURE_RANGE)  # in place: a copy of a mel spectrogram for each window costs more


class GenerativeProcessor:
    """`base.Processor` for every model but Whisper."""

    def __init__(self, api: Any, frontend: Any, spec: EngineSpec):
        self._api, self.frontend = api, frontend
        self._default_prompt = spec.model_options.default_prompt
        # The tags of a thought may be special tokens, which are left out of a text otherwise.
        tags = (frontend.id_of(tag) for tag in (postprocess.OPEN, postprocess.CLOSE))
        self._kept = frozenset(i for i in tags if i is not None)
        self._params: Callable[[float], Any] = functools.cache(
            lambda temperature: api.sampling_params(spec.max_tokens, spec.seed, temperature, None)
        )
        self.warm_ups = [DecodingOptions(timestamps=False)]
        self.facts: dict[str, Any] = {}

    def preprocess(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        try:
            return Request((), self.frontend.render(samples, prompt or self._default_prompt, language))
        except (RuntimeError, IndexError, KeyError, AssertionError) as e:
            # How models' processors refuse what they were not made for.
            raise ValueError(f"{type(e).__name__}: {e}") from e

    def engine_input(self, request: Request, options: DecodingOptions) -> Any:
        return request.engine_input

    def sampling_params(self, options: DecodingOptions) -> Any:
        return self._params(options.temperature)

    def postprocess(self, request: Request, options: DecodingOptions, output: Any) -> DecodingResult:
        token_ids, logprobs, _ = self._api.tokens_of(output)
        transcript, reasoning, is_unclosed = postprocess.split_reasoning(
            self.frontend.decode_text(token_ids, self._kept), is_opened=self._is_opened(request)
        )
        text = self.frontend.post_process(transcript)
        stated = postprocess.stated_language(transcript, text)
        begin = self._length_until(postprocess.CLOSE, token_ids) if reasoning is not None else 0
        if stated is not None:
            begin = max(begin, self._length_until(postprocess.TAG, token_ids))
        # num_tokens and avg_logprob are those of the text: neither the thought nor the stated language was said.
        is_text = [n >= begin and not self.frontend.is_special(i) for n, i in enumerate(token_ids)]
        return DecodingResult(
            text=text,
            num_tokens=sum(is_text),
            finish_reason=(reason := self._api.finish_reason(output)),
            avg_logprob=_mean_logprob(logprobs, is_text, has_end=reason == "stop"),
            language=stated or options.language,
            language_prob=None,
            temperature=options.temperature,
            reasoning=reasoning,
            is_cut=is_unclosed,
            **self._api.timing(output),
        )

    def _length_until(self, tag: str, token_ids: Sequence[int]) -> int:
        """How many tokens it takes up to the end of a tag; all where it does not come to that."""
        # Bisected, because a tag may be several tokens, of which none is its text.
        lengths = range(len(token_ids))
        return bisect_left(lengths, True, key=lambda n: tag in self.frontend.decode_text(token_ids[:n], self._kept))

    def _is_opened(self, request: Request) -> bool:
        # Only the end is decoded: most of a long prompt stands for its audio.
        return postprocess.ends_in_reasoning(self.frontend.decode(self._api.prompt_ids(request.engine_input)[-8:]))


def _mean_logprob(logprobs: Sequence[float], is_text: Sequence[bool], *, has_end: bool) -> float | None:
    """Over the tokens of the text, and where it came to that, the end token; None without any."""
    counted = [logprob for logprob, counts in zip(logprobs, is_text, strict=False) if counts]
    # The end token counts, as it does in openai-whisper. An answer that was cut off has none.
    if has_end and is_text and not is_text[-1]:
        counted += logprobs[-1:]
    return sum(counted) / len(counted) if counted else None
