"""What the installed vLLM knows of a model, found without an engine and without weights, in a process of its own.

The process that will run the engine must not import vLLM before everything that can refuse a run has been checked, and
plugins must be named before they can take the engine down. Imports neither torch nor vllm; the other side is
`vllm/inspector_process.py`.
"""

import functools
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.child_process import ChildProcess
from asrbatch.config import RunConfig
from asrbatch.engine import plugins
from asrbatch.errors import EngineStartError, UsageError
from asrbatch.models.capabilities import CHAT_PROMPT, ModelCapabilities
from asrbatch.models.checkpoint import Checkpoint, hash_folder
from asrbatch.timeouts import waited

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Inspector:
    """vLLM with some plugins on one kind of device, both settled when it is imported.

    Attributes:
        plugins: an allow-list; None for what VLLM_PLUGINS says, or all.
        device_kind: `cpu` or `cuda`.

    Raises:
        UsageError: a plugin that is not installed.
    """

    plugins: tuple[str, ...] | None
    device_kind: str

    def __post_init__(self) -> None:
        # Before seconds of importing vLLM, which says nothing of one that is not installed.
        plugins.check_names(self.plugins)

    def capabilities(
        self,
        config: RunConfig,
        checkpoint: Checkpoint,
        architectures: Sequence[str],
        template_kwargs: dict[str, Any],
        settings: dict[str, Any],
    ) -> ModelCapabilities:
        """Those of a checkpoint; takes some 10 seconds, most of them once for each process.

        Args:
            config: of the run; its language, prompt, hotwords and target language as the user wrote them.
            architectures: as the checkpoint's configuration has them.
            settings: vLLM's engine arguments that decide what the model is.

        Raises:
            UsageError: the model cannot be used as wanted; why, in one line.
        """
        found = self._request(
            "checkpoint",
            folder=checkpoint.folder,
            name=checkpoint.name,
            architectures=list(architectures),
            style=config.engine.prompt_style,
            task=config.task,
            prompt=config.prompt or CHAT_PROMPT,
            words={
                "language": config.language,
                "request_prompt": config.prompt,
                "hotwords": config.hotwords,
                "to_language": config.target_language,
            },
            template_kwargs=template_kwargs,
            settings=settings,
            window_s=config.window_s,
            tail_s=WindowConfig.min_tail_s if config.windows == "fixed" else 0.0,
        )
        return ModelCapabilities(**{**found, "supports": tuple(found["supports"])})

    def check_plugins(self) -> None:
        """Loads plugins where they do no harm.

        Raises:
            UsageError: one that vLLM would not start with, or that was named and does not work; which, and why.
        """
        self._request("plugins")

    def unknown_modules(self, names: Collection[str], has: Collection[str], architectures: Sequence[str]) -> list[str]:
        """Which modules of an adapter a checkpoint lacks, once vLLM's class has renamed both as it does when it loads
        them.

        Args:
            names: of the adapter.
            has: of the checkpoint.
        """
        names, has = sorted(names), sorted(has)
        return self._request("modules", names=names, has=has, architectures=list(architectures))["unknown"]

    def adapter_problem(self, folder: str, max_rank: int) -> str | None:
        """Why vLLM could not apply a LoRA adapter, whatever the model; None where it can.

        Args:
            max_rank: as vLLM will be given it.
        """
        return self._request("adapter", folder=folder, max_rank=max_rank)["problem"]

    def list_models(self) -> dict[str, Any]:
        """What the installed vLLM can transcribe with; see `vllm/model_list.py`."""
        return self._request("models")

    def _request(self, what: str, **arguments: Any) -> dict[str, Any]:
        request = json.dumps({"what": what, **arguments, **asdict(self)}, sort_keys=True)
        folders = {arguments.get("folder"), arguments.get("settings", {}).get("tokenizer")}
        response = json.loads(_respond(self, request, _contents_of(folders)))
        if (refusal := response.get("refused")) is not None:
            raise UsageError(refusal)
        return response["found"]


def close() -> None:
    """Ends the process, if there is one: it holds half a gigabyte, which an engine may want."""
    while _processes:
        _processes.popitem()[1].close()


def _contents_of(folders: Iterable[str | None]) -> tuple[tuple[str, str], ...]:
    """(folder, digest) of what can be asked about: a caller may change a checkpoint between two runs."""
    return tuple((folder, hash_folder(folder, weights=False)) for folder in sorted(filter(None, folders)))


@functools.lru_cache(maxsize=64)
def _respond(inspector: Inspector, request: str, contents: tuple[tuple[str, str], ...]) -> str:
    # Its libraries, too, keep what they read, by the names of folders.
    if inspector not in _processes or not _processes[inspector].knows(contents):
        close()
        _processes[inspector] = _InspectorProcess()
    try:
        return _processes[inspector].respond(request, contents)
    except BaseException:  # a response that is still to come would be taken for that to the next request
        close()
        raise


class _InspectorProcess:
    """Responds to one request after another; it ends with this process."""

    def __init__(self) -> None:
        os.getcwd()  # where that is gone, torch cannot be loaded: say so, as for a relative path
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        try:
            self._process = ChildProcess(
                "asrbatch.engine.vllm.inspector_process", environment=os.environ, output=self._log, reap_timeout_s=5.0
            )
        except OSError as e:
            raise EngineStartError(f"vLLM could not inspect the model: no process: {e.strerror}") from e
        self._contents: dict[str, str] = {}

    def knows(self, contents: Iterable[tuple[str, str]]) -> bool:
        """Whether the folders are as this process found them, if it has seen them."""
        return all(self._contents.get(folder, digest) == digest for folder, digest in contents)

    def respond(self, request: str, contents: Iterable[tuple[str, str]]) -> str:
        self._contents |= dict(contents)
        try:
            self._process.connection.send(request)
            if waited(self._process.connection.poll, TIMEOUT_S):
                return self._process.connection.recv()
            self._process.kill()
        except (EOFError, OSError):  # it is gone
            pass
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        ended = f"its process ended with {self._process.how_it_ended()}: {lines[-1] if lines else 'it printed nothing'}"
        error = EngineStartError(f"vLLM could not inspect the model: {ended}")
        error.add_note("\n".join(lines[-15:]))
        raise error

    def close(self) -> None:
        self._process.kill()
        self._process.connection.close()
        self._log.close()


# At most one: two imported vLLMs are a gigabyte.
_processes: dict[Inspector, _InspectorProcess] = {}
