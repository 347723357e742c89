"""How far a run is: the state of every chunk and of the whole, from what `run_files` read. Shows nothing.

All figures are those of the run records, which a session refreshes every half minute; a killed session may have written
rows that no record counts yet. docs/clusters.md lists the fields of `run_status`; renaming one breaks scripts.
"""

import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asrbatch.cluster.forecast import cost_so_far, hours_to_come
from asrbatch.cluster.shard_files import damage_of
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_ROWS_FAILED
from asrbatch.runs.fingerprint import differences, digest
from asrbatch.storage.cost import SessionHours, hours_of
from asrbatch.storage.metrics import device_seconds
from asrbatch.storage.record import EDITED, RECORD_REFRESH_S
from asrbatch.storage.run_files import FoundRun, RunFiles, count_rows, read_run
from asrbatch.timeouts import running_s


class Watch:
    """For how long a run has given no sign of life, judged by whether its heartbeat changes on our own clock.

    Clocks of two machines may disagree. At first sight there is nothing to go by but the time in the record; as soon as
    a heartbeat has changed before our eyes, or has stood still for longer than that time says, our own clock counts.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, float, bool]] = {}  # heartbeat, since when, whether it has ever changed

    def silent_s(self, path: Path, heartbeat: str, *, now: datetime, clock_s: float) -> float:
        """Seconds without a sign of life, at least 0.

        Args:
            path: of the record.
            now, clock_s: this machine's time, and a clock of it that never jumps, in seconds.

        Raises:
            ValueError, TypeError: the heartbeat is no time.
        """
        last, since_s, has_changed = self._seen.get(path, (heartbeat, clock_s, False))
        if heartbeat != last:
            since_s, has_changed = clock_s, True
        self._seen[path] = heartbeat, since_s, has_changed
        age_s = (now - datetime.fromisoformat(heartbeat)).total_seconds()
        return max(0.0, clock_s - since_s if has_changed else max(clock_s - since_s, age_s))


# A session that has not refreshed its record for so long is called silent.
# Two refreshes may be late or lost; a third is no accident.
SILENT_AFTER_S = 3 * RECORD_REFRESH_S

NOT_STARTED, STARTING, RUNNING, SILENT, KILLED = "not started", "starting", "running", "silent", "killed"
INTERRUPTED, ENGINE_DIED, ERROR = "interrupted", "engine died", "stopped by an error"
COMPLETE, COMPLETE_WITH_FAILURES, DAMAGED = "complete", "complete with failures", "damaged"
_COMPLETE = (COMPLETE, COMPLETE_WITH_FAILURES)
_GOING_ON = (STARTING, RUNNING)
_FOR_A_PERSON = (ERROR, DAMAGED)
STATES = (*_COMPLETE, RUNNING, STARTING, SILENT, KILLED, INTERRUPTED, ENGINE_DIED, NOT_STARTED, *_FOR_A_PERSON)
_COUNTS = ("rows", "total_rows", "failed", "sessions")
_OUTCOMES = {"interrupted": INTERRUPTED, "engine_died": ENGINE_DIED, "error": ERROR}


def run_status(
    output: Path,
    num_chunks: int | None = None,
    *,
    price_per_hour: float | None = None,
    watch: Watch | None = None,
    now: datetime | None = None,
    clock_s: float | None = None,
) -> dict[str, Any]:
    """The status of a run, as JSON values: `chunks`, a list, and `total`.

    Args:
        price_per_hour: of a device; None takes what the sessions stated.
        watch: kept from one call to the next, to judge signs of life by our own clock.
        now, clock_s: see `Watch.silent_s`; of this moment, when None.

    Raises:
        UsageError, OutputError: see `read_run`.
    """
    found = read_run(output, num_chunks)
    watch = watch or Watch()
    now, clock_s = now or datetime.now(UTC), running_s() if clock_s is None else clock_s
    chunks: list[dict[str, Any]] = []
    sessions: list[dict[str, Any]] = []
    hours: list[SessionHours] = []
    for number, files in enumerate(found.parts):
        try:
            chunks.append(_describe(files, watch, now, clock_s, len(found.parts)))
            if files.record and (state := chunks[-1]["state"]) != DAMAGED:
                hours += hours_of(files.record["sessions"], goes_on=state in (*_GOING_ON, SILENT))
                sessions += files.record["sessions"]
        except EDITED as e:
            what = f"not what asrbatch writes ({type(e).__name__}: {e}); it was edited or damaged"
            # One record that somebody edited must not hide the state of all other chunks.
            del chunks[number:]
            chunks.append(_line(files, DAMAGED, f"{files.paths.record}: {what}"))
    total = _total(output, found, chunks, sessions)
    return {"chunks": chunks, "total": total | cost_so_far(found, total, hours, price_per_hour)}


def _describe(files: RunFiles, watch: Watch, now: datetime, clock_s: float, num_parts: int) -> dict[str, Any]:
    if damage := damage_of(files, None if files.chunk_id is None else num_parts) or files.changed:
        return _line(files, DAMAGED, damage)
    record, mark = files.record, files.mark
    if record is None:
        return _line(files, NOT_STARTED if files.num_bytes is None else STARTING)
    session = record["sessions"][-1]
    silent_s = watch.silent_s(files.paths.record, session["heartbeat"], now=now, clock_s=clock_s)
    state, note = _state(files, session, silent_s)
    tally = mark or record.get("tally") or {"rows": 0, "audio_s": 0.0, "statuses": {}}
    values = {
        "rows": tally["rows"],
        "total_rows": record["total_rows"],
        "failed": tally["statuses"].get("failed", 0),
        "audio_s": tally["audio_s"],
        "total_audio_s": record.get("total_audio_s"),
        "rtfx_session": _rtfx([session]),
        "rtfx": _rtfx(record["sessions"]),
        "eta_s": _eta_s(record, session) if state in _GOING_ON else None,
        "heartbeat": session["heartbeat"],
        "silent_s": None if state in _COMPLETE else round(silent_s, 1),
        "host": session.get("host"),
        "slurm_job": _slurm_job(session.get("slurm") or {}),
        "sessions": len(record["sessions"]),
        "devices": session.get("num_devices"),
        "gpu_h": round(device_seconds(record["sessions"], "wall_s") / 3600, 6),
    }
    return _line(files, state, note, **_checked(values))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values, if they are of the types that those who sum and show them expect; an edited record may hold
    anything.
    """
    for name, value in values.items():
        of_whole = name in (*_COUNTS, "devices")
        expected = str if name in ("heartbeat", "host", "slurm_job") else int if of_whole else int | float
        # An edited record must become one damaged chunk, not a traceback in a sum over all of them.
        if not isinstance(value, expected) and (value is not None or name in (*_COUNTS, "audio_s")):
            raise TypeError(f"{name} is of type {type(value).__name__}")
    return values


def _line(files: RunFiles, state: str, note: str | None = None, **values: Any) -> dict[str, Any]:
    """One element of `chunks`: always the same fields, null where there is nothing to say."""
    blank: dict[str, Any] = dict.fromkeys((
        "rows", "total_rows", "failed", "audio_s", "total_audio_s", "rtfx_session", "rtfx", "eta_s", "heartbeat",
        "silent_s",
        "host", "slurm_job", "devices",
    ))  # fmt: skip
    line = {"chunk_id": files.chunk_id, "output": str(files.paths.rows), "state": state, "note": note, **blank}
    return {**line, "sessions": 0, "gpu_h": 0.0, **values}


def _state(files: RunFiles, session: dict[str, Any], silent_s: float) -> tuple[str, str | None]:
    mark, outcome = files.mark, session["outcome"]
    if mark:
        return (COMPLETE_WITH_FAILURES if mark["statuses"].get("failed") else COMPLETE), None
    if outcome in _OUTCOMES:
        why = f"{files.paths.rows}: {_OUTCOMES[outcome]}; see {files.paths.log.name} and what the command printed"
        return _OUTCOMES[outcome], why if outcome != "interrupted" else None
    # Before the silence is judged: on its own machine a killed run is known at once.
    if files.has_ended and outcome is None:
        return KILLED, None
    if silent_s > SILENT_AFTER_S:
        if outcome == "complete":
            return INTERRUPTED, f"{files.paths.rows}: {_rows_there(files)}; run the same command again"
        why = "killed, stopped (a suspended job), or its machine's clock is wrong"
        return SILENT, f"no sign of life since {session['heartbeat']}: {why}"
    return (RUNNING if session.get("rows") or session.get("startup_s") is not None else STARTING), None


def _rows_there(files: RunFiles) -> str:
    """Of a run that lacks its mark, though its record says that it was complete."""
    # The record says what there was, not what was done to the file since.
    num_rows, is_torn = (0, False) if files.num_bytes is None else count_rows(files.paths.rows)
    expected = (files.record or {}).get("total_rows")
    there = "has all its rows" if num_rows == expected else f"has {num_rows} of {expected} rows"
    return f"{there}{', ends in a part of a row' if is_torn else ''}, and no completion mark"


def _rtfx(sessions: list[dict[str, Any]]) -> float | None:
    """Seconds of audio per second that the engine worked; None before it has."""
    engine_s = sum(session.get("engine_s") or 0.0 for session in sessions)
    return round(sum(session.get("audio_s") or 0.0 for session in sessions) / engine_s, 2) if engine_s else None


def _eta_s(record: dict[str, Any], session: dict[str, Any]) -> float | None:
    """From this session's pace, in stated seconds of audio where every row has them, in rows otherwise."""
    loop_s = session.get("loop_s") or 0.0
    # By seconds where possible: rows of one manifest may differ a thousandfold in length.
    if None not in (record.get("total_audio_s"), record.get("stated_s"), session.get("stated_s")):
        left, by_session = record["total_audio_s"] - record["stated_s"], session["stated_s"]
    else:
        left, by_session = record["total_rows"] - (record.get("tally") or {}).get("rows", 0), session.get("rows")
    return round(max(0.0, left) / by_session * loop_s, 1) if by_session and loop_s >= 1 else None


def _slurm_job(slurm: dict[str, str]) -> str | None:
    if "SLURM_ARRAY_JOB_ID" in slurm and "SLURM_ARRAY_TASK_ID" in slurm:
        return f"{slurm['SLURM_ARRAY_JOB_ID']}_{slurm['SLURM_ARRAY_TASK_ID']}"
    return slurm.get("SLURM_JOB_ID")


def _total(
    output: Path, found: FoundRun, chunks: list[dict[str, Any]], sessions: list[dict[str, Any]]
) -> dict[str, Any]:
    counts = Counter(chunk["state"] for chunk in chunks)
    strangers = _strangers(found.parts)
    unfinished = [chunk for chunk in chunks if chunk["state"] not in _COMPLETE]
    going_on = [chunk for chunk in unfinished if chunk["state"] in _GOING_ON]
    etas_s = [chunk["eta_s"] for chunk in going_on if chunk["eta_s"] is not None]
    merged = found.merged and _merged(found.merged)
    counted = chunks or ([merged] if merged else [])
    return {
        "output": str(output),
        "num_chunks": len(chunks) if chunks and chunks[0]["chunk_id"] is not None else None,
        "states": {state: counts[state] for state in STATES if counts[state]},
        "rows": sum(part["rows"] or 0 for part in counted),
        "total_rows": _total_rows(found),
        "failed": sum(part["failed"] or 0 for part in counted),
        "audio_s": round(sum(part["audio_s"] or 0.0 for part in counted), 3),
        "rtfx_running": round(sum(chunk["rtfx_session"] or 0.0 for chunk in going_on), 2) if going_on else None,
        "rtfx": _rtfx(sessions),
        "eta_s": max(etas_s, default=None),
        "without_eta": len(unfinished) - len(etas_s),
        "gpu_h": round(sum(chunk["gpu_h"] for chunk in chunks), 6),
        "gpu_h_to_come": hours_to_come(chunks, unfinished, sessions, _total_rows(found)) if chunks else None,
        "merged": merged and merged["state"],
        "notes": [
            *_notes(found, [*chunks, *([merged] if merged else [])], strangers),
            *([] if strangers or found.in_one_piece else _merge_note(output, found, chunks, merged)),
        ],
        "exit_code": _exit_code(chunks, merged, bool(strangers)),
    }


def _merged(files: RunFiles) -> dict[str, Any]:
    """What `merge-shards` made: its state, and its counts for when the chunks are not there any more."""
    state = "incomplete" if not files.record.get("complete") else COMPLETE if files.mark else "being written"
    values = dict.fromkeys(("rows", "failed", "audio_s"))
    if note := damage_of(files, files.record.get("num_chunks")) or files.changed:
        state = DAMAGED
    elif files.mark:
        try:
            failed = files.mark["statuses"].get("failed", 0)
            values = _checked({"rows": files.mark["rows"], "failed": failed, "audio_s": files.mark["audio_s"]})
        except EDITED:
            state, note = DAMAGED, f"{files.paths.done.name}: is not what asrbatch writes; it was edited"
    return {"state": state, "note": note, **values}


def _total_rows(found: FoundRun) -> int | None:
    """Rows of the manifest: also chunks that have not started are counted, because every fingerprint says how many."""
    for files in [*found.parts, *([found.merged] if found.merged else [])]:
        fingerprint = files.record and files.record["fingerprint"]
        if isinstance(fingerprint, dict) and type(fingerprint.get("num_rows")) is int:
            return fingerprint["num_rows"]
    return None


def _strangers(parts: list[RunFiles]) -> list[str]:
    """Chunks whose fingerprint is not that of most: `merge-shards` will refuse them."""
    fingerprints = {
        p.chunk_id: p.record["fingerprint"] for p in parts if p.record and isinstance(p.record["fingerprint"], dict)
    }
    digests = {chunk_id: digest(fingerprint) for chunk_id, fingerprint in fingerprints.items()}
    if len(set(digests.values())) < 2:
        return []
    # What most chunks say is taken for right: a single one was run with other options by mistake.
    usual = Counter(digests.values()).most_common(1)[0][0]
    usual_id = next(chunk_id for chunk_id, value in digests.items() if value == usual)
    return [
        f"chunk {chunk_id} is of another run than chunk {usual_id}: "
        f"{'; '.join(differences(fingerprints[usual_id], fingerprints[chunk_id])[:3])}"
        for chunk_id, value in digests.items()
        if value != usual
    ]


def _notes(found: FoundRun, chunks: list[dict[str, Any]], strangers: list[str]) -> list[str]:
    notes = strangers + [chunk["note"] for chunk in chunks if chunk["note"] and chunk["state"] != SILENT]
    if found.in_one_piece:
        paths = found.in_one_piece.paths
        notes.append(
            f"{paths.rows.name} beside the chunks was not merged from them and is not counted; see {paths.record.name}"
        )
    return notes


def _merge_note(
    output: Path, found: FoundRun, chunks: list[dict[str, Any]], merged: dict[str, Any] | None
) -> list[str]:
    """What is to be done where every chunk is complete, and nobody has merged them or is doing so."""
    if not chunks or chunks[0]["chunk_id"] is None or any(chunk["state"] not in _COMPLETE for chunk in chunks):
        return []
    if (
        merged
        and merged["state"] != "incomplete"
        and not (merged["state"] == "being written" and found.merged.has_ended)
    ):
        return []
    made_from = next((p.record["manifest"] for p in found.parts if "manifest" in p.record), None)
    source = made_from.get("source") if isinstance(made_from, dict) else None
    command = ["asrbatch", "merge-shards", str(output), "--manifest", str(source or "MANIFEST")]
    return [f"complete, not merged: {shlex.join([*command, '--num-chunks', str(len(chunks))])}"]


def _exit_code(chunks: list[dict[str, Any]], merged: dict[str, Any] | None, has_strangers: bool) -> int:
    states = {chunk["state"] for chunk in chunks}
    if has_strangers or not states.isdisjoint(_FOR_A_PERSON) or (merged and merged["state"] == DAMAGED):
        return EXIT_ERROR
    # An empty set of states would count as complete, hence the two cases.
    if chunks:
        is_complete, has_failures = states <= set(_COMPLETE), COMPLETE_WITH_FAILURES in states
    else:  # only what was merged is left
        is_complete, has_failures = merged["state"] == COMPLETE, bool(merged["failed"])
    if not is_complete:
        return EXIT_INTERRUPTED
    return EXIT_ROWS_FAILED if has_failures else EXIT_COMPLETE
