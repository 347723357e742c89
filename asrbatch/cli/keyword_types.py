"""What the functions of `asrbatch/__init__.py` take by name: options of the command line, with `_` for `-`.

Written by scripts/keyword_types.py; change the declarations, not this file. For type checkers and editors alone.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

Text = str | PathLike[str]


class ReadingKeywords(TypedDict, total=False):
    """How a manifest is read; options of all that read one."""

    format: (
        Literal[
            "jsonl",
            "csv",
            "tsv",
            "saved",
            "parquet",
            "arrow",
            "hub",
            "folder",
            "kaldi",
            "lhotse",
            "nemo-tar",
            "webdataset",
        ]
        | None
    )
    """What the manifest is. [default: recognised by what it holds]"""

    dataset: str | None
    """A data set on the Hugging Face hub; the same as hf://NAME."""

    config: str | None
    """Which configuration of a hub data set that has several."""

    split: str | None
    """Which split of a data set that has several."""

    streaming: bool
    """Read a hub data set's Parquet files where they are, without fetching all first."""

    audio_column: str | None
    """Field or column that holds the audio or its path."""

    text_column: str | None
    """Field or column that holds the reference."""

    id_column: str | None
    """Field or column that holds the id."""

    tars: Text | None
    """The tars whose members a NeMo manifest names, e.g. 'audio__OP_0..7_CL_.tar'."""

    audio_folder: Text | None
    """What relative audio paths are relative to. [default: the manifest's folder]"""

    allow_pipes: bool
    """Run the commands that a Kaldi wav.scp, or lhotse's recordings, hold."""

    on_bad_row: Literal["refuse", "fail"]
    """Refuse a manifest with bad rows, naming them all; or make them failed rows. [default: refuse]"""


class RunKeywords(ReadingKeywords, total=False):
    """Options of `transcribe`, `align` and `plan`."""

    output: Text | None
    """The rows file, ending in .jsonl. [default: MANIFEST.MODEL.jsonl in this folder]"""

    language: str | None
    """Language of rows without `lang`, e.g. en. [default: the model detects it, row by row]"""

    num_chunks: int | None
    """Split the manifest into so many chunks, one process each."""

    devices: str | int | Sequence[str | int] | None
    """One worker process on each, e.g. 0,1,2,3 or all. [default: one engine on what is visible]"""

    retry_failed: bool
    """Run failed rows again."""

    revision: str | None
    """Hub branch, tag or commit of the model."""

    tokenizer: Text | None
    """A tokenizer that is not the checkpoint's own: a folder, or a name on the hub."""

    plugin: str | Sequence[str] | None
    """Load this vLLM plugin, and none that is not named; may be repeated. [default: all]"""

    trust_remote_code: bool
    """Run Python code that comes with the checkpoint."""

    window_seconds: float | None
    """Longest window. [default: the model's]"""

    track: int | None
    """Audio track, from 0, of rows without `track`. [default: the file's default track, or the first with sound]"""

    strategy: Literal["balanced", "contiguous", "strided", "consecutive"]
    """Which rows a chunk gets. balanced: equal audio; contiguous: equal rows, in order; strided: in turn; consecutive:
    equal audio, in order. [default: balanced]"""

    price_per_hour: float | None
    """What a device costs per hour, in your currency. [default: what each session was told]"""

    overwrite: bool
    """Start over: remove the files at --output first."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    """Arithmetic of the model; auto suits model and device. [default: auto]"""

    engine_arg: str | Sequence[str] | None
    """Any vLLM engine argument, e.g. max_num_seqs=32; may be repeated."""

    engine_mode: Literal["auto", "thread", "process"]
    """Run vLLM in a thread or in a process of its own; auto: thread on CPU, process on GPU. [default: auto]"""

    decode_timeout: float
    """Seconds that 30 s of one file may take to decode. [default: 300.0]"""

    workers: int | None
    """Preprocess threads, each with a decoder process. [default: one per core, at most 16]"""

    max_windows: int | None
    """Windows between manifest and output at any time. [default: twice what the engine works on]"""

    max_audio: float | None
    """Seconds of audio between manifest and output. [default: a full window for each]"""

    grace: float
    """Seconds an interrupted run may take to finish what is in the engine. [default: 20.0]"""

    hang_timeout: float
    """Seconds without an answer after which an engine with windows in it counts as dead. [default: 1800.0]"""


class DecodingKeywords(RunKeywords, total=False):
    """Options of `transcribe` and `plan`."""

    windows: Literal["energy", "sequential", "silence", "fixed", "none"]
    """How audio longer than the model's window is cut: at quiet points, where the model's last segment ended, in
    silences (long ones are skipped), at fixed lengths, or never. [default: energy]"""

    fallback: bool
    """Decode again, at rising temperatures, windows whose text looks wrong."""

    word_timestamps: bool
    """Give each segment its words, with times and probabilities, read from Whisper's cross-attention."""

    lora: Text | None
    """Folder of a LoRA adapter."""

    prompt_style: Literal["auto", "transcription", "chat"]
    """Prompt by vLLM's transcription interface, or by the checkpoint's chat template. [auto: what it has] [default:
    auto]"""

    chat_template_kwargs: str | None
    """Variables of the chat template, e.g. '{"enable_thinking": false}'."""

    vad_filter: bool
    """With --windows sequential: skip long silences, as --windows silence does. Needs the extra vad."""

    drop_no_speech: bool | None
    """Leave out text of windows in which the model finds no speech. [default: drop with --windows sequential]"""

    task: Literal["transcribe", "translate"]
    """Transcribe, or translate (Whisper: into English). [default: transcribe]"""

    target_language: str | None
    """Language to translate into, for models that let you choose it."""

    prompt: str | None
    """For rows without `prompt`: the text before (Whisper: style, spelling of names), context, or the instruction of
    models prompted by their chat template; there {audio} says where the audio goes. [default: none; in a chat
    'Transcribe the following:']"""

    hotwords: str | None
    """Words to expect, such as names; refused where the model would ignore them."""

    timestamps: bool | None
    """Have the model say when each segment begins and ends; without, segments are windows. [default: where it can]"""

    condition_on_previous: bool
    """With --windows sequential: prompt windows with the text before."""

    max_tokens: int | None
    """Most tokens generated for one window. [default: what Whisper's decoder has room for; others 15 a second, at least
    512]"""

    seed: int
    """Random seed; used by --fallback alone."""

    encoder_cache: int | None
    """With --word-timestamps: MB of encoder outputs kept on the device until their words have times; what does not fit
    is encoded again. [default: of a window for each sequence of the engine and some behind]"""


class TranscribeKeywords(DecodingKeywords, total=False):
    """Options of `transcribe`."""

    chunk_id: int | None
    """Which chunk this is, from 0. [default: the place in the array of tasks]"""

    chunk_offset: int | None
    """Added to the place in the array of tasks. [default: 0]"""

    merge: bool
    """Merge the run, as merge-shards does, once its last chunk is complete."""


class PlanKeywords(DecodingKeywords, total=False):
    """Options of `plan`."""

    model: Text | None
    """A checkpoint folder, or a name on the Hugging Face hub."""

    text_field: str | None
    """Align the text in this field, as asrbatch align does, instead of transcribing."""

    probe: bool
    """Read the header of every file, in parallel."""

    probe_workers: int
    """Processes that read headers. [default: 8]"""

    rtfx: Text | float | None
    """Seconds of audio a device does per second, or the output of an earlier run, to estimate from."""

    startup: float | None
    """Seconds until an engine is ready, for the estimate. [default: as in that run, or 0]"""


class AlignKeywords(RunKeywords, total=False):
    """Options of `align`."""

    chunk_id: int | None
    """Which chunk this is, from 0. [default: the place in the array of tasks]"""

    chunk_offset: int | None
    """Added to the place in the array of tasks. [default: 0]"""

    text_field: str
    """Field that holds the text. [default: pred_text]"""

    merge: bool
    """Merge the run, as merge-shards does, once its last chunk is complete."""


class MergeKeywords(ReadingKeywords, total=False):
    """Options of `merge_shards`."""

    manifest: Text | Sequence[Text] | None
    """What was transcribed, may be repeated; or --dataset."""

    num_chunks: int | None
    """Of how many chunks the run is, where files of several runs are there."""

    allow_incomplete: bool
    """Write the rows there are when some are missing; marked incomplete."""

    overwrite: bool
    """Replace the merged rows of another run."""

    price_per_hour: float | None
    """What a device costs per hour, in your currency. [default: what each session was told]"""


class ScoreKeywords(TypedDict, total=False):
    """Options of `score`."""

    references: Text | None
    """A manifest whose rows were all to be predicted; its `text` counts."""

    split: str | None
    """Which split of a data set that has several."""

    normalizer: str
    """Of auto, whisper-english, whisper-basic, leaderboard, none; auto: whisper-english for English. [default: auto]"""

    language: str | None
    """Of rows without `lang`. [default: that of the run, or what each row was detected as, or en]"""

    by: str | Sequence[str] | None
    """Fields to make groups by, with commas; `duration` makes bins."""

    text_field: str
    """The field with the reference. [default: text]"""

    pred_field: str | None
    """The field with the prediction. [default: pred_text, or what begins so]"""

    resamples: int
    """Of the bootstrap. [default: 2000]"""

    seed: int
    """Of the bootstrap."""


class ExportKeywords(TypedDict, total=False):
    """Options of `export`."""

    to: Text | None
    """The folder to write to. [default: X.export beside X.jsonl]"""

    beside: bool
    """Subtitles go beside their media files, where players look. Times count from the start of the file."""

    per_run: bool
    """One file for all utterances, instead of one for each (srt, vtt: only where there is one)."""

    times: Literal["row", "file"] | None
    """Times count from the start of the row's own audio, or of the file that it was cut from. [default: row]"""

    overwrite: bool
    """Replace files that differ."""

    max_line_chars: int
    """Subtitles: characters in a line; wide ones count double. [default: 42]"""

    max_lines: int
    """Subtitles: lines at a time. [default: 2]"""

    min_duration: float
    """Shortest time of a subtitle, in seconds. [default: 5/6]"""

    max_duration: float
    """Longest time of a subtitle, in seconds. [default: 7.0]"""

    max_chars_per_s: float
    """Subtitles: reading speed, where speech leaves time for it. [default: 20.0]"""

    min_gap: float
    """Shortest time between two subtitles, in seconds. [default: 2/24]"""

    words: bool
    """Subtitles: one for each word; of runs with --word-timestamps."""

    model_id: str | None
    """leaderboard: the model, such as openai/whisper-tiny.en."""

    dataset: str | None
    """leaderboard: the data set, such as hf-audio/open-asr-leaderboard."""

    dataset_name: str | None
    """leaderboard: its configuration, such as librispeech."""

    split: str | None
    """leaderboard: its split, such as test.clean."""
