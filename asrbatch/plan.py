"""What a run will do, settled before the engine is started: model, dtype, manifest, languages, fingerprint.

Everything that can refuse a run without half a minute of loading does so here.
"""

from functools import partial

import numpy as np

from .checkpoint import WHISPER, Checkpoint, open_checkpoint
from .config import RunConfig
from .engine.settings import Device, detect_device, parse_engine_args, resolve_dtype, resolve_mode
from .errors import UsageError
from .fingerprint import chunk_fields, fingerprint
from .manifest import Manifest, open_manifest
from .preparation import AudioRules
from .prompts import WhisperPrompts
from .sharding import Sharding
from .types import Utterance

# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4

# NeMo's manifests call the tasks so.
_TASK_NAMES = {"transcribe": ("asr", "transcribe"), "translate": ("ast", "s2t_translation", "translate")}


class Plan:
    """What will be run, checked as far as it can be without an engine.

    Raises:
        UsageError, ManifestError: the run cannot be done as asked.
    """

    def __init__(self, config: RunConfig):
        self.engine_args = parse_engine_args(config.engine.args)
        self.device: Device = detect_device()
        self.checkpoint: Checkpoint = open_checkpoint(config.engine.model, config.engine.revision)
        if self.checkpoint.architecture != WHISPER:
            raise UsageError(
                f"--model {config.engine.model}: its architecture is {self.checkpoint.architecture}; so far only {WHISPER}"
            )
        self.dtype = resolve_dtype(config.engine.dtype, self.checkpoint, self.device)
        self.mode = resolve_mode(config.engine.mode, self.device, self.engine_args)
        self.prompts = WhisperPrompts(self.checkpoint, config.task)
        self.language = self.prompts.check_language(config.language) if config.language else None
        self.prompt = config.prompt
        positions = self.checkpoint.config.get("max_target_positions", 448)
        self.max_tokens = config.engine.max_tokens or positions - _PROMPT_TOKENS
        if self.max_tokens > positions - _PROMPT_TOKENS:
            raise UsageError(f"--max-tokens {self.max_tokens}: the model's decoder has room for {positions - _PROMPT_TOKENS}")
        self.manifest: Manifest = open_manifest(config.manifest, split=config.split, check=partial(_check_row, self.prompts))
        self.sharding = _sharding(config, self.manifest)
        # bool [rows of the manifest]: those of this process's chunk; None for all.
        self.chunk = None if self.sharding is None else self.sharding.chunk_of == config.chunk_id
        durations_s = self.manifest.scan.durations_s
        durations_s = durations_s if self.chunk is None else durations_s[self.chunk]
        self.num_rows = len(durations_s)
        # None when a row does not state its duration.
        self.total_audio_s = None if np.isnan(durations_s).any() else float(durations_s.sum(dtype="float64"))
        self.fingerprint = fingerprint(
            rows_digest=self.manifest.scan.digest,
            num_rows=len(self.manifest),
            model_digest=self.checkpoint.digest,
            revision=config.engine.revision,
            dtype=self.dtype,
            sampling={"temperature": 0.0, "max_tokens": self.max_tokens, "seed": config.engine.seed},
            task=config.task,
            language=self.language,
            prompt=config.prompt,
            windows="none",
            engine_args=self.engine_args,
            **chunk_fields(self.sharding),
        )

    @property
    def rules(self) -> AudioRules:
        return AudioRules(self.checkpoint.sample_rate, self.checkpoint.window_s, self.checkpoint.hop_length)

    def language_of(self, utterance: Utterance) -> str | None:
        return self.prompts.check_language(utterance.lang) if utterance.lang else self.language

    def prompt_of(self, utterance: Utterance) -> str | None:
        return self.prompt if utterance.prompt is None else utterance.prompt


def _sharding(config: RunConfig, manifest: Manifest) -> Sharding | None:
    if config.num_chunks is None:
        if config.strategy != "balanced":
            raise UsageError(f"--strategy {config.strategy}: deals out chunks; give --num-chunks as well")
        return None
    return Sharding(manifest.scan.durations_s, config.num_chunks, config.strategy)


def _check_row(prompts: WhisperPrompts, utterance: Utterance) -> str | None:
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
