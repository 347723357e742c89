"""Loads the part of an audio file that a row asks for: cut, mixed down to mono, resampled to the model's rate.

Two decoders, chosen by content. libsndfile reads PCM-like files (WAV, FLAC, AIFF, AU, CAF, W64, RF64, NIST): there it
seeks to the exact sample and knows the exact length. FFmpeg (PyAV) reads everything else, MP3 and Ogg too although
libsndfile opens them: libsndfile 1.2.2 ends a variable-bit-rate MP3 without a Xing header at its guess of the length
(at a third of the sound in our test), and its seeks in MP3 and near the end of Ogg Vorbis land in the wrong place.

Knows nothing about manifests, models, windows or processes. A decoder may crash or hang in here: see `decoding.py`.
The only importer of soundfile, soxr and av. Sets PyAV's log level, which belongs to the whole process.
"""

import io
import itertools
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
import soundfile as sf
import soxr
from av.stream import Discard

from .errors import RowError
from .types import Audio

# How far a length that a row or a lossy container states may be off before we speak of it: encoders pad by a packet or
# two (0.02-0.05 s), manifests are rounded to 0.01-0.1 s, and a lost word is longer.
LENGTH_SLACK_S = 0.1
# Peak of digital silence (-80 dBFS), below the noise of any microphone. Such a row is ok and only flagged, never
# failed: what a model makes of silence is for the reader of the output to judge.
SILENCE_PEAK = 1e-4
# A larger sample is infinite for the engine, which squares sums of 400 samples in float32 (largest value 3e38).
MAX_AMPLITUDE = 1e15
# A rate outside this range is a damaged header; resampling it would turn a few bytes into gigabytes.
MIN_RATE, MAX_RATE = 1_000, 1_000_000
# Values (frames times channels) decoded at a time: the memory held beside the answer, 1 MiB.
BLOCK_VALUES = 1 << 18
# Sizes that a writer to a pipe leaves open: 0xFFFFFFFF (FFmpeg), 0x7FFFF000 and a little above (SoX).
UNKNOWN_BYTES = 0x7FFFF000
# Some writers count the header's own 44 bytes as sound; a promise broken by so little is not a cut.
HEADER_BYTES = 44
# What FFmpeg may recognise: files that hold sound themselves. Not the playlists and scripts that name other files or
# hosts (hls, concat, dash, sdp ...), nor headerless formats that accept any bytes (g722 is asked for by name).
FFMPEG_FORMATS = "mov,matroska,mp3,ogg,aac,wav,flac,aiff,au,caf,w64,asf,avi,flv,mpegts,mpeg,amr,ac3,eac3,ape,wv,tta"
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg names them
# An offset shorter than the first is decoded from the start; a longer one starts PREROLL_S early, because a decoder
# needs what came before (Opus settles in 0.08 s; an MP3 frame leans on up to nine others, 0.3 s).
SKIP_AFTER_S, PREROLL_S = 5.0, 1.0
# A jump in packet times between these two is sound that was never sent (a muted microphone) and becomes silence, so
# that times stay true; a smaller one is jitter, a larger one is another clock.
MIN_GAP_S, MAX_GAP_S = 0.1, 60.0

av.logging.set_level(av.logging.PANIC)  # prints nothing, but errors then carry FFmpeg's own last words


class _DecodeError(Exception):
    """The file cannot be read, although the decoder raised nothing; the text says why."""


@dataclass(frozen=True)
class _Part:
    """What the row asks for; see `load_audio`."""

    name: str
    offset_s: float | None
    duration_s: float | None
    channel: int | None
    max_s: float | None

    def start(self, rate: int) -> int:
        return round((self.offset_s or 0.0) * rate)

    def count(self, rate: int) -> int | None:
        return None if self.duration_s is None else round(self.duration_s * rate)

    def stop(self, rate: int) -> float:
        return math.inf if self.duration_s is None else self.start(rate) + self.count(rate)

    def mix(self, block: np.ndarray) -> np.ndarray:
        """(frames, channels) float32 to (frames,): one channel, or the mean of all."""
        channels = block.shape[1]
        if self.channel is None and channels > 1:
            with np.errstate(all="ignore"):  # NaN and infinity are counted, and reported, by the caller
                return block.mean(axis=1)
        if not 0 <= (self.channel or 0) < channels:
            message = f"{self.name}: channel {self.channel} does not exist; it has {channels}, counted from 0"
            raise RowError("bad_row", message)
        return block[:, self.channel or 0]


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
    part = _Part(name, offset_s, duration_s, channel, max_s)
    suffix = os.path.splitext(source if isinstance(source, str) else name)[1].lower()
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open_file(source, name))
            opened = _choose_decoder(file, suffix, part, stack)
            if not MIN_RATE <= opened.rate <= MAX_RATE:
                raise _DecodeError(f"its header gives a sample rate of {opened.rate} Hz")
            if part.count(opened.rate) == 0:
                raise RowError("empty_audio", f"{name}: {duration_s:g} s is no sample at {opened.rate} Hz")
            samples, num_frames, peak = _collect(opened, part, sample_rate)
        except (sf.LibsndfileError, av.FFmpegError, OSError, _DecodeError) as e:
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
        raise _DecodeError("not a regular file")  # a pipe or a device has no length and no end
    if file.seek(0, io.SEEK_END) == 0:
        file.close()
        raise RowError("empty_audio", f"{name}: the file is empty (0 bytes)")
    file.seek(0)
    return file


def _choose_decoder(file: BinaryIO, suffix: str, part: _Part, stack: ExitStack) -> "_SndFile | _FFmpegFile":
    if suffix == ".g722":
        return _FFmpegFile(file, part, stack, format="g722")
    try:
        handle = file if isinstance(file, io.BytesIO) else file.fileno()
        sound = stack.enter_context(sf.SoundFile(handle, closefd=False))
    except sf.LibsndfileError as e:
        try:
            return _FFmpegFile(file, part, stack)
        except (av.FFmpegError, _DecodeError) as e2:
            raise _DecodeError(f"no decoder reads it (libsndfile: {_reason(e)}; FFmpeg: {_reason(e2)})") from e2
    # A FLAC written to a pipe has no length: libsndfile says 2**63 - 1 frames and then fails at the last block.
    if sound.format == "OGG" or sound.subtype.startswith("MPEG") or sound.frames >= 1 << 62:
        return _FFmpegFile(file, part, stack)
    return _SndFile(sound, file, part)


def _collect(opened: "_SndFile | _FFmpegFile", part: _Part, sample_rate: int) -> tuple[np.ndarray, int, float]:
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
            raise _DecodeError(f"cut off: its header promises {promised} but only {held} can be read")
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
        length: frames of the whole file by its header; None (in `_FFmpegFile`) where that is missing or a guess.
        slack: frames by which `length` may be wrong.
        end: frames of the whole file that can be read; known once `blocks()` is exhausted.
    """

    def __init__(self, sound: sf.SoundFile, file: BinaryIO, part: _Part):
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


class _FFmpegFile:
    """A file that FFmpeg reads, the first audio stream of it; attributes as in `_SndFile`.

    Time 0 is the first sample that is heard: priming samples that the file marks as such are cut by FFmpeg.
    """

    def __init__(self, file: BinaryIO, part: _Part, stack: ExitStack, format: str | None = None):
        self.part, self.rate, self.length, self.slack, self.end = part, MIN_RATE, None, 0, 0
        counted, self.cut_off = _mp3_counts_frames(file), _ends_inside_ogg_page(file)
        file.seek(0)
        allowed = {"protocol_whitelist": "none", "format_whitelist": format or FFMPEG_FORMATS}
        self.num_errors = av.logging.get_last_error()[0]
        container = av.open(_Nameless(file), format=format, metadata_errors="ignore", container_options=allowed)
        self.container = stack.enter_context(container)
        self.kind = container.format.name
        if not container.streams.audio:
            raise _DecodeError("it holds no audio stream")
        self.stream = container.streams.audio[0]
        for other in container.streams:
            if other is not self.stream:
                other.discard = Discard.all  # do not even read the video
        self.packets = self._demux()
        self.frames = self._decode(self.packets)
        self.first = next(self.frames, None)
        if self.first is None:
            return
        self.rate, self.tick = self.first.sample_rate, self.first.time_base
        self.origin, self.frames_per_tick = self.first.pts or 0, float(self.tick * self.rate)
        self.slack = round(LENGTH_SLACK_S * self.rate)
        if (self.kind == MOV or (self.kind == "mp3" and counted)) and self.stream.duration:
            self.length = round(self.stream.duration * self.stream.time_base * self.rate)
        elif self.kind == MATROSKA and len(container.streams) == 1 and container.duration:
            # Of the whole recording, in which the sound may begin late.
            self.length = round((container.duration / av.time_base - self.origin * self.tick) * self.rate)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the part to the end of the file."""
        if self.first is None:
            return
        start, stop = self.part.start(self.rate), self.part.stop(self.rate)
        position, frames = 0, itertools.chain([self.first], self.frames)
        if start > SKIP_AFTER_S * self.rate:
            position, frames = self._skip_to(start)
        waiting, num_waiting = [], 0
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise _DecodeError(f"its sample rate changes from {self.rate} to {frame.sample_rate} Hz")
            pieces = [self.part.mix(_to_float(frame))]
            gap = 0 if frame.pts is None else self._place(frame.pts) - position
            if MIN_GAP_S * self.rate < gap <= MAX_GAP_S * self.rate:
                pieces.insert(0, np.zeros(gap, np.float32))
            for piece in pieces:
                position += len(piece)
                if position > start:
                    waiting.append(piece[max(0, len(piece) - (position - start)) :])
                    num_waiting += len(waiting[-1])
            if num_waiting >= BLOCK_VALUES or position >= stop:  # and not a packet further: it may be a damaged one
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
        self.end = position
        if waiting:
            yield np.concatenate(waiting)

    def _place(self, pts: int) -> int:
        """The frame of the file that a time stamp means."""
        return round((pts - self.origin) * self.frames_per_tick)

    def _skip_to(self, start: int) -> tuple[int, Iterator[av.AudioFrame]]:
        """The place of a frame before `start`, and the frames from there on, without decoding what lies before.

        By the index where there is an exact one. Otherwise packets are passed over (1.4 us each), because FFmpeg
        guesses where to seek in MP3 or ADTS.
        """
        wake, packets = self.origin + int((start / self.rate - PREROLL_S) / self.tick), self.packets
        if self.kind in (MOV, MATROSKA):
            for target in (wake, self.origin):  # a broken index may lead too far: then from the start
                self.container.seek(target, stream=self.stream)
                packets = self._demux()
                packet = next(packets)
                if packet.pts is not None and packet.pts <= wake:
                    break
            packets = itertools.chain([packet], packets)
        else:
            self.stream.codec_context.flush_buffers()
        end = self.first.samples
        for packet in packets:
            if packet.pts is None or packet.pts + (packet.duration or 0) > wake:  # None: the end of the file
                break
            end = self._place(packet.pts + (packet.duration or 0))
        else:
            return end, iter(())
        frames = self._decode(itertools.chain([packet], packets))
        head, places, num_frames = [], [], 0
        for frame in frames:
            head.append(frame)
            if frame.pts is None:
                raise _DecodeError("its packets carry no times by which to find the offset")
            places.append(self._place(frame.pts) - num_frames)
            num_frames += frame.samples
            if places[-1] + num_frames >= start:
                break
        # The median: time stamps are rounded (WebM: to 1 ms), and off by 10 ms where Vorbis changes its block size.
        place = sorted(places)[len(places) // 2] if places else end
        return min(place, start) if places else place, itertools.chain(head, frames)

    def _demux(self) -> Iterator[av.Packet]:
        try:
            yield from self.container.demux(self.stream)
        except IndexError as e:  # PyAV 18 does not expect it
            raise _DecodeError("a new stream begins in the middle of it") from e

    def _decode(self, packets: Iterator[av.Packet]) -> Iterator[av.AudioFrame]:
        for packet in packets:
            if packet.is_corrupt:
                raise _DecodeError("damaged or cut off: FFmpeg marks a packet as corrupt")
            if self.kind == "ogg" and av.logging.get_last_error()[0] != self.num_errors:  # it drops a page and goes on
                raise _DecodeError(f"damaged: {av.logging.get_last_error()[1][2]}")
            try:
                yield from packet.decode()
            except av.InvalidDataError:
                if bytes(packet)[:3] not in (b"ID3", b"TAG", b"APE"):  # a tag between joined MP3 files is no sound
                    raise
        if self.cut_off:
            raise _DecodeError("cut off: it ends in the middle of an Ogg page")


class _Nameless:
    """A file without a name: FFmpeg guesses by names, and would let a playlist open the files beside it."""

    def __init__(self, file: BinaryIO):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """(frames, channels) float32; integers scaled to [-1, 1)."""
    # PyAV 18 takes what follows the 8th plane in memory for a 9th, and has no arrays of 64-bit integers.
    if (frame.format.is_planar and frame.layout.nb_channels >= 8) or frame.format.packed.name == "s64":
        (frame,) = av.AudioResampler("flt").resample(frame)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    scale = 2 ** (8 * values.dtype.itemsize - 1) if values.dtype.kind == "i" else 1
    return values.astype(np.float32, copy=False) / np.float32(scale)


def _mp3_counts_frames(file: BinaryIO) -> bool:
    """Whether an MP3 states its length: a Xing, Info or VBRI header in its first frame, behind any ID3v2 tag."""
    file.seek(0)
    head = file.read(10)
    has_tag = head[:3] == b"ID3" and len(head) == 10  # its size is in four bytes of seven bits
    file.seek(10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) if has_tag else 0)
    first = file.read(256)
    return any(word in first for word in (b"Xing", b"Info", b"VBRI"))


def _ends_inside_ogg_page(file: BinaryIO) -> bool:
    """Whether an Ogg file is cut off. (That it lacks an end-of-stream mark is no proof: live recordings do.)"""
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, file.seek(0, io.SEEK_END) - (1 << 16)))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail[tail.rfind(b"OggS\0") :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _reason(error: Exception) -> str:
    """The decoder's own words, in one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    log = getattr(error, "log", None)
    return " ".join(f"{text}: {log[2]}".split() if log else text.split())
