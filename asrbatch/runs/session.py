"""One process's part of a run: which rows are left, writing them, and keeping record and progress.

Knows the files of a run and nothing of how rows are transcribed: `local.py` does that with an engine in this process,
`workers/pool.py` with worker processes.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np

from asrbatch.config import RunConfig
from asrbatch.errors import EngineDiedError, LeaseError, OutputError, RowError
from asrbatch.pipeline.longform import longest_first
from asrbatch.pipeline.monitor import Answered, StageTimes
from asrbatch.pipeline.result import failed_row
from asrbatch.runs.plan import RunPlan
from asrbatch.runs.progress import Observer, Progress, StartUp
from asrbatch.storage.inflight import Deaths, InFlightLog, deaths_as_record, update_deaths
from asrbatch.storage.journal import Journal
from asrbatch.storage.lease import Heartbeat
from asrbatch.storage.metrics import PARTS
from asrbatch.storage.record import RECORD_REFRESH_S, RunRecord
from asrbatch.types import Utterance


class Session:
    """One process's part of a run, from its start to its outcome.

    Attributes:
        deaths: by row, what happened while it was in flight, see `inflight.py`; rows without a death are absent.
        progress: written here alone.
        outcome: of `running`: `complete`, `interrupted`, `engine_died` or `error`.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: RunPlan,
        heartbeat: Heartbeat,
        previous: dict[str, Any] | None,
        journal: Journal,
        observer: Observer,
        start_up: StartUp,
    ):
        self.config, self.plan, self.paths, self.journal = config, plan, config.paths, journal
        self.log, self._observer, self.start_up = observer.log, observer, start_up
        self._heartbeat = heartbeat
        self.outcome = "error"
        self.deaths = update_deaths(previous, self.paths.in_flight, journal.finished)
        self.in_flight: InFlightLog | None = None
        self._num_logs = 0
        facts = {
            "chunk_id": config.chunk_id, "num_chunks": config.num_chunks, "total_audio_s": plan.total_audio_s,
            "manifest": plan.manifest.record(), "model": plan.engine.checkpoint.as_dict(),
        }  # fmt: skip
        self.record = RunRecord(self.paths, previous, plan.fingerprint, plan.num_rows, start_up.began_at, **facts)
        self._durations_s = plan.manifest.scan.durations_s
        stated_s = float(self._durations_s[np.frombuffer(journal.finished, bool)].sum(dtype="float64"))
        self.progress = Progress(plan.num_rows, plan.total_audio_s, journal.tally, stated_s)
        # A session's GPU-hours are its wall time times these.
        devices = {"num_devices": len(plan.slots) or plan.engine.num_ranks}
        price = {} if config.price_per_hour is None else {"price_per_hour": config.price_per_hour}
        self.record.update({**devices, **price, "chunk_source": config.chunk_source})
        self.record_deaths()
        self._update_record()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Rows may be transcribed inside the block; how it ends is the outcome, in the record too."""
        # Before the first row: rows without a record are refused, because nobody could say what made them.
        self.begin_in_flight(())
        self._heartbeat.record = self.record
        try:
            for index in [index for index, deaths in self.deaths.items() if deaths.error]:
                self.give_up(index)
            self.record_deaths()
            yield
            self.outcome = "interrupted" if self.journal.num_missing else "complete"
        except EngineDiedError as e:
            self.outcome = "engine_died"
            num_rows = self.plan.num_rows
            written = f"{num_rows - self.journal.num_missing} of {num_rows} rows written"
            e.args = (f"{e}; the log is {self.paths.log}. Run the same command to continue ({written})",)
            raise
        except BaseException as e:
            # Ctrl-C and its like are no `Exception`: somebody wanted the run to stop.
            self.outcome = "error" if isinstance(e, Exception) else "interrupted"
            raise
        finally:
            self._close(self.outcome)

    def utterances(self, caution: int) -> Iterator[Utterance]:
        """Those of `unfinished`, each read when its turn has come."""
        return map(self.read, self.unfinished(caution))

    def unfinished(self, caution: int) -> Iterator[int]:
        """Rows of this process without an output row that want this `Deaths.caution`, in the order they are to be
        taken.

        That is manifest order, but for windows that wait for each other: a long recording begun last would have the
        engine for itself at the end, one window at a time, so the longest are begun first (`longform.longest_first`).
        """
        chunk = self.plan.chunk
        rows = np.arange(len(self.plan.manifest)) if chunk is None else np.flatnonzero(chunk)
        windows = self.plan.engine.window_config
        if windows.is_sequential:
            rows = rows[longest_first(self._durations_s[rows], windows.window_s)]
        for index in map(int, rows):
            if not self.journal.finished[index] and self.caution(index) == caution:
                yield index

    def caution(self, index: int) -> int:
        return self.deaths.get(index, Deaths()).caution

    def read(self, index: int) -> Utterance:
        return self.plan.manifest.read(index)

    def duration_s(self, index: int) -> float | None:
        """What the manifest states."""
        stated = float(self._durations_s[index])
        return None if np.isnan(stated) else stated

    def give_up(self, index: int) -> None:
        """A row that is not to be tried again fails with its `Deaths.error`."""
        # Forgotten, so that --retry-failed really tries again.
        error = self.deaths.pop(index).error
        failure = RowError(error.kind, f"{error}; see {self.paths.log.name}")
        self.write(failed_row(self.read(index), failure, {}, aligns=self.plan.engine.aligns))

    def write(self, row: dict[str, Any]) -> None:
        # The holder of the lease alone may write; a process that was stopped for a while may not be it any more.
        self._heartbeat.check()
        self.journal.write(row)
        stated_s = self._durations_s[row["index"]]
        self.progress.session_rows += 1
        self.progress.session_stated_s += stated_s
        self.progress.stated_s += stated_s
        self.progress.session_audio_s += (row["audio_s"] or 0.0) if row["status"] == "ok" else 0.0
        self.progress.session_engine_s[row["status"]] += row["timing"]["engine"] or 0.0

    def update(
        self,
        stage_times: StageTimes,
        in_engine: int,
        answered: dict[int, Answered],
        capacity: int | None = None,
    ) -> None:
        """Call a few times a second: shows progress, and now and then makes it durable.

        Args:
            stage_times: of this session so far; still changes.
            in_engine, capacity: windows in the engines, and how many they work on at once (None: as before).
            answered: of rows that are begun.
        """
        self._heartbeat.check()
        self.progress.stage_times, self.progress.in_engine = stage_times, in_engine
        if capacity is not None:
            self.progress.capacity = capacity
        self._count_open(answered)
        if self.progress.startup_s:
            self._observer.update(self.progress)
        else:  # of several devices none is up
            self.start_up.tell()
        # Every 15 s rows are made to outlast the machine; the death of the process they outlast anyway.
        if time.monotonic() - self._recorded_at >= RECORD_REFRESH_S / 2:
            # Rows first: the record must never count what a crash may take away.
            self.journal.sync()
            self._update_record()

    def _count_open(self, answered: dict[int, Answered]) -> None:
        self.progress.open_s = self.progress.open_rows = 0.0
        for index, (answered_s, expected_s) in answered.items():
            # A worker may still be at a row that another has written.
            if not self.journal.finished[index]:
                stated_s = self.duration_s(index)
                self.progress.open_s += answered_s if stated_s is None else min(answered_s, stated_s)
                if whole_s := stated_s or expected_s:
                    self.progress.open_rows += min(1.0, answered_s / whole_s)

    def engine_is_up(self, facts: dict[str, Any], capacity: int) -> None:
        """Call when the first row can be transcribed."""
        self.start_up.begin("")
        self.progress.startup_steps = self.start_up.steps
        self.progress.startup_s, self.progress.capacity = time.monotonic() - self.start_up.began_at, capacity
        self._warn_of_other_versions(facts)
        self.record.update({"engine": facts, "startup_s": round(self.progress.startup_s, 3)})

    def count_worker_death(self) -> None:
        self.progress.workers_died += 1

    def begin_in_flight(self, indexes: Iterable[int]) -> None:
        """Makes the deaths so far durable, then begins the log of rows in flight anew, with these: never the other way
        round, or a death would be forgotten by whoever kills us in between.
        """
        self._num_logs += 1
        name = f"{len(self.record.value['sessions'])}.{self._num_logs}"
        self.record_deaths()
        self.record.update({"in_flight": name})
        self.record.write()
        if self.in_flight is None:
            self.in_flight = InFlightLog(self.paths.in_flight, name)
        else:
            self.in_flight.begin(name, indexes)

    def record_deaths(self) -> None:
        self.record.update({}, **deaths_as_record(self.deaths))

    def _update_record(self) -> None:
        self._recorded_at = time.monotonic()
        stage_times, progress = self.progress.stage_times, self.progress
        # Of several devices, stage times are means.
        of_rows, num_engines = progress.session_engine_s, len(self.plan.slots) or 1
        session = {
            "rows": progress.session_rows,
            "stated_s": _known(progress.session_stated_s),
            "audio_s": round(progress.session_audio_s, 3),
            "loop_s": round(stage_times.wall, 3),
            "engine_s": round(stage_times.engine, 3),
            **{f"{status}_engine_s": round(engine_s / num_engines, 3) for status, engine_s in of_rows.items()},
            "engine_full_s": round(stage_times.full, 3),
            "starved_s": round(stage_times.engine_idle, 3),
            "read_s": round(stage_times.read, 3),
            "prepare_s": round(stage_times.prepare, 3),
            "write_s": round(stage_times.write, 3),
            "workers_died": progress.workers_died,
            # Windows, of which --encoder-cache had no more room to keep what words are timed by.
            **({"encoded_again": stage_times.encoded_again} if self.config.word_timestamps else {}),
        }
        self.record.update(session, tally=self.journal.tally.as_dict(), stated_s=_known(progress.stated_s))

    def _close(self, outcome: str) -> None:
        self._update_record()
        try:
            self._heartbeat.lease.ensure()
        except LeaseError:
            # Another process owns these files now.
            return
        # A full disk or a read-only folder must not replace the error that says so by one about these files.
        with suppress(OutputError) if outcome == "error" else nullcontext():
            self.in_flight.close(remove=outcome != "engine_died")
            self.record.end(outcome)

    def _warn_of_other_versions(self, facts: dict[str, Any]) -> None:
        for session in reversed(self.record.value["sessions"][:-1]):
            if before := session.get("engine"):
                if changed := [f"{p} {before.get(p)} → {facts[p]}" for p in PARTS if before.get(p) != facts[p]]:
                    self.log(f"warning: earlier rows of this run were made with other versions: {', '.join(changed)}")
                return


def _known(seconds: float) -> float | None:
    return None if np.isnan(seconds) else round(float(seconds), 3)
