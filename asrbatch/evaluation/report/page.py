"""The page itself: one HTML file that needs no network, with styles, script and data in it; its skeleton: `page.html`.

Transcripts are untrusted. In markup they are `html_text`; the utterances are JSON in which no `<` stands; the script
makes text of them, never markup; the page's policy lets no script run but ours, by its digest, and nothing be fetched
but local audio. Knows nothing of where metrics come from.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from asrbatch.evaluation.report.excerpt import KINDS
from asrbatch.evaluation.report.figures import figures, speeds_of
from asrbatch.evaluation.report.plots import html_text, note_text, run_class
from asrbatch.evaluation.report.rows import as_lists
from asrbatch.evaluation.stats.significance import LEAST_UTTERANCES
from asrbatch.evaluation.stats.sums import group_order
from asrbatch.evaluation.summary import aligner_line, interval_text, normalizer_lines, p_text
from asrbatch.formatting import amount, counted, shorten
from asrbatch.storage.cost import cost_notes, cost_text

_HERE = Path(__file__).parent
# Rates and units of rows counted in words (true), or in characters alone.
_HEADS = {True: ("WER", "words"), False: ("CER", "characters")}
_SHOWN_CHARS = 80
_UNKNOWN = "not known: no run record beside the rows says it"
# What a run record says, in this order.
_FACTS = ("model", "settings", "date", "device", "software", "manifest")


@dataclass(frozen=True)
class ReportedRun:
    """One run of the page.

    Attributes:
        name: a short one.
        metrics: of `score`, with what the run took and cost, and of a later run how it differs from the first.
        facts: of `runs.run_facts`.
        rates: rows by the range that their error rate is in, of words or else characters; empty where none is scored.
    """

    name: str
    metrics: dict[str, Any]
    facts: dict[str, str]
    rates: dict[str, int]


def page(title: str, runs: Sequence[ReportedRun], rows: list[dict[str, Any]], by: tuple[str, ...], made: str) -> str:
    """The page as text.

    Args:
        runs: over the same rows.
        rows: of `rows.worst_rows`.
        by: names of the groups that the rows have.
        made: when.
    """
    template, style, script = (
        (_HERE / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    # No script but ours and no style but ours, by their digests; nothing is fetched but audio files of this machine.
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; media-src file:; "
        f"base-uri 'none'"
    )
    first = runs[0].metrics
    data, filters = _table_data(rows, by, [run.name for run in runs])
    num_rows = first["total"]["rows"] + sum(first["excluded"].values())
    # What is filled in is not searched for names again: a `$` in a text or in our script stays what it is.
    return Template(template).substitute(
        policy=html_text(policy),
        title=html_text(title),
        several=' class="several"' if len(runs) > 2 else "",
        style=style,
        script=script,
        rules="<br>".join(map(html_text, _how_counted(first, made))),
        cards=f'<div class="cards">{"".join(_cards(first))}</div>' if len(runs) == 1 else "",
        runs=_runs_table(runs),
        notes="".join(_notes(runs)),
        figures="".join(figures([run.metrics for run in runs], [run.rates for run in runs])),
        shown="" if len(rows) == num_rows else f" (the {len(rows):,} with the most errors of {num_rows:,})",
        filters="".join(filters),
        heads="".join(_heads(rows, runs)),
        data=script_json(data),
    )


def _how_counted(metrics: dict[str, Any], made: str) -> Iterable[str]:
    if metrics["references"]:
        yield f"references: {metrics['references']}"
    rules = ", ".join(normalizer_lines(metrics))
    draws = f"95 % intervals: bootstrap by utterance, {metrics['bootstrap']['resamples']:,} draws"
    yield f"normalised by {rules or 'nothing'}; words counted by {aligner_line(metrics)}; {draws}"
    yield f"page made {made} by asrbatch {metrics['asrbatch']}"


def _cards(metrics: dict[str, Any]) -> Iterable[str]:
    total, excluded = metrics["total"], metrics["excluded"]
    empty = f"{total['failed']:,} failed, {total['missing']:,} without a prediction"
    cards = [
        ("WER", _percent(total["wer_percent"]), interval_text(total["wer_percent_interval"])),
        ("CER", _percent(total["cer_percent"]), interval_text(total["cer_percent_interval"])),
        ("utterances scored", f"{total['rows']:,}", f"{total['audio_s'] / 3600:,.2f} h of audio"),
        ("reference words", f"{total['reference_words']:,}", _edits(total)),
        ("empty hypotheses", f"{total['failed'] + total['missing']:,}", empty),
        ("not scored", f"{sum(excluded.values()):,}", ", ".join(f"{n:,} {why}" for why, n in excluded.items())),
    ]
    cards += [(name, f"{value:,.2f}", definition) for (name, definition), value in speeds_of(metrics).items()]
    if metrics.get("cost"):
        cards.append(("cost", amount(metrics["cost"]["total"]), cost_text(metrics)))
    for name, value, small in cards:
        yield f'<div class="card">{html_text(name)}<b>{html_text(value)}</b><small>{note_text(small)}</small></div>'


def _edits(total: dict[str, Any]) -> str:
    return f"{total['substitutions']:,} sub, {total['deletions']:,} del, {total['insertions']:,} ins"


def _runs_table(runs: Sequence[ReportedRun]) -> str:
    """What each run is, a column for each; of several also their rates."""
    lines = list(_fact_lines(runs))
    heads = ""
    if len(runs) > 1:
        names = "".join(f'<th class="text" scope="col">{_named(run.name, at)}</th>' for at, run in enumerate(runs))
        heads = f"<thead><tr><td></td>{names}</tr></thead>"
        lines = [*_rate_lines(runs), *lines]
    body = "".join(
        f'<tr><th class="text" scope="row">{html_text(name)}</th>' + _cells(cells) + "</tr>" for name, cells in lines
    )
    return f'<div class="wide"><table class="facts">{heads}<tbody>{body}</tbody></table></div>'


def _cells(cells: list[str]) -> str:
    """A cell for each run; one for all of several where they say the same."""
    if len(cells) > 1 and len(set(cells)) == 1:
        return f'<td class="text all" colspan="{len(cells)}">{cells[0]}</td>'
    return "".join(f'<td class="text">{cell}</td>' for cell in cells)


def _named(name: str, run: int) -> str:
    return f'<span class="swatch {run_class(run)}"></span>{html_text(shorten(name, _SHOWN_CHARS))}'


def _fact_lines(runs: Sequence[ReportedRun]) -> Iterable[tuple[str, list[str]]]:
    yield "file", [html_text(run.metrics["predictions"]) for run in runs]
    for name in _FACTS:
        if name in ("model", "settings", "date") or any(name in run.facts for run in runs):
            yield name, [html_text(run.facts.get(name, "")) or f'<span class="soft">{_UNKNOWN}</span>' for run in runs]


def _rate_lines(runs: Sequence[ReportedRun]) -> Iterable[tuple[str, list[str]]]:
    """Of several runs what one has on cards, and whether what a later one differs by from the first may be chance."""
    totals = [run.metrics["total"] for run in runs]
    for rate in ("wer", "cer"):
        values = [total[f"{rate}_percent"] for total in totals]
        if None in values:
            continue
        intervals = [interval_text(total[f"{rate}_percent_interval"]) for total in totals]
        both = zip(values, intervals, strict=True)
        yield rate.upper(), [f"{value:.2f} % <small>{interval}</small>" for value, interval in both]
        differences = [run.metrics.get("against_first") for run in runs]
        if any(differences):
            first = html_text(shorten(runs[0].name, _SHOWN_CHARS))
            yield f"difference to {first}", ["–" if of is None else _difference(of[rate]) for of in differences]
    if totals[0]["reference_words"]:
        yield f"errors in {totals[0]['reference_words']:,} words", [_edits(total) for total in totals]
    scored = f"{counted(totals[0]['rows'], 'utterance')}, {totals[0]['audio_s'] / 3600:,.2f} h of audio"
    yield "scored", [scored] * len(runs)
    if any(total["failed"] + total["missing"] for total in totals):
        yield (
            "empty hypotheses",
            [f"{of['failed']:,} failed, {of['missing']:,} without a prediction" for of in totals],
        )
    found = [speeds_of(run.metrics) for run in runs]
    for speed in dict.fromkeys(name for of in found for name in of):
        yield speed[0], [f"{of[speed]:,.2f}" if speed in of else "–" for of in found]
    if any(run.metrics.get("cost") for run in runs):
        costs = [run.metrics.get("cost") for run in runs]
        yield "cost", [html_text(amount(cost["total"])) if cost else "–" for cost in costs]


def _difference(of: dict[str, Any]) -> str:
    """`-0.89 (-6.04 to +0.62), p = 0.63, may be chance`: how one rate of a later run differs from that of the first."""
    interval = interval_text(of["delta_points_interval"], sign="+")
    parts = [f"{of['delta_points']:+.2f}{f' ({interval})' if interval else ''}"]
    if of["rows"] >= LEAST_UTTERANCES:
        parts.append(f"p {p_text(of['p_value'])}")
    parts.append("significant" if of["significant"] else "may be chance")
    return html_text(", ".join(parts))


def _notes(runs: Sequence[ReportedRun]) -> Iterable[str]:
    if any(run.metrics["partial"] for run in runs):
        yield "<p><b>partial</b>: rows that the run has not written are not counted</p>"
    of_runs: dict[str, list[str]] = {}
    for run in runs:
        costs = cost_notes(run.metrics) if run.metrics.get("cost") else ()
        for note in (*run.metrics["notes"], *costs):
            of_runs.setdefault(note, []).append(run.name)
    for note, names in of_runs.items():
        of = "" if len(names) == len(runs) else f"{', '.join(names)}: "
        yield f'<p class="soft">note: {note_text(of + note)}</p>'


def _heads(rows: list[dict[str, Any]], runs: Sequence[ReportedRun]) -> Iterable[str]:
    """The heads of the list: `data-key` is what a click sorts by."""
    in_words = sorted({row["in_words"] for row in rows if row["units"] is not None}, reverse=True) or [True]
    rate, units = (" or ".join(heads) for heads in zip(*(_HEADS[each] for each in in_words), strict=True))
    of_one, of_several = {"rate": f"{rate} %", "errors": "errors"}, {"errors": "errors in all", "spread": "differ by"}
    numbers = {**(of_one if len(runs) == 1 else of_several), "units": units, "seconds": "seconds"}
    yield '<th data-key="id" class="text"><button>id</button><span></span></th>'
    for key, name in numbers.items():
        yield f'<th data-key="{key}"><button>{name}</button><span></span></th>'
    yield '<th class="text long">reference</th>'
    if len(runs) == 1:
        yield '<th class="text long">prediction</th>'
        return
    for at, run in enumerate(runs):
        yield f'<th data-key="run{at}" class="text long"><button>{_named(run.name, at)}</button><span></span></th>'


def _table_data(rows: list[dict[str, Any]], by: tuple[str, ...], names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The rows for the script, with names as numbers, and what filters by those names."""
    scored = _numbers(row["scored"] for row in rows)
    statuses = _numbers(run["status"] for row in rows for run in row["runs"])
    flags = _numbers(flag for row in rows for run in row["runs"] for flag in run["flags"])
    groups = [_numbers(value for row in rows for value in row["groups"][at]) for at in range(len(by))]
    numbered = [
        {
            **row,
            "scored": scored[row["scored"]],
            "groups": [[of[value] for value in values] for of, values in zip(groups, row["groups"], strict=True)],
            "runs": [
                {**run, "status": statuses[run["status"]], "flags": [flags[flag] for flag in run["flags"]]}
                for run in row["runs"]
            ],
        }
        for row in rows
    ]
    data = {
        # The names of fields once, not in each of perhaps a hundred thousand rows.
        "fields": [*(name for name in rows[0] if name != "runs"), "runs"] if rows else [],
        "run_fields": list(rows[0]["runs"][0]) if rows else [],
        "names": names,
        "rows": list(map(as_lists, numbered)),
        "statuses": list(statuses),
        "flags": list(flags),
        "scored": list(scored),
        "kinds": KINDS,
    }
    hidden = "" if len(scored) > 1 else " hidden"
    filters = [
        _select('id="status"', "any status", statuses),
        _select('id="flag"', "any flag", flags),
        _select(f'id="scored"{hidden}', "scored or not", scored),
    ]
    filters += [_select(f'data-group="{at}"', f"any {by[at]}", numbers) for at, numbers in enumerate(groups)]
    return data, filters


def _numbers(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set(names), key=group_order))}


def _select(attributes: str, first: str, numbers: dict[str, int]) -> str:
    choices = "".join(
        f'<option value="{number}">{html_text(shorten(name, _SHOWN_CHARS))}</option>'
        for name, number in numbers.items()
    )
    label = html_text(first)
    return f'<select {attributes} aria-label="{label}"><option value="">{html_text(first)}</option>{choices}</select>'


def script_json(value: Any) -> str:
    """JSON in ASCII without `<`, `>` and `&`: nothing in it can end a script element or begin a comment."""
    # The script reads it with JSON.parse, which knows no NaN: better an error here than an empty page.
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"
