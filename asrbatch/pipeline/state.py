"""What the loop knows of an utterance between taking and writing it.

Where a run's wall time went. Standard library only.
"""

import time
from dataclasses import dataclass, field

from asrbatch.models.fallback import Attempts
from asrbatch.pipeline.preprocess import PreprocessResult, UtteranceTask, WindowRequest
from asrbatch.pipeline.result import WindowResult


@dataclass
class InFlightWindow:
    """A window in the engine, and what it said to it so far."""

    ready: WindowRequest
    attempts: Attempts


@dataclass
class UtteranceState:
    """An utterance between being taken and being written."""

    job: UtteranceTask
    taken_at: float
    language: str | None
    prepared: PreprocessResult | None = None
    prepare_s: float | None = None
    held_back: list[WindowRequest] = field(default_factory=list)  # until its language is known
    heard: dict[int, list[WindowResult]] = field(
        default_factory=dict
    )  # of each window, and of its rest if that was asked again
    whole: set[int] = field(default_factory=set)  # windows that were heard to their end

    @property
    def is_begun(self) -> bool:
        return self.prepare_s is not None

    @property
    def is_done(self) -> bool:
        return self.prepared is not None and len(self.whole) == self.prepared.num_windows

    @property
    def timing(self) -> dict[str, float | None]:
        read_s = self.prepared.read_s if self.prepared else None
        return {"read": read_s, "prepare": self.prepare_s, "total": time.monotonic() - self.taken_at}


@dataclass
class StageTimes:
    """Where a run's wall time went; seconds.

    Attributes:
        wall: from the loop's start to its end.
        engine: of those, how long the engine held at least one window.
        full: of those, how long it held as many windows as it works on at once.
        read, prepare: summed over the preparation threads, beside the engine.
        write: spent writing rows.
    """

    wall: float = 0.0
    engine: float = 0.0
    full: float = 0.0
    read: float = 0.0
    prepare: float = 0.0
    write: float = 0.0

    @property
    def engine_idle(self) -> float:
        """How long the engine had nothing to do."""
        return max(0.0, self.wall - self.engine)
