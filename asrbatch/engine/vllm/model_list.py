"""Every architecture of the installed vLLM that takes audio, for `asrbatch models`. Imported in the process of
`inspector_process.py` alone.

A class that cannot be imported here, for want of a package, is listed with that package alone; one that takes audio and
does not state where in the prompt, which nothing can use, is listed as well."""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from asrbatch.engine import plugins
from asrbatch.engine.base import chain
from asrbatch.engine.vllm import registry
from asrbatch.engine.vllm.option_support import supported_options_in_source
from asrbatch.models.capabilities import CHAT_STYLE, INTERFACE_STYLE, WHISPER_STYLE
from asrbatch.models.checkpoint import WHISPER

# Packages that the processor of a model asks for only when it is made or used.
_ALSO_NEEDS = {
    "FireRedASR2ForConditionalGeneration": ["kaldi_native_fbank"],
    "GraniteSpeechForConditionalGeneration": ["torchaudio"],
    "GraniteSpeechPlusForConditionalGeneration": ["torchaudio"],
}

_UNKNOWN = {
    "asked": None, "sample_rate": None, "window_s": None, "languages": [], "can": [], "placeholder": None, "lacks": None
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
        lacks = _lacking(e)
        return {**row, "lacks": lacks} if lacks is not None and registry.may_take_audio(name) else None
    if registry.supports_transcription(model):
        lacks = next((p for p in _ALSO_NEEDS.get(name, ()) if importlib.util.find_spec(p) is None), None)
        return {**row, **_with_interface(name, model), "lacks": lacks}
    if not registry.is_text_generation_model(model):
        return None
    if (placeholder := registry.placeholder_of(model)) is None:
        return {**row, "lacks": "a placeholder for audio in its class"} if registry.takes_audio(model) else None
    return {**row, "asked": CHAT_STYLE, "can": ["prompt"], "placeholder": placeholder}


def _lacking(error: Exception) -> str | None:
    """The package that is missing, also where transformers says that a module of its own is; None where none is."""
    for cause in chain(error):
        package = (getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ImportError) and package and importlib.util.find_spec(package) is None:
            return package
    return None


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
