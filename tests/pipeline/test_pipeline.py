"""The loop, with a small real function in the engine's place: it counts tone bursts and says "beep" so many times.

A lost, doubled or misordered window changes the text. Preparation is the real one, decoder processes included.
"""

import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from beep_engine import RATE
from beep_pipeline import ASKS, Limits, Run

from asrbatch.audio.windows import WindowConfig
from asrbatch.errors import EngineDiedError, RowError
from asrbatch.types import AudioRef, Utterance


@pytest.fixture
def utterances(tmp_path):
    """40 files with 1 to 7 bursts each, between 0.3 and 2 s."""
    made = []
    for index in range(40):
        bursts = 1 + index % 7
        tone = np.sin(np.arange(1600) * 0.3).astype(np.float32) * 0.5
        samples = np.concatenate([np.concatenate([tone, np.zeros(2400, np.float32)]) for _ in range(bursts)])
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, samples, RATE)
        made.append(Utterance(index, f"u{index}", AudioRef(path.name, str(path)), duration_s=len(samples) / RATE))
    return made


def beeps(index: int) -> str:
    return " ".join(["beep"] * (1 + index % 7))


def test_every_utterance_ends_in_one_row_with_its_own_text(utterances):
    with Run(seconds=lambda key: 0.02 * (key[0] % 3)) as run:
        run.pipeline.run(iter(utterances))
    assert sorted(row["index"] for row in run.rows) == list(range(40))
    assert {row["index"]: row["pred_text"] for row in run.rows} == {i: beeps(i) for i in range(40)}
    assert [row["index"] for row in run.rows] != list(range(40)), "rows are written as they finish"
    assert sorted(run.submitted) == list(range(40))


@pytest.mark.parametrize("times_words", [False, True])
def test_the_engines_time_is_shared_out_among_the_rows(utterances, times_words):
    """Rows of one and of several windows; of one row a window fails while another of it is in the engine."""

    def fate(key):
        return RowError("rejected", "no") if key == (6, 0) else None

    asks = replace(ASKS, word_timestamps=times_words)
    rules = WindowConfig(RATE, 1.0, 160, "energy", search_s=0.4, min_tail_s=0.2)
    with Run(fate=fate, seconds=lambda key: 0.03 * (1 + key[1]), rules=rules, asks=asks) as run:
        run.pipeline.run(iter(utterances[:14]))
    shares = {row["index"]: row["timing"]["engine"] for row in run.rows}
    worked_s = run.pipeline.monitor.times.engine
    assert len(shares) == 14 and min(shares.values()) > 0
    assert [row["index"] for row in run.rows if row["status"] == "failed"] == [6]
    # What the other windows of the failed row had after it was written is no row's.
    assert worked_s - 0.1 < sum(shares.values()) <= worked_s + 1e-5
    with Run(seconds=lambda key: 0.01, rules=rules, asks=asks) as run:
        run.pipeline.run(iter(utterances[:14]))
    worked_s = run.pipeline.monitor.times.engine
    assert sum(row["timing"]["engine"] for row in run.rows) == pytest.approx(worked_s, abs=1e-4)


@pytest.mark.parametrize("windows", [1, 3, 8])
def test_windows_between_manifest_and_output_are_bounded(utterances, windows):
    taken = []

    def source():
        for utterance in utterances:
            taken.append(utterance.index)
            yield utterance

    with Run(limits=Limits(windows, 1e9, 10.0)) as run:
        most = 0

        def watch(row):
            nonlocal most
            most = max(most, len(taken) - len(run.rows) + 1)

        run.pipeline._write = lambda row, write=run.pipeline._write: (write(row), watch(row))
        run.pipeline.run(source())
    assert len(run.rows) == 40
    assert most <= windows
    assert run.engine.most_held <= windows


def test_seconds_of_audio_are_bounded_but_one_long_utterance_passes(utterances):
    with Run(limits=Limits(100, 0.2, 10.0)) as run:  # every file is longer than the bound
        run.pipeline.run(iter(utterances[:10]))
    assert len(run.rows) == 10
    assert run.engine.most_held == 1


def test_alone_means_alone(utterances):
    with Run() as run:
        run.pipeline.run(iter(utterances[:6]), alone=True)
    assert [row["index"] for row in run.rows] == list(range(6))
    assert run.engine.most_held == 1


def test_a_row_fails_by_itself(utterances, tmp_path):
    broken = tmp_path / "text.wav"
    broken.write_text("this is not audio")
    rows = [
        utterances[0],
        Utterance(1, "absent", AudioRef("no.wav", str(tmp_path / "no.wav"))),
        Utterance(2, "text", AudioRef("text.wav", str(broken))),
        Utterance(3, "refused", utterances[3].audio, prompt="refuse"),
        utterances[4],
        utterances[5],
    ]
    refused = RowError("rejected", "the engine refused the request: too much")
    with Run(fate=lambda key: refused if key[0] == 4 else None) as run:
        run.pipeline.run(iter(rows))
    by_index = {row["index"]: row for row in run.rows}
    assert sorted(by_index) == list(range(6)) and len(run.rows) == 6
    kinds = {i: row["error"] and row["error"]["kind"] for i, row in by_index.items()}
    assert kinds == {0: None, 1: "missing", 2: "unreadable", 3: "bad_row", 4: "rejected", 5: None}
    assert by_index[5]["pred_text"] == beeps(5)
    assert by_index[3]["timing"]["read"] > 0 and by_index[1]["timing"]["generate"] is None


def test_a_dead_engine_stops_the_run_and_keeps_what_is_written(utterances):
    died = EngineDiedError("the engine process died: killed")
    with Run(fate=lambda key: died if key[0] == 20 else None) as run, pytest.raises(EngineDiedError, match="killed"):
        run.pipeline.run(iter(utterances))
    assert 0 < len(run.rows) < 40
    assert all(row["status"] == "ok" and row["pred_text"] == beeps(row["index"]) for row in run.rows)
    assert 20 in run.submitted, "it is on record that the row was in flight"


def test_a_stop_finishes_what_is_in_the_engine_and_takes_no_more(utterances):
    with Run(seconds=lambda key: 0.2, on_write=lambda row: run.pipeline.request_stop()) as run:
        run.pipeline.run(iter(utterances))
    written = {row["index"] for row in run.rows}
    assert run.pipeline.stopped
    assert written == set(run.submitted), "everything that reached the engine is written"
    assert len(written) < 40


def test_a_stop_does_not_outlast_its_grace(utterances):
    forever = lambda key: 0.01 if key[0] == 0 else 20.0  # noqa: E731
    with Run(limits=Limits(8, 1e9, 0.5), seconds=forever, on_write=lambda row: run.pipeline.request_stop()) as run:
        started = time.monotonic()
        run.pipeline.run(iter(utterances))
    assert len(run.rows) == 1
    assert time.monotonic() - started < 18


def test_a_defect_in_a_preprocess_thread_is_raised_not_swallowed(utterances):
    with Run() as run:
        run.engine.preprocess = lambda *a: 1 / 0
        with pytest.raises(ZeroDivisionError):
            run.pipeline.run(iter(utterances))


def test_a_defect_in_writing_is_raised(utterances):
    def refuse(row):
        raise OSError("disk full")

    with Run(on_write=refuse) as run, pytest.raises(OSError, match="disk full"):
        run.pipeline.run(iter(utterances))
    assert len(run.rows) == 1


def test_clocks_add_up(utterances):
    with Run(seconds=lambda key: 0.02) as run:
        run.pipeline.run(iter(utterances))
    stage_times = run.pipeline.monitor.times
    assert 0 < stage_times.full <= stage_times.engine <= stage_times.wall
    assert stage_times.engine_idle == pytest.approx(stage_times.wall - stage_times.engine)
    assert stage_times.read > 0 and stage_times.prepare >= 0
    row = run.rows[0]
    assert row["timing"]["total"] >= row["timing"]["read"] + row["timing"]["prepare"]
