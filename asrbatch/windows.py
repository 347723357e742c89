"""Where an utterance's audio is cut into windows. Integer samples; knows nothing of files, of text or of vLLM.

A splitter is made for one recording and asked again and again: it is given the audio from the end of the last cut on,
`Rules.lookahead` samples of it or all there is, and says where the next cut is; so a recording of hours can be cut while
it is being decoded. Cuts follow each other without gap or overlap. A new splitter is one function and a line in
`SPLITTERS`.

`sequential`, where the model itself says how far it has heard, is no splitter; see `sequential.py`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from .cuts import Cut, Rules, Splitter, quietest
from .silence import silence
from .types import Window


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


SPLITTERS: dict[str, Callable[[Rules], Splitter]] = {
    "none": lambda rules: partial(whole, rules=rules),
    "fixed": lambda rules: partial(fixed, rules=rules),
    "energy": lambda rules: partial(energy, rules=rules),
    "silence": silence,
}
