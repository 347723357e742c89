"""Where an utterance's audio is cut into windows. Integer samples; knows nothing of files, of text or of vLLM.

A splitter is given the audio from a window's start on, `Rules.lookahead` samples of it or all there is, and says where
that window ends; so a recording of hours can be cut while it is being decoded. A new splitter is one function and a line
in `SPLITTERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .types import Window


@dataclass(frozen=True)
class Rules:
    """What bounds a window; all in samples.

    Attributes:
        limit: the longest window the model hears whole.
        search: how far before the limit `energy` looks for a quiet point.
        frame: the stretch over which it measures loudness.
        min_tail: a last window shorter than this is not left to stand alone.
    """

    limit: int
    search: int
    frame: int
    min_tail: int

    @property
    def lookahead(self) -> int:
        """How much audio from a window's start a splitter is shown, where there is so much."""
        return self.limit + self.min_tail


def split(samples: np.ndarray, rules: Rules, splitter: str) -> list[Window]:
    """The windows of a whole recording: in order, without gap or overlap, from its first sample to its last.

    Args:
        samples: float32 [n], n >= 1.
        splitter: a key of `SPLITTERS`.
    """
    end_of_window = SPLITTERS[splitter]
    windows, start = [], 0
    while start < len(samples):
        end = start + end_of_window(samples[start : start + rules.lookahead], rules)
        windows.append(Window(start, end))
        start = end
    return windows


def whole(ahead: np.ndarray, rules: Rules) -> int:
    """One window with everything. Longer audio was refused while decoding (`too_long`), never cut."""
    if len(ahead) > rules.limit:
        raise ValueError(f"more samples than the {rules.limit} of one window")
    return len(ahead)


def fixed(ahead: np.ndarray, rules: Rules) -> int:
    """As long as the model allows; a short tail joins the last window, or halves with it what is left of the two.

    The rule of NeMo Gym (its pull request 1358), but for one thing: there the joined window may exceed the limit.
    """
    if len(ahead) <= rules.limit:
        return len(ahead)
    if len(ahead) < rules.lookahead:
        return -(-len(ahead) // 2)
    return rules.limit


def energy(ahead: np.ndarray, rules: Rules) -> int:
    """At the quietest point of the last `rules.search` samples before the limit, in the middle of the quietest frame.

    Frames overlap by nine tenths; of equally quiet ones the last counts, which makes the fewest windows.
    """
    if len(ahead) <= rules.limit:
        return len(ahead)
    most = rules.limit
    if len(ahead) < rules.lookahead:  # leave the tail something
        most = len(ahead) - rules.min_tail
    least = max(1, min(rules.limit - rules.search, most))
    region = ahead[least:most].astype(np.float64)
    hop = max(1, rules.frame // 10)
    if len(region) < rules.frame + hop:
        return most
    power = np.concatenate([[0.0], np.cumsum(region**2)])
    starts = np.arange(0, len(region) - rules.frame + 1, hop)
    loudness = power[starts + rules.frame] - power[starts]
    quietest = len(starts) - 1 - int(np.argmin(loudness[::-1]))
    return least + int(starts[quietest]) + rules.frame // 2


SPLITTERS: dict[str, Callable[[np.ndarray, Rules], int]] = {"none": whole, "fixed": fixed, "energy": energy}
