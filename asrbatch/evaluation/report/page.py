"""The page itself: one HTML file that needs no network, with styles, script and data in it.

Transcripts are untrusted. In markup they are escaped; the utterances are JSON in which no `<` stands, and the script
makes text of them, never markup; the page's policy lets no script run but ours, by its digest, and nothing be fetched
but local audio.

Plots as SVG text: bars with names, numbers and intervals. Knows nothing of where figures come from.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from asrbatch.evaluation.report.excerpt import KINDS
from asrbatch.formatting import shorten
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

_WIDTH, _ROW, _NAME, _GAP = 520, 24, 140, 8
_NAME_CHARS = 20
_CHAR = 7.2  # a digit of the page's 12 px font is narrower in every font that browsers choose


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

    @property
    def end(self) -> float:
        return max(self.value, self.interval[1]) if self.interval else self.value


def bars(title: str, rows: Sequence[Bar], note: str = "") -> str:
    """A figure of horizontal bars, as HTML; names, labels and the note below it are escaped."""
    # The scale at which every label has room behind its own bar.
    room = [(row.end, _WIDTH - _NAME - 2 * _GAP - _CHAR * len(row.label)) for row in rows]
    scale = min((max(width, 0.0) / end for end, width in room if end > 0), default=0.0)
    parts = []
    for at, row in enumerate(rows):
        y = at * _ROW
        name = shorten(row.name, _NAME_CHARS)
        parts.append(
            f'<text x="{_NAME - _GAP}" y="{y + 16}" '
            f'text-anchor="end">{escape(name)}<title>{escape(row.name)}</title></text>'
        )
        parts.append(
            f'<rect class="bar" x="{_NAME}" y="{y + 5}" width="{row.value * scale:.1f}" height="{_ROW - 10}" rx="2"/>'
        )
        if row.interval:
            low, high = (_NAME + bound * scale for bound in row.interval)
            parts.append(
                f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y + _ROW / 2}" y2="{y + _ROW / 2}"/>'
            )
        parts.append(
            f'<text class="soft" x="{_NAME + row.end * scale + _GAP:.1f}" y="{y + 16}">{escape(row.label)}</text>'
        )
    height = max(len(rows) * _ROW, _ROW)
    below = f'<p class="soft">{escape(note)}</p>' if note else ""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>{below}</figure>'
    )


_HERE = Path(__file__).parent
# Heads of the table for rows counted in words, in characters alone, or some in either; false: in characters.
_HEADS = {
    frozenset((True,)): ("WER %", "words"),
    frozenset((False,)): ("CER %", "characters"),
    frozenset((True, False)): ("WER or CER %", "words or characters"),
}
_SHOWN_CHARS = 80
_MOST_BARS = 50
_SPEED_NOTE = "`generate` is summed over a row's windows and attempts, beside those of other rows: it is no 1 / RTFx."


def page(
    title: str, figures: dict[str, Any], rates: dict[str, int], rows: list[dict[str, Any]], by: tuple[str, ...]
) -> str:
    """The page as text.

    Args:
        figures: of `score`.
        rates: rows by the range that their error rate is in, of words or else characters; empty where no row is scored.
        rows: of `rows.worst_rows`.
        by: names of the groups that the rows have.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; media-src file:; "
        f"base-uri 'none'"
    )
    data, options = _table_data(rows, by)
    units = frozenset(row["in_words"] for row in rows if row["errors"] is not None)
    plots = (*_rate_plots(figures), *_distributions(figures, rates))
    plots = f'<h2>Error rates</h2><div class="plots">{"".join(plots)}</div>' if rates else ""
    return "".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{style}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *_summary(figures),
            plots,
            *_times(figures),
            *_table(len(rows), _num_rows(figures), options, by, _HEADS.get(units, _HEADS[frozenset((True,))])),
            f'<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>\n',
        )
    )


def _summary(figures: dict[str, Any]) -> Iterable[str]:
    total = figures["total"]
    rules = ", ".join(f"{n['name']} ({n['version']}, {n['sha256'][:12]})" for n in figures["normalizers"])
    words, bootstrap = figures["words"], figures["bootstrap"]
    compounds = ", compounds merged" if words["merge_compounds"] else ""
    yield (
        f'<p class="soft">{escape(figures["predictions"])}<br>normalised by {escape(rules)}; words counted by '
        f"{words['name']} "
    )
    yield f"{words['version']}{compounds}; 95 % intervals: bootstrap by utterance, {bootstrap['resamples']:,} draws</p>"
    cards = [
        ("WER", _percent(total["wer_percent"]), _interval(total["wer_percent_interval"])),
        ("CER", _percent(total["cer_percent"]), _interval(total["cer_percent_interval"])),
        ("utterances scored", f"{total['rows']:,}", f"{total['audio_s'] / 3600:,.2f} h of audio"),
        ("reference words", f"{total['reference_words']:,}", _edits(total)),
        (
            "empty hypotheses",
            f"{total['failed'] + total['missing']:,}",
            f"{total['failed']:,} failed, {total['missing']:,} without a prediction",
        ),
        (
            "not scored",
            f"{sum(figures['excluded'].values()):,}",
            ", ".join(f"{n:,} {r}" for r, n in figures["excluded"].items()),
        ),
    ]
    for name, value in figures["speed"].items():
        if name.startswith("rtfx") and value is not None:
            what, definition = SPEEDS[name].split(": ", 1)
            cards.append((what, f"{value:,.2f}", definition))
    yield '<div class="cards">'
    yield from (f'<div class="card">{escape(a)}<b>{escape(b)}</b><small>{escape(c)}</small></div>' for a, b, c in cards)
    yield "</div>"
    if figures["partial"]:
        yield "<p><b>partial</b>: rows that the run has not written are not counted</p>"
    yield from (f'<p class="soft">note: {escape(note)}</p>' for note in figures["notes"])


def _rate_plots(figures: dict[str, Any]) -> Iterable[str]:
    for name, part in figures["by"].items():
        for rate in ("wer", "cer"):
            found = {value: of for value, of in part["groups"].items() if of[f"{rate}_percent"] is not None}
            if found:
                rows = [_rate_bar(value, of, rate) for value, of in _largest(found).items()]
                yield bars(f"{rate.upper()} by {name}, %, with 95 % intervals{_some(found)}", rows)


def _distributions(figures: dict[str, Any], rates: dict[str, int]) -> Iterable[str]:
    yield bars(
        "utterances by their error rate (of words, or else of characters)",
        [Bar(name, f"{rows:,}", rows) for name, rows in rates.items()],
    )
    for name, part in figures["by"].items():
        rows = [Bar(value, f"{of['rows']:,}", of["rows"]) for value, of in _largest(part["groups"]).items()]
        yield bars(f"utterances by {name}{_some(part['groups'])}", rows)


def _largest(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with the most rows, in their order: as many as a plot can show."""
    shown = set(sorted(groups, key=lambda value: -groups[value]["rows"])[:_MOST_BARS])
    return {value: group for value, group in groups.items() if value in shown}


def _some(groups: dict[str, Any]) -> str:
    return f" (the {_MOST_BARS} with the most rows of {len(groups):,})" if len(groups) > _MOST_BARS else ""


def _rate_bar(name: str, group: dict[str, Any], rate: str) -> Bar:
    value, rows = group[f"{rate}_percent"], group["rows_in_words" if rate == "wer" else "rows"]
    return Bar(name, f"{value:.2f} ({rows:,} rows)", value, group[f"{rate}_percent_interval"])


def _num_rows(figures: dict[str, Any]) -> int:
    return figures["total"]["rows"] + sum(figures["excluded"].values())


def _times(figures: dict[str, Any]) -> Iterable[str]:
    speeds = {
        SPEEDS[name].partition(":"): value
        for name, value in figures["speed"].items()
        if name.startswith("rtfx") and value
    }
    stages = figures["latency_s"]
    if not speeds and not stages:
        return
    yield '<h2>Speed and time</h2><div class="plots">'
    if speeds:
        definitions = ". ".join(f"{name}:{definition}" for name, _, definition in speeds)
        yield bars("RTFx", [Bar(name, f"{value:,.2f}", value) for (name, *_), value in speeds.items()], definitions)
    for name, part in figures["by"].items():
        costs = {value: of["generate_s_per_audio_s"] for value, of in _largest(part["groups"]).items()}
        if any(costs.values()):
            rows = [Bar(value, "" if cost is None else f"{cost:.4f}", cost or 0.0) for value, cost in costs.items()]
            yield bars(f"seconds in the engine for a second of audio, by {name}", rows, _SPEED_NOTE)
    for which in ("p50", "p95", "max") if stages else ():
        rows = [Bar(stage, f"{of[which]:.3f}", of[which]) for stage, of in stages.items()]
        yield bars(f"seconds a row took, by stage, {which}", rows)
    yield f'</div><p class="soft">Stages: {escape(STAGES_ARE)}.</p>' if stages else "</div>"


def _table(
    num_rows: int, total: int, options: dict[str, list[str]], by: tuple[str, ...], heads: tuple[str, str]
) -> Iterable[str]:
    some = "" if num_rows == total else f" (the {num_rows:,} with the most errors of {total:,})"
    yield (
        f'<h2>Utterances{some}</h2><p class="soft">A click on a row, or Enter on its name, shows what was said '
        f"beside what was "
    )
    yield 'wanted: <span class="aligned"><del>left out</del>, <ins>added</ins>, '
    yield '<span class="sub"><del>one</del> <ins>for another</ins></span></span>. '
    yield "Underlined errors play the audio from their segment, or one beside it. "
    yield "Long utterances are shown by their errors, … for what is between.</p>"
    yield '<div class="filters"><input type="search" id="search" placeholder="id or text" aria-label="id or text">'
    yield _select('id="status"', "any status", options["statuses"])
    yield _select('id="flag"', "any flag", options["flags"])
    hidden = "" if len(options["scored"]) > 1 else " hidden"
    yield _select(f'id="scored"{hidden}', "scored or not", options["scored"])
    for at, name in enumerate(by):
        yield _select(f'data-group="{at}"', f"any {name}", options["groups"][at])
    yield (
        '<span id="count" role="status"></span><button id="before" aria-label="page before">←</button><span '
        'id="page"></span>'
    )
    yield '<button id="after" aria-label="page after">→</button></div>'
    rate, units = heads
    columns = {"id": "id", "rate": rate, "errors": "errors", "units": units, "seconds": "seconds", "status": "status"}
    sorted_by = "".join(
        f'<th data-key="{key}"{" class=text" if key == "id" else ""}><button>{name}</button><span></span></th>'
        for key, name in columns.items()
    )
    others = "".join(f'<th class="text">{name}</th>' for name in ("flags", "reference"))
    yield f'<div class="wide"><table><thead><tr>{sorted_by}{others}</tr></thead>'
    yield '<tbody id="rows"></tbody></table></div>'


def _select(attributes: str, first: str, values: list[str]) -> str:
    choices = "".join(
        f'<option value="{at}">{escape(shorten(value, _SHOWN_CHARS))}</option>' for at, value in enumerate(values)
    )
    label = escape(first, quote=True)
    return f'<select {attributes} aria-label="{label}"><option value="">{escape(first)}</option>{choices}</select>'


def _table_data(rows: list[dict[str, Any]], by: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The rows as JSON that can stand in a script element, with names as numbers; and those names."""
    statuses = _Names(row["status"] for row in rows)
    scored = _Names(row["scored"] for row in rows)
    flags = _Names(flag for row in rows for flag in row["flags"])
    groups = [_Names(value for row in rows for value in row["groups"][at]) for at in range(len(by))]
    numbered = [
        {
            **row,
            "status": statuses.numbers[row["status"]],
            "scored": scored.numbers[row["scored"]],
            "flags": [flags.numbers[flag] for flag in row["flags"]],
            "groups": [[names.numbers[value] for value in row["groups"][at]] for at, names in enumerate(groups)],
        }
        for row in rows
    ]
    data = {
        "fields": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in numbered],
        "statuses": statuses.names,
        "flags": flags.names,
        "scored": scored.names,
        "kinds": KINDS,
    }
    options = {"statuses": statuses.names, "flags": flags.names, "scored": scored.names}
    return script_json(data), {**options, "groups": [names.names for names in groups]}


class _Names:
    def __init__(self, names: Iterable[str]):
        self.names = sorted(set(names))
        self.numbers = {name: at for at, name in enumerate(self.names)}


def script_json(value: Any) -> str:
    """JSON in ASCII without `<`, `>` and `&`: nothing in it can end a script element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _edits(total: dict[str, Any]) -> str:
    return f"{total['substitutions']:,} sub, {total['deletions']:,} del, {total['insertions']:,} ins"
