"""Plots as SVG text: horizontal bars with names, numbers and intervals. Knows nothing of what they show."""

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from asrbatch.formatting import printable, shorten

_WIDTH, _ROW, _NAME, _GAP = 520, 24, 140, 8
_CLOSE = 17  # from one bar of a group to the next
_NAME_CHARS = 20
# A digit of the page's 12 px font is narrower than this in every font that browsers choose.
_CHAR = 7.2


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
    # The scale at which every label has room behind its own bar.
    room = [(row.end, _WIDTH - _NAME - 2 * _GAP - _CHAR * len(row.label)) for row in rows]
    scale = min((max(width, 0.0) / end for end, width in room if end > 0), default=0.0)
    parts, y = "", 0
    for at, row in enumerate(rows):
        y += (0 if not at else _ROW if row.is_first else _CLOSE) + (
            _GAP if at and row.is_first and _has_runs(rows) else 0
        )
        parts += _bar(row, y, scale)
    height = y + _ROW
    below = f'<p class="soft">{note_text(note)}</p>' if note else ""
    return (
        f'<figure><figcaption>{html_text(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{html_text(title)}">{parts}</svg>{below}</figure>'
    )


def _has_runs(rows: Sequence[Bar]) -> bool:
    return any(row.run for row in rows)


def _bar(row: Bar, y: int, scale: float) -> str:
    """One row of the plot, its top at `y`."""
    name, label, end = html_text(shorten(row.name, _NAME_CHARS)), html_text(row.label), _NAME + row.end * scale + _GAP
    kind, whisker = "bar" if row.run is None else f"bar {run_class(row.run)}", ""
    if row.interval:
        low, high = (_NAME + bound * scale for bound in row.interval)
        middle = y + _ROW / 2
        whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
    return (
        f'<text x="{_NAME - _GAP}" y="{y + 16}" text-anchor="end">{name}<title>{html_text(row.name)}</title></text>'
        f'<rect class="{kind}" x="{_NAME}" y="{y + 5}" width="{row.value * scale:.1f}" height="{_ROW - 10}" rx="2"/>'
        f'{whisker}<text class="soft" x="{end:.1f}" y="{y + 16}">{label}</text>'
    )
