"""Where an utterance's audio is cut into windows. Integer samples; knows nothing of files, of text or of vLLM.

A splitter is made for one recording and asked again and again: it is given the audio from the end of the last cut on,
`Rules.lookahead` samples of it or all there is, and says where the next cut is; so a recording of hours can be cut while
it is being decoded. Cuts follow each other without gap or overlap. A new splitter is one function and a line in
`SPLITTERS`.

`sequential`, where the model itself says how far it has heard, is no splitter; see `sequential.py`.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from .ahead import Ahead, Piece
from .cuts import Cut, Rules, Splitter, quietest
from .silence import silence
from .silences import add_skip
from .types import Window


def cut(ahead: Ahead, rules: Rules, splitter: Splitter, skips: list[Window]) -> Iterator[Piece]:
    """The windows of a recording; with its skips they are all of it, without gap or overlap.

    Args:
        splitter: made for this recording.
        skips: receives what nobody is asked about; what touches is one skip.
    """
    while len(shown := ahead.peek(rules.lookahead)):
        found = splitter(shown)
        window = Window(ahead.position, ahead.position + found.end)
        if found.is_skipped:
            add_skip(skips, window)
        else:
            yield Piece(window, shown[: found.end].copy())
        ahead.skip(found.end)


def whole(ahead: np.ndarray, rules: Rules) -> Cut:
    """One window with everything. Longer audio was refused while decoding (`too_long`), never cut."""
    if len(ahead) > rules.limit:
        raise ValueError(f"more samples than the {rules.limit} of one window")
    return Cut(len(ahead))


def fixed(ahead: np.ndarray, rules: Rules) -> Cut:
    """As long as the model allows; a last window and a tail too short to stand alone are cut in halves.

    The rule of NeMo Gym (its pull request 1358), but for one thing: there the tail joins the last window, and both together
    may exceed the limit.
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
