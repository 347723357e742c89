"""One run from its options to its completion mark: opens, checks, locks, starts, drives, closes.

This is the wiring; what is done is in the modules it calls. Order matters: everything that can refuse a run does so
before the engine, which takes the longest, is started.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import logs
from .checkpoint import WHISPER, Checkpoint, open_checkpoint
from .config import RunConfig
from .engine import Engine, start_engine
from .engine.settings import Device, detect_device, resolve_dtype, resolve_mode
from .engine.start import parse_engine_args
from .errors import (
    EXIT_COMPLETE,
    EXIT_INTERRUPTED,
    EXIT_ROWS_FAILED,
    EngineDiedError,
    EngineStartError,
    OutputError,
    RowError,
    UsageError,
)
from .fingerprint import differences, digest, fingerprint
from .manifest import Manifest, open_manifest
from .output.files import explained
from .output.inflight import GIVE_UP_AFTER, RUN_ALONE_AFTER, InFlightLog, update_deaths
from .output.journal import Journal, Tally
from .output.lease import Lease
from .output.paths import RunPaths
from .output.record import REFRESH_S, RunRecord, read_completion_mark, read_record, write_completion_mark
from .output.rows import failed_row
from .pipeline import Clocks, Limits, Pipeline
from .preparation import AudioRules, Preparers
from .prompts import WhisperPrompts
from .types import Utterance

# Decoder positions that hold no text: the prompt's control tokens.
_PROMPT_TOKENS = 4


@dataclass
class Progress:
    """How far a run is; what an observer shows.

    Attributes:
        phase: `starting`, `transcribing` or `done`.
        total_rows, total_audio_s: of the manifest; the latter None when a row has no duration.
        tally: over all rows written, earlier sessions' included.
        session_rows, session_audio_s: written by this session.
        in_engine, capacity: windows in the engine, and how many it works on at once.
        clocks: of this session so far.
        startup_s: until the engine was ready.
    """

    total_rows: int
    total_audio_s: float | None
    tally: Tally
    phase: str = "starting"
    session_rows: int = 0
    session_audio_s: float = 0.0
    in_engine: int = 0
    capacity: int = 0
    clocks: Clocks = field(default_factory=Clocks)
    startup_s: float = 0.0


class Observer:
    """Told what happens; the default shows nothing."""

    def say(self, line: str) -> None:
        """Something a person should know."""

    def update(self, progress: Progress) -> None:
        """Called a few times a second."""


@dataclass(frozen=True)
class Summary:
    """How a session ended.

    Attributes:
        outcome: `complete`, `interrupted`, or `already_complete` when there was nothing to do.
        exit_code: what the command ends with.
        figures: the completion mark's figures where there is one, the session's otherwise.
    """

    paths: RunPaths
    outcome: str
    exit_code: int
    progress: Progress
    figures: dict[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The output rows, in the order they finished."""
        with open(self.paths.rows, encoding="utf-8") as file:
            yield from map(json.loads, file)


class Stop:
    """Lets another thread or a signal handler end a run in an orderly way."""

    def __init__(self) -> None:
        self.requested = False
        self._pipeline: Pipeline | None = None

    def request(self) -> bool:
        """Asks for the end. False when the loop is not running, so that nobody will look."""
        self.requested = True
        if self._pipeline is None:
            return False
        self._pipeline.request_stop()
        return True

    def attach(self, pipeline: Pipeline | None) -> None:
        self._pipeline = pipeline
        if pipeline is not None and self.requested:
            pipeline.request_stop()


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
    plan = _Plan(config)
    paths = RunPaths(config.output_path)
    if paths.rows == Path(plan.manifest.source):
        raise UsageError(f"--output {paths.rows}: is the manifest itself; choose another")
    with explained(paths.rows):
        paths.rows.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lease = Lease(paths.lease, say=observer.say)
        stack.callback(lease.release)
        if config.overwrite:
            _remove(paths.done, paths.rows, paths.record, paths.in_flight)
        record = read_record(paths)
        _check_same_run(paths, record, plan.fingerprint, observer)
        mark = read_completion_mark(paths)
        if mark and not (config.retry_failed and mark["statuses"].get("failed")):
            return _already_complete(paths, mark, plan)
        _remove(paths.done)
        keep = (lambda row: row["status"] == "ok") if config.retry_failed else None
        journal = Journal(paths.rows, len(plan.manifest), keep)
        stack.callback(journal.close)
        session = _Session(config, plan, paths, lease, record, journal, observer, stop, start, started)
        return session.run()


class _Plan:
    """What will be run, checked as far as it can be without an engine."""

    def __init__(self, config: RunConfig):
        self.engine_args = parse_engine_args(config.engine.args)
        self.device: Device = detect_device()
        self.checkpoint: Checkpoint = open_checkpoint(config.engine.model, config.engine.revision)
        if self.checkpoint.architecture != WHISPER:
            raise UsageError(
                f"--model {config.engine.model}: its architecture is {self.checkpoint.architecture}; so far only {WHISPER}"
            )
        self.dtype = resolve_dtype(config.engine.dtype, self.checkpoint, self.device)
        self.mode = resolve_mode(config.engine.mode, self.device, self.engine_args)
        self.prompts = WhisperPrompts(self.checkpoint, config.task)
        self.language = self.prompts.check_language(config.language) if config.language else None
        self.prompt = config.prompt
        positions = self.checkpoint.config.get("max_target_positions", 448)
        self.max_tokens = config.engine.max_tokens or positions - _PROMPT_TOKENS
        if self.max_tokens > positions - _PROMPT_TOKENS:
            raise UsageError(f"--max-tokens {self.max_tokens}: the model's decoder has room for {positions - _PROMPT_TOKENS}")
        self.manifest: Manifest = open_manifest(config.manifest, split=config.split, check=partial(_check_row, self.prompts))
        self.fingerprint = fingerprint(
            rows_digest=self.manifest.scan.digest,
            num_rows=len(self.manifest),
            model_digest=self.checkpoint.digest,
            revision=config.engine.revision,
            dtype=self.dtype,
            sampling={"temperature": 0.0, "max_tokens": self.max_tokens, "seed": config.engine.seed},
            task=config.task,
            language=self.language,
            prompt=config.prompt,
            windows="none",
            engine_args=self.engine_args,
        )

    def language_of(self, utterance: Utterance) -> str | None:
        return self.prompts.check_language(utterance.lang) if utterance.lang else self.language

    def prompt_of(self, utterance: Utterance) -> str | None:
        return self.prompt if utterance.prompt is None else utterance.prompt

    @property
    def total_audio_s(self) -> float | None:
        scan = self.manifest.scan
        return None if scan.num_without_duration else float(scan.durations_s.sum(dtype="float64"))


class _Session:
    """This process's part of a run; holds what the steps of `run` share."""

    def __init__(self, config, plan, paths, lease, previous, journal, observer, stop, start, started):
        self.config, self.plan, self.paths = config, plan, paths
        self.lease, self.journal, self.observer, self.stop = lease, journal, observer, stop
        self.start, self.started = start, started
        self.deaths = update_deaths(previous, paths.in_flight, journal.finished)
        self.in_flight = InFlightLog(paths.in_flight)
        self.record = RunRecord(paths, previous, plan.fingerprint, len(plan.manifest))
        self.record.value["engine_deaths"] = {str(i): n for i, n in self.deaths.items()}
        self.progress = Progress(len(plan.manifest), plan.total_audio_s, journal.tally)
        self.heartbeat = _Heartbeat(lease)
        self._recorded_at = 0.0

    def run(self) -> Summary:
        self.record.write()
        outcome = "error"
        self.heartbeat.start()
        try:
            self._give_up_on_poison()
            if self._remaining():
                self._transcribe()
            outcome = "interrupted" if self._remaining() else "complete"
        except EngineDiedError:
            outcome = "engine_died"
            raise
        finally:
            self.heartbeat.stop()
            self._close(outcome)
        return self._summary(outcome)

    def _remaining(self) -> int:
        return len(self.plan.manifest) - self.journal.tally.rows

    def _transcribe(self) -> None:
        with logs.captured(self.paths.log) as log_start:
            events: SimpleQueue = SimpleQueue()
            try:
                engine = self._start_engine(events)
            except EngineStartError as e:
                e.add_note("\n".join(logs.tail(self.paths.log, log_start)))
                e.add_note(f"the whole log: {self.paths.log}")
                raise
            try:
                self._drive(engine, events)
            finally:
                engine.close()

    def _start_engine(self, events: SimpleQueue) -> Engine:
        plan, options = self.plan, self.config.engine
        self.observer.say(f"starting vLLM: {plan.checkpoint.name}, {plan.dtype} on {plan.device.name}; its log is {self.paths.log}")
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
        self.record.session |= {"engine": engine.facts, "startup_s": round(self.progress.startup_s, 3)}
        return engine

    def _drive(self, engine: Engine, events: SimpleQueue) -> None:
        config, plan = self.config, self.plan
        windows = config.max_windows or 2 * engine.max_num_seqs
        rules = AudioRules(plan.checkpoint.sample_rate, plan.checkpoint.window_s, plan.checkpoint.hop_length)
        pipeline = Pipeline(
            engine=engine,
            preparers=lambda deliver: Preparers(
                config.num_workers,
                engine=engine,
                rules=rules,
                decode_timeout_s=config.decode_timeout_s,
                language_of=plan.language_of,
                prompt_of=plan.prompt_of,
                deliver=deliver,
                on_thread_start=engine.prepare_thread,
            ),
            events=events,
            limits=Limits(windows, config.max_audio_s or windows * rules.window_s, config.grace_s),
            write=self._write,
            submitted=self.in_flight.add,
            tick=lambda: self._tick(pipeline),
            sample_rate=rules.sample_rate,
            default_audio_s=rules.window_s,
        )
        self.progress.phase, self.progress.clocks = "transcribing", pipeline.clocks
        self.stop.attach(pipeline)
        try:
            pipeline.run(self._unfinished(lambda deaths: deaths == 0))
            pipeline.run(self._unfinished(lambda deaths: 0 < deaths < RUN_ALONE_AFTER))
            pipeline.run(self._unfinished(lambda deaths: deaths >= RUN_ALONE_AFTER), alone=True)
        finally:
            self.stop.attach(None)
            pipeline.close()

    def _unfinished(self, wanted: Callable[[int], bool]) -> Iterator[Utterance]:
        """Rows without an output row, in manifest order; those that saw the engine die come last."""
        for index, finished in enumerate(self.journal.finished):
            if not finished and wanted(self.deaths.get(index, 0)):
                yield self.plan.manifest.read(index)

    def _give_up_on_poison(self) -> None:
        for index, deaths in self.deaths.items():
            if deaths >= GIVE_UP_AFTER:
                error = RowError(
                    "engine_crash",
                    f"the engine died {deaths} times with this row in it, the last time with nothing else; see {self.paths.log.name}",
                )
                self._write(failed_row(self.plan.manifest.read(index), error, {}))

    def _write(self, row: dict[str, Any]) -> None:
        self.heartbeat.check()
        self.lease.ensure()
        self.journal.write(row)
        self.progress.session_rows += 1
        self.progress.session_audio_s += (row["audio_s"] or 0.0) if row["status"] == "ok" else 0.0

    def _tick(self, pipeline: Pipeline) -> None:
        self.heartbeat.check()
        self.progress.in_engine = pipeline.in_engine
        self.observer.update(self.progress)
        if time.monotonic() - self._recorded_at >= REFRESH_S:
            self._recorded_at = time.monotonic()
            self._book()
            self.record.write()

    def _book(self) -> None:
        clocks = self.progress.clocks
        self.record.session |= {
            "rows": self.progress.session_rows,
            "audio_s": round(self.progress.session_audio_s, 3),
            "wall_s": round(time.monotonic() - self.started, 3),
            "engine_s": round(clocks.engine, 3),
            "engine_full_s": round(clocks.full, 3),
            "starved_s": round(clocks.starved, 3),
            "read_s": round(clocks.read, 3),
            "prepare_s": round(clocks.prepare, 3),
            "write_s": round(clocks.write, 3),
        }
        self.record.value["tally"] = self.journal.tally.as_dict()

    def _close(self, outcome: str) -> None:
        self._book()
        if self.heartbeat.lost is None:  # with the lease lost, another process owns these files
            self.record.end(outcome)
            self.in_flight.close(remove=outcome == "complete")

    def _summary(self, outcome: str) -> Summary:
        self.progress.phase = "done"
        if outcome == "interrupted":
            return Summary(self.paths, outcome, EXIT_INTERRUPTED, self.progress, dict(self.record.session))
        figures = _figures(self.record.value["sessions"], self.journal.tally)
        mark = write_completion_mark(self.paths, self.journal, digest(self.plan.fingerprint), figures)
        return Summary(self.paths, outcome, _exit_code(mark), self.progress, mark)

    def _warn_of_other_versions(self, facts: dict[str, Any]) -> None:
        for session in reversed(self.record.value["sessions"][:-1]):
            if before := session.get("engine"):
                changed = [f"{k} {before.get(k)} → {facts[k]}" for k in ("vllm", "torch", "device") if before.get(k) != facts[k]]
                if changed:
                    self.observer.say(f"warning: earlier rows of this run were made with other parts: {', '.join(changed)}")
                return


class _Heartbeat:
    """Keeps the lease alive from a thread of its own, and hands what goes wrong there to the main thread."""

    def __init__(self, lease: Lease):
        self._lease = lease
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asrbatch-heartbeat", daemon=True)
        self.lost: OutputError | None = None

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._lease.refresh_s):
            try:
                self._lease.refresh()
            except OutputError as e:
                self.lost = e
                return


def _check_row(prompts: WhisperPrompts, utterance: Utterance) -> str | None:
    """What the manifest reader asks about each row: can this run do what the row says?"""
    if utterance.lang:
        try:
            prompts.check_language(utterance.lang)
        except UsageError as e:
            return f"lang: {e}"
    target = utterance.fields.get("target_lang")
    if target is not None and prompts.task == "translate" and target != "en":
        return f"target_lang {target!r}: Whisper translates into English only"
    if target is not None and prompts.task == "transcribe" and target not in (utterance.lang, None):
        return f"target_lang {target!r}: this run transcribes and does not translate; use --task translate or remove it"
    task = utterance.fields.get("taskname")
    if task is not None and task not in _TASK_NAMES[prompts.task]:
        return f"taskname {task!r}: this run does --task {prompts.task}"
    return None


# NeMo's manifests call the tasks so.
_TASK_NAMES = {"transcribe": ("asr", "transcribe"), "translate": ("ast", "s2t_translation", "translate")}


def _check_same_run(paths: RunPaths, record: dict[str, Any] | None, now: dict[str, Any], observer: Observer) -> None:
    if record is None:
        if paths.rows.exists() and paths.rows.stat().st_size:
            raise OutputError(
                f"{paths.rows}: exists, but its run record {paths.record.name} does not, so nobody can say what made it; "
                "choose another --output, or --overwrite to start anew"
            )
        return
    changed = differences(record["fingerprint"], now)
    if changed:
        raise OutputError(
            f"{paths.rows}: holds another run's rows. What differs: {'; '.join(changed)}. "
            "Give the same options, choose another --output, or --overwrite to start anew"
        )


def _already_complete(paths: RunPaths, mark: dict[str, Any], plan: _Plan) -> Summary:
    journal = Journal(paths.rows, len(plan.manifest))
    journal.close()
    if journal.sha256 != mark["sha256"]:
        raise OutputError(
            f"{paths.rows}: was changed after the run completed (its SHA-256 is not the one in {paths.done.name}); "
            "put the original back, or --overwrite to start anew"
        )
    progress = Progress(len(plan.manifest), plan.total_audio_s, journal.tally, phase="done")
    return Summary(paths, "already_complete", _exit_code(mark), progress, mark)


def _remove(*paths: Path) -> None:
    for path in paths:
        with explained(path):
            path.unlink(missing_ok=True)


def _exit_code(mark: dict[str, Any]) -> int:
    return EXIT_ROWS_FAILED if mark["statuses"].get("failed") else EXIT_COMPLETE


def _figures(sessions: list[dict[str, Any]], tally: Tally) -> dict[str, Any]:
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
