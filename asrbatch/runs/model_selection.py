"""Which model a run uses and how it is asked, settled from the options; whatever cannot be honoured is refused here.

Whisper's facts come from its files; for any other model, and for plugins, vLLM is asked in a process of its own.
Imports neither torch nor vllm."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from asrbatch.audio.vad import check_available
from asrbatch.audio.windows import WindowConfig
from asrbatch.config import SEQUENTIAL, RunConfig
from asrbatch.engine import plugins
from asrbatch.engine.devices import Device, detect_device
from asrbatch.engine.inspector import check_plugins, inspect_model, problem_of_adapter, unknown_modules
from asrbatch.engine.settings import parse_engine_args, resolve_dtype, resolve_mode
from asrbatch.engine.spec import EngineSpec, ModelOptions
from asrbatch.errors import UsageError
from asrbatch.languages import find, primary
from asrbatch.models import lora
from asrbatch.models.capabilities import CHAT_PROMPT, CHAT_STYLE, PROMPT_STYLES, ModelCapabilities, whisper_capabilities
from asrbatch.models.checkpoint import WHISPER, Checkpoint, content_files, find_tokenizer, hash_file, open_checkpoint
from asrbatch.models.fallback import GREEDY, TEMPERATURES
from asrbatch.runs.fingerprint import SPEED_ONLY_ENGINE_ARGS

# What vLLM can be told of an adapter's rank (vllm.config.lora).
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def resolve_model_options(
    config: RunConfig, checkpoint: Checkpoint, device: Device, dtype: str, engine_args: Mapping[str, Any]
) -> ModelOptions:
    """How the run's model is asked.

    Raises:
        UsageError: an option the model cannot honour, a plugin that does not work, or a model vLLM cannot run.
    """
    engine = config.engine
    template_kwargs = _json_object("--chat-template-kwargs", engine.chat_template_kwargs)
    architectures = _architectures(checkpoint, engine_args)
    tokenizer = None
    if engine.tokenizer is not None:
        if os.path.isfile(os.path.expanduser(engine.tokenizer)):
            raise UsageError(f"--tokenizer {engine.tokenizer}: is a file; give the folder it is in")
        tokenizer = find_tokenizer(engine.tokenizer)
    names = None if not engine.plugins else tuple(dict.fromkeys(engine.plugins))
    plugins.check_names(names)
    if architectures == [WHISPER]:
        capabilities = _whisper(config, checkpoint, template_kwargs)
        if plugins.versions(names):  # vLLM loads them for every model, and one that raises takes the engine down
            check_plugins(names, device.kind)
    else:
        capabilities = inspect_model(
            checkpoint.folder,
            name=checkpoint.name,
            architectures=architectures,
            style=_style(engine.prompt_style),
            task=config.task if config.task == "transcribe" else "translate",
            prompt=config.prompt or CHAT_PROMPT,
            words={
                "language": config.language,
                "request_prompt": config.prompt,
                "hotwords": config.hotwords,
                "to_language": config.target_language,
            },
            template_kwargs=template_kwargs,
            plugins=names,
            settings=_settings(engine_args, dtype, tokenizer, engine.trust_remote_code),
            device_kind=device.kind,
            window_s=config.window_s,
        )
        if template_kwargs and capabilities.style != CHAT_STYLE:
            fix = "--prompt-style chat asks by its chat template"
            raise UsageError(
                f"--chat-template-kwargs: {capabilities.architecture} is asked by its transcription interface; {fix}"
            )
    _check_options(config, capabilities)
    return ModelOptions(
        capabilities=capabilities,
        plugins=names,
        tokenizer=tokenizer,
        trust_remote_code=engine.trust_remote_code,
        chat_template_kwargs=template_kwargs,
        hotwords=config.hotwords,
        target_language=_target(config, capabilities),
        **_lora(engine.lora, capabilities, checkpoint, architectures, names, device.kind),
    )


def asked_fields(model_options: ModelOptions) -> dict[str, Any]:
    """What of it decides the rows, for the fingerprint; only what was chosen, so that a plain Whisper run has none."""
    capabilities = model_options.capabilities
    fields: dict[str, Any] = {}
    if not capabilities.is_whisper:
        fields |= {
            "style": capabilities.style,
            "default_prompt": model_options.default_prompt,
            "min_samples": capabilities.min_samples,
        }
        fields["plugins"] = model_options.plugin_versions
    elif model_options.plugins:
        fields["plugins"] = model_options.plugin_versions
    if model_options.tokenizer is not None:
        fields["tokenizer"] = _digest(model_options.tokenizer)
    if model_options.lora is not None:
        fields["lora"] = _digest(model_options.lora)
    chosen = {
        "trust_remote_code": model_options.trust_remote_code,
        "chat_template_kwargs": model_options.chat_template_kwargs,
        "hotwords": model_options.hotwords,
        "target_language": model_options.target_language,
    }
    return fields | {name: value for name, value in chosen.items() if value}


def _whisper(config: RunConfig, checkpoint: Checkpoint, template_kwargs: dict[str, Any]) -> ModelCapabilities:
    engine, capabilities = config.engine, whisper_capabilities(checkpoint)
    if _style(engine.prompt_style) != "auto":
        raise UsageError(f"--prompt-style {engine.prompt_style}: Whisper is asked by its own token ids; leave it out")
    if template_kwargs:
        raise UsageError("--chat-template-kwargs: Whisper has no chat template; leave it out")
    if engine.tokenizer is not None:
        raise UsageError(f"--tokenizer {engine.tokenizer}: Whisper's control tokens are those of its own; leave it out")
    if config.window_s is None:
        return capabilities
    if config.window_s > capabilities.window_s:
        raise UsageError(
            f"--window-seconds {config.window_s:g}: {checkpoint.name} hears {capabilities.window_s:g} s at once"
        )
    return replace(capabilities, window_s=config.window_s, window_from="--window-seconds")


def _check_options(config: RunConfig, capabilities: ModelCapabilities) -> None:
    """Refuses what the model would ignore."""
    if config.task == "translate" and not capabilities.is_whisper:
        instead = "; say it in --prompt instead" if capabilities.style == CHAT_STYLE else ""
        _refuse_with(capabilities, "translation", "--task translate", instead)
        if (
            config.target_language is None
            and capabilities.default_target is None
            and "target_language" in capabilities.can
        ):
            has = " ".join(sorted(capabilities.languages))
            raise UsageError(
                f"--task translate: {capabilities.architecture} must be told into what; give --target-language ({has})"
            )
    if config.target_language is not None:
        if config.task != "translate":
            raise UsageError(
                f"--target-language {config.target_language}: without --task translate nothing is translated"
            )
        if not (capabilities.is_whisper and primary(config.target_language) == "en"):
            capabilities.check("target_language", f"--target-language {config.target_language}")
            if find(config.target_language, capabilities.languages) is None:
                has = " ".join(sorted(capabilities.languages))
                raise UsageError(f"--target-language {config.target_language}: {capabilities.architecture} has {has}")
    if config.prompt is not None:
        capabilities.check("prompt", f"--prompt {config.prompt!r}")
    if config.hotwords is not None:
        instead = "; name them in --prompt instead" if capabilities.style == CHAT_STYLE else ""
        _refuse_with(capabilities, "hotwords", f"--hotwords {config.hotwords!r}", instead)
        if config.condition_on_previous:
            fix = "leave one of them out"
            raise UsageError(
                f"--hotwords and --condition-on-previous: the text before would push the words out of the prompt; {fix}"
            )
    if capabilities.is_whisper:
        return
    if config.timestamps:
        capabilities.check("timestamps", "--timestamps")
    if config.windows == "sequential":
        capabilities.check("timestamps", "--windows sequential (it goes by timestamps)")
    if config.drop_no_speech:
        raise UsageError(
            f"--drop-no-speech: {capabilities.architecture} has no token that says whether anybody speaks, as Whisper "
            f"has; leave it out"
        )


def _target(config: RunConfig, capabilities: ModelCapabilities) -> str | None:
    """The language to translate into, by the model's own code; Whisper's only one goes without saying."""
    if config.target_language is not None:
        return find(config.target_language, capabilities.languages) or primary(config.target_language)
    return capabilities.default_target if config.task == "translate" and not capabilities.is_whisper else None


def _refuse_with(capabilities: ModelCapabilities, what: str, option: str, instead: str) -> None:
    try:
        capabilities.check(what, option)
    except UsageError as e:
        raise UsageError(f"{e}{instead}") from None


def _architectures(checkpoint: Checkpoint, engine_args: Mapping[str, Any]) -> list[str]:
    overrides = engine_args.get("hf_overrides") or {}
    if not isinstance(overrides, dict):
        raise UsageError(
            f'--engine-arg hf_overrides={overrides}: must be a JSON object, such as \'{{"architectures": ["…"]}}\''
        )
    if not isinstance(named := overrides.get("architectures") or [], list):
        raise UsageError(f'--engine-arg hf_overrides: architectures {json.dumps(named)} must be a list, such as ["…"]')
    return list(named or checkpoint.config.get("architectures") or [])


def _settings(engine_args: Mapping[str, Any], dtype: str, tokenizer: str | None, trust: bool) -> dict[str, Any]:
    settings = {k: v for k, v in engine_args.items() if k not in SPEED_ONLY_ENGINE_ARGS}
    settings["dtype"] = dtype
    if tokenizer is not None:
        settings["tokenizer"] = tokenizer
    if trust:
        settings["trust_remote_code"] = True
    return settings


def _style(asked: str) -> str:
    if asked not in PROMPT_STYLES:
        raise UsageError(f"--prompt-style {asked}: must be one of {', '.join(PROMPT_STYLES)}")
    return asked


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as e:
        raise UsageError(f"{option} {text}: is not JSON ({e}); write it as '{{\"enable_thinking\": false}}'") from e
    if not isinstance(value, dict):
        raise UsageError(f"{option} {text}: must be a JSON object, such as '{{\"enable_thinking\": false}}'")
    return value


def _lora(
    said: str | None,
    capabilities: ModelCapabilities,
    checkpoint: Checkpoint,
    architectures: list[str],
    plugin_names: tuple[str, ...] | None,
    device_kind: str,
) -> dict[str, Any]:
    if said is None:
        return {}
    folder = Path(os.path.expanduser(said)).resolve()
    rank = lora.rank_of(folder, said)
    if not capabilities.is_whisper and "lora" not in capabilities.can:
        raise UsageError(
            f"--lora {said}: vLLM cannot apply adapters to {capabilities.architecture}; merge it into the checkpoint"
        )
    if rank > _LORA_RANKS[-1]:
        raise UsageError(f"--lora {said}: its rank is {rank}; vLLM takes {_LORA_RANKS[-1]} at most")
    max_rank = next(r for r in _LORA_RANKS if r >= rank)
    if (problem := problem_of_adapter(str(folder), max_rank, plugin_names, device_kind)) is not None:
        raise UsageError(f"--lora {said}: vLLM cannot apply it: {problem}; merge it into the checkpoint")
    changes, has = lora.modules_of(folder, said), lora.modules_of_checkpoint(Path(checkpoint.folder), said)
    if has is not None and (unknown := changes - has):
        # Files may call a module otherwise than vLLM does, which then renames both.
        unknown = unknown_modules(unknown, has, architectures, plugin_names, device_kind)
        if unknown:
            count = f"{len(unknown)} of its {len(changes)} modules are not in {checkpoint.name}"
            fix = "vLLM would ignore them; give the model it was trained on"
            raise UsageError(f"--lora {said}: {count}, such as {min(unknown)}: {fix}")
    return {"lora": str(folder), "lora_rank": max_rank}


def _digest(folder: str) -> str:
    import hashlib

    whole = hashlib.sha256()
    for path in content_files(Path(folder)):
        whole.update(f"{path.name}\0{hash_file(path)}\n".encode())
    return whole.hexdigest()


# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4
# Of models whose answer has no length of its own: fast speech has 5 words a second, a word of some languages 3 tokens;
# a model that repeats itself must end somewhere. Reasoning takes more: --max-tokens.
_TOKENS_PER_S, _LEAST_TOKENS = 15, 512


def audio_rules(config: RunConfig, capabilities: ModelCapabilities) -> WindowConfig:
    """What the model hears, and how longer audio is cut for it."""
    if config.windows == "silence" or config.vad_filter:
        check_available(capabilities.sample_rate)
    return WindowConfig(
        capabilities.sample_rate,
        capabilities.window_s,
        capabilities.min_samples,
        config.windows,
        vad_filter=config.vad_filter,
        condition_on_previous=config.condition_on_previous,
        drop_no_speech=config.windows == SEQUENTIAL if config.drop_no_speech is None else config.drop_no_speech,
    )


def engine_plan(config: RunConfig, *, weights: bool = True) -> EngineSpec:
    """What is run and how it is asked.

    Args:
        weights: demand and fetch them; otherwise configuration files are enough, for whoever only asks.

    Raises:
        UsageError: an option the model cannot honour.
    """
    engine_args = parse_engine_args(config.engine.args)
    device = detect_device()
    checkpoint = open_checkpoint(config.engine.model, config.engine.revision, weights=weights)
    dtype = resolve_dtype(config.engine.dtype, checkpoint, device, engine_args)
    model_options = resolve_model_options(config, checkpoint, device, dtype, engine_args)
    capabilities = model_options.capabilities
    timestamps = capabilities.is_whisper if config.timestamps is None else config.timestamps
    engine = EngineSpec(
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        mode=resolve_mode(config.engine.mode, device, engine_args),
        task=config.task,
        language=None,
        prompt=config.prompt,
        max_tokens=_max_tokens(config.engine.max_tokens, checkpoint, capabilities),
        timestamps=timestamps,
        temperatures=TEMPERATURES if config.fallback else GREEDY,
        seed=config.engine.seed,
        engine_args=engine_args,
        model_options=model_options,
    )
    if capabilities.is_whisper and config.drop_no_speech and engine.prompts.no_speech is None:
        raise UsageError(
            f"--drop-no-speech: {checkpoint.name} has no token that says whether anybody speaks; leave it out"
        )
    if capabilities.is_whisper:
        prompts = engine.prompts  # refuses tasks and timestamps that the checkpoint lacks
        for option, text in (("--prompt", config.prompt), ("--hotwords", config.hotwords)):
            if text is not None:
                prompts.check_words(option, text)
    if config.language is None:
        return engine
    return replace(engine, language=engine.check_language(config.language, "--language"))


def _max_tokens(asked: int | None, checkpoint: Checkpoint, capabilities: ModelCapabilities) -> int:
    if capabilities.is_whisper:
        room = checkpoint.config.get("max_target_positions", 448) - _PROMPT_TOKENS
        if asked is not None and asked > room:
            raise UsageError(f"--max-tokens {asked}: the model's decoder has room for {room}")
        return asked or room
    room = capabilities.max_model_len - capabilities.window_tokens
    if asked is not None and asked > room:
        why = (
            f"of {capabilities.max_model_len} tokens, {capabilities.window_s:g} s of audio and the prompt take "
            f"{capabilities.window_tokens}"
        )
        raise UsageError(
            f"--max-tokens {asked}: there is room for {room}: {why}; --window-seconds makes windows shorter"
        )
    return asked or min(room, max(_LEAST_TOKENS, math.ceil(_TOKENS_PER_S * capabilities.window_s)))
