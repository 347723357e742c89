"""A pipeline on the engine that counts tone bursts, with everything around it recorded."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple

from beep_engine import RATE, BeepEngine

from asrbatch.audio.windows import WindowConfig
from asrbatch.pipeline.assembly import make_pipeline

RULES = WindowConfig(RATE, 30.0, 160)


@dataclass(frozen=True)
class Asks:
    """What the loop wants to know of an `EngineSpec`."""

    language: str | None = "en"
    temperatures: tuple[float, ...] = (0.0,)
    timestamps: bool = True
    word_timestamps: bool = False
    detects_language: bool = True
    is_translated: bool = False
    target_language: str | None = None
    window_config: WindowConfig = RULES

    def language_of(self, utterance):
        return self.language

    def prompt_of(self, utterance):
        return utterance.prompt


ASKS = Asks()


class Limits(NamedTuple):
    """Options of a run by which the loop is bounded."""

    max_windows: int
    max_audio_s: float
    grace_s: float
    hang_timeout_s: float = 1800.0


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
        self.rows, self.submitted, self.answered = [], [], []
        self.most_at_once = 0

        def write(row):
            self.rows.append(row)
            on_write(row)

        limits = limits or Limits(8, 1000.0, 10.0)
        config = SimpleNamespace(num_workers=workers, decode_timeout_s=timeout_s, **limits._asdict())
        self._stack = ExitStack()
        self.pipeline = self._stack.enter_context(
            make_pipeline(
                config,
                replace(asks, window_config=rules),
                lambda deliver: engine(deliver, **engine_options),
                write=write,
                on_submit=self.submitted.append,
                on_tick=lambda stage_times, in_engine, answered: self.answered.append(answered),
            )
        )
        self.engine = self.pipeline.engine

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()
