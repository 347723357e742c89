"""How a session begins and ends: which rows count as having seen an engine die."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from output_rows import row
from processes import die_at

from asrbatch.errors import EngineDiedError, OutputError
from asrbatch.pipeline.monitor import Answered, StageTimes
from asrbatch.runs.progress import Observer, StartUp
from asrbatch.runs.session import Session
from asrbatch.storage.inflight import Deaths, update_deaths
from asrbatch.storage.journal import Journal
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import read_record

NUM_ROWS = 6


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    return RunPaths(tmp_path / "out.jsonl")


def begin(paths: RunPaths) -> Session:
    """A session as `runner.run` makes it, of a run in one piece."""
    scan = SimpleNamespace(durations_s=np.ones(NUM_ROWS, np.float32))
    manifest = SimpleNamespace(record=dict, scan=scan)
    engine = SimpleNamespace(checkpoint=SimpleNamespace(as_dict=dict), num_ranks=1)
    plan = SimpleNamespace(
        manifest=manifest, engine=engine, fingerprint={}, num_rows=NUM_ROWS, total_audio_s=6.0, slots=()
    )
    heartbeat = SimpleNamespace(check=lambda: None, lease=SimpleNamespace(ensure=lambda: None), record=None)
    of_no_chunk = {"chunk_id": None, "num_chunks": None, "chunk_source": None}
    config = SimpleNamespace(paths=paths, **of_no_chunk, word_timestamps=False, price_per_hour=None)
    journal = Journal(paths.rows, NUM_ROWS)
    return Session(config, plan, heartbeat, read_record(paths), journal, Observer(), StartUp(Observer()))


def deaths(paths: RunPaths) -> dict[int, Deaths]:
    """As the next session would count them."""
    return update_deaths(read_record(paths), paths.in_flight, Journal(paths.rows, NUM_ROWS).finished)


def stopped_by(error: BaseException | None, paths: RunPaths, index: int = 0) -> None:
    session = begin(paths)
    with session.running(), session.in_flight.watching():
        session.in_flight.add(index)
        if error is not None:
            raise error


def test_a_death_is_on_the_disk_before_the_log_of_it_goes(paths):
    """The next session is killed at any of its steps: the death is neither forgotten nor counted twice."""
    with pytest.raises(EngineDiedError):
        stopped_by(EngineDiedError("died"), paths)
    for step in itertools.count():
        killed = die_at(step, lambda: begin(paths).running().__enter__())
        assert deaths(paths) == {0: Deaths(1)}, step
        if not killed:
            break
    assert step > 8


def test_rows_that_are_begun_count_once_and_no_more_than_they_state(paths):
    session = begin(paths)
    with session.running():
        session.engine_is_up({"vllm": "-", "torch": "-", "device": "-"}, 4)
        session.write(row(0, timing={"engine": 0.1}))
        # Row 0 is written already; of row 2 the manifest states a second, its file has more.
        session.update(StageTimes(), 3, {0: Answered(0.5, 1.0), 1: Answered(0.25, None), 2: Answered(3.0, 9.0)})
        assert (session.progress.stated_s, session.progress.open_s, session.progress.open_rows) == (1.0, 1.25, 1.25)
        session.update(StageTimes(), 0, {})
        assert (session.progress.open_s, session.progress.open_rows) == (0.0, 0.0)


def test_a_workers_death_is_on_the_disk_before_its_rows_leave_the_log(paths):
    def work():
        session = begin(paths)
        with session.running():
            for index in (0, 1):
                session.in_flight.add(index)
            session.deaths[0] = Deaths(session.deaths.get(0, Deaths()).engine + 1)
            session.begin_in_flight({1})

    for step in itertools.count():
        died, before = die_at(step, work), deaths(paths)
        seen = before.get(0, Deaths())
        assert seen.engine <= 1 and seen.kills <= 1, (step, before)  # it, or the kill of the session, or both
        for path in (paths.record, paths.in_flight, paths.rows):
            path.unlink(missing_ok=True)
        if not died:
            break
    assert before == {0: Deaths(1)}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("read-only"), SystemExit(), ValueError()])
def test_whatever_ends_a_session_but_a_death_counts_for_no_row(paths, error, monkeypatch):
    """Three times, in a folder where nothing can be removed and no record be written any more."""
    for turn in range(3):
        session = begin(paths)

        def refuse(*_, **__):
            raise OutputError("the file system is read-only")

        with pytest.raises(BaseException) as ended, session.running(), session.in_flight.watching():
            session.in_flight.add(0)
            monkeypatch.setattr(session.record, "end", refuse)
            monkeypatch.setattr(Path, "unlink", refuse)
            raise error
        monkeypatch.undo()
        assert isinstance(ended.value, type(error) | OutputError)
        assert read_record(paths)["sessions"][turn]["outcome"] is None
        assert deaths(paths) == {}


def test_a_complete_session_leaves_no_log(paths):
    session = begin(paths)
    with session.running(), session.in_flight.watching():
        for index in range(NUM_ROWS):
            session.in_flight.add(index)
            session.journal.write(row(index))
    assert session.outcome == "complete" and not paths.in_flight.exists() and deaths(paths) == {}
