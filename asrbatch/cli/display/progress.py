"""What a person sees: a progress bar on a terminal, plain lines elsewhere, a summary table at the end. Notebooks have
`notebook.py`.

Everything goes to standard error, through a copy of its descriptor made before libraries' output is sent to the log.
Where that cannot be written, nothing is shown and the run goes on (`cli/process.py`)."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from asrbatch.cli.display.notebook import Notebook, is_notebook
from asrbatch.cli.display.run_status import done_of, fitted, headline, parts_of, plain_line, stage_table, starting_line
from asrbatch.cli.display.tables import plain
from asrbatch.cli.process import lossy_stream

PLAIN_EVERY_S = 30.0
# Columns of the shortest bar, with the spaces around it.
_LEAST_BAR = 10
# Those of a time, `-:--:--`, and the space before it.
_TIME_LEFT = 8


class _Bar:
    """A bar on a terminal, from the first look on; a line every half minute elsewhere. A context manager.

    Args:
        doing: said before the bar.
    """

    def __init__(self, doing: str, console: Console, *columns: ProgressColumn, **how: Any):
        self._console = console
        self._said_at = time.monotonic()
        # rich draws nothing on a dumb terminal, and takes a file for a terminal where FORCE_COLOR is set.
        self.is_live = console.is_interactive and not console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), _Said(), *columns,
            # rich would print the bar once, at its end, where nobody sees it move; `show` says lines instead.
            console=console, disable=not self.is_live, expand=True, **how,
        )  # fmt: skip
        self._task = self._bar.add_task(doing, total=None)

    @property
    def room(self) -> int:
        """Columns for what stands behind the bar."""
        return self._console.width - len(self._bar.tasks[0].description) - _LEAST_BAR

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


class _Said(ProgressColumn):
    """What stands behind the bar; where that is a function, what it returns whenever the bar is drawn."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        said: str | Callable[[], str] = task.fields["said"]
        return plain(said() if callable(said) else said)


class Terminal(_Bar):
    """A `progress.Observer` for people: the steps of start-up, then the bar of a run. Owns the copied descriptor."""

    def __init__(self) -> None:
        # A name may hold bytes that are not text.
        self._file = lossy_stream(os.dup(2), sys.stderr, "replace")
        # soft_wrap: a log has no width, and rich would break its lines at 80 columns.
        console = Console(file=self._file, highlight=False, soft_wrap=True)
        # Else rich would show here what belongs in the log.
        redirects = {"redirect_stdout": False, "redirect_stderr": False}
        super().__init__("starting", console, refresh_per_second=4, **redirects)
        # Nothing is left on the terminal of a run that is refused, or has nothing to do.
        self._bar.live.transient = True

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._file.close()

    def starting(self, step: str, seconds: float) -> None:
        began_at = time.monotonic() - seconds
        self.show(starting_line(step, seconds), said=lambda: starting_line(step, time.monotonic() - began_at))

    def update(self, progress) -> None:
        self._bar.live.transient = False
        done, total = done_of(progress)
        self._bar.update(self._task, description="transcribing")
        self.show(plain_line(progress), total=total, completed=done, said=fitted(parts_of(progress), self.room))

    def summary(self, summary) -> None:
        self.stop()
        for line in headline(summary):
            self.log(line)
        # A session that ran nothing has spent nothing.
        if summary.outcome != "already_complete":
            self._console.print(stage_table(summary.progress))


def default_observer() -> Terminal | Notebook | None:
    """The display of a run that is called from Python: in a notebook or a terminal; None where nobody looks."""
    if is_notebook():
        return Notebook()
    terminal = Terminal()
    if terminal.is_live:
        return terminal
    terminal.__exit__()
    return None


class _CheckBar(_Bar):
    """How far the commands before a run are."""

    def __init__(self, doing: str):
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        super().__init__(doing, console, TimeRemainingColumn())

    def fitted(self, so_far: str, num_found: int, what: str) -> str:
        """How far it is and what it has found, as far as there is room; what it has found stays."""
        parts = [(1, so_far), (0 if num_found else 2, f"{num_found:,} {what}")]
        return fitted(parts, self.room - _TIME_LEFT)


class ReadingBar(_CheckBar):
    """How far the reading of a manifest is."""

    def __init__(self) -> None:
        super().__init__("reading rows")

    def update(self, num_rows: int, num_problems: int, share: float | None) -> None:
        """Rows read, problems so far, and the share of the manifest that was read; None where nobody knows."""
        rows = f"{num_rows:,} rows"
        part = "" if share is None else f" ({share:.0%} of the manifest)"
        known = {} if share is None else {"total": 1.0, "completed": share}
        said = self.fitted(rows, num_problems, "problems")
        self.show(f"rows read: {rows}  {num_problems:,} problems{part}", said=said, **known)


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
        so_far = f"{num_rows}/{self._num_rows} rows"
        said = self.fitted(so_far, num_failing, "with bad audio")
        line = f"{self._done}: {so_far}, {num_failing} with bad audio"
        self.show(line, total=self._num_rows, completed=num_rows, said=said)
