"""The only module that imports vllm: everything asrbatch asks of it, and every difference between its versions.

Meant for vLLM 0.26 to 0.33; run on the CPU builds 0.28 and 0.32 alone. What had to be bridged is commented where
it is bridged. Import it late: it takes seconds, and `environment.configure` must have run before.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import torch
import vllm
from vllm import SamplingParams
from vllm.config.speech_to_text import SpeechToTextParams
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.model_executor.model_loader import get_model_cls
from vllm.model_executor.models.interfaces import supports_transcription
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality

__all__ = [
    "VERSIONS",
    "EngineDeadError",
    "Frontend",
    "LogitsProcessor",
    "MoveDirectionality",
    "engine_arg_names",
    "finished",
    "sampling_params",
    "set_num_threads",
    "start_process",
    "start_thread",
]

VERSIONS = {"vllm": vllm.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}

# The real one, which preparation threads need: see start_thread.
set_num_threads = torch.set_num_threads


def engine_arg_names() -> set[str]:
    """Every engine argument this vLLM knows; what `--engine-arg` accepts."""
    return {f.name for f in dataclasses.fields(EngineArgs)}


def start_thread(settings: dict[str, Any]) -> LLMEngine:
    """An engine in this process, to be stepped by whoever started it, in the thread that started it."""
    engine = LLMEngine.from_engine_args(EngineArgs(**settings), enable_multiprocessing=False)
    if torch.set_num_threads is not set_num_threads:
        # vLLM's CPU worker has replaced it by a function that logs a refusal, and vLLM's own renderer calls that twice
        # for every window: a log that grows with the manifest.
        torch.set_num_threads = lambda num_threads: None
    return engine


def start_process(settings: dict[str, Any]) -> AsyncLLM:
    """An engine in vLLM's EngineCore process. Call it where an asyncio loop runs."""
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings, enable_log_requests=False))


def sampling_params(max_tokens: int, seed: int, extra_args: dict[str, Any]) -> SamplingParams:
    """Greedy decoding with the log-probability of each chosen token; one object per kind of request, for the whole run."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        seed=seed,
        logprobs=0,  # 0: of the chosen token alone
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_special_tokens=True,
        extra_args=extra_args,
    )


class Frontend:
    """Turns samples into engine inputs and text into answers, the way the model's own class does.

    Args:
        engine: an `LLMEngine` or `AsyncLLM`.
        task: `transcribe` or `translate`.

    Raises:
        TypeError: the model class does not implement vLLM's `SupportsTranscription`.
    """

    def __init__(self, engine: LLMEngine | AsyncLLM, task: str):
        self._model_config = engine.model_config
        self._renderer = engine.renderer
        self._task = task
        self._model = get_model_cls(engine.model_config)
        if not supports_transcription(self._model):
            raise TypeError(f"{self._model.__name__} does not implement SupportsTranscription")
        self._speech = self._model.get_speech_to_text_config(engine.model_config, task)
        self.tokenizer = engine.renderer.tokenizer

    def render(self, samples: Any, language: str, decoder_ids: Sequence[int]) -> Any:
        """Features and prompt of one window as vLLM's engine input; thread-safe without a multimodal cache.

        The prompt is the model class's own, with its decoder tokens replaced by ours: tokenising them again would put
        a second `<|startoftranscript|>` before any prompt that does not begin with one.
        """
        prompt = self._model.get_generation_prompt(
            SpeechToTextParams(
                audio=samples,
                stt_config=self._speech,
                model_config=self._model_config,
                language=language,
                task_type=self._task,
            )
        )
        (engine_input,) = self._renderer.render_cmpl([parse_model_prompt(self._model_config, prompt)])
        engine_input["decoder_prompt"]["prompt_token_ids"] = list(decoder_ids)
        return engine_input

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def post_process(self, text: str) -> str:
        return self._model.post_process_output(text)


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """One finished request, in plain types; seconds on the engine's own monotonic clock."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    queue_s: float
    first_token_s: float
    generate_s: float


def finished(output: Any) -> Finished:
    """Reads a finished `RequestOutput`."""
    completion, stats = output.outputs[0], output.metrics
    token_ids = list(completion.token_ids)
    logprobs = [entry[i].logprob for entry, i in zip(completion.logprobs or (), token_ids, strict=False)]
    queued, scheduled = stats.queued_ts, stats.scheduled_ts
    return Finished(
        text=completion.text,
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=str(completion.finish_reason),
        queue_s=max(0.0, scheduled - queued),
        first_token_s=max(0.0, stats.first_token_ts - queued),
        generate_s=max(0.0, stats.last_token_ts - scheduled),
    )


def as_json(params: SamplingParams) -> dict[str, Any]:
    """The sampling parameters that differ from vLLM's defaults, for the run record and the fingerprint."""
    default = SamplingParams()
    named = {f: getattr(params, f) for f in params.__struct_fields__ if not f.startswith("_")}
    changed = {k: v for k, v in named.items() if v != getattr(default, k)}
    return json.loads(json.dumps(changed, default=str))
