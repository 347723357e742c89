"""Transcribes the rest of a session with one engine in (or beside) this very process."""

from collections.abc import Callable

from asrbatch.engine.base import Engine
from asrbatch.engine.environment import MOST_START_S, start_aside
from asrbatch.pipeline.assembly import make_pipeline
from asrbatch.runs.progress import Stop
from asrbatch.runs.session import Session
from asrbatch.storage.inflight import RUN_ALONE_AFTER


def transcribe_here(session: Session, stop: Stop, start: Callable[..., Engine]) -> None:
    """Rows that saw no engine die first, those that saw one next, those that saw two alone.

    Args:
        start: starts the engine; takes what `engine.start_engine` takes.

    Raises:
        EngineStartError, EngineDiedError: the engine; rows written so far are kept.
    """
    spec, start_up = session.plan.engine, session.start_up
    session.log(f"starting vLLM: {spec}; its log is {session.paths.log}")
    most_start_s = max(MOST_START_S, session.config.hang_timeout_s)
    pipeline = make_pipeline(
        session.config,
        spec,
        # In a thread, so that Ctrl-C interrupts our waiting and never a library that is being imported.
        lambda deliver: start_aside(lambda: start(spec, deliver, start_up.begin), most_start_s, start_up.tell),
        write=session.write,
        on_submit=session.in_flight.add,
        on_tick=session.update,
    )
    with pipeline as loop:
        session.engine_is_up(loop.engine.facts, loop.engine.max_num_seqs)
        with session.in_flight.watching(), stop.attached(loop):
            loop.run(session.utterances(0))
            # After all others: should one of these kill the engine again, the rest is written.
            loop.run(session.utterances(1))
            loop.run(session.utterances(RUN_ALONE_AFTER), alone=True)
