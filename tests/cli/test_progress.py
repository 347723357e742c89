"""The line that a person watches while a run goes on."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from asrbatch.cli.display import progress as display
from asrbatch.cli.display.progress import fitted, plain_line
from asrbatch.pipeline.monitor import StageTimes
from asrbatch.runs.progress import Progress
from asrbatch.storage.journal import StatusCounts


def state(**changes) -> Progress:
    tally = StatusCounts(12_345, 512_345.0, Counter(ok=12_342, failed=3))
    times = StageTimes(wall=2_000.0, engine=1_900.0)
    usual = {"session_rows": 12_345, "session_stated_s": 512_345.0, "session_audio_s": 512_345.0}
    how = {"in_engine": 14, "capacity": 16, "stage_times": times, **usual, **changes}
    return Progress(1_000_000, 36_000_000.0, tally, 512_345.0, **how)


def test_a_line_of_a_log_has_everything():
    assert plain_line(state()) == (
        "12345/1000000 rows  3 failed  142.32/10000.00 h  RTFx 269.7  ETA 38:28:50  14/16 slots busy, waiting for audio"
    )
    assert "16/16 slots busy, 9 waiting" in plain_line(state(in_engine=25))


def test_parts_are_left_out_whole_the_least_important_first():
    parts = [(0, "aaa"), (2, "bbb"), (1, "ccc"), (3, "")]
    assert [fitted(parts, room) for room in (13, 12, 8, 7, 1)] == [
        "aaa  bbb  ccc",
        "aaa  ccc",
        "aaa  ccc",
        "aaa",
        "aaa",
    ]


def test_where_nothing_can_move_lines_are_said(monkeypatch):
    """rich takes a dumb terminal for one that it can draw on."""
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    monkeypatch.setattr(display, "Console", lambda **how: Console(force_terminal=True, **how | {"file": file}))
    monkeypatch.setattr(display, "PLAIN_EVERY_S", 0.0)
    with display.Terminal() as terminal:
        terminal.update(state())
    assert file.getvalue().splitlines()[0] == plain_line(state())


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_bar_is_never_cut_off(width, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    terminal = display.Terminal()
    with terminal:
        terminal.update(state())
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).strip("\r\n").split("\r")[-1].rstrip()
    assert last.startswith("transcribing") and "…" not in last and len(last) <= width
    kept = [part for part in plain_line(state()).split("  ") if part in last]
    assert kept[:2] == ["12345/1000000 rows", "3 failed"] and len(kept) >= {60: 2, 80: 3}.get(width, 4)
    assert re.match(r"transcribing [ ━╸]{8,} 12345/", last), last
