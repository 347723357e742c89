"""What `score` and `compare` show: tables on standard output, of the same figures that `--json` prints.

Texts of models and manifests are shown without control characters. Knows nothing of how figures were found.

What `compare` shows of a row: both predictions beside each other, with what differs from the reference marked.

Marks are those of `git diff --word-diff`, so that they survive in a file. They stand in texts as they were written,
where words differ by more than case and punctuation; errors are counted in what normalisers make of both, which may
find fewer. Of long texts some errors are shown, with words around them. Knows nothing of how changes were found."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from asrbatch.evaluation.alignment import alignment
from asrbatch.evaluation.report.excerpt import excerpt
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.formatting import shorten
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

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


_SHOWN_CHARS = 80
MOST_SHOWN = 50  # groups in a table
_LEAST_NAME = 11  # columns of a terminal that a name keeps


class Unit(NamedTuple):
    """What is counted.

    Attributes:
        name: of the unit.
        rate: its error rate.
        rows: the figure with the rows that it is counted in.
        counted: figures of its table, with their heads.
    """

    name: str
    rate: str
    rows: str
    counted: dict[str, str]


UNITS = (
    Unit(
        "words",
        "wer",
        "rows_in_words",
        {"substitutions": "sub", "deletions": "del", "insertions": "ins", "reference_words": "words"},
    ),
    Unit("characters", "cer", "rows", {"character_errors": "errors", "reference_characters": "characters"}),
)


def score_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """The figures of `score`, ready to be shown."""
    yield from _partial(figures)
    yield _facts(
        ("predictions", f"{figures['predictions']} ({figures['pred_field']})"),
        ("references", figures["references"]),
        *_rules(figures),
        *_rows(figures),
    )
    total = figures["total"]
    yield from _unit_tables("", {"all rows": total})
    for name, part in figures["by"].items():
        yield from _unit_tables(name, part["groups"], part["unweighted_mean"], total)
    if figures["latency_s"]:
        yield _latencies(figures["latency_s"])
    if figures["speed"]:
        yield _facts(
            *((f"{value:,.2f}", SPEEDS[name]) for name, value in figures["speed"].items() if value is not None)
        )
    yield from _groups_not_shown({name: part["groups"] for name, part in figures["by"].items()})
    yield from _notes(figures)


def compare_parts(figures: dict[str, Any]) -> Iterable[RenderableType]:
    """The figures of `compare`, ready to be shown."""
    a, b = figures["a"], figures["b"]
    has_references = figures["against"] == "references"
    yield from _partial(figures)
    yield _facts(
        *((side.upper(), f"{of['predictions']} ({of['pred_field']})") for side, of in (("a", a), ("b", b))),
        ("references", figures["references"] or (None if has_references else "none: A is taken for the reference")),
        *_rules(figures),
        ("empty in A", _empty(a)),
        ("empty in B", _empty(b)),
        (
            "same text",
            f"{figures['same_text']:,} of {figures['total']['rows']:,} rows; {figures['same_normalized']:,} normalised",
        ),
        ("left out", f"{figures['left_out']:,} rows that only one of them has" if figures["left_out"] else None),
    )
    for name, groups in ({"": {"all rows": figures["total"]}} | figures["by"]).items():
        for unit in UNITS:
            of_unit = {value: group for value, group in groups.items() if group[unit.rate]["reference"]}
            if of_unit:
                yield _paired_table(name, of_unit, unit, has_references)
    for name, title in (
        ("got_worse", "worse in B"),
        ("got_better", "better in B"),
        ("most_different", "most different"),
    ):
        if figures.get(name):
            yield changes(figures[name], title)
    yield from _groups_not_shown(figures["by"])
    yield from _notes(figures)


def largest(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with the most rows, in their order: as many as a person reads."""
    if len(groups) <= MOST_SHOWN:
        return groups
    # By rows, because a rate of few of them says little.
    shown = set(sorted(groups, key=lambda value: -groups[value]["rows"])[:MOST_SHOWN])
    return {value: group for value, group in groups.items() if value in shown}


def _groups_not_shown(by: dict[str, dict[str, Any]]) -> Iterable[Text]:
    for name, groups in by.items():
        if len(groups) > MOST_SHOWN:
            yield Text(
                f"note: --by {name}: the {MOST_SHOWN} groups with the most rows, of {len(groups):,}; --json has all"
            )


def _partial(figures: dict[str, Any]) -> Iterable[Text]:
    """What must be read before any figure."""
    if figures["partial"]:
        yield Text("partial: rows that the run has not written are not counted; see the notes")


def _unit_tables(
    name: str, groups: dict[str, Any], mean: dict[str, Any] | None = None, total: dict[str, Any] | None = None
) -> Iterable[Table]:
    """A table in words, of the groups that have any, and one in characters."""
    for unit in UNITS:
        # A group without reference words has no rate in words; languages without spaces have one in characters.
        of_unit = {value: group for value, group in groups.items() if group[f"{unit.rate}_percent"] is not None}
        if not of_unit:
            continue
        rows = [(_group(value), *_rates(group, unit)) for value, group in largest(of_unit).items()]
        below = []
        if mean is not None and total is not None:
            if mean.get(f"{unit.rate}_percent") is not None:
                means = _number(mean[f"{unit.rate}_percent"]), _interval(mean[f"{unit.rate}_percent_interval"])
                below.append((Text(f"unweighted mean of {len(of_unit)}"), "", *means))
            below.append((Text(f"weighted by {unit.name}"), *_rates(total, unit)))
        columns = ("rows", f"{unit.rate.upper()} %", "95 %", *unit.counted.values())
        yield _table(_title(name, unit), plain(name), columns, rows, below)


def _rates(group: dict[str, Any], unit: Unit) -> Iterable[str]:
    yield f"{group[unit.rows]:,}"
    yield _number(group[f"{unit.rate}_percent"])
    yield _interval(group[f"{unit.rate}_percent_interval"])
    yield from (f"{group[name]:,}" for name in unit.counted)


def _paired_table(name: str, groups: dict[str, Any], unit: Unit, has_references: bool) -> Table:
    rate = unit.rate.upper()
    if has_references:
        columns = ("rows", f"A {rate} %", f"B {rate} %", "B − A", "95 %", "p", "better", "worse")
    else:
        columns = ("rows", f"{rate} % of B against A", "95 %", "rows that differ")
    table: list[tuple[Text | str, ...]] = []
    for value, group in largest(groups).items():
        of = group[unit.rate]
        rows = f"{of['rows']:,}"
        if has_references:
            rates = _number(of["a_percent"]), _number(of["b_percent"]), _number(of["delta_points"], signed=True)
            # Never 0.0000, which would claim certainty.
            p = "" if of["p_value"] is None else f"{of['p_value']:.4f}" if of["p_value"] >= 0.0001 else "< 0.0001"
            interval = _interval(of["delta_points_interval"], signed=True)
            table.append((_group(value), rows, *rates, interval, p, f"{of['better']:,}", f"{of['worse']:,}"))
        else:
            b = _number(of["b_percent"]), _interval(of["b_percent_interval"])
            table.append((_group(value), rows, *b, f"{of['worse']:,}"))
    return _table(_title(name, unit), plain(name), columns, table)


def _table(
    title: str, first: Text, columns: Sequence[str], rows: Sequence[tuple[Text | str, ...]], below: Sequence[tuple] = ()
) -> Table:
    """A table of names and figures. Where a terminal is too narrow cells are wrapped, but no figure is parted or cut.

    Args:
        below: rows set off by a line.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", collapse_padding=True)
    longest = max(len(str(name)) for name in (first, *(row[0] for row in (*rows, *below))))
    table.add_column(first, overflow="fold", min_width=min(longest, _LEAST_NAME))
    for at, head in enumerate(columns, 1):
        cells = [head, *(str(row[at]) for row in (*rows, *below) if at < len(row))]
        table.add_column(head, justify="right", min_width=max(len(word) for cell in cells for word in cell.split()))
    for row in rows:
        table.add_row(*row)
    table.add_section()
    for row in below:
        table.add_row(*row)
    return table


def _title(name: str, unit: Unit) -> str:
    return f"by {name}, in {unit.name}" if name else f"in {unit.name}"


def _rules(figures: dict[str, Any]) -> Iterable[tuple[str, str]]:
    # By version and digest: what was scored by other rules is not to be compared.
    for each in figures["normalizers"]:
        yield "normaliser", f"{each['name']} ({each['version']}, {each['sha256'][:12]}), {each['rows']:,} rows"
    words, bootstrap = figures["words"], figures["bootstrap"]
    compounds = ", compounds merged" if words["merge_compounds"] else ""
    yield "words", f"{words['name']} {words['version']}{compounds}"
    yield "intervals", f"95 %, bootstrap by utterance, {bootstrap['resamples']:,} resamples, seed {bootstrap['seed']}"


def _rows(figures: dict[str, Any]) -> Iterable[tuple[str, str | None]]:
    total = figures["total"]
    yield "scored", f"{total['rows']:,} rows"
    yield "empty hypotheses", _empty(total, figures["failed_kinds"])
    for reason, rows in figures["excluded"].items():
        words = figures["words_said_in_excluded"].get(reason)
        yield (
            "not scored",
            f"{rows:,} rows: {EXCLUDED[reason]}" + (f"; the model said {words:,} words there" if words else ""),
        )


def _empty(of: dict[str, Any], kinds: dict[str, int] | None = None) -> str | None:
    named = f" ({', '.join(f'{rows:,} {kind}' for kind, rows in kinds.items())})" if kinds else ""
    parts = [f"{of['failed']:,} rows failed{named}"] if of["failed"] else []
    parts += [f"{of['missing']:,} rows without a prediction"] if of["missing"] else []
    return ", ".join(parts) or None


def _latencies(stages: dict[str, Any]) -> Table:
    names = list(next(iter(stages.values())))
    rows = [
        (Text(stage), *(f"{seconds[name]:,}" if name == "rows" else f"{seconds[name]:.3f}" for name in names))
        for stage, seconds in stages.items()
    ]
    return _table(f"seconds a row took, by stage: {STAGES_ARE}", Text("stage"), names, rows)


def _facts(*rows: tuple[str, str | None]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, plain(value))
    return table


def _notes(figures: dict[str, Any]) -> Iterable[Text]:
    for note in figures["notes"]:
        yield Text("note: ").append(plain(note))


def _number(value: float | None, signed: bool = False) -> str:
    return "" if value is None else f"{value:+.2f}" if signed else f"{value:.2f}"


def _interval(bounds: list[float] | None, signed: bool = False) -> str:
    return "" if bounds is None else f"{_number(bounds[0], signed)} to {_number(bounds[1], signed)}"


def _group(value: str) -> Text:
    """The name of a group, which is as long as a row made it."""
    return plain(shorten(value, _SHOWN_CHARS))
