"""Pages of an Ogg file: whether it ends inside one, and where one recording ends and the next begins (RFC 3533)."""

import io
import zlib
from typing import BinaryIO

from asrbatch.audio.containers.joined import parts_from, places_of

MOST_HEAD_BYTES = 27 + 255  # of a page
_MOST_PAGE_BYTES = 65_307
_FIRST_PAGE = 2  # the flag of a page that begins a stream
_CRC_AT = 22
# Ogg's checksum is that of zlib with the bits of each byte the other way round, and without its inversions.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ends_inside_page(file: BinaryIO) -> bool:
    """Whether an Ogg file is cut off. (That it lacks an end-of-stream mark is no proof: live recordings do.)"""
    if not _is_ogg(file):
        return False
    page = _last_page(file)
    return len(page) < 27 or len(page) < page_bytes(page)


def ends_with_page(file: BinaryIO) -> bool:
    """Whether nothing stands behind the last page."""
    page = _last_page(file)
    return len(page) >= 27 and len(page) == page_bytes(page)


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of each recording of a chained file, where one stream follows another; none where it is one.

    Told by the serial number of the last page, which is none of the streams that begin together at the start: a file
    of one recording is not read for this.
    """
    if not _is_ogg(file):
        return []
    size, at, starts, was_first = file.seek(0, io.SEEK_END), 0, [], False
    last_serial, first_serials = _last_page(file)[14:18], set()
    while at < size:
        file.seek(at)
        head = file.read(MOST_HEAD_BYTES)
        if head[:4] != b"OggS" or len(head) < 27:
            break
        is_first = bool(head[5] & _FIRST_PAGE)
        if is_first and not was_first:
            starts.append(at)
        if is_first and len(starts) == 1:
            first_serials.add(head[14:18])
        elif last_serial in first_serials:
            return []
        was_first, at = is_first, at + page_bytes(head)
    return parts_from(starts, file)


def check_pages(file: BinaryIO, start: int, stop: int | None) -> int | None:
    """Looks at the pages that begin from byte `start` to `stop`, or to the end of the file: FFmpeg leaves out a damaged
    one and goes on. Leaves the file's position where it was.

    Returns:
        Where the next page begins; None where one of them is damaged.
    """
    before, size = file.tell(), file.seek(0, io.SEEK_END)
    try:
        while start < size and (stop is None or start <= stop):
            file.seek(start)
            page = file.read(MOST_HEAD_BYTES)
            length = page_bytes(page) if len(page) >= 27 else size
            page += file.read(max(0, min(length, _MOST_PAGE_BYTES) - len(page)))
            if stop is None and (page[:4] != b"OggS" or len(page) < length):  # a tag, zeros, or cut off
                return None if next(places_of(file, b"OggS\0", start + 1), None) is not None else size
            if page[:4] != b"OggS" or not _has_checksum(page[:length]):
                return None
            start += length
        return start
    finally:
        file.seek(before)


def _has_checksum(page: bytes) -> bool:
    """Whether a page has its checksum: CRC-32 with 0x04C11DB7 from 0, over the page with 0 in its place."""
    stated = int.from_bytes(page[_CRC_AT : _CRC_AT + 4], "little")
    data = page[:_CRC_AT] + bytes(4) + page[_CRC_AT + 4 :]
    crc = zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) == stated


def _is_ogg(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(4) == b"OggS"


def _last_page(file: BinaryIO) -> bytes:
    file.seek(max(0, file.seek(0, io.SEEK_END) - (_MOST_PAGE_BYTES + 255)))
    tail = file.read()
    return tail[tail.rfind(b"OggS\0") :]


def page_bytes(page: bytes) -> int:
    """Length of a page, by its header: 27 bytes, a table of so many segments, and those."""
    return 27 + page[26] + sum(page[27 : 27 + page[26]])
