"""What the time of devices went into, and what it cost: arithmetic over the sessions of run records, nothing else.

A session has its devices from its start to its end, and each second of each of them is one of `PARTS`. What they mean
is said to users in docs/costs.md. Knows no prices but those that it is told.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from asrbatch.formatting import amount

# What a device-second was for, in the order they are shown, and how that is said.
PARTS = {
    "ok": "rows that are ok",
    "failed": "rows that failed",
    "repeated": "repeated work",
    "startup": "first start-up",
    "idle": "idle",
    "under_way": "under way",
}


class SessionHours(NamedTuple):
    """Device-hours of one session.

    Attributes:
        of: by part; all of them add up to the session's.
        price: of a device-hour; None where none was stated.
        is_split: it says which rows its engine worked for. Those of an earlier asrbatch do not; it stands under `ok`.
        is_least: it was killed, so that its time is known up to its last record alone.
    """

    of: dict[str, float]
    price: float | None
    is_split: bool
    is_least: bool


def hours_of(sessions: Sequence[Mapping[str, Any]], *, goes_on: bool = False) -> list[SessionHours]:
    """The device-hours of the sessions of one output, in the order they began.

    Args:
        goes_on: the last of them may still be at work: what it has not written may become rows.

    Raises:
        TypeError: a record that was edited.
    """
    found: list[SessionHours] = []
    for number, session in enumerate(sessions):
        may_live = goes_on and number == len(sessions) - 1 and session["outcome"] is None
        # Whatever had to be loaded once more is no first start.
        is_first = not any(earlier.of["startup"] for earlier in found)
        found.append(_hours(session, may_live=may_live, is_first=is_first))
    return found


def _hours(session: Mapping[str, Any], *, may_live: bool, is_first: bool) -> SessionHours:
    wall_s, engine_s, startup_s = (session.get(name) or 0.0 for name in ("wall_s", "engine_s", "startup_s"))
    ok_s, failed_s = session.get("ok_engine_s"), session.get("failed_engine_s")
    is_split = ok_s is not None or not engine_s
    if session.get("startup_s") is None and session["outcome"] != "complete" and not engine_s:
        startup_s = wall_s  # it never got its engine
    unwritten_s = max(0.0, engine_s - (engine_s if ok_s is None else ok_s) - (failed_s or 0.0))
    wanted = (
        ("startup" if is_first else "repeated", startup_s),
        ("ok", engine_s if ok_s is None else ok_s),
        ("failed", failed_s or 0.0),
        ("under_way" if may_live else "repeated", unwritten_s),
        ("idle", wall_s),
    )
    # Clocks of several processes: each part takes what is left, so that they add up to the whole.
    of, left_s = dict.fromkeys(PARTS, 0.0), wall_s
    for part, seconds in wanted:
        taken = min(seconds, left_s)
        of[part] += taken * session.get("num_devices", 1) / 3600
        left_s -= taken
    price = session.get("price_per_hour")  # an edited one that is no number fails at the sum
    return SessionHours(of, price and price + 0.0, is_split, session["outcome"] is None and not may_live)


def spending(sessions: Iterable[SessionHours], audio_s: float, price: float | None = None) -> dict[str, Any]:
    """What sessions took and cost, as JSON values.

    Args:
        audio_s: seconds of audio of rows that are ok.
        price: of a device-hour; None takes what each session stated.

    Returns:
        device_hours_of: by part; None where a session of an earlier asrbatch does not say what its engine worked for.
        killed_sessions: whose last seconds, at most those between two records, nobody knows.
        cost: see `cost_of`; None where no session has a price.
    """
    sessions = list(sessions)
    is_split = all(each.is_split for each in sessions)
    hours: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    prices, unpriced_h = set() if price is None else {price}, 0.0
    for each in sessions:
        hours.update(each.of)
        if (its_price := each.price if price is None else price) is None:
            unpriced_h += sum(each.of.values())
            continue
        prices.add(its_price)
        paid.update({part: spent * its_price for part, spent in each.of.items()})
    rounded = {part: round(hours[part], 6) for part in PARTS}
    return {
        "device_hours_of": rounded if is_split else None,
        "killed_sessions": sum(each.is_least for each in sessions),
        "cost": cost_of(paid, sorted(prices), audio_s, is_split=is_split, unpriced_h=unpriced_h) if prices else None,
    }


def spending_of_merged(record: Mapping[str, Any], audio_s: float, price: float | None = None) -> dict[str, Any]:
    """What `spending` found when a run was merged, at another price where one is given."""
    found = {name: record.get(name) for name in ("device_hours_of", "killed_sessions", "cost")}
    if price is not None:
        of, whole_h = found["device_hours_of"], record.get("device_hours")
        if of is None and whole_h is None:
            return found | {"cost": None}
        paid = {part: hours * price for part, hours in (of or {"ok": whole_h}).items()}
        found["cost"] = cost_of(paid, [price], audio_s, is_split=of is not None)
    return found


def cost_of(
    paid: Mapping[str, float], prices: list[float], audio_s: float, *, is_split: bool = True, unpriced_h: float = 0.0
) -> dict[str, Any]:
    """A cost as JSON values.

    Args:
        paid: by part.
        is_split, unpriced_h: see `SessionHours`; device-hours of sessions without a price, which are not in it.
    """
    total = sum(paid.values())
    return {
        "total": round(total, 6),
        "of": {part: round(paid.get(part, 0.0), 6) for part in PARTS} if is_split else None,
        "per_1000_audio_h": per_1000_audio_h(total, audio_s),
        "prices_per_hour": prices,
        "unpriced_device_hours": round(unpriced_h, 6),
    }


def per_1000_audio_h(cost: float, audio_s: float) -> float | None:
    """None where there is no audio."""
    return round(cost / audio_s * 3600 * 1000, 6) if audio_s else None


def cost_text(spent: Mapping[str, Any]) -> str:
    """What `spending` found, in one line.

    For example `12.50 at 2.5 per device-hour (9.00 rows that are ok, 3.50 repeated work), 250 per 1,000 h of audio`.
    """
    cost = spent["cost"]
    least = "at least " if spent.get("killed_sessions") or cost["unpriced_device_hours"] else ""
    text = (
        f"{least}{amount(cost['total'])} at {' and '.join(f'{p:g}' for p in cost['prices_per_hour'])} per device-hour"
    )
    if cost["of"] is not None:
        parts = [f"{amount(cost['of'][part])} {name}" for part, name in PARTS.items() if cost["of"].get(part)]
        text += f" ({', '.join(parts)})" if parts else ""
    if cost["per_1000_audio_h"] is not None:
        text += f", {amount(cost['per_1000_audio_h'])} per 1,000 h of audio"
    return text


def cost_lines(spent: Mapping[str, Any]) -> list[str]:
    """For a terminal; none where nothing has a price."""
    if not spent.get("cost"):
        return []
    return [f"cost: {cost_text(spent)}", *(f"note: {note}" for note in cost_notes(spent))]


def cost_notes(spent: Mapping[str, Any]) -> list[str]:
    """Why a cost is more than is said, and what of it nobody knows."""
    cost, killed, notes = spent["cost"], spent.get("killed_sessions"), []
    if killed:
        were = "1 session was killed, and is" if killed == 1 else f"{killed} sessions were killed, and are"
        notes.append(f"{were} counted up to the last record, which is at most half a minute older than the end")
    if cost["unpriced_device_hours"]:
        hours = f"{cost['unpriced_device_hours']:.3f} device-hours"
        notes.append(f"{hours} are not in the cost, as their sessions state no price: --price-per-hour prices all")
    if cost["of"] is None:
        notes.append("what failed and repeated work cost is not recorded in runs of an earlier asrbatch")
    return notes
