"""The page itself: one HTML file that needs no network, with styles, script and data in it; its skeleton: `page.html`.

Transcripts are untrusted. In markup they are `html_text`; the utterances are JSON in which no `<` stands; the script
makes text of them, never markup; the page's policy lets no script run but ours, by its digest, and nothing be fetched
but local audio. Knows nothing of where metrics come from.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

from asrbatch.evaluation.report.excerpt import KINDS
from asrbatch.evaluation.report.plots import Bar, bars, html_text
from asrbatch.evaluation.summary import MOST_GROUPS, aligner_line, interval_text, largest_groups, normalizer_lines
from asrbatch.formatting import amount, counted, shorten
from asrbatch.storage.cost import cost_notes, cost_text
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

_HERE = Path(__file__).parent
# Rates and units of rows counted in words (true), or in characters alone.
_HEADS = {True: ("WER", "words"), False: ("CER", "characters")}
_SHOWN_CHARS = 80
_SPEED_NOTE = "`generate` is summed over a row's windows and attempts, beside those of other rows: it is no 1 / RTFx."


def page(
    title: str, metrics: dict[str, Any], rates: dict[str, int], rows: list[dict[str, Any]], by: tuple[str, ...]
) -> str:
    """The page as text.

    Args:
        metrics: of `score`.
        rates: rows by the range that their error rate is in, of words or else characters; empty where no row is scored.
        rows: of `rows.worst_rows`.
        by: names of the groups that the rows have.
    """
    template, style, script = (
        (_HERE / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    # No script but ours and no style but ours, by their digests; nothing is fetched but audio files of this machine.
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; media-src file:; "
        f"base-uri 'none'"
    )
    data, filters = _table_data(rows, by)
    in_words = sorted({row["in_words"] for row in rows if row["errors"] is not None}, reverse=True) or [True]
    rate_head, units_head = (" or ".join(heads) for heads in zip(*(_HEADS[each] for each in in_words), strict=True))
    plots = "".join((*_rate_plots(metrics), *_distributions(metrics, rates)))
    num_rows = metrics["total"]["rows"] + sum(metrics["excluded"].values())
    # What is filled in is not searched for names again: a `$` in a text or in our script stays what it is.
    return Template(template).substitute(
        policy=html_text(policy),
        title=html_text(title),
        style=style,
        script=script,
        predictions=html_text(metrics["predictions"]),
        rules=html_text(", ".join(normalizer_lines(metrics))),
        aligner=html_text(aligner_line(metrics)),
        resamples=f"{metrics['bootstrap']['resamples']:,}",
        cards="".join(_cards(metrics)),
        notes="".join(_notes(metrics)),
        rates=f'<h2>Error rates</h2><div class="plots">{plots}</div>' if rates else "",
        times="".join(_times(metrics)),
        shown="" if len(rows) == num_rows else f" (the {len(rows):,} with the most errors of {num_rows:,})",
        filters="".join(filters),
        rate_head=f"{rate_head} %",
        units_head=units_head,
        data=script_json(data),
    )


def _cards(metrics: dict[str, Any]) -> Iterable[str]:
    total, excluded = metrics["total"], metrics["excluded"]
    edits = f"{total['substitutions']:,} sub, {total['deletions']:,} del, {total['insertions']:,} ins"
    empty = f"{total['failed']:,} failed, {total['missing']:,} without a prediction"
    cards = [
        ("WER", _percent(total["wer_percent"]), interval_text(total["wer_percent_interval"])),
        ("CER", _percent(total["cer_percent"]), interval_text(total["cer_percent_interval"])),
        ("utterances scored", f"{total['rows']:,}", f"{total['audio_s'] / 3600:,.2f} h of audio"),
        ("reference words", f"{total['reference_words']:,}", edits),
        ("empty hypotheses", f"{total['failed'] + total['missing']:,}", empty),
        ("not scored", f"{sum(excluded.values()):,}", ", ".join(f"{n:,} {why}" for why, n in excluded.items())),
    ]
    cards += [(name, f"{value:,.2f}", definition.strip()) for (name, definition), value in _speeds(metrics).items()]
    if metrics.get("cost"):
        cards.append(("cost", amount(metrics["cost"]["total"]), cost_text(metrics)))
    for name, value, small in cards:
        yield f'<div class="card">{html_text(name)}<b>{html_text(value)}</b><small>{html_text(small)}</small></div>'


def _speeds(metrics: dict[str, Any]) -> dict[tuple[str, str], float]:
    """RTFx by (name, what it means)."""
    return {
        tuple(SPEEDS[name].split(": ", 1)): value
        for name, value in metrics["speed"].items()
        if name.startswith("rtfx") and value is not None
    }


def _notes(metrics: dict[str, Any]) -> Iterable[str]:
    if metrics["partial"]:
        yield "<p><b>partial</b>: rows that the run has not written are not counted</p>"
    notes = [*metrics["notes"], *(cost_notes(metrics) if metrics.get("cost") else ())]
    yield from (f'<p class="soft">note: {html_text(note)}</p>' for note in notes)


def _rate_plots(metrics: dict[str, Any]) -> Iterable[str]:
    for name, part in metrics["by"].items():
        for rate in ("wer", "cer"):
            found = {value: of for value, of in part["groups"].items() if of[f"{rate}_percent"] is not None}
            if found:
                rows = [_rate_bar(value, of, rate) for value, of in largest_groups(found).items()]
                yield bars(f"{rate.upper()} by {name}, %, with 95 % intervals{_some(found)}", rows)


def _distributions(metrics: dict[str, Any], rates: dict[str, int]) -> Iterable[str]:
    yield bars(
        "utterances by their error rate (of words, or else of characters)",
        [Bar(name, f"{rows:,}", rows) for name, rows in rates.items()],
    )
    for name, part in metrics["by"].items():
        rows = [Bar(value, f"{of['rows']:,}", of["rows"]) for value, of in largest_groups(part["groups"]).items()]
        yield bars(f"utterances by {name}{_some(part['groups'])}", rows)


def _some(groups: dict[str, Any]) -> str:
    return f" (the {MOST_GROUPS} with the most rows of {len(groups):,})" if len(groups) > MOST_GROUPS else ""


def _rate_bar(name: str, group: dict[str, Any], rate: str) -> Bar:
    value, rows = group[f"{rate}_percent"], group["rows_in_words" if rate == "wer" else "rows"]
    return Bar(name, f"{value:.2f} ({counted(rows, 'row')})", value, group[f"{rate}_percent_interval"])


def _times(metrics: dict[str, Any]) -> Iterable[str]:
    speeds = {each: value for each, value in _speeds(metrics).items() if value}
    stages = metrics["latency_s"]
    if not speeds and not stages:
        return
    yield '<h2>Speed and time</h2><div class="plots">'
    if speeds:
        definitions = ". ".join(map(": ".join, speeds))
        yield bars("RTFx", [Bar(name, f"{value:,.2f}", value) for (name, _), value in speeds.items()], definitions)
    for name, part in metrics["by"].items():
        costs = {value: of["generate_s_per_audio_s"] for value, of in largest_groups(part["groups"]).items()}
        if any(costs.values()):
            rows = [Bar(value, "" if cost is None else f"{cost:.4f}", cost or 0.0) for value, cost in costs.items()]
            yield bars(f"seconds in the engine for a second of audio, by {name}", rows, _SPEED_NOTE)
    for which in ("p50", "p95", "max") if stages else ():
        rows = [Bar(stage, f"{of[which]:.3f}", of[which]) for stage, of in stages.items()]
        yield bars(f"seconds a row took, by stage, {which}", rows)
    yield f'</div><p class="soft">Stages: {html_text(STAGES_ARE)}.</p>' if stages else "</div>"


def _table_data(rows: list[dict[str, Any]], by: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """The rows for the script, with names as numbers, and what filters by those names."""
    statuses, scored = (_numbers(row[name] for row in rows) for name in ("status", "scored"))
    flags = _numbers(flag for row in rows for flag in row["flags"])
    groups = [_numbers(value for row in rows for value in row["groups"][at]) for at in range(len(by))]
    numbered = [
        {
            **row,
            "status": statuses[row["status"]],
            "scored": scored[row["scored"]],
            "flags": [flags[flag] for flag in row["flags"]],
            "groups": [[of[value] for value in values] for of, values in zip(groups, row["groups"], strict=True)],
        }
        for row in rows
    ]
    data = {
        # The names of fields once, not in each of perhaps a hundred thousand rows.
        "fields": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in numbered],
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
    return {name: number for number, name in enumerate(sorted(set(names)))}


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
