"""What a run has cost, and what it will take and cost to its end: a part of its status."""

from contextlib import suppress
from typing import Any

from asrbatch.storage.cost import SessionHours, cost_text, spending, spending_of_merged
from asrbatch.storage.metrics import device_seconds
from asrbatch.storage.record import EDITED
from asrbatch.storage.run_files import FoundRun


def cost_so_far(
    found: FoundRun, total: dict[str, Any], hours: list[SessionHours], price: float | None
) -> dict[str, Any]:
    """What the run took and cost so far, and where its end can be foreseen what it will have cost then."""
    if hours or not found.merged:
        spent = spending(hours, total["audio_s"], price)
    else:  # the chunks are gone
        spent = _spending_of_merged(found.merged.record, total["audio_s"], price)
    if cost := spent["cost"]:
        priced_h = total["gpu_h"] - cost["unpriced_device_hours"]
        is_known = total["gpu_h_to_come"] is not None and not cost["unpriced_device_hours"] and priced_h
        # Sessions may have had several prices; the rest is taken to cost what they did on the whole.
        left = total["gpu_h_to_come"] * cost["total"] / priced_h if is_known else None
        spent["cost"] = {**cost, "at_end": None if left is None else round(cost["total"] + left, 6)}
    return spent


def _spending_of_merged(record: dict[str, Any], audio_s: float, price: float | None) -> dict[str, Any]:
    with suppress(*EDITED):
        spent = spending_of_merged(record, audio_s, price)
        if spent["cost"]:
            cost_text(spent)  # what was edited fails here, and not where it is shown
        return spent
    return dict.fromkeys(("device_hours_of", "killed_sessions", "cost"))


def hours_to_come(
    chunks: list[dict[str, Any]],
    unfinished: list[dict[str, Any]],
    sessions: list[dict[str, Any]],
    total_rows: int | None,
) -> float | None:
    """Device-hours until all chunks are complete; None where there is no pace to go by yet.

    A chunk with an ETA takes that. All others have a start before them, as long as starts were, and rows that take as
    long as rows took.
    """
    expected = [chunk for chunk in unfinished if chunk["eta_s"] is not None]
    seconds: float = sum(chunk["eta_s"] * (chunk["devices"] or 1) for chunk in expected)
    begun = [chunk for chunk in unfinished if chunk["eta_s"] is None and chunk["total_rows"] is not None]
    left = [chunk["total_rows"] - chunk["rows"] for chunk in begun]
    starts = sum(rows > 0 for rows in left)
    if no_record := sum(chunk["total_rows"] is None for chunk in chunks):
        if total_rows is None:
            return None
        left.append(total_rows - sum(chunk["total_rows"] or 0 for chunk in chunks))
        starts += no_record
    if sum(left):
        done, loop_s = sum(session.get("rows") or 0 for session in sessions), device_seconds(sessions, "loop_s")
        # As for an ETA: the pace of less than a second is chance.
        if not done or loop_s < 1:
            return None
        started = [session for session in sessions if session.get("startup_s") is not None]
        seconds += sum(left) * loop_s / done + starts * device_seconds(started, "startup_s") / max(1, len(started))
    return round(seconds / 3600, 6)
