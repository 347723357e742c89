"""Whether a FLAC file holds another number of frames than its header says, told by the places its frames state.

libsndfile ends at the header's number. More follows where a recorder never went back to correct it, and in files joined
with `cat`: FFmpeg reads on, each of the joined files by itself. Format: RFC 9639, section 9.1 (frame header).
"""

import io
import re
from typing import BinaryIO

from asrbatch.audio.containers.joined import parts_from, places_of
from asrbatch.audio.containers.mp3 import end_of_id3

_SEARCHED_BYTES = 1 << 16  # a frame has at most some 16 KiB per channel in practice
_SMALL_BYTES = 1 << 20
_MARK = b"fLaC\x00\x00\x00\x22"  # of a file, and STREAMINFO with its length


def goes_on(file: BinaryIO, num_frames: int) -> bool:
    """Whether more sound is in a FLAC file than the `num_frames` (samples per channel) of its header."""
    before = file.tell()
    try:
        size = file.seek(0, io.SEEK_END)
        places = [_place(file, round(size * share)) for share in (0.3, 0.6)]
        last = _place(file, max(0, size - _SEARCHED_BYTES), last=True)
        known = [place for place in (*places, last) if place is not None]
        # Of a small file two frames say too little, and reading all of it costs nothing.
        if last == num_frames and known == sorted(known) and size > _SMALL_BYTES:
            return False
        return (last or 0) > num_frames or bool(parts(file))
    finally:
        file.seek(before)


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of each of the files that were joined; none where it is one, or no FLAC. Reads all of it."""
    begin = end_of_id3(file)
    file.seek(begin)
    return parts_from(list(places_of(file, _MARK, begin)), file) if file.read(4) == _MARK[:4] else []


def first_frame(data: bytes) -> int:
    """Where the first frame begins in these bytes; -1 for none."""
    starts = (mark.start() for mark in re.finditer(b"\xff[\xf8\xf9]", data))
    return next((start for start in starts if _end_of_frame(data[start : start + 16], 0) is not None), -1)


def most_frame_bytes(head: bytes) -> int:
    """Of the largest frame, as the first 21 bytes of a file say (STREAMINFO); 0 where they do not."""
    return int.from_bytes(head[15:18], "big")


def _place(file: BinaryIO, at: int, last: bool = False) -> int | None:
    """Where the first frame behind a byte (or the last one) ends, in samples per channel; None for none."""
    file.seek(end_of_id3(file) + 8)
    info = file.read(4)  # of STREAMINFO: the smallest and the largest block
    block_size = int.from_bytes(info[2:], "big")
    file.seek(at)
    data, found, start = file.read(_SEARCHED_BYTES), None, -1
    while (start := data.find(b"\xff", start + 1)) >= 0:
        end = _end_of_frame(data[start : start + 16], block_size)
        if end is not None:
            found = end
            if not last:
                break
    return found


def _end_of_frame(head: bytes, block_size: int) -> int | None:
    """The sample behind a frame that begins with these bytes; None where none does."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()  # of the number, coded as UTF-8 codes letters
    number = head[4] & (0x7F >> (length if length > 1 else 0))
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at, code, rate = 4 + length, head[2] >> 4, head[2] & 15
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(code, 0), {12: 1, 13: 2, 14: 2}.get(rate, 0)
    stop = at + size_bytes + rate_bytes
    if code == 0 or rate == 15 or stop >= len(head) or _crc8(head[:stop]) != head[stop]:
        return None
    if size_bytes:
        size = int.from_bytes(head[at : at + size_bytes], "big") + 1
    else:
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    # A variable block size (the last bit of the sync code) states samples, a fixed one frames.
    return (number if head[1] & 1 else number * block_size) + size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
