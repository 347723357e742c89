"""How tables are printed: as wide as the terminal, and as wide as they need where there is none."""

from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from asrbatch.formatting import printable

# A table that goes into a file or a pipe has no terminal to fit into.
_PLAIN_WIDTH = 200


def show(*parts: RenderableType) -> None:
    """Prints to standard output."""
    console = make_console()
    for part in parts:
        # What is too wide for a terminal is wrapped by it; rich would cut it.
        console.print(part, soft_wrap=isinstance(part, Text), crop=False)


def make_console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def plain(text: str, style: str = "") -> Text:
    """Text that may be, or quote, that of others: no markup, and on one line as a terminal may have it."""
    return Text(printable(text), style)


def title_of(text: str) -> Text:
    """What stands above a table, in the style that rich gives to titles that are not such text."""
    return plain(text, "table.title")


def facts_table(*facts: tuple[str, str | None]) -> Table:
    """Names and values, one pair a line; None leaves one out."""
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    for name, value in facts:
        if value is not None:
            table.add_row(name, plain(value))
    return table


def simple_table(
    heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, numbers: Collection[str], title: str | None = None
) -> Table:
    """A table with one line below its heads.

    Args:
        numbers: of the heads, those whose column is set to the right.
    """
    columns = [Column(head, justify="right" if head in numbers else "left") for head in heads]
    table = Table(*columns, box=box.SIMPLE_HEAD, title=title and title_of(title), title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
