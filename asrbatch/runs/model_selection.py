"""Settles the model of a run from its options, once and from the top down: `resolve_model`.

Whatever the model cannot honour is refused here. A Whisper checkpoint is described by its own files; for any other
model, for plugins and for adapters, vLLM is inspected in a process of its own. Imports neither torch nor vllm, and
knows nothing of manifests."""

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
from asrbatch.engine.devices import Device, detect_device
from asrbatch.engine.inspector import Inspector
from asrbatch.engine.settings import parse_engine_args, resolve_dtype, resolve_mode
from asrbatch.engine.spec import EngineSpec, ModelOptions
from asrbatch.errors import UsageError
from asrbatch.formatting import show
from asrbatch.languages import find, primary
from asrbatch.models import lora
from asrbatch.models.capabilities import ModelCapabilities, whisper_capabilities
from asrbatch.models.checkpoint import Checkpoint, find_tokenizer, open_checkpoint
from asrbatch.models.fallback import GREEDY, TEMPERATURES
from asrbatch.runs.fingerprint import SPEED_ONLY_ENGINE_ARGS

# Where there is no vLLM, nothing will run: any device will do.
_NO_DEVICE = Device("cpu", "unknown", has_bf16=False)
# The ranks an adapter may be loaded with (vllm.config.lora).
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4
# Of models whose answer has no length of its own: fast speech has 5 words a second, a word of some languages 3 tokens;
# a model that repeats itself must end somewhere. Reasoning takes more: --max-tokens.
_TOKENS_PER_S, _LEAST_TOKENS = 15, 512


def resolve_model(config: RunConfig, *, weights: bool = True, with_vllm: bool = True) -> EngineSpec:
    """What is run and how.

    Args:
        weights: demand and fetch them; otherwise configuration files are enough, for whoever starts no engine.
        with_vllm: False does without a vLLM and its device: for `Checkpoint.is_whisper`. Hotwords are not counted then.

    Raises:
        UsageError: an option the model cannot honour, a plugin that does not work, or a model vLLM cannot run.
    """
    engine = config.engine
    engine_args = parse_engine_args(engine.args)
    device = detect_device() if with_vllm else _NO_DEVICE
    checkpoint = open_checkpoint(engine.model, engine.revision, weights=weights)
    dtype = resolve_dtype(engine.dtype, checkpoint, device, engine_args)
    # None is no allow-list: vLLM then loads all plugins that are installed, or those of VLLM_PLUGINS.
    inspector = Inspector(tuple(dict.fromkeys(engine.plugins)) or None, device.kind) if with_vllm else None
    options = _model_options(config, checkpoint, engine_args, dtype, inspector)
    capabilities = options.capabilities
    spec = EngineSpec(
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        mode=resolve_mode(engine.mode, device, engine_args),
        task=config.task,
        prompt=config.prompt,
        max_tokens=_max_tokens(engine.max_tokens, checkpoint, capabilities),
        seed=engine.seed,
        engine_args=engine_args,
        model_options=options,
        window_config=window_config(config, capabilities),
        timestamps=capabilities.is_whisper if config.timestamps is None else config.timestamps,
        temperatures=TEMPERATURES if config.fallback else GREEDY,
        word_timestamps=config.word_timestamps or config.text_field is not None,
        encoder_cache_mb=config.encoder_cache_mb if config.text_field is None else 0,  # what was never decoded
    )
    if spec.word_timestamps:
        _check_words(spec)
    _check_prompts(config, spec, with_vllm)
    if config.language is None:
        return spec
    return replace(spec, language=capabilities.check_language(config.language, "--language"))


def window_config(config: RunConfig, capabilities: ModelCapabilities) -> WindowConfig:
    """What the model takes at once, and how longer audio is cut for it."""
    if config.windows == "silence" or config.vad_filter:
        check_available(capabilities.sample_rate)
    return WindowConfig(
        capabilities.sample_rate,
        capabilities.window_s,
        capabilities.min_samples,
        config.windows if config.text_field is None else "given",
        vad_filter=config.vad_filter,
        condition_on_previous=config.condition_on_previous,
        # By default where openai-whisper does it, whose algorithm `sequential` is.
        drop_no_speech=config.windows == SEQUENTIAL if config.drop_no_speech is None else config.drop_no_speech,
        track=config.track,
        text_field=config.text_field,
        most_s=capabilities.most_s,
    )


def _model_options(
    config: RunConfig, checkpoint: Checkpoint, engine_args: Mapping[str, Any], dtype: str, inspector: Inspector | None
) -> ModelOptions:
    engine = config.engine
    template_kwargs = _template_kwargs(engine.chat_template_kwargs)
    architectures = checkpoint.architectures(engine_args)
    options = ModelOptions(
        # Found below, with what was chosen.
        capabilities=None,
        plugins=inspector and inspector.plugins,
        tokenizer=None if engine.tokenizer is None else find_tokenizer(engine.tokenizer),
        trust_remote_code=engine.trust_remote_code,
        chat_template_kwargs=template_kwargs,
        hotwords=config.hotwords,
    )
    if checkpoint.is_whisper(engine_args):
        capabilities = _whisper(config, checkpoint, template_kwargs)
        if inspector is not None and options.plugin_versions:
            inspector.check_plugins()  # vLLM loads them for every model, and one that raises takes the engine down
    else:
        # Not the arguments of speed: they say nothing about the model, and some fail where there is no engine.
        settings = {k: v for k, v in engine_args.items() if k not in SPEED_ONLY_ENGINE_ARGS}
        settings |= {"dtype": dtype, **options.engine_settings}
        capabilities = inspector.capabilities(config, checkpoint, architectures, template_kwargs, settings)
        if template_kwargs and not capabilities.is_chat:
            fix = "give --prompt-style chat for its chat template"
            raise UsageError(
                f"--chat-template-kwargs: {capabilities.architecture} uses its transcription interface; {fix}"
            )
    _check_options(config, capabilities)
    return replace(
        options,
        capabilities=capabilities,
        target_language=_target_language(config, capabilities),
        **_lora(engine.lora, capabilities, checkpoint, architectures, inspector),
    )


def _whisper(config: RunConfig, checkpoint: Checkpoint, template_kwargs: dict[str, Any]) -> ModelCapabilities:
    engine, capabilities = config.engine, whisper_capabilities(checkpoint)
    if engine.prompt_style != "auto":
        raise UsageError(f"--prompt-style {engine.prompt_style}: Whisper has one style; leave it out")
    if template_kwargs:
        raise UsageError("--chat-template-kwargs: Whisper has no chat template; leave it out")
    if engine.tokenizer is not None:
        raise UsageError(f"--tokenizer {engine.tokenizer}: Whisper needs its own; leave it out")
    if config.window_s is None:
        return capabilities
    if config.window_s > capabilities.window_s:
        hears = f"{checkpoint.name} takes at most {capabilities.window_s:g} s; give fewer"
        raise UsageError(f"--window-seconds {config.window_s:g}: {hears}")
    return replace(capabilities, window_s=config.window_s, window_source="--window-seconds")


def _check_prompts(config: RunConfig, spec: EngineSpec, with_vllm: bool) -> None:
    prompts = spec.prompts if spec.capabilities.is_whisper else None  # refuses tasks and timestamps that there are not
    if config.drop_no_speech and (prompts is None or prompts.no_speech is None):
        raise UsageError(
            f"--drop-no-speech: {spec.checkpoint.name} has no token for silence, as Whisper has; leave it out"
        )
    for option, text in (("--prompt", config.prompt), ("--hotwords", config.hotwords)):
        if prompts is not None and text is not None:
            prompts.check_words(option, text, count=with_vllm)


def _check_words(spec: EngineSpec) -> None:
    """Refuses times of words where the engine could not read them."""
    option, args = "--text-field" if spec.aligns else "--word-timestamps", spec.engine_args
    if not spec.capabilities.is_whisper:
        raise UsageError(
            f"{option}: word times need a Whisper model, and {spec.capabilities.architecture} is another one; a forced "
            "aligner (torchaudio's, whisperX's) can find the words in its segments"
        )
    if spec.model_options.lora is not None:
        raise UsageError(f"{option} and --lora: words are timed by the checkpoint's own weights; merge the adapter")
    if "worker_extension_cls" in args:
        raise UsageError(f"{option} and --engine-arg worker_extension_cls: words need it for themselves; leave it out")
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if int(args.get(name, 1)) > 1:
            fix = "run one engine on each device (--devices)"
            raise UsageError(f"{option} and --engine-arg {name}: words are timed by one worker; {fix}")
    assert spec.prompts.alignment_heads  # refuses those that the decoder does not have


def _check_options(config: RunConfig, capabilities: ModelCapabilities) -> None:
    """Refuses what the model would ignore."""
    if config.task == "translate" and not capabilities.is_whisper:  # Whisper's prompts know their tasks
        capabilities.require("translation", "--task translate", "; say it in --prompt instead")
    hotwords = f"--hotwords {show(config.hotwords)}"
    for is_given, feature, option, chat_fix in (
        (config.prompt is not None, "prompt", f"--prompt {show(config.prompt)}", ""),
        (config.hotwords is not None, "hotwords", hotwords, "; name them in --prompt instead"),
        (config.timestamps, "timestamps", "--timestamps", ""),
        (config.windows == SEQUENTIAL, "timestamps", "--windows sequential (it goes by timestamps)", ""),
    ):
        if is_given:
            capabilities.require(feature, option, chat_fix)
    if config.hotwords is not None and config.condition_on_previous:
        fix = "leave one of them out"
        raise UsageError(f"--hotwords and --condition-on-previous: both need the room of the prompt; {fix}")


def _target_language(config: RunConfig, capabilities: ModelCapabilities) -> str | None:
    """The language to translate into, by the model's own code; Whisper's only one goes without saying.

    Raises:
        UsageError: nothing is translated, or not into that.
    """
    target, known, model = config.target_language, capabilities.languages, capabilities.architecture
    if target is None:
        if config.task != "translate" or capabilities.is_whisper:
            return None
        if capabilities.default_target is None and "target_language" in capabilities.supports:
            has = " ".join(sorted(known))
            raise UsageError(
                f"--task translate: {model} needs the language to translate into; give --target-language ({has})"
            )
        return capabilities.default_target
    if config.task != "translate":
        raise UsageError(f"--target-language {target}: is for --task translate; give that as well, or leave it out")
    if capabilities.is_whisper and primary(target) == "en":
        return "en"
    capabilities.require("target_language", f"--target-language {target}")
    if (code := find(target, known)) is None:
        raise UsageError(f"--target-language {target}: {model} has {' '.join(sorted(known))}")
    return code


def _template_kwargs(text: str | None) -> dict[str, Any]:
    try:
        value = {} if text is None else json.loads(text)
    except ValueError as e:
        value = e
    if not isinstance(value, dict):
        why = f" ({value})" if isinstance(value, ValueError) else ""
        raise UsageError(
            f"--chat-template-kwargs {text}: must be a JSON object, such as '{{\"enable_thinking\": false}}'{why}"
        )
    return value


def _lora(
    written: str | None,
    capabilities: ModelCapabilities,
    checkpoint: Checkpoint,
    architectures: list[str],
    inspector: Inspector | None,
) -> dict[str, Any]:
    if written is None:
        return {}
    folder = Path(os.path.expanduser(written)).resolve()
    rank = lora.adapter_rank(folder, written)
    if not capabilities.is_whisper and "lora" not in capabilities.supports:
        raise UsageError(
            f"--lora {written}: vLLM cannot apply adapters to {capabilities.architecture}; merge it into the checkpoint"
        )
    if rank > _LORA_RANKS[-1]:
        raise UsageError(f"--lora {written}: its rank is {rank}; vLLM takes {_LORA_RANKS[-1]} at most")
    max_rank = next(r for r in _LORA_RANKS if r >= rank)
    if (problem := inspector.adapter_problem(str(folder), max_rank)) is not None:
        raise UsageError(f"--lora {written}: vLLM cannot apply it: {problem}; merge it into the checkpoint")
    changes, has = lora.adapter_modules(folder, written), lora.checkpoint_modules(Path(checkpoint.folder), written)
    # Files may call a module otherwise than vLLM does, which then renames both.
    if (
        has is not None
        and (unknown := changes - has)
        and (unknown := inspector.unknown_modules(unknown, has, architectures))
    ):
        count = f"{len(unknown)} of its {len(changes)} modules are not in {checkpoint.name}"
        fix = "vLLM would ignore them; give the model it was trained on"
        raise UsageError(f"--lora {written}: {count}, such as {min(unknown)}: {fix}")
    return {"lora": str(folder), "lora_rank": max_rank}


def _max_tokens(wanted: int | None, checkpoint: Checkpoint, capabilities: ModelCapabilities) -> int:
    if capabilities.is_whisper:
        limit = default = checkpoint.config.get("max_target_positions", 448) - _PROMPT_TOKENS
        why = "in the model's decoder"
    else:
        # Of these models prompt, audio and answer share the length; Whisper's audio counts apart.
        limit = capabilities.max_model_len - capabilities.window_tokens
        default = min(limit, max(_LEAST_TOKENS, math.ceil(_TOKENS_PER_S * capabilities.window_s)))
        why = (
            f"of {capabilities.max_model_len} tokens, {capabilities.window_s:g} s of audio and the prompt take "
            f"{capabilities.window_tokens}; --window-seconds makes windows shorter"
        )
    if wanted is not None and wanted > limit:
        raise UsageError(f"--max-tokens {wanted}: there is room for {limit}: {why}")
    return wanted or default
