"""The options of `option_list` given to commands: `transcribe` takes them, `plan` and `submit` take the same and pass
them on.

A command that wants them is decorated with `takes_run_options` and receives them as one `RunOptions`.

The options of a score, said once: `score`, `compare` and `report` take them and receive one `ScoreOptions`.
"""

import functools
import inspect
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from asrbatch.cli.run_options import PARAMETERS, READING
from asrbatch.config import EngineConfig, RunConfig, resolve_chunk_id
from asrbatch.errors import UsageError
from asrbatch.storage.remote import absolute

_NO_WORD_TIMESTAMPS = (
    "--word-timestamps: Whisper's times of words are read from its cross-attention, which vLLM does not hand out; "
    "segments have "
    "times, and a forced aligner (torchaudio's, whisperX's) finds those of words from the audio and the segments"
)


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
            raise UsageError(
                "--model is missing; give a folder or a hub name, for example --model openai/whisper-large-v3-turbo"
            )
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
        return self.arguments(without=tuple(name for name in PARAMETERS if name not in READING))

    def arguments(self, *, without: tuple[str, ...] = (), **changes: Any) -> list[str]:
        """The arguments of `asrbatch transcribe` that say the same, the manifest first.

        Args:
            without: parameters to leave out.
            changes: values that take the place of those given, by parameter name.
        """
        words: list[str] = []
        for name, parameter in PARAMETERS.items():
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
    """Gives a command the options that say how a manifest is read; its first parameter receives them by name, in a
    dict.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = {name: PARAMETERS[name] for name in READING}

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        return command({name: values.pop(name) for name in shared}, **values)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *shared.values()]]
    called.__signature__ = inspect.Signature(keyword_only)
    called.__annotations__ = {}
    return called


def takes_run_options(
    *, without: tuple[str, ...] = (), only: tuple[str, ...] | None = None
) -> Callable[[Callable], Callable]:
    """Gives a command the options of a run; its first parameter receives them as `RunOptions`.

    Args:
        without: parameters this command does not take.
        only: those it takes; None for all the others.
    """

    def decorate(command: Callable) -> Callable:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = {n: p for n, p in PARAMETERS.items() if n not in without and (only is None or n in only)}

        @functools.wraps(command)
        def called(context: typer.Context, **values: Any) -> Any:
            run = {name: values.pop(name) if name in shared else p.default for name, p in PARAMETERS.items()}
            given = [name for name in shared if context.get_parameter_source(name).name == "COMMANDLINE"]
            if "manifest" in shared:
                run["manifest"] = choose_manifest(run["manifest"], run["dataset"])
                if run["dataset"] is not None:
                    given = ["manifest", *(name for name in given if name != "dataset")]
                run["dataset"] = None
            return command(RunOptions(run, given), **values)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*shared.values(), *own]]
        called.__signature__ = inspect.Signature([context, *keyword_only])
        called.__annotations__ = {}
        return called

    return decorate


_MOST_RESAMPLES = 1_000_000


def _scoring_options(
    references: Annotated[
        str | None, typer.Option(help="A manifest whose rows were all to be predicted; its `text` counts.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a data set that has several.")] = None,
    normalizer: Annotated[
        str,
        typer.Option(
            help="Of auto, whisper-english, whisper-basic, leaderboard, none; auto: whisper-english for English."
        ),
    ] = "auto",
    language: Annotated[
        str | None, typer.Option(help="Of rows without `lang`. [default: that of the run, or en]")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Fields to make groups by, with commas; `duration` makes bins.")
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field with the reference.")] = "text",
    pred_field: Annotated[
        str | None, typer.Option(help="The field with the prediction. [default: pred_text, or what begins so]")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, max=_MOST_RESAMPLES, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Never called: its signature is the list of options."""


_PARAMETERS = inspect.signature(_scoring_options).parameters
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def takes_scoring_options(*, resamples: int = 1000) -> Callable[[Callable], Callable]:
    """Gives a command the options of a score; its first parameter receives them as `ScoreOptions`.

    Args:
        resamples: how many there are where none were asked for.
    """

    def decorate(command: Callable) -> Callable:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = {**_PARAMETERS, "resamples": _PARAMETERS["resamples"].replace(default=resamples)}

        @functools.wraps(command)
        def called(**values: Any) -> Any:
            from asrbatch.evaluation.options import ScoreOptions

            given = {name: values.pop(name) for name in shared}
            return command(ScoreOptions(**{**given, "by": _fields(given["by"])}), **values)

        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *shared.values()]]
        called.__signature__ = inspect.Signature(keyword_only)
        called.__annotations__ = {}
        return called

    return decorate


def _fields(given: str | None) -> tuple[str, ...]:
    """`dataset,lang` as names, each once.

    Raises:
        UsageError: one of them is empty, or all.
    """
    if given is not None and not given.strip():
        raise UsageError("--by is empty; give names of fields, or leave it out")
    names = tuple(dict.fromkeys(name.strip() for name in given.split(","))) if given is not None else ()
    if "" in names:
        raise UsageError(f"--by {given}: an empty name; write field names with one comma between them")
    return names


def say(line: str) -> None:
    """How far it is, on standard error."""
    typer.echo(line, err=True)
