"""The plots of a page: rates, distributions and times, by group and, of several runs, a bar for each run.

Knows nothing of utterances and where metrics come from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from asrbatch.evaluation.report.plots import Bar, bars, note_text
from asrbatch.evaluation.summary import MOST_GROUPS, largest_groups
from asrbatch.formatting import counted
from asrbatch.storage.metrics import SPEEDS, STAGES_ARE

_SPEED_NOTE = "`generate` is summed over a row's windows and attempts, beside those of other rows: it is not 1 / RTFx."
Metrics = dict[str, Any]
Group = Mapping[str, Any]
# Of one group of one run: what stands behind its bar, how long that is, and its interval.
Shown = tuple[str, float, Sequence[float] | None]


def figures(runs: Sequence[Metrics], rates: Sequence[dict[str, int]]) -> Iterable[str]:
    """All plots, under their heads.

    Args:
        runs: the metrics of each, over the same rows.
        rates: of each, rows by the range that their error rate is in; empty where none is scored.
    """
    if rates[0]:
        plots = "".join((*_rate_plots(runs), *_distributions(runs, rates)))
        yield f'<h2>Error rates</h2><div class="plots">{plots}</div>'
    yield from _times(runs)


def speeds_of(metrics: Metrics) -> dict[tuple[str, str], float]:
    """RTFx by (name, what it means)."""
    return {
        tuple(SPEEDS[name].split(": ", 1)): value
        for name, value in metrics["speed"].items()
        if name.startswith("rtfx") and value is not None
    }


def _grouped(names: Iterable[str], of_runs: Sequence[Mapping[str, Any]], shown: Callable[[Any], Shown]) -> list[Bar]:
    """A bar for each group and run; a group that a run has not, has one without length."""
    found = []
    for name in names:
        for run, groups in enumerate(of_runs):
            label, value, interval = shown(groups[name]) if name in groups else ("–", 0.0, None)
            found.append(Bar("" if run else name, label, value, interval, run, not run))
    return found


def _rate_plots(runs: Sequence[Metrics]) -> Iterable[str]:
    for name, part in runs[0]["by"].items():
        for rate in ("wer", "cer"):
            found = {value: of for value, of in part["groups"].items() if of[f"{rate}_percent"] is not None}
            if found:
                groups = [run["by"].get(name, {"groups": {}})["groups"] for run in runs]
                rows = _grouped(largest_groups(found), groups, lambda of, rate=rate: _rate_shown(of, rate, len(runs)))
                drawn = ", with 95 % intervals" if any(row.interval for row in rows) else ""
                yield bars(f"{rate.upper()} by {name}, %{drawn}{_some(found)}", rows)


def _rate_shown(group: Group, rate: str, num_runs: int) -> Shown:
    value, rows = group[f"{rate}_percent"], group["rows_in_words" if rate == "wer" else "rows"]
    # Of several runs over the same rows their number stands in the plot of it.
    label = f"{value:.2f}" if num_runs > 1 else f"{value:.2f} ({counted(rows, 'row')})"
    return label, value, group[f"{rate}_percent_interval"]


def _distributions(runs: Sequence[Metrics], rates: Sequence[dict[str, int]]) -> Iterable[str]:
    title = "utterances by their error rate (of words, or else of characters)"
    yield bars(title, _grouped(rates[0], rates, lambda rows: (f"{rows:,}", rows, None)))
    for name, part in runs[0]["by"].items():
        of_all = None if len(runs) > 1 else 0
        groups = largest_groups(part["groups"])
        rows = [Bar(value, f"{of['rows']:,}", of["rows"], run=of_all) for value, of in groups.items()]
        yield bars(f"utterances by {name}{_some(part['groups'])}", rows)


def _some(groups: Mapping[str, Any]) -> str:
    return f" (the {MOST_GROUPS} with the most rows of {len(groups):,})" if len(groups) > MOST_GROUPS else ""


def _times(runs: Sequence[Metrics]) -> Iterable[str]:
    speeds = [{each: value for each, value in speeds_of(run).items() if value} for run in runs]
    stages = [run["latency_s"] for run in runs]
    if not any(speeds) and not any(stages):
        return
    yield '<h2>Speed and time</h2><div class="plots">'
    if any(speeds):
        known = list(dict.fromkeys(each for of_run in speeds for each in of_run))
        by_name = [{name: value for (name, _), value in of_run.items()} for of_run in speeds]
        rows = _grouped((name for name, _ in known), by_name, lambda value: (f"{value:,.2f}", value, None))
        yield bars("RTFx", rows, ". ".join(map(": ".join, known)))
    for name, part in runs[0]["by"].items():
        shown = largest_groups(part["groups"])
        costs = [
            {value: of["generate_s_per_audio_s"] for value, of in run["by"].get(name, {"groups": {}})["groups"].items()}
            for run in runs
        ]
        if any(of_run.get(value) for of_run in costs for value in shown):
            rows = _grouped(shown, costs, lambda cost: (_seconds(cost), cost or 0.0, None))
            yield bars(f"seconds in `generate` for a second of audio, by {name}", rows, _SPEED_NOTE)
    names = list(dict.fromkeys(stage for of_run in stages for stage in of_run))
    for which in ("p50", "p95", "max") if names else ():
        rows = _grouped(names, stages, lambda of, which=which: (f"{of[which]:.3f}", of[which], None))
        yield bars(f"seconds a row took, by stage, {which}", rows)
    yield f'</div><p class="soft">Stages: {note_text(STAGES_ARE)}.</p>' if names else "</div>"


def _seconds(cost: float | None) -> str:
    """`0.20`; of less, on a fast device, two digits."""
    return "" if cost is None else f"{cost:.2f}" if cost >= 0.1 else f"{cost:.2g}"
