"""What `plan` and `status` show: tables on standard output, because they are the result.

Takes the same figures that `--json` prints, so that both say the same. Knows nothing of how they were found.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asrbatch.cli.display.checks import audio_line, problem_parts
from asrbatch.cli.display.tables import facts_table, make_console, plain, show, simple_table
from asrbatch.cli.estimates import estimate_text
from asrbatch.formatting import amount, clock, show_text
from asrbatch.storage.cost import cost_notes, cost_text

# Of more, complete chunks are left out: those that need a person must not scroll away.
_FEW_CHUNKS = 40
# Examples of each kind of broken file: as many as a probe keeps, because a plan has no file with all of them.
_SHOWN_PROBED = 20
# A thousand chunks may each have one.
_SHOWN_NOTES = 10


def plan_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """The figures of a plan, ready to be shown."""
    yield facts_table(*_facts(figures))
    for d in figures["duplicates"]["examples"]:
        yield plain(f"  row {d['row']} is row {d['first_row']} again: {d['audio_filepath']}")
    if figures["chunks"]:
        yield from _chunk_parts(figures["chunks"], figures["probe"] is not None)
    if figures["probe"]:
        yield from _probe_parts(figures["probe"])
    yield Text("")
    for name, line in figures["commands"].items():
        yield plain(f"{_COMMANDS[name]}:")
        yield plain(f"  {line}")
    for note in figures["notes"]:
        yield plain(f"note: {note}")


_COMMANDS = {
    "one_process": "in one process",
    "chunk": "one chunk; ids count from 0, and a task of an array needs no --chunk-id",
    "submit": "all chunks on SLURM; --dry-run shows the scripts, --help what they may be given",
    "merge": "join the chunks",
    "status": "see how far it is",
}


def _facts(figures: dict[str, Any]) -> Iterable[tuple[str, str | None]]:
    audio, duplicates, estimate = figures["audio"], figures["duplicates"], figures["estimate"]
    yield "manifest", figures["manifest"]["source"]
    yield "rows", f"{figures['manifest']['rows']:,}, of which {audio['rows_without_duration']:,} have no duration"
    yield "audio", f"{audio['stated_h']:,.3f} h stated"
    if audio["max_s"] is not None:
        shown = "  ".join(f"{name} {audio[f'{name}_s']:.2f} s" for name in ("min", "median", "p95", "max"))
        yield "durations", f"{shown}  longer than 30 s: {audio['rows_over_30_s']:,} rows"
    languages = [f"{language or 'not stated'} {rows:,}" for language, rows in figures["languages"].items()]
    more = f", and {len(languages) - 10} more" if len(languages) > 10 else ""
    yield "languages", ", ".join(languages[:10]) + more
    repeat = (
        f"{duplicates['rows']:,} rows name a piece of audio that an earlier row names ({duplicates['pieces']:,} pieces)"
    )
    yield "duplicates", repeat if duplicates["rows"] else "none"
    if estimate:
        yield from estimate_text(estimate).items()
    cores = ", ".join(f"{kind.upper()} {cores}" for kind, cores in figures["cores_per_gpu"].items())
    yield "cores for each GPU", f"{cores}; of another kind as for the fastest"
    if figures["model"]:
        yield "model", f"{figures['model']['model']}: " + _verdict(figures["model"])


def _verdict(model: dict[str, Any]) -> str:
    if model["refused"]:
        return "refused, see below"
    return f"not checked: {model['not_checked']}" if model["not_checked"] else "nothing that transcribe would refuse"


def _chunk_parts(chunks: dict[str, Any], probed: bool) -> Iterable[RenderableType]:
    foreseen = ", with the hours that headers foresee" if probed else ""
    which = ("min", "mean", "max")
    rows = [
        ("rows", f"{chunks['rows_min']:,}", f"{chunks['rows_mean']:,.1f}", f"{chunks['rows_max']:,}"),
        ("hours", *(f"{chunks[f'audio_{each}_h']:,.3f}" for each in which)),
    ]
    title = f"{chunks['num_chunks']} chunks, {chunks['strategy']}{foreseen}"
    yield simple_table(("per chunk", *which), rows, numbers=which, title=title)
    ratio = f", {chunks['longest_to_mean']:.4f} times the mean" if chunks["longest_to_mean"] else ""
    yield plain(f"  slowest: chunk {chunks['slowest_chunk']}{ratio}; empty chunks: {chunks['empty_chunks']}")


def _probe_parts(probe: dict[str, Any]) -> Iterable[RenderableType]:
    yield plain(f"headers: {audio_line(probe)}")
    problems = [
        {
            "kind": kind,
            "rows": rows,
            "fix": probe["fixes"][kind],
            "examples": [{**each, "where": f"{kind}: {each['where']}"} for each in probe["examples"][kind]],
        }
        for kind, rows in probe["counts"].items()
    ]
    yield from problem_parts(problems, most=_SHOWN_PROBED)


def status_parts(figures: dict[str, Any], every_chunk: bool, summary_first: bool = False) -> list[RenderableType]:
    """The figures of a status, ready to be shown.

    Args:
        every_chunk: show complete chunks too where there are many.
        summary_first: for a screen that cuts off what does not fit below.
    """
    chunks, summary = figures["chunks"], _summary(figures["total"])
    hides = len(chunks) > _FEW_CHUNKS and not every_chunk
    shown = [chunk for chunk in chunks if not (hides and chunk["state"].startswith("complete"))]
    table: list[RenderableType] = [_status_table(shown, make_console().width)] if shown else []
    if hidden := len(chunks) - len(shown):
        table.append(plain(f"{hidden} complete chunks are not shown; --all shows them"))
    return summary + table if summary_first else table + summary


def _summary(total: dict[str, Any]) -> list[RenderableType]:
    lines = _total_lines(total)
    if total["merged"]:
        lines.append(f"merged: {total['merged']}")
    lines += [f"note: {note}" for note in total["notes"][:_SHOWN_NOTES]]
    if (more := len(total["notes"]) - _SHOWN_NOTES) > 0:
        lines.append(f"note: … and {more} more; --json gives all")
    return [plain(line) for line in lines]


# Where a terminal is too narrow, those that stand first are left out; --json has them all.
_LEFT_OUT_FIRST = ("sessions", "on", "RTFx", "audio h", "failed", "RTFx now")
# All others are figures, which are compared down the column.
_TEXT_COLUMNS = ("state", "on")


def _status_table(chunks: list[dict[str, Any]], width: int) -> Table:
    rows = [_status_cells(chunk) for chunk in chunks]
    widths = {name: 3 + max(len(name), *(len(cells[name]) for cells in rows)) for name in rows[0]}
    for name in _LEFT_OUT_FIRST:
        if sum(widths.values()) > width:
            del widths[name]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in widths:
        table.add_column(name, justify="left" if name in _TEXT_COLUMNS else "right", no_wrap=True)
    for cells in rows:
        style = _STYLES.get(cells["state"], "")
        table.add_row(*(plain(cells[name], style if name == "state" else "") for name in widths))
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
        "on": " ".join(
            show_text(each) for each in (chunk["host"], chunk["slurm_job"] and f"job {chunk['slurm_job']}") if each
        ),
        "sessions": str(chunk["sessions"] or ""),
    }


# Green needs nobody, yellow may, red does.
_STYLES = {"running": "green", "complete": "green", "silent": "yellow", "stopped by an error": "red", "damaged": "red"}


def _total_lines(total: dict[str, Any]) -> list[str]:
    states = ", ".join(f"{number} {state}" for state, number in total["states"].items())
    of = "" if total["total_rows"] is None else f"/{total['total_rows']:,}"
    line = f"rows {total['rows']:,}{of} ({total['failed']:,} failed)  audio {total['audio_s'] / 3600:.3f} h"
    if total["rtfx_running"] is not None:
        line += f"  RTFx {total['rtfx_running']:.1f} together now"
    if total["rtfx"] is not None:
        line += f"  RTFx {total['rtfx']:.1f} per process so far"
    if total["gpu_h"]:
        line += f"  GPU-hours {total['gpu_h']:.2f}"
        if total["gpu_h_to_come"]:
            line += f" (about {total['gpu_h'] + total['gpu_h_to_come']:.2f} at the end)"
    if total["eta_s"] is not None:
        line += f"  ETA {clock(total['eta_s'])}"
        if total["without_eta"]:
            line += f" for the slowest that runs; {total['without_eta']} unfinished without one"
    lines = [states, line] if states else [line]
    if cost := total["cost"]:
        at_end = f", about {amount(cost['at_end'])} at the end" if cost["at_end"] and total["gpu_h_to_come"] else ""
        lines += [f"cost so far: {cost_text(total)}{at_end}", *(f"note: {note}" for note in cost_notes(total))]
    return lines


@contextmanager
def refreshing(every_chunk: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Shows one status after another: in place on a terminal, one block below the other elsewhere."""
    console = make_console()
    # Nothing changes between two looks, so there is nothing to draw by itself.
    live = Live(console=console, auto_refresh=False)

    def show_look(figures: dict[str, Any]) -> None:
        title = plain(time.strftime("%Y-%m-%d %H:%M:%S"))
        if console.is_terminal:
            live.update(Group(title, *status_parts(figures, every_chunk, summary_first=True)), refresh=True)
        else:
            show(title, *status_parts(figures, every_chunk), Text(""))
            # Into a pipe Python would hold it back, and whoever reads sees each look late.
            sys.stdout.flush()

    with live if console.is_terminal else nullcontext():
        yield show_look


def _one_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
