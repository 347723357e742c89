"""What `plan` and `status` show: tables on standard output, because they are the result.

Takes the same figures that `--json` prints, so that both say the same. Knows nothing of how they were found.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asrbatch.cli.display.tables import make_console, show
from asrbatch.formatting import clock

# Of more, complete chunks are left out: those that need a person must not scroll away.
_FEW_CHUNKS = 40
# A thousand chunks may each have one.
_SHOWN_NOTES = 10


def plan_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """The figures of a plan, ready to be shown."""
    yield _facts(figures)
    if duplicates := figures["duplicates"]["examples"]:
        yield Text(
            "\n".join(f"  row {d['row']} is row {d['first_row']} again: {d['audio_filepath']}" for d in duplicates)
        )
    if figures["chunks"]:
        yield from _chunk_parts(figures["chunks"], figures["probe"] is not None)
    if figures["probe"]:
        yield from _probe_parts(figures["probe"])
    yield Text("")
    for name, line in figures["commands"].items():
        yield Text(f"{_COMMANDS[name]}:\n  {line}")
    for note in figures["notes"]:
        yield Text(f"note: {note}")


_COMMANDS = {
    "one_process": "in one process",
    "chunk": "one chunk; ids count from 0, and a SLURM array task needs no --chunk-id",
    "submit": "all chunks on SLURM; --dry-run shows the scripts, --help what they may be given",
    "merge": "join the chunks",
    "status": "see how far it is",
}


def _facts(figures: dict[str, Any]) -> Table:
    audio, duplicates, estimate = figures["audio"], figures["duplicates"], figures["estimate"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("manifest", figures["manifest"]["source"])
    table.add_row(
        "rows", f"{figures['manifest']['rows']:,}, of which {audio['rows_without_duration']:,} state no duration"
    )
    table.add_row("audio", f"{audio['stated_h']:,.3f} h stated")
    if audio["max_s"] is not None:
        shown = "  ".join(f"{name} {audio[f'{name}_s']:.2f} s" for name in ("min", "median", "p95", "max"))
        table.add_row("durations", f"{shown}  longer than 30 s: {audio['rows_over_30_s']:,} rows")
    languages = [f"{language or 'not stated'} {rows:,}" for language, rows in figures["languages"].items()]
    table.add_row(
        "languages", ", ".join(languages[:10]) + (f", and {len(languages) - 10} more" if len(languages) > 10 else "")
    )
    repeat = (
        f"{duplicates['rows']:,} rows name a piece of audio that an earlier row names ({duplicates['pieces']:,} pieces)"
    )
    table.add_row("duplicates", repeat if duplicates["rows"] else "none")
    if estimate:
        devices = f" on {estimate['devices_per_process']} devices" if estimate["devices_per_process"] > 1 else ""
        speed = f"at RTFx {estimate['rtfx_per_device']:g} per device, {estimate['startup_s']:g} s start-up"
        table.add_row(
            "time",
            f"{estimate['wall_h']:,.3f} h for the longest process{devices}, {estimate['gpu_h']:,.3f} GPU-hours in "
            f"all, {speed}",
        )
    if figures["model"]:
        table.add_row("model", f"{figures['model']['model']}: " + _verdict(figures["model"]))
    return table


def _verdict(model: dict[str, Any]) -> str:
    if model["refused"]:
        return "refused, see below"
    return f"not checked: {model['not_checked']}" if model["not_checked"] else "nothing that transcribe would refuse"


def _chunk_parts(chunks: dict[str, Any], probed: bool) -> Iterable[RenderableType]:
    title = f"{chunks['num_chunks']} chunks, {chunks['strategy']}" + (
        ", with the hours that headers foresee" if probed else ""
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("per chunk", "min", "mean", "max"):
        table.add_column(column, justify="left" if column == "per chunk" else "right")
    table.add_row("rows", f"{chunks['rows_min']:,}", f"{chunks['rows_mean']:,.1f}", f"{chunks['rows_max']:,}")
    table.add_row("hours", *(f"{chunks[f'audio_{which}_h']:,.3f}" for which in ("min", "mean", "max")))
    yield table
    ratio = f", {chunks['longest_to_mean']:.4f} times the mean" if chunks["longest_to_mean"] else ""
    yield Text(f"  slowest: chunk {chunks['slowest_chunk']}{ratio}; empty chunks: {chunks['empty_chunks']}")


def _probe_parts(probe: dict[str, Any]) -> Iterable[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, title=f"headers of {probe['files']:,} files", title_justify="left")
    table.add_column("found")
    table.add_column("rows", justify="right")
    table.add_column("what to do")
    for kind, rows in probe["counts"].items():
        table.add_row(kind, f"{rows:,}", probe["fixes"][kind])
    if not probe["counts"]:
        table.add_row("nothing wrong", f"{probe['rows']:,}", "")
    yield table
    for kind, examples in probe["examples"].items():
        yield Text("\n".join(f"  {kind}: {e['where']}: {e['text']}" for e in examples))
        if (more := probe["counts"][kind] - len(examples)) > 0:
            yield Text(f"  {kind}: … and {more:,} more")
    unsure = f"; {probe['rows_guessed']:,} rows guessed by bit rate, {probe['rows_unknown']:,} not known"
    yield Text(
        f"  measured: {probe['measured_h']:,.3f} h{unsure if probe['rows_guessed'] or probe['rows_unknown'] else ''}"
    )
    rates = {f"{rate} Hz": files for rate, files in probe["sample_rates_hz"].items()}
    for counted in (probe["containers"], rates):
        if counted:
            yield Text("  files: " + ", ".join(f"{name} {files:,}" for name, files in counted.items()))


def status_parts(figures: dict[str, Any], every_chunk: bool, summary_first: bool = False) -> list[RenderableType]:
    """The figures of a status, ready to be shown.

    Args:
        every_chunk: show complete chunks too where there are many.
        summary_first: for a screen that cuts off what does not fit below.
    """
    chunks, summary = figures["chunks"], _summary(figures["total"])
    shown = chunks
    if len(chunks) > _FEW_CHUNKS and not every_chunk:
        shown = [chunk for chunk in chunks if not chunk["state"].startswith("complete")]
    table: list[RenderableType] = [_status_table(shown, make_console().width)] if shown else []
    if hidden := len(chunks) - len(shown):
        table.append(Text(f"{hidden} complete chunks are not shown; --all shows them"))
    return summary + table if summary_first else table + summary


def _summary(total: dict[str, Any]) -> list[RenderableType]:
    lines = [_total_line(total)]
    if total["merged"]:
        lines.append(f"merged: {total['merged']}")
    lines += [f"note: {note}" for note in total["notes"][:_SHOWN_NOTES]]
    if (more := len(total["notes"]) - _SHOWN_NOTES) > 0:
        lines.append(f"note: … and {more} more; --json gives all")
    return [Text(line) for line in lines]


# Columns of the status table with whether they are set to the right. Where a terminal is too narrow, those that stand
# first in _LEFT_OUT_FIRST are left out; --json has them all.
_STATUS_COLUMNS = {
    "chunk": True, "state": False, "rows": True, "failed": True, "audio h": True, "RTFx now": True, "RTFx": True,
    "ETA": True,
    "last sign": True, "on": False, "sessions": True,
}  # fmt: skip
_LEFT_OUT_FIRST = ("sessions", "on", "RTFx", "audio h", "failed", "RTFx now")


def _status_table(chunks: list[dict[str, Any]], width: int) -> Table:
    rows = [_status_cells(chunk) for chunk in chunks]
    widths = {name: 3 + max(len(name), *(len(cells[name]) for cells in rows)) for name in _STATUS_COLUMNS}
    for name in _LEFT_OUT_FIRST:
        if sum(widths.values()) > width:
            del widths[name]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in widths:
        table.add_column(name, justify="right" if _STATUS_COLUMNS[name] else "left", no_wrap=True)
    for cells in rows:
        table.add_row(
            *(Text(cells[name], style=_STYLES.get(cells["state"], "") if name == "state" else "") for name in widths)
        )
    return table


def _status_cells(chunk: dict[str, Any]) -> dict[str, str]:
    return {
        "chunk": "whole" if chunk["chunk_id"] is None else str(chunk["chunk_id"]),
        "state": chunk["state"],
        "rows": "" if chunk["rows"] is None else f"{chunk['rows']:,}/{chunk['total_rows']:,}",
        "failed": "" if chunk["failed"] is None else f"{chunk['failed']:,}",
        "audio h": "" if chunk["audio_s"] is None else f"{chunk['audio_s'] / 3600:.3f}",
        # What a session that has ended did is no speed of now.
        "RTFx now": _one_decimal(chunk["rtfx_session"] if chunk["state"] == "running" else None),
        "RTFx": _one_decimal(chunk["rtfx"]),
        "ETA": "" if chunk["eta_s"] is None else clock(chunk["eta_s"]),
        "last sign": "" if chunk["silent_s"] is None else f"{clock(chunk['silent_s'])} ago",
        "on": " ".join(filter(None, [chunk["host"], chunk["slurm_job"] and f"job {chunk['slurm_job']}"])),
        "sessions": str(chunk["sessions"] or ""),
    }


_STYLES = {"running": "green", "complete": "green", "silent": "yellow", "stopped by an error": "red", "damaged": "red"}


def _total_line(total: dict[str, Any]) -> str:
    states = ", ".join(f"{number} {state}" for state, number in total["states"].items())
    of = "" if total["total_rows"] is None else f"/{total['total_rows']:,}"
    line = f"rows {total['rows']:,}{of} ({total['failed']:,} failed)  audio {total['audio_s'] / 3600:.3f} h"
    if total["rtfx_running"] is not None:
        line += f"  RTFx {total['rtfx_running']:.1f} together now"
    if total["rtfx"] is not None:
        line += f"  RTFx {total['rtfx']:.1f} per process so far"
    if total["gpu_h"]:
        line += f"  GPU-hours {total['gpu_h']:.2f}"
    if total["eta_s"] is not None:
        line += f"  ETA {clock(total['eta_s'])}"
        if total["without_eta"]:
            line += f" for the slowest that runs; {total['without_eta']} unfinished without one"
    return f"{states}\n{line}" if states else line


class Refreshing:
    """Shows one status after another: in place on a terminal, one block below the other elsewhere."""

    def __init__(self) -> None:
        self._console = make_console()
        # Nothing changes between two looks, so there is nothing to draw.
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> "Refreshing":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, figures: dict[str, Any], every_chunk: bool) -> None:
        title = Text(time.strftime("%Y-%m-%d %H:%M:%S"))
        if self._live:
            self._live.update(Group(title, *status_parts(figures, every_chunk, summary_first=True)), refresh=True)
        else:
            show(title, *status_parts(figures, every_chunk), Text(""))
            # Into a pipe Python would hold it back, and whoever reads sees each look late.
            sys.stdout.flush()


def _one_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
