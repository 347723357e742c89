"""The part of an audio file that a row names, in terms both decoders share. Knows neither of them."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from asrbatch.errors import RowError

# How far a length that a row or a lossy container states may be off before we speak of it: encoders pad by a packet or
# two (0.02-0.05 s), manifests are rounded to 0.01-0.1 s, and a lost word is longer.
LENGTH_SLACK_S = 0.1
# A rate outside this range is a damaged header; resampling it would turn a few bytes into gigabytes.
MIN_RATE, MAX_RATE = 1_000, 1_000_000
# Values (frames times channels) decoded at a time: the memory held beside the answer, 1 MiB.
BLOCK_VALUES = 1 << 18
# Peak of what is called silent (-80 dBFS), below the noise of any microphone. Such a row is ok and only flagged, never
# failed: what a model makes of it is for the reader of the output to judge. What cannot be heard at all is not asked
# about; see `silence.is_digital_silence`.
SILENCE_PEAK = 1e-4
# What to do about a row whose clip of its file holds nothing.
CORRECT_OFFSET, CORRECT_DURATION = "correct the offset, or drop the row", "correct the duration, or drop the row"


class DecodeError(Exception):
    """The file cannot be read, although the decoder raised nothing; the text says why."""


@dataclass(frozen=True)
class Clip:
    """What a row names of its file.

    Attributes:
        name: what to call the file in messages.
        offset_s: start in seconds, >= 0; None means that the row does not say (0).
        duration_s: seconds to read, > 0; None means to the end.
        channel: 0-based channel to pick; None means the mean of all.
        max_s: a longer clip is refused, without decoding all of it; None means any length.
        track: 0-based audio stream of a file with several; None means the default one, else the first with sound.
    """

    name: str
    offset_s: float | None = None
    duration_s: float | None = None
    channel: int | None = None
    max_s: float | None = None
    track: int | None = None

    def start(self, rate: int) -> int:
        return round((self.offset_s or 0.0) * rate)

    def count(self, rate: int) -> int | None:
        return None if self.duration_s is None else round(self.duration_s * rate)

    def stop(self, rate: int) -> float:
        count = self.count(rate)
        return math.inf if count is None else self.start(rate) + count

    def limit(self, rate: int) -> float:
        """The most frames it may have."""
        return math.inf if self.max_s is None else round(self.max_s * rate)

    def frames_of(self, length: int, rate: int) -> int:
        """How many of a file's frames it has."""
        left = max(0, length - self.start(rate))
        count = self.count(rate)
        return left if count is None else min(left, count)

    def check_length(self, rate: int, length: int | None, slack: int = 0) -> None:
        """Raises RowError empty_audio or too_long, where a file's length tells; `slack` is what that may be off by."""
        if self.count(rate) == 0:
            problem = f"{self.duration_s:g} s is shorter than one sample at {rate} Hz"
            raise RowError("empty_audio", f"{self.name}: {problem}; {CORRECT_DURATION}", has_fix=True)
        if length is not None and (num_frames := self.frames_of(length, rate)) > self.limit(rate) + slack:
            raise RowError("too_long", f"{self.name}: {num_frames / rate:.2f} s; the limit is {self.max_s:g} s")

    def check_channel(self, channels: int) -> None:
        """Raises RowError `bad_row` where the file lacks the channel that is wanted."""
        if not 0 <= (self.channel or 0) < channels:
            message = f"{self.name}: channel {self.channel} does not exist; it has {channels}, counted from 0"
            raise RowError("bad_row", message)

    def check_track(self, tracks: int) -> None:
        """Raises RowError `bad_row` where the file lacks the track that is wanted."""
        if self.track is not None and not 0 <= self.track < tracks:
            message = f"{self.name}: track {self.track} does not exist; it has {tracks}, counted from 0"
            raise RowError("bad_row", message)


class Mixer:
    """Blocks of all channels to one: the clip's channel, or the mean of all.

    Attributes:
        cancels: somewhere the channels cancelled each other out (one is the other's negative, as a wrongly wired plug
            makes it), and a loud one was taken there.
    """

    # Power of the mean in that which it has where channels have nothing to do with each other, -12 dB: what is left of
    # opposite channels by a lossy codec. Where one channel alone sounds (the middle one of a film), it is 1.
    _CANCELLED = 0.06
    _HALF_LIFE = 1 << 16  # samples

    def __init__(self, clip: Clip):
        self._clip, self.cancels = clip, False
        self._mean_power, self._powers = 0.0, 0.0  # summed up, of the last seconds most

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(frames, channels) float32 to (frames,)."""
        if self._clip.channel is not None or block.shape[1] == 1:
            self._clip.check_channel(block.shape[1])
            return block[:, self._clip.channel or 0]
        # Frames of MP3 are short and many: of such arrays numpy's methods cost more than their sums, so these are bare.
        with np.errstate(all="ignore"):  # NaN and infinity are counted, and reported, by the caller
            mean = np.add.reduce(block, axis=1) / np.float32(block.shape[1])
            kept = 0.5 ** (len(block) / self._HALF_LIFE)
            # A pause is judged with the speech before it: of what a codec leaves of it, nothing can be said.
            self._mean_power = kept * self._mean_power + np.add.reduce(np.square(mean), dtype=np.float64)
            self._powers = kept * self._powers + np.add.reduce(np.square(block), axis=0, dtype=np.float64)
            loudest, apart = self._powers.max(), np.add.reduce(self._powers) / block.shape[1] ** 2
            if self._mean_power < self._CANCELLED * apart and loudest > len(block) * SILENCE_PEAK**2:
                self.cancels = True
                return block[:, np.argmax(self._powers > loudest / 2)]  # the first of the loud ones, block after block
        return mean


_scales: dict[tuple[int, ...], np.float32] = {}  # by file, of which many rows may be cut
_MOST_SCALES = 1000


def find_scale(file: BinaryIO, track: int, blocks: Iterable[np.ndarray]) -> np.float32:
    """By what floating-point samples are multiplied: 1 / 32,768 where they are 16-bit integers that nobody divided (all
    whole, some far above 1), else 1.

    Args:
        track: which of its audio streams.
        blocks: all samples; not read to the end, but for few files.
    """
    try:
        facts = os.fstat(file.fileno())
    except OSError:  # bytes
        return _scale_of(blocks)
    key = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, track
    if key not in _scales:
        if len(_scales) >= _MOST_SCALES:
            _scales.clear()
        _scales[key] = _scale_of(blocks)
    return _scales[key]


def _scale_of(blocks: Iterable[np.ndarray]) -> np.float32:
    peak = 0.0
    for block in blocks:
        if not np.array_equal(block, np.rint(block)):
            return np.float32(1)
        peak = max(peak, np.abs(block).max(initial=0.0))
    return np.float32(1 / (1 << 15) if 8 < peak <= 1 << 15 else 1)
