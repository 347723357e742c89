"""Cuts by voice activity: long silences are skipped, windows end in pauses."""

from itertools import pairwise
from typing import Any

import numpy as np

from .cuts import Cut, Rules, quietest
from .silences import MIN_SKIP, PAD, Silences, Stretch, choices_of_skips, silences
from .voice import SAMPLE_RATE

# A shorter pause is none: a stop consonant is as silent.
_MIN_PAUSE_S = 0.1
_MIN_PAUSE = round(_MIN_PAUSE_S * SAMPLE_RATE)


def silence(rules: Rules) -> "SilenceSplitter":
    """A splitter for one recording. Raises what `silences` does."""
    return SilenceSplitter(rules, silences(rules))


def choices() -> dict[str, Any]:
    """What decides the cuts beside the bounds of a window; part of a run's fingerprint. Raises what `choices_of_skips` does."""
    return choices_of_skips() | {"min_pause_s": _MIN_PAUSE_S}


class SilenceSplitter:
    """Cuts one recording.

    A window begins a little before somebody speaks, goes on over short pauses, and ends a little after the last word or,
    at the limit, in a pause. A recording that fits into one window and holds no long silence is not cut, whatever is
    heard in it. A silence longer than the lookahead comes as several skips that touch.

    Args:
        rules: `search` and `frame` matter where somebody speaks on without a pause.
        silences: of this recording.
    """

    def __init__(self, rules: Rules, silences: Silences):
        self._rules, self._silences = rules, silences

    def __call__(self, ahead: np.ndarray) -> Cut:
        """The next window, or the next skip.

        Args:
            ahead: float32 [n], n >= 1, from the end of the last cut on: `rules.lookahead` samples, or all there are.
        """
        is_end = len(ahead) < self._rules.lookahead
        num_silent = self._silences.show(ahead, is_end)
        end = num_silent or self._end_of_window(ahead, is_end)
        self._silences.pass_by(end)
        return Cut(end, is_skipped=num_silent > 0)

    def _end_of_window(self, ahead: np.ndarray, is_end: bool) -> int:
        """Samples from the start of what is shown, 1 to the limit."""
        rules, stretch = self._rules, self._silences.stretch
        if stretch is None:
            return min(len(ahead), rules.limit)
        end = min(stretch.end + PAD - self._silences.position, len(ahead))
        is_last = is_end and self._silences.is_last(stretch)
        if is_last and len(ahead) <= rules.limit and len(ahead) - end < MIN_SKIP:
            return len(ahead)
        if end <= rules.limit:  # whether the silence after it is a long one may not be known yet, but that it is a pause
            return end
        most = max(1, min(rules.limit, end - rules.min_tail))
        if (pause := self._longest_pause(stretch, most)) is not None:
            return pause
        least = max(1, min(rules.limit - rules.search, most))
        return least + quietest(ahead[least:most], rules)

    def _longest_pause(self, stretch: Stretch, most: int) -> int | None:
        """Its middle, in samples from the start of what is shown, between half the limit and `most`; None without a pause.

        Windows that end in any pause near the limit would be fewer by a sixth, and cost a quarter more word errors
        (Whisper tiny.en, 86 minutes of prompts): a window that ends between two sentences holds no half of one.
        """
        found, position = [], self._silences.position
        for before, after in pairwise(stretch.parts):
            start = max(before[1] - position, self._rules.limit // 2)
            end = min(after[0] - position, most)
            if end - start >= _MIN_PAUSE:
                found.append((end - start, (start + end) // 2))
        return max(found)[1] if found else None
