"""What a person sees of a run in a notebook: one line under the cell, with a bar, that changes while the run goes on.

By IPython's own displays, which every notebook has: the bars of rich show nothing where ipywidgets are missing."""

import html
import time
from typing import Any, Self

from rich.console import Console

from asrbatch.cli.display.run_status import done_of, headline, plain_line, starting_line
from asrbatch.formatting import printable

# Each change is a message to the browser.
_CHANGE_EVERY_S = 0.5


def is_notebook() -> bool:
    """Whether what Python displays is shown in a notebook: Jupyter, VS Code, Colab, Databricks."""
    return Console().is_jupyter


class Notebook:
    """A `progress.Observer` that shows in a notebook what `progress.Terminal` does on a terminal. A context manager."""

    def __init__(self) -> None:
        self._shown: Any = None  # the display that is changed
        self._last: tuple[str, float | None] = "", None
        self._changed_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()

    def log(self, line: str) -> None:
        print(printable(line))

    def starting(self, step: str, seconds: float) -> None:
        self._show(starting_line(step, seconds), None, at_once=seconds < _CHANGE_EVERY_S)

    def update(self, progress) -> None:
        done, total = done_of(progress)
        self._show(plain_line(progress), done / total)

    def summary(self, summary) -> None:
        for line in headline(summary):
            self.log(line)

    def _show(self, line: str, share: float | None, *, at_once: bool = False) -> None:
        self._last = line, share
        if at_once or time.monotonic() - self._changed_at >= _CHANGE_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        line, share = self._last
        if not line:
            return
        self._changed_at = time.monotonic()
        value = "" if share is None else f' value="{share:.4f}"'
        page = f"<progress{value}></progress> <code>{html.escape(printable(line))}</code>"
        shown = {"text/plain": printable(line), "text/html": page}
        if self._shown is None:
            from IPython.display import display

            self._shown = display(shown, raw=True, display_id=True)
        else:
            self._shown.update(shown, raw=True)
