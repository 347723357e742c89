"""A table of figures that is never cut: where a terminal is too narrow for all of its columns, they follow in tables below.

A terminal takes columns away from a table that does not fit, or cuts its figures, and either is a false result. Knows nothing of
what the figures are.
"""

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_LEAST_NAME = 12  # columns of a terminal that a name keeps before figures move into a table below
_PADDING = 2
_GAP = 1  # that rich puts around a table and between columns of one


class Sheet:
    """Rows of a name and figures.

    Args:
        title: above it, or None.
        first: the head of the names.
        columns: the heads of the figures.
    """

    def __init__(self, title: str | None, first: str | Text, columns: Sequence[str]):
        self._title, self._first, self._columns = title, first, list(columns)
        self._rows: list[tuple[Text, list[str]]] = []
        self._sections: set[int] = set()

    def add_row(self, name: Text, *figures: str) -> None:
        """Adds a row; figures that are not given are empty."""
        self._rows.append((name, [*figures, *[""] * (len(self._columns) - len(figures))]))

    def add_section(self) -> None:
        """What follows is set off by a line."""
        self._sections.add(len(self._rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for at, (start, stop, name_width) in enumerate(self._parts(options.max_width)):
            title = self._title if at == 0 else f"{self._title or ''} (continued)".strip()
            table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
            table.add_column(self._first, overflow="fold", width=name_width)
            for head in self._columns[start:stop]:
                table.add_column(head, justify="right", no_wrap=True)
            for number, (name, figures) in enumerate(self._rows):
                if number in self._sections:
                    table.add_section()
                table.add_row(name, *figures[start:stop])
            needed = _outer(name_width, self._widths()[start:stop])
            yield from console.render(table, options.update(width=max(options.max_width, needed)))

    def _widths(self) -> list[int]:
        """Of each column of figures, without padding."""
        return [max(map(cell_len, cells)) for cells in zip(self._columns, *(figures for _, figures in self._rows), strict=True)]

    def _parts(self, room: int) -> Iterator[tuple[int, int, int]]:
        """Columns [start, stop) of each table, and how wide its names may be."""
        widths = self._widths()
        first = self._first if isinstance(self._first, Text) else Text(self._first)
        longest = max(first.cell_len, *(name.cell_len for name, _ in self._rows), 1)
        least = min(longest, _LEAST_NAME)
        start = 0
        while start < len(widths):
            ends = [_outer(least, widths[start:stop]) for stop in range(start + 1, len(widths) + 1)]
            stop = start + max(sum(end <= room for end in ends), 1)
            yield start, stop, max(min(longest, room - _outer(0, widths[start:stop])), least)
            start = stop


def _outer(name: int, widths: Sequence[int]) -> int:
    """How wide a table is with its frame."""
    return sum(width + _PADDING + _GAP for width in (name, *widths)) + _GAP


def plain(text: str, style: str = "") -> Text:
    """Text of others as a terminal may have it: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)
