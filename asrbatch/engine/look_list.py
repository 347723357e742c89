"""Every architecture of the installed vLLM that hears, for `asrbatch models`. Imported in the process of `look_child.py` alone.

A class that cannot be imported here, for want of a package, is listed with what it lacks if its source says that it hears; so is
one that hears and does not say where the audio goes, which nothing can ask.
"""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

from ..checkpoint import WHISPER
from ..speech import CHAT_STYLE, INTERFACE_STYLE, WHISPER_STYLE
from . import model_source, plugins, vllm_models

# A field of SpeechToTextParams that a class uses, to what that lets one ask for.
_LETS = {
    "language": ["language"],
    "request_prompt": ["prompt"],
    "hotwords": ["hotwords"],
    "to_language": ["translation", "target_language"],
}
# Packages that the processor of a model asks for only when it is made or used.
_ALSO_NEEDS = {
    "FireRedASR2ForConditionalGeneration": ["kaldi_native_fbank"],
    "GraniteSpeechForConditionalGeneration": ["torchaudio"],
    "GraniteSpeechPlusForConditionalGeneration": ["torchaudio"],
}


def list_models(problems: dict[str, str]) -> dict[str, Any]:
    """JSON-serialisable: `vllm` (version), `plugins` (installed ones by name, with their problem or None), `models` (by name)."""
    return {
        "vllm": vllm_models.VERSION,
        "plugins": {point.name: problems.get(point.name) for point in plugins.installed()},
        "models": [row for name, load in sorted(vllm_models.registered().items()) if (row := _row(name, load))],
    }


def _row(name: str, load: Callable[[], type]) -> dict[str, Any] | None:
    module, class_name = vllm_models.source_of(name)
    source = model_source.read(module, class_name) if module is not None else None
    if source is not None and (source.only_embeds or not source.mentions_audio):
        return None
    try:
        model = load()
    except Exception as e:  # a package it needs is missing, or does not fit
        if source is None or not (source.has_interface or source.has_placeholder):
            return None
        asked = INTERFACE_STYLE if source.has_interface else CHAT_STYLE
        can = _can(source.fields) if source.has_interface else ["prompt"]
        return {**_empty(name), "asked": asked, "can": can, "languages": sorted(source.languages), "lacks": _lacking(e)}
    if vllm_models.has_interface(model):
        lacks = next((p for p in _ALSO_NEEDS.get(name, ()) if importlib.util.find_spec(p) is None), None)
        return {**_with_interface(name, model), "lacks": lacks}
    if not vllm_models.generates_text(model):
        return None
    if (placeholder := vllm_models.placeholder_of(model)) is None:
        return {**_empty(name), "lacks": "a placeholder for audio in its class"} if vllm_models.hears(model) else None
    return {**_empty(name), "asked": CHAT_STYLE, "can": ["prompt"], "placeholder": placeholder}


def _lacking(error: Exception) -> str:
    """The package that is missing, also where transformers says that a module of its own is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return cause.name.split(".")[0]
        cause = cause.__cause__ or cause.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _with_interface(name: str, model: type) -> dict[str, Any]:
    row = {**_empty(name), "asked": INTERFACE_STYLE, "languages": sorted(model.supported_languages)}
    try:  # some classes state them whatever the checkpoint
        speech = model.get_speech_to_text_config(None, "transcribe")
        row |= {"sample_rate": int(speech.sample_rate), "window_s": speech.max_audio_clip_s}
    except Exception:  # the others look at the checkpoint
        pass
    if name == WHISPER:
        can = ["language", "prompt", "hotwords", "translation", "timestamps", "detection"]
        return {**row, "asked": WHISPER_STYLE, "languages": [], "can": can}  # a checkpoint has its own
    return {**row, "can": _can(model_source.fields_used(inspect.getsource(model.get_generation_prompt)))}


def _can(fields: set[str]) -> list[str]:
    return [what for field, whats in _LETS.items() if field in fields for what in whats]


def _empty(name: str) -> dict[str, Any]:
    return {
        "architecture": name,
        "asked": None,
        "sample_rate": None,
        "window_s": None,
        "languages": [],
        "can": [],
        "placeholder": None,
        "lacks": None,
    }
