"""Every architecture of the installed vLLM that takes audio, for `asrbatch models`. Imported in the process of
`inspector_process.py` alone.

A class that cannot be imported here, for want of packages, is listed with those alone; one that takes audio and does
not state where in the prompt, which nothing can use, is listed as well."""

import inspect
from collections.abc import Callable
from typing import Any

from asrbatch.engine import plugins
from asrbatch.engine.packages import install_packages_line, missing_packages
from asrbatch.engine.vllm import registry
from asrbatch.engine.vllm.option_support import supported_options_in_source
from asrbatch.models.capabilities import CHAT_STYLE, INTERFACE_STYLE, WHISPER_STYLE
from asrbatch.models.checkpoint import WHISPER

_UNKNOWN = {
    "asked": None, "sample_rate": None, "window_s": None, "languages": [], "can": [], "placeholder": None,
    "lacks": None, "install": None,
}  # fmt: skip


def list_models(problems: dict[str, str]) -> dict[str, Any]:
    """JSON-serialisable: `vllm` (version), `plugins` (installed ones by name, with their problem or None), `models` (by
    name).
    """
    return {
        "vllm": registry.VERSION,
        "plugins": {point.name: problems.get(point.name) for point in plugins.installed()},
        "models": [row for name, load in sorted(registry.registered().items()) if (row := _row(name, load))],
    }


def _row(name: str, load: Callable[[], type]) -> dict[str, Any] | None:
    row = {"architecture": name, **_UNKNOWN}
    try:
        model = load()
    except Exception as e:
        needs = _needs(missing_packages(name, e))
        return {**row, **needs} if needs and registry.may_take_audio(name) else None
    needs = _needs(missing_packages(name))
    if registry.supports_transcription(model):
        return {**row, **_with_interface(name, model), **needs}
    if not registry.is_text_generation_model(model):
        return None
    if (placeholder := registry.placeholder_of(model)) is None:
        return {**row, "lacks": "a placeholder for audio in its class"} if registry.takes_audio(model) else None
    return {**row, "asked": CHAT_STYLE, "can": ["prompt"], "placeholder": placeholder, **needs}


def _needs(packages: list[str]) -> dict[str, str]:
    return {"lacks": ", ".join(packages), "install": install_packages_line(packages)} if packages else {}


def _with_interface(name: str, model: type) -> dict[str, Any]:
    row = {"asked": INTERFACE_STYLE, "languages": sorted(model.supported_languages)}
    try:  # some classes state them whatever the checkpoint
        capabilities = model.get_speech_to_text_config(None, "transcribe")
        row |= {"sample_rate": int(capabilities.sample_rate), "window_s": capabilities.max_audio_clip_s}
    except Exception:  # the others look at the checkpoint
        pass
    if name == WHISPER:
        can = ["language", "prompt", "hotwords", "translation", "timestamps", "detection"]
        return {**row, "asked": WHISPER_STYLE, "languages": [], "can": can}  # a checkpoint has its own
    return {**row, "can": supported_options_in_source(inspect.getsource(model.get_generation_prompt))}
