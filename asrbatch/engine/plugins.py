"""vLLM's plugins: which are installed, and why one does not work. Imports no vllm itself; the plugins do.

vLLM says nothing about a plugin that is named and not installed, and only logs one that cannot be imported; both show much
later as an unknown architecture. Here the culprit is named.
"""

import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from ..errors import UsageError

GROUP = "vllm.general_plugins"
# Of vLLM itself, not of a model.
_OWN = ("lora_filesystem_resolver", "lora_hf_hub_resolver")


def installed() -> list[EntryPoint]:
    """Those of this environment, by name."""
    return sorted((point for point in entry_points(group=GROUP) if point.name not in _OWN), key=lambda point: point.name)


def versions(names: Sequence[str] | None) -> dict[str, str]:
    """`distribution version` of each of these plugins, or of all installed ones that vLLM would load.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, or all.
    """
    said = os.environ.get("VLLM_PLUGINS")
    allowed = names if names is not None else None if said is None else said.split(",")
    found = [point for point in installed() if allowed is None or point.name in allowed]
    return {point.name: f"{point.dist.name} {point.dist.version}" for point in found if point.dist is not None}


def check_names(names: Sequence[str]) -> None:
    """Raises UsageError for one that is not installed."""
    there = [point.name for point in installed()]
    for name in names:
        if name not in there:
            has = f"installed are {', '.join(there)}" if there else "none is installed"
            raise UsageError(f"--plugin {name}: no such vLLM plugin in this environment ({GROUP}); {has}")


def load(names: Sequence[str] | None) -> dict[str, str]:
    """Imports and registers plugins in vLLM's place, each once: not every `register` bears being called again.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, or all.

    Returns:
        What is wrong with those that nobody named: vLLM goes on without them.

    Raises:
        UsageError: one that was named is not installed, cannot be imported, or raised; with its cause.
    """
    check_names(names or ())
    problems = {}
    for point in installed():
        if point.name in versions(names) and (problem := problem_of(point)):
            if names is not None:
                raise UsageError(f"--plugin {point.name}: {problem}")
            problems[point.name] = problem
    return problems


def problem_of(point: EntryPoint) -> str | None:
    """Imports and registers a plugin; why it does not work here, None when it does."""
    of = f" (from {point.dist.name} {point.dist.version})" if point.dist is not None else ""
    try:
        register = point.load()
    except Exception as e:  # whatever its import does
        return f"{point.value}{of} cannot be imported: {type(e).__name__}: {_one_line(e)}"
    try:
        register()
    except Exception as e:
        return f"{point.value}{of} raised while it registered its models: {type(e).__name__}: {_one_line(e)}"
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
