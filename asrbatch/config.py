"""The options of a run, in groups that each are one frozen dataclass; checked once, before anything is opened.

A field says all there is to say of its option: the command line is made of them, and so is `asrbatch.transcribe`. Knows
nothing of how any format is read, and nothing of models.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from asrbatch.errors import UsageError
from asrbatch.formatting import show
from asrbatch.options import CheckedOptions, flag, option
from asrbatch.storage.paths import RunPaths, check_length, check_output, chunk_path, default_output
from asrbatch.storage.remote import absolute

# Choices that other parts of the program must know as well.
FORMATS = (
    "jsonl", "csv", "tsv", "saved", "parquet", "arrow", "hub", "folder", "kaldi", "lhotse", "nemo-tar", "webdataset",
)  # fmt: skip
ON_BAD_ROW = ("refuse", "fail")
DTYPES = ("auto", "bfloat16", "float16", "float32")
ENGINE_MODES = ("auto", "thread", "process")
PROMPT_STYLES = ("auto", "transcription", "chat")
STRATEGIES = ("balanced", "contiguous", "strided", "consecutive")
TASKS = ("transcribe", "translate")
# How longer audio is cut: a splitter of `audio/windows.py`, or where the model's last segment ended.
SEQUENTIAL = "sequential"
WINDOWS = ("energy", SEQUENTIAL, "silence", "fixed", "none")
STDIN = "-"  # as a manifest
# Options that a run has no use for which aligns a text that is there.
NOT_FOR_ALIGNMENT = (
    "task", "target_language", "prompt", "hotwords", "windows", "vad_filter", "condition_on_previous", "timestamps",
    "word_timestamps", "fallback", "drop_no_speech", "encoder_cache_mb", "max_tokens", "seed",
)  # fmt: skip
_DESCRIPTOR = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/(\d+)")


@dataclass(frozen=True)
class EngineConfig(CheckedOptions):
    """What runs the model. Raises UsageError: a value out of range."""

    model: str = option(help="A checkpoint folder, or a name on the Hugging Face hub.", flags="--model -m")
    revision: str | None = option(None, "Hub branch, tag or commit of the model.")
    tokenizer: str | None = option(
        None, "A tokenizer that is not the checkpoint's own: a folder, or a name on the hub."
    )
    lora: str | None = option(None, "Folder of a LoRA adapter.")
    # None leaves it to vLLM, which loads all that are installed.
    plugins: tuple[str, ...] = option(
        (), "Load this vLLM plugin, and none that is not named; may be repeated. [default: all]",
        flags="--plugin", metavar="NAME",
    )  # fmt: skip
    trust_remote_code: bool = option(False, "Run Python code that comes with the checkpoint.")
    dtype: str = option("auto", "Arithmetic of the model; auto suits model and device.", choices=DTYPES)
    max_tokens: int | None = option(
        None,
        "Most tokens generated for one window. "
        "[default: what Whisper's decoder has room for; others 15 a second, at least 512]",
        minimum=1,
    )
    # Greedy decoding does not use it; the run's record names it all the same.
    seed: int = option(0, "Random seed; used by --fallback alone.")
    args: tuple[str, ...] = option(
        (), "Any vLLM engine argument, e.g. max_num_seqs=32; may be repeated.", flags="--engine-arg",
        metavar="KEY=VALUE",
    )  # fmt: skip
    mode: str = option(
        "auto", "Run vLLM in a thread or in a process of its own; auto: thread on CPU, process on GPU.",
        flags="--engine-mode", choices=ENGINE_MODES,
    )  # fmt: skip
    prompt_style: str = option(
        "auto",
        "Prompt by vLLM's transcription interface, or by the checkpoint's chat template. [auto: what it has]",
        choices=PROMPT_STYLES,
    )
    chat_template_kwargs: str | None = option(
        None, "Variables of the chat template, e.g. '{\"enable_thinking\": false}'.", metavar="JSON"
    )


@dataclass(frozen=True, kw_only=True)
class TaskOptions(CheckedOptions):
    """What the model is to do, where a row does not say it."""

    language: str | None = option(
        None, "Language of rows without `lang`, e.g. en. [default: the model detects it, row by row]"
    )
    task: str = option("transcribe", "Transcribe, or translate (Whisper: into English).", choices=TASKS)
    target_language: str | None = option(None, "Language to translate into, for models that let you choose it.")
    prompt: str | None = option(
        None,
        "For rows without `prompt`: the text before (Whisper: style, spelling of names), context, or the instruction "
        "of models prompted by their chat template; there {audio} says where the audio goes. "
        "[default: none; in a chat 'Transcribe the following:']",
    )
    hotwords: str | None = option(None, "Words to expect, such as names; refused where the model would ignore them.")
    text_field: str | None = option(
        None, "Align the text in this field, as asrbatch align does, instead of transcribing."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for option_name, text, fix in (
            # An empty text would be taken for none, and a chat be asked by its default instead of by nothing.
            ("--prompt", self.prompt, "leave it out, or give '{audio}' to ask a chat without words"),
            ("--hotwords", self.hotwords, "leave it out"),
        ):
            # Bytes of an argument that are no UTF-8 arrive as surrogates.
            if text is not None and any("\ud800" <= c <= "\udfff" for c in text):
                raise UsageError(f"{option_name} {show(text)}: holds bytes that are not UTF-8; write it in UTF-8")
            if text is not None and not text.strip():
                raise UsageError(f"{option_name} is empty; {fix}")


@dataclass(frozen=True, kw_only=True)
class WindowOptions(CheckedOptions):
    """How long audio is cut for the model, and what is made of each window's answer."""

    windows: str = option(
        "energy",
        "How audio longer than the model's window is cut: at quiet points, where the model's last segment ended, "
        "in silences (long ones are skipped), at fixed lengths, or never.",
        choices=WINDOWS,
    )
    window_s: float | None = option(None, "Longest window. [default: the model's]", flags="--window-seconds", minimum=2)
    vad_filter: bool = option(
        False, "With --windows sequential: skip long silences, as --windows silence does. Needs the extra vad."
    )
    condition_on_previous: bool = option(False, "With --windows sequential: prompt windows with the text before.")
    timestamps: bool | None = option(
        None,
        "Have the model say when each segment begins and ends; without, segments are windows. [default: where it can]",
    )
    word_timestamps: bool = option(
        False, "Give each segment its words, with times and probabilities, read from Whisper's cross-attention."
    )
    track: int | None = option(
        None,
        "Audio track, from 0, of rows without `track`. [default: the file's default track, or the first with sound]",
        minimum=0,
    )
    fallback: bool = option(False, "Decode again, at rising temperatures, windows whose text looks wrong.")
    drop_no_speech: bool | None = option(
        None,
        "Leave out text of windows in which the model finds no speech. [default: drop with --windows sequential]",
        flags="--drop-no-speech/--keep-no-speech",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows == SEQUENTIAL:
            if self.timestamps is False:
                fix = "leave it out, or give --windows energy"
                raise UsageError(f"--no-timestamps: --windows sequential needs timestamps; {fix}")
            return
        fix = "give --windows sequential as well"
        # An option that does nothing is refused, not ignored: its user believes that it works.
        if self.condition_on_previous:
            raise UsageError(
                f"--condition-on-previous: with --windows {self.windows} no window waits for the one before; {fix}"
            )
        if self.vad_filter and self.windows == "silence":
            raise UsageError("--vad-filter: --windows silence skips silence already; leave it out")
        if self.vad_filter:
            raise UsageError(
                f"--vad-filter: --windows {self.windows} does not skip silence; {fix}, or --windows silence instead"
            )


@dataclass(frozen=True, kw_only=True)
class SourceOptions(CheckedOptions):
    """How a manifest is to be read."""

    format: str | None = option(None, "What the manifest is. [default: recognised by what it holds]", choices=FORMATS)
    dataset_config: str | None = option(
        None, "Which configuration of a hub data set that has several.", flags="--config"
    )
    split: str | None = option(None, "Which split of a data set that has several.")
    streaming: bool = option(False, "Read a hub data set's Parquet files where they are, without fetching all first.")
    audio_column: str | None = option(None, "Field or column that holds the audio or its path.")
    text_column: str | None = option(None, "Field or column that holds the reference.")
    id_column: str | None = option(None, "Field or column that holds the id.")
    # A path, a glob, a list, or NeMo's own pattern.
    tars: str | None = option(None, "The tars whose members a NeMo manifest names, e.g. 'audio__OP_0..7_CL_.tar'.")
    audio_folder: str | None = option(
        None, "What relative audio paths are relative to. [default: the manifest's folder]"
    )
    # A manifest is data: what it holds is not run because somebody transcribes it.
    allow_pipes: bool = option(False, "Run the commands that a Kaldi wav.scp, or lhotse's recordings, hold.")
    on_bad_row: str = option(
        "refuse", "Refuse a manifest with bad rows, naming them all; or make them failed rows.", choices=ON_BAD_ROW
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("audio", "text", "id"):
            if getattr(self, f"{name}_column") == "":
                raise UsageError(f"--{name}-column is empty; give the name of a column")

    @property
    def names_columns(self) -> bool:
        """Whether any column is called by another name."""
        return any((self.audio_column, self.text_column, self.id_column))


@dataclass(frozen=True, kw_only=True)
class ChunkOptions(CheckedOptions):
    """Which rows of the manifest this process takes, and on what."""

    num_chunks: int | None = option(None, "Split the manifest into so many chunks, one process each.", minimum=1)
    chunk_id: int | None = option(None, "Which chunk this is, from 0. [default: the place in the array of tasks]")
    strategy: str = option(
        "balanced",
        "Which rows a chunk gets. balanced: equal audio; contiguous: equal rows, in order; strided: in turn; "
        "consecutive: equal audio, in order.",
        choices=STRATEGIES,
    )
    devices: str | None = option(
        None, "One worker process on each, e.g. 0,1,2,3 or all. [default: one engine on what is visible]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # The place in an array has been settled by now, in `cli/options.py`.
        if (self.num_chunks is None) != (self.chunk_id is None):
            raise UsageError("--num-chunks and --chunk-id: give both, or neither")
        if self.num_chunks is None or self.chunk_id is None:
            if self.strategy != "balanced":
                raise UsageError(f"--strategy {self.strategy}: is for chunks; give --num-chunks as well")
            return
        if not 0 <= self.chunk_id < self.num_chunks:
            fits = f"must be from 0 to {self.num_chunks - 1}, for {self.num_chunks} chunks"
            raise UsageError(f"--chunk-id {self.chunk_id}: {fits}")


@dataclass(frozen=True, kw_only=True)
class PriceOptions(CheckedOptions):
    """What is paid for devices. Not in the fingerprint: it decides no row."""

    price_per_hour: float | None = option(
        None, "What a device costs per hour, in your currency. [default: what each session was told]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        price = self.price_per_hour
        # Put so that NaN is refused, too.
        if price is not None and not 0 < price < float("inf"):
            raise UsageError(f"--price-per-hour {price:g}: must be above 0; leave it out when nothing is paid")


@dataclass(frozen=True, kw_only=True)
class OutputOptions(CheckedOptions):
    """Where rows go, and what happens to those that are there."""

    output: str | None = option(
        None, "The rows file, ending in .jsonl. [default: MANIFEST.MODEL.jsonl in this folder]", flags="--output -o"
    )
    overwrite: bool = option(False, "Start over: remove the files at --output first.")
    retry_failed: bool = option(False, "Run failed rows again.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite and self.retry_failed:
            raise UsageError("--overwrite and --retry-failed: give one; --overwrite runs every row again anyway")
        if self.output is not None:
            check_output(Path(self.output))


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(CheckedOptions):
    """How long decoders may take."""

    decode_timeout_s: float = option(
        300.0, "Seconds that 30 s of one file may take to decode.", flags="--decode-timeout", minimum=0.001
    )


@dataclass(frozen=True, kw_only=True)
class LimitOptions(DecoderOptions):
    """How much is held at once, and how long things may take."""

    workers: int | None = option(
        None, "Preprocess threads, each with a decoder process. [default: one per core, at most 16]", minimum=1
    )
    max_windows: int | None = option(
        None, "Windows between manifest and output at any time. [default: twice what the engine works on]", minimum=1
    )
    max_audio_s: float | None = option(
        None, "Seconds of audio between manifest and output. [default: a full window for each]", flags="--max-audio",
        minimum=0.001,
    )  # fmt: skip
    encoder_cache_mb: int | None = option(
        None,
        "With --word-timestamps: MB of encoder outputs kept on the device until their words have times; what does not "
        "fit is encoded again. [default: of a window for each sequence of the engine and some behind]",
        flags="--encoder-cache", minimum=0,
    )  # fmt: skip
    grace_s: float = option(
        20.0, "Seconds an interrupted run may take to finish what is in the engine.", flags="--grace", minimum=0
    )
    hang_timeout_s: float = option(
        1800.0, "Seconds without an answer after which an engine with windows in it counts as dead.",
        flags="--hang-timeout", minimum=0.001,
    )  # fmt: skip


@dataclass(frozen=True)
class RunConfig(LimitOptions, OutputOptions, PriceOptions, ChunkOptions, SourceOptions, WindowOptions, TaskOptions):
    """One run: every option of the groups above, flat, for one manifest and one engine.

    Raises:
        UsageError: a value out of range, or two options that contradict each other.
    """

    manifest: tuple[str, ...] = option(
        help="JSONL, CSV, Parquet, a folder of audio, audio files, tars, hf://NAME, - for stdin, …; several are one."
    )
    engine: EngineConfig = option()
    # No option: what said `chunk_id`, for the run record.
    chunk_source: str | None = None

    def __post_init__(self) -> None:
        given = [self.manifest] if isinstance(self.manifest, str | os.PathLike) else self.manifest
        object.__setattr__(self, "manifest", tuple(map(os.fspath, given)))
        super().__post_init__()
        if not self.manifest:
            raise UsageError("the manifest is missing; give what is to be transcribed")
        if self.descriptor is not None and self.audio_folder is not None:
            raise UsageError(
                "--audio-folder: paths on standard input are relative to the current folder; run this there"
            )
        if self.output is not None:
            # By its name alone: the current folder may be gone, which is said elsewhere.
            rows, chunk_id, num_chunks = Path(self.output), self.chunk_id, self.num_chunks
            check_length(rows if chunk_id is None or num_chunks is None else chunk_path(rows, chunk_id, num_chunks))
        streams = [each for each in self.manifest if descriptor_of(each) is not None]
        if streams and len(self.manifest) > 1:
            fix = "write it to a file, or join all of them (cat)"
            raise UsageError(f"{streams[0]}: can be read only once, and not beside another manifest; {fix}")
        if self.text_field is not None:
            _check_alignment(self)
        if self.encoder_cache_mb is not None and not self.word_timestamps:
            raise UsageError(f"--encoder-cache {self.encoder_cache_mb}: is for --word-timestamps; leave it out")

    @property
    def descriptor(self) -> int | None:
        """Of a manifest that can be read once, and is kept beside the output; None for others."""
        return descriptor_of(self.manifest[0])

    @property
    def reading(self) -> SourceOptions:
        """How the manifest is to be read."""
        return source_options(vars(self))

    @property
    def paths(self) -> RunPaths:
        """The files that this process writes: the run's own, or those of its chunk."""
        if self.num_chunks is None or self.chunk_id is None:
            return RunPaths(self.output_path)
        return RunPaths(chunk_path(self.output_path, self.chunk_id, self.num_chunks))

    @property
    def output_path(self) -> Path:
        """What the run is called. Absolute; in the current folder when none was given."""
        if self.output is not None:
            return Path(self.output).expanduser().absolute()
        if self.descriptor is not None:
            return default_output("stdin", self.engine.model)
        # Several are called as the folder is that they are in.
        several = len(self.manifest) > 1 and os.path.dirname(os.path.commonprefix([*map(absolute, self.manifest)]))
        return default_output(several or self.manifest[0], self.engine.model)

    @property
    def num_workers(self) -> int:
        # The cores of this process, which under SLURM are a share of the machine's.
        return self.workers or min(16, len(os.sched_getaffinity(0)))


def _check_alignment(config: RunConfig) -> None:
    """Refuses options of a run that decodes. Raises UsageError."""
    if not config.text_field:
        raise UsageError("--text-field is empty; give the name of a field")
    for group in (config, config.engine):
        for declared in fields(group):
            if declared.name in NOT_FOR_ALIGNMENT and getattr(group, declared.name) != declared.default:
                raise UsageError(f"{flag(declared)}: align decodes no text; leave it out")


def descriptor_of(manifest: str) -> int | None:
    """The open file that it names, which can be read once: 0 for `-` and `/dev/stdin`, 63 for the `/dev/fd/63` of a
    process substitution; None for others."""
    if manifest == STDIN:
        return 0
    match = _DESCRIPTOR.fullmatch(manifest)
    return match and int(match[1] or 0)


def source_options(values: Mapping[str, Any]) -> SourceOptions:
    """How a manifest is to be read, of options by name. Raises UsageError."""
    named = {field.name: values[field.name] for field in fields(SourceOptions)}
    if named["audio_folder"] is not None:
        # Relative to where the command was given: a worker process or a job may run in another folder.
        named["audio_folder"] = absolute(named["audio_folder"])
    return SourceOptions(**named)


def run_config(options: Mapping[str, Any]) -> RunConfig:
    """A run of options by name, those of the engine among the others. Raises UsageError, also for names of none."""
    # Told apart by name: a caller of `asrbatch.transcribe` writes all options flat, as on the command line.
    of_engine = {field.name for field in fields(EngineConfig)}
    known = of_engine | {field.name for field in fields(RunConfig)} - {"engine", "chunk_source"}
    if unknown := options.keys() - known:
        raise UsageError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    engine = EngineConfig(**{name: value for name, value in options.items() if name in of_engine})
    return RunConfig(engine=engine, **{name: value for name, value in options.items() if name not in of_engine})
