"""Asks Whisper: by token ids of our own making, with its rules for tokens enforced by a logits processor.

vLLM's own prompt for Whisper breaks English-only checkpoints and knows no previous text; see `prompts.py` and `logits.py`.
"""

import math
from typing import Any

from ..prompts import CONTROLS_KEY, WhisperPrompts
from ..types import Generation
from .base import Question, Request

LOGITS_PROCESSOR = "asrbatch.engine.logits:WhisperLogits"
# Between Whisper's loudest feature and its floor: 80 dB, of which 40 make 1 (openai/whisper, audio.py).
_FEATURE_RANGE = 2.0


class WhisperAsker:
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
        self.warm_ups = [Question(timestamps=timestamps) for timestamps in kinds]
        self.facts = {
            "token_rules": {
                "timestamps" if timestamps else "no_timestamps": prompts.controls(None, timestamps=timestamps).as_dict()
                for timestamps in kinds
            },
        }

    def prepare(self, samples: Any, prompt: str | None, language: str | None) -> Request:
        prompt_ids, engine_input = self.prompts.prompt_ids(prompt, self.frontend.encode), self.frontend.render(samples)
        return Request(prompt_ids, engine_input, float(self._api.features(engine_input).max()))

    def raise_floor(self, request: Request, loudest: float) -> None:
        self._api.features(request.engine_input).clamp_(min=loudest - _FEATURE_RANGE)

    def input_of(self, request: Request, question: Question) -> Any:
        decoder_ids = self.prompts.decoder_ids(request.prompt_ids, question.previous)
        return self._api.with_decoder_ids(request.engine_input, decoder_ids)

    def params_of(self, question: Question) -> Any:
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
        params = self._api.as_json(self.params_of(Question(temperature=temperature)))
        return {**params, "max_tokens": self._max_tokens, "extra_args": None}

    def read(self, request: Request, question: Question, done: Any) -> Generation:
        decode, timestamps = self.frontend.decode, question.timestamps
        answer = self.prompts.read(question.language, done.token_ids, done.logprobs, decode, timestamps=timestamps)
        return Generation(
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
