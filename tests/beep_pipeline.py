"""A pipeline on the engine that counts tone bursts, with everything around it recorded."""

from dataclasses import dataclass
from queue import SimpleQueue

from beep_engine import RATE, BeepEngine

from asrbatch.audio.windows import WindowConfig
from asrbatch.pipeline.budget import Limits
from asrbatch.pipeline.loop import Pipeline
from asrbatch.pipeline.preprocess import PreprocessPool


@dataclass(frozen=True)
class Asks:
    """What the loop wants to know of an `EnginePlan`."""

    language: str | None = "en"
    temperatures: tuple[float, ...] = (0.0,)
    timestamps: bool = True
    detects_language: bool = True
    is_translated: bool = False
    target_language: str | None = None

    def language_of(self, utterance):
        return self.language


RULES = WindowConfig(RATE, 30.0, 160)
ASKS = Asks()


class Run:
    """A pipeline with everything around it recorded."""

    def __init__(
        self,
        *,
        limits=None,
        workers=3,
        timeout_s=30.0,
        on_write=lambda row: None,
        rules=RULES,
        asks=ASKS,
        engine=BeepEngine,
        **engine_options,
    ):
        events = SimpleQueue()
        self.engine = engine(lambda key, outcome: events.put((key, outcome)), **engine_options)
        self.rows, self.submitted = [], []
        self.most_at_once = 0

        def write(row):
            self.rows.append(row)
            on_write(row)

        self.pool = PreprocessPool(
            workers,
            rules=rules,
            decode_timeout_s=timeout_s,
            prompt_of=lambda u: u.prompt,
        )
        self.pipeline = Pipeline(
            engine=self.engine,
            pool=self.pool,
            events=events,
            limits=limits or Limits(8, 1000.0, 10.0),
            write=write,
            submitted=self.submitted.append,
            tick=lambda: None,
            asks=asks,
            rules=rules,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.close()
