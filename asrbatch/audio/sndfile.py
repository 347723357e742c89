"""Audio files as libsndfile reads them: the PCM-like ones. The only importer of soundfile."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import BinaryIO

import numpy as np
import soundfile as sf
from soundfile import LibsndfileError

from asrbatch.audio.clip import BLOCK_VALUES, Clip
from asrbatch.audio.header import Header

# Sizes that a writer to a pipe leaves open: 0xFFFFFFFF (FFmpeg), 0x7FFFF000 and a little above (SoX).
UNKNOWN_BYTES = 0x7FFFF000
# Some writers count the header's own 44 bytes as sound; a promise broken by so little is not a cut.
HEADER_BYTES = 44

__all__ = ["LibsndfileError", "SndFile"]


class SndFile:
    """A file that libsndfile reads.

    Attributes:
        rate: Hz.
        length: frames of the whole file by its header; None (in `FFmpegFile`) where that is missing or a guess.
        slack: frames by which `length` may be wrong.
        end: frames of the whole file that can be read; known once `blocks()` is exhausted.
    """

    def __init__(self, file: BinaryIO, clip: Clip, stack: ExitStack):
        handle = file if isinstance(file, BytesIO) else file.fileno()
        sound = stack.enter_context(sf.SoundFile(handle, closefd=False))
        self.sound, self.clip, self.rate, self.slack, self.end = sound, clip, sound.samplerate, 0, 0
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

    def is_for_ffmpeg(self) -> bool:
        """Whether this is one of the files that libsndfile opens but reads wrong (see `load.py`)."""
        # A FLAC written to a pipe has no length: libsndfile says 2**63 - 1 frames and then fails at the last block.
        return self.sound.format == "OGG" or self.sound.subtype.startswith("MPEG") or self.sound.frames >= 1 << 62

    def header(self) -> Header:
        held, container = self.sound.frames, f"{self.sound.format} {self.sound.subtype}".lower()
        return Header(container, self.rate, self.sound.channels, self.length, held, is_cut_off=self.length > held)

    def blocks(self) -> Iterator[np.ndarray]:
        """1-D float32 mono at `rate`, from the start of the clip to the end of the file."""
        sound, start, stop = self.sound, self.clip.start(self.rate), self.clip.stop(self.rate)
        size = max(1, BLOCK_VALUES // sound.channels)
        position = sound.seek(min(start, sound.frames)) if sound.seekable() else 0
        while len(block := sound.read(min(size, max(1, stop - position)), dtype="float32", always_2d=True)):
            position += len(block)
            if position > start:
                yield self.clip.mix(block[max(0, len(block) - (position - start)) :])
        self.end = position
