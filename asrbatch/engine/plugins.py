"""vLLM's plugins: which are installed, and why one does not work. Imports no vllm itself; the plugins do.

vLLM says nothing about a plugin that is named and not installed, and only logs one that cannot be imported; both show
much later as an unknown architecture. One that raises while it registers takes the engine down, and vLLM does not say
which. Here the culprit is named."""

import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from asrbatch.errors import UsageError
from asrbatch.formatting import one_line

GROUP = "vllm.general_plugins"
# Of vLLM itself, not of a model.
_OWN = ("lora_filesystem_resolver", "lora_hf_hub_resolver")


def installed() -> list[EntryPoint]:
    """Those of this environment, by name."""
    return sorted(
        (point for point in entry_points(group=GROUP) if point.name not in _OWN), key=lambda point: point.name
    )


def versions(names: Sequence[str] | None) -> dict[str, str]:
    """`distribution version` of each of these plugins, or of all installed ones that vLLM would load.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, or all.
    """
    allowed = names if names is not None else _of_environment()
    found = [point for point in installed() if allowed is None or point.name in allowed]
    return {point.name: f"{point.dist.name} {point.dist.version}" for point in found if point.dist is not None}


def check_names(names: Sequence[str] | None) -> None:
    """Raises UsageError for one that is not installed.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, which may also name plugins of vLLM's other groups.
    """
    there = [point.name for point in installed()]
    if names is not None:
        known, option = set(there), "--plugin "
    elif names := _of_environment():
        groups = [group for group in entry_points().groups if group.startswith("vllm.")]
        known, option = {point.name for group in groups for point in entry_points(group=group)}, "VLLM_PLUGINS="
    for name in names or ():
        if name and name not in known:
            has = f"installed are {', '.join(there)}" if there else "none is installed"
            raise UsageError(f"{option}{name}: no such vLLM plugin in this environment ({GROUP}); {has}")


def load(names: Sequence[str] | None) -> dict[str, str]:
    """Imports and registers plugins in vLLM's place. Call it once: not every `register` bears being called again.

    Args:
        names: an allow-list; None for what VLLM_PLUGINS says, or all.

    Returns:
        Why some that nobody named cannot be imported: vLLM goes on without them.

    Raises:
        UsageError: one that was named is not installed or cannot be imported, or any raised; with its cause.
    """
    check_names(names)
    problems, loaded = {}, versions(names)
    for point in installed():
        if point.name not in loaded:
            continue
        what = f"{point.value} (from {loaded[point.name]})"
        try:
            # Apart from `register()`, because vLLM forgives only a failed import.
            register = point.load()
        except Exception as e:  # whatever its import does
            problems[point.name] = f"{what} cannot be imported: {one_line(e)}"
            if names is not None:
                raise UsageError(f"--plugin {point.name}: {problems[point.name]}") from e
            continue
        try:
            register()
        except (Exception, SystemExit) as e:
            problem = f"{what} failed while it registered its models: {one_line(e)}"
            if names is not None:
                raise UsageError(f"--plugin {point.name}: {problem}") from e
            fix = "fix or uninstall it, or name those to load with --plugin (VLLM_PLUGINS= loads none)"
            raise UsageError(f"plugin {point.name}: {problem}; vLLM does not start with it: {fix}") from e
    return problems


def _of_environment() -> list[str] | None:
    said = os.environ.get("VLLM_PLUGINS")
    return None if said is None else said.split(",")
