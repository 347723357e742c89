"""`asrbatch export`: the rows of a run as subtitles, texts, times of words, Whisper's JSON, results for other tools."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrbatch.cli.common import log, print_line
from asrbatch.cli.options import options_of, takes
from asrbatch.errors import UsageError
from asrbatch.export.formats import FORMATS
from asrbatch.export.options import RESULTS, CueLimits, ResultNames
from asrbatch.options import option

if TYPE_CHECKING:
    from asrbatch.export.exporter import ExportResult


@takes(limits=options_of(CueLimits), names=options_of(ResultNames))
def export(
    output: Annotated[str, typer.Argument(help="A rows file: of a run in one piece or merged, or of one chunk.")],
    formats: Annotated[str, typer.Option("--format", help=f"Of {', '.join((*FORMATS, *RESULTS))}, with commas.")],
    to: str | None = option(None, "The folder to write to. [default: X.export beside X.jsonl]"),
    beside: bool = option(
        False, "Subtitles go beside their media files, where players look. Times count from the start of the file."
    ),
    per_run: bool = option(
        False, "One file for all utterances, instead of one for each (srt, vtt: only where there is one)."
    ),
    times: str | None = option(
        None,
        "Times count from the start of the row's own audio, or of the file that it was cut from. [default: row]",
        choices=("row", "file"),
    ),
    overwrite: bool = option(False, "Replace files that differ."),
    *,
    limits: CueLimits,
    names: ResultNames,
) -> None:
    """Write the rows of a run as subtitles, texts, times of words, Whisper's JSON, or results; the run stays as it is.

    \b
    Example:
      asrbatch export run/out.jsonl --format srt,vtt
      asrbatch export run/out.jsonl --format srt --beside

    Prints, for each format, its index (which file holds which utterance), or with --per-run the file.

    Exit codes: 0 every row there is was exported; 1 stopped by an error, or files were in the way; 2 usage; 3 the same
    as 0, but some rows failed: results have them with an empty prediction, the other formats not at all.
    """
    how = {
        "to": to,
        "beside": beside,
        "per_run": per_run,
        "times": times,
        "overwrite": overwrite,
        "limits": limits,
        "names": names,
    }
    result = export_rows(output, formats, **how, log=log)
    for note in result.completeness:
        log(f"{Path(output).name}: {note}")
    _log_outputs(result)
    if result.failed:
        _log_failed(result)
    for written in result.outputs.values():
        print_line(written.path)
    raise typer.Exit(result.exit_code)


def export_rows(
    output: str, formats: str, *, to: str | None, beside: bool, per_run: bool, times: str | None, overwrite: bool,
    limits: CueLimits, names: ResultNames, log: Callable[[str], None],
) -> "ExportResult":  # fmt: skip
    """What the command does, and `asrbatch.export`."""
    from asrbatch.export import exporter

    if beside and times == "row":
        raise UsageError("--beside --times row: a player counts from the start of the file; leave out --times")
    rows = Path(output).expanduser().absolute()
    result = exporter.export(
        rows,
        exporter.parse_formats(formats),
        folder=None if to is None else Path(to).expanduser().absolute(),
        beside=beside,
        per_run=per_run,
        from_file_start=times == "file",
        overwrite=overwrite,
        limits=limits,
        names=names,
        log=log,
    )
    # An unfinished run is exported as far as it is; nobody should take that for all of it.
    result.completeness = exporter.completeness_notes(rows, result)
    return result


def _log_outputs(result: "ExportResult") -> None:
    """What each format holds, and what it left out."""
    for name, output in result.outputs.items():
        unchanged = f", {output.unchanged} there already" if output.unchanged else ""
        log(f"{name}: {output.num_utterances} utterances, {output.written} files written{unchanged}")
        for note in output.notes():
            log(f"{name}: {note}")


def _log_failed(result: "ExportResult") -> None:
    from asrbatch.export.results import RESULT_FILES

    kinds = ", ".join(f"{n} {kind}" for kind, n in result.failed.most_common())
    failed = f"{result.failed.total()} failed rows ({kinds})"
    results = [name for name in result.outputs if name in RESULT_FILES]
    if len(results) < len(result.outputs):
        log(f"left out: {failed}")
    if results:
        log(f"{', '.join(results)}: with an empty prediction {failed}")
