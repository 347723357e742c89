"""What a cut is, what bounds it, and the quietest point of a stretch of audio: what splitters have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rules:
    """What bounds a window; all in samples but the rate.

    Attributes:
        limit: the longest window the model hears whole.
        search: how far before the limit `energy` looks for a quiet point.
        frame: the stretch over which it measures loudness.
        min_tail: a last window shorter than this is not left to stand alone.
        sample_rate: Hz.
    """

    limit: int
    search: int
    frame: int
    min_tail: int
    sample_rate: int = 16_000

    @property
    def lookahead(self) -> int:
        """How much audio a splitter is shown, where there is so much."""
        return self.limit + self.min_tail


@dataclass(frozen=True, slots=True)
class Cut:
    """What comes next in a recording: a window, or audio that nobody is asked about.

    Attributes:
        end: samples from the start of what the splitter was shown, at least 1.
        is_skipped: it holds no speech.
    """

    end: int
    is_skipped: bool = False


Splitter = Callable[[np.ndarray], Cut]


def quietest(region: np.ndarray, rules: Rules) -> int:
    """The middle of the quietest frame of a stretch of audio, in samples from its start; its end where it is shorter than two."""
    hop = max(1, rules.frame // 10)
    if len(region) < rules.frame + hop:
        return len(region)
    power = np.concatenate([[0.0], np.cumsum(region.astype(np.float64) ** 2)])
    starts = np.arange(0, len(region) - rules.frame + 1, hop)
    loudness = power[starts + rules.frame] - power[starts]
    last = len(starts) - 1 - int(np.argmin(loudness[::-1]))
    return int(starts[last]) + rules.frame // 2
