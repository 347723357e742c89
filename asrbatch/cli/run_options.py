"""The options of a run and what each takes, said once; `options.py` gives them to commands."""

import inspect
from enum import Enum
from typing import Annotated

import typer

from asrbatch.config import DTYPES, ENGINE_MODES, FORMATS, ON_BAD_ROW, STRATEGIES, TASKS, WINDOWS
from asrbatch.models.capabilities import PROMPT_STYLES


def _choices(name: str, values: tuple[str, ...]) -> type[Enum]:
    """What typer checks a value against and shows in --help."""
    return Enum(name, {value: value for value in values}, type=str)


Task = _choices("Task", TASKS)
Dtype = _choices("Dtype", DTYPES)
EngineMode = _choices("EngineMode", ENGINE_MODES)
Strategy = _choices("Strategy", STRATEGIES)
OnBadRow = _choices("OnBadRow", ON_BAD_ROW)
PromptStyle = _choices("PromptStyle", PROMPT_STYLES)
Format = _choices("Format", FORMATS)
Windows = _choices("Windows", WINDOWS)


def _run_options(
    manifest: Annotated[
        str | None,
        typer.Argument(
            help="JSONL, CSV, Parquet, a folder of audio, tars, hf://NAME, - for stdin, …", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint folder, or a name on the Hugging Face hub.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="The rows file, ending in .jsonl. [default: MANIFEST.MODEL.jsonl in this folder]"
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language of rows without `lang`, e.g. en. [default: the model detects it, row by row]"),
    ] = None,
    task: Annotated[Task, typer.Option(help="Transcribe, or translate (Whisper: into English).")] = Task.transcribe,
    target_language: Annotated[
        str | None, typer.Option(help="Into which it is translated, where the model lets one choose.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="For rows without `prompt`: the text before (Whisper: style, spelling of names), context, or the "
            "instruction of "
            "models asked by their chat template; there {audio} says where the audio goes. "
            "[default: none; in a chat 'Transcribe the following:']"
        ),
    ] = None,
    hotwords: Annotated[
        str | None, typer.Option(help="Words to expect, such as names; refused where the model would ignore them.")
    ] = None,
    prompt_style: Annotated[
        PromptStyle,
        typer.Option(
            help="Ask by vLLM's transcription interface, or by the checkpoint's chat template. [auto: what it has]"
        ),
    ] = PromptStyle.auto,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Variables of the chat template, e.g. '{\"enable_thinking\": false}'."),
    ] = None,
    windows: Annotated[
        Windows,
        typer.Option(
            help="How audio longer than the model hears at once is cut: at quiet points, where the model's last "
            "segment ended, "
            "in silences (long ones are skipped), at fixed lengths, or never."
        ),
    ] = Windows.energy,
    window_seconds: Annotated[
        float | None,
        typer.Option(help="Longest audio asked about at once. [default: what the model hears]", show_default=False),
    ] = None,
    vad_filter: Annotated[
        bool,
        typer.Option(
            "--vad-filter", help="With --windows sequential: skip long silences, which --windows silence always does."
        ),
    ] = False,
    condition_on_previous: Annotated[
        bool,
        typer.Option(
            "--condition-on-previous", help="With --windows sequential: ask each window with the text before it."
        ),
    ] = False,
    timestamps: Annotated[
        bool | None,
        typer.Option(
            help="Have the model say when each segment begins and ends; without, segments are windows. [default: "
            "where it can]",
            show_default=False,
        ),
    ] = None,
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="Refused: says what is missing for times of words.")
    ] = False,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Ask again, at rising temperatures, for windows whose text looks wrong.")
    ] = False,
    drop_no_speech: Annotated[
        bool | None,
        typer.Option(
            "--drop-no-speech/--keep-no-speech",
            help="Leave out text of windows in which the model hears nobody speak. [default: drop with --windows "
            "sequential]",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="What the manifest is. [default: recognised by what it holds]", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A data set on the Hugging Face hub; the same as hf://NAME.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Which configuration of a hub data set that has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a data set that has several.")] = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming", help="Read a hub data set's Parquet files where they are, without fetching all first."
        ),
    ] = False,
    audio_column: Annotated[str | None, typer.Option(help="Field or column that holds the audio or its path.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Field or column that holds the reference.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Field or column that holds the id.")] = None,
    tars: Annotated[
        str | None, typer.Option(help="The tars whose members a NeMo manifest names, e.g. 'audio__OP_0..7_CL_.tar'.")
    ] = None,
    audio_folder: Annotated[
        str | None, typer.Option(help="What relative audio paths are relative to. [default: the manifest's folder]")
    ] = None,
    allow_pipes: Annotated[
        bool, typer.Option("--allow-pipes", help="Run the commands that a Kaldi wav.scp holds.")
    ] = False,
    on_bad_row: Annotated[
        OnBadRow, typer.Option(help="Refuse a manifest with bad rows, naming them all; or make them failed rows.")
    ] = OnBadRow.refuse,
    num_chunks: Annotated[
        int | None,
        typer.Option(help="Deal the manifest out into so many chunks, one process each.", show_default=False),
    ] = None,
    chunk_id: Annotated[
        int | None,
        typer.Option(help="Which chunk this is, from 0. [default: the place in the SLURM array]", show_default=False),
    ] = None,
    chunk_offset: Annotated[
        int | None, typer.Option(help="Added to the place in the SLURM array. [default: 0]", show_default=False)
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="How rows are dealt out: by audio, in pieces of as many rows, in turn, in pieces of as much audio."
        ),
    ] = Strategy.balanced,
    devices: Annotated[
        str | None,
        typer.Option(help="One worker process on each, e.g. 0,1,2,3 or all. [default: one engine on what is visible]"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew, removing what stands at --output.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed rows again.")] = False,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit of the model.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A tokenizer that is not the checkpoint's own: a folder, or a name on the hub.")
    ] = None,
    lora: Annotated[str | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Load this vLLM plugin, and none that is not named; may be repeated. [default: all]"
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Arithmetic of the model; auto suits model and device.")] = Dtype.auto,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens generated for one window. [default: what the decoder has room for]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling parameters; used by --fallback alone.")] = 0,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any vLLM engine argument, e.g. max_num_seqs=32; may be repeated."),
    ] = None,
    engine_mode: Annotated[
        EngineMode,
        typer.Option(help="Run vLLM in a thread or in a process of its own; auto: thread on CPU, process on GPU."),
    ] = EngineMode.auto,
    workers: Annotated[
        int | None,
        typer.Option(help="Preparation threads, each with a decoder process. [default: one per core, at most 16]"),
    ] = None,
    max_windows: Annotated[
        int | None,
        typer.Option(help="Windows between manifest and output at any time. [default: twice what the engine works on]"),
    ] = None,
    max_audio: Annotated[
        float | None,
        typer.Option(help="Seconds of audio between manifest and output. [default: a full window for each]"),
    ] = None,
    decode_timeout: Annotated[float, typer.Option(help="Seconds that 30 s of one file may take to decode.")] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds an interrupted run may take to finish what is in the engine.")
    ] = 20.0,
    hang_timeout: Annotated[
        float, typer.Option(help="Seconds an engine with windows in it may answer none before it is taken for dead.")
    ] = 1800.0,
) -> None:
    """Never called: its signature is the list of options."""


PARAMETERS = inspect.signature(_run_options).parameters
# What a model is and how it is asked.
ASKING = (
    "language", "task", "target_language", "prompt", "hotwords", "prompt_style", "chat_template_kwargs", "windows",
    "window_seconds", "timestamps", "revision", "tokenizer", "lora", "plugin", "trust_remote_code", "dtype",
    "max_tokens",
    "engine_arg", "engine_mode",
)  # fmt: skip
# How a manifest is read: every command that reads one takes these.
READING = (
    "format", "dataset", "config", "split", "streaming", "audio_column", "text_column", "id_column", "tars",
    "audio_folder",
    "allow_pipes", "on_bad_row",
)  # fmt: skip
