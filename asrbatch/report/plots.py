"""Plots as SVG text: bars with names, numbers and intervals. Knows nothing of where figures come from."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _ROW, _NAME, _VALUE = 520, 24, 140, 110
_NAME_CHARS = 20


class Bar(NamedTuple):
    """One bar.

    Attributes:
        name, label: what stands before and behind it.
        value: its length, from 0.
        interval: where a whisker begins and ends, or None.
    """

    name: str
    label: str
    value: float
    interval: Sequence[float] | None = None


def bars(title: str, rows: Sequence[Bar]) -> str:
    """A figure of horizontal bars, as HTML; names and labels are escaped."""
    longest = max((max(row.value, *(row.interval or ())) if row.interval else row.value for row in rows), default=0) or 1
    scale = (_WIDTH - _NAME - _VALUE) / longest
    parts = []
    for at, row in enumerate(rows):
        y = at * _ROW
        name = row.name if len(row.name) <= _NAME_CHARS else row.name[: _NAME_CHARS - 1] + "…"
        parts.append(
            f'<text x="{_NAME - 8}" y="{y + 16}" text-anchor="end">{escape(name)}<title>{escape(row.name)}</title></text>'
        )
        parts.append(f'<rect class="bar" x="{_NAME}" y="{y + 5}" width="{row.value * scale:.1f}" height="{_ROW - 10}" rx="2"/>')
        end = row.value
        if row.interval:
            low, high = (_NAME + bound * scale for bound in row.interval)
            parts.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y + _ROW / 2}" y2="{y + _ROW / 2}"/>')
            end = max(end, row.interval[1])
        parts.append(f'<text class="soft" x="{_NAME + end * scale + 8:.1f}" y="{y + 16}">{escape(row.label)}</text>')
    height = max(len(rows) * _ROW, _ROW)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg></figure>'
    )
