"""The options of a run, as one frozen object; checked once, before anything is opened.

Names that options choose from, where more than one part of the program must know them and some parts must stay light.

How a manifest is to be read, as one frozen object: what a person can say about a source beside its name.

Checked once, before anything is opened. Knows nothing about how any format is read.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from asrbatch.errors import UsageError
from asrbatch.storage.paths import RunPaths, check_output, chunk_path
from asrbatch.storage.remote import absolute

FORMATS = (
    "jsonl", "csv", "tsv", "saved", "parquet", "arrow", "hub", "folder", "kaldi", "lhotse", "nemo-tar", "webdataset",
)  # fmt: skip
ON_BAD_ROW = ("refuse", "fail")


@dataclass(frozen=True)
class SourceOptions:
    """Choices about a source.

    Attributes:
        format: what it is, one of `FORMATS`; None finds out.
        split: of a data set that has several.
        dataset_config: of a hub data set that has several.
        streaming: read a hub data set's Parquet files where they are, instead of fetching all of it first.
        audio_column, text_column, id_column: fields that hold audio, reference and id under other names.
        tars: path, glob, list or `_OP_0..7_CL_` pattern of the tars whose members a NeMo manifest names.
        allow_pipes: run the commands in a Kaldi `wav.scp`.
        on_bad_row: `refuse` the manifest, naming every bad row; or `fail` those rows and read the others.
        folder: what relative audio paths are relative to, where that is not the manifest's own folder.

    Raises:
        UsageError: a value that is none of these.
    """

    format: str | None = None
    split: str | None = None
    dataset_config: str | None = None
    streaming: bool = False
    audio_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    tars: str | None = None
    allow_pipes: bool = False
    on_bad_row: str = "refuse"
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise UsageError(f"--format {self.format}: must be one of {', '.join(FORMATS)}")
        if self.on_bad_row not in ON_BAD_ROW:
            raise UsageError(f"--on-bad-row {self.on_bad_row}: must be one of {', '.join(ON_BAD_ROW)}")
        for option, value in (
            ("--audio-column", self.audio_column), ("--text-column", self.text_column), ("--id-column", self.id_column),
        ):  # fmt: skip
            if value == "":
                raise UsageError(f"{option} is empty; give the name of a column")

    @property
    def names_columns(self) -> bool:
        """Whether any column is called by another name."""
        return any((self.audio_column, self.text_column, self.id_column))


# How longer audio is cut: a splitter of `windows.SPLITTERS`, or where the model's last segment ended.
SEQUENTIAL = "sequential"
STDIN = "-"  # as a manifest
WINDOWS = ("energy", SEQUENTIAL, "silence", "fixed", "none")


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
        prompt_style: `auto`, `transcription` (vLLM's interface) or `chat` (the checkpoint's template).
        chat_template_kwargs: variables of the chat template, as a JSON object.
        plugins: the only vLLM plugins to be loaded; none leaves that to vLLM, which loads all that are installed.
        tokenizer: folder or hub name of a tokenizer that is not the checkpoint's own.
        trust_remote_code: run Python code that comes with the checkpoint.
        lora: folder of a LoRA adapter.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    mode: str = "auto"
    max_tokens: int | None = None
    seed: int = 0
    args: tuple[str, ...] = ()
    prompt_style: str = "auto"
    chat_template_kwargs: str | None = None
    plugins: tuple[str, ...] = ()
    tokenizer: str | None = None
    trust_remote_code: bool = False
    lora: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
        manifest: what to transcribe.
        engine: with what.
        output: the rows file, ending in `.jsonl`; None derives it from manifest and model.
        split: which split of a data set that has several.
        format, dataset_config, streaming, audio_column, text_column, id_column, tars, allow_pipes, on_bad_row: how the
            manifest is to be read; see `source_options.SourceOptions`.
        audio_folder: what relative audio paths of lists, tables and cuts are relative to; None for the manifest's own
            folder.
        num_chunks: into how many chunks the manifest is dealt out; None for a run in one piece.
        chunk_id: which of them this is, from 0.
        strategy: how rows are dealt out; a name of `choices.STRATEGIES`.
        devices: run one worker process on each of these, such as `0,1` or `all`; None runs one engine in this process.
        language: ISO 639-1 code for rows without `lang`; None lets the model detect it.
        task: `transcribe` or `translate`.
        target_language: into which it is translated; None for the model's own choice (Whisper: English).
        prompt: of rows without `prompt`: previous text for Whisper, the instruction for models that chat.
        hotwords: words to expect, where the model honours them.
        windows: how longer audio is cut for the model; one of `WINDOWS`.
        window_s: the longest audio asked about at once, in seconds; None for what suits the model.
        vad_filter: pass over long silences with `sequential`, as `silence` always does.
        condition_on_previous: ask each window of `sequential` with the text before it.
        timestamps: have the model say when each piece of its text begins and ends; None where it can.
        fallback: ask again, at rising temperatures, for windows whose text looks wrong.
        drop_no_speech: leave out the text of windows without speech; None does with `sequential`, and does not
            otherwise.
        overwrite: start anew, removing what stands at `output`.
        retry_failed: run failed rows again.
        workers: preparation threads, each with a decoder process; None takes one per core, at most 16.
        max_windows: windows between manifest and output; None takes twice what the engine works on at once.
        max_audio_s: seconds of audio between manifest and output; None takes 30 for each of those windows.
        decode_timeout_s: seconds that 30 s of a file may take to decode before the decoder is killed.
        grace_s: seconds an interrupted run may take to finish what is in the engine.
        hang_timeout_s: seconds an engine that holds windows may answer none before it is taken for dead.

    Raises:
        UsageError: a value out of range, or two options that contradict each other.
    """

    manifest: str
    engine: EngineConfig
    output: str | None = None
    split: str | None = None
    num_chunks: int | None = None
    chunk_id: int | None = None
    strategy: str = "balanced"
    devices: str | None = None
    language: str | None = None
    task: str = "transcribe"
    target_language: str | None = None
    prompt: str | None = None
    hotwords: str | None = None
    windows: str = "energy"
    window_s: float | None = None
    vad_filter: bool = False
    condition_on_previous: bool = False
    timestamps: bool | None = None
    fallback: bool = False
    drop_no_speech: bool | None = None
    overwrite: bool = False
    retry_failed: bool = False
    workers: int | None = None
    max_windows: int | None = None
    max_audio_s: float | None = None
    decode_timeout_s: float = 300.0
    grace_s: float = 20.0
    hang_timeout_s: float = 1800.0
    format: str | None = None
    dataset_config: str | None = None
    streaming: bool = False
    audio_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    tars: str | None = None
    audio_folder: str | None = None
    allow_pipes: bool = False
    on_bad_row: str = "refuse"

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--workers", self.workers, 1),
            ("--max-windows", self.max_windows, 1),
            ("--max-audio", self.max_audio_s, 0.001),
            ("--decode-timeout", self.decode_timeout_s, 0.001),
            ("--grace", self.grace_s, 0),
            ("--hang-timeout", self.hang_timeout_s, 0.001),
            ("--max-tokens", self.engine.max_tokens, 1),
            ("--window-seconds", self.window_s, 2),
        ):
            if value is not None and not value >= least:
                raise UsageError(f"{option} {value}: must be at least {least}")
        _ = self.reading
        if self.overwrite and self.retry_failed:
            raise UsageError("--overwrite and --retry-failed: give one; --overwrite runs every row again anyway")
        for option, text in (("--prompt", self.prompt), ("--hotwords", self.hotwords)):
            if text is not None and any("\ud800" <= c <= "\udfff" for c in text):
                raise UsageError(f"{option} {text!r}: holds bytes that are not text")
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt is empty; leave it out, or give '{audio}' to ask a chat without words")
        if self.hotwords is not None and not self.hotwords.strip():
            raise UsageError("--hotwords is empty; leave it out")
        if self.windows not in WINDOWS:
            raise UsageError(f"--windows {self.windows}: must be one of {', '.join(WINDOWS)}")
        if self.windows == SEQUENTIAL and self.timestamps is False:
            raise UsageError(
                "--no-timestamps: --windows sequential goes by the timestamps; leave it out, or give --windows energy"
            )
        if self.condition_on_previous and self.windows != SEQUENTIAL:
            fix = "give --windows sequential as well"
            raise UsageError(
                f"--condition-on-previous: with --windows {self.windows}, windows do not wait for each other; {fix}"
            )
        if self.vad_filter and self.windows == "silence":
            raise UsageError("--vad-filter: --windows silence skips long silences by itself; leave it out")
        if self.vad_filter and self.windows != SEQUENTIAL:
            fix = "give --windows sequential as well, or --windows silence instead"
            raise UsageError(f"--vad-filter: --windows {self.windows} hears silences as well; {fix}")
        if self.output is not None:
            check_output(Path(self.output))
        if (self.num_chunks is None) != (self.chunk_id is None):
            raise UsageError("--num-chunks and --chunk-id: give both, or neither")
        if self.num_chunks is not None and self.chunk_id is not None:
            if self.num_chunks < 1:
                raise UsageError(f"--num-chunks {self.num_chunks}: must be at least 1")
            if not 0 <= self.chunk_id < self.num_chunks:
                fits = f"must be from 0 to {self.num_chunks - 1}, for {self.num_chunks} chunks"
                raise UsageError(f"--chunk-id {self.chunk_id}: {fits}")

    @property
    def reading(self) -> SourceOptions:
        """How the manifest is to be read. Raises UsageError."""
        if self.audio_folder is not None and self.manifest == "-":
            raise UsageError(
                "--audio-folder: paths on standard input are relative to the current folder; run this there"
            )
        named = {f.name: getattr(self, f.name) for f in fields(SourceOptions) if f.name != "folder"}
        return SourceOptions(**named, folder=None if self.audio_folder is None else absolute(self.audio_folder))

    @property
    def paths(self) -> RunPaths:
        """The files that this process writes: the run's own, or those of its chunk."""
        if self.num_chunks is None or self.chunk_id is None:
            return RunPaths(self.output_path)
        return RunPaths(chunk_path(self.output_path, self.chunk_id, self.num_chunks))

    @property
    def output_path(self) -> Path:
        """What the run is called. Absolute; `<manifest stem>.<model slug>.jsonl` in the current folder when none was
        given.
        """
        if self.output is not None:
            return Path(self.output).expanduser().absolute()
        if self.manifest == STDIN:
            stem = "stdin"
        else:
            name = re.sub(r"[*?{}\[\],:]+", "-", os.path.basename(os.path.normpath(self.manifest))).strip("-")
            stem = re.sub(r"\.jsonl?(\.gz|\.zst)?$", "", name) or "manifest"
        return Path(f"{stem}.{slug(self.engine.model)}.jsonl").absolute()

    @property
    def num_workers(self) -> int:
        return self.workers or min(16, len(os.sched_getaffinity(0)))


def slug(model: str) -> str:
    """The last part of a model's path or name, safe in a file name."""
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(os.path.normpath(os.path.expanduser(model)))).strip("-.")
        or "model"
    )


def resolve_chunk_id(
    num_chunks: int | None, chunk_id: int | None, chunk_offset: int | None, environment: Mapping[str, str]
) -> int | None:
    """Which chunk this process is to take: `--chunk-id`, or its place in the SLURM array plus `--chunk-offset`.

    The number of chunks is never taken from the array: `--array=3,7` runs two chunks of sixteen again.

    Raises:
        UsageError: options that contradict each other, or nothing that says which chunk.
    """
    task = environment.get("SLURM_ARRAY_TASK_ID")
    if num_chunks is None:
        for option, value in (("--chunk-id", chunk_id), ("--chunk-offset", chunk_offset)):
            if value is not None:
                raise UsageError(f"{option} {value}: of how many chunks? give --num-chunks as well")
        return None
    if chunk_id is not None:
        if chunk_offset is not None:
            raise UsageError(
                f"--chunk-offset {chunk_offset}: is added to SLURM_ARRAY_TASK_ID; with --chunk-id it means nothing"
            )
        return chunk_id
    if task is None:
        raise UsageError(f"--num-chunks {num_chunks}: which of them? give --chunk-id, or run as a SLURM array task")
    if not task.isdecimal():
        raise UsageError(f"SLURM_ARRAY_TASK_ID={task}: is not a whole number; give --chunk-id")
    return int(task) + (chunk_offset or 0)


DTYPES = ("auto", "bfloat16", "float16", "float32")
ENGINE_MODES = ("auto", "thread", "process")
STRATEGIES = ("balanced", "contiguous", "strided", "consecutive")
TASKS = ("transcribe", "translate")
