"""The options of a score, said once: `score`, `compare` and `report` take them and receive one `ScoreOptions`."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import UsageError

_MOST_RESAMPLES = 1_000_000


def _scoring_options(
    references: Annotated[
        str | None, typer.Option(help="A manifest whose rows were all to be predicted; its `text` counts.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which split of a data set that has several.")] = None,
    normalizer: Annotated[
        str,
        typer.Option(help="Of auto, whisper-english, whisper-basic, leaderboard, none; auto: whisper-english for English."),
    ] = "auto",
    language: Annotated[str | None, typer.Option(help="Of rows without `lang`. [default: that of the run, or en]")] = None,
    by: Annotated[str | None, typer.Option(help="Fields to make groups by, with commas; `duration` makes bins.")] = None,
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
            from ..scoring import ScoreOptions

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
