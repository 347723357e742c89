"""The options of a run, said once: `transcribe` takes them, `plan` and `submit` take the same and pass them on.

A command that wants them is decorated with `takes_run_options` and receives them as one `RunOptions`.
"""

import functools
import inspect
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from ..config import EngineConfig, RunConfig, resolve_chunk_id
from ..errors import UsageError
from ..manifest_sources import absolute
from ..source_options import FORMATS


class Task(str, Enum):
    transcribe = "transcribe"
    translate = "translate"


class Dtype(str, Enum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class EngineMode(str, Enum):
    auto = "auto"
    thread = "thread"
    process = "process"


class Strategy(str, Enum):
    balanced = "balanced"
    contiguous = "contiguous"
    strided = "strided"
    consecutive = "consecutive"


class OnBadRow(str, Enum):
    refuse = "refuse"
    fail = "fail"


class PromptStyle(str, Enum):
    auto = "auto"
    transcription = "transcription"
    chat = "chat"


Format = Enum("Format", {name: name for name in FORMATS}, type=str)


class Windows(str, Enum):
    energy = "energy"
    sequential = "sequential"
    silence = "silence"
    fixed = "fixed"
    none = "none"


def _run_options(
    manifest: Annotated[
        str | None,
        typer.Argument(help="JSONL, CSV, Parquet, a folder of audio, tars, hf://NAME, - for stdin, …", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A checkpoint folder, or a name on the Hugging Face hub.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The rows file, ending in .jsonl. [default: MANIFEST.MODEL.jsonl in this folder]"),
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
            help="For rows without `prompt`: the text before (Whisper: style, spelling of names), context, or the instruction of "
            "models asked by their chat template; there {audio} says where the audio goes. "
            "[default: none; in a chat 'Transcribe the following:']"
        ),
    ] = None,
    hotwords: Annotated[
        str | None, typer.Option(help="Words to expect, such as names; refused where the model would ignore them.")
    ] = None,
    prompt_style: Annotated[
        PromptStyle,
        typer.Option(help="Ask by vLLM's transcription interface, or by the checkpoint's chat template. [auto: what it has]"),
    ] = PromptStyle.auto,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(metavar="JSON", help="Variables of the chat template, e.g. '{\"enable_thinking\": false}'.")
    ] = None,
    windows: Annotated[
        Windows,
        typer.Option(
            help="How audio longer than the model hears at once is cut: at quiet points, where the model's last segment ended, "
            "in silences (long ones are skipped), at fixed lengths, or never."
        ),
    ] = Windows.energy,
    window_seconds: Annotated[
        float | None, typer.Option(help="Longest audio asked about at once. [default: what the model hears]", show_default=False)
    ] = None,
    vad_filter: Annotated[
        bool,
        typer.Option("--vad-filter", help="With --windows sequential: skip long silences, which --windows silence always does."),
    ] = False,
    condition_on_previous: Annotated[
        bool, typer.Option("--condition-on-previous", help="With --windows sequential: ask each window with the text before it.")
    ] = False,
    timestamps: Annotated[
        bool | None,
        typer.Option(
            help="Have the model say when each segment begins and ends; without, segments are windows. [default: where it can]",
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
            help="Leave out text of windows in which the model hears nobody speak. [default: drop with --windows sequential]",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="What the manifest is. [default: recognised by what it holds]", show_default=False)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set on the Hugging Face hub; the same as hf://NAME.")] = None,
    config: Annotated[str | None, typer.Option(help="Which configuration of a hub data set that has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a data set that has several.")] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read a hub data set's Parquet files where they are, without fetching all first.")
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
    allow_pipes: Annotated[bool, typer.Option("--allow-pipes", help="Run the commands that a Kaldi wav.scp holds.")] = False,
    on_bad_row: Annotated[
        OnBadRow, typer.Option(help="Refuse a manifest with bad rows, naming them all; or make them failed rows.")
    ] = OnBadRow.refuse,
    num_chunks: Annotated[
        int | None, typer.Option(help="Deal the manifest out into so many chunks, one process each.", show_default=False)
    ] = None,
    chunk_id: Annotated[
        int | None, typer.Option(help="Which chunk this is, from 0. [default: the place in the SLURM array]", show_default=False)
    ] = None,
    chunk_offset: Annotated[
        int | None, typer.Option(help="Added to the place in the SLURM array. [default: 0]", show_default=False)
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="How rows are dealt out: by audio, in pieces of as many rows, in turn, in pieces of as much audio."),
    ] = Strategy.balanced,
    devices: Annotated[
        str | None,
        typer.Option(help="One worker process on each, e.g. 0,1,2,3 or all. [default: one engine on what is visible]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew, removing what stands at --output.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed rows again.")] = False,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit of the model.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A tokenizer that is not the checkpoint's own: a folder, or a name on the hub.")
    ] = None,
    lora: Annotated[str | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Load this vLLM plugin, and none that is not named; may be repeated. [default: all]"),
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
        EngineMode, typer.Option(help="Run vLLM in a thread or in a process of its own; auto: thread on CPU, process on GPU.")
    ] = EngineMode.auto,
    workers: Annotated[
        int | None, typer.Option(help="Preparation threads, each with a decoder process. [default: one per core, at most 16]")
    ] = None,
    max_windows: Annotated[
        int | None,
        typer.Option(help="Windows between manifest and output at any time. [default: twice what the engine works on]"),
    ] = None,
    max_audio: Annotated[
        float | None, typer.Option(help="Seconds of audio between manifest and output. [default: a full window for each]")
    ] = None,
    decode_timeout: Annotated[float, typer.Option(help="Seconds that 30 s of one file may take to decode.")] = 300.0,
    grace: Annotated[float, typer.Option(help="Seconds an interrupted run may take to finish what is in the engine.")] = 20.0,
    hang_timeout: Annotated[
        float, typer.Option(help="Seconds an engine with windows in it may answer none before it is taken for dead.")
    ] = 1800.0,
) -> None:
    """Never called: its signature is the list of options."""


_NO_WORD_TIMESTAMPS = (
    "--word-timestamps: Whisper's times of words are read from its cross-attention, which vLLM does not hand out; segments have "
    "times, and a forced aligner (torchaudio's, whisperX's) finds those of words from the audio and the segments"
)
_PARAMETERS = inspect.signature(_run_options).parameters
# How a manifest is read: every command that reads one takes these.
READING = (
    "format", "dataset", "config", "split", "streaming", "audio_column", "text_column", "id_column", "tars", "audio_folder",
    "allow_pipes", "on_bad_row",
)  # fmt: skip


def reading_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `SourceOptions` as the options of a command give them, by parameter name."""
    fields = run_reading_fields(values)
    folder = fields.pop("audio_folder")
    return {**fields, "folder": None if folder is None else absolute(folder)}


def run_reading_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The same as fields of `RunConfig`."""
    fields = {name: values[name] for name in READING if name not in ("dataset", "config")}
    fields["dataset_config"] = values["config"]
    return {name: value.value if isinstance(value, Enum) else value for name, value in fields.items()}


def choose_manifest(manifest: str | None, dataset: str | None, *, name: str = "MANIFEST") -> str:
    """What is to be read. Raises UsageError: nothing, or two things."""
    if manifest is None and dataset is None:
        raise UsageError(f"{name} is missing; give a file, a folder, - for standard input, or --dataset NAME")
    if manifest is not None and dataset is not None:
        raise UsageError(f"--dataset {dataset}: the manifest is {manifest} already; give one of them")
    return manifest if dataset is None else f"hf://{dataset}"


class RunOptions:
    """What was given on the command line.

    Attributes:
        values: every option's value, by parameter name.
        given: the names of those that were written.
    """

    def __init__(self, values: dict[str, Any], given: list[str]):
        self.values = values
        self.given = given

    def config(self, *, environment: dict[str, str], **changes: Any) -> RunConfig:
        """The options as a `RunConfig`.

        Args:
            environment: where SLURM says which task of an array this is.
            changes: values that take the place of those given, by parameter name.

        Raises:
            UsageError: see `RunConfig`.
        """
        v = {**self.values, **changes}
        if v["model"] is None:
            raise UsageError("--model is missing; give a folder or a hub name, for example --model openai/whisper-large-v3-turbo")
        if v["word_timestamps"]:
            raise UsageError(_NO_WORD_TIMESTAMPS)
        return RunConfig(
            **run_reading_fields(v),
            manifest=v["manifest"],
            engine=EngineConfig(
                model=v["model"],
                revision=v["revision"],
                dtype=v["dtype"].value,
                mode=v["engine_mode"].value,
                max_tokens=v["max_tokens"],
                seed=v["seed"],
                args=tuple(v["engine_arg"] or ()),
                prompt_style=v["prompt_style"].value,
                chat_template_kwargs=v["chat_template_kwargs"],
                plugins=tuple(v["plugin"] or ()),
                tokenizer=v["tokenizer"],
                trust_remote_code=v["trust_remote_code"],
                lora=v["lora"],
            ),
            output=v["output"],
            language=v["language"],
            task=v["task"].value,
            target_language=v["target_language"],
            prompt=v["prompt"],
            hotwords=v["hotwords"],
            windows=v["windows"].value,
            window_s=v["window_seconds"],
            vad_filter=v["vad_filter"],
            condition_on_previous=v["condition_on_previous"],
            timestamps=v["timestamps"],
            fallback=v["fallback"],
            drop_no_speech=v["drop_no_speech"],
            num_chunks=v["num_chunks"],
            chunk_id=resolve_chunk_id(v["num_chunks"], v["chunk_id"], v["chunk_offset"], environment),
            strategy=v["strategy"].value,
            devices=v["devices"],
            overwrite=v["overwrite"],
            retry_failed=v["retry_failed"],
            workers=v["workers"],
            max_windows=v["max_windows"],
            max_audio_s=v["max_audio"],
            decode_timeout_s=v["decode_timeout"],
            grace_s=v["grace"],
            hang_timeout_s=v["hang_timeout"],
        )

    def reading_arguments(self) -> list[str]:
        """The arguments that say how the manifest is read, for another command."""
        return self.arguments(without=tuple(name for name in _PARAMETERS if name not in READING))

    def arguments(self, *, without: tuple[str, ...] = (), **changes: Any) -> list[str]:
        """The arguments of `asrbatch transcribe` that say the same, the manifest first.

        Args:
            without: parameters to leave out.
            changes: values that take the place of those given, by parameter name.
        """
        words: list[str] = []
        for name, parameter in _PARAMETERS.items():
            value = changes.get(name, self.values[name])
            if name in without or (name not in self.given and name not in changes) or value is None:
                continue
            info = parameter.annotation.__metadata__[0]
            if isinstance(info, typer.models.ArgumentInfo):
                words.insert(0, str(value))
                continue
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is False:
                # Of options that have two names; the others are off without being mentioned.
                words += [second for second in _secondary(info, option) if name in self.given or name in changes]
            else:
                for each in value if isinstance(value, list) else [value]:
                    text = str(each.value if isinstance(each, Enum) else each)
                    # `--prompt -x` would be read as an option; `--prompt=-x` is not.
                    words += [f"{option}={text}"] if text.startswith("-") else [option, text]
        return words


def _secondary(info: Any, option: str) -> list[str]:
    """The name that turns an option off, if it has one."""
    declared = info.param_decls or [f"{option}/--no-{option[2:]}"]
    return [name.split("/")[1] for name in declared if "/" in name]


def takes_reading_options(command: Callable) -> Callable:
    """Gives a command the options that say how a manifest is read; its first parameter receives them by name, in a dict."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = {name: _PARAMETERS[name] for name in READING}

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        return command({name: values.pop(name) for name in shared}, **values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *shared.values()]]
    called.__signature__ = inspect.Signature(keyword_only)
    called.__annotations__ = {}
    return called


def takes_run_options(*, without: tuple[str, ...] = (), only: tuple[str, ...] | None = None) -> Callable[[Callable], Callable]:
    """Gives a command the options of a run; its first parameter receives them as `RunOptions`.

    Args:
        without: parameters this command does not take.
        only: those it takes; None for all the others.
    """

    def decorate(command: Callable) -> Callable:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = {n: p for n, p in _PARAMETERS.items() if n not in without and (only is None or n in only)}

        @functools.wraps(command)
        def called(context: typer.Context, **values: Any) -> Any:
            run = {name: values.pop(name) if name in shared else p.default for name, p in _PARAMETERS.items()}
            given = [name for name in shared if context.get_parameter_source(name).name == "COMMANDLINE"]
            if "manifest" in shared:
                run["manifest"] = choose_manifest(run["manifest"], run["dataset"])
            if run.pop("dataset") is not None:
                given = ["manifest", *(name for name in given if name != "dataset")]
            run["dataset"] = None
            return command(RunOptions(run, given), **values)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*shared.values(), *own]]
        called.__signature__ = inspect.Signature([context, *keyword_only])
        called.__annotations__ = {}
        return called

    return decorate
