"""Asks vLLM about a model without an engine and without weights, in a process of its own.

The process that will run the engine must not import vLLM before everything that can refuse a run has had its say, and
plugins must be named before they can take the engine down. Imports neither torch nor vllm.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import EngineStartError, UsageError
from ..speech import Speech

TIMEOUT_S = 600.0


def look_at(
    folder: str,
    *,
    name: str,
    architectures: Sequence[str],
    style: str,
    task: str,
    prompt: str,
    template_kwargs: dict[str, Any],
    plugins: Sequence[str] | None,
    settings: dict[str, Any],
    device_kind: str,
    window_s: float | None = None,
) -> Speech:
    """The facts of a checkpoint; takes some 15 seconds, once for each process and set of arguments.

    Args:
        folder: of the checkpoint.
        name: as the user wrote it.
        architectures: as the checkpoint's configuration has them.
        style: one of `speech.PROMPT_STYLES`.
        prompt: of a chat.
        settings: vLLM's engine arguments that decide what the model is.
        window_s: the longest audio to ask about at once; None for what suits the model.

    Raises:
        UsageError: the model cannot be asked as wanted; why, in one line.
    """
    answer = _ask(
        {
            "what": "checkpoint",
            "folder": folder,
            "name": name,
            "architectures": list(architectures),
            "style": style,
            "task": task,
            "prompt": prompt,
            "template_kwargs": template_kwargs,
            "plugins": None if plugins is None else list(plugins),
            "settings": settings,
            "device_kind": device_kind,
            "window_s": window_s,
        }
    )
    return Speech(**{**answer, "can": tuple(answer["can"])})


def check_plugins(names: Sequence[str], device_kind: str) -> None:
    """Loads plugins where they do no harm.

    Raises:
        UsageError: one does not work; which, and why.
    """
    _ask({"what": "plugins", "plugins": list(names), "device_kind": device_kind})


def list_models(plugins: Sequence[str] | None, device_kind: str) -> dict[str, Any]:
    """What the installed vLLM can transcribe with; see `look_child.py`."""
    return _ask({"what": "models", "plugins": None if plugins is None else list(plugins), "device_kind": device_kind})


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    answer = json.loads(_answer(json.dumps(request, sort_keys=True)))
    if (refusal := answer.get("refused")) is not None:
        raise UsageError(refusal)
    return answer["found"]


@functools.lru_cache(maxsize=64)
def _answer(request: str) -> str:
    command = [sys.executable, "-P", "-m", "asrbatch.engine.look_child"]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as e:
        raise EngineStartError(f"vLLM did not say what the model is within {TIMEOUT_S:g} s") from e
    if done.returncode or not done.stdout:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        last = said[-1] if said else "it said nothing"
        error = EngineStartError(f"vLLM could not be asked what the model is: its process ended with {done.returncode}: {last}")
        error.add_note("\n".join(said[-15:]))
        raise error
    return done.stdout
