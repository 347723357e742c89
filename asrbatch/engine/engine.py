"""Starts an engine for one checkpoint and one task, and answers in asrbatch's own types.

Knows which driver, which settings and which asker belong together; the drivers know nothing of speech, the askers
nothing of drivers.
"""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from asrbatch.engine import environment
from asrbatch.engine.base import DecodingOptions, Deliver, Failure, Processor, Request
from asrbatch.engine.devices import Device
from asrbatch.engine.processors import LOGITS_PROCESSOR, GenerativeProcessor, WhisperProcessor
from asrbatch.engine.settings import engine_settings
from asrbatch.engine.spec import ModelOptions
from asrbatch.errors import EngineDiedError, EngineStartError, RowError
from asrbatch.models.capabilities import ModelCapabilities, whisper_capabilities
from asrbatch.models.checkpoint import Checkpoint
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.types import DecodingResult

# A piece of vLLM's message, lower case, to what usually helps.
_FIXES = {
    "out of memory": (
        "give it less: --engine-arg gpu_memory_utilization=0.8, fewer --engine-arg max_num_seqs=…, or a freer GPU"
    ),
    "free memory on device": "another process holds the GPU's memory: wait, or --engine-arg gpu_memory_utilization=…",
    "available memory on node": (
        "too little free memory here: --engine-arg kv_cache_memory_bytes=… or fewer max_num_seqs"
    ),
    "no available memory for the cache blocks": (
        "give it memory: --engine-arg gpu_memory_utilization=0.95, or a smaller model"
    ),
    "max_num_batched_tokens": "a window needs 1500 encoder tokens: --engine-arg max_num_batched_tokens=1500 or more",
    "max seq len": (
        "one sequence needs more than the cache holds: a smaller --engine-arg max_model_len=…, or more memory"
    ),
    "are not supported": "this vLLM lacks the architecture: another vLLM version, or a plugin it needs, is missing",
    "no module named": "a Python package is missing: install it into this environment",
}

WATCHDOG_PROCESSOR = "asrbatch.engine.vllm.logits:WatchdogLogitsProcessor"
_WARM_UP = "warm-up"
_PLAIN = DecodingOptions()


def start_engine(
    checkpoint: Checkpoint,
    *,
    device: Device,
    dtype: str,
    mode: str,
    task: str,
    max_tokens: int,
    seed: int,
    user_args: dict[str, Any],
    deliver: Deliver,
    temperatures: tuple[float, ...] = (0.0,),
    model_options: ModelOptions | None = None,
) -> "SpeechEngine":
    """Starts vLLM, warms it up and returns it ready for requests; takes 10 to 60 seconds.

    Args:
        mode: `thread` or `process`.
        user_args: from `parse_engine_args`; they win over the automatic settings.
        deliver: receives each request's key and its outcome.
        temperatures: those that questions will ask for; recorded in `facts`.
        model_options: how the model is asked; None for a Whisper checkpoint with nothing chosen.

    Raises:
        UsageError: an engine argument this vLLM does not know.
        EngineStartError: vLLM did not start.
    """
    model_options = model_options or ModelOptions(whisper_capabilities(checkpoint))
    environment.configure(mode=mode, device_kind=device.kind, plugins=model_options.plugins)
    try:
        from asrbatch.engine.vllm import api
    except Exception as e:  # a build that does not fit its torch or CUDA fails in many ways
        raise EngineStartError(f"vLLM cannot be imported: {_root(e)}; README says which versions fit together") from e
    api.check_engine_args(user_args)
    settings = engine_settings(checkpoint, device, dtype, user_args, model_options=model_options, max_tokens=max_tokens)
    settings["logits_processors"] = [LOGITS_PROCESSOR if model_options.capabilities.is_whisper else WATCHDOG_PROCESSOR]

    def make_processor(engine: Any) -> Processor:
        if model_options.capabilities.is_whisper:
            frontend = api.Frontend(engine, task)
            return WhisperProcessor(api, frontend, WhisperPrompts(checkpoint, task), max_tokens=max_tokens, seed=seed)
        from asrbatch.engine.vllm import frontends

        return GenerativeProcessor(api, frontends, engine, model_options, task=task, max_tokens=max_tokens, seed=seed)

    ranks = int(user_args.get("tensor_parallel_size", 1)) * int(user_args.get("pipeline_parallel_size", 1))
    try:
        with environment.threads_for_ranks(ranks, device.kind):
            return SpeechEngine(api, settings, mode, model_options, make_processor, temperatures, device, deliver)
    except EngineStartError:
        raise
    except Exception as e:
        raise EngineStartError(f"the engine did not start: {_root(e)}") from e


class SpeechEngine:
    """`base.Engine` for any model; see there for the interface."""

    def __init__(self, vllm_api, settings, mode, model_options, make_processor, temperatures, device, deliver):
        self._api, self.deliver = vllm_api, deliver
        self._asked: dict[Any, tuple[Request, DecodingOptions]] = {}
        self._warmed_up: SimpleQueue = SimpleQueue()
        extra = vllm_api.with_lora(model_options.lora) if model_options.lora else None
        if mode == "process":
            from asrbatch.engine.drivers import ProcessDriver

            is_death = _is_death(vllm_api)
            self._driver = ProcessDriver(lambda: vllm_api.start_process(settings), self._answer, is_death, extra)
        else:
            from asrbatch.engine.drivers import ThreadDriver

            self._driver = ThreadDriver(lambda: vllm_api.start_thread(settings), self._answer, extra)
        try:
            self._finish_start(settings, model_options, make_processor, temperatures, device, mode)
        except BaseException:
            self._driver.close(1.0)  # nobody else could
            raise

    def _finish_start(self, settings, model_options, make_processor, temperatures, device, mode) -> None:
        self._processor: Processor = make_processor(self._driver.engine)
        self.max_num_seqs: int = settings["max_num_seqs"]
        self.facts = {
            **self._api.VERSIONS,
            "device": device.name,
            "device_kind": device.kind,
            "mode": mode,
            "settings": {k: v for k, v in settings.items() if k not in ("model", "hf_token")},
            "quantization": self._driver.engine.model_config.quantization,
            "asked": {
                **model_options.capabilities.as_dict(),
                "plugins": model_options.plugin_versions,
                "lora": model_options.lora,
            },
            "sampling_params": [self._processor.recorded_params(temperature) for temperature in temperatures],
            **self._processor.facts,
        }
        self._warm_up(model_options.capabilities)

    def prepare(self, samples: Any, prompt: str | None, language: str | None = None) -> Request:
        try:
            return self._processor.prepare(samples, prompt, language)
        except (ValueError, TypeError) as e:  # of the tokenizer, the processor, vLLM's renderer: about this row's input
            raise RowError("rejected", f"it cannot be asked: {_root(e)}") from e

    def prepare_thread(self) -> None:
        # The feature extractor is ten small operators: a team of threads for each costs more than it saves.
        self._api.set_num_threads(1)

    def submit(self, key: Any, request: Request, question: DecodingOptions = _PLAIN) -> None:
        self._asked[key] = request, question
        self._driver.submit(key, self._processor.input_of(request, question), self._processor.params_of(question))

    def close(self, timeout_s: float = 10.0) -> None:
        self._driver.close(timeout_s)

    def _answer(self, key: Any, outcome: Any) -> None:
        """Runs in the driver's thread: vLLM's output to a `DecodingResult`."""
        if key is None:  # the engine died with nothing in it
            self.deliver(None, outcome)
            return
        request, question = self._asked.pop(key)
        if not isinstance(outcome, Failure):
            try:
                outcome = self._read(request, question, outcome)
            except Exception as e:  # another vLLM than we know: it would fail for every request
                outcome = Failure(EngineDiedError(f"the engine's answer cannot be read: {_root(e)}"))
        if key == _WARM_UP:
            self._warmed_up.put(outcome)
        else:
            self.deliver(key, outcome)

    def _warm_up(self, capabilities: ModelCapabilities) -> None:
        """One second of silence through the whole way, before any clock runs: first requests compile and allocate.

        Then the least audio that a row may have: a processor takes what an encoder may die of. Whisper's is always as
        long."""
        for question in self._processor.warm_ups:
            self._ask_silence(capabilities.sample_rate, question)
        if capabilities.is_whisper:
            return
        try:
            self._ask_silence(capabilities.min_samples, self._processor.warm_ups[0])
        except Exception as e:
            least = (
                f"{capabilities.min_samples / capabilities.sample_rate} s of audio, the least that its processor takes"
            )
            raise EngineStartError(
                f"{capabilities.architecture} cannot be run: it fails at {least}, and so would a row: {_root(e)}"
            ) from e

    def _ask_silence(self, num_samples: int, question: DecodingOptions) -> None:
        self.submit(_WARM_UP, self.prepare(np.zeros(num_samples, np.float32), None), question)
        outcome = self._warmed_up.get()
        if isinstance(outcome, Failure):
            raise outcome.error

    def _read(self, request: Request, question: DecodingOptions, output: Any) -> DecodingResult | Failure:
        done = self._api.finished(output)
        if done.finish_reason == "abort":  # nobody here aborts: the engine is being stopped under us
            return Failure(EngineDiedError("the engine is shutting down; something else stopped it"))
        if done.finish_reason not in ("stop", "length"):
            return Failure(RowError("rejected", f"the engine ended the request with {done.finish_reason!r}"))
        return self._processor.read(request, question, done)


def _is_death(vllm_api: Any) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, vllm_api.EngineDeadError)


def _root(error: BaseException) -> str:
    """The innermost cause, in one line: vLLM wraps what went wrong in what noticed it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:400]}"  # pydantic says what is wrong in its third line


def likely_fix(error: BaseException, log: str) -> str | None:
    """What usually helps against a failed start, judged by everything that was said about it.

    Args:
        log: the end of the engine's log; an engine process tells its reasons only there.
    """
    said = [log]
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    text = "\n".join(said).lower()
    return next((fix for piece, fix in _FIXES.items() if piece in text), None)
