"""How far the commands before a run are: a bar on a terminal, a line every half minute elsewhere."""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .display import PLAIN_EVERY_S


class _Bar:
    """What the bars have in common; each is a context manager.

    Args:
        doing: said before the bar; `said` stands behind it.
    """

    def __init__(self, doing: str, total: float | None, said: str):
        self._console = Console(stderr=True, highlight=False)
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn(doing),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total, said=said)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, line: str, **changes: Any) -> None:
        """Moves the bar; where there is none, says the line now and then."""
        self._bar.update(self._task, **changes)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self._console.print(line, soft_wrap=True)


class ReadingBar(_Bar):
    """How far the reading of a manifest is."""

    def __init__(self) -> None:
        super().__init__("reading rows", None, "")

    def update(self, num_rows: int, num_problems: int, share: float | None) -> None:
        """Rows read, problems so far, and the share of the manifest that was read; None where nobody knows."""
        said = f"{num_rows:,} rows  {num_problems:,} problems"
        part = "" if share is None else f" ({share:.0%} of the manifest)"
        known = {} if share is None else {"total": 1.0, "completed": share}
        self._show(f"rows read: {said}{part}", said=said, **known)


class ProbeBar(_Bar):
    """How far a probe is.

    Args:
        doing, done: what it does, and what it has done.
    """

    def __init__(self, num_rows: int, doing: str = "reading headers", done: str = "headers read"):
        super().__init__(doing, num_rows, f"0/{num_rows} rows  0 will fail")
        self._num_rows, self._done = num_rows, done

    def update(self, num_rows: int, num_failing: int) -> None:
        """Rows probed, and how many of them will fail."""
        so_far, failing = f"{num_rows}/{self._num_rows} rows", f"{num_failing} will fail"
        self._show(f"{self._done}: {so_far}, {failing}", completed=num_rows, said=f"{so_far}  {failing}")
