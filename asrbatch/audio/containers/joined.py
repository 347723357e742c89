"""Files that were joined with `cat`: where each begins, of kinds of which FFmpeg reads the first alone or by its head.

Those of Ogg and FLAC are in `ogg.py` and `flac.py`.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
MATROSKA, _DOC_TYPE = b"\x1a\x45\xdf\xa3", b"\x42\x82"  # the element that a file begins with, and one in it
_MOST_HEAD_BYTES = 64
SOUND_BOXES = (b"moov", b"mdat", b"moof")  # without one of which an MP4 file is none


def places_of(file: BinaryIO, mark: bytes, start: int = 0) -> Iterator[int]:
    """Each byte from `start` on at which a mark begins. Reads the file to its end."""
    file.seek(start)
    before = b""
    while block := file.read(_BLOCK_BYTES):
        searched, at = before + block, -1
        first = start - len(before)
        while (at := searched.find(mark, at + 1)) >= 0:
            yield first + at
        start, before = start + len(block), searched[-len(mark) + 1 :]
        file.seek(start)  # who takes a place may read there


def parts_from(starts: Sequence[int], file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of the files that begin there; none where it is one, or none."""
    return list(zip(starts, [*starts[1:], file.seek(0, io.SEEK_END)], strict=True)) if len(starts) > 1 else []


def amr_parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of each of several AMR files; none where it is one, or another kind.

    Frames of AMR carry no mark: from the head of the second on FFmpeg would take them at wrong places.
    """
    file.seek(0)
    head = file.read(9)
    mark = next((mark for mark in (b"#!AMR\n", b"#!AMR-WB\n") if head.startswith(mark)), None)
    return [] if mark is None else parts_from(list(places_of(file, mark)), file)


def mov_parts(file: BinaryIO) -> list[tuple[int, int]]:
    """The same of MP4, MOV and 3GP, whose index knows of one file. Reads heads of boxes (ISO/IEC 14496-12)."""
    size, at, starts, has_sound = file.seek(0, io.SEEK_END), 0, [], False
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        name, (length,) = head[4:8], struct.unpack(">I", head[:4])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if name == b"ftyp" and (has_sound or not starts):
            starts.append(at)
            has_sound = False
        if not starts or length < 8:  # 0: to the end of the file
            break
        has_sound = has_sound or name in SOUND_BOXES
        at += length
    return parts_from(starts, file)


def matroska_parts(file: BinaryIO) -> list[tuple[int, int]]:
    """The same of Matroska and WebM: FFmpeg reads on, but what is at another rate or of another codec is refused.

    Reads little, but for a recording whose size was left open, as browsers write it: that is searched to its end.
    """
    size, at, starts = file.seek(0, io.SEEK_END), 0, []
    while at < size:
        file.seek(at)
        element = file.read(12)
        if element[:4] == MATROSKA:
            starts.append(at)
        end = end_of_element(element, at) if starts else size
        at = next(_matroska_heads(file, at + 4), size) if end is None else end
    return parts_from(starts, file)


def end_of_element(element: bytes, at: int) -> int | None:
    """Where an element ends that begins at a byte: its name, the length of its content, and that (RFC 8794); None where
    the length is left open, or what stands there is no element.
    """
    name_bytes = 9 - element[0].bit_length()
    length = element[name_bytes : name_bytes + 8]
    if name_bytes > 4 or not length or length[0] == 0:
        return None
    length_bytes = 9 - length[0].bit_length()
    mask = (1 << 7 * length_bytes) - 1
    content = int.from_bytes(length[:length_bytes], "big") & mask
    return None if content == mask else at + name_bytes + length_bytes + content


def _matroska_heads(file: BinaryIO, at: int) -> Iterator[int]:
    """Where files begin, from a byte on."""
    for start in places_of(file, MATROSKA, at):
        file.seek(start)
        if _DOC_TYPE in file.read(_MOST_HEAD_BYTES):
            yield start
