"""Puts a pipeline together: engine, preprocess pool and loop, made and closed in one place."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from asrbatch.config import RunConfig
from asrbatch.engine.base import Deliver, Engine
from asrbatch.engine.spec import EngineSpec
from asrbatch.pipeline.budget import Budget
from asrbatch.pipeline.loop import Pipeline
from asrbatch.pipeline.monitor import Answered, StageTimes
from asrbatch.pipeline.preprocess import PreprocessPool
from asrbatch.pipeline.queues import EngineOutcome, EventQueue


@contextmanager
def make_pipeline(
    config: RunConfig,
    spec: EngineSpec,
    start_engine: Callable[[Deliver], Engine],
    write: Callable[[dict[str, Any]], None],
    on_submit: Callable[[int], None],
    on_tick: Callable[[StageTimes, int, dict[int, Answered]], None],
) -> Iterator[Pipeline]:
    """A loop, ready to run, with an engine and a pool that are closed at the end.

    Args:
        start_engine: takes where outcomes go, and returns a running engine.
        write, on_submit, on_tick: as `Pipeline` takes them.
    """
    events = EventQueue()
    pool = PreprocessPool(config.num_workers, spec.window_config, decode_timeout_s=config.decode_timeout_s)
    # The pool first: its decoder processes come up while the engine does.
    with closing(pool), closing(start_engine(lambda *outcome: events.put(EngineOutcome(*outcome)))) as engine:
        # Twice as many full windows as the engine works on at once: the next are ready when its places become free.
        most_windows = config.max_windows or 2 * engine.max_num_seqs
        budget = Budget(most_windows, config.max_audio_s or most_windows * spec.window_config.window_s)
        pipeline = Pipeline(engine, pool, events, budget, config, spec, write, on_submit, on_tick)
        # Where each recording waits for its own answers, as many must be open as the engine holds, and a few behind.
        pool.begin(engine, events.put, budget, min(most_windows, engine.max_num_seqs + pool.num_workers))
        yield pipeline
