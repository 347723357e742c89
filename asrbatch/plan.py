"""What a run will do, settled before the engine is started: model, dtype, manifest, languages, chunk, fingerprint.

Everything that can refuse a run without half a minute of loading does so here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from . import silence
from .attempts import GREEDY, LADDER
from .audio_rules import AudioRules
from .checkpoint import Checkpoint, open_checkpoint
from .config import SEQUENTIAL, RunConfig
from .engine import look
from .engine.devices import Slot, choose_slots
from .engine.plan import EnginePlan
from .engine.settings import detect_device, parse_engine_args, resolve_dtype, resolve_mode
from .errors import UsageError
from .fingerprint import chunk_fields, fingerprint
from .languages import primary
from .manifest import Manifest, open_manifest
from .manifest_formats import options_for_kept
from .manifest_problems import Note
from .model_choice import asked_fields, choose_asking
from .sharding import Sharding
from .silences import choices_of_skips
from .speech import CHAT_STYLE, Speech
from .stdin_manifest import KeptManifest
from .types import Utterance
from .voice import check_available

# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4
# Of models whose answer has no length of its own: fast speech has 5 words a second, a word of some languages 3 tokens; a model
# that repeats itself must end somewhere. Reasoning takes more: --max-tokens.
_TOKENS_PER_S, _LEAST_TOKENS = 15, 512

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
        kept: what came on standard input, where the manifest is `-`.
        note: told of every problem of the manifest; see `manifest_scan.scan_rows`.

    Raises:
        UsageError, ManifestError: the run cannot be done as asked.
    """

    def __init__(self, config: RunConfig, kept: KeptManifest | None = None, note: Note | None = None):
        self.engine = engine_plan(config)
        look.close()
        self.rules: AudioRules = audio_rules(config, self.engine.speech)
        self.slots: list[Slot] = choose_slots(config.devices, self.engine.device, self.engine.engine_args)
        source, reading = config.manifest, config.reading
        if kept is not None:
            source, reading = str(kept.path), options_for_kept(str(kept.path), replace(reading, folder=kept.folder))
        check = partial(check_row, row_rules(self.engine))
        self.manifest: Manifest = open_manifest(source, check=check, options=reading, note=note)
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
            asked=asked_fields(self.engine.asking),
            audio_folder=kept.folder if kept is not None else config.reading.folder or self.manifest.audio_folder,
            **chunk_fields(self.sharding),
        )


def audio_rules(config: RunConfig, speech: Speech) -> AudioRules:
    """What the model hears, and how longer audio is cut for it."""
    if config.windows == "silence" or config.vad_filter:
        check_available(speech.sample_rate)
    return AudioRules(
        speech.sample_rate,
        speech.window_s,
        speech.min_samples,
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


def engine_plan(config: RunConfig, *, weights: bool = True) -> EnginePlan:
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
    asking = choose_asking(config, checkpoint, device, dtype, engine_args)
    speech = asking.speech
    timestamps = speech.is_whisper if config.timestamps is None else config.timestamps
    engine = EnginePlan(
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        mode=resolve_mode(config.engine.mode, device, engine_args),
        task=config.task,
        language=None,
        prompt=config.prompt,
        max_tokens=_max_tokens(config.engine.max_tokens, checkpoint, speech),
        timestamps=timestamps,
        temperatures=LADDER if config.fallback else GREEDY,
        seed=config.engine.seed,
        engine_args=engine_args,
        asking=asking,
    )
    if speech.is_whisper and config.drop_no_speech and engine.prompts.no_speech is None:
        raise UsageError(f"--drop-no-speech: {checkpoint.name} has no token that says whether anybody speaks; leave it out")
    if speech.is_whisper:
        prompts = engine.prompts  # refuses tasks and timestamps that the checkpoint lacks
        for option, text in (("--prompt", config.prompt), ("--hotwords", config.hotwords)):
            if text is not None:
                prompts.check_words(option, text)
    if config.language is None:
        return engine
    return replace(engine, language=engine.check_language(config.language, "--language"))


def _max_tokens(asked: int | None, checkpoint: Checkpoint, speech: Speech) -> int:
    if speech.is_whisper:
        room = checkpoint.config.get("max_target_positions", 448) - _PROMPT_TOKENS
        if asked is not None and asked > room:
            raise UsageError(f"--max-tokens {asked}: the model's decoder has room for {room}")
        return asked or room
    room = speech.max_model_len - speech.window_tokens
    if asked is not None and asked > room:
        why = f"of {speech.max_model_len} tokens, {speech.window_s:g} s of audio and the prompt take {speech.window_tokens}"
        raise UsageError(f"--max-tokens {asked}: there is room for {room}: {why}; --window-seconds makes windows shorter")
    return asked or min(room, max(_LEAST_TOKENS, math.ceil(_TOKENS_PER_S * speech.window_s)))


def _sharding(config: RunConfig, manifest: Manifest) -> Sharding | None:
    if config.num_chunks is None:
        if config.strategy != "balanced":
            raise UsageError(f"--strategy {config.strategy}: deals out chunks; give --num-chunks as well")
        return None
    return Sharding(manifest.scan.durations_s, config.num_chunks, config.strategy, in_groups=manifest.in_groups)


@dataclass(frozen=True)
class RowRules:
    """What decides whether a run can do what a row says.

    Attributes:
        speech: what the model can be asked.
        language, target_language: the run's; None where it states none.
        check_language: a language and where it was said, to the model's own code; raises UsageError.
    """

    speech: Speech
    task: str
    language: str | None
    target_language: str | None
    check_language: Callable[[str, str], str]


def _primary(lang: object) -> object:
    return primary(lang) if isinstance(lang, str) else lang


def row_rules(engine: EnginePlan) -> RowRules:
    return RowRules(engine.speech, engine.task, engine.language, engine.asking.target_language, engine.check_language)


def check_row(rules: RowRules, utterance: Utterance) -> str | None:
    """What the manifest reader asks about each row: can this run do what the row says?"""
    if utterance.lang:
        try:
            rules.check_language(utterance.lang, "lang")
        except UsageError as e:
            fix = "rename the field (others are only carried along), or give another model"
            return str(e) if rules.speech.is_whisper else f"{e}; {fix}"
    elif rules.language is None and (silent := rules.speech.silent_language) is not None:
        taken = f"{rules.speech.architecture} detects no language and would take {silent!r}"
        return f"states no language: {taken}; give it `lang`, or give --language"
    if utterance.prompt and "prompt" not in rules.speech.can:
        try:
            rules.speech.check("prompt", f"prompt {utterance.prompt[:40]!r}")
        except UsageError as e:
            return f"{e}; remove the field"
    if utterance.prompt is not None and not utterance.prompt.strip() and rules.speech.style == CHAT_STYLE:
        return "prompt is empty, and a chat needs an instruction; remove the field, or give {audio} to ask without words"
    target = utterance.fields.get("target_lang")
    into = rules.target_language or rules.speech.default_target
    if target is not None and rules.task == "translate" and _primary(target) != _primary(into):
        if rules.speech.is_whisper:
            return f"target_lang {target!r}: Whisper translates into English only"
        if into is None:
            return f"target_lang {target!r}: this run states no language to translate into; give --target-language"
        return f"target_lang {target!r}: this run does --target-language {into}; one language for a run"
    if target is not None and rules.task == "transcribe" and _primary(target) != _primary(utterance.lang or rules.language):
        return f"target_lang {target!r}: this run transcribes and does not translate; use --task translate or remove it"
    task = utterance.fields.get("taskname")
    if task is not None and task not in _TASK_NAMES[rules.task]:
        return f"taskname {task!r}: this run does --task {rules.task}"
    return None
