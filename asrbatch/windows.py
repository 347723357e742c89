"""Where an utterance's audio is cut into windows. Integer samples; knows nothing of files, of text or of vLLM.

A splitter is made for one recording and asked again and again: it is given the audio from the end of the last cut on,
`Rules.lookahead` samples of it or all there is, and says where the next cut is; so a recording of hours can be cut while
it is being decoded. Cuts follow each other without gap or overlap. A new splitter is one function and a line in
`SPLITTERS`.

`sequential`, where the model itself says how far it has heard, is no splitter; see `sequential.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .types import Window


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


def split(samples: np.ndarray, rules: Rules, splitter: str) -> tuple[list[Window], list[Window]]:
    """The windows of a whole recording and its skips: together in order, without gap or overlap, from first to last sample.

    Args:
        samples: float32 [n], n >= 1.
        splitter: a key of `SPLITTERS`.
    """
    cut_next = SPLITTERS[splitter](rules)
    windows: list[Window] = []
    skips: list[Window] = []
    start = 0
    while start < len(samples):
        cut = cut_next(samples[start : start + rules.lookahead])
        (skips if cut.is_skipped else windows).append(Window(start, start + cut.end))
        start += cut.end
    return windows, skips


def whole(ahead: np.ndarray, rules: Rules) -> Cut:
    """One window with everything. Longer audio was refused while decoding (`too_long`), never cut."""
    if len(ahead) > rules.limit:
        raise ValueError(f"more samples than the {rules.limit} of one window")
    return Cut(len(ahead))


def fixed(ahead: np.ndarray, rules: Rules) -> Cut:
    """As long as the model allows; a short tail joins the last window, or halves with it what is left of the two.

    The rule of NeMo Gym (its pull request 1358), but for one thing: there the joined window may exceed the limit.
    """
    if len(ahead) <= rules.limit:
        return Cut(len(ahead))
    if len(ahead) < rules.lookahead:
        return Cut(-(-len(ahead) // 2))
    return Cut(rules.limit)


def energy(ahead: np.ndarray, rules: Rules) -> Cut:
    """At the quietest point of the last `rules.search` samples before the limit, in the middle of the quietest frame.

    Frames overlap by nine tenths; of equally quiet ones the last counts, which makes the fewest windows.
    """
    if len(ahead) <= rules.limit:
        return Cut(len(ahead))
    most = rules.limit
    if len(ahead) < rules.lookahead:  # leave the tail something
        most = len(ahead) - rules.min_tail
    least = max(1, min(rules.limit - rules.search, most))
    return Cut(least + quietest(ahead[least:most], rules))


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


SPLITTERS: dict[str, Callable[[Rules], Splitter]] = {
    "none": lambda rules: partial(whole, rules=rules),
    "fixed": lambda rules: partial(fixed, rules=rules),
    "energy": lambda rules: partial(energy, rules=rules),
}
