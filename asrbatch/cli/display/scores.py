"""What `score` and `compare` show: tables on standard output, of the same metrics that `--json` prints.

Of a changed row `compare` shows both predictions beside each other, with what differs from the reference marked. Marks
are those of `git diff --word-diff`, so that they survive in a file. They stand in normalised texts, in which errors are
counted. Of long texts some errors are shown, with words around them.

Knows nothing of how metrics were found.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from rich import box
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from asrbatch.cli.display.tables import facts_table, plain, title_of
from asrbatch.evaluation.alignment import alignment
from asrbatch.evaluation.report.excerpt import excerpt
from asrbatch.evaluation.stats.significance import LEAST_UTTERANCES
from asrbatch.evaluation.summary import (
    MOST_GROUPS,
    aligner_line,
    compared_units,
    difference_text,
    interval_text,
    largest_groups,
    normalizer_lines,
)
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.formatting import counted, shorten
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

_MARKS = "normalised, with [-left out-] and {+added+}; … for what is not shown"
_MOST_UNITS = 120  # of both texts together: some twenty lines of half a terminal
_DELETED, _ADDED = "red", "green"
_SHOWN_CHARS = 80  # of the name of a group
_LEAST_NAME = 11  # columns of a terminal that a name keeps
Cells = dict[str, str]  # by the head of their column
NamedCells = tuple[Text, Cells]
Facts = Iterable[tuple[str, str | None]]
Parts = Iterable[RenderableType]


def _changes(rows: list[dict[str, Any]], title: str, with_compounds: bool) -> Table:
    """A table of changes: of each its id, errors, and A beside B; without a reference B alone, held against A.

    Args:
        rows: of `compare`'s metrics.
        with_compounds: words that are the same but for a space are no error.
    """
    has_references = any(change["reference"] is not None for change in rows)
    heads = ("A", "B") if has_references else ("B against A",)
    columns = [Column(head, overflow="fold", ratio=1) for head in heads]
    table = Table(
        *columns, box=box.SIMPLE_HEAD, title=title_of(f"{title}: {_MARKS}"), title_justify="left", expand=True
    )
    for change in rows:
        in_words = change["unit"] == "words"
        errors = [
            counted(change["errors_a"], "error"), f"{counted(change['errors_b'], 'error')}, in {change['unit']}"
        ]  # fmt: skip
        texts = change["normalized"]
        sides = [None if change[side] is None else texts[side] for side in ("ab" if has_references else "b")]
        table.add_section()
        named = [plain(f"{change['id']}: {errors[0]}"), plain(errors[1])]
        table.add_row(*named if has_references else [plain(f"{change['id']}: {errors[1]}")])
        compounds = with_compounds and in_words
        table.add_row(*(_marked(texts["reference"], side, in_words, compounds) for side in sides))
    return table


def _marked(reference: str, said: str | None, in_words: bool, with_compounds: bool) -> Text:
    """What was said, with what it lacks and what it has too much."""
    if said is None:
        return Text("(no prediction)")
    wanted, heard = (text.split() if in_words else [*text] for text in (reference, said))
    between = " " if in_words else ""
    pieces = alignment(reference, said, in_words=in_words, with_compounds=with_compounds)
    shown = excerpt(wanted, heard, pieces, _MOST_UNITS)
    text = Text(overflow="fold")
    units, units_said = iter(shown.reference), iter(shown.hypothesis)
    for kind, number, number_said in shown.pieces:
        if kind == "gap":
            text.append("…" + (between or " "))
            continue
        left, right = list(islice(units, number)), list(islice(units_said, number_said))
        if kind == "equal":
            text.append(plain(between.join(right) + between))
            continue
        if left:
            text.append_text(plain(f"[-{between.join(left)}-]{between}", _DELETED))
        if right:
            text.append_text(plain(f"{{+{between.join(right)}+}}{between}", _ADDED))
    text.rstrip()
    return text


# Words and characters have tables of their own: a rate over both would mix languages with and without spaces.
class Unit(NamedTuple):
    """What is counted.

    Attributes:
        name: of the unit.
        rate: its error rate.
        rows: the metric with the rows that it is counted in.
        counted: metrics of its table, with their heads.
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


def score_parts(metrics: dict[str, Any]) -> Parts:
    """The metrics of `score`, ready to be shown."""
    facts = (
        ("predictions", f"{metrics['predictions']} ({metrics['pred_field']})"),
        ("references", metrics["references"]),
        *_rules(metrics),
        *_rows(metrics),
    )
    by = {name: part["groups"] for name, part in metrics["by"].items()}
    return _shown(metrics, facts, _score_tables(metrics), by)


def files_parts(metrics: dict[str, Any]) -> Parts:
    """The metrics of `score` of several files, ready to be shown."""
    first = next(iter(metrics["files"].values()))
    same_field = all(of["pred_field"] == first["pred_field"] for of in metrics["files"].values())
    facts = (
        ("predictions", f"{len(metrics['files'])} files" + (f" ({first['pred_field']})" if same_field else "")),
        ("references", metrics["references"]),
        *_rules(metrics),
        *_rows(metrics),
    )
    by = {} if metrics["same_recordings"] else {name: part["groups"] for name, part in metrics["by"].items()}
    return _shown(metrics, facts, _files_tables(metrics), by)


def compare_parts(metrics: dict[str, Any]) -> Parts:
    """The metrics of `compare`, ready to be shown."""
    a, b = metrics["a"], metrics["b"]
    without = None if metrics["against"] == "references" else "none: A is taken for the reference"
    same_of = f"{metrics['same_text']:,} of {counted(metrics['total']['rows'], 'row')}"
    facts = (
        *((side.upper(), f"{of['predictions']} ({of['pred_field']})") for side, of in (("a", a), ("b", b))),
        ("references", metrics["references"] or without),
        *_rules(metrics),
        ("empty in A", _empty(a)),
        ("empty in B", _empty(b)),
        ("same text", f"{same_of}; {metrics['same_normalized']:,} normalised"),
        (
            "left out",
            f"{counted(metrics['left_out'], 'row')} that only one of them has" if metrics["left_out"] else None,
        ),
        *(("difference", difference_text(of, unit)) for unit, of in _tested(metrics)),
    )
    return _shown(metrics, facts, _compare_tables(metrics), metrics["by"])


def _tested(metrics: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return compared_units(metrics["total"]) if metrics["against"] == "references" else ()


def _score_tables(metrics: dict[str, Any]) -> Iterable[Table]:
    total, latencies, speed = metrics["total"], metrics["latency_s"], metrics["speed"]
    yield from _unit_tables("", {"all rows": total}, total)
    for name, part in metrics["by"].items():
        yield from _unit_tables(name, part["groups"], total, part["unweighted_mean"])
    if latencies:
        yield _latencies(latencies)
    if speed:
        yield facts_table(*((f"{value:,.2f}", SPEEDS[name]) for name, value in speed.items() if value is not None))


def _files_tables(metrics: dict[str, Any]) -> Iterable[Table]:
    totals = {name: of["total"] for name, of in metrics["files"].items()}
    below = ("composite: mean of {} files", "all {} together")
    composite = None if metrics["same_recordings"] else metrics["composite"]
    yield from _unit_tables("file", totals, metrics["total"], composite, below, most=len(totals))
    for name, part in metrics["by"].items() if composite is not None else ():
        yield from _unit_tables(name, part["groups"], metrics["total"], part["unweighted_mean"])
    if speeds := _files_speeds(metrics):
        yield speeds


def _files_speeds(metrics: dict[str, Any]) -> Table | None:
    """RTFx of each file, of those that are known."""
    names = [name for name in SPEEDS if name.startswith("rtfx")]
    found = {file: _speed_cells(of["speed"], names) for file, of in metrics["files"].items()}
    rows = [(_group(file), cells) for file, cells in found.items() if cells]
    if not rows:
        return None
    together = _speed_cells(metrics["speed"], names)
    return _table("speed by file", Text("file"), rows, [(Text("all together"), together)] if together else ())


def _speed_cells(speed: dict[str, Any], names: Iterable[str]) -> Cells:
    return {SPEEDS[name].partition(":")[0]: f"{speed[name]:,.2f}" for name in names if speed.get(name) is not None}


def _compare_tables(metrics: dict[str, Any]) -> Iterable[Table]:
    cells = _paired_cells if metrics["against"] == "references" else _cells_against_a
    for name, groups in ({"": {"all rows": metrics["total"]}} | metrics["by"]).items():
        for unit in UNITS:
            of_unit = largest_groups({value: of for value, of in groups.items() if of[unit.rate]["reference"]})
            rows = [(_group(value), cells(of[unit.rate], unit.rate.upper())) for value, of in of_unit.items()]
            if rows:
                yield _table(_title(name, unit), plain(name), rows)
    titles = {"got_worse": "worse in B", "got_better": "better in B", "most_different": "most different"}
    for name, title in titles.items():
        if metrics.get(name):
            yield _changes(metrics[name], title, metrics["words"]["merge_compounds"])


def _shown(metrics: dict[str, Any], facts: Facts, tables: Iterable[Table], by: dict[str, Any]) -> Parts:
    """What must be read before any metric, the facts and tables, and what is to be known of them."""
    if metrics["partial"]:
        yield Text("partial: rows that the run has not written are not counted; see the notes")
    yield facts_table(*facts)
    yield from tables
    for name, groups in by.items():
        if len(groups) > MOST_GROUPS:
            shown = f"the {MOST_GROUPS} groups with the most rows, of {len(groups):,}"
            yield plain(f"note: --by {name}: {shown}; --json has all")
    for note in metrics["notes"]:
        yield plain(f"note: {note}")


def _unit_tables(
    name: str,
    groups: dict[str, Any],
    total: dict[str, Any],
    mean: dict[str, Any] | None = None,
    called: tuple[str, str] = ("unweighted mean of {}", "weighted by {}"),
    most: int = MOST_GROUPS,
) -> Iterable[Table]:
    """A table in words, of the groups that have any, and one in characters.

    Args:
        mean: the unweighted one, which stands below the groups with that of `total`; None for rows that are all.
        called: what these two are called, with room for the number of groups and for the unit.
        most: so many groups are shown.
    """
    for unit in UNITS:
        # A group without reference words has no rate in words; languages without spaces have one in characters.
        of_unit = {value: group for value, group in groups.items() if group[f"{unit.rate}_percent"] is not None}
        if not of_unit:
            continue
        below = []
        if mean is not None:
            if mean[f"{unit.rate}_percent"] is not None:
                below.append((plain(called[0].format(len(of_unit))), _rate(mean, unit)))
            below.append((plain(called[1].format(unit.name)), _rates(total, unit)))
        rows = [(_group(value), _rates(group, unit)) for value, group in largest_groups(of_unit, most).items()]
        yield _table(_title(name, unit), plain(name), rows, below)


def _rates(group: dict[str, Any], unit: Unit) -> Cells:
    numbers = {head: f"{group[name]:,}" for name, head in unit.counted.items()}
    return {"rows": f"{group[unit.rows]:,}", **_rate(group, unit), **numbers}


def _rate(metrics: dict[str, Any], unit: Unit) -> Cells:
    rate, interval = metrics[f"{unit.rate}_percent"], metrics[f"{unit.rate}_percent_interval"]
    return {f"{unit.rate.upper()} %": f"{rate:.2f}", "95 %": interval_text(interval)}


def _paired_cells(of: dict[str, Any], rate: str) -> Cells:
    return {
        "rows": f"{of['rows']:,}",
        f"A {rate} %": f"{of['a_percent']:.2f}",
        f"B {rate} %": f"{of['b_percent']:.2f}",
        "B − A": f"{of['delta_points']:+.2f}",
        "95 %": interval_text(of["delta_points_interval"], sign="+"),
        "p": _p_cell(of),
        "better": f"{of['better']:,}",
        "worse": f"{of['worse']:,}",
    }


def _p_cell(of: dict[str, Any]) -> str:
    """Of few rows nothing, as for an interval; never 0.0000, which would claim certainty."""
    if of["rows"] < LEAST_UTTERANCES:
        return ""
    return f"{of['p_value']:.4f}" if of["p_value"] >= 0.0001 else "< 0.0001"


def _cells_against_a(of: dict[str, Any], rate: str) -> Cells:
    return {
        "rows": f"{of['rows']:,}",
        f"{rate} % of B against A": f"{of['b_percent']:.2f}",
        "95 %": interval_text(of["b_percent_interval"]),
        "rows that differ": f"{of['worse']:,}",
    }


def _table(title: str, first: Text, rows: Sequence[NamedCells], below: Sequence[NamedCells] = ()) -> Table:
    """A table of names and metrics. Where a terminal is too narrow cells are wrapped, but no number is parted or cut.

    Args:
        below: rows set off by a line; they may lack some cells.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title_of(title), title_justify="left", collapse_padding=True)
    heads = list(dict.fromkeys(head for _, cells in rows for head in cells))
    longest = max(len(name) for name in (first, *(name for name, _ in (*rows, *below))))
    table.add_column(first, overflow="fold", min_width=min(longest, _LEAST_NAME))
    for head in heads:
        words = " ".join([head, *(cells.get(head, "") for _, cells in (*rows, *below))]).split()
        table.add_column(head, justify="right", min_width=max(map(len, words)))
    for part in (rows, below):
        for name, cells in part:
            table.add_row(name, *(cells.get(head, "") for head in heads))
        table.add_section()
    return table


def _title(name: str, unit: Unit) -> str:
    return f"by {name}, in {unit.name}" if name else f"in {unit.name}"


def _rules(metrics: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for line, each in zip(normalizer_lines(metrics), metrics["normalizers"], strict=True):
        yield "normaliser", f"{line}, {counted(each['rows'], 'row')}"
    bootstrap = metrics["bootstrap"]
    yield "words", aligner_line(metrics)
    yield "intervals", f"95 %, bootstrap by utterance, {bootstrap['resamples']:,} resamples, seed {bootstrap['seed']}"


def _rows(metrics: dict[str, Any]) -> Iterable[tuple[str, str | None]]:
    total = metrics["total"]
    yield "scored", counted(total["rows"], "row")
    yield "empty hypotheses", _empty(total, metrics["failed_kinds"])
    for reason, rows in metrics["excluded"].items():
        words = metrics["words_said_in_excluded"].get(reason)
        there = f"; the model said {counted(words, 'word')} there" if words else ""
        yield "not scored", f"{counted(rows, 'row')}: {EXCLUDED[reason]}{there}"


def _empty(of: dict[str, Any], kinds: dict[str, int] | None = None) -> str | None:
    named = f" ({', '.join(f'{rows:,} {kind}' for kind, rows in kinds.items())})" if kinds else ""
    parts = [f"{counted(of['failed'], 'row')} failed{named}"] if of["failed"] else []
    parts += [f"{counted(of['missing'], 'row')} without a prediction"] if of["missing"] else []
    return ", ".join(parts) or None


def _latencies(stages: dict[str, Any]) -> Table:
    rows = [
        (plain(stage), {name: f"{value:,}" if name == "rows" else f"{value:.3f}" for name, value in seconds.items()})
        for stage, seconds in stages.items()
    ]
    return _table(f"seconds a row took, by stage: {STAGES_ARE}", Text("stage"), rows)


def _group(value: str) -> Text:
    """The name of a group, which is as long as a row made it."""
    return plain(shorten(value, _SHOWN_CHARS))
