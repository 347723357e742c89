"""The process behind `inspector.py`: responds to requests, both as JSON, until the parent hangs up.

Finds out without weights what a model supports: from the model class where it states that, otherwise by trying: a
prompt that does not change with a word ignores that word, and audio the model's own processor refuses is too short for
it. Knows nothing of runs and rows.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from asrbatch.child_process import connect
from asrbatch.config import PROMPT_STYLES
from asrbatch.engine import environment, plugins
from asrbatch.engine.base import innermost, root_cause
from asrbatch.engine.packages import install_packages_line, missing_packages
from asrbatch.engine.vllm import loading
from asrbatch.engine.vllm.option_support import FEATURES_OF, default_target, detect_supported_options
from asrbatch.errors import RowError, UsageError
from asrbatch.languages import find
from asrbatch.models.capabilities import CHAT_STYLE, INTERFACE_STYLE, STYLE_NAMES, ModelCapabilities

# The shortest audio is the first of these that the model's processor takes. Below the first, encoders have died with
# the engine around them, though their processors took it.
_SHORTEST_S = (0.1, 0.2, 0.5, 1.0)
# Of chat models whose processor states no length.
_USUAL_WINDOW_S = 30.0
# Of models that take audio of any length.
_LONGEST_WINDOW_S = 600.0


def _main() -> None:
    connection, _ = connect()
    # It imports vLLM, and ends after a few requests.
    with contextlib.suppress(EOFError, ConnectionError), loading.quick_loading():
        _serve(connection)
    os._exit(0)  # no library may hang in its clean-up


def _serve(connection: Connection) -> None:
    problems = None
    while True:
        request = json.loads(connection.recv())
        try:
            # Once: vLLM settles device and plugins while it is imported. Others get a process of their own.
            problems = _import_vllm(request) if problems is None else problems
            response = {"found": _found(request, problems)}
        except UsageError as e:
            response = {"refused": str(e)}
        connection.send(json.dumps(response))


def _import_vllm(request: dict[str, Any]) -> dict[str, str]:
    """Imports vLLM with its plugins, which are the same for all requests to this process; returns what is wrong with
    some of those.
    """
    environment.configure(mode="thread", device_kind=request["device_kind"], plugins=request["plugins"])
    import vllm.plugins

    vllm.plugins.plugins_loaded = True  # by us, and so not by vLLM
    problems = plugins.load(request["plugins"])
    loading.after_imports()
    return problems


def _found(request: dict[str, Any], problems: dict[str, str]) -> dict[str, Any]:
    from asrbatch.engine.vllm import model_list, registry  # once `_import_vllm` has been

    match request["what"]:
        case "plugins":
            return {}
        case "modules":
            renamed = registry.renamed(request["architectures"], [*request["names"], *request["has"]])
            has = {renamed[name] for name in request["has"]}
            return {"unknown": [name for name in request["names"] if renamed[name] not in has]}
        case "adapter":
            try:
                registry.check_adapter(request["folder"], request["max_rank"])
            except (ValueError, TypeError) as e:
                return {"problem": _reason(e)}
            return {"problem": None}
        case "models":
            return model_list.list_models(problems)
        case _:
            return asdict(_Inspection(request, problems).capabilities())


class _Inspection:
    """One checkpoint, tried as a run would use it.

    Args:
        request: see `inspector.Inspector.capabilities`.
        problems: of plugins, by name.
    """

    def __init__(self, request: dict[str, Any], problems: dict[str, str]):
        from asrbatch.engine.vllm import frontends, registry

        self._asked, self._at = request, f"--model {request['name']}"
        # With vLLM's cache an input that was rendered and never submitted cannot be rendered again.
        fixed = {"model": request["folder"], "mm_processor_cache_gb": 0, "limit_mm_per_prompt": {"audio": 1}}
        try:
            self._config, renderer, self._kv_bytes = registry.without_engine({**request["settings"], **fixed})
            self._model = registry.get_model_cls(self._config)
        except Exception as e:  # of vLLM, transformers, pydantic, or the checkpoint's own code
            why = _why_not(request["architectures"], e, problems)
            raise UsageError(f"{self._at}: {why}{_of_tokenizer(request)}") from e
        self._style = _style(request["style"], self._model, self._at)
        with self._explained():
            self._frontend = frontends.make_frontend(
                self._config, renderer, self._style, task=request["task"], template_kwargs=request["template_kwargs"]
            )

    def capabilities(self) -> ModelCapabilities:
        is_chat, frontend = self._style == CHAT_STYLE, self._frontend
        with self._explained():
            rate = frontend.sample_rate
            found = self._try_chat() if is_chat else self._try_interface()
            # First, because what is wrong with it is not the length.
            one_second = self._prompt_ids(rate)
            min_samples = self._shortest(rate)
            if is_chat:
                self._check_template_kwargs()
        window_s, window_source, most_s, window_tokens = self._window(rate)
        if getattr(self._model, "supports_lora", False):
            found["supports"].append("lora")
        return ModelCapabilities(
            **found,
            architecture=self._model.__name__,
            prompt_style=self._style,
            sample_rate=rate,
            window_s=window_s,
            window_source=window_source,
            min_samples=min_samples,
            most_s=most_s,
            max_model_len=self._config.max_model_len,
            window_tokens=window_tokens,
            kv_bytes_per_token=self._kv_bytes,
            example_prompt=_collapsed(one_second, frontend.decode),
        )

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except UsageError:
            raise
        except RowError as e:
            raise UsageError(f"--{e.message}") from e
        except Exception as e:  # of the model's own code
            if (why := _of_packages(self._model.__name__, e)) is not None:
                raise UsageError(f"{self._at}: {why}") from e
            raise UsageError(
                f"{self._at}: {self._model.__name__} cannot be asked by its {STYLE_NAMES[self._style]}: "
                f"{_reason(e)}{_of_tokenizer(self._asked)}"
            ) from e

    def _try_interface(self) -> dict[str, Any]:
        """Capabilities by their name; from here on windows are rendered as the run would have them."""
        frontend, languages = self._frontend, dict(self._model.supported_languages)
        prompt_text = partial(frontend.prompt_text, np.zeros(frontend.sample_rate, np.float32))
        supports = detect_supported_options(prompt_text, list(languages))
        words = _words(self._asked["words"], supports, list(languages))
        frontend.words = {name: words.get(name) for name in ("hotwords", "to_language")}
        self._render = partial(frontend.render, prompt=words.get("request_prompt"), language=words.get("language"))
        return {
            "supports": supports,
            "languages": languages,
            "default_language": frontend.default_language if "language" in supports else None,
            "default_target": default_target(prompt_text, list(languages)),
        }

    def _try_chat(self) -> dict[str, Any]:
        frontend = self._frontend
        self._render = partial(frontend.render, prompt=self._asked["prompt"])
        return {"supports": ["prompt"] if frontend.takes_prompts else [], "placeholder": frontend.placeholder}

    def _check_template_kwargs(self) -> None:
        given = self._asked["template_kwargs"]
        if ignored := [name for name in (self._frontend.ignored_kwargs if given else ()) if name in given]:
            raise UsageError(
                f"--chat-template-kwargs {ignored[0]}: the chat template has no such variable; "
                f"it has {', '.join(self._frontend.settable_variables) or 'none to set: leave it out'}"
            )

    def _prompt_ids(self, num_samples: int) -> list[int]:
        return self._render(np.zeros(num_samples, np.float32))["prompt_token_ids"]

    def _shortest(self, rate: int) -> int:
        """Of audio whose last resort, one second, is known to be taken."""
        for seconds in _SHORTEST_S[:-1]:
            num_samples = round(seconds * rate)
            try:
                self._prompt_ids(num_samples)
                return num_samples
            except Exception:  # in the processor's own words; another length may do
                continue
        return round(_SHORTEST_S[-1] * rate)

    def _window(self, rate: int) -> tuple[float, str, float, int]:
        """The longest window, where that comes from, the longest with its tail, and the tokens of such a prompt."""
        wanted_s, max_len = self._asked["window_s"], self._config.max_model_len
        window_s, source, most_s = self._longest(wanted_s)
        tokens = len(self._prompt_ids(int(window_s * rate)))
        budget = max_len - max_len // 4  # the rest is for the answer
        if tokens > budget and wanted_s is None:
            window_s = most_s = float(int(window_s * budget / tokens))
            source = f"what leaves a quarter of its {max_len} tokens to the answer"
            tokens = len(self._prompt_ids(int(window_s * rate))) if window_s else tokens
        if tokens >= max_len or not window_s:
            raise UsageError(
                f"{self._at}: {window_s:g} s of audio and the prompt are {tokens} tokens, of {max_len} in all; give a "
                "longer --engine-arg max_model_len=…, or a shorter --window-seconds"
            )
        most_s = min(window_s + self._asked["tail_s"], most_s)
        if most_s > window_s and (with_tail := len(self._prompt_ids(int(most_s * rate)))) < max_len:
            return window_s, source, most_s, with_tail
        return window_s, source, window_s, tokens

    def _longest(self, wanted_s: float | None) -> tuple[float, str, float]:
        """The longest window, where that comes from, and the longest audio that the model takes."""
        is_chat, frontend = self._style == CHAT_STYLE, self._frontend
        clip_s = frontend.clip_s if is_chat else frontend.speech_config.max_audio_clip_s
        # Longer audio is split by vLLM's server where the class allows it; it does not where the model takes any.
        takes_more = clip_s is None if is_chat else not frontend.speech_config.allow_audio_chunking
        most_s = math.inf if takes_more else float(clip_s)
        if wanted_s is not None:
            if wanted_s > most_s:
                raise UsageError(
                    f"--window-seconds {wanted_s:g}: {self._asked['name']} takes at most {clip_s:g} s; give fewer"
                )
            return wanted_s, "--window-seconds", most_s
        if clip_s is not None:
            return float(clip_s), "its feature extractor" if is_chat else "the model class", most_s
        if is_chat:
            return _USUAL_WINDOW_S, "our choice: the model states none (--window-seconds)", most_s
        return _LONGEST_WINDOW_S, "our bound: the model class has none", most_s


def _style(wanted: str, model: type, at: str) -> str:
    from asrbatch.engine.vllm import registry

    has_interface = registry.supports_transcription(model)
    style = wanted if wanted in PROMPT_STYLES[1:] else INTERFACE_STYLE if has_interface else CHAT_STYLE
    if style == INTERFACE_STYLE and not has_interface:
        raise UsageError(
            f"--prompt-style {style}: {model.__name__} does not implement vLLM's SupportsTranscription; "
            "leave it out to use its chat template (asrbatch models lists which do)"
        )
    if not registry.is_text_generation_model(model):  # some take audio and only embed it
        raise UsageError(f"{at}: {model.__name__} writes no text; asrbatch models lists models that transcribe")
    if style == CHAT_STYLE and registry.placeholder_of(model) is None:
        raise UsageError(
            f"{at}: {model.__name__} has no placeholder for audio (get_placeholder_str), "
            "so nothing says where the audio goes; asrbatch models lists models that hear"
        )
    return style


def _words(given: dict[str, str | None], supports: Sequence[str], languages: Sequence[str]) -> dict[str, str]:
    """What of the run's words goes into the prompt; the rest is refused elsewhere."""
    words = {w: given[w] for w, of in FEATURES_OF.items() if given[w] is not None and of[-1] in supports}
    for name in ("language", "to_language"):
        if name in words and (code := find(words.pop(name), languages)) is not None:
            words[name] = code
    return words


def _why_not(architectures: list[str], error: Exception, problems: dict[str, str]) -> str:
    """Why vLLM cannot run a model: a package or a plugin is missing, or does not work."""
    from asrbatch.engine.vllm import registry

    known = registry.registered()
    if (name := next((name for name in architectures if name in known), None)) is not None:
        try:
            known[name]()
        except Exception as e:
            return _of_packages(name, e) or f"its class {name} cannot be imported: {_reason(e)}"
        return _of_packages(name, error) or _reason(error)
    there = ", ".join(point.name for point in plugins.installed()) or "none"
    return (
        f"vLLM {registry.VERSION} has no architecture "
        f"{', '.join(architectures) or 'for it (config.json names none)'}; "
        f"another vLLM, or a plugin, may (plugins installed: {there}; --plugin names those to load)"
        + "".join(f"; plugin {name}: {why}" for name, why in problems.items())
        + f"; {_reason(error)}"
    )


def _of_packages(architecture: str, error: BaseException) -> str | None:
    """Which packages it lacks, and how they are installed; None where none is known to be missing."""
    missing = missing_packages(architecture, error)
    if not missing:
        return None
    # What is missing may not be what went wrong.
    told = "" if isinstance(innermost(error), ImportError) else f" ({_reason(error)})"
    are = "is" if len(missing) == 1 else "are"
    install = install_packages_line(missing)
    return f"{architecture} needs {' and '.join(missing)}, which {are} not installed{told}: {install}"


def _reason(error: BaseException) -> str:
    needs_trust = "trust_remote_code" in str(innermost(error))
    hint = "; it brings Python code of its own: --trust-remote-code runs it" if needs_trust else ""
    return f"{root_cause(error)}{hint}"


def _of_tokenizer(request: dict[str, Any]) -> str:
    """What else may be the cause: a tokenizer that is not the model's lacks its tokens for audio,
    if it is one at all.
    """
    named = request["settings"].get("tokenizer")
    return f"; with the tokenizer of {named}: --tokenizer left out takes the checkpoint's own" if named else ""


def _collapsed(token_ids: list[int], decode: Callable[[list[int]], str]) -> str:
    """A prompt as text, a token that is repeated written once with the number."""
    text, plain = "", []
    for token, repeated in groupby(token_ids):
        if (times := len(list(repeated))) < 4:
            plain += [token] * times
        else:  # decoded together with its neighbours, a character of several tokens stays whole
            text, plain = f"{text}{decode(plain)}{decode([token])}×{times}", []
    return text + decode(plain)


if __name__ == "__main__":
    _main()
