"""A recording that is there as a whole, cut as one that is being decoded."""

import numpy as np

from asrbatch.audio.buffer import AudioBuffer, WindowLimits
from asrbatch.audio.windows import SPLITTERS, cut
from asrbatch.types import Window


def split(samples: np.ndarray, rules: WindowLimits, splitter: str) -> tuple[list[Window], list[Window]]:
    """The windows of float32 [n], and the skips."""
    skips: list[Window] = []
    pieces = list(cut(AudioBuffer(iter([samples])), rules, SPLITTERS[splitter](rules), skips))
    return [piece.window for piece in pieces], skips
