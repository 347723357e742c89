"""One run from its options to its completion mark: opens, checks, locks, starts, drives, closes.

This is the wiring; what is done is in the modules it calls. Order matters: everything that can refuse a run does so
before the engine, which takes the longest, is started.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from . import logs
from .config import RunConfig
from .engine import Engine, likely_fix, start_engine
from .errors import (
    EXIT_COMPLETE,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EngineDiedError,
    EngineStartError,
    LeaseError,
    OutputError,
    RowError,
    UsageError,
)
from .fingerprint import differences, digest
from .output.files import explained
from .output.heartbeat import Heartbeat
from .output.inflight import GIVE_UP_AFTER, RUN_ALONE_AFTER, InFlightLog, update_deaths
from .output.journal import Journal
from .output.lease import Lease
from .output.paths import RunPaths
from .output.record import REFRESH_S, RunRecord, read_completion_mark, read_record, write_completion_mark
from .output.rows import failed_row
from .pipeline import Limits, Pipeline
from .plan import Plan
from .preparation import Preparers
from .progress import Observer, Progress, Stop, Summary
from .types import Utterance


def run(
    config: RunConfig,
    observer: Observer | None = None,
    stop: Stop | None = None,
    start: Callable[..., Engine] = start_engine,
) -> Summary:
    """Transcribes a manifest; runs again where an earlier session of the same run left off.

    Args:
        start: starts the engine; takes what `engine.start_engine` takes.

    Raises:
        UsageError, ManifestError: the run cannot be done as asked.
        OutputError: the output belongs to another run or writer, is damaged, or cannot be written.
        EngineStartError, EngineDiedError: the engine; rows written so far are kept.
    """
    started = time.monotonic()
    observer, stop = observer or Observer(), stop or Stop()
    if config.devices is not None:
        raise UsageError(f"--devices {config.devices}: not built yet")
    plan = Plan(config)
    _say_strategy(config, plan, observer)
    paths = config.paths
    if Path(plan.manifest.source) in (paths.rows, config.output_path):
        raise UsageError(f"--output {config.output_path}: is the manifest itself; choose another")
    with explained(paths.rows):
        paths.rows.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lease = Lease(paths.lease, say=observer.say)
        stack.callback(lease.release)
        heartbeat = Heartbeat(lease)
        heartbeat.start()
        stack.callback(heartbeat.stop)
        if config.overwrite:
            _remove(paths.done, paths.rows, paths.record, paths.in_flight)
        record = read_record(paths)
        mark = read_completion_mark(paths)
        _check_same_run(paths, record, plan.fingerprint, mark is not None)
        if mark and not (config.retry_failed and mark["statuses"].get("failed")):
            return _already_complete(paths, mark, plan)
        _remove(paths.done)
        keep = (lambda row: row["status"] == "ok") if config.retry_failed else None
        journal = Journal(paths.rows, len(plan.manifest), keep, chunk=plan.chunk, new_file=lease.judged_by_time)
        stack.callback(journal.close)
        session = _Session(config, plan, paths, lease, heartbeat, record, journal, observer, stop, start, started)
        return session.run()


class _Session:
    """This process's part of a run; holds what the steps of `run` share."""

    def __init__(self, config, plan, paths, lease, heartbeat, previous, journal, observer, stop, start, started):
        self.config, self.plan, self.paths = config, plan, paths
        self.lease, self.heartbeat, self.journal = lease, heartbeat, journal
        self.observer, self.stop = observer, stop
        self.start, self.started = start, started
        self.deaths = update_deaths(previous, paths.in_flight, journal.finished)
        self.in_flight = InFlightLog(paths.in_flight)
        facts = _chunk_facts(config, plan)
        self.record = RunRecord(paths, previous, plan.fingerprint, plan.num_rows, started, **facts)
        self.record.book({}, engine_deaths={str(i): n for i, n in self.deaths.items()})
        self.durations_s = plan.manifest.scan.durations_s
        stated_s = float(self.durations_s[np.frombuffer(journal.finished, bool)].sum(dtype="float64"))
        self.progress = Progress(plan.num_rows, plan.total_audio_s, journal.tally, stated_s)
        self._booked_at = time.monotonic()
        self._book()

    def run(self) -> Summary:
        self.record.write()
        self.heartbeat.record = self.record
        outcome = "error"
        try:
            self._give_up_on_poison()
            if self.journal.num_missing:
                self._transcribe()
            outcome = "interrupted" if self.journal.num_missing else "complete"
        except EngineDiedError:
            outcome = "engine_died"
            raise
        except BaseException as e:
            outcome = "error" if isinstance(e, Exception) else "interrupted"
            raise
        finally:
            self._close(outcome)
        return self._summary(outcome)

    def _transcribe(self) -> None:
        with logs.captured(self.paths.log) as log_start, closing(self._preparers()) as preparers:
            events: SimpleQueue = SimpleQueue()
            try:
                engine = self._start_engine(events)
            except EngineStartError as e:
                said = logs.tail(self.paths.log, log_start, lines=200)
                e.add_note("\n".join(said[-15:]))
                e.add_note(f"the whole log: {self.paths.log}")
                if fix := likely_fix(e, "\n".join(said)):
                    e.add_note(f"likely fix: {fix}")
                raise
            with closing(engine):
                self._drive(engine, preparers, events)

    def _preparers(self) -> Preparers:
        return Preparers(
            self.config.num_workers,
            rules=self.plan.rules,
            decode_timeout_s=self.config.decode_timeout_s,
            language_of=self.plan.language_of,
            prompt_of=self.plan.prompt_of,
        )

    def _start_engine(self, events: SimpleQueue) -> Engine:
        plan, options = self.plan, self.config.engine
        what = f"{plan.checkpoint.name}, {plan.dtype} on {plan.device.name}"
        self.observer.say(f"starting vLLM: {what}; its log is {self.paths.log}")
        engine = self.start(
            plan.checkpoint,
            device=plan.device,
            dtype=plan.dtype,
            mode=plan.mode,
            task=self.config.task,
            max_tokens=plan.max_tokens,
            seed=options.seed,
            user_args=plan.engine_args,
            deliver=lambda key, outcome: events.put((key, outcome)),
        )
        self.progress.startup_s = time.monotonic() - self.started
        self.progress.capacity = engine.max_num_seqs
        self._warn_of_other_versions(engine.facts)
        self.record.book({"engine": engine.facts, "startup_s": round(self.progress.startup_s, 3)})
        return engine

    def _drive(self, engine: Engine, preparers: Preparers, events: SimpleQueue) -> None:
        config, rules = self.config, self.plan.rules
        windows = config.max_windows or 2 * engine.max_num_seqs
        pipeline = Pipeline(
            engine=engine,
            preparers=preparers,
            events=events,
            limits=Limits(windows, config.max_audio_s or windows * rules.window_s, config.grace_s),
            write=self._write,
            submitted=self.in_flight.add,
            tick=lambda: self._tick(pipeline),
            sample_rate=rules.sample_rate,
            default_audio_s=rules.window_s,
        )
        self.progress.clocks = pipeline.clocks
        self.stop.attach(pipeline)
        try:
            pipeline.run(self._unfinished(lambda deaths: deaths == 0))
            pipeline.run(self._unfinished(lambda deaths: 0 < deaths < RUN_ALONE_AFTER))
            pipeline.run(self._unfinished(lambda deaths: deaths >= RUN_ALONE_AFTER), alone=True)
        finally:
            self.stop.attach(None)
        self._tick(pipeline)

    def _unfinished(self, wanted: Callable[[int], bool]) -> Iterator[Utterance]:
        """Rows without an output row, in manifest order; those that saw the engine die come last."""
        rows = range(len(self.plan.manifest)) if self.plan.chunk is None else map(int, np.flatnonzero(self.plan.chunk))
        for index in rows:
            if not self.journal.finished[index] and wanted(self.deaths.get(index, 0)):
                yield self.plan.manifest.read(index)

    def _give_up_on_poison(self) -> None:
        for index, deaths in list(self.deaths.items()):
            if deaths >= GIVE_UP_AFTER:
                often = f"the engine died {deaths} times with this row in it, the last time with nothing else"
                error = RowError("engine_crash", f"{often}; see {self.paths.log.name}")
                self._write(failed_row(self.plan.manifest.read(index), error, {}))
                del self.deaths[index]  # --retry-failed really tries again
        self.record.book({}, engine_deaths={str(i): n for i, n in self.deaths.items()})

    def _write(self, row: dict[str, Any]) -> None:
        self.heartbeat.check()
        self.lease.ensure()
        self.journal.write(row)
        stated_s = self.durations_s[row["index"]]
        self.progress.session_rows += 1
        self.progress.session_stated_s += stated_s
        self.progress.stated_s += stated_s
        self.progress.session_audio_s += (row["audio_s"] or 0.0) if row["status"] == "ok" else 0.0

    def _tick(self, pipeline: Pipeline) -> None:
        self.heartbeat.check()
        self.progress.in_engine = pipeline.in_engine
        self.observer.update(self.progress)
        if time.monotonic() - self._booked_at >= REFRESH_S / 2:
            self._booked_at = time.monotonic()
            self.journal.sync()
            self._book()

    def _book(self) -> None:
        clocks = self.progress.clocks
        session = {
            "rows": self.progress.session_rows,
            "stated_s": _known(self.progress.session_stated_s),
            "loop_s": round(clocks.wall, 3),
            "audio_s": round(self.progress.session_audio_s, 3),
            "engine_s": round(clocks.engine, 3),
            "engine_full_s": round(clocks.full, 3),
            "starved_s": round(clocks.starved, 3),
            "read_s": round(clocks.read, 3),
            "prepare_s": round(clocks.prepare, 3),
            "write_s": round(clocks.write, 3),
        }
        self.record.book(session, tally=self.journal.tally.as_dict(), stated_s=_known(self.progress.stated_s))

    def _close(self, outcome: str) -> None:
        self._book()
        try:
            self.lease.ensure()
        except LeaseError:  # another process owns these files now
            return
        # First, because it needs no space: on a full disk the record cannot say how we ended, and the rows in flight
        # must not be taken for those of a dead engine.
        self.in_flight.close(remove=outcome != "engine_died")
        # Nor must a full disk replace the error that says so by one about the record.
        with suppress(OutputError) if outcome == "error" else nullcontext():
            self.record.end(outcome)

    def _summary(self, outcome: str) -> Summary:
        if outcome == "interrupted":
            return Summary(self.paths, outcome, EXIT_INTERRUPTED, self.progress, dict(self.record.session))
        self.lease.ensure()
        figures = _figures(self.record.value["sessions"])
        mark = write_completion_mark(self.paths, self.journal, digest(self.plan.fingerprint), figures)
        return Summary(self.paths, outcome, _exit_code(mark), self.progress, mark)

    def _warn_of_other_versions(self, facts: dict[str, Any]) -> None:
        for session in reversed(self.record.value["sessions"][:-1]):
            if before := session.get("engine"):
                changed = [f"{k} {before.get(k)} → {facts[k]}" for k in ("vllm", "torch", "device") if before.get(k) != facts[k]]
                if changed:
                    self.observer.say(f"warning: earlier rows of this run were made with other parts: {', '.join(changed)}")
                return


def _check_same_run(paths: RunPaths, record: dict[str, Any] | None, now: dict[str, Any], complete: bool) -> None:
    with explained(paths.rows):
        has_rows = paths.rows.exists() and paths.rows.stat().st_size > 0
    if record is None:
        if has_rows:
            raise OutputError(
                f"{paths.rows}: exists, but its run record {paths.record.name} does not, so nobody can say what made it; "
                "choose another --output, or --overwrite to start anew"
            )
        return
    changed = differences(record["fingerprint"], now)
    if changed and (has_rows or complete):  # a run that never wrote a row, for a mistyped option, binds nobody
        raise OutputError(
            f"{paths.rows}: holds another run's rows. What differs: {'; '.join(changed)}. "
            "Give the same options, choose another --output, or --overwrite to start anew"
        )


def _already_complete(paths: RunPaths, mark: dict[str, Any], plan: Plan) -> Summary:
    journal = Journal(paths.rows, len(plan.manifest), chunk=plan.chunk)
    journal.close()
    if journal.sha256 != mark["sha256"]:
        raise OutputError(
            f"{paths.rows}: was changed after the run completed (its SHA-256 is not the one in {paths.done.name}); "
            "put the original back, or --overwrite to start anew"
        )
    progress = Progress(plan.num_rows, plan.total_audio_s, journal.tally, 0.0)
    return Summary(paths, "already_complete", _exit_code(mark), progress, mark)


def _say_strategy(config: RunConfig, plan: Plan, observer: Observer) -> None:
    sharding = plan.sharding
    if sharding and sharding.num_without_duration:
        rows = f"{sharding.num_without_duration} of {len(plan.manifest)} rows state no duration"
        observer.say(f"chunks are not balanced by audio: {rows}; those are dealt out in turn (strided)")
    if sharding:
        observer.say(f"chunk {config.chunk_id} of {config.num_chunks}: {plan.num_rows} of {len(plan.manifest)} rows")


def _chunk_facts(config: RunConfig, plan: Plan) -> dict[str, Any]:
    return {
        "chunk_id": config.chunk_id,
        "num_chunks": config.num_chunks,
        "total_audio_s": plan.total_audio_s,
        "manifest": {"source": plan.manifest.source, "rows": len(plan.manifest)},
    }


def _known(seconds: float) -> float | None:
    return None if np.isnan(seconds) else round(float(seconds), 3)


def _remove(*paths: Path) -> None:
    for path in paths:
        with explained(path):
            path.unlink(missing_ok=True)


def _exit_code(mark: dict[str, Any]) -> int:
    return EXIT_ROWS_FAILED if mark["statuses"].get("failed") else EXIT_COMPLETE


def _figures(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """Speeds and stages over all sessions that recorded theirs; seconds are wall time unless they say otherwise."""

    def total(name: str) -> float:
        return round(sum(s.get(name) or 0.0 for s in sessions), 3)

    wall, engine, startup = total("wall_s"), total("engine_s"), total("startup_s")
    audio = total("audio_s")
    return {
        "sessions": len(sessions),
        "rtfx_engine": round(audio / engine, 2) if engine else None,
        "rtfx_end_to_end": round(audio / wall, 2) if wall else None,
        "wall_s": wall,
        "stages_s": {
            "startup": startup,
            "engine": engine,
            "engine_full": total("engine_full_s"),
            "starved": total("starved_s"),
            "write": total("write_s"),
            "read_summed_over_workers": total("read_s"),
            "prepare_summed_over_workers": total("prepare_s"),
        },
    }
