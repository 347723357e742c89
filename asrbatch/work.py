"""What the loop knows of an utterance between taking and writing it."""

import time
from dataclasses import dataclass, field

from .attempts import Attempts
from .output.rows import Heard
from .preparation import Job, Prepared, PreparedWindow


@dataclass
class Asked:
    """A window in the engine, and what it said to it so far."""

    ready: PreparedWindow
    attempts: Attempts


@dataclass
class Work:
    """An utterance between being taken and being written."""

    job: Job
    taken_at: float
    language: str | None
    prepared: Prepared | None = None
    prepare_s: float | None = None
    held_back: list[PreparedWindow] = field(default_factory=list)  # until its language is known
    heard: dict[int, list[Heard]] = field(default_factory=dict)  # of each window, and of its rest if that was asked again
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
