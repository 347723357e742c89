"""One run from its options to its completion mark: opens, checks, locks, starts, drives, closes.

This is the wiring; what is done is in the modules it calls. Order matters: everything that can refuse a run does so
before the engine, which takes the longest, is started.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from asrbatch.config import RunConfig
from asrbatch.engine.base import Engine
from asrbatch.engine.engine import start_engine
from asrbatch.errors import (
    EXIT_COMPLETE,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EXIT_WORKER_DIED,
    ManifestError,
    OutputError,
    UsageError,
)
from asrbatch.manifest.formats import files_of, listed_folder
from asrbatch.manifest.stdin import KeptManifest, keep_stdin
from asrbatch.runs.engine_log import engine_log
from asrbatch.runs.fingerprint import differences, digest
from asrbatch.runs.local import transcribe_here
from asrbatch.runs.plan import RunPlan
from asrbatch.runs.preflight import check_engine_options, check_same_run
from asrbatch.runs.progress import Observer, Progress, StartUp, Stop, Summary
from asrbatch.runs.session import Session
from asrbatch.runs.workers.pool import transcribe_on_devices
from asrbatch.storage.files import explained, remove, remove_dead
from asrbatch.storage.journal import Journal
from asrbatch.storage.lease import Heartbeat
from asrbatch.storage.metrics import metrics, spending_of
from asrbatch.storage.paths import RunPaths, check_run_outputs, find_chunks, in_current_folder
from asrbatch.storage.problems import ProblemFile
from asrbatch.storage.record import read_completion_mark, read_record, write_completion_mark
from asrbatch.storage.run_files import read_files_of


@in_current_folder()
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
    observer, stop, paths = observer or Observer(), stop or Stop(), config.paths
    start_up = StartUp(observer)
    _check_first(config, paths)
    kept = None if config.descriptor is None else keep_stdin(config)
    if kept is not None and kept.folder != os.getcwd():
        observer.log(f"relative paths are those of {kept.folder}, where this run began")
    plan = _plan(config, kept, start_up)
    for note in plan.notes:
        observer.log(f"note: {note}")
    _log_sharding(config, plan, observer)
    with explained(paths.rows):
        paths.rows.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Closed last: the lease is let go when the rows are closed.
        heartbeat = stack.enter_context(closing(Heartbeat(paths.lease, observer.log)))
        if config.overwrite:
            # The mark goes first: a crash in between must not leave one that says complete of rows that are gone.
            remove(paths.done, paths.rows, paths.record, paths.in_flight)
        record = read_record(paths)
        mark = read_completion_mark(paths)
        if note := check_same_run(paths, record, mark, plan.fingerprint, retry_failed=config.retry_failed):
            observer.log(f"note: {note}")
        _warn_of_other_chunks(config, plan, observer)
        if mark and not (config.retry_failed and mark["statuses"].get("failed")):
            return _already_complete(paths, mark, plan)
        # Rows will be added, so the run is not complete from here on.
        remove(paths.done)
        keep = (lambda row: row["status"] == "ok") if config.retry_failed else None
        # After a takeover by time into a new file: what the former holder writes, should it wake up, lands in the old
        # one.
        new_file, keys = heartbeat.lease.judged_by_time, plan.manifest.keys
        start_up.say("reading written rows")
        journal = Journal(paths.rows, len(plan.manifest), keep, chunk=plan.chunk, keys=keys, new_file=new_file)
        stack.callback(journal.close)
        session = Session(config, plan, heartbeat, record, journal, observer, start_up)
        with session.running():
            # A run that lacks no row any more gets its mark without an engine.
            if journal.num_missing:
                transcribe = transcribe_on_devices if plan.slots else transcribe_here
                with engine_log(paths.log):
                    transcribe(session, stop, start)
        return _summary(session, heartbeat)


def _check_first(config: RunConfig, paths: RunPaths) -> None:
    """What can be refused before anything is kept, made or opened. Raises UsageError."""
    check_engine_options(config)
    check_run_outputs(paths, files_of(config.manifest, config.reading), [RunPaths(config.output_path).problems])
    if (folder := listed_folder(config.output_path, config.manifest)) is not None:
        taken = f"would be read as the list of {folder} from then on"
        raise UsageError(f"--output {config.output_path}: {taken}; give another name")
    remove_dead(paths.rows.parent)


def _plan(config: RunConfig, kept: KeptManifest | None, start_up: StartUp) -> RunPlan:
    """What is to be run. A manifest that is refused leaves the list of all its problems beside the
    output, others none.
    """
    path = RunPaths(config.output_path).problems
    with closing(ProblemFile(path)) as problems:
        try:
            note = problems.add if config.on_bad_row == "refuse" else None
            plan = RunPlan(config, kept, note, (*config.paths.written, path), start_up)
        except ManifestError as e:
            if not problems.num_problems:
                raise
            try:
                problems.write()
                where = f"all of them, a JSON line each: {path}"
            except OutputError as refused:
                where = f"the list of all of them was not written: {refused}"
            raise ManifestError(*e.args, where) from e
    # Only if it is there, or a read-only folder would be complained of by its name.
    if path.exists():
        remove(path)
    return plan


def _summary(session: Session, heartbeat: Heartbeat) -> Summary:
    paths, progress, outcome = session.paths, session.progress, session.outcome
    if outcome == "interrupted":
        so_far = spending_of([session.record.value], session.journal.tally.audio_s)
        return Summary(paths, outcome, EXIT_INTERRUPTED, progress, {**session.record.session, **so_far})
    # Asked once more: only the holder may say that the run is complete.
    heartbeat.lease.ensure()
    run_metrics = metrics(session.record.value["sessions"], session.journal.tally.audio_s)
    mark = write_completion_mark(paths, session.journal, digest(session.plan.fingerprint), run_metrics)
    return Summary(paths, outcome, EXIT_WORKER_DIED if progress.workers_died else _exit_code(mark), progress, mark)


def _warn_of_other_chunks(config: RunConfig, plan: RunPlan, observer: Observer) -> None:
    """Says so when another chunk was made otherwise: merge-shards would find out only when all the work is done."""
    if config.num_chunks is None or config.overwrite:
        return
    siblings = find_chunks(config.output_path).get(config.num_chunks, {})
    for chunk_id, paths in siblings.items():
        # A damaged record is that chunk's own business.
        if chunk_id != config.chunk_id and (record := read_files_of(paths).record):
            if changed := differences(record["fingerprint"], plan.fingerprint):
                what = f"chunk {chunk_id} belongs to another run, and merge-shards will not join it"
                observer.log(f"warning: {what}: {'; '.join(changed)}")
            return


def _already_complete(paths: RunPaths, mark: dict[str, Any], plan: RunPlan) -> Summary:
    journal = Journal(paths.rows, len(plan.manifest), chunk=plan.chunk, keys=plan.manifest.keys)
    journal.close()
    progress = Progress(plan.num_rows, plan.total_audio_s, journal.tally, 0.0)
    return Summary(paths, "already_complete", _exit_code(mark), progress, mark)


def _log_sharding(config: RunConfig, plan: RunPlan, observer: Observer) -> None:
    sharding = plan.sharding
    if sharding and sharding.num_without_duration:
        rows = f"{sharding.num_without_duration} of {len(plan.manifest)} rows have no duration"
        observer.log(f"chunks are not balanced by audio: {rows}; those are split in turn (strided)")
    if sharding:
        observer.log(f"chunk {config.chunk_id} of {config.num_chunks}: {plan.num_rows} of {len(plan.manifest)} rows")


def _exit_code(mark: dict[str, Any]) -> int:
    return EXIT_ROWS_FAILED if mark["statuses"].get("failed") else EXIT_COMPLETE
