"""Where the samples of a WAV, AIFF, AU or CAF file stand, chunk by chunk, whatever its header says of their number.

libsndfile believes the size that a header gives. It is wrong in files over 4 GiB (32 bits wrap), in those that a
recorder appended to, never finished or wrote in several `data` chunks, and in files joined with `cat`: more sound
follows, and would be lost without a word. Of CAF files with a chunk before the samples it reads that chunk as sound.
Only chunk heads are read here, so a file of hours costs some seeks. Knows the container, not the samples.
"""

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from asrbatch.audio.containers.kinds import FILES, FORMS, FRAMES, kind_at

# Chunks that other programs write behind the samples; what begins with another name may be samples as well.
METADATA = frozenset(  # of WAV, of AIFF, of CAF
    b"LIST,fact,bext,id3 ,ID3 ,cue ,smpl,inst,iXML,PEAK,JUNK,junk,PAD ,FLLR,axml,chna,ds64,umid,afsp,DISP,plst,acid,"
    b"strc,cart,link,LGWV,minf,elm1,regn,levl,MD5 ,_PMX,COMT,MARK,INST,NAME,AUTH,(c) ,ANNO,APPL,FVER,MIDI,AESD,CHAN,"
    b"free,info,kuki,mark,midi,ovvw,pakt,peak,strg,uuid,user,edct,chan".split(b",")
)
TAGS = (b"TAG", b"ID3", b"APETAGEX")  # of music players, behind the last chunk
# Sizes from here on are those of writers to a pipe, which leave them open: 0xFFFFFFFF (FFmpeg), 0x7FFFF000 and a little
# above (SoX).
UNKNOWN_BYTES = 0x7FFFF000
# Behind the last chunk: fewer bytes are padding, more than the other are samples whatever they are.
_LEAST_BYTES, _MOST_PADDING_BYTES = 64, 1 << 26
_LINEAR = (1, 3, 6, 7, 0xFFFE)  # of WAV: integers, floats, A-law, u-law, extensible
_MOST_HEAD_BYTES = 1 << 24  # before the samples, held in memory where the header is corrected


@dataclass
class PcmLayout:
    """The samples of one file.

    Attributes:
        ranges: bytes (from, to) in which samples stand, in order.
        is_big_endian: how they are written.
        has_more: behind the last range stands sound in another format.
        is_as_stated: the header says the same.
        num_missing: bytes of samples that a CAF file promises behind its end; of others libsndfile tells.
        form: of a CAF file: Hz, channels, and libsndfile's name for the samples; None where they are compressed.
    """

    ranges: list[tuple[int, int]] = field(default_factory=list)
    is_big_endian: bool = False
    has_more: bool = False
    is_as_stated: bool = True
    num_missing: int = 0
    form: tuple[int, int, str] | None = None

    @property
    def num_bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


class RangeReader(io.RawIOBase):
    """The ranges of a file as one file: seekable, read-only."""

    def __init__(self, file: BinaryIO, ranges: list[tuple[int, int]]):
        self._file, self._ranges, self._at = file, ranges, 0
        self._size = sum(stop - start for start, stop in ranges)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        """Fills the buffer across ranges: libsndfile takes a short read for the end."""
        view, num_read, first = memoryview(buffer).cast("B"), 0, 0
        for start, stop in self._ranges:
            if first <= self._at < first + stop - start:
                self._file.seek(start + self._at - first)
                data = self._file.read(min(len(view) - num_read, first + stop - start - self._at))
                view[num_read : num_read + len(data)] = data
                num_read, self._at = num_read + len(data), self._at + len(data)
            first += stop - start
        return num_read


class _WithHead:
    """A file of which the first bytes are others."""

    def __init__(self, file: BinaryIO, head: bytes):
        self._file, self._head, self._at = file, head, 0

    def seek(self, offset: int) -> None:
        self._at = offset

    def read(self, count: int) -> bytes:
        if self._at < len(self._head):
            return self._head[self._at : self._at + count]
        self._file.seek(self._at)
        return self._file.read(count)


def whole_file(file: BinaryIO) -> tuple[BinaryIO, bool]:
    """A file whose container states how much sound follows, with all that is there; and whether there is more."""
    layout = find_samples(file)
    if layout is None or not layout.ranges:
        return file, False
    if (whole := _one_chunk(file, layout)) is not None:
        return whole, layout.has_more
    return file, layout.has_more or not layout.is_as_stated


def _one_chunk(file: BinaryIO, layout: PcmLayout) -> BinaryIO | None:
    """A WAV file with all its samples in one chunk whose size is right, for a reader that believes that; None where it
    is as the header says, or cut off, or no such size can be written.
    """
    start = layout.ranges[0][0]
    if start > _MOST_HEAD_BYTES:
        return None
    head = bytearray(_read(file, 0, start))
    (stated,) = struct.unpack("<I", head[-4:])
    is_open = stated == 0 or stated >= UNKNOWN_BYTES
    if head[:4] != b"RIFF" or layout.num_bytes >= UNKNOWN_BYTES or not (is_open or layout.num_bytes > stated):
        return None
    struct.pack_into("<I", head, 4, start - 8 + layout.num_bytes)
    struct.pack_into("<I", head, start - 4, layout.num_bytes)
    return RangeReader(_WithHead(file, bytes(head)), [(0, start), *layout.ranges])


def find_samples(file: BinaryIO) -> PcmLayout | None:
    """Walks over the chunks of a file; leaves its position where it was. None for other containers."""
    before = file.tell()
    try:
        size = file.seek(0, io.SEEK_END)
        head = _read(file, 0, 12)
        if head[:4] == b"caff":
            return _caf_samples(file, size)
        if head[:4] == b".snd":
            return _au_samples(file, size)
        if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            return _iff_samples(file, size, b"SSND", b"COMM", ">")
        if head[:4] in FILES and head[8:] == b"WAVE":
            return _iff_samples(file, size, b"data", b"fmt ", ">" if head[:4] == b"RIFX" else "<")
        return None
    finally:
        file.seek(before)


def _iff_samples(file: BinaryIO, size: int, sound: bytes, form: bytes, order: str) -> PcmLayout:
    """Of WAV and AIFF: (name, 32-bit size, content, padded to an even length), again and again."""
    found, at, long_size, first_form = PcmLayout(is_big_endian=order == ">"), 12, 0, None
    own: tuple[str, ...] = (FORMS[_read(file, 8, 4)],)  # kinds of which more is no other file
    while at + 8 <= size:
        if found.ranges and kind_at(file, at) not in (None, *own):
            found.has_more = True
            break
        head = _read(file, at, 12)
        name, (length,) = head[:4], struct.unpack(order + "I", head[4:8])
        start, stop = at + 8, at + 8 + length
        if name == b"ds64":  # of RF64: the sizes that are too large for 32 bits
            long_size = struct.unpack("<Q", _read(file, start + 8, 8))[0]
        elif name == form:
            content = _read(file, start, min(length, 64))
            # The number of frames stands there too in AIFF, and is another one in a file that was joined on.
            content = content[:2] + content[6:] if form == b"COMM" else content[:16]
            first_form = first_form or content
            if content != first_form:
                found.has_more = True
                break
            codec = int.from_bytes(content[:2], "big" if order == ">" else "little")
            if form == b"fmt " and codec not in _LINEAR:  # MP3 in WAV is frames of MP3
                own = own[:1] + tuple(FRAMES)
            if content[14:18] == b"sowt":  # little-endian AIFF-C, as QuickTime writes it
                found.is_big_endian = False
        elif name == sound:
            start, stop = start + (8 if sound == b"SSND" else 0), min(stop, size)  # behind an offset and a block size
            if length == 0xFFFFFFFF and long_size:
                stop = min(start + long_size, size)
            elif (length == 0 or length >= UNKNOWN_BYTES) and not _is_chunk(
                file, stop, size, order, own
            ):  # never finished
                stop = size
            found.is_as_stated = not found.ranges
            found.ranges.append((start, stop))
        elif found.ranges and not _is_chunk(file, at, size, order, own):
            _add_rest(found, file, at, size, own)
            break
        if name in FILES and found.ranges:  # another file that was joined on
            at += 12
        else:
            at = stop + (stop % 2 and not _is_chunk(file, stop, size, order, own))
    return found


def _au_samples(file: BinaryIO, size: int) -> PcmLayout:
    """Of AU: a header that says where the samples begin; nothing else is in the file."""
    start, length = struct.unpack(">II", _read(file, 4, 8))
    found = PcmLayout([(start, size if length == 0 or start + length > size else start + length)], is_big_endian=True)
    _add_rest(found, file, found.ranges[0][1], size, ("au",))
    return found


def _caf_samples(file: BinaryIO, size: int) -> PcmLayout:
    """Of CAF: (name, 64-bit size, content), big-endian; the samples of `data` stand behind an edit count."""
    found, at = PcmLayout(), 8
    while at + 12 <= size:
        name, length = struct.unpack(">4sq", _read(file, at, 12))
        start = at + 12
        is_open = length < 0 or (name == b"data" and length == 0)  # -1, or never finished: to the end of the file
        stop = size if is_open else min(start + length, size)
        if name == b"desc":
            rate, kind, flags, _, _, channels, bits = struct.unpack(">d4s5I", _read(file, start, 32))
            found.is_big_endian = not flags & 2
            floats, integers = {32: "FLOAT", 64: "DOUBLE"}, {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
            linear = (floats if flags & 1 else integers).get(bits)
            subtype = {b"lpcm": linear, b"ulaw": "ULAW", b"alaw": "ALAW"}.get(kind)
            found.form = (round(rate), channels, subtype) if subtype and math.isfinite(rate) else None
        elif name == b"data":
            found.ranges.append((start + 4, stop))
            found.num_missing = max(0, start + length - size)
        elif found.ranges and name not in METADATA:
            _add_rest(found, file, at, size)
            break
        at = stop
    return found


def _is_chunk(file: BinaryIO, at: int, size: int, order: str, own: tuple[str, ...]) -> bool:
    """Whether metadata or more sound begins there, or the file ends: a chunk, another file, or a tag. Not frames of the
    samples' `own` codec.
    """
    head = _read(file, at, 12)
    if len(head) < 8:
        return True
    name, (length,) = head[:4], struct.unpack(order + "I", head[4:8])
    if name in METADATA or name in (b"data", b"SSND", b"fmt ") or head.startswith(TAGS):
        return True
    # One nobody has heard of: by its name in letters, and by its size, which leads to the end or to another chunk.
    is_name = all(0x20 <= letter < 0x7F for letter in name)
    after = _read(file, at + 8 + length, 4)
    is_unheard_of = is_name and at + 8 + length <= size + 1 and (not after or after in METADATA)
    return is_unheard_of or kind_at(file, at) not in (None, *own[1:])


def _add_rest(found: PcmLayout, file: BinaryIO, at: int, size: int, own: tuple[str, ...] = ()) -> None:
    """What stands behind the last chunk and is none: samples, unless it is a tag, text, a few bytes, only zeros, or a
    file of another kind than its `own`.
    """
    start, last = found.ranges[-1]
    if size - last < _LEAST_BYTES:
        return
    if kind_at(file, at) not in (None, *own):
        found.has_more = True
    elif _read(file, at, 12).startswith(TAGS):
        return
    elif size - last >= _MOST_PADDING_BYTES or not all(block.isascii() for block in _blocks(file, at, size)):
        # From where the samples ended, not from the even place: the frames go on as they were.
        found.ranges[-1], found.is_as_stated = (start, size), False


def _blocks(file: BinaryIO, at: int, stop: int) -> Iterator[bytes]:
    while at < stop and (block := _read(file, at, min(1 << 20, stop - at))):
        yield block
        at += len(block)


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
