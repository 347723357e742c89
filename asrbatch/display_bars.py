"""How far the commands before a run are: a bar on a terminal, a line every half minute elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .display import PLAIN_EVERY_S


class ReadingBar:
    """How far the reading of a manifest is: a bar on a terminal, a line every half minute elsewhere. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn("reading rows"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, said="")

    def __enter__(self) -> "ReadingBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, num_rows: int, num_problems: int, share: float | None) -> None:
        """Rows read, problems so far, and the share of the manifest that was read; None where nobody knows."""
        said = f"{num_rows:,} rows  {num_problems:,} problems"
        known = {} if share is None else {"total": 1.0, "completed": share}
        self._bar.update(self._task, said=said, **known)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            part = "" if share is None else f" ({share:.0%} of the manifest)"
            self._console.print(f"rows read: {said}{part}", soft_wrap=True)


class ProbeBar:
    """How far a probe is: a bar on a terminal, a line every half minute elsewhere. A context manager.

    Args:
        doing, done: what it does, and what it has done.
    """

    def __init__(self, num_rows: int, doing: str = "reading headers", done: str = "headers read"):
        self._num_rows, self._done = num_rows, done
        self._console = Console(stderr=True, highlight=False)
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn(doing),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} rows  {task.fields[failing]} will fail"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=num_rows, failing=0)

    def __enter__(self) -> "ProbeBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, num_rows: int, num_failing: int) -> None:
        self._bar.update(self._task, completed=num_rows, failing=num_failing)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self._console.print(f"{self._done}: {num_rows}/{self._num_rows} rows, {num_failing} will fail", soft_wrap=True)
