"""What `score` and `compare` show: tables on standard output, of the same figures that `--json` prints.

Texts of models and manifests are shown without control characters. Knows nothing of how figures were found.
"""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .scored_texts import EXCLUDED
from .speeds import SPEEDS, STAGES_ARE

_SHOWN_CHARS = 80
MOST_SHOWN = 50  # groups in a table


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
    tables = {"": {"all rows": total}, **{name: part["groups"] for name, part in figures["by"].items()}}
    for name, groups in tables.items():
        table = _table(
            f"by {name}" if name else None, name, "rows", "WER %", "95 %", "sub", "del", "ins", "words", "CER %", "95 %"
        )
        for value, counts in largest(groups).items():
            table.add_row(_group(value), f"{counts['rows']:,}", *_wer(counts), *_cer(counts))
        if name:
            mean = figures["by"][name]["unweighted_mean"]
            table.add_section()
            of_words = _number(mean["wer_percent"]), _interval(mean["wer_percent_interval"])
            of_characters = _number(mean["cer_percent"]), _interval(mean["cer_percent_interval"])
            number = f"groups: {mean['groups_in_cer']:,}"
            table.add_row("unweighted mean", number, *of_words, *[""] * 4, *of_characters)
            table.add_row("weighted by words", f"{total['rows']:,}", *_wer(total), *_cer(total))
        yield table
    if figures["latency_s"]:
        yield _latencies(figures["latency_s"])
    if figures["speed"]:
        yield _facts(*((f"{value:,.2f}", SPEEDS[name]) for name, value in figures["speed"].items() if value is not None))
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
    tables = {"": {"all rows": figures["total"]}, **figures["by"]}
    for name, groups in tables.items():
        yield _paired_table(name, groups, "wer", has_references)
    if figures["total"]["cer"]["reference"]:
        yield _paired_table("", {"all rows": figures["total"]}, "cer", has_references)
    for name, title in (("got_worse", "worse in B"), ("got_better", "better in B"), ("most_different", "most different")):
        if figures.get(name):
            yield from _changes(figures[name], title)
    yield from _groups_not_shown(figures["by"])
    yield from _notes(figures)


def largest(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with the most rows, in their order: as many as a person reads."""
    if len(groups) <= MOST_SHOWN:
        return groups
    shown = set(sorted(groups, key=lambda value: -groups[value]["rows"])[:MOST_SHOWN])
    return {value: group for value, group in groups.items() if value in shown}


def _groups_not_shown(by: dict[str, dict[str, Any]]) -> Iterable[Text]:
    for name, groups in by.items():
        if len(groups) > MOST_SHOWN:
            yield Text(f"note: --by {name}: the {MOST_SHOWN} groups with the most rows, of {len(groups):,}; --json has all")


def _partial(figures: dict[str, Any]) -> Iterable[Text]:
    """What must be read before any figure."""
    if figures["partial"]:
        yield Text("partial: rows that the run has not written are not counted; see the notes")


def _paired_table(name: str, groups: dict[str, Any], rate: str, has_references: bool) -> Table:
    unit = rate.upper()
    if has_references:
        columns = ("rows", f"A {unit} %", f"B {unit} %", "B − A", "95 %", "p", "better", "worse")
    else:
        columns = ("rows", f"{unit} % of B against A", "95 %", "rows that differ")
    table = _table(f"by {name}" if name else None, name, *columns)
    for value, group in largest(groups).items():
        of, rows = group[rate], f"{group[rate]['rows']:,}"
        if has_references:
            rates = _number(of["a_percent"]), _number(of["b_percent"]), _number(of["delta_points"], signed=True)
            p = "" if of["p_value"] is None else f"{of['p_value']:.4f}" if of["p_value"] >= 0.0001 else "< 0.0001"
            interval = _interval(of["delta_points_interval"], signed=True)
            table.add_row(_group(value), rows, *rates, interval, p, f"{of['better']:,}", f"{of['worse']:,}")
        else:
            table.add_row(_group(value), rows, _number(of["b_percent"]), _interval(of["b_percent_interval"]), f"{of['worse']:,}")
    return table


def _changes(changes: list[dict[str, Any]], title: str) -> Iterable[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for change in changes:
        table.add_section()
        table.add_row(_plain(change["id"]), f"{change['errors_a']} errors in A, {change['errors_b']} in B, in {change['unit']}")
        for name in ("reference", "a", "b"):
            if change[name] is not None:
                table.add_row(f"  {name.upper() if len(name) == 1 else name}", _plain(change[name]))
    yield table


def _rules(figures: dict[str, Any]) -> Iterable[tuple[str, str]]:
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
    table = _table(f"seconds a row took, by stage: {STAGES_ARE}", "stage", "rows")
    names = [name for name in next(iter(stages.values())) if name != "rows"]
    for name in names:
        table.add_column(name, justify="right")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds['rows']:,}", *(f"{seconds[name]:.3f}" for name in names))
    return table


def _facts(*rows: tuple[str, str | None]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, _plain(value))
    return table


def _table(title: str | None, first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column(_plain(first), overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _notes(figures: dict[str, Any]) -> Iterable[Text]:
    for note in figures["notes"]:
        yield Text("note: ").append(_plain(note))


def _wer(counts: dict[str, Any]) -> tuple[str, ...]:
    edits = (f"{counts[name]:,}" for name in ("substitutions", "deletions", "insertions", "reference_words"))
    return _number(counts["wer_percent"]), _interval(counts["wer_percent_interval"]), *edits


def _cer(counts: dict[str, Any]) -> tuple[str, str]:
    return _number(counts["cer_percent"]), _interval(counts["cer_percent_interval"])


def _number(value: float | None, signed: bool = False) -> str:
    return "" if value is None else f"{value:+.2f}" if signed else f"{value:.2f}"


def _interval(bounds: list[float] | None, signed: bool = False) -> str:
    return "" if bounds is None else f"{_number(bounds[0], signed)} to {_number(bounds[1], signed)}"


def _group(value: str) -> Text:
    """The name of a group, which is as long as a row made it."""
    return _plain(value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…")


def _plain(text: str) -> Text:
    """Text of others as a terminal may have it: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
