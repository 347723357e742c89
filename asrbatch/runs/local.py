"""Transcribes the rest of a session with one engine in (or beside) this very process."""

from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue

from asrbatch.engine.base import Engine
from asrbatch.engine.engine import likely_fix
from asrbatch.engine.environment import start_aside
from asrbatch.errors import EngineStartError
from asrbatch.pipeline.budget import Limits
from asrbatch.pipeline.loop import Pipeline
from asrbatch.pipeline.preprocess import PreprocessPool
from asrbatch.runs import progress
from asrbatch.runs.session import Session
from asrbatch.storage.inflight import RUN_ALONE_AFTER
from asrbatch.types import Utterance


def transcribe_here(session: Session, start: Callable[..., Engine]) -> None:
    """Rows that saw no engine die first, those that saw one next, those that saw two alone.

    Args:
        start: starts the engine; takes what `engine.start_engine` takes.

    Raises:
        EngineStartError, EngineDiedError: the engine; rows written so far are kept.
    """
    plan, config = session.plan, session.config
    pool = PreprocessPool(
        config.num_workers,
        rules=plan.rules,
        decode_timeout_s=config.decode_timeout_s,
        prompt_of=plan.engine.prompt_of,
        language_of=plan.engine.language_of,
    )
    with progress.captured(session.paths.log) as log_start, closing(pool):
        events: SimpleQueue = SimpleQueue()
        session.observer.log(f"starting vLLM: {plan.engine}; its log is {session.paths.log}")
        try:
            engine = start_aside(lambda: start(plan.engine, lambda key, outcome: events.put((key, outcome))))
        except EngineStartError as e:
            explain_start(e, session, log_start)
            raise
        with closing(engine):
            session.engine_is_up(engine.facts)
            session.progress.capacity = engine.max_num_seqs
            _drive(session, engine, pool, events)


def _drive(session: Session, engine: Engine, pool: PreprocessPool, events: SimpleQueue) -> None:
    rules = session.plan.rules

    def tick() -> None:
        session.progress.in_engine = pipeline.in_engine
        session.tick()

    def utterances(wanted: Callable[[int], bool]) -> Iterator[Utterance]:
        return map(session.read, session.unfinished(wanted))

    pipeline = Pipeline(
        engine=engine,
        pool=pool,
        events=events,
        limits=Limits.of(session.config, engine, rules.window_s),
        write=session.write,
        submitted=session.in_flight.add,
        tick=tick,
        asks=session.plan.engine,
        rules=rules,
    )
    session.progress.stage_times = pipeline.stage_times
    session.stop.attach(pipeline)
    try:
        pipeline.run(utterances(lambda deaths: deaths == 0))
        pipeline.run(utterances(lambda deaths: 0 < deaths < RUN_ALONE_AFTER))
        pipeline.run(utterances(lambda deaths: deaths >= RUN_ALONE_AFTER), alone=True)
    finally:
        session.stop.attach(None)
    tick()


def explain_start(error: EngineStartError, session: Session, log_start: int) -> None:
    """Adds the end of the engine's log, and what usually helps."""
    said = progress.tail(session.paths.log, log_start, lines=200)
    error.add_note("\n".join(said[-15:]))
    error.add_note(f"the whole log: {session.paths.log}")
    if fix := likely_fix(error, "\n".join(said)):
        error.add_note(f"likely fix: {fix}")
