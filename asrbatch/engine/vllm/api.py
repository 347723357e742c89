"""vLLM's engine as asrbatch uses it: starting it, sampling parameters, what stands in its inputs and outputs.

Knows nothing of speech; `frontends.py` renders prompts, `registry.py` knows model classes. Meant for vLLM 0.26 to 0.33;
docs/vllm.md says which were run. Differences between versions are bridged here, each with a comment. What is vLLM's is
annotated as such in this package: `scripts/conformance_names.py` reads from that what must be there in another version.
Import it late: it takes seconds, and `environment.configure` must have run before.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch
import vllm
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.sampler import Sampler

VERSIONS = {"vllm": vllm.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}

# The real one, which preprocess threads need: see start_thread.
set_num_threads = torch.set_num_threads


def reserve_memory(settings: dict[str, Any], num_bytes: int) -> dict[str, Any]:
    """Settings by which vLLM leaves so many bytes of the device free beside its key-value cache."""
    if "kv_cache_memory_bytes" in settings:
        return settings  # which is no share of the device
    share = settings.get("gpu_memory_utilization", EngineArgs.gpu_memory_utilization)
    left = share - num_bytes / current_platform.get_device_total_memory()
    if left <= 0:
        raise EngineConfigError(
            f"--word-timestamps needs {num_bytes / 1e6:.0f} MB beside the model, more than vLLM may have: "
            "a smaller --encoder-cache, or fewer --engine-arg max_num_seqs"
        )
    return {**settings, "gpu_memory_utilization": left}


class EngineConfigError(ValueError):
    """vLLM refuses the values of its engine arguments, or what they make together."""


class _ConfigErrors:
    """Mixed into engine arguments: their errors are told from those of an engine that starts with good ones."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except (ValueError, TypeError) as e:
            raise EngineConfigError(str(e)) from e

    def create_engine_config(self, *args: Any, **kwargs: Any) -> VllmConfig:
        try:
            return super().create_engine_config(*args, **kwargs)
        # Also a value of the wrong type; pydantic's ValidationError is a ValueError.
        except (ValueError, TypeError) as e:
            raise EngineConfigError(str(e)) from e


class _ThreadArgs(_ConfigErrors, EngineArgs):
    pass


class _ProcessArgs(_ConfigErrors, AsyncEngineArgs):
    pass


def is_taken(settings: dict[str, Any]) -> bool:
    """Whether vLLM can be configured so; nothing is loaded."""
    try:
        _ThreadArgs(**settings).create_engine_config()
    except Exception:
        return False
    return True


def start_thread(settings: dict[str, Any]) -> LLMEngine:
    """An engine in this process, to be stepped by whoever started it, in the thread that started it."""
    engine = LLMEngine.from_engine_args(_ThreadArgs(**settings), enable_multiprocessing=False)
    if torch.set_num_threads is not set_num_threads:
        # vLLM's CPU worker has replaced it by a function that logs a refusal, and vLLM's own renderer calls that twice
        # for every window: a log that grows with the manifest.
        torch.set_num_threads = lambda num_threads: None
    return engine


def start_process(settings: dict[str, Any]) -> AsyncLLM:
    """An engine in vLLM's EngineCore process. Call it where an asyncio loop runs."""
    # Not `LLMEngine`: its `step` waits for ever when the process is killed.
    return AsyncLLM.from_engine_args(_ProcessArgs(**settings, enable_log_requests=False))


def request_args(lora: str | None) -> dict[str, Any]:
    """Arguments of every request: those that make the engine apply an adapter, if there is one."""
    # One adapter a run: its name and number only tell it from others, of which there are none.
    return {} if lora is None else {"lora_request": LoRARequest("adapter", 1, lora)}


def sampling_params(
    max_tokens: int, seed: int, temperature: float, extra_args: dict[str, Any] | None, watched: int | None = None
) -> SamplingParams:
    """One object per kind of request, for the whole run; each chosen token comes with its log-probability.

    Args:
        temperature: 0.0 is greedy.
        watched: a token whose log-probability is wanted at every step, chosen or not.
    """
    # Either gives the chosen token's; asked for together, vLLM would also look for the likeliest one.
    logprobs: dict[str, Any] = {"logprobs": 0}
    if watched is not None and CAN_WATCH:
        logprobs = {"logprob_token_ids": [watched]}
    return SamplingParams(
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        flat_logprobs=True,  # two lists instead of two objects a token
        output_kind=RequestOutputKind.FINAL_ONLY,
        detokenize=False,  # we read ids; text is made of them once, at the end
        extra_args=extra_args,
        **logprobs,
    )


# Some older vLLM has no log-probability of a token it did not choose, unless that is among the likeliest.
CAN_WATCH = "logprob_token_ids" in SamplingParams.__struct_fields__


def gather_few_logprobs_at_once() -> None:
    """Call in the engine's worker: makes `logprob_token_ids` cheap where all rows ask for the same.

    vLLM writes the ids of each row into a tensor by itself, at every step: 1.5 to 4 ms of Python for 256 rows, against
    0.05 ms here (measured on a CPU). Rows that differ, or come with none, still go that way.
    """
    gather = getattr(Sampler, "gather_specific_token_logprobs", None)
    if gather is None or hasattr(gather, "__wrapped__"):
        return

    @functools.wraps(gather)
    def at_once(self: Sampler, logprobs: torch.Tensor, ids_of: dict[int, list[int]], sampled: torch.Tensor) -> Any:
        # In a run all ask for the same token, Whisper's for "nobody speaks".
        ids = next(iter(ids_of.values()), [])
        if len(ids_of) != len(logprobs) or any(other != ids for other in ids_of.values()):
            return gather(self, logprobs, ids_of, sampled)
        chosen = self.gather_logprobs(logprobs, 0, token_ids=sampled)
        columns = torch.tensor(ids, dtype=chosen.logprob_token_ids.dtype).to(logprobs.device, non_blocking=True)
        columns = columns.expand(len(logprobs), -1)
        return LogprobsTensors(
            torch.cat([chosen.logprob_token_ids, columns], 1),
            torch.cat([chosen.logprobs, logprobs.gather(-1, columns.long())], 1),
            chosen.selected_token_ranks,
        )

    Sampler.gather_specific_token_logprobs = at_once


def features(engine_input: Any) -> torch.Tensor:
    """The log-mel features in an engine input, in the model's dtype; not a copy."""
    item = engine_input["decoder_prompt"]["mm_kwargs"]["audio"][0]
    return item["input_features"].data


def encoding_key(engine_input: Any) -> str:
    """What vLLM's worker calls the encoder output of an input; another for each that is rendered."""
    return str(engine_input["decoder_prompt"]["mm_hashes"]["audio"][0])


def feature_bytes(engine_input: Any) -> bytes:
    """The features as they lie in memory, in the model's dtype: what travels to a worker without a pickle."""
    return features(engine_input).contiguous().view(torch.uint8).numpy().tobytes()


def with_decoder_ids(engine_input: Any, decoder_ids: Sequence[int]) -> Any:
    """The same features with another prompt; what was given stays as it is.

    Token ids, not text: tokenised again, a prompt that does not begin with `<|startoftranscript|>` would get a second
    one."""
    return {**engine_input, "decoder_prompt": {**engine_input["decoder_prompt"], "prompt_token_ids": list(decoder_ids)}}


def prompt_ids(engine_input: Any) -> list[int]:
    """What the decoder starts from, audio included where it is part of that."""
    return list(engine_input.get("decoder_prompt", engine_input)["prompt_token_ids"])


def tokens_of(output: RequestOutput) -> tuple[list[int], list[float], list[float]]:
    """Of a finished `RequestOutput`: the generated token ids, the log-probability of each, and that of the watched
    token at each step; none where none was watched.
    """
    completion = output.outputs[0]
    flat = completion.logprobs  # of each step the chosen token's, then the watched one's
    per_step = len(flat.logprobs) // max(1, len(flat)) or 1
    watched = flat.logprobs[1::2] if per_step == 2 else []
    return list(completion.token_ids), flat.logprobs[::per_step], watched


def finish_reason(output: RequestOutput) -> str:
    """`stop` and `length` are results; `abort`, `error` and what other versions have are none."""
    return str(output.outputs[0].finish_reason)


def timing(output: RequestOutput) -> dict[str, float]:
    """Seconds of a finished request by their field of `DecodingResult`, all on the engine's own monotonic clock.

    `arrival_time` and `first_token_latency` are wall clock: never mixed with these.
    """
    stats = output.metrics
    return {
        "queue_s": max(0.0, stats.scheduled_ts - stats.queued_ts),
        "first_token_s": max(0.0, stats.first_token_ts - stats.queued_ts),
        "generate_s": max(0.0, stats.last_token_ts - stats.scheduled_ts),
    }


def as_json(params: SamplingParams) -> dict[str, Any]:
    """The sampling parameters that differ from vLLM's defaults, for the run record and the fingerprint."""
    default = SamplingParams()
    named = {f: getattr(params, f) for f in params.__struct_fields__ if not f.startswith("_")}
    changed = {k: v for k, v in named.items() if v != getattr(default, k)}
    return json.loads(json.dumps(changed, default=str))
