"""The options of commands, made of the fields of dataclasses that declare them (`asrbatch.options`).

A command is decorated with `takes(name=group)`: in place of its parameter of that name it gets the group's options, and
receives what the group makes of them. Says no option itself but those that are settled before there is a `RunConfig`.
"""

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Annotated, Any, Literal, NamedTuple

import typer

from asrbatch.cli.common import Verbose
from asrbatch.cli.help import AS_TRANSCRIBE
from asrbatch.cluster.array_index import resolve_chunk_id
from asrbatch.config import (
    ChunkOptions,
    DecoderOptions,
    EngineConfig,
    LimitOptions,
    OutputOptions,
    PriceOptions,
    RunConfig,
    SourceOptions,
    TaskOptions,
    WindowOptions,
    descriptor_of,
    run_config,
    source_options,
)
from asrbatch.errors import UsageError
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.options import flag, flags, option

Parameters = dict[str, inspect.Parameter]
# Of every command; its callback does what there is to do.
_VERBOSE = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)


class OptionGroup(NamedTuple):
    """Options that a command takes together.

    Attributes:
        parameters: by name, as typer wants them.
        make: of their values, and of the names of those that were written, what the command receives.
    """

    parameters: Parameters
    make: Callable[[dict[str, Any], list[str]], Any]


def takes(**groups: OptionGroup) -> Callable[[Callable], Callable]:
    """Gives a command the options of each group, in place of its parameter of that name, and --verbose.

    Its own options have an `option()` in place of their default.
    """

    def decorate(command: Callable) -> Callable:
        # Only the context tells what was written from a default of the same value.
        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for name, own in inspect.signature(command).parameters.items():
            taken = [own]
            if name in groups:
                taken = groups[name].parameters.values()
            elif isinstance(own.default, Field):  # of no class, which would have told it these
                own.default.name, own.default.type = name, own.annotation
                taken = parameters_of([own.default], with_bounds=True).values()
            parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken]

        def receive(values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
            """What the command's function gets of these values, by name; `given` are those that were written."""
            for name, group in groups.items():
                written = [n for n in group.parameters if n in given]
                values[name] = group.make({n: values.pop(n) for n in group.parameters}, written)
            return values

        @functools.wraps(command)
        def called(context: typer.Context, verbose: bool, **values: Any) -> Any:
            given = [n for n in values if context.get_parameter_source(n).name == "COMMANDLINE"]
            return command(**receive(values, given))

        called.receive = receive  # for `keywords.py`
        # typer makes options of this, and believes it rather than the function's own.
        called.__signature__ = inspect.Signature([*parameters, _VERBOSE])
        called.__annotations__ = {}  # typer would ask for those of the command
        return called

    return decorate


def parameters_of(
    options: Iterable[Field],
    *,
    types: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    titles: Mapping[str, str | None] | None = None,
    with_bounds: bool = False,
) -> Parameters:
    """Fields that are options, as parameters of a command.

    Args:
        types, defaults: of options that are written otherwise than they are kept, by name.
        titles: of the groups of `--help`, by name.
        with_bounds: let typer check bounds and show them; otherwise their dataclass does.
    """
    return {
        each.name: _parameter(
            each,
            (types or {}).get(each.name) or _type_of(each),
            (defaults or {}).get(each.name, None if each.default in (MISSING, ()) else each.default),
            (titles or {}).get(each.name),
            with_bounds,
        )
        for each in options
        if each.metadata
    }


def _parameter(option: Field, type_: Any, default: Any, title: str | None, with_bounds: bool) -> inspect.Parameter:
    metadata = option.metadata
    if option.name == "manifest" and not metadata["flags"]:
        # The one that is written by its place.
        info = typer.Argument(help=metadata["help"], show_default=False)
    else:
        info = typer.Option(
            *flags(option),
            help=metadata["help"],
            metavar=metadata["metavar"],
            rich_help_panel=title,
            show_default="[default:" not in metadata["help"],
            min=metadata["minimum"] if with_bounds else None,
            max=metadata["maximum"] if with_bounds else None,
        )
    type_ = type_ | None if default is None else type_
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, info]
    )


def _type_of(option: Field) -> Any:
    if option.metadata["choices"]:
        return Literal[tuple(option.metadata["choices"])]
    return list[str] if option.type == tuple[str, ...] else option.type


@dataclass(frozen=True)
class _CommandOptions:
    """Options that are settled before there is a `RunConfig`."""

    dataset: str | None = option(None, "A data set on the Hugging Face hub; the same as hf://NAME.")
    chunk_offset: int | None = option(None, "Added to the place in the array of tasks. [default: 0]")


# Every option of a run, in the order and under the titles of `--help`. A class stands for those that no group names.
_GROUPS: dict[str, tuple[str | type, ...]] = {
    "Most used": (
        "manifest", "model", "output", "language", "windows", "fallback", "word_timestamps", "num_chunks", "chunk_id",
        "devices", "retry_failed",
    ),
    "Model": ("revision", "tokenizer", "lora", "plugins", "prompt_style", "chat_template_kwargs", "trust_remote_code"),
    "Audio and windows": ("window_s", "vad_filter", "track", "drop_no_speech"),
    "Decoding": (
        TaskOptions, "timestamps", "condition_on_previous", "max_tokens", "seed", WindowOptions,
    ),
    "Manifest": ("format", "dataset", SourceOptions),
    "Chunks": ("chunk_offset", ChunkOptions, PriceOptions),
    "Output and resume": (OutputOptions,),
    "Engine and limits": (EngineConfig, LimitOptions),
}  # fmt: skip


def _run_fields() -> Iterable[tuple[Field, str]]:
    """Every option of a run, with the title of its group."""
    known = {each.name: each for each in (*fields(RunConfig), *fields(EngineConfig), *fields(_CommandOptions))}
    left = dict(known)
    named = {name for group in _GROUPS.values() for name in group if isinstance(name, str)}
    for title, group in _GROUPS.items():
        for each in group:
            names = [each] if isinstance(each, str) else [f.name for f in fields(each) if f.name not in named]
            # A class inherits options of another.
            yield from ((left.pop(name), title) for name in names if name in left)


_TITLED = {field.name: (field, title) for field, title in _run_fields()}
FIELDS = {name: field for name, (field, _) in _TITLED.items()}
PARAMETERS = parameters_of(FIELDS.values(), titles={name: title for name, (_, title) in _TITLED.items()})
# Of commands whose help names the options of transcribe and does not explain them. It has no --text-field.
NOT_EXPLAINED = {name: None if name == "text_field" else AS_TRANSCRIBE for name in FIELDS}
# How a manifest is read: every command that reads one takes these.
READING = tuple(name for name in FIELDS if name == "dataset" or name in {each.name for each in fields(SourceOptions)})
# What a model is and how it is asked. Not in it: what changes neither, such as how often it is asked again.
MODEL_OPTIONS = tuple(
    name
    for name in FIELDS
    if name in {each.name for each in (*fields(TaskOptions), *fields(EngineConfig))} - {"model", "seed", "text_field"}
    or name in ("windows", "window_s", "timestamps")
)


def command_of(values: Mapping[str, Any]) -> str:
    """What runs these options, of a run, by name."""
    return "transcribe" if values["text_field"] is None else "align"


def flag_of(name: str) -> str:
    """What an option of a run is called on the command line."""
    return flag(FIELDS[name])


def choose_sources(given: Sequence[str], dataset: str | None, *, name: str = "MANIFEST") -> list[str]:
    """What is to be read, at least one thing. Raises UsageError: nothing, or what cannot be read together."""
    if given and dataset is not None:
        raise UsageError(f"--dataset {dataset}: the manifest is {given[0]} already; give one of them")
    if not given and dataset is None:
        raise UsageError(f"{name} is missing; give a file, a folder, - for standard input, or --dataset NAME")
    if [descriptor_of(each) for each in given].count(0) > 1:
        raise UsageError("-: standard input can be read once")
    return list(given) or [f"hf://{dataset}"]


@dataclass(frozen=True)
class ProbeOptions(DecoderOptions):
    """How audio is read that is looked at and not transcribed."""

    workers: int | None = option(None, "Processes that read audio. [default: 8, or one per core]", minimum=1)

    @property
    def num_workers(self) -> int:
        # Headers are waited for more than worked on; decoding needs cores.
        return self.workers or max(8, min(32, len(os.sched_getaffinity(0))))


class RunOptions(NamedTuple):
    """What was given on the command line.

    Attributes:
        values: every option's value, by name.
        given: the names of those that were written.
    """

    values: dict[str, Any]
    given: list[str]

    @property
    def reading(self) -> SourceOptions:
        """How the manifest is to be read. Raises UsageError."""
        return source_options(self.values)

    def config(self, *, environment: Mapping[str, str], **changes: Any) -> RunConfig:
        """The options as a `RunConfig`.

        Args:
            environment: where a scheduler says which task of an array this is.
            changes: values that take the place of those given, by name.

        Raises:
            UsageError: see `RunConfig`.
        """
        values = {**self.values, **changes}
        # Not demanded by typer: `plan` does without.
        if values["model"] is None:
            raise UsageError(
                "--model is missing; give a folder or a hub name, for example --model openai/whisper-large-v3-turbo"
            )
        offset = values.pop("chunk_offset")
        values["chunk_id"], source = resolve_chunk_id(values["num_chunks"], values["chunk_id"], offset, environment)
        # It is the manifest by now, see `run_options`.
        del values["dataset"]
        return replace(run_config(values), chunk_source=source)

    def arguments(
        self, *, only: Iterable[str] = tuple(FIELDS), without: Iterable[str] = (), **changes: Any
    ) -> list[str]:
        """The arguments of `asrbatch transcribe` that say the same, the manifest first.

        Args:
            only, without: options to keep, and of them those to leave out.
            changes: values that take the place of those given, by name.
        """
        words: list[str] = []
        for name, field in FIELDS.items():
            value = changes.get(name, self.values[name])
            # Only what was written: a script says what its user has said, and no more.
            is_said = name in changes or (name in self.given and name in only and name not in without)
            if is_said and value is not None:
                words += value if name == "manifest" else _words(field, value)
        return words


def merge_arguments(options: RunOptions, config: RunConfig, manifests: Iterable[str]) -> list[str]:
    """What merges this run, for a merge job and for a person."""
    arguments = ["merge-shards", str(config.output_path)]
    arguments += [word for each in manifests for word in ("--manifest", each)]
    arguments += ["--num-chunks", str(config.num_chunks), *options.arguments(only=READING)]
    return [*arguments, "--overwrite"] if config.overwrite else arguments


def _words(option: Field, value: Any) -> list[str]:
    """An option as it is written."""
    on, _, off = flags(option)[0].partition("/")
    if isinstance(value, bool):
        # Of a switch with one name nothing says that it is off.
        return [on] if value else [off] if off else []
    # `--prompt -x` would be read as an option; `--prompt=-x` is not.
    texts = map(str, value if isinstance(value, tuple) else [value])
    return [word for text in texts for word in ([f"{on}={text}"] if text.startswith("-") else [on, text])]


def _with_help(option: Field, help: str | None) -> Field:
    if help is None:
        return option
    changed = copy(option)
    changed.metadata = {**option.metadata, "help": help}
    return changed


def run_options(
    *,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = tuple(FIELDS),
    titles: Mapping[str, str | None] | None = None,
    helps: Mapping[str, str] | None = None,
) -> OptionGroup:
    """The options of a run; a command receives them as `RunOptions`.

    Args:
        without: those this command does not take, of `only`.
        titles: of groups of `--help` that are not those of transcribe, by option.
        helps: of options that mean something else here, by name.
    """
    told = [_with_help(field, (helps or {}).get(name)) for name, field in FIELDS.items()]
    all_titles = {name: title for name, (_, title) in _TITLED.items()} | dict(titles or {})
    shared = parameters_of((f for f in told if f.name in only and f.name not in without), titles=all_titles)

    def make(values: dict[str, Any], given: list[str]) -> RunOptions:
        # Those too that this command does not take: a `RunConfig` is made of all.
        run = {name: values.get(name, parameter.default) for name, parameter in PARAMETERS.items()}
        # typer gives lists; the config is frozen, and so are its values.
        run.update({name: tuple(run[name] or ()) for name, field in FIELDS.items() if field.type == tuple[str, ...]})
        if "manifest" in shared:
            run["manifest"] = choose_sources(run["manifest"], run["dataset"])
            if run["dataset"] is not None:
                # A command line that is made of it names it as its manifest.
                given = ["manifest", *(name for name in given if name != "dataset")]
            run["dataset"] = None
        return RunOptions(run, given)

    return OptionGroup(shared, make)


def scoring_options() -> OptionGroup:
    """The options of a score; a command receives them as `ScoreOptions`."""
    shared = parameters_of(fields(ScoreOptions), types={"by": str}, defaults={"by": None}, with_bounds=True)
    return OptionGroup(shared, lambda values, _: ScoreOptions(**{**values, "by": _names(values["by"])}))


def options_of(kind: type) -> OptionGroup:
    """The options that a dataclass declares; a command receives them as an object of it."""
    return OptionGroup(parameters_of(fields(kind)), lambda values, _: kind(**values))


def _names(given: str | None) -> tuple[str, ...]:
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
