"""What device time went into, by hand: every second of a session is one part, and parts add up to the whole."""

import pytest

from asrbatch.formatting import amount
from asrbatch.storage.cost import PARTS, cost_notes, cost_text, hours_of, spending, spending_of_merged
from asrbatch.storage.metrics import spending_of

HOUR = 3600.0


def session(outcome: str | None = "complete", **seconds) -> dict:
    return {"outcome": outcome, **seconds}


def split(ok: float, failed: float, **seconds) -> dict:
    return {"ok_engine_s": ok, "failed_engine_s": failed, **seconds}


# Killed an hour and a half after its start, resumed, and interrupted once more with the rest left to a third.
KILLED = session(None, wall_s=1.5 * HOUR, startup_s=0.25 * HOUR, engine_s=1 * HOUR, **split(0.5 * HOUR, 0.25 * HOUR))
STOPPED = session("interrupted", wall_s=1 * HOUR, startup_s=0.25 * HOUR, engine_s=0.5 * HOUR, **split(0.5 * HOUR, 0))
LAST = session(wall_s=2 * HOUR, startup_s=0.5 * HOUR, engine_s=1 * HOUR, **split(1 * HOUR, 0), num_devices=2)


def parts(*sessions, **how) -> dict[str, float]:
    found = spending(hours_of(sessions, **how), 0.0)["device_hours_of"]
    return {part: hours for part, hours in found.items() if hours}


def test_a_run_that_was_killed_and_resumed():
    """Repeated: what the killed one's engine had not finished (0.25 h), and the starts of the later two (0.25 h and
    two devices for 0.5 h)."""
    expected = {"ok": 0.5 + 0.5 + 2.0, "failed": 0.25, "repeated": 0.25 + 0.25 + 1.0, "startup": 0.25}
    assert parts(KILLED, STOPPED, LAST) == {**expected, "idle": 0.25 + 0.25 + 1.0}
    assert sum(parts(KILLED, STOPPED, LAST).values()) == 1.5 + 1 + 2 * 2


def test_what_a_living_session_has_begun_is_not_repeated():
    going = parts(KILLED, goes_on=True)
    assert going["under_way"] == 0.25 and "repeated" not in going
    assert spending(hours_of([KILLED], goes_on=True), 0.0)["killed_sessions"] == 0
    assert spending(hours_of([KILLED]), 0.0)["killed_sessions"] == 1
    # One that another has followed lives no more, whatever is said of the last.
    assert parts(KILLED, session(None, wall_s=60.0), goes_on=True)["repeated"] == pytest.approx(
        0.25 + 60 / HOUR, abs=1e-6
    )


def test_a_session_without_an_engine():
    never_up, no_need = session("error", wall_s=HOUR), session("complete", wall_s=HOUR)
    assert parts(never_up) == {"startup": 1.0} and parts(no_need) == {"idle": 1.0}
    assert parts(never_up, never_up) == {"startup": 1.0, "repeated": 1.0}
    assert parts({"outcome": None}) == {}, "killed before its first refresh"


def test_clocks_that_disagree_do_not_make_more_time_than_there_was():
    ahead = session(wall_s=HOUR, startup_s=0.5 * HOUR, engine_s=0.4 * HOUR, **split(0.75 * HOUR, 0.1 * HOUR))
    assert parts(ahead) == {"startup": 0.5, "ok": 0.5}


def test_each_session_has_its_own_price():
    sessions = [{**KILLED, "price_per_hour": 4.0}, {**STOPPED, "price_per_hour": 2.0}, LAST]
    found = spending(hours_of(sessions), 2000 * HOUR)
    cost = found["cost"]
    assert cost["total"] == 1.5 * 4 + 1 * 2 and cost["unpriced_device_hours"] == 4.0
    assert cost["prices_per_hour"] == [2.0, 4.0] and cost["per_1000_audio_h"] == 4.0
    assert cost["of"] == {
        "ok": 0.5 * 4 + 0.5 * 2, "failed": 1.0, "repeated": 0.25 * 4 + 0.25 * 2, "startup": 1.0, "idle": 1.5,
        "under_way": 0.0,
    }  # fmt: skip
    assert cost_text(found) == (
        "at least 8.00 at 2 and 4 per device-hour (3.00 rows that are ok, 1.00 rows that failed, 1.50 repeated work, "
        "1.00 first start-up, 1.50 idle), 4.00 per 1,000 h of audio"
    )
    assert [note.split()[0] for note in cost_notes(found)] == ["1", "4.000"]
    at_ten = spending(hours_of(sessions), 0.0, 10.0)["cost"]
    assert (at_ten["total"], at_ten["per_1000_audio_h"], at_ten["unpriced_device_hours"]) == (65.0, None, 0)
    assert spending(hours_of([LAST]), 0.0)["cost"] is None


def test_a_merged_run_at_another_price():
    found = spending(hours_of([KILLED, STOPPED, LAST]), HOUR, 2.0)
    merged = {"merged": True, "device_hours": 6.5, **found}
    assert spending_of_merged(merged, HOUR) == found
    assert spending_of_merged(merged, HOUR, 3.0) == spending(hours_of([KILLED, STOPPED, LAST]), HOUR, 3.0)
    # Of an earlier asrbatch.
    old = spending_of_merged({"merged": True, "device_hours": 6.5}, HOUR, 2.0)
    assert old["cost"]["total"] == 13.0 and old["cost"]["of"] is None
    assert spending_of_merged({"merged": True, "device_hours": 6.5}, HOUR)["cost"] is None


def test_sessions_of_an_earlier_asrbatch_have_a_sum_and_no_parts():
    found = spending(hours_of([session(wall_s=HOUR, startup_s=60.0, engine_s=1800.0)]), HOUR, 2.0)
    assert found["device_hours_of"] is None and found["cost"]["of"] is None and found["cost"]["total"] == 2.0
    assert cost_text(found) == "2.00 at 2 per device-hour, 2,000.00 per 1,000 h of audio"
    assert cost_notes(found) == ["what failed and repeated work cost is not recorded in runs of an earlier asrbatch"]


def test_a_run_that_goes_on_is_not_said_to_be_killed():
    record = {"sessions": [KILLED]}
    assert spending_of([record], HOUR)["killed_sessions"] == 1
    live = spending_of([record], HOUR, going_on=[0])
    assert live["killed_sessions"] == 0 and live["device_hours_of"]["repeated"] == 0


def test_an_edited_record_is_no_sum():
    with pytest.raises(TypeError):
        hours_of([session(wall_s="an hour")])
    with pytest.raises(TypeError):
        hours_of([session(wall_s=1.0, price_per_hour="2.5")])
    assert set(PARTS) == set(hours_of([KILLED])[0].of)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (1234.5, "1,234.50"),
        (1, "1.00"),
        (0.5, "0.500"),
        (0.00123456, "0.00123"),
        (0.0000004, "0.000000400"),
    ],
)
def test_amounts_are_plain_numbers(value, shown):
    assert amount(value) == shown
