"""The process that `inspector.py` asks: answers requests, both as JSON, until the parent hangs up.

Knows how facts are found without weights: from the model class where it states them, otherwise by trying: a prompt that
does not change when a word is given ignores that word, and audio the model's own processor refuses is too short for it.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from asrbatch.child_process import connect
from asrbatch.engine import environment, plugins
from asrbatch.engine.vllm.frontends import to_choose
from asrbatch.engine.vllm.option_support import default_target, detect_supported_options
from asrbatch.errors import RowError, UsageError
from asrbatch.languages import find
from asrbatch.models.capabilities import CHAT_STYLE, INTERFACE_STYLE, PROMPT_STYLES, ModelCapabilities

# The shortest audio is the first of these that the model's processor takes. Below the first, encoders have died with
# the engine around them, though their processors took it.
_SHORTEST_S = (0.1, 0.2, 0.5, 1.0)
# Of chat models whose processor states no length.
_USUAL_WINDOW_S = 30.0
# Of models that take audio of any length.
_LONGEST_WINDOW_S = 600.0


def _main() -> None:
    connection, _ = connect()
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(connection)
    os._exit(0)  # no library may hang in its clean-up


def _serve(connection: Connection) -> None:
    prepared = None
    while True:
        request = json.loads(connection.recv())
        try:
            prepared = prepared or _prepared(request)
            answer = {"found": _found(request, *prepared)}
        except UsageError as e:
            answer = {"refused": str(e)}
        connection.send(json.dumps(answer))


def _prepared(request: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """vLLM with its plugins, which are the same for all requests to this process; and what is wrong
    with some of those.
    """
    environment.configure(mode="thread", device_kind=request["device_kind"], plugins=request["plugins"])
    from asrbatch.engine.vllm import registry

    registry.hold_plugins()
    return registry, plugins.load(request["plugins"])


def _found(request: dict[str, Any], vllm_models: Any, problems: dict[str, str]) -> dict[str, Any]:
    match request["what"]:
        case "plugins":
            return {}
        case "modules":
            renamed = vllm_models.renamed(request["architectures"], [*request["names"], *request["has"]])
            has = {renamed[name] for name in request["has"]}
            return {"unknown": [name for name in request["names"] if renamed[name] not in has]}
        case "adapter":
            try:
                vllm_models.check_adapter(request["folder"], request["max_rank"])
            except (ValueError, TypeError) as e:
                return {"problem": _reason(e)}
            return {"problem": None}
        case "models":
            from asrbatch.engine.vllm.model_list import list_models

            return list_models(problems)
        case _:
            return asdict(_checkpoint(request, vllm_models, problems))


def _checkpoint(request: dict[str, Any], vllm_models: Any, problems: dict[str, str]) -> ModelCapabilities:
    at = f"--model {request['name']}"
    from asrbatch.engine.vllm import api, frontends

    api.check_engine_args(request["settings"])
    fixed = {"model": request["folder"], "mm_processor_cache_gb": 0, "limit_mm_per_prompt": {"audio": 1}}
    try:
        config, renderer, kv_bytes = vllm_models.without_engine({**request["settings"], **fixed})
        model = vllm_models.model_of(config)
    except Exception as e:  # of vLLM, transformers, pydantic, or the checkpoint's own code
        why = _why_not(request["architectures"], e, vllm_models, problems)
        raise UsageError(f"{at}: {why}{_of_tokenizer(request)}") from e
    style = _style(request["style"], model, vllm_models, at)
    language = target = None
    try:
        if style == INTERFACE_STYLE:
            frontend = frontends.InterfaceFrontend(config, renderer, request["task"])
            language, codes = frontend.default_language, list(model.supported_languages)
            said = partial(frontend.say, np.zeros(frontend.sample_rate, np.float32))
            can, target = detect_supported_options(said, codes), default_target(said, codes)
            words = _words(request["words"], can, codes)
            render = lambda samples: frontend.render(samples, **{"language": language, **words})  # noqa: E731
        else:
            frontend = frontends.ChatFrontend(config, renderer, request["template_kwargs"])
            render = lambda samples: frontend.render(samples, request["prompt"])  # noqa: E731
            can = ["prompt"] if frontend.takes_prompts else []
        rate = frontend.sample_rate
        # First, because what is wrong with it is not the length.
        one_second = render(np.zeros(rate, np.float32))["prompt_token_ids"]
        min_samples = _shortest(render, rate)
        ignored = frontend.ignored_kwargs if request["template_kwargs"] and style == CHAT_STYLE else ()
    except RowError as e:
        raise UsageError(f"--{e.message}") from e
    except Exception as e:
        raise UsageError(
            f"{at}: {model.__name__} cannot be asked by its {_NAMES[style]}: {_reason(e)}{_of_tokenizer(request)}"
        ) from e
    if ignored := [name for name in ignored if name in request["template_kwargs"]]:
        raise UsageError(
            f"--chat-template-kwargs {ignored[0]}: the chat template has no such variable; "
            f"it has {', '.join(to_choose(frontend.template_variables)) or 'none to set: leave it out'}"
        )
    window_s, window_from = _window(frontend, style, request["window_s"], at)
    tokens = len(render(np.zeros(int(window_s * rate), np.float32))["prompt_token_ids"])
    room = config.max_model_len - config.max_model_len // 4  # the rest is for the answer
    if tokens > room and request["window_s"] is None:
        window_s = float(int(window_s * room / tokens))
        window_from = f"what leaves a quarter of its {config.max_model_len} tokens to the answer"
        tokens = len(render(np.zeros(int(window_s * rate), np.float32))["prompt_token_ids"]) if window_s else tokens
    if tokens >= config.max_model_len or not window_s:
        raise UsageError(
            f"{at}: {window_s:g} s of audio and the prompt are {tokens} tokens, of {config.max_model_len} "
            "in all; give a longer --engine-arg max_model_len=…, or a shorter --window-seconds"
        )
    return ModelCapabilities(
        architecture=model.__name__,
        style=style,
        sample_rate=rate,
        window_s=window_s,
        window_from=window_from,
        min_samples=min_samples,
        languages=dict(model.supported_languages) if style == INTERFACE_STYLE else {},
        silent_language=language if style == INTERFACE_STYLE and "language" in can else None,
        can=(*can, *(("lora",) if getattr(model, "supports_lora", False) else ())),
        max_model_len=config.max_model_len,
        window_tokens=tokens,
        kv_bytes_per_token=kv_bytes,
        placeholder=frontend.placeholder if style == CHAT_STYLE else None,
        asked_about=_collapsed(one_second, frontend.decode_all),
        default_target=target,
    )


_NAMES = {INTERFACE_STYLE: "transcription interface", CHAT_STYLE: "chat template"}


def _style(asked: str, model: type, vllm_models: Any, at: str) -> str:
    has_interface = vllm_models.has_interface(model)
    style = asked if asked in PROMPT_STYLES[1:] else INTERFACE_STYLE if has_interface else CHAT_STYLE
    if style == INTERFACE_STYLE and not has_interface:
        raise UsageError(
            f"--prompt-style {style}: {model.__name__} does not implement vLLM's SupportsTranscription; "
            "leave it out to use its chat template (asrbatch models lists which do)"
        )
    if not vllm_models.generates_text(model):
        raise UsageError(f"{at}: {model.__name__} writes no text; asrbatch models lists models that transcribe")
    if style == CHAT_STYLE and vllm_models.placeholder_of(model) is None:
        raise UsageError(
            f"{at}: {model.__name__} has no placeholder for audio (get_placeholder_str), "
            "so nothing says where the audio goes; asrbatch models lists models that hear"
        )
    return style


def _window(frontend: Any, style: str, asked: float | None, at: str) -> tuple[float, str]:
    if style == INTERFACE_STYLE:
        clip_s, takes_more = frontend.capabilities.max_audio_clip_s, not frontend.capabilities.allow_audio_chunking
    else:
        clip_s, takes_more = frontend.clip_s, frontend.clip_s is None
    if asked is not None:
        if clip_s is not None and asked > clip_s and not takes_more:
            raise UsageError(f"--window-seconds {asked:g}: {at[8:]} hears {clip_s:g} s at once")
        return asked, "--window-seconds"
    if clip_s is not None:
        return float(clip_s), "the model class" if style == INTERFACE_STYLE else "its feature extractor"
    if style == INTERFACE_STYLE:
        return _LONGEST_WINDOW_S, "our bound: the model class has none"
    return _USUAL_WINDOW_S, "our choice: the model states none (--window-seconds)"


def _words(given: dict[str, str | None], can: Sequence[str], languages: Sequence[str]) -> dict[str, str]:
    """What of the run's words goes into the prompt; the rest is refused elsewhere."""
    honouring = {
        "language": "language",
        "request_prompt": "prompt",
        "hotwords": "hotwords",
        "to_language": "target_language",
    }
    words = {name: given[name] for name, what in honouring.items() if given[name] is not None and what in can}
    for name in ("language", "to_language"):
        if name in words and (code := find(words.pop(name), languages)) is not None:
            words[name] = code
    return words


def _shortest(render: Any, rate: int) -> int:
    """Of audio whose last resort, one second, is known to be taken."""
    for seconds in _SHORTEST_S[:-1]:
        num_samples = round(seconds * rate)
        try:
            render(np.zeros(num_samples, np.float32))
            return num_samples
        except Exception:  # in the processor's own words; another length may do
            continue
    return round(_SHORTEST_S[-1] * rate)


def _why_not(architectures: list[str], error: Exception, vllm_models: Any, problems: dict[str, str]) -> str:
    """Why vLLM cannot run a model: a package or a plugin is missing, or does not work."""
    known = vllm_models.registered()
    for name in architectures:
        if name in known:
            try:
                known[name]()
            except ImportError as e:
                missing = (
                    f"the package {e.name.split('.')[0]}" if isinstance(e, ModuleNotFoundError) and e.name else str(e)
                )
                return f"its class {name} cannot be imported: {missing} is missing; install it into this environment"
            except Exception as e:
                return f"its class {name} cannot be imported: {_reason(e)}"
            break
    else:
        there = ", ".join(p.name for p in plugins.installed()) or "none"
        return (
            f"vLLM {vllm_models.VERSION} has no architecture "
            f"{', '.join(architectures) or 'for it (config.json names none)'}; "
            f"another vLLM, or a plugin, may (plugins installed: {there}; --plugin names those to load)"
            + "".join(f"; plugin {name}: {why}" for name, why in problems.items())
            + f"; {_reason(error)}"
        )
    return _reason(error)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    hint = (
        "; it brings Python code of its own: --trust-remote-code runs it" if "trust_remote_code" in str(error) else ""
    )
    return f"{type(error).__name__}: {' '.join([*lines[:3], *lines[3:][-1:]])[:500]}{hint}"


def _of_tokenizer(request: dict[str, Any]) -> str:
    """What else may be the cause: a tokenizer that is not the model's lacks its tokens for audio,
    if it is one at all.
    """
    named = request["settings"].get("tokenizer")
    return f"; with the tokenizer of {named}: --tokenizer left out takes the checkpoint's own" if named else ""


def _collapsed(token_ids: list[int], decode: Any) -> str:
    """A prompt as text, a token that is repeated written once with the number."""
    runs: list[list[int]] = []
    for token in token_ids:
        if runs and runs[-1][0] == token:
            runs[-1].append(token)
        else:
            runs.append([token])
    text, plain = "", []
    for run in [*runs, []]:
        if 0 < len(run) < 4:
            plain += run
            continue
        text, plain = text + decode(plain), []
        text += f"{decode(run[:1])}×{len(run)}" if run else ""
    return text


if __name__ == "__main__":
    _main()
