"""Starts an engine for one model and answers in asrbatch's own types.

Knows which driver, which settings and which processor belong together; the drivers know nothing of speech, the
processors nothing of drivers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from asrbatch.engine import environment
from asrbatch.engine.aligner import WINDOWS_PER_CALL, WordAligner
from asrbatch.engine.base import DecodingOptions, Deliver, Outcome, Processor, Request, chain, root_cause
from asrbatch.engine.drivers import ProcessDriver, ThreadDriver
from asrbatch.engine.processors import make_processor
from asrbatch.engine.settings import alignment_bytes, encoder_cache_bytes, engine_settings
from asrbatch.engine.spec import EngineSpec
from asrbatch.engine.vllm import loading
from asrbatch.errors import EngineDiedError, EngineStartError, RefusedEngineArgsError, RowError
from asrbatch.formatting import show
from asrbatch.models.capabilities import ModelCapabilities
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

_WARM_UP = "warm-up"
_DEFAULTS = DecodingOptions()


def start_engine(
    spec: EngineSpec, deliver: Deliver, on_step: Callable[[str], None] = lambda step: None
) -> "SpeechEngine":
    """Starts vLLM, warms it up and returns it ready for requests; takes 10 to 60 seconds.

    Args:
        deliver: receives each request's key and its outcome.
        on_step: told what it begins, such as `loading the model`; in this thread.

    Raises:
        EngineStartError: vLLM did not start.
        RefusedEngineArgsError: vLLM refuses the user's engine arguments.
    """
    # First: vLLM reads its environment while it is imported.
    environment.configure(mode=spec.mode, device_kind=spec.device.kind, plugins=spec.model_options.plugins)
    with loading.quick_loading():
        return _start_engine(spec, deliver, on_step)


def _start_engine(spec: EngineSpec, deliver: Deliver, on_step: Callable[[str], None]) -> "SpeechEngine":
    on_step("importing vLLM")
    try:
        from asrbatch.engine.vllm import api
    except (Exception, SystemExit) as e:  # a build that does not fit its torch or CUDA fails in many ways
        raise EngineStartError(
            f"vLLM cannot be imported: {root_cause(e)}; docs/quick-start.md says which versions fit together"
        ) from e
    loading.after_imports()
    try:
        with environment.threads_for_ranks(spec.num_ranks, spec.device.kind):
            return SpeechEngine(api, spec, deliver, on_step)
    except EngineStartError:
        raise
    except (Exception, SystemExit) as e:
        if isinstance(e, api.EngineConfigError) and _is_by_user(api, spec):
            given = ", ".join(f"{name}={show(value)}" for name, value in spec.engine_args.items())
            raise RefusedEngineArgsError(
                f"--engine-arg {given}: vLLM refuses this; correct it, or leave it out: {root_cause(e)}"
            ) from e
        raise EngineStartError(f"the engine did not start: {root_cause(e)}") from e


def _is_by_user(api: Any, spec: EngineSpec) -> bool:
    """Whether vLLM refuses a configuration because of the user's engine arguments: without them it takes it."""
    return bool(spec.engine_args) and api.is_taken(engine_settings(replace(spec, engine_args={})))


class SpeechEngine:
    """`base.Engine` for any model; see there for the interface."""

    def __init__(self, api: Any, spec: EngineSpec, deliver: Deliver, on_step: Callable[[str], None]):
        self._api, self.deliver = api, deliver
        self._in_flight: dict[Any, tuple[Request, DecodingOptions]] = {}
        self._warmed_up: SimpleQueue = SimpleQueue()
        settings = engine_settings(spec)
        self.max_num_seqs: int = settings["max_num_seqs"]
        if spec.word_timestamps and spec.device.kind == "cuda":
            calls = alignment_bytes(spec, WINDOWS_PER_CALL[spec.device.kind])
            settings = api.reserve_memory(settings, encoder_cache_bytes(spec, self.max_num_seqs) + calls)
        request_args = api.request_args(spec.model_options.lora)
        on_step("loading the model")
        if spec.mode == "process":
            self._driver = ProcessDriver(
                lambda: api.start_process(settings), self._on_outcome, request_args, death=api.EngineDeadError
            )
        else:
            self._driver = ThreadDriver(lambda: api.start_thread(settings), self._on_outcome, request_args)
        self._aligner: WordAligner | None = None
        try:
            self._processor: Processor = make_processor(api, self._driver.engine, spec)
            self.facts = self._facts(spec, settings)
            on_step("warming up")
            self._warm_up(spec.capabilities)
            # Behind the warm-up, of which nothing is to be kept.
            if spec.word_timestamps:
                self._aligner = self._start_aligner(spec)
        except BaseException:
            self._driver.close(1.0)  # nobody else could
            raise

    def _facts(self, spec: EngineSpec, settings: dict[str, Any]) -> dict[str, Any]:
        options = spec.model_options
        return {
            **self._api.VERSIONS,
            "device": spec.device.name,
            "device_kind": spec.device.kind,
            "mode": spec.mode,
            # The folder differs between nodes, and a token is a secret; the record is passed around.
            "settings": {k: v for k, v in settings.items() if k not in ("model", "hf_token")},
            "quantization": self._driver.engine.model_config.quantization,
            "asked": {**options.capabilities.as_dict(), "plugins": options.plugin_versions, "lora": options.lora},
            "sampling_params": [self._recorded_params(spec, temperature) for temperature in spec.temperatures],
            **self._processor.facts,
        }

    def _recorded_params(self, spec: EngineSpec, temperature: float) -> dict[str, Any]:
        params = self._api.as_json(self._processor.sampling_params(DecodingOptions(temperature=temperature)))
        if "extra_args" in params:
            # Whisper's; what differs between languages and timestamps is recorded apart, in the processor's facts.
            params |= {"max_tokens": spec.max_tokens, "extra_args": None}
        return params

    def preprocess(self, samples: Any, prompt: str | None, language: str | None = None) -> Request:
        try:
            return self._processor.preprocess(samples, prompt, language)
        except (ValueError, TypeError) as e:  # of the tokenizer, the processor, vLLM's renderer: about this row's input
            raise RowError("rejected", f"the model does not take it: {root_cause(e)}") from e

    def has_room_for(self, texts: Sequence[str], language: str | None) -> bool:
        assert self._aligner is not None  # only where texts are aligned
        return self._aligner.has_room_for(texts, language)

    def start_preprocess_thread(self) -> None:
        # The feature extractor is ten small operators: a team of threads for each costs more than it saves.
        self._api.set_num_threads(1)

    def submit(self, key: Any, request: Request, options: DecodingOptions = _DEFAULTS) -> None:
        if options.given is not None:
            assert self._aligner is not None
            self.deliver(key, self._aligner.given_result(options.language, options.given))
            return
        # Before it is submitted: the outcome comes in the driver's thread, maybe at once.
        self._in_flight[key] = request, options
        engine_input = self._processor.engine_input(request, options)
        self._driver.submit(key, engine_input, self._processor.sampling_params(options))

    def align(self, key: Any, request: Request, result: DecodingResult, num_samples: int) -> None:
        assert self._aligner is not None  # of an engine without, nobody asks for words
        self._aligner.align(key, request, result, num_samples)

    def discard(self, request: Request) -> None:
        if self._aligner is not None:
            self._aligner.discard(request)

    def close(self, timeout_s: float = 10.0) -> None:
        if self._aligner is not None:
            self._aligner.close()
        self._driver.close(timeout_s)

    def _start_aligner(self, spec: EngineSpec) -> WordAligner:
        max_bytes, silence = encoder_cache_bytes(spec, self.max_num_seqs), None
        if spec.aligns:
            samples = np.zeros(spec.capabilities.sample_rate, np.float32)
            silence = self._api.feature_bytes(self.preprocess(samples, None).engine_input)
        self._driver.call("asrbatch_keep_encodings", spec.prompts.alignment_heads, max_bytes, silence)
        return WordAligner(
            self._api,
            self._driver.call,
            spec.prompts,
            self._processor.frontend.encode,
            self._processor.decode,
            lambda key, outcome: self.deliver(key, outcome),
            lambda: not self._in_flight,
            WINDOWS_PER_CALL[spec.device.kind],
            is_given=spec.aligns,
        )

    def _on_outcome(self, key: Any, outcome: Any) -> None:
        """Runs in the driver's thread."""
        if key is None:  # the engine died with nothing in it
            (self._warmed_up.put if _WARM_UP in self._in_flight else partial(self.deliver, None))(outcome)
            return
        request, options = self._in_flight.pop(key)
        if not isinstance(outcome, RowError | EngineDiedError):
            try:
                outcome = self._result(request, options, outcome)
            except Exception as e:  # another vLLM than we know: it would fail for every request
                outcome = EngineDiedError(f"the engine's answer cannot be read: {root_cause(e)}")
        if key == _WARM_UP:
            self._warmed_up.put(outcome)
        else:
            self.deliver(key, outcome)

    def _result(self, request: Request, options: DecodingOptions, output: Any) -> Outcome:
        reason = self._api.finish_reason(output)
        if reason == "abort":  # nobody here aborts: the engine is being stopped under us
            return EngineDiedError("the engine is shutting down; something else stopped it")
        # Read by what is known to be a result: other versions have other reasons.
        if reason not in ("stop", "length"):
            return RowError("rejected", f"the engine ended the request with {show(reason)}")
        return self._processor.postprocess(request, options, output)

    def _warm_up(self, capabilities: ModelCapabilities) -> None:
        """One second of silence through the whole way, before any clock runs: first requests compile and allocate.

        Then the least audio that a row may have: a processor takes what an encoder may die of. Whisper's is always as
        long."""
        for options in self._processor.warm_ups:
            self._decode_silence(capabilities.sample_rate, options)
        if capabilities.is_whisper:
            return
        try:
            self._decode_silence(capabilities.min_samples, self._processor.warm_ups[0])
        except Exception as e:
            least_s = capabilities.min_samples / capabilities.sample_rate
            raise EngineStartError(
                f"{capabilities.architecture} cannot be run: it failed on {least_s} s of silence, the shortest audio "
                f"that its processor takes: {root_cause(e)}"
            ) from e

    def _decode_silence(self, num_samples: int, options: DecodingOptions) -> None:
        self.submit(_WARM_UP, self.preprocess(np.zeros(num_samples, np.float32), None), options)
        outcome = self._warmed_up.get()
        if isinstance(outcome, Exception):
            raise outcome


def likely_fix(error: BaseException, log: str) -> str | None:
    """What usually helps against a failed start, judged by all its messages.

    Args:
        log: the end of the engine's log; an engine process writes its reasons only there.
    """
    text = "\n".join([log, *map(str, chain(error))]).lower()
    # vLLM has no exceptions of their own for these, so its words are all there is to go by.
    return next((fix for piece, fix in _FIXES.items() if piece in text), None)
