"""Loads the part of an audio file that a row asks for: cut, mixed down to mono, resampled to the model's rate.

Two decoders, chosen by content. libsndfile reads PCM-like files (WAV, FLAC, AIFF, AU, CAF, W64, RF64, NIST): there it
seeks to the exact sample and knows the exact length. FFmpeg (PyAV) reads everything else, MP3 and Ogg too although
libsndfile opens them: libsndfile 1.2.2 ends a variable-bit-rate MP3 without a Xing header at its guess of the length
(at a third of the sound in our test), and its seeks in MP3 and near the end of Ogg Vorbis land in the wrong place.

Knows nothing about manifests, models, windows or processes. A decoder may crash or hang in here: see `decoding.py`.
The only importer of soundfile and soxr; `audio_ffmpeg.py` is that of av.
"""

import io
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr

from .audio_ffmpeg import FFmpegError, FFmpegFile
from .audio_header import Header
from .audio_part import BLOCK_VALUES, LENGTH_SLACK_S, MAX_RATE, MIN_RATE, DecodeError, Part
from .errors import RowError
from .types import Audio

# Peak of digital silence (-80 dBFS), below the noise of any microphone. Such a row is ok and only flagged, never
# failed: what a model makes of silence is for the reader of the output to judge.
SILENCE_PEAK = 1e-4
# A larger sample is infinite for the engine, which squares sums of 400 samples in float32 (largest value 3e38).
MAX_AMPLITUDE = 1e15
# Sizes that a writer to a pipe leaves open: 0xFFFFFFFF (FFmpeg), 0x7FFFF000 and a little above (SoX).
UNKNOWN_BYTES = 0x7FFFF000
# Some writers count the header's own 44 bytes as sound; a promise broken by so little is not a cut.
HEADER_BYTES = 44


def load_audio(
    source: str | bytes,
    *,
    name: str,
    sample_rate: int,
    offset_s: float | None = None,
    duration_s: float | None = None,
    channel: int | None = None,
    max_s: float | None = None,
    min_samples: int = 1,
) -> Audio:
    """Decodes one file, or the part of it that is asked for; holds that part and one block, never the whole file.

    At the file's own rate the part is `round(duration_s * rate)` frames from frame `round(offset_s * rate)`, as far as
    the file goes; its n frames become `round(n * sample_rate / rate)` samples.

    Args:
        source: path of a file, or the bytes of one.
        name: what to call it in messages. Its suffix matters only where it is `.g722`, which has no header to go by.
        sample_rate: Hz of the result.
        offset_s: start in seconds, >= 0; None means that the row does not say (0).
        duration_s: seconds to read, > 0; None means to the end.
        channel: 0-based channel to pick; None means the mean of all.
        max_s: refuse a longer part, without decoding all of it; None means any length.
        min_samples: refuse a shorter result.

    Returns:
        Samples in [-1, 1) for integer PCM, as they are for float. Flags: `duration_mismatch` (the file ends before the
        row does, or goes on although the row gives no offset), `no_speech` (digital silence).

    Raises:
        RowError: missing, unreadable, empty_audio, non_finite, too_short, too_long, bad_row.
    """
    started = time.perf_counter()
    for what, value in (("offset", offset_s), ("duration", duration_s)):
        if value is not None and not 0 <= value < math.inf:
            raise RowError("bad_row", f"{name}: {what} {value:g} s; it must be a length of time")
    part = Part(name, offset_s, duration_s, channel, max_s)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open_file(source, name))
            opened = _choose_decoder(file, _suffix(source, name), part, stack)
            if not MIN_RATE <= opened.rate <= MAX_RATE:
                raise DecodeError(f"its header gives a sample rate of {opened.rate} Hz")
            if part.count(opened.rate) == 0:
                raise RowError("empty_audio", f"{name}: {duration_s:g} s is no sample at {opened.rate} Hz")
            samples, num_frames, peak = _collect(opened, part, sample_rate)
        except (sf.LibsndfileError, FFmpegError, OSError, DecodeError) as e:
            raise RowError("unreadable", f"{name}: {_reason(e)}") from e

    if num_frames == 0:
        text = "its header gives 0 samples"
        if offset_s and opened.end:
            text = f"offset {offset_s:g} s is at or past its end at {opened.end / opened.rate:.3f} s"
        raise RowError("empty_audio", f"{name}: {text}")
    if len(samples) < max(min_samples, 1):
        text = f"{len(samples)} samples at {sample_rate} Hz ({num_frames / opened.rate:.4f} s)"
        raise RowError("too_short", f"{name}: {text}; the model needs at least {max(min_samples, 1)}")
    flags, count = [], part.count(opened.rate)
    if count is not None:
        goes_on = offset_s is None and opened.length is not None and opened.length > count
        difference = opened.length - count if goes_on else count - num_frames
        flags += ["duration_mismatch"] if difference > LENGTH_SLACK_S * opened.rate else []
    flags += ["no_speech"] if peak < SILENCE_PEAK else []
    return Audio(samples, sample_rate, tuple(flags), time.perf_counter() - started)


def read_header(source: str | bytes, *, name: str) -> Header:
    """What a file says about itself; of its sound no more than the first packet is decoded.

    Args:
        source, name: as `load_audio`.

    Raises:
        RowError: missing, unreadable, empty_audio.
    """
    part = Part(name, None, None, None, None)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open_file(source, name))
            opened = _choose_decoder(file, _suffix(source, name), part, stack)
            header = opened.header()
            if not MIN_RATE <= header.sample_rate <= MAX_RATE:
                raise DecodeError(f"its header gives a sample rate of {header.sample_rate} Hz")
        except (sf.LibsndfileError, FFmpegError, OSError, DecodeError) as e:
            raise RowError("unreadable", f"{name}: {_reason(e)}") from e
    if header.num_frames == 0:
        raise RowError("empty_audio", f"{name}: its header gives 0 samples")
    return header


def _suffix(source: str | bytes, name: str) -> str:
    return os.path.splitext(source if isinstance(source, str) else name)[1].lower()


def _open_file(source: str | bytes, name: str) -> BinaryIO:
    """The file, at its start and not empty. We open it ourselves, so that no decoder sees a name and guesses by it."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise RowError("missing", f"{name}: no such file") from e
    except ValueError as e:  # a zero byte in the path
        raise RowError("unreadable", f"{name}: {e}") from e
    if isinstance(source, str) and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DecodeError("not a regular file")  # a pipe or a device has no length and no end
    if file.seek(0, io.SEEK_END) == 0:
        file.close()
        raise RowError("empty_audio", f"{name}: the file is empty (0 bytes)")
    file.seek(0)
    return file


def _choose_decoder(file: BinaryIO, suffix: str, part: Part, stack: ExitStack) -> "_SndFile | FFmpegFile":
    if suffix == ".g722":
        return FFmpegFile(file, part, stack, format="g722")
    try:
        handle = file if isinstance(file, io.BytesIO) else file.fileno()
        sound = stack.enter_context(sf.SoundFile(handle, closefd=False))
    except sf.LibsndfileError as e:
        try:
            return FFmpegFile(file, part, stack)
        except (FFmpegError, DecodeError) as e2:
            raise DecodeError(f"no decoder reads it (libsndfile: {_reason(e)}; FFmpeg: {_reason(e2)})") from e2
    # A FLAC written to a pipe has no length: libsndfile says 2**63 - 1 frames and then fails at the last block.
    if sound.format == "OGG" or sound.subtype.startswith("MPEG") or sound.frames >= 1 << 62:
        return FFmpegFile(file, part, stack)
    return _SndFile(sound, file, part)


def _collect(opened: "_SndFile | FFmpegFile", part: Part, sample_rate: int) -> tuple[np.ndarray, int, float]:
    """The part's samples, 1-D float32 at `sample_rate`; how many frames of the file they were made of; their peak."""
    rate, start, count = opened.rate, part.start(opened.rate), part.count(opened.rate)
    limit = math.inf if part.max_s is None else round(part.max_s * rate)
    if opened.length is not None:
        expected = min(max(0, opened.length - start), opened.length if count is None else count)
        if expected > limit:
            raise RowError("too_long", f"{part.name}: {expected / rate:.2f} s; the limit is {part.max_s:g} s")
    resampler = None
    if rate != sample_rate:
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    samples = bytearray()  # grows in place, where a list of blocks would be held twice while it is joined
    num_frames = num_bad = first_bad = peak = 0
    for block in opened.blocks():
        block = block[: None if count is None else count - num_frames]
        peak = max(peak, np.abs(block).max(initial=0))
        if not np.abs(block).max(initial=0) <= MAX_AMPLITUDE:  # true for NaN as well
            bad = np.flatnonzero(~(np.abs(block) <= MAX_AMPLITUDE))
            first_bad = first_bad if num_bad else start + num_frames + bad[0]
            num_bad += len(bad)
        num_frames += len(block)
        if num_frames > limit:
            raise RowError("too_long", f"{part.name}: more than {part.max_s:g} s, which is the limit")
        if not num_bad:
            samples += (resampler.resample_chunk(block) if resampler else block).tobytes()
        if num_frames == count:
            break
    else:  # the file ended first
        if opened.length is not None and opened.length - opened.end > opened.slack:
            promised, held = (f"{n} frames ({n / rate:.2f} s)" for n in (opened.length, opened.end))
            raise DecodeError(f"cut off: its header promises {promised} but only {held} can be read")
    if num_bad:
        text = f"{num_bad} of {num_frames} samples are NaN, infinite or beyond {MAX_AMPLITUDE:g}"
        raise RowError("non_finite", f"{part.name}: {text}; the first at {first_bad / rate:.4f} s")
    if resampler:
        samples += resampler.resample_chunk(np.empty(0, np.float32), last=True).tobytes()
    # soxr rounds half a sample up; round() takes the even one, here as everywhere.
    return np.frombuffer(samples, np.float32)[: round(num_frames * sample_rate / rate)], num_frames, peak


class _SndFile:
    """A file that libsndfile reads.

    Attributes:
        rate: Hz.
        length: frames of the whole file by its header; None (in `FFmpegFile`) where that is missing or a guess.
        slack: frames by which `length` may be wrong.
        end: frames of the whole file that can be read; known once `blocks()` is exhausted.
    """

    def __init__(self, sound: sf.SoundFile, file: BinaryIO, part: Part):
        self.sound, self.part, self.rate, self.slack, self.end = sound, part, sound.samplerate, 0, 0
        self.length = sound.frames
        # libsndfile shortens `frames` to what the file holds, and tells only its log: "data : 32000 (should be 19956)".
        clipped = re.search(r"(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", sound.extra_info)
        promised, held = map(int, clipped.groups()) if clipped else (0, 0)
        if promised - held > HEADER_BYTES and promised < UNKNOWN_BYTES and held > 0:
            self.length = round(sound.frames * promised / held)
        if sound.format == "NIST":  # of SPHERE files not even the log tells
            position = file.tell()
            file.seek(0)
            stated = re.search(rb"sample_count -i (\d+)", file.read(1024))
            file.seek(position)
            self.length = max(self.length, int(stated[1]) if stated else 0)

    def header(self) -> Header:
        held, container = self.sound.frames, f"{self.sound.format} {self.sound.subtype}".lower()
        return Header(container, self.rate, self.sound.channels, self.length, held, is_cut_off=self.length > held)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the part to the end of the file."""
        sound, start, stop = self.sound, self.part.start(self.rate), self.part.stop(self.rate)
        size = max(1, BLOCK_VALUES // sound.channels)
        position = sound.seek(min(start, sound.frames)) if sound.seekable() else 0
        while len(block := sound.read(min(size, max(1, stop - position)), dtype="float32", always_2d=True)):
            position += len(block)
            if position > start:
                yield self.part.mix(block[max(0, len(block) - (position - start)) :])
        self.end = position


def _reason(error: Exception) -> str:
    """The decoder's own words, in one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    log = getattr(error, "log", None)
    return " ".join(f"{text}: {log[2]}".split() if log else text.split())
