"""A recording's audio from a position on, decoded no further than it was peeked at; and what splitters share: what a
split is, what bounds a window, and the quietest point of a region.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrbatch.types import GivenText, Window


@dataclass(frozen=True, slots=True)
class AudioWindow:
    """A window with its audio.

    Attributes:
        samples: float32 [window.end - window.start], a copy: whoever holds it must not hold what follows it.
        previous: token ids of the text before it that its prompt holds.
        given: the texts that are said in it, where these are known and not decoded, from its own start.
    """

    window: Window
    samples: np.ndarray
    previous: tuple[int, ...] = ()
    given: tuple[GivenText, ...] = ()


class AudioBuffer:
    """Looks ahead in blocks of audio, and forgets what was passed.

    Args:
        blocks: float32 [n] each, the recording from its start.

    Attributes:
        position: samples passed so far.
    """

    def __init__(self, blocks: Iterator[np.ndarray]):
        self.position = 0
        self._blocks = blocks
        self._held = np.empty(0, np.float32)

    def peek(self, num_samples: int) -> np.ndarray:
        """The next samples: so many, or all there are; a view."""
        pieces, held = [self._held], len(self._held)
        while held < num_samples and (block := next(self._blocks, None)) is not None:
            pieces.append(block)
            held += len(block)
        if len(pieces) > 1:
            self._held = np.concatenate(pieces)
        return self._held[:num_samples]

    def advance(self, num_samples: int) -> None:
        """Passes samples that were peeked at."""
        self._held = self._held[num_samples:]
        self.position += num_samples


@dataclass(frozen=True)
class WindowLimits:
    """What bounds a window; all in samples but the rate.

    Attributes:
        limit: the longest window, but for a tail that joins it.
        search: how far before the limit `energy` looks for a quiet point.
        frame: the stretch over which it measures loudness.
        min_tail: a last window shorter than this is not left to stand alone.
        sample_rate: Hz.
        most: the most that the model takes at once: a window may have so much together with a tail that joins it.
    """

    limit: int
    search: int
    frame: int
    min_tail: int
    sample_rate: int = 16_000
    most: int = 0

    @property
    def lookahead(self) -> int:
        """How much audio a splitter is shown, where there is so much."""
        return self.limit + self.min_tail


@dataclass(frozen=True, slots=True)
class Split:
    """What comes next in a recording: a window, or audio that the model does not get.

    Attributes:
        end: samples from the start of what the splitter was shown, at least 1.
        is_skipped: it holds no speech.
    """

    end: int
    is_skipped: bool = False


Splitter = Callable[[np.ndarray], Split]


def quietest(region: np.ndarray, limits: WindowLimits) -> int:
    """The middle of the quietest frame of a stretch of audio, in samples from its start; its end where it is shorter
    than two.

    Of equally quiet ones the last.
    """
    if len(loudness := _loudness(region, limits)) == 0:
        return len(region)
    last = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return _middle(last, limits)


def pause_near(samples: np.ndarray, at: int, around: int, limits: WindowLimits) -> int:
    """The middle of the frame next to a sample that is about as quiet (6 dB) as the quietest of those around it.

    The nearest, not the quietest of all: behind that, a short word may stand between two pauses.

    Args:
        at: 1 to the number of samples.
        around: how far to search, in samples to either side.
    """
    first = max(1, at - around)
    loudness = _loudness(samples[first : at + around], limits)
    if len(loudness) == 0:
        return at
    middles = first + _middle(np.flatnonzero(loudness <= 4 * loudness.min()), limits)
    return int(middles[np.argmin(np.abs(middles - at))])


def _loudness(region: np.ndarray, limits: WindowLimits) -> np.ndarray:
    """The energy of frames that overlap by nine tenths; of none where there are not two."""
    hop = _hop(limits)
    if len(region) < limits.frame + hop:
        return np.empty(0)
    energy = np.concatenate([[0.0], np.cumsum(region.astype(np.float64) ** 2)])
    starts = np.arange(0, len(region) - limits.frame + 1, hop)
    return energy[starts + limits.frame] - energy[starts]


def _middle(frame: Any, limits: WindowLimits) -> Any:
    return frame * _hop(limits) + limits.frame // 2


def _hop(limits: WindowLimits) -> int:
    return max(1, limits.frame // 10)
