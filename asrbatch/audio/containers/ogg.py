"""Pages of an Ogg file: whether it ends inside one, and where one recording ends and the next begins (RFC 3533)."""

import io
from typing import BinaryIO

from asrbatch.audio.containers.joined import parts_from

_MOST_PAGE_BYTES = 65_307
_FIRST_PAGE = 2  # the flag of a page that begins a stream


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
        head = file.read(27 + 255)
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
