"""A recording's audio from a position on, decoded as far as it was looked at."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .types import Window


@dataclass(frozen=True, slots=True)
class Piece:
    """A window with its audio.

    Attributes:
        samples: float32 [window.end - window.start], a copy: whoever holds it must not hold what follows it.
        previous: token ids of the text before it that it is asked with.
    """

    window: Window
    samples: np.ndarray
    previous: tuple[int, ...] = ()


class Ahead:
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

    def skip(self, num_samples: int) -> None:
        """Passes samples that were looked at."""
        self._held = self._held[num_samples:]
        self.position += num_samples
