"""`asrbatch export`: the rows of a run as subtitles, texts, times of words, Whisper's JSON, results for other tools."""

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from asrbatch.cli.common import Verbose


class Times(str, Enum):
    row = "row"
    file = "file"


def export(
    output: Annotated[str, typer.Argument(help="A rows file: of a run in one piece or merged, or of one chunk.")],
    formats: Annotated[
        str, typer.Option("--format", help="Of srt, vtt, txt, tsv, ctm, json, nemo, leaderboard, with commas.")
    ],
    to: Annotated[str | None, typer.Option(help="The folder to write to. [default: X.export beside X.jsonl]")] = None,
    per_run: Annotated[
        bool, typer.Option("--per-run", help="One file for all utterances, instead of one for each.")
    ] = False,
    times: Annotated[
        Times,
        typer.Option(help="Times count from the start of the row's own audio, or of the file that it was cut from."),
    ] = Times.row,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there and say something else.")
    ] = False,
    max_line_chars: Annotated[int, typer.Option(help="Subtitles: characters in a line; wide ones count double.")] = 42,
    max_lines: Annotated[int, typer.Option(help="Subtitles: lines at a time.")] = 2,
    min_duration: Annotated[float, typer.Option(help="Subtitles: seconds. [default: 5/6]", show_default=False)] = 5 / 6,
    max_duration: Annotated[float, typer.Option(help="Subtitles: seconds.")] = 7.0,
    max_chars_per_s: Annotated[
        float, typer.Option(help="Subtitles: reading speed, where speech leaves time for it.")
    ] = 20.0,
    min_gap: Annotated[
        float, typer.Option(help="Subtitles: seconds between two. [default: 2/24]", show_default=False)
    ] = 2 / 24,
    model_id: Annotated[
        str | None, typer.Option(help="leaderboard: the model, such as openai/whisper-tiny.en.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="leaderboard: the data set, such as hf-audio/open-asr-leaderboard.")
    ] = None,
    dataset_name: Annotated[
        str | None, typer.Option(help="leaderboard: its configuration, such as librispeech.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="leaderboard: its split, such as test.clean.")] = None,
    verbose: Verbose = False,
) -> None:
    """Write the rows of a run as subtitles, texts, times of words, Whisper's JSON, or results; the run stays as it is.

    Prints, for each format, its index (which file holds which utterance), or with --per-run the file.

    Exit codes: 0 every row there is was exported; 1 stopped by an error, or files were in the way; 2 usage; 3 the same
    as 0,
    but some rows failed: results have them with an empty prediction, the other formats not at all.
    """
    from asrbatch.evaluation.stats.languages import listed
    from asrbatch.evaluation.texts import EXCLUDED
    from asrbatch.export import exporter as exporting
    from asrbatch.export.formats import RESULT_FORMATS, parse_formats
    from asrbatch.export.results import LEFT_OUT, WITHOUT_TIME, ResultNames
    from asrbatch.export.subtitles import CueLimits

    rows = Path(output).expanduser().absolute()
    exported = exporting.export(
        rows,
        parse_formats(formats),
        folder=None if to is None else Path(to).expanduser().absolute(),
        per_run=per_run,
        from_file_start=times is Times.file,
        overwrite=overwrite,
        rules=CueLimits(max_line_chars, max_lines, min_duration, max_duration, max_chars_per_s, min_gap),
        names=ResultNames(model_id, dataset, dataset_name, split),
        say=_say,
    )
    for note in exporting.how_complete(rows, exported):
        _say(f"{rows.name}: {note}")
    for name in exported.results:
        unchanged = f", {exported.unchanged[name]} there already" if exported.unchanged[name] else ""
        num_rows = exported.num_rows
        if name in RESULT_FORMATS:
            num_rows += exported.num_failed - exported.left_out.get(name, Counter()).total()
        _say(f"{name}: {num_rows} utterances, {exported.written[name]} files written{unchanged}")
        for reason, count in exported.left_out.get(name, Counter()).items():
            _say(f"{name}: left out {count} rows: {(EXCLUDED | LEFT_OUT)[reason]}")
        for reason, count in exported.without_time.get(name, Counter()).items():
            _say(f"{name}: {count} rows have no time, because {WITHOUT_TIME[reason]}")
        if name in exported.without_time:
            _say(
                f"{name}: the leaderboard makes no RTFx of a file with such rows; that of the run is rtfx_engine in "
                f"X.done.json"
            )
        if languages := exported.not_english.get(name):
            _say(
                f"{name}: {languages.total()} rows are not in English ({listed(languages)}): the leaderboard has "
                f"other rules for "
                "them than asrbatch score"
            )
    if exported.failed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in exported.failed.most_common())
        results = [name for name in exported.results if name in RESULT_FORMATS]
        if len(results) < len(exported.results):
            _say(f"left out: {exported.num_failed} failed rows ({kinds})")
        if results:
            _say(f"{', '.join(results)}: with an empty prediction {exported.num_failed} failed rows ({kinds})")
    for path in exported.results.values():
        typer.echo(path)
    raise typer.Exit(exported.exit_code)


def _say(line: str) -> None:
    typer.echo(line, err=True)
