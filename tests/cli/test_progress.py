"""The line that a person watches while a run goes on."""

import io
import re
from collections import Counter

import pytest
from beep_run import beep_manifest
from conftest import REPO
from jupyter_client import KernelManager
from processes import wait_until
from rich.console import Console

from asrbatch.cli.display import progress as display
from asrbatch.cli.display.run_status import done_of, fitted, plain_line
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


def one_file(total_audio_s: float | None = None, **changes) -> Progress:
    """A recording of 1,200 s of which 300 are answered, after a minute."""
    times = StageTimes(wall=60.0, engine=50.0)
    how = {"open_s": 300.0, "open_rows": 0.25, "in_engine": 3, "capacity": 16, "stage_times": times, **changes}
    return Progress(1, total_audio_s, StatusCounts(0, 0.0, Counter()), 0.0, **how)


def test_one_long_file_moves_and_has_an_eta():
    assert plain_line(one_file(1200.0)) == "0/1 rows  300/1200 s  RTFx 6.0  ETA 0:03:00  3/16 slots busy, 0 waiting"
    assert plain_line(one_file()) == "0/1 rows  300 s  RTFx 6.0  ETA 0:03:00  3/16 slots busy, 0 waiting"
    assert done_of(one_file(1200.0)) == (300.0, 1200.0) and done_of(one_file()) == (0.25, 1)
    assert "  2.00/10.00 h  " in plain_line(one_file(36_000.0, open_s=7200.0))
    assert "RTFx -  ETA -" in plain_line(one_file(open_s=0.0, open_rows=0.0))


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


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_of_checks_are_never_cut_off(width, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    with display.ReadingBar() as bar:
        bar.update(123_456_789, 1_234_567, 0.5)
    with display.ProbeBar(123_456_789) as bar:
        bar.update(12_345_678, 1_234_567)
    with display.ProbeBar(12_345_678) as bar:
        bar.update(12_345, 0)
    lines = [line.split("\r")[-1] for line in shown(file).strip("\n").split("\n")]
    assert all(re.search(r" \S:\S\S:\S\S$", line) and len(line) <= width for line in lines), lines
    found = ["1,234,567 problems", "1,234,567 with bad audio", "12345/12345678 rows"]
    assert all(part in line for part, line in zip(found, lines, strict=True))


def shown(file: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("width", [60, 80])
def test_start_up_names_its_step_and_its_seconds_pass(width, monkeypatch):
    """Also while nobody tells how many they are, as where a library is imported in the main thread."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    with display.Terminal() as terminal:
        terminal.starting("reading the manifest, row 123,456,789", 1233.4)
        wait_until(lambda: "row 123,456,789, 1234 s" in file.getvalue(), 10)
        line = shown(file).split("\r")[-1]
        assert line.startswith("starting ━") and "…" not in line and len(line) <= width
        terminal.starting("loading the model", 0.0)
        terminal.update(state())
    last = [line.strip() for line in shown(file).split("\r") if line.strip()][-1]
    assert last.startswith("transcribing") and "model" not in last


def test_a_run_that_is_refused_leaves_no_bar_behind(monkeypatch):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    with display.Terminal() as terminal:
        terminal.starting("checking the model", 0.0)
    assert file.getvalue().rstrip("\r").endswith(("\x1b[1A\x1b[2K", "\x1b[2K"))


CELL = """
import sys
sys.path.insert(0, {tests!r})
from beep_run import Settings, start_beeps
from functools import partial
from asrbatch.cli.display.progress import default_observer
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.runs.runner import run
config = RunConfig({manifest!r}, EngineConfig({model!r}), output={output!r})
with default_observer() as shown:
    shown.summary(run(config, shown, start=partial(start_beeps, settings=Settings(answer_s=0.3))))
"""


def test_a_notebook_has_one_line_that_changes(tiny_en, tmp_path):
    cell = {"tests": str(REPO / "tests"), "model": tiny_en, "output": str(tmp_path / "out.jsonl")}
    pages, said = in_a_kernel(CELL.format(manifest=str(beep_manifest(tmp_path / "in", 40)), **cell))
    assert len(pages) == 1, said
    first, *_, last = next(iter(pages.values()))
    assert first == {"text/plain": "checking the model, 0 s"} | {"text/html": first["text/html"]}
    assert last["text/plain"].startswith("40/40 rows") and '<progress value="1.0000">' in last["text/html"]
    parts = [page["text/html"] for page in next(iter(pages.values()))]
    assert len({value for page in parts for value in re.findall(r'value="(0\.\d+)"', page)}) >= 2
    assert "complete: 40 rows" in said


def in_a_kernel(code: str) -> tuple[dict[str, list[dict]], str]:
    """What a cell displays, each display as it was and as it was changed, and what it prints."""
    kernel = KernelManager()
    kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    pages, said = {}, []

    def hear(message: dict) -> None:
        content = message["content"]
        match message["msg_type"]:
            case "display_data" | "update_display_data":
                pages.setdefault(content["transient"]["display_id"], []).append(content["data"])
            case "stream":
                said.append(content["text"])
            case "error":
                said.extend(content["traceback"])

    try:
        client.wait_for_ready(timeout=120)
        client.execute_interactive(code, output_hook=hear, timeout=120)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    return pages, "".join(said)
