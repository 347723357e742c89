"""Where one Matroska (or WebM) file ends and the next begins, in files joined with `cat` (RFC 9559 and 8794).

FFmpeg reads on, but by the head of the first: what is at another rate or of another codec would be refused.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from asrbatch.audio.joined import parts_from, places_of

_HEAD = b"\x1a\x45\xdf\xa3"  # the element that each file begins with
_DOC_TYPE = b"\x42\x82"  # in it
_MOST_HEAD_BYTES = 64


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of each of the files that were joined; none where it is one, or no Matroska.

    Reads little, but for a recording whose size was left open, as browsers write it: that is searched to its end.
    """
    size, at, starts = file.seek(0, io.SEEK_END), 0, []
    while at < size:
        file.seek(at)
        element = file.read(12)
        if element[:4] == _HEAD:
            starts.append(at)
        end = _end_of(element, at) if starts else size
        at = next(_heads(file, at + 4), size) if end is None else end
    return parts_from(starts, file)


def _end_of(element: bytes, at: int) -> int | None:
    """Where an element ends that begins at a byte: its name, the length of its content, and that; None where the
    length is left open, or what stands there is no element.
    """
    name_bytes = 9 - element[0].bit_length()
    length = element[name_bytes : name_bytes + 8]
    if name_bytes > 4 or not length or length[0] == 0:
        return None
    length_bytes = 9 - length[0].bit_length()
    mask = (1 << 7 * length_bytes) - 1
    content = int.from_bytes(length[:length_bytes], "big") & mask
    return None if content == mask else at + name_bytes + length_bytes + content


def _heads(file: BinaryIO, at: int) -> Iterator[int]:
    """Where files begin, from a byte on."""
    for start in places_of(file, _HEAD, at):
        file.seek(start)
        if _DOC_TYPE in file.read(_MOST_HEAD_BYTES):
            yield start
