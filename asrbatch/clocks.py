"""Where a run's wall time went. Standard library only."""

from dataclasses import dataclass


@dataclass
class Clocks:
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
    def starved(self) -> float:
        """How long the engine had nothing to do."""
        return max(0.0, self.wall - self.engine)
