"""Asks vLLM about a model without an engine and without weights, in a process of its own.

The process that will run the engine must not import vLLM before everything that can refuse a run has had its say, and
plugins must be named before they can take the engine down. Imports neither torch nor vllm.
"""

import functools
import json
import os
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

from asrbatch.child_process import ChildProcess
from asrbatch.errors import EngineStartError, UsageError
from asrbatch.models.capabilities import ModelCapabilities

TIMEOUT_S = 600.0


def inspect_model(
    folder: str,
    *,
    name: str,
    architectures: Sequence[str],
    style: str,
    task: str,
    prompt: str,
    words: dict[str, str | None],
    template_kwargs: dict[str, Any],
    plugins: Sequence[str] | None,
    settings: dict[str, Any],
    device_kind: str,
    window_s: float | None = None,
) -> ModelCapabilities:
    """The facts of a checkpoint; takes some 10 seconds, most of them once for each process.

    Args: folder: of the checkpoint. name: as the user wrote it. architectures: as the checkpoint's configuration has
        them. style: one of `capabilities.PROMPT_STYLES`. prompt: of a chat. words: of an interface: `language`,
        `request_prompt`, `hotwords`, `to_language`, as the user wrote them; None for none. settings: vLLM's engine
        arguments that decide what the model is. window_s: the longest audio to ask about at once; None for what suits
        the model.

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
            "words": words,
            "template_kwargs": template_kwargs,
            "plugins": None if plugins is None else list(plugins),
            "settings": settings,
            "device_kind": device_kind,
            "window_s": window_s,
        }
    )
    return ModelCapabilities(**{**answer, "can": tuple(answer["can"])})


def check_plugins(names: Sequence[str] | None, device_kind: str) -> None:
    """Loads plugins where they do no harm.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, or all.

    Raises:
        UsageError: one that vLLM would not start with, or that was named and does not work; which, and why.
    """
    _ask({"what": "plugins", "plugins": None if names is None else list(names), "device_kind": device_kind})


def unknown_modules(
    names: Collection[str],
    has: Collection[str],
    architectures: Sequence[str],
    plugins: Sequence[str] | None,
    device_kind: str,
) -> list[str]:
    """Which modules of an adapter a checkpoint lacks, once vLLM's class has renamed both as it does when it loads them.

    Args:
        names: of the adapter.
        has: of the checkpoint.
    """
    settled = {"plugins": None if plugins is None else list(plugins), "device_kind": device_kind}
    asked = {"what": "modules", "names": sorted(names), "has": sorted(has), "architectures": list(architectures)}
    return _ask({**asked, **settled})["unknown"]


def problem_of_adapter(folder: str, max_rank: int, plugins: Sequence[str] | None, device_kind: str) -> str | None:
    """Why vLLM could not apply a LoRA adapter, whatever the model; None where it can.

    Args:
        max_rank: as vLLM will be told it.
    """
    settled = {"plugins": None if plugins is None else list(plugins), "device_kind": device_kind}
    return _ask({"what": "adapter", "folder": folder, "max_rank": max_rank, **settled})["problem"]


def list_models(plugins: Sequence[str] | None, device_kind: str) -> dict[str, Any]:
    """What the installed vLLM can transcribe with; see `look_child.py`."""
    return _ask({"what": "models", "plugins": None if plugins is None else list(plugins), "device_kind": device_kind})


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    answer = json.loads(_answer(json.dumps(request, sort_keys=True)))
    if (refusal := answer.get("refused")) is not None:
        raise UsageError(refusal)
    return answer["found"]


def close() -> None:
    """Ends the process that was asked, if there is one: it holds half a gigabyte, which an engine may want."""
    while _children:
        _children.popitem()[1].close()


@functools.lru_cache(maxsize=64)
def _answer(request: str) -> str:
    # Plugins and the kind of device are settled when vLLM is imported.
    settled = {name: value for name, value in json.loads(request).items() if name in ("plugins", "device_kind")}
    key = json.dumps(settled, sort_keys=True)
    if key not in _children:
        close()
        _children[key] = _Child()
    try:
        return _children[key].ask(request)
    except BaseException:  # an answer that is still to come would be taken for that to the next request
        close()
        raise


class _Child:
    """A process that answers one request after another; it ends with this one."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = ChildProcess(
            "asrbatch.engine.vllm.inspector_process",
            environment=os.environ,
            output=self._log,
            reap_timeout_s=5.0,
        )

    def ask(self, request: str) -> str:
        try:
            self._process.connection.send(request)
            if self._process.connection.poll(TIMEOUT_S):
                return self._process.connection.recv()
            self._process.kill()
        except (EOFError, OSError):  # it is gone
            pass
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        ended = f"its process ended with {self._process.how_it_ended()}: {lines[-1] if lines else 'it printed nothing'}"
        error = EngineStartError(f"vLLM could not be asked what the model is: {ended}")
        error.add_note("\n".join(lines[-15:]))
        raise error

    def close(self) -> None:
        self._process.kill()
        self._process.connection.close()
        self._log.close()


_children: dict[str, _Child] = {}
