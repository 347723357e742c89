"""Speeds and costs of a run from what its sessions recorded: arithmetic over run records, nothing else.

A session's seconds are wall time of one process; one that was killed counts up to the last time its record was
refreshed. What the metrics mean stands here too, in the words that are shown beside them.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import chain
from typing import Any

from asrbatch.storage.cost import hours_of, spending, spending_of_merged

_STAGES = {
    "startup": "startup_s",
    "engine": "engine_s",
    "engine_full": "engine_full_s",
    "starved": "starved_s",
    "write": "write_s",
    "read_summed_over_workers": "read_s",
    "prepare_summed_over_workers": "prepare_s",
}
PARTS = ("vllm", "torch", "device")  # names of `engine.facts`


def metrics(sessions: list[dict[str, Any]], audio_s: float) -> dict[str, Any]:
    """Metrics of one output, over all sessions that worked on it.

    Args:
        audio_s: seconds of audio of its rows that are ok. Sessions know less: one that was killed may have written rows
            after its last record.

    Returns:
        sessions: how many there were.
        rtfx_engine: seconds of audio transcribed per second of one device, of those in which it held at least one
            window; None where nothing was transcribed.
        rtfx_end_to_end: the same with all the time it was occupied, start-up and waiting included.
        wall_s: summed over sessions.
        stages_s: the same, by stage; the engine's are means over a session's devices.
        device_hours: `wall_s` times devices, summed over sessions; GPU-hours where the devices are GPUs.
        device_hours_of, killed_sessions, cost: see `cost.spending`.
    """
    return {**_speeds(sessions), **spending(hours_of(sessions), audio_s)}


def _speeds(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    audio_s, device_s = total(sessions, "audio_s"), device_seconds(sessions, "wall_s")
    return {
        "sessions": len(sessions),
        "rtfx_engine": _ratio(audio_s, device_seconds(sessions, "engine_s")),
        "rtfx_end_to_end": _ratio(audio_s, device_s),
        "wall_s": total(sessions, "wall_s"),
        "stages_s": {stage: total(sessions, name) for stage, name in _STAGES.items()},
        "device_hours": round(device_s / 3600, 6),
    }


def metrics_of_chunks(records: dict[int, dict[str, Any]], audio_s: float, price: float | None = None) -> dict[str, Any]:
    """Metrics of a run that many processes worked on.

    Args:
        records: the chunks' run records by chunk id.
        audio_s: as for `metrics`.
        price: of a device-hour; None takes what each session stated.

    Returns:
        Nothing where there are no sessions; otherwise those of `metrics` over all of them, and
        span_s: from the first session's start to the last one's end, by the clocks of the machines they ran on, waiting
            in a queue included.
        slowest_chunk: the chunk with the most wall time, which the whole run had to wait for.
    """
    # Over sessions and not over chunks: a chunk that ran three times took three sessions' time.
    sessions = [session for record in records.values() for session in record["sessions"]]
    if not sessions:
        return {}
    wall_s = {chunk_id: total(record["sessions"], "wall_s") for chunk_id, record in records.items()}
    slowest = max(wall_s, key=wall_s.__getitem__)
    return {
        **_speeds(sessions),
        **spending_of(records.values(), audio_s, price),
        "span_s": span_s(sessions),
        "slowest_chunk": {"chunk_id": slowest, "wall_s": wall_s[slowest]},
    }


def spending_of(
    records: Iterable[dict[str, Any]],
    audio_s: float,
    price: float | None = None,
    *,
    going_on: Collection[int] = (),
) -> dict[str, Any]:
    """What the sessions of all these outputs took and cost; see `cost.spending`.

    Args:
        going_on: places of the records whose process may still be at work.
    """
    records = list(records)
    if any(record.get("merged") for record in records):  # its sessions are those of its chunks
        [record] = records
        return spending_of_merged(record, audio_s, price)
    hours = (hours_of(record["sessions"], goes_on=n in going_on) for n, record in enumerate(records))
    return spending(chain.from_iterable(hours), audio_s, price)


def total(sessions: list[dict[str, Any]], name: str) -> float:
    """Sum of one metric over the sessions that recorded it."""
    # Fields are missing where a session was killed early, and None where a stage did not happen.
    return round(sum(session.get(name) or 0.0 for session in sessions), 3)


def device_seconds(sessions: list[dict[str, Any]], name: str) -> float:
    """Sum of one metric times the devices of its session."""
    seconds: float = sum((session.get(name) or 0.0) * session.get("num_devices", 1) for session in sessions)
    return seconds


def span_s(sessions: list[dict[str, Any]]) -> float:
    """From the first start to the last end; a killed session ends with its last sign of life."""
    starts = [datetime.fromisoformat(s["started"]) for s in sessions]
    # Wall clocks of several machines: nothing else spans them, and a second more or less is no matter.
    ends = [datetime.fromisoformat(s.get("ended") or s["heartbeat"]) for s in sessions]
    return (max(ends) - min(starts)).total_seconds()


def versions(sessions: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """With what rows were made: for asrbatch, vllm, torch and device, how many sessions used which."""
    engines = [session["engine"] for session in sessions if session.get("engine")]
    of_engine = {part: dict(Counter(str(engine.get(part)) for engine in engines)) for part in PARTS}
    return {"asrbatch": dict(Counter(str(session.get("asrbatch")) for session in sessions)), **of_engine}


def _ratio(audio_s: float, seconds: float) -> float | None:
    return round(audio_s / seconds, 2) if seconds else None


SPEEDS = {
    "rtfx_engine": "RTFx of the engine: seconds of audio per second of one device in which it held work",
    "rtfx_end_to_end": "RTFx end to end: seconds of audio per second of one device, start-up and waiting included",
    "rtfx_stated": "RTFx stated: sum of the rows' `duration` over sum of their `time`, as the leaderboard has it",
    "wall_s": "wall time in seconds, summed over sessions",
    "span_s": "seconds from the first start to the last end, waiting in a queue included",
    "device_hours": "device-hours",
}
STAGES_ARE = (
    "the rows' own clocks; `queue` and `generate` are sums over a row's windows and attempts, which may run at the "
    "same time, so that they can be above `total`, which is wall time; `first_token` is that of its first window; "
    "`engine` is the row's part of the time that the engine worked, each second shared evenly by the windows in it"
)
