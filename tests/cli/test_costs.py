"""What runs cost, by the commands: killed, resumed, merged, reported; and what they will cost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from beep_run import Settings, beep_manifest
from conftest import REPO, read_jsonl

from asrbatch.errors import EXIT_COMPLETE, EXIT_USAGE
from asrbatch.storage.paths import RunPaths, chunk_path

pytest_plugins = "command_line"

PRICE = 3600.0  # a unit for each second of a device
GATE = {"answers_before_gate": 4, "answer_s": 0.3, "record_every_s": 0.4, "refresh_s": 0.2}


@pytest.fixture(scope="module")
def killed_run(tiny_en, tmp_path_factory) -> Path:
    """A run of two chunks. The first was killed with rows in its engine, went on, and is complete, as is the other."""
    folder = tmp_path_factory.mktemp("killed")
    manifest = beep_manifest(folder / "in", 12)
    output = folder / "out.jsonl"
    record = RunPaths(chunk_path(output, 0, 2)).record
    process = start(manifest, tiny_en, output, 0, gate=str(folder / "gate"), **GATE)
    try:
        until = time.monotonic() + 60
        while not (record.exists() and works_on(json.loads(record.read_text())["sessions"][0])):
            assert time.monotonic() < until and process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for chunk_id in (0, 1):
        done = start(manifest, tiny_en, output, chunk_id)
        said = done.communicate(timeout=60)[1]
        assert done.returncode == EXIT_COMPLETE, said
        (folder / f"{chunk_id}.log").write_text(said)
    return output


def works_on(session: dict) -> bool:
    """It has written rows, and its engine works for others."""
    return session.get("rows", 0) >= 4 and session["engine_s"] > session["ok_engine_s"] + 0.5


def start(manifest: Path, model: str, output: Path, chunk_id: int, **settings) -> subprocess.Popen:
    """A real process whose engine beeps."""
    words = ["transcribe", manifest, "-m", model, "-o", output, "--num-chunks", 2, "--chunk-id", chunk_id]
    words += ["--price-per-hour", PRICE, "--max-windows", 2]
    command = [sys.executable, str(REPO / "tests/beep_run.py"), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=Settings(**settings).environment(), start_new_session=True, text=True, **pipes)


def sessions_of(output: Path, chunk_id: int) -> list[dict]:
    return json.loads(RunPaths(chunk_path(output, chunk_id, 2)).record.read_text())["sessions"]


def spent(output: Path) -> tuple[float, float]:
    """All that the run took, and what of it was repeated, in device-seconds: by the sessions' own figures."""
    (killed, resumed), (other,) = sessions_of(output, 0), sessions_of(output, 1)
    unwritten_s = killed["engine_s"] - killed["ok_engine_s"]
    return sum(each["wall_s"] for each in (killed, resumed, other)), unwritten_s + resumed["startup_s"]


def test_rows_say_what_they_had_of_the_engine(killed_run):
    """So that what a session says of its rows can be proved by adding up."""
    (_, resumed), rows = sessions_of(killed_run, 0), read_jsonl(chunk_path(killed_run, 0, 2))
    of_resumed = sum(row["timing"]["engine"] for row in rows[-resumed["rows"] :])
    assert of_resumed == pytest.approx(resumed["ok_engine_s"], abs=0.002)
    assert resumed["ok_engine_s"] == pytest.approx(resumed["engine_s"], abs=0.01), "all that it did became rows"


def test_a_run_that_was_killed_is_accounted_for_by_every_command(killed_run, cli_here):
    total_s, repeated_s = spent(killed_run)
    assert repeated_s > 0.5
    status = json.loads(cli_here("status", killed_run, "--json").stdout)["total"]
    assert status["cost"]["total"] == pytest.approx(total_s, abs=0.01) and status["gpu_h_to_come"] == 0
    assert status["cost"]["of"]["repeated"] == pytest.approx(repeated_s, abs=0.01)
    assert sum(status["cost"]["of"].values()) == pytest.approx(total_s, abs=0.01)
    assert status["killed_sessions"] == 1 and status["cost"]["prices_per_hour"] == [PRICE]
    in_words = cli_here("status", killed_run).stdout
    assert re.search(r"cost so far: at least \d+\.\d\d at 3600 per device-hour \(.* repeated work", in_words), in_words
    assert "note: 1 session was killed, and is counted up to the last record" in in_words
    # What the process said that went on.
    assert "cost: at least " in (killed_run.parent / "0.log").read_text()
    merged = cli_here("merge-shards", killed_run, "--manifest", killed_run.parent / "in/manifest.jsonl")
    assert merged.returncode == EXIT_COMPLETE and "cost: at least " in merged.stderr, merged.stderr
    for path in (RunPaths(killed_run).record, RunPaths(killed_run).done):
        cost = json.loads(path.read_text())["cost"]
        assert cost["total"] == status["cost"]["total"] and cost["of"] == status["cost"]["of"]
        audio_h = status["audio_s"] / 3600
        assert cost["per_1000_audio_h"] == pytest.approx(cost["total"] / audio_h * 1000, rel=1e-4)
    page = killed_run.with_name("page.html")
    assert cli_here("report", killed_run, "--to", page).returncode == EXIT_COMPLETE
    card = re.search(r'<div class="card">cost<b>([\d.,]+)</b><small>(.*?)</small>', page.read_text())
    assert float(card[1].replace(",", "")) == pytest.approx(total_s, abs=0.01) and "repeated work" in card[2]
    for command in ("report", "status"):
        to = ["--to", page, "--overwrite"] if command == "report" else []
        words = [command, killed_run, "--price-per-hour", 7200, *to]
        said = cli_here(*words)
        shown = page.read_text() if command == "report" else said.stdout
        assert "at 7200 per device-hour" in shown, said.stderr


def test_a_price_for_rows_of_no_run_is_refused(cli_here, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "one", "pred_text": "one"}\n')
    done = cli_here("report", rows, "--price-per-hour", 2)
    assert done.returncode == EXIT_USAGE and done.stderr.startswith(
        "asrbatch: --price-per-hour 2: no run record beside "
    )
    assert cli_here("report", rows, "--overwrite").returncode == EXIT_COMPLETE
    assert "cost" not in re.sub(r"<style>.*?</script>", "", rows.with_name("rows.report.html").read_text(), flags=re.S)


def test_a_record_that_was_edited_hides_nothing_but_the_cost(killed_run, cli_here, tmp_path):
    """Each field of a session in its turn; `status` names the chunk, and `report` shows the rows."""
    for path in killed_run.parent.glob("out.chunk-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = RunPaths(chunk_path(tmp_path / "out.jsonl", 0, 2)).record
    whole = json.loads(record.read_text())
    for name in ("wall_s", "engine_s", "ok_engine_s", "startup_s", "num_devices", "price_per_hour"):
        sessions = [{**whole["sessions"][0], name: "x"}, *whole["sessions"][1:]]
        record.write_text(json.dumps(whole | {"sessions": sessions}))
        done = cli_here("status", tmp_path / "out.jsonl", "--json")
        chunk = json.loads(done.stdout)["chunks"][0]
        assert chunk["state"] == "damaged" and "it was edited or damaged" in chunk["note"], name
        rows = chunk_path(tmp_path / "out.jsonl", 0, 2)
        assert cli_here("report", rows, "--overwrite", "--to", tmp_path / "page.html").returncode == EXIT_COMPLETE, name


@pytest.mark.parametrize("command", ["status", "merge-shards", "report"])
def test_a_price_that_is_none_is_one_line(killed_run, cli_here, command):
    for price in ("0", "-1", "nan"):
        done = cli_here(command, killed_run, "--price-per-hour", price)
        assert (done.returncode, done.stderr) == (
            EXIT_USAGE,
            f"asrbatch: --price-per-hour {price}: must be above 0; leave it out when nothing is paid\n",
        )


def test_a_plan_by_an_earlier_run(killed_run, tiny_en, cli_here, tmp_path):
    manifest = killed_run.parent / "in/manifest.jsonl"
    done = cli_here(
        "plan", manifest, "-m", tiny_en, "--num-chunks", 2, "--rtfx", killed_run, "--price-per-hour", 2.5, "--json"
    )
    found = json.loads(done.stdout)["estimate"]
    sessions = [*sessions_of(killed_run, 0), *sessions_of(killed_run, 1)]
    audio_s, loop_s = sum(each["audio_s"] for each in sessions), sum(each["loop_s"] for each in sessions)
    assert found["rtfx_per_device"] == pytest.approx(audio_s / loop_s, abs=0.001)
    assert found["rtfx_from"] == f"{killed_run}, on -"
    device_h = found["audio_h"] / found["rtfx_per_device"] + 2 * found["startup_s"] / 3600
    assert found["cost"] == pytest.approx(device_h * 2.5, abs=1e-5)
    assert found["cost_per_1000_audio_h"] == pytest.approx(found["cost"] / found["audio_h"] * 1000, rel=1e-3)
    given = cli_here("plan", manifest, "-m", tiny_en, "--rtfx", 100, "--startup", 36, "--price-per-hour", 2)
    audio_h = sum(row["duration"] for row in read_jsonl(manifest)) / 3600
    assert f"device-hours at 2, {(audio_h / 100 + 0.01) * 2 / audio_h * 1000:,.2f} per 1,000 h of audio" in given.stdout
    without = cli_here("plan", manifest, "-m", tiny_en, "--price-per-hour", 2).stdout
    assert (
        "note: no time and no cost is estimated without --rtfx" in without and "cost " not in without.split("note:")[0]
    )


def test_tasks_are_told_the_price_and_the_cost_of_their_chunks_is_foreseen(tiny_en, cli_here, tmp_path):
    manifest = beep_manifest(tmp_path / "in", 12)
    words = ["submit", manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 4, "--to", "shell"]
    priced = [*words, "--price-per-hour", 2]
    done = cli_here(*priced, "--rtfx", 100, "--startup", 3600)
    assert done.returncode == EXIT_COMPLETE, done.stderr
    assert done.stdout.count("--price-per-hour 2.0") == 4 and "--rtfx" not in done.stdout
    assert "cost: 8.00: 4.000 device-hours at 2, " in done.stderr
    assert (
        "cost: 4.00: 2.000 device-hours"
        in cli_here(*priced, "--rtfx", 100, "--startup", 3600, "--chunks", "1-2").stderr
    )
    assert "note: no cost is estimated without --rtfx" in cli_here(*priced).stderr
    assert "cost" not in cli_here(*words).stderr


def test_a_run_that_was_merged_and_whose_chunks_are_gone(killed_run, tiny_en, cli_here, tmp_path):
    manifest = killed_run.parent / "in/manifest.jsonl"
    cli_here("merge-shards", killed_run, "--manifest", manifest)
    moved = tmp_path / "out.jsonl"
    for name in ("rows", "record", "done"):
        os.link(getattr(RunPaths(killed_run), name), getattr(RunPaths(moved), name))
    total_s, _ = spent(killed_run)
    cost = json.loads(cli_here("status", moved, "--json").stdout)["total"]["cost"]
    assert cost["total"] == pytest.approx(total_s, abs=0.01)
    refused = cli_here("plan", manifest, "-m", tiny_en, "--rtfx", moved)
    assert refused.returncode == EXIT_USAGE
    assert "as its chunks are gone; give --rtfx" in refused.stderr and "its rtfx_end_to_end" in refused.stderr
