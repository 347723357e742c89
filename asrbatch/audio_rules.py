"""What a model can hear, and how longer audio is cut for it: plain data that is settled before a run."""

from dataclasses import dataclass
from typing import Any

from .windows import Rules

# Raise it when other windows, or other features of them, are made with the same figures: rows of two such runs must not
# share a file. 2: a window's features know how loud the recording was before it.
_VERSION = 2


@dataclass(frozen=True)
class AudioRules:
    """Bounds in seconds, and choices.

    Attributes:
        sample_rate: Hz.
        window_s: the longest audio the model hears at once.
        min_samples: the fewest samples that hold anything to hear.
        windows: one of `config.WINDOWS`.
        search_s, frame_s, min_tail_s: see `windows.Rules`.
        vad_filter: `sequential` passes over long silences.
        condition_on_previous: `sequential` asks each window with the text before it.
        drop_no_speech: text of windows without speech counts for nothing.
    """

    sample_rate: int
    window_s: float
    min_samples: int
    windows: str = "none"
    search_s: float = 5.0
    frame_s: float = 0.1
    min_tail_s: float = 1.0
    vad_filter: bool = False
    condition_on_previous: bool = False
    drop_no_speech: bool = False

    @property
    def is_sequential(self) -> bool:
        return self.windows == "sequential"

    @property
    def max_s(self) -> float | None:
        """The longest audio that can be transcribed; None for any."""
        return self.window_s if self.windows == "none" else None

    @property
    def choices(self) -> dict[str, Any]:
        """What of this decides where windows begin and end, and how they are asked; part of a run's fingerprint."""
        choices: dict[str, Any] = {"splitter": self.windows, "limit_s": self.window_s, "drop_no_speech": self.drop_no_speech}
        choices["version"] = _VERSION
        if self.windows != "none":
            choices["min_tail_s"] = self.min_tail_s
        if self.windows in ("energy", "silence"):
            choices |= {"search_s": self.search_s, "frame_s": self.frame_s}
        if self.is_sequential:
            choices |= {"vad_filter": self.vad_filter, "condition_on_previous": self.condition_on_previous}
        return choices

    @property
    def in_samples(self) -> Rules:
        seconds = (self.window_s, self.search_s, self.frame_s, self.min_tail_s)
        return Rules(*(round(s * self.sample_rate) for s in seconds), self.sample_rate)
