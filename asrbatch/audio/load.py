"""Reads the clip of an audio file that a row names: mixed down to mono, resampled to the model's rate, in blocks.

Two decoders, chosen by content. libsndfile reads PCM-like files (WAV, FLAC, AIFF, AU, CAF, W64, RF64, NIST): there it
seeks to the exact sample and knows the exact length. FFmpeg (PyAV) reads everything else, MP3 and Ogg too although
libsndfile opens them: libsndfile 1.2.2 ends a variable-bit-rate MP3 without a Xing header at its guess of the length
(at a third of the sound in our test), and its seeks in MP3 and near the end of Ogg Vorbis land in the wrong place.

Knows nothing about manifests, models, windows or processes. A decoder may crash or hang in here: see `decoder.py`.
The only importer of soxr; `sndfile.py` is that of soundfile, `ffmpeg.py` and `tracks.py` are those of av.
"""

import io
import math
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import numpy as np
import soxr

from asrbatch.audio.clip import CORRECT_OFFSET, LENGTH_SLACK_S, MAX_RATE, MIN_RATE, SILENCE_PEAK, Clip, DecodeError
from asrbatch.audio.containers.ends import end_before_other
from asrbatch.audio.containers.pcm_layout import RangeReader
from asrbatch.audio.ffmpeg import FFmpegError, FFmpegFile
from asrbatch.audio.header import Header
from asrbatch.audio.sndfile import LibsndfileError, SndFile
from asrbatch.errors import RowError
from asrbatch.storage.filenames import find_file

# Seconds in a block: what most models take at once, so that most rows are one block. At 16 kHz it takes 1.9 MB.
BLOCK_S = 30
# A larger sample is infinite for the engine, which squares sums of 400 samples in float32 (largest value 3e38).
MAX_AMPLITUDE = 1e15
_WRITE_AGAIN = "write it again, or drop the row"
AudioFile = SndFile | FFmpegFile


def stream_audio(source: str | bytes, clip: Clip, sample_rate: int, min_samples: int = 1) -> "AudioStream":
    """Opens one file to decode it, or a clip of it, block by block; never holds all of it.

    At the file's own rate the clip is `round(duration_s * rate)` frames from frame `round(offset_s * rate)`, as far as
    the file goes; its n frames become `round(n * sample_rate / rate)` samples.

    Args:
        source: path of a file, or the bytes of one.
        clip: what to read of it. The suffix of its name matters only where it is `.g722`, which has no header to go by.
        sample_rate: Hz of the result.
        min_samples: refuse a shorter result.

    Raises:
        RowError: missing, unreadable, too_long, empty_audio or bad_row, where the header tells. Otherwise, and for
            non_finite and too_short, the stream raises it: empty_audio and too_short in place of the first block, the
            others when they are met.
    """
    started = time.perf_counter()
    for what, value in (("offset", clip.offset_s), ("duration", clip.duration_s)):
        if value is not None and not 0 <= value < math.inf:
            raise RowError("bad_row", f"{clip.name}: {what} {value:g} s; it must be a length of time")
    with ExitStack() as stack, _as_row_errors(clip.name):
        file = stack.enter_context(_open_file(source, clip.name))
        opened = _choose_decoder(file, _suffix(source, clip.name), clip, stack)
        _check_rate(opened.rate)
        clip.check_length(opened.rate, opened.length)
        return AudioStream(opened, sample_rate, min_samples, stack.pop_all(), started)


class AudioStream:
    """Iterates once over blocks of one clip of a file: 1-D float32, writable, `sample_rate` Hz, finite.

    Each block has `BLOCK_S` seconds, the last one fewer or as many, never none. Its end and errors close the file, and
    so does `close`.

    Attributes:
        sample_rate: Hz.
        num_samples: how many the blocks so far have.
        flags: known after the last block. `duration_mismatch` (the file ends before the row does, or goes on although
            the row gives no offset), `no_speech` (digital silence), and what had to be done to hear it: `gap_filled`
            (silence where no packets were sent), `other_tracks` (one of several was read), `trailing_audio` (more
            follows, which is not read), `scaled` (floating-point samples in the scale of 16-bit integers),
            `channels_cancel` (one channel in place of a mean that is silent).
        track: which of several audio tracks is read, from 0; None where the file has one.
        expected_s: seconds by the file's header, which may be a guess by its bit rate; None where it does not tell.
        read_s: seconds it has taken so far to open, read, decode and resample.
    """

    def __init__(self, opened: AudioFile, sample_rate: int, min_samples: int, files: ExitStack, started: float):
        self.sample_rate, self.num_samples, self.flags = sample_rate, 0, ()
        self.track = opened.track if opened.num_tracks > 1 else None
        self.expected_s = _expected_s(opened)
        self._opened, self._clip, self._min_samples, self._files = opened, opened.clip, max(min_samples, 1), files
        self._num_frames, self._peak = 0, 0.0  # of the clip, at the file's rate
        self._range = math.inf, -math.inf
        self._blocks, self._is_closed = self._cut_blocks(), False
        self.read_s = time.perf_counter() - started

    def __iter__(self) -> "AudioStream":
        return self

    def __next__(self) -> np.ndarray:
        """The next block.

        Raises:
            RowError: see `stream_audio`.
            ValueError: the stream was closed before its end.
        """
        if self._is_closed:
            raise ValueError(f"{self._clip.name}: this stream was closed before its end")
        started = time.perf_counter()
        try:
            with _as_row_errors(self._clip.name):
                return next(self._blocks)
        except (StopIteration, RowError):
            self._files.close()
            raise
        finally:
            self.read_s += time.perf_counter() - started

    def close(self) -> None:
        """Closes the file; may be called more than once."""
        self._is_closed = self._is_closed or self._blocks.gi_frame is not None
        self._blocks.close()
        self._files.close()

    def _cut_blocks(self) -> Iterator[np.ndarray]:
        """Samples in blocks of equal length. Something is always held back: what ends the clip is known only then."""
        clip, rate, size = self._clip, self._opened.rate, BLOCK_S * self.sample_rate
        waiting, num_waiting = [], 0
        for samples in self._resample():
            waiting.append(samples)
            num_waiting += len(samples)
            while num_waiting > max(size, self._min_samples):
                block, *waiting = np.split(np.concatenate(waiting), [size])
                num_waiting -= size
                self.num_samples += size
                yield block
        if self._num_frames == 0:
            text = f"its header gives 0 samples; {_WRITE_AGAIN}"
            if clip.offset_s and self._opened.end:
                end_s = self._opened.end / rate
                text = f"offset {clip.offset_s:g} s is at or past its end at {end_s:.3f} s; {CORRECT_OFFSET}"
            raise RowError("empty_audio", f"{clip.name}: {text}", has_fix=True)
        # soxr rounds half a sample up; round() takes the even one, here as everywhere.
        rest = np.concatenate(waiting)[: round(self._num_frames * self.sample_rate / rate) - self.num_samples]
        if self.num_samples + len(rest) < self._min_samples:
            text = f"{len(rest)} samples at {self.sample_rate} Hz ({self._num_frames / rate:.4f} s)"
            raise RowError("too_short", f"{clip.name}: {text}; the model needs at least {self._min_samples}")
        self.flags = self._find_flags()
        for start in range(0, len(rest), size):
            block = rest[start : start + size]
            self.num_samples += len(block)
            yield block

    def _resample(self) -> Iterator[np.ndarray]:
        if self._opened.rate == self.sample_rate:
            yield from self._read_frames()
            return
        resampler = soxr.ResampleStream(self._opened.rate, self.sample_rate, 1, dtype="float32", quality="HQ")
        for frames in self._read_frames():
            yield resampler.resample_chunk(frames)
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)

    def _read_frames(self) -> Iterator[np.ndarray]:
        """The clip at the file's own rate: 1-D float32, finite."""
        opened, clip, rate, count = self._opened, self._clip, self._opened.rate, self._clip.count(self._opened.rate)
        for block in opened.blocks():
            block = block[: None if count is None else count - self._num_frames]
            magnitude = np.abs(block)
            peak = magnitude.max(initial=0)
            if not peak <= MAX_AMPLITUDE:  # true for NaN as well
                bad = np.flatnonzero(~(magnitude <= MAX_AMPLITUDE))
                text = f"{len(bad)} or more samples are NaN, infinite or beyond {MAX_AMPLITUDE:g}; the first at"
                first_s = (clip.start(rate) + self._num_frames + bad[0]) / rate
                raise RowError("non_finite", f"{clip.name}: {text} {first_s:.4f} s")
            self._peak = max(self._peak, peak)
            self._range = block.min(initial=self._range[0]), block.max(initial=self._range[1])
            self._num_frames += len(block)
            if self._num_frames > clip.limit(rate):
                raise RowError("too_long", f"{clip.name}: more than {clip.max_s:g} s, which is the limit")
            yield block
            if self._num_frames == count:
                return
        if opened.length is not None and opened.length - opened.end > opened.slack:
            promised, held = (f"{n} frames ({n / rate:.2f} s)" for n in (opened.length, opened.end))
            raise DecodeError(f"cut off: its header says {promised} but only {held} can be read")

    def _find_flags(self) -> tuple[str, ...]:
        flags, rate, length, count = [], self._opened.rate, self._opened.length, self._clip.count(self._opened.rate)
        if count is not None:
            goes_on = self._clip.offset_s is None and length is not None and length > count
            difference = length - count if goes_on else count - self._num_frames
            flags += ["duration_mismatch"] if difference > LENGTH_SLACK_S * rate else []
        flags += self._opened.flags()
        # Silence of A-law is a constant that is no zero.
        is_silent = self._peak < SILENCE_PEAK or self._range[0] == self._range[1]
        return (*flags, "no_speech") if is_silent else tuple(flags)


def read_header(source: str | bytes, clip: Clip) -> Header:
    """What a file says about itself. Of its sound the first packet is decoded; more only to find which of several
    tracks has sound, where none is the default one, and whether floating-point samples are whole numbers.

    Args:
        source, clip: as `stream_audio`; of the clip the name and the track matter alone.

    Raises:
        RowError: missing, unreadable, empty_audio; bad_row where there is no such track.
    """
    with ExitStack() as stack, _as_row_errors(clip.name):
        file = stack.enter_context(_open_file(source, clip.name))
        header = _choose_decoder(file, _suffix(source, clip.name), clip, stack, for_header=True).header()
        _check_rate(header.sample_rate)
    if header.num_frames == 0:
        raise RowError("empty_audio", f"{clip.name}: its header gives 0 samples; {_WRITE_AGAIN}", has_fix=True)
    return header


def _expected_s(opened: AudioFile) -> float | None:
    length = opened.likely_length
    return None if length is None else opened.clip.frames_of(length, opened.rate) / opened.rate


def _check_rate(sample_rate: int) -> None:
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise DecodeError(f"its header gives a sample rate of {sample_rate} Hz")


def _suffix(source: str | bytes, name: str) -> str:
    return os.path.splitext(source if isinstance(source, str) else name)[1].lower()


def _open_file(source: str | bytes, name: str) -> BinaryIO:
    """The file, by either Unicode form of its name, at its start and not empty. We open it ourselves, so that no
    decoder sees a name and guesses by it."""
    source = find_file(source) if isinstance(source, str) else source
    try:
        # Before it is opened: a pipe waits for somebody to write; neither it nor a device has a length and an end.
        if isinstance(source, str) and not stat.S_ISREG(mode := os.stat(source).st_mode):
            raise DecodeError("Is a directory" if stat.S_ISDIR(mode) else "not a regular file")
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise RowError("missing", f"{name}: no such file") from e
    except ValueError as e:  # a zero byte in the path
        raise RowError("unreadable", f"{name}: {e}") from e
    if file.seek(0, io.SEEK_END) == 0:
        file.close()
        raise RowError("empty_audio", f"{name}: the file is empty (0 bytes); {_WRITE_AGAIN}", has_fix=True)
    file.seek(0)
    return file


def _choose_decoder(
    file: BinaryIO, suffix: str, clip: Clip, stack: ExitStack, *, for_header: bool = False
) -> AudioFile:
    if suffix == ".g722":
        return FFmpegFile(file, clip, stack, format="g722")
    end, is_followed = end_before_other(file)
    opened = _open_by_content(file if end is None else RangeReader(file, [(0, end)]), clip, stack, for_header)
    opened.has_more = opened.has_more or is_followed
    return opened


def _open_by_content(file: BinaryIO, clip: Clip, stack: ExitStack, for_header: bool) -> AudioFile:
    file.seek(0)
    try:
        opened = SndFile(file, clip, stack)
    except LibsndfileError as e:
        try:
            return FFmpegFile(file, clip, stack, for_header=for_header)
        except (FFmpegError, DecodeError) as e2:
            raise DecodeError(f"no decoder can read it (libsndfile: {_reason(e)}; FFmpeg: {_reason(e2)})") from e2
    return FFmpegFile(file, clip, stack) if opened.is_for_ffmpeg() else opened


@contextmanager
def _as_row_errors(name: str) -> Iterator[None]:
    """Turns what the decoders raise into RowError unreadable."""
    try:
        yield
    except (LibsndfileError, FFmpegError, OSError, DecodeError) as e:
        raise RowError("unreadable", f"{name}: {_reason(e)}") from e
    except struct.error as e:  # of `containers/`
        raise RowError("unreadable", f"{name}: cut off: it ends within a header") from e


def _reason(error: Exception) -> str:
    """The decoder's own words, in one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    log = getattr(error, "log", None)
    return " ".join(f"{text}: {log[2]}".split() if log and log[2] else text.split())
