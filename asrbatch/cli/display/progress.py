"""What a person sees: a progress bar on a terminal, plain lines elsewhere, a summary table at the end.

Everything goes to standard error, through a copy of its descriptor made before libraries' output is sent to the log.
Where that cannot be written, nothing is shown and the run goes on (`cli/process.py`)."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from asrbatch.cli.display.tables import plain
from asrbatch.cli.process import lossy_stream
from asrbatch.formatting import clock
from asrbatch.storage.cost import cost_lines

PLAIN_EVERY_S = 30.0
# Columns of the shortest bar, with the spaces around it.
_LEAST_BAR = 10


class _Bar:
    """A bar on a terminal or in a notebook, from the first look on; a line every half minute elsewhere. A context
    manager.

    Args:
        doing: said before the bar.
    """

    def __init__(self, doing: str, console: Console, *columns: ProgressColumn, **how: Any):
        self._console = console
        self._said_at = time.monotonic()
        # rich draws nothing on a dumb terminal, and takes a file for a terminal where FORCE_COLOR is set.
        self.is_live = console.is_jupyter or (console.is_interactive and not console.is_dumb_terminal)
        self._least = len(doing) + _LEAST_BAR
        self._bar = Progress(
            TextColumn(doing), BarColumn(bar_width=None), TextColumn("{task.fields[said]}", markup=False), *columns,
            # rich would print the bar once, at its end, where nobody sees it move; `show` says lines instead.
            console=console, disable=not self.is_live, expand=True, **how,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)

    @property
    def room(self) -> int:
        """Columns for what stands behind the bar."""
        return self._console.width - self._least

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show(self, line: str, **changes: Any) -> None:
        """Moves the bar; where there is none, says the line now and then."""
        self._bar.update(self._task, **changes)
        # Not before: a bar without its fields cannot be drawn.
        self._bar.start()
        if not self.is_live and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self.log(line)

    def log(self, line: str) -> None:
        self._console.print(plain(line))

    def stop(self) -> None:
        self._bar.stop()


class Terminal(_Bar):
    """A `progress.Observer` for people: the live bar of a run, of audio hours where every row states its duration, of
    rows otherwise. Owns the copied descriptor.
    """

    def __init__(self) -> None:
        # A name may hold bytes that are not text.
        self._file = lossy_stream(os.dup(2), sys.stderr, "replace")
        # soft_wrap: a log has no width, and rich would break its lines at 80 columns.
        console = Console(file=self._file, highlight=False, soft_wrap=True)
        # Else rich would show here what belongs in the log.
        redirects = {"redirect_stdout": False, "redirect_stderr": False}
        super().__init__("transcribing", console, refresh_per_second=4, **redirects)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._file.close()

    def update(self, progress) -> None:
        by_audio = progress.total_audio_s is not None
        self.show(
            plain_line(progress),
            total=progress.total_audio_s or progress.total_rows,
            # As the total is: of what was really decoded, the bar would not end at its end.
            completed=progress.stated_s if by_audio else progress.tally.rows,
            said=fitted(_parts(progress), self.room),
        )

    def summary(self, summary) -> None:
        self.stop()
        for line in _headline(summary):
            self.log(line)
        # A session that ran nothing has spent nothing.
        if summary.outcome != "already_complete":
            self._console.print(_stage_table(summary.progress))


def plain_line(progress) -> str:
    """All parts in one line, for a log."""
    return fitted(_parts(progress), sys.maxsize)


def _parts(progress) -> list[tuple[int, str]]:
    """What is said of a run, in this order; where there is too little room, the highest number is left out first."""
    tally, hours = progress.tally, f"{progress.tally.audio_s / 3600:.2f}"
    of = "" if progress.total_audio_s is None else f"/{progress.total_audio_s / 3600:.2f}"
    return [
        (0, f"{tally.rows}/{progress.total_rows} rows"),
        (1, f"{tally.failed} failed" if tally.failed else ""),
        (5, f"{hours}{of} h"),
        (3, f"RTFx {_number(_rtfx(progress))}"),
        (2, f"ETA {_eta(progress)}"),
        (4, _slots(progress)),
    ]


def fitted(parts: Sequence[tuple[int, str]], room: int) -> str:
    """The parts that fit into `room` columns with two spaces between them, those with the lowest numbers first."""
    kept = [part for part in parts if part[1]]
    while len(kept) > 1 and sum(len(text) + 2 for _, text in kept) - 2 > room:
        kept.remove(max(kept))
    return "  ".join(text for _, text in kept)


def _headline(summary) -> list[str]:
    tally, figures = summary.progress.tally, summary.figures
    of = f"{tally.rows} of {summary.progress.total_rows} rows"
    ends = {
        "already_complete": f"already complete: {tally.rows} rows; nothing was run",
        "interrupted": f"interrupted: {of}; the same command goes on from there",
        "complete": f"complete: {tally.rows} rows, {tally.audio_s / 3600:.3f} h of audio",
    }
    lines = [ends[summary.outcome]]
    if figures.get("rtfx_engine"):
        lines.append(
            f"RTFx of one device: {figures['rtfx_engine']:g} while the engine worked, "
            f"{figures['rtfx_end_to_end']:g} end to end, start-up included"
        )
    lines += cost_lines(figures)
    if summary.progress.workers_died:
        lines.append(f"{summary.progress.workers_died} workers died; what they held was done again")
    if tally.errors:
        lines.append("failed: " + ", ".join(f"{n} {kind}" for kind, n in tally.errors.most_common()))
    if tally.flags:
        lines.append("flags: " + ", ".join(f"{n} {flag}" for flag, n in tally.flags.most_common()))
    return lines


def _stage_table(progress) -> Table:
    stage_times = progress.stage_times
    heads = "stage", Column("seconds", justify="right"), "what it is"
    table = Table(*heads, title="where this session's time went", title_justify="left")
    for stage, seconds, meaning in (
        ("start-up", progress.startup_s, "until the engine was ready"),
        ("transcribing", stage_times.wall, "from the first row taken to the last written"),
        ("· engine", stage_times.engine, "of that: the engine held at least one window"),
        ("· engine full", stage_times.full, "of that: it held as many as it works on at once"),
        ("· starved", stage_times.engine_idle, "of transcribing: the engine had nothing to do"),
        ("read", stage_times.read, "decoding and resampling, summed over workers, beside the engine"),
        ("prepare", stage_times.prepare, "features, summed over workers, beside the engine"),
        ("write", stage_times.write, "appending rows"),
    ):
        table.add_row(stage, f"{seconds:.1f}", meaning)
    return table


def _slots(progress) -> str:
    """How many windows the engine works on, of how many it could, and how many wait for it; or that it waits."""
    queued = max(0, progress.in_engine - progress.capacity)
    busy = f"{progress.in_engine - queued}/{progress.capacity} slots busy"
    unread = progress.total_rows - progress.tally.rows - progress.in_engine
    starved = progress.in_engine < progress.capacity and unread > 0
    return f"{busy}, waiting for audio" if starved else f"{busy}, {queued} waiting"


def _rtfx(progress) -> float | None:
    return progress.session_audio_s / progress.stage_times.engine if progress.stage_times.engine > 0 else None


def _eta(progress) -> str:
    """From this session's pace so far, in stated seconds of audio where every row has them, in rows otherwise."""
    if progress.total_audio_s is None:
        total, done, by_session = progress.total_rows, progress.tally.rows, progress.session_rows
    else:
        total, done, by_session = progress.total_audio_s, progress.stated_s, progress.session_stated_s
    # The pace of less than a second is chance.
    if not by_session or progress.stage_times.wall < 1:
        return "-"
    return clock(progress.stage_times.wall * max(0.0, total - done) / by_session)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


class _CheckBar(_Bar):
    """How far the commands before a run are."""

    def __init__(self, doing: str):
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        super().__init__(doing, console, TimeRemainingColumn())


class ReadingBar(_CheckBar):
    """How far the reading of a manifest is."""

    def __init__(self) -> None:
        super().__init__("reading rows")

    def update(self, num_rows: int, num_problems: int, share: float | None) -> None:
        """Rows read, problems so far, and the share of the manifest that was read; None where nobody knows."""
        said = f"{num_rows:,} rows  {num_problems:,} problems"
        part = "" if share is None else f" ({share:.0%} of the manifest)"
        known = {} if share is None else {"total": 1.0, "completed": share}
        self.show(f"rows read: {said}{part}", said=said, **known)


class ProbeBar(_CheckBar):
    """How far a probe is.

    Args:
        doing, done: what it does, and what it has done.
    """

    def __init__(self, num_rows: int, doing: str = "reading headers", done: str = "headers read"):
        super().__init__(doing)
        self._num_rows, self._done = num_rows, done

    def update(self, num_rows: int, num_failing: int) -> None:
        """Rows probed, and how many of them will fail."""
        so_far, failing = f"{num_rows}/{self._num_rows} rows", f"{num_failing} will fail"
        self.show(
            f"{self._done}: {so_far}, {failing}", total=self._num_rows, completed=num_rows, said=f"{so_far}  {failing}"
        )
