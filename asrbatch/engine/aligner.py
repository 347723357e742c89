"""Has the words of finished windows timed by the engine, several windows at a time.

A call into the worker holds up the engine's steps, and costs hardly more for some windows than for one. So windows
wait for each other, but not long, and not at all while the engine has nothing else to do. What a call returns is warped
here, in a thread beside the engine. Knows Whisper's tokens by `WhisperPrompts` alone, and nothing of rows.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asrbatch.engine.base import AlignedWords, Deliver, Request, root_cause
from asrbatch.errors import EngineDiedError
from asrbatch.languages import NO_SPACES
from asrbatch.models.timestamps import Decode
from asrbatch.models.warping import first_frames
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.models.words import words_of
from asrbatch.types import DecodingResult

# Windows of one call: on a CPU as many as take 0.1 s with tiny.en, on a GPU what fills it for a moment.
WINDOWS_PER_CALL = {"cpu": 8, "cuda": 16}
# Seconds that the first of fewer windows waits for more.
_MAX_WAIT_S = 1.0
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
        decode: text tokens to text.
        deliver: receives each task's key, and its `AlignedWords` or why there are none.
        is_idle: whether the engine has nothing else to do.
        windows_per_call: how many are aligned at once.
    """

    def __init__(
        self,
        api: Any,
        call: Callable[..., Any],
        prompts: WhisperPrompts,
        decode: Decode,
        deliver: Deliver,
        is_idle: Callable[[], bool],
        windows_per_call: int,
    ):
        self._api, self._call, self._prompts, self._decode = api, call, prompts, decode
        self._deliver, self._is_idle, self._windows_per_call = deliver, is_idle, windows_per_call
        self._changed = threading.Condition()
        self._tasks: list[_Task] = []
        self._discarded: list[str] = []
        self._closed = False
        threading.Thread(target=self._run, name="asrbatch-aligner", daemon=True).start()

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
            try:
                self._align(tasks, discarded)
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
        waited = bool(self._tasks) and time.monotonic() - self._tasks[0].queued_at >= _MAX_WAIT_S
        return waited or (bool(self._tasks) and self._is_idle())

    def _align(self, tasks: list[_Task], discarded: list[str]) -> None:
        found = self._call("asrbatch_align", [self._window(task, None) for task in tasks], discarded)
        missing = [n for n, one in enumerate(found) if one is None]
        if missing:
            # Features are sent only where they are needed: they are half a megabyte a window.
            windows = [self._window(tasks[n], self._api.feature_bytes(tasks[n].request.engine_input)) for n in missing]
            for n, one in zip(missing, self._call("asrbatch_align", windows, []), strict=True):
                found[n] = one
        costs = [
            -np.frombuffer(looks, np.float32).reshape(-1, task.num_positions)
            for task, looks in zip(tasks, found, strict=True)
        ]
        for n, (task, begins) in enumerate(zip(tasks, first_frames(costs), strict=True)):
            # What is translated is written in English.
            has_spaces = self._prompts.task == "translate" or task.result.language not in NO_SPACES
            groups = words_of(
                self._prompts.text_groups(task.result),
                begins,
                np.exp(task.result.token_logprobs),
                self._decode,
                has_spaces=has_spaces,
            )
            self._deliver(task.key, AlignedWords(groups, n in missing))

    def _window(self, task: _Task, features: bytes | None) -> list[Any]:
        """As `vllm/cross_attention.py` takes it."""
        text_ids = [i for group in self._prompts.text_groups(task.result) for i in group]
        ids, first = self._prompts.alignment_ids(task.result.language, text_ids)
        key = self._api.encoding_key(task.request.engine_input)
        return [key, ids, first, len(text_ids) + 1, task.num_positions, features]
