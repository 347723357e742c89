"""`asrbatch score`: word and character error rates of predictions."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .common import Verbose

References = Annotated[str | None, typer.Option(help="A manifest whose rows were all to be predicted; its `text` counts.")]
Split = Annotated[str | None, typer.Option(help="Which split of a data set that has several.")]
NormalizerName = Annotated[
    str, typer.Option(help="Of auto, whisper-english, whisper-basic, leaderboard, none; auto: whisper-english for English.")
]
Language = Annotated[str | None, typer.Option(help="Of rows without `lang`. [default: that of the run, or en]")]
By = Annotated[str | None, typer.Option(help="Fields to make groups by, with commas; `duration` makes bins.")]
TextField = Annotated[str, typer.Option(help="The field with the reference.")]
PredField = Annotated[str | None, typer.Option(help="The field with the prediction. [default: pred_text, or what begins so]")]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
MOST_RESAMPLES = 1_000_000


def score(
    predictions: Annotated[str, typer.Argument(help="A rows file, merged or not, or other JSON Lines with predictions.")],
    references: References = None,
    split: Split = None,
    normalizer: NormalizerName = "auto",
    language: Language = None,
    by: By = None,
    text_field: TextField = "text",
    pred_field: PredField = None,
    resamples: Annotated[int, typer.Option(min=1, max=MOST_RESAMPLES, help="Of the bootstrap.")] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Score predictions: WER and CER with intervals, in all and by group, and how long rows took.

    Exit codes: 0 scored; 1 stopped by an error; 2 usage, or no row has a reference; 3 scored, and rows that failed or are
    missing count as empty.
    """
    from ..display_scores import score_parts
    from ..display_tables import show
    from ..score import score as score_file
    from ..scoring import ScoreOptions

    options = ScoreOptions(
        references=references,
        split=split,
        normalizer=normalizer,
        language=language,
        by=fields(by),
        text_field=text_field,
        pred_field=pred_field,
        resamples=resamples,
        seed=seed,
    )
    figures = score_file(Path(predictions).expanduser().absolute(), options, say)
    if as_json:
        typer.echo(json.dumps(figures, ensure_ascii=True, allow_nan=False))
    else:
        show(*score_parts(figures))
    raise typer.Exit(figures["exit_code"])


def fields(given: str | None) -> tuple[str, ...]:
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
    typer.echo(line, err=True)
