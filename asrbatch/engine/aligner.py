"""Has the words of finished windows timed by the engine, several windows at a time.

A call into the worker holds up the engine's steps, and costs hardly more for some windows than for one. So windows
wait for each other, but not long, and not at all while the engine has nothing else to do. What a call returns is warped
here, in a thread beside the engine. Knows Whisper's tokens by `WhisperPrompts` alone, and nothing of rows.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from asrbatch.engine.base import AlignedWords, Deliver, Request, root_cause
from asrbatch.errors import EngineDiedError, RowError
from asrbatch.languages import NO_SPACES
from asrbatch.models.timestamps import Decode
from asrbatch.models.warping import first_frames
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.models.words import words_of
from asrbatch.types import DecodingResult, GivenText

# Windows of one call: on a CPU as many as take 0.1 s with tiny.en, on a GPU what fills it for a moment.
WINDOWS_PER_CALL = {"cpu": 8, "cuda": 16}
# Seconds in which the first of fewer windows is to have its words: it waits for more, less what the last call took.
_WITHIN_S = 1.5
_POLL_S = 0.05
_SAMPLES_PER_POSITION = 320  # two feature frames of 10 ms each
_POSITIONS = 1500


@dataclass(frozen=True)
class _Task:
    """An answer to be aligned."""

    key: Any
    request: Request
    result: DecodingResult
    num_positions: int
    queued_at: float = field(default_factory=time.monotonic)


class WordAligner:
    """Collects windows, and delivers their words.

    Args:
        api: the module `vllm/api.py`.
        call: of the engine's driver.
        encode, decode: text to text tokens, and back.
        deliver: receives each task's key, and its `AlignedWords` or why there are none.
        is_idle: whether the engine has nothing else to do.
        windows_per_call: how many are aligned at once.
        is_given: texts were given and not decoded: no encoder output is kept of their windows, and how likely they are
            is asked, too.
    """

    def __init__(
        self,
        api: Any,
        call: Callable[..., Any],
        prompts: WhisperPrompts,
        encode: Callable[[str], Sequence[int]],
        decode: Decode,
        deliver: Deliver,
        is_idle: Callable[[], bool],
        windows_per_call: int,
        *,
        is_given: bool = False,
    ):
        self._api, self._call, self._prompts, self._encode, self._decode = api, call, prompts, encode, decode
        self._deliver, self._is_idle, self._windows_per_call = deliver, is_idle, windows_per_call
        self._is_given = is_given
        self._changed = threading.Condition()
        self._tasks: list[_Task] = []
        self._discarded: list[str] = []
        self._closed = False
        self._last_call_s = 0.0
        threading.Thread(target=self._run, name="asrbatch-aligner", daemon=True).start()

    def has_room_for(self, texts: Sequence[str], language: str | None) -> bool:
        """See `Engine.has_room_for`."""
        return self._prompts.has_room_for(texts, language, self._encode)

    def given_result(self, language: str | None, texts: Sequence[GivenText]) -> DecodingResult | RowError:
        """What takes the place of an answer where texts are given; its tokens have no probabilities yet."""
        try:
            return self._prompts.given_result(language, texts, self._encode)
        except RowError as e:
            return e

    def align(self, key: Any, request: Request, result: DecodingResult, num_samples: int) -> None:
        """See `Engine.align`."""
        num_positions = min(max(num_samples // _SAMPLES_PER_POSITION, 1), _POSITIONS)
        with self._changed:
            self._tasks.append(_Task(key, request, result, num_positions))
            self._changed.notify()

    def discard(self, request: Request) -> None:
        """See `Engine.discard`."""
        with self._changed:
            self._discarded.append(self._api.encoding_key(request.engine_input))
            self._changed.notify()

    def close(self) -> None:
        """Tasks that wait are abandoned."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._is_due()):
                    # While the engine works, nobody says when it stops.
                    self._changed.wait(_POLL_S if self._tasks else None)
                if self._closed:
                    return
                tasks, self._tasks = self._tasks[: self._windows_per_call], self._tasks[self._windows_per_call :]
                discarded, self._discarded = self._discarded, []
            started = time.monotonic()
            try:
                self._align(tasks, discarded)
                # With the step of the engine that it waited for.
                self._last_call_s = time.monotonic() - started if tasks else self._last_call_s
            except Exception as e:
                # Not one window's fault: the engine's, or a vLLM's that we do not know.
                died = (
                    e if isinstance(e, EngineDiedError) else EngineDiedError(f"words cannot be timed: {root_cause(e)}")
                )
                for task in tasks:
                    self._deliver(task.key, died)
                if not tasks:
                    self._deliver(None, died)
                return

    def _is_due(self) -> bool:
        if max(len(self._tasks), len(self._discarded)) >= self._windows_per_call:
            return True
        if not self._tasks:
            return False
        waited_s = time.monotonic() - self._tasks[0].queued_at
        return waited_s + self._last_call_s >= _WITHIN_S or self._is_idle()

    def _align(self, tasks: list[_Task], discarded: list[str]) -> None:
        if self._is_given:
            looks, *likelihoods = zip(*self._call_with_features("asrbatch_align_given", tasks), strict=True)
            self._deliver_words(tasks, looks, [[np.frombuffer(b, np.float32) for b in each] for each in likelihoods])
            return
        found = self._call("asrbatch_align", [self._window(task, None) for task in tasks], discarded)
        missing = [n for n, one in enumerate(found) if one is None]
        if missing:
            # Features are sent only where they are needed: they are half a megabyte a window.
            again = self._call_with_features("asrbatch_align", [tasks[n] for n in missing], [])
            for n, one in zip(missing, again, strict=True):
                found[n] = one
        self._deliver_words(tasks, found, is_encoded_again=missing)

    def _call_with_features(self, method: str, tasks: list[_Task], *arguments: Any) -> list[Any]:
        if not tasks:
            return []
        windows = [self._window(task, self._api.feature_bytes(task.request.engine_input)) for task in tasks]
        return self._call(method, windows, *arguments)

    def _deliver_words(
        self,
        tasks: list[_Task],
        looks: Sequence[bytes],
        likelihoods: Sequence[Sequence[np.ndarray]] | None = None,
        is_encoded_again: Sequence[int] = (),
    ) -> None:
        """Warps what the worker found, and delivers the words.

        Args:
            looks: of each window, as the worker gives them.
            likelihoods: of each window the log-probabilities of its text tokens, with its audio and with silence; None
                where the text was decoded, and has its own.
        """
        costs = [
            -np.frombuffer(look, np.float32).reshape(-1, task.num_positions)
            for task, look in zip(tasks, looks, strict=True)
        ]
        for n, (task, begins) in enumerate(zip(tasks, first_frames(costs), strict=True)):
            # What is translated is written in English.
            has_spaces = self._prompts.task == "translate" or task.result.language not in NO_SPACES
            segments = self._prompts.text_groups(task.result)
            logprobs = np.array(task.result.token_logprobs) if likelihoods is None else likelihoods[0][n]
            groups = words_of(segments, begins, np.exp(logprobs), self._decode, has_spaces=has_spaces)
            found = AlignedWords(groups, n in is_encoded_again)
            if likelihoods is not None:
                bounds = np.cumsum([len(segment) for segment in segments])[:-1]
                gains = np.split(logprobs - likelihoods[1][n], bounds)
                given, means = tuple(map(float, logprobs)), tuple(float(np.mean(gain)) for gain in gains)
                found = replace(found, token_logprobs=given, audio_gains=means)
            self._deliver(task.key, found)

    def _window(self, task: _Task, features: bytes | None) -> list[Any]:
        """As `vllm/cross_attention.py` takes it."""
        text_ids = [i for group in self._prompts.text_groups(task.result) for i in group]
        ids, first = self._prompts.alignment_ids(task.result.language, text_ids)
        key = self._api.encoding_key(task.request.engine_input)
        return [key, ids, first, len(text_ids) + 1, task.num_positions, features]
