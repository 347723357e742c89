"""How much a run may hold at once, and how long it waits."""

from dataclasses import dataclass

from .config import RunConfig
from .engine import Engine


@dataclass(frozen=True)
class Limits:
    """Bounds on what is between the manifest and the output.

    Attributes:
        windows: windows being prepared, waiting for the engine, or in it, and rows that wait for their turn.
        audio_s: seconds of audio in them; reached, no more is taken. The last window taken may exceed it.
        grace_s: seconds a stopped run may take to finish what is in the engine.
        hang_timeout_s: seconds an engine that holds windows may answer none before it is taken for dead.
    """

    windows: int
    audio_s: float
    grace_s: float
    hang_timeout_s: float = 1800.0

    @classmethod
    def of(cls, config: RunConfig, engine: Engine, window_s: float) -> "Limits":
        """What the options ask for; by default twice as many full windows as the engine works on at once."""
        windows = config.max_windows or 2 * engine.max_num_seqs
        return cls(windows, config.max_audio_s or windows * window_s, config.grace_s, config.hang_timeout_s)
