"""Plots as HTML: horizontal bars with names, numbers and intervals. Texts stand beside the drawings, not in them, so
that they do not shrink with a narrow window. Knows nothing of what they show.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from asrbatch.formatting import printable, shorten

_NAME_CHARS = 20


class Bar(NamedTuple):
    """One bar.

    Attributes:
        name, label: what stands before and behind it.
        value: its length, from 0.
        interval: where a whisker begins and ends, or None.
        run: which of several runs it is of, by its colour; None for what is of all.
        is_first: of the bars of one group, which stand close together.
    """

    name: str
    label: str
    value: float
    interval: Sequence[float] | None = None
    run: int | None = 0
    is_first: bool = True

    @property
    def end(self) -> float:
        return max(self.value, self.interval[1]) if self.interval else self.value


def html_text(text: str) -> str:
    """Text that may be, or quote, that of others, as HTML: no markup, and nothing that turns what stands beside it."""
    return escape(printable(text))


def note_text(text: str) -> str:
    """As `html_text`; what stands between back-quotes, such as a field's name, as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html_text(text))


def run_class(run: int) -> str:
    """The class of what is of one run: `run0` to `run5`, which have colours."""
    return f"run{run % 6}"


def bars(title: str, rows: Sequence[Bar], note: str = "") -> str:
    """A figure of horizontal bars, as HTML; names, labels and the note below it are escaped."""
    longest = max((row.end for row in rows), default=0.0)
    scale = 100 / longest if longest > 0 else 0.0
    apart = any(row.run for row in rows)
    parts = "".join(_bar(row, scale, " first" if apart and at and row.is_first else "") for at, row in enumerate(rows))
    below = f'<p class="soft">{note_text(note)}</p>' if note else ""
    return f'<figure><figcaption>{note_text(title)}</figcaption><div class="bars">{parts}</div>{below}</figure>'


def _bar(row: Bar, scale: float, place: str) -> str:
    """One row of the plot; lengths are in percent of its width.

    Args:
        place: a class, of the first bar of a group.
    """
    kind, whisker = "bar" if row.run is None else f"bar {run_class(row.run)}", ""
    if row.interval:
        low, high = (bound * scale for bound in row.interval)
        whisker = f'<line class="whisker" x1="{low:.2f}%" x2="{high:.2f}%" y1="50%" y2="50%"/>'
    return (
        f'<span class="name{place}" title="{html_text(row.name)}">{html_text(shorten(row.name, _NAME_CHARS))}</span>'
        f'<svg class="plot{place}" aria-hidden="true"><rect class="{kind}" width="{row.value * scale:.2f}%" '
        f'height="100%" rx="2"/>{whisker}</svg><span class="label{place}">{html_text(row.label)}</span>'
    )
