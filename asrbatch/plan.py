"""What a run will do, settled before the engine is started: model, dtype, manifest, languages, chunk, fingerprint.

Everything that can refuse a run without half a minute of loading does so here.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import silence
from .attempts import GREEDY, LADDER
from .audio_rules import AudioRules
from .checkpoint import WHISPER, Checkpoint, open_checkpoint
from .config import SEQUENTIAL, RunConfig
from .engine.devices import Slot, choose_slots
from .engine.plan import EnginePlan
from .engine.settings import detect_device, parse_engine_args, resolve_dtype, resolve_mode
from .errors import UsageError
from .fingerprint import chunk_fields, fingerprint
from .manifest import Manifest, open_manifest
from .prompts import WhisperPrompts
from .sharding import Sharding
from .silences import choices_of_skips
from .types import Utterance
from .voice import check_available

# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4

# NeMo's manifests call the tasks so.
_TASK_NAMES = {"transcribe": ("asr", "transcribe"), "translate": ("ast", "s2t_translation", "translate")}


class Plan:
    """What will be run, checked as far as it can be without an engine.

    Attributes:
        engine: what is run and how it is asked.
        slots: where worker processes run; empty for one engine in this process.
        manifest: all of it.
        sharding: how it is dealt out to chunks; None for a run in one piece.
        chunk: bool [rows of the manifest], those of this process; None for all.
        rules: what the model hears, and how longer audio is cut.
        num_rows, total_audio_s: of the rows of this process; the latter None when one does not state its duration.
        fingerprint: see `fingerprint.py`.

    Args:
        spooled: what came on standard input, where the manifest is `-`.

    Raises:
        UsageError, ManifestError: the run cannot be done as asked.
    """

    def __init__(self, config: RunConfig, spooled: Path | None = None):
        self.engine = _engine_plan(config)
        self.rules: AudioRules = audio_rules(config, self.engine.checkpoint)
        self.slots: list[Slot] = choose_slots(config.devices, self.engine.device, self.engine.engine_args)
        prompts = self.engine.prompts
        source, reading = config.manifest, config.reading
        if spooled is not None:
            source, reading = str(spooled), replace(reading, folder=os.getcwd(), format=reading.format or "jsonl")
        self.manifest: Manifest = open_manifest(source, check=partial(check_row, prompts), options=reading)
        self.sharding = _sharding(config, self.manifest)
        self.chunk = None if self.sharding is None else self.sharding.chunk_of == config.chunk_id
        durations_s = self.manifest.scan.durations_s
        durations_s = durations_s if self.chunk is None else durations_s[self.chunk]
        self.num_rows = len(durations_s)
        self.total_audio_s = None if np.isnan(durations_s).any() else float(durations_s.sum(dtype="float64"))
        self.fingerprint = fingerprint(
            rows_digest=self.manifest.scan.digest,
            num_rows=len(self.manifest),
            model_digest=self.engine.checkpoint.digest,
            revision=config.engine.revision,
            dtype=self.engine.dtype,
            sampling=self.engine.sampling,
            task=config.task,
            language=self.engine.language,
            prompt=config.prompt,
            windows=self.rules.choices | _voice_choices(self.rules),
            engine_args=self.engine.engine_args,
            **chunk_fields(self.sharding),
        )


def audio_rules(config: RunConfig, checkpoint: Checkpoint) -> AudioRules:
    """What the checkpoint hears, and how longer audio is cut for it."""
    if config.windows == "silence" or config.vad_filter:
        check_available(checkpoint.sample_rate)
    return AudioRules(
        checkpoint.sample_rate,
        checkpoint.window_s,
        checkpoint.hop_length,
        config.windows,
        vad_filter=config.vad_filter,
        condition_on_previous=config.condition_on_previous,
        drop_no_speech=config.windows == SEQUENTIAL if config.drop_no_speech is None else config.drop_no_speech,
    )


def _voice_choices(rules: AudioRules) -> dict[str, Any]:
    """How speech is told from silence, where it is."""
    if rules.windows == "silence":
        return silence.choices()
    return choices_of_skips() if rules.vad_filter else {}


def _engine_plan(config: RunConfig) -> EnginePlan:
    engine_args = parse_engine_args(config.engine.args)
    device = detect_device()
    checkpoint = open_checkpoint(config.engine.model, config.engine.revision)
    if checkpoint.architecture != WHISPER:
        raise UsageError(f"--model {config.engine.model}: its architecture is {checkpoint.architecture}; so far only {WHISPER}")
    room = checkpoint.config.get("max_target_positions", 448) - _PROMPT_TOKENS
    max_tokens = config.engine.max_tokens or room
    if max_tokens > room:
        raise UsageError(f"--max-tokens {max_tokens}: the model's decoder has room for {room}")
    prompts = WhisperPrompts(checkpoint, config.task, timestamps=config.timestamps)
    if config.drop_no_speech and prompts.no_speech is None:
        raise UsageError(f"--drop-no-speech: {checkpoint.name} has no token that says whether anybody speaks; leave it out")
    return EnginePlan(
        checkpoint=checkpoint,
        device=device,
        dtype=resolve_dtype(config.engine.dtype, checkpoint, device),
        mode=resolve_mode(config.engine.mode, device, engine_args),
        task=config.task,
        language=prompts.check_language(config.language) if config.language else None,
        prompt=config.prompt,
        max_tokens=max_tokens,
        timestamps=config.timestamps,
        temperatures=LADDER if config.fallback else GREEDY,
        seed=config.engine.seed,
        engine_args=engine_args,
    )


def _sharding(config: RunConfig, manifest: Manifest) -> Sharding | None:
    if config.num_chunks is None:
        if config.strategy != "balanced":
            raise UsageError(f"--strategy {config.strategy}: deals out chunks; give --num-chunks as well")
        return None
    return Sharding(manifest.scan.durations_s, config.num_chunks, config.strategy)


def check_row(prompts: WhisperPrompts, utterance: Utterance) -> str | None:
    """What the manifest reader asks about each row: can this run do what the row says?"""
    if utterance.lang:
        try:
            prompts.check_language(utterance.lang)
        except UsageError as e:
            return f"lang: {e}"
    target = utterance.fields.get("target_lang")
    if target is not None and prompts.task == "translate" and target != "en":
        return f"target_lang {target!r}: Whisper translates into English only"
    if target is not None and prompts.task == "transcribe" and target not in (utterance.lang, None):
        return f"target_lang {target!r}: this run transcribes and does not translate; use --task translate or remove it"
    task = utterance.fields.get("taskname")
    if task is not None and task not in _TASK_NAMES[prompts.task]:
        return f"taskname {task!r}: this run does --task {prompts.task}"
    return None
