"""The runs of a report over the same rows: each scored alone, and what its record says of it. Knows nothing of HTML."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asrbatch.evaluation.counting import count_rows, refuse_unknown_groups
from asrbatch.evaluation.inputs import EvaluationInputs
from asrbatch.evaluation.options import ScoreOptions
from asrbatch.evaluation.predictions import Predictions
from asrbatch.evaluation.rows import ScoredRow, ScoredRows
from asrbatch.evaluation.score import refuse_doubled, score_metrics
from asrbatch.evaluation.stats.error_rates import Tally
from asrbatch.evaluation.stats.paired_rates import PairCounts
from asrbatch.storage.metrics import PARTS
from asrbatch.storage.run_files import RunFacts


class RunTallies:
    """What is counted of each run, and of each later run beside the first.

    Args:
        number: of runs.
    """

    def __init__(self, number: int):
        self.runs = [Tally() for _ in range(number)]
        self.pairs = [PairCounts() for _ in range(number - 1)]

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """Of the first run; the others have the same rows."""
        return self.runs[0].groups

    def add(self, row: ScoredRow, groups: Mapping[str, list[str]]) -> None:
        """Adds one row, with what each run made of it."""
        for tally, said, hypothesis in zip(self.runs, row.predictions, row.texts.hypotheses, strict=True):
            tally.add(row._replace(predictions=[said], texts=row.texts._replace(hypotheses=(hypothesis,))), groups)
        if not row.texts.excluded:
            for pair, said in zip(self.pairs, row.predictions[1:], strict=True):
                pair.add(row.predictions[0], said)

    def update(self, other: "RunTallies") -> None:
        """Adds what was counted over another part."""
        for mine, theirs in zip([*self.runs, *self.pairs], [*other.runs, *other.pairs], strict=True):
            mine.update(theirs)


def score_runs(
    paths: Sequence[Path], options: ScoreOptions, log: Callable[[str], None], *, common: bool = False
) -> tuple[list[dict[str, Any]], ScoredRows]:
    """The metrics of each run, as `score` has them, and the rows that they are made of. Where rows have references,
    later runs have `against_first`: how they differ from the first, of `paired_rates`.

    Where no row has a reference, rates of one run are null, and there are no groups; of several runs the predictions of
    the first take the place of references.

    Args:
        common: of several runs the rows that all have, whatever manifests they are of.

    Raises:
        UsageError, ManifestError: this cannot be done as asked, or the runs are over different manifests.
        OutputError: a file is damaged, or what runs say of the same row differs.
    """
    refuse_doubled(paths)
    inputs = EvaluationInputs(paths, options, common)
    rows = ScoredRows(inputs)
    tallies = count_rows(rows, lambda: RunTallies(len(paths)), log)
    refuse_unknown_groups(tallies)
    metrics = [score_metrics(inputs, tally, at, shows_means=False) for at, tally in enumerate(tallies.runs)]
    if inputs.has_references:
        for of_run, pair in zip(metrics[1:], tallies.pairs, strict=True):
            of_run["against_first"] = pair.as_dict(options.resamples, options.seed, with_p=True)
    return metrics, rows


def run_facts(run: RunFacts, predictions: Predictions) -> dict[str, str]:
    """What a run's record says of it, ready to be shown: model, settings, date, device, software, manifest. What it
    does not say, or says otherwise than we write it, is left out; nothing is there without a record.

    Args:
        predictions: its rows, which say the language where the run was told none.
    """
    record = run.record
    if record is None:
        return {}
    fingerprint = _part(record, "fingerprint")
    sessions = [each for each in record.get("sessions") or () if isinstance(each, dict)]
    # A merged run's record has them counted.
    versions = {name: list(map(str, of)) for name, of in _part(record, "versions").items() if isinstance(of, dict)}
    versions = versions or _versions(sessions, record)
    found = {
        "model": _model(_part(record, "model"), fingerprint),
        "settings": ", ".join(_settings(fingerprint, _language(fingerprint, predictions))),
        "date": _dates(record, sessions),
        "device": " / ".join(versions.pop("device", ())),
        "software": ", ".join(f"{name} {' / '.join(each)}" for name, each in versions.items() if each),
        "manifest": run.manifest_source or "",
    }
    return {name: text for name, text in found.items() if text}


def _part(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object in the record; an empty one where there is none, or an edited one."""
    part = record.get(name)
    return dict(part) if isinstance(part, dict) else {}


def _model(model: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    digest = fingerprint.get("model")
    content = f"SHA-256 {digest[:12]}…" if type(digest) is str else ""
    name, commit = model.get("name"), model.get("commit") or model.get("revision")
    if type(name) is not str:
        return content
    return f"{name} ({f'commit {commit[:12]}' if type(commit) is str else content})"


def _language(fingerprint: Mapping[str, Any], predictions: Predictions) -> str:
    """What rows were transcribed as: what the run was told, or what all were (`en` of English-only models)."""
    heard = predictions.heard
    if not fingerprint.get("language") and len(heard) == 1 and heard.total() == len(predictions):
        return f"{next(iter(heard))} in all rows"
    return fingerprint.get("language") or "detected, or as rows say"


def _settings(fingerprint: Mapping[str, Any], language: str) -> Iterator[str]:
    """What decides the rows beside model and manifest, as options of a run are called."""
    sampling, windows = _part(fingerprint, "sampling"), _part(fingerprint, "windows")
    if fingerprint.get("task"):
        yield str(fingerprint["task"])
    yield f"language {language}"
    shown = {name: fingerprint.get(name) for name in ("dtype", "quantization")}
    shown |= {name.replace("_", " "): sampling[name] for name in sampling}
    if windows:
        yield f"windows {windows.get('splitter')}, at most {windows.get('limit_s')} s"
        shown |= {name: windows.get(name) for name in ("vad_filter", "condition_on_previous", "drop_no_speech")}
    shown |= {name: fingerprint.get(name) for name in ("word_timestamps", "prompt")}
    shown |= {**_part(fingerprint, "asked"), **_part(fingerprint, "engine_args")}
    for name, value in shown.items():
        if value is True:
            yield name.replace("_", " ")
        elif not (value is None or value is False or value in ("", [], {})):
            yield f"{name.replace('_', ' ')} {value if type(value) is str else json.dumps(value)}"
    if type(chunks := fingerprint.get("num_chunks")) is int and chunks > 1:
        yield f"{chunks} chunks"


def _versions(sessions: list[dict[str, Any]], record: Mapping[str, Any]) -> dict[str, list[str]]:
    """By part, those of all sessions."""
    engines = [_part(session, "engine") for session in sessions]
    found = {"asrbatch": [session.get("asrbatch") for session in sessions] or [record.get("asrbatch")]}
    found |= {name: [engine.get(name) for engine in engines] for name in PARTS}
    return {name: list(dict.fromkeys(map(str, filter(None, each)))) for name, each in found.items()}


def _dates(record: Mapping[str, Any], sessions: list[dict[str, Any]]) -> str:
    """`2026-11-29 17:17 to 17:19 UTC`, from the first session's start to the last one's end."""
    if not sessions and record.get("merged"):  # they stand in the records of its chunks
        if not record.get("started"):  # of an earlier version
            merged = _time(record.get("created"))
            return "" if merged is None else f"merged {merged:%F %R} UTC"
        sessions = [dict(record)]
    starts = [session.get("started") for session in sessions] or [record.get("created")]
    ends = [session.get("ended") or session.get("heartbeat") for session in sessions]
    known = [[each for each in map(_time, times) if each is not None] for times in (starts, ends)]
    if not known[0]:
        return ""
    start, end = min(known[0]), max([*known[0], *known[1]])
    if f"{start:%F %R}" == f"{end:%F %R}":
        return f"{start:%F %R} UTC"
    return f"{start:%F %R} to {end:{'%R' if start.date() == end.date() else '%F %R'}} UTC"


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time.astimezone(UTC)
