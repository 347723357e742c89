"""What `validate`, `make-manifest` and `plan --probe` show, made of the figures that `--json` prints."""

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from asrbatch.cli.display.tables import plain, simple_table


def validation_parts(figures: dict[str, Any], with_model: bool) -> Iterable[RenderableType]:
    """The figures of a validation, ready to be shown."""
    yield plain(f"manifest: {figures['manifest']['source']}")
    yield from left_out_parts(figures["manifest"])
    yield from problem_parts(figures["problems"])
    audio = figures["audio"]
    yield plain(f"audio: {audio_line(audio) if audio else 'not checked'}")
    rows = figures["manifest"]["rows"]
    yield plain(
        f"rows: {rows:,}; {figures['rows_passing']:,} OK, {figures['rows_refused']:,} refused, "
        f"{figures['rows_failing']:,} with bad audio"
    )
    if figures["clean"]:
        yield plain(f"written: {figures['clean']['rows']:,} rows to {figures['clean']['path']}")
    if figures["report"]:
        yield plain(f"listed: {figures['report']['problems']:,} problems in {figures['report']['path']}")
    yield from (plain(f"note: {note}") for note in figures.get("notes", ()))
    if not with_model:
        yield Text("note: languages and lengths were not checked; --model checks them")
    if audio and not audio["decoded"]:
        yield Text("note: only headers were read; --audio decode finds damage behind them")


def left_out_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """Which files of a folder are no rows, where there are such."""
    if "left_out" in figures:
        yield plain(f"note: {figures['left_out']}")


def made_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """What `make-manifest` wrote, ready to be shown."""
    if figures["problems"]:
        yield from problem_parts(figures["problems"])
    yield plain(f"audio: {audio_line(figures['audio'])}")
    corrected = f", {figures['rows_corrected']:,} had another duration" if figures["rows_corrected"] else ""
    yield from left_out_parts(figures)
    yield plain(f"rows: {figures['rows']:,}, {figures['rows_measured']:,} of them measured{corrected}")
    if figures["rows_failing"]:
        yield plain(f"{figures['rows_failing']:,} rows have bad audio; they were written unchanged")
    yield plain(f"written: {figures['path']}")


def problem_parts(problems: list[dict[str, Any]], most: int = 5) -> Iterable[RenderableType]:
    """A table of what was found, and the first rows of each kind.

    Args:
        most: examples of each kind; validate's --report has all.
    """
    if not problems:
        yield Text("no problems")
        return
    rows = [(plain(of["kind"]), f"{of['rows']:,}", plain(of["fix"] or "see below")) for of in problems]
    yield simple_table(("problem", "rows", "what to do"), rows, numbers=("rows",))
    for problem in problems:
        for example in problem["examples"][:most]:
            yield plain(f"  {example['where']}: {example['text']}")
        if (more := problem["rows"] - min(most, len(problem["examples"]))) > 0:
            yield plain(f"  … and {more:,} more: {problem['kind']}")


def audio_line(audio: dict[str, Any]) -> str:
    """Files, hours, containers and rates in one line."""
    unsure = f" ({audio['rows_guessed']:,} rows guessed by bit rate, {audio['rows_unknown']:,} of unknown length)"
    measured = f"{audio['measured_h']:,.3f} h" + (unsure if audio["rows_guessed"] or audio["rows_unknown"] else "")
    counts = [f"{name} {files:,}" for name, files in audio["containers"].items()]
    counts += [f"{rate} Hz {files:,}" for rate, files in audio["sample_rates_hz"].items()]
    return f"{audio['files']:,} files, {measured}" + (f": {', '.join(counts)}" if counts else "")
