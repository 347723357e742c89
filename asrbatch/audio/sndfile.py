"""Audio files as libsndfile reads them: the PCM-like ones. The only importer of soundfile."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import BinaryIO

import numpy as np
import soundfile as sf
from soundfile import LibsndfileError

from asrbatch.audio.clip import BLOCK_VALUES, Clip, Mixer, find_scale
from asrbatch.audio.containers import flac
from asrbatch.audio.containers.pcm_layout import UNKNOWN_BYTES, PcmLayout, RangeReader, find_samples
from asrbatch.audio.header import Header

# Some writers count the header's own 44 bytes as sound; a promise broken by so little is not a cut.
HEADER_BYTES = 44
# Samples that need no header to be read: bytes of each.
SAMPLE_BYTES = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ULAW": 1,
    "ALAW": 1,
}

__all__ = ["LibsndfileError", "SndFile"]


class SndFile:
    """A file that libsndfile reads.

    Attributes:
        rate: Hz.
        length: frames of the whole file by its header; None (in `FFmpegFile`) where that is missing or a guess.
        likely_length: the same here; in `FFmpegFile` it may be a guess.
        slack: frames by which `length` may be wrong.
        end: frames of the whole file that can be read; known once `blocks()` is exhausted.
        has_more: behind its sound stands more, in a format of its own, which is not read.
        scale: by which samples are multiplied.
    """

    track, num_tracks = 0, 1

    def __init__(self, file: BinaryIO, clip: Clip, stack: ExitStack):
        sound, self.format, self.subtype, layout = _open(file, stack)
        frame_bytes = SAMPLE_BYTES.get(self.subtype, 0) * sound.channels
        # Of compressed samples those that the header does not speak of cannot be read.
        self.has_more = layout is not None and (layout.has_more or not (layout.is_as_stated or frame_bytes))
        missing = 0 if layout is None or layout.num_missing <= HEADER_BYTES else layout.num_missing // frame_bytes
        clip.check_track(1)
        self._file, self.sound, self.clip, self.rate, self.slack, self.end = file, sound, clip, sound.samplerate, 0, 0
        self.mixer, self.scale = Mixer(clip), self._find_scale(file)
        self.length = sound.frames + missing
        # libsndfile shortens `frames` to what the file holds, and tells only its log: "data : 32000 (should be 19956)".
        clipped = re.search(r"(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", sound.extra_info)
        promised, held = map(int, clipped.groups()) if clipped else (0, 0)
        if promised - held > HEADER_BYTES and promised < UNKNOWN_BYTES and held > 0:
            self.length = round(sound.frames * promised / held)
        if self.format == "NIST":  # of SPHERE files not even the log tells
            position = file.tell()
            file.seek(0)
            stated = re.search(rb"sample_count -i (\d+)", file.read(1024))
            file.seek(position)
            self.length = max(self.length, int(stated[1]) if stated else 0)

    @property
    def likely_length(self) -> int:
        return self.length

    def _find_scale(self, file: BinaryIO) -> np.float32:
        if self.subtype not in ("FLOAT", "DOUBLE") or not self.sound.seekable():
            return np.float32(1)
        return find_scale(file, 0, self.sound.blocks(1 << 12, dtype="float32", always_2d=True))

    def is_for_ffmpeg(self) -> bool:
        """Whether this is one of the files that libsndfile opens but reads wrong (see `load.py`)."""
        # A FLAC written to a pipe has no length: libsndfile says 2**63 - 1 frames and then fails at the last block.
        if self.format == "FLAC" and self.sound.frames < 1 << 62:
            return flac.goes_on(self._file, self.sound.frames)
        return self.format == "OGG" or self.subtype.startswith("MPEG") or self.sound.frames >= 1 << 62

    def header(self) -> Header:
        held, container = self.sound.frames, f"{self.format} {self.subtype}".lower()
        is_cut_off, flags = self.length > held, tuple(self.flags())
        return Header(container, self.rate, self.sound.channels, self.length, held, True, is_cut_off, flags=flags)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the clip to the end of the file."""
        sound, start, stop = self.sound, self.clip.start(self.rate), self.clip.stop(self.rate)
        size = max(1, BLOCK_VALUES // sound.channels)
        position = sound.seek(min(start, sound.frames)) if sound.seekable() else 0
        while len(block := sound.read(min(size, max(1, stop - position)), dtype="float32", always_2d=True)):
            position += len(block)
            if position > start:
                yield self.mixer(block[max(0, len(block) - (position - start)) :] * self.scale)
        self.end = position

    def flags(self) -> list[str]:
        """What had to be done to hear it; complete once `blocks()` is exhausted. See `load.AudioStream`."""
        marks = {"trailing_audio": self.has_more, "scaled": self.scale != 1, "channels_cancel": self.mixer.cancels}
        return [flag for flag, is_so in marks.items() if is_so]


def _open(file: BinaryIO, stack: ExitStack) -> tuple[sf.SoundFile, str, str, PcmLayout | None]:
    """The file, what it is, what its samples are, and where; read by that if its header says something else.

    See `containers/pcm_layout.py`. Raises LibsndfileError: it is of no kind that libsndfile knows.
    """
    layout = find_samples(file)
    ranges = [] if layout is None else layout.ranges
    if ranges and layout.form:
        rate, channels, subtype = layout.form
        return _open_samples(file, layout, rate, channels, subtype, stack), "CAF", subtype, layout
    handle = file if isinstance(file, BytesIO | RangeReader) else file.fileno()
    if ranges and (len(ranges) > 1 or layout.has_more):  # libsndfile refuses some of these
        handle = RangeReader(file, [(0, ranges[0][1])])
    sound = stack.enter_context(sf.SoundFile(handle, closefd=False))
    frame_bytes = SAMPLE_BYTES.get(sound.subtype, 0) * sound.channels
    if not ranges or not frame_bytes or sound.frames == layout.num_bytes // frame_bytes:
        return sound, sound.format, sound.subtype, layout
    samples = _open_samples(file, layout, sound.samplerate, sound.channels, sound.subtype, stack)
    return samples, sound.format, sound.subtype, layout


def _open_samples(
    file: BinaryIO, layout: PcmLayout, rate: int, channels: int, subtype: str, stack: ExitStack
) -> sf.SoundFile:
    reader, endian = RangeReader(file, layout.ranges), "BIG" if layout.is_big_endian else "LITTLE"
    return stack.enter_context(sf.SoundFile(reader, "r", rate, channels, subtype, endian, "RAW"))
