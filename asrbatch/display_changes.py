"""What `compare` shows of a row: both predictions beside each other, with what differs from the reference marked.

Marks are those of `git diff --word-diff`, so that they survive in a file. They stand in texts as they were written, where words
differ by more than case and punctuation; errors are counted in what normalisers make of both, which may find fewer. Of long
texts some errors are shown, with words around them. Knows nothing of how changes were found.
"""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .alignment import alignment
from .report.excerpt import excerpt

MARKS = "[-left out-] {+added+}, but for case and punctuation; … for what is not shown"
_MOST_UNITS = 120  # of both texts together: some twenty lines of half a terminal
_DELETED, _ADDED = "red", "green"


def changes(rows: list[dict[str, Any]], title: str) -> Table:
    """A table of changes: of each its id, errors, and A beside B; without a reference B alone, held against A.

    Args:
        rows: of `compare`'s figures.
    """
    has_references = any(change["reference"] is not None for change in rows)
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}: {MARKS}", title_justify="left", expand=True)
    for head in ("A", "B") if has_references else ("B against A",):
        table.add_column(head, overflow="fold", ratio=1)
    for change in rows:
        in_words = change["unit"] == "words"
        errors = [f"{change['errors_a']} errors", f"{change['errors_b']} errors, in {change['unit']}"]
        sides = [change["a"], change["b"]] if has_references else [change["b"]]
        reference = change["reference"] if has_references else change["a"]
        table.add_section()
        named = [plain(f"{change['id']}: {errors[0]}"), Text(errors[1])]
        table.add_row(*named if has_references else [plain(f"{change['id']}: {errors[1]}")])
        table.add_row(*(_marked(reference or "", side, in_words) for side in sides))
    return table


def plain(text: str, style: str = "") -> Text:
    """Text of others as a terminal may have it: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)


def _marked(reference: str, said: str | None, in_words: bool) -> Text:
    """What was said, with what it lacks and what it has too much."""
    if said is None:
        return Text("(no prediction)")
    wanted, heard = (text.split() if in_words else [*"".join(text.split())] for text in (reference, said))
    keys = [[_key(unit) for unit in units] for units in (wanted, heard)]
    between = " " if in_words else ""
    pieces = alignment(*(between.join(units) for units in keys), in_words=in_words, with_compounds=False)
    shown = excerpt(wanted, heard, pieces, _MOST_UNITS)
    text = Text(overflow="fold")
    at = at_said = 0
    for kind, number, number_said in shown.pieces:
        if kind == "gap":
            text.append("…" + (between or " "))
            continue
        left, right = shown.reference[at : at + number], shown.hypothesis[at_said : at_said + number_said]
        at, at_said = at + number, at_said + number_said
        if kind == "equal":
            text.append(plain(between.join(right) + between))
            continue
        if left:
            text.append_text(plain(f"[-{between.join(left)}-]{between}", _DELETED))
        if right:
            text.append_text(plain(f"{{+{between.join(right)}+}}{between}", _ADDED))
    text.rstrip()
    return text


def _key(unit: str) -> str:
    """A word without case and punctuation; one that is nothing else stays what it is, and a character stays one."""
    key = "".join(c for c in unit.casefold() if c.isalnum()) or unit
    return unit if len(unit) == 1 < len(key) else key
