"""The options of a run, as one frozen object; checked once, before anything is opened."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError


@dataclass(frozen=True)
class EngineConfig:
    """What runs the model.

    Attributes:
        model: a checkpoint folder, or a name on the Hugging Face hub.
        revision: hub branch, tag or commit.
        dtype: `auto`, `bfloat16`, `float16` or `float32`.
        mode: `auto`, `thread` or `process`; see `engine/settings.py`.
        max_tokens: most tokens generated for one window; None fills the model's decoder.
        seed: of the sampling parameters; greedy decoding does not use it, the record names it.
        args: vLLM engine arguments as `key=value`.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    mode: str = "auto"
    max_tokens: int | None = None
    seed: int = 0
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
        manifest: what to transcribe.
        engine: with what.
        output: the rows file, ending in `.jsonl`; None derives it from manifest and model.
        split: which split of a data set that has several.
        language: ISO 639-1 code for rows without `lang`; None lets the model detect it.
        task: `transcribe` or `translate`.
        prompt: previous text for rows without `prompt`.
        overwrite: start anew, removing what stands at `output`.
        retry_failed: run failed rows again.
        workers: preparation threads, each with a decoder process; None takes one per core, at most 16.
        max_windows: windows between manifest and output; None takes twice what the engine works on at once.
        max_audio_s: seconds of audio between manifest and output; None takes 30 for each of those windows.
        decode_timeout_s: seconds one file may take to decode before the decoder is killed.
        grace_s: seconds an interrupted run may take to finish what is in the engine.

    Raises:
        UsageError: a value out of range, or two options that contradict each other.
    """

    manifest: str
    engine: EngineConfig
    output: str | None = None
    split: str | None = None
    language: str | None = None
    task: str = "transcribe"
    prompt: str | None = None
    overwrite: bool = False
    retry_failed: bool = False
    workers: int | None = None
    max_windows: int | None = None
    max_audio_s: float | None = None
    decode_timeout_s: float = 300.0
    grace_s: float = 20.0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--workers", self.workers, 1),
            ("--max-windows", self.max_windows, 1),
            ("--max-audio", self.max_audio_s, 0.001),
            ("--decode-timeout", self.decode_timeout_s, 0.001),
            ("--grace", self.grace_s, 0),
            ("--max-tokens", self.engine.max_tokens, 1),
        ):
            if value is not None and not value >= least:
                raise UsageError(f"{option} {value}: must be at least {least}")
        if self.overwrite and self.retry_failed:
            raise UsageError("--overwrite and --retry-failed: give one; --overwrite runs every row again anyway")
        if self.prompt is not None and any("\ud800" <= c <= "\udfff" for c in self.prompt):
            raise UsageError(f"--prompt {self.prompt!r}: holds bytes that are not text")
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise UsageError(f"--output {self.output}: must end in .jsonl; the run's other files are named after it")

    @property
    def output_path(self) -> Path:
        """Absolute; `<manifest stem>.<model slug>.jsonl` in the current folder when none was given."""
        if self.output is not None:
            return Path(self.output).expanduser().absolute()
        stem = re.sub(r"\.jsonl?$", "", os.path.basename(os.path.normpath(self.manifest))) or "manifest"
        return Path(f"{stem}.{slug(self.engine.model)}.jsonl").absolute()

    @property
    def num_workers(self) -> int:
        return self.workers or min(16, len(os.sched_getaffinity(0)))


def slug(model: str) -> str:
    """The last part of a model's path or name, safe in a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(os.path.normpath(os.path.expanduser(model)))).strip("-.") or "model"
