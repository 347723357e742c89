"""Plugins for vLLM, installed in a folder of a test's own."""

import os


def install_plugin(folder, name: str, module: str, source: str | None) -> None:
    """Puts a distribution with a vLLM plugin where Python finds it, as an installer does."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{name} = {module}:register\n")
    if source is not None:
        (folder / f"{module}.py").write_text(source)


def seen(site) -> dict[str, str]:
    """An environment in which what is installed there is found."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}
