"""Starts an engine for one checkpoint and one task, and answers in asrbatch's own types.

Knows which driver, which settings and which prompts belong together; the drivers know nothing of speech, the prompts
nothing of vLLM.
"""

import difflib
import math
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import EngineDiedError, EngineStartError, RowError, UsageError
from ..prompts import CONTROLS_KEY, WhisperPrompts
from ..types import Generation
from . import environment
from .base import Deliver, Failure, Question, Request
from .settings import Device, engine_settings

# A piece of vLLM's message, lower case, to what usually helps.
_FIXES = {
    "out of memory": "give it less: --engine-arg gpu_memory_utilization=0.8, fewer --engine-arg max_num_seqs=…, or a freer GPU",
    "free memory on device": "another process holds the GPU's memory: wait, or --engine-arg gpu_memory_utilization=…",
    "available memory on node": "too little free memory here: --engine-arg kv_cache_memory_bytes=… or fewer max_num_seqs",
    "no available memory for the cache blocks": "give it memory: --engine-arg gpu_memory_utilization=0.95, or a smaller model",
    "max_num_batched_tokens": "a window needs 1500 encoder tokens: --engine-arg max_num_batched_tokens=1500 or more",
    "are not supported": "this vLLM lacks the architecture: another vLLM version, or a plugin it needs, is missing",
    "no module named": "a Python package is missing: install it into this environment",
}


LOGITS_PROCESSOR = "asrbatch.engine.logits:WhisperLogits"
_WARM_UP = "warm-up"
_PLAIN = Question()
# Between Whisper's loudest feature and its floor: 80 dB, of which 40 make 1 (openai/whisper, audio.py).
_FEATURE_RANGE = 2.0


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
) -> "WhisperEngine":
    """Starts vLLM, warms it up and returns it ready for requests; takes 10 to 60 seconds.

    Args:
        mode: `thread` or `process`.
        user_args: from `parse_engine_args`; they win over the automatic settings.
        deliver: receives each request's key and its outcome.
        temperatures: those that questions will ask for; recorded in `facts`.

    Raises:
        UsageError: an engine argument this vLLM does not know, or a model class asrbatch cannot ask yet.
        EngineStartError: vLLM did not start.
    """
    environment.configure(mode=mode, device_kind=device.kind)
    try:
        from . import vllm_api
    except Exception as e:  # a build that does not fit its torch or CUDA fails in many ways
        raise EngineStartError(f"vLLM cannot be imported: {_root(e)}; README says which versions fit together") from e
    _check_names(user_args, vllm_api.engine_arg_names(), vllm_api.VERSIONS["vllm"])
    settings = engine_settings(checkpoint, device, dtype, user_args)
    try:
        return WhisperEngine(checkpoint, vllm_api, settings, mode, task, max_tokens, seed, temperatures, device, deliver)
    except Exception as e:
        raise EngineStartError(f"the engine did not start: {_root(e)}") from e


class WhisperEngine:
    """`base.Engine` for Whisper checkpoints; see there for the interface."""

    def __init__(self, checkpoint, vllm_api, settings, mode, task, max_tokens, seed, temperatures, device, deliver):
        self._api, self.deliver = vllm_api, deliver
        self._prompts = WhisperPrompts(checkpoint, task)
        self._kinds = (True, False) if self._prompts.has_timestamps else (False,)  # with timestamps, without
        self._max_tokens, self._seed = max_tokens, seed
        self._asked: dict[Any, Question] = {}
        self._params: dict[tuple[str | None, float, bool], Any] = {}
        self._warmed_up: SimpleQueue = SimpleQueue()
        settings = {**settings, "logits_processors": [LOGITS_PROCESSOR]}
        if mode == "process":
            from .process import ProcessDriver

            self._driver = ProcessDriver(lambda: vllm_api.start_process(settings), self._answer, _is_death(vllm_api))
        else:
            from .thread import ThreadDriver

            self._driver = ThreadDriver(lambda: vllm_api.start_thread(settings), self._answer)
        try:
            self._finish_start(checkpoint, settings, task, temperatures, device, mode)
        except BaseException:
            self._driver.close(1.0)  # nobody else could
            raise

    def _finish_start(self, checkpoint, settings, task, temperatures, device, mode) -> None:
        self._frontend = self._api.Frontend(self._driver.engine, task)
        self.max_num_seqs: int = settings["max_num_seqs"]
        self.facts = {
            **self._api.VERSIONS,
            "device": device.name,
            "device_kind": device.kind,
            "mode": mode,
            "settings": {k: v for k, v in settings.items() if k not in ("model", "hf_token")},
            "sampling_params": [self._recorded(temperature) for temperature in temperatures],
            "token_rules": {
                "timestamps" if timestamps else "no_timestamps": self._prompts.controls(None, timestamps=timestamps).as_dict()
                for timestamps in self._kinds
            },
        }
        self._warm_up(checkpoint)

    def prepare(self, samples: Any, prompt: str | None) -> Request:
        try:
            prompt_ids, engine_input = self._prompts.prompt_ids(prompt, self._frontend.encode), self._frontend.render(samples)
            return Request(prompt_ids, engine_input, float(self._api.features(engine_input).max()))
        except (ValueError, TypeError) as e:  # of the tokenizer and of vLLM's renderer: about this row's input
            raise RowError("rejected", f"it cannot be asked: {_root(e)}") from e

    def raise_floor(self, request: Request, loudest: float) -> None:
        self._api.features(request.engine_input).clamp_(min=loudest - _FEATURE_RANGE)

    def prepare_thread(self) -> None:
        # The feature extractor is ten small operators: a team of threads for each costs more than it saves.
        self._api.set_num_threads(1)

    def submit(self, key: Any, request: Request, question: Question = _PLAIN) -> None:
        self._asked[key] = question
        decoder_ids = self._prompts.decoder_ids(request.prompt_ids, question.previous)
        self._driver.submit(key, self._api.with_decoder_ids(request.engine_input, decoder_ids), self._params_of(question))

    def close(self, timeout_s: float = 10.0) -> None:
        self._driver.close(timeout_s)

    def _answer(self, key: Any, outcome: Any) -> None:
        """Runs in the driver's thread: vLLM's output to a `Generation`."""
        if key is None:  # the engine died with nothing in it
            self.deliver(None, outcome)
            return
        question = self._asked.pop(key)
        if not isinstance(outcome, Failure):
            try:
                outcome = self._read(question, outcome)
            except Exception as e:  # another vLLM than we know: it would fail for every request
                outcome = Failure(EngineDiedError(f"the engine's answer cannot be read: {_root(e)}"))
        if key == _WARM_UP:
            self._warmed_up.put(outcome)
        else:
            self.deliver(key, outcome)

    def _warm_up(self, checkpoint: Checkpoint) -> None:
        """One second of silence through the whole way, before any clock runs: first requests compile and allocate."""
        silence = np.zeros(checkpoint.sample_rate, np.float32)
        for timestamps in self._kinds:
            self.submit(_WARM_UP, self.prepare(silence, None), Question(timestamps=timestamps))
            outcome = self._warmed_up.get()
            if isinstance(outcome, Failure):
                raise outcome.error

    def _params_of(self, question: Question) -> Any:
        """Sampling parameters: one object for each kind of question."""
        kind = (question.language, question.temperature, question.timestamps)
        if kind not in self._params:
            controls = self._prompts.controls(question.language, timestamps=question.timestamps)
            self._params[kind] = self._api.sampling_params(
                self._max_tokens + len(controls.forced),
                self._seed,
                question.temperature,
                {CONTROLS_KEY: controls.as_dict()},
                watched=self._prompts.no_speech,
            )
        return self._params[kind]

    def _recorded(self, temperature: float) -> dict[str, Any]:
        """Sampling parameters as the run record shows them; what differs between languages and timestamps is recorded apart."""
        params = self._api.as_json(self._params_of(Question(temperature=temperature)))
        return {**params, "max_tokens": self._max_tokens, "extra_args": None}

    def _read(self, question: Question, output: Any) -> Generation | Failure:
        done = self._api.finished(output)
        if done.finish_reason == "abort":  # nobody here aborts: the engine is being stopped under us
            return Failure(EngineDiedError("the engine is shutting down; something else stopped it"))
        if done.finish_reason not in ("stop", "length"):
            return Failure(RowError("rejected", f"the engine ended the request with {done.finish_reason!r}"))
        answer = self._prompts.read(
            question.language, done.token_ids, done.logprobs, self._frontend.decode, timestamps=question.timestamps
        )
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


def _is_death(vllm_api: Any) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, vllm_api.EngineDeadError)


def _check_names(user_args: dict[str, Any], known: set[str], version: str) -> None:
    for name in user_args:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--engine-arg {name}: vLLM {version} has no such engine argument{hint}")


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
