"""Where the first file in a file ends, if one of another kind, tags or zeros follow: decoders take that for its own.

What is looked for stands at the end the container itself states, or behind its last frame; reading costs some seeks.
Of WAV, AIFF, AU and CAF the end is in `pcm_layout.py`.
"""

import io
import struct
from collections.abc import Callable
from typing import BinaryIO

from asrbatch.audio.containers import flac, mp3, ogg
from asrbatch.audio.containers.joined import MATROSKA, SOUND_BOXES, end_of_element, places_of
from asrbatch.audio.containers.kinds import (
    FORMS,
    FRAMES,
    WINDOW_BYTES,
    end_of_tags,
    find_kind,
    is_frames,
    kind_at,
    packet_bytes,
)

_MP4_BOX_BYTES = 8
_LAST_BOXES = (*SOUND_BOXES, b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"mfra")
_CLUSTER, _CUES = b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b"
# That and its segment, void and checksum, and what is in a segment (RFC 9559).
_ELEMENTS = (
    MATROSKA, b"\x18\x53\x80\x67", b"\xec", b"\xbf", b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66",
    b"\x16\x54\xae\x6b", _CLUSTER, _CUES, b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70",
    b"\x12\x54\xc3\x67",
)  # fmt: skip
# What transfers and players leave behind a file; more than this may be sound of a kind that is not known here.
_MOST_SCRAP_BYTES = 4096
# Of the others, what is no frame or page of theirs may also be damage with more of them behind it.
_SURE_OF_ENDS = ("mp3", "adts", "ac3", "flac", "ogg", "mov", "matroska", "w64", "tta", "mpegts", "mpeg")
_DAMAGED_BY_MORE = ("adts", "ac3", "mpegts")  # FFmpeg takes whatever follows for frames
_ASF_PARTS = (b"\x30\x26\xb2\x75", b"\x36\x26\xb2\x75", b"\x90\x08\x00\x33", b"\xd3\x29\xe2\xd6")
_AMR_BYTES = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1),
}  # of a frame, by its type (RFC 4867, section 5.3)


def end_before_other(file: BinaryIO) -> tuple[int | None, bool]:
    """Where to end a file although more stands behind it, and whether that is something that is not read.

    The first is None where nothing stands there, and where it cannot be told from more of the file, padding or damage.
    """
    size, start = file.seek(0, io.SEEK_END), 0
    kind = kind_at(file, 0)
    try:
        while kind in _ENDS and (end := _ENDS[kind](file, end_of_tags(file, start), size)) < size:
            behind = end_of_tags(file, end)
            following = kind_at(file, end)
            if following is not None and following != kind:
                return end, True
            if following is None:
                if _is_zero(file, min(behind, size), size):
                    return None if kind in ("mp3", "flac") else end, False
                is_other = kind in _SURE_OF_ENDS and size - behind > _MOST_SCRAP_BYTES
                # Tags of players that no other kind has.
                is_other = is_other and (kind != "mp3" or mp3.end_of_sound(file) is None)
                return end if is_other and kind in _DAMAGED_BY_MORE else None, is_other
            if end <= start:
                break
            start = end  # one of the same kind: `joined.py` finds those
    except (struct.error, IndexError):  # it is cut off within a head
        pass
    return None, False


def _end_of_frames(kind: str) -> Callable[[BinaryIO, int, int], int]:
    sync, length_of = FRAMES[kind]

    def first(window: bytes) -> int:
        return next((m.start() for m in sync.finditer(window) if is_frames(window, m.start(), kind)), -1)

    def end(file: BinaryIO, start: int, size: int) -> int:
        at, more = _last_place(file, start, size, first), 0
        while more >= 0:  # behind tags and zeros between files that were joined
            at += more
            while length := length_of(_read(file, at, 7)):
                at += length
            more = first(_read(file, at, WINDOW_BYTES))
        return at

    return end


def _last_place(file: BinaryIO, low: int, size: int, first: Callable[[bytes], int]) -> int:
    """The first place that is known in the last part of a file in which there is one: by halves."""
    high = max(low, size - WINDOW_BYTES)
    if (found := first(_read(file, high, WINDOW_BYTES))) >= 0:
        return high + found
    while high - low > WINDOW_BYTES // 4:
        middle = (low + high) // 2
        low, high = (middle, high) if first(_read(file, middle, WINDOW_BYTES)) >= 0 else (low, middle)
    return low + max(0, first(_read(file, low, WINDOW_BYTES)))


def _end_of_flac(file: BinaryIO, start: int, size: int) -> int:
    """A frame does not say how long it is: where another file begins behind the last."""
    at = _last_place(file, start, size, flac.first_frame) + 1
    while (found := flac.first_frame(_read(file, at, WINDOW_BYTES))) >= 0:
        at += found + 1
    other = find_kind(file, at, min(size, at + 4 * WINDOW_BYTES))
    if other is not None:
        return other[0]
    return min(size, at - 1 + flac.most_frame_bytes(_read(file, start, 21)) or size)


def _end_of_pages(file: BinaryIO, start: int, size: int) -> int:
    """Of Ogg. A file whose last page ends with it is not walked over."""
    if ogg.ends_with_page(file):
        return size
    while (page := _read(file, start, ogg.MOST_HEAD_BYTES))[:4] == b"OggS" and len(page) > 27:
        start += ogg.page_bytes(page)
    # A page behind it: that between was damage.
    return start if next(places_of(file, b"OggS", start), None) is None else size


def _end_of_boxes(file: BinaryIO, start: int, size: int) -> int:
    """Of MP4, MOV and 3GP."""
    while start + _MP4_BOX_BYTES <= size:
        head = _read(file, start, 16)
        (length,) = struct.unpack(">I", head[:4])
        if length == 1:
            (length,) = struct.unpack(">Q", head[8:])
        if any(letter != 0xA9 and not 0x20 <= letter < 0x7F for letter in head[4:8]):
            break
        if length == 0 and head[4:8] in _LAST_BOXES:  # to the end of the file
            return size
        if length < _MP4_BOX_BYTES:
            break
        if start + length > size:
            return size if head[4:8] in _LAST_BOXES else start
        start += length
    return start


def _end_of_elements(file: BinaryIO, start: int, size: int) -> int:
    """Of Matroska; not known where a recorder left the length of its segment open.

    What is usually in the segment may stand behind it, where its length was never corrected."""
    begin = start
    while (head := _read(file, start, 12)) and (start == begin or head[:4] != MATROSKA):
        if not any(head.startswith(name) for name in _ELEMENTS):
            break
        end = end_of_element(head, start)
        if end is None or end > size:
            return size
        start = end
    # Clusters behind it, or the index of all: its length was never corrected.
    is_one = head[:4] != MATROSKA and any(next(places_of(file, mark, start), None) for mark in (_CLUSTER, _CUES))
    return size if is_one else start


def _end_of_riffs(file: BinaryIO, start: int, size: int) -> int:
    """Of AVI, which goes on in more of them."""
    while (head := _read(file, start, 12))[:4] == b"RIFF" and FORMS.get(head[8:]) == "avi":
        (length,) = struct.unpack("<I", head[4:8])
        if length == 0:  # never finished
            return size
        start += 8 + length + length % 2
    return start


def _end_of_w64(file: BinaryIO, start: int, size: int) -> int:
    (length,) = struct.unpack("<Q", _read(file, start + 16, 8))
    return start + length if 40 < length < size - start else size


def _end_of_tags_of_flv(file: BinaryIO, start: int, size: int) -> int:
    """Behind each of them its length stands once more, so a whole file needs no walk."""
    (length,) = struct.unpack(">I", _read(file, size - 4, 4))
    if 11 <= length < size and _flv_tag_bytes(_read(file, size - 4 - length, 11)) == length + 4:
        return size
    start += 13
    while length := _flv_tag_bytes(_read(file, start, 11)):
        start += length
    return start


def _flv_tag_bytes(head: bytes) -> int:
    is_tag = len(head) == 11 and head[0] & 0x1F in (8, 9, 18) and not any(head[8:])
    return 11 + int.from_bytes(head[1:4], "big") + 4 if is_tag else 0


def _end_of_tta(file: BinaryIO, start: int, size: int) -> int:
    """By its table of the lengths of all frames."""
    rate, num_samples = struct.unpack("<II", _read(file, start + 10, 8))
    count = -(-num_samples // (256 * rate // 245))
    table = _read(file, start + 22, 4 * count)
    return start + 26 + 4 * count + sum(struct.unpack(f"<{count}I", table))


def _end_of_blocks(file: BinaryIO, start: int, size: int) -> int:
    """Of WavPack."""
    while (head := _read(file, start, 8))[:4] == b"wvpk":
        start += 8 + struct.unpack("<I", head[4:])[0]
    return start


def _end_of_asf(file: BinaryIO, start: int, size: int) -> int:
    while (head := _read(file, start, 24))[:4] in _ASF_PARTS:
        (length,) = struct.unpack("<Q", head[16:])
        if not 24 <= length <= size - start:  # never finished
            return size
        start += length
    return start


def _end_of_amr(file: BinaryIO, start: int, size: int) -> int:
    """A frame of which no bit is set is a zero of padding: encoders set the one that says it is good."""
    data = _read(file, start, size - start)
    mark = next((mark for mark in _AMR_BYTES if data.startswith(mark)), None)
    if mark is None:
        return size
    at, lengths = len(mark), _AMR_BYTES[mark]
    while at < len(data) and data[at] and not data[at] & 0x83 and (length := lengths[data[at] >> 3]):
        at += length
    return start + at


def _end_of_packets(file: BinaryIO, start: int, size: int) -> int:
    """Of MPEG-TS, in packets of one length."""
    length = packet_bytes(file, start)
    low, high = 0, (size - start) // length  # packets that are, and are not, of it
    if packet_bytes(file, start + (high - 5) * length) == length:
        return size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if packet_bytes(file, start + middle * length) == length else (low, middle)
    end = start + (low + 5) * length
    # Packets at other places, behind one that is cut off or damaged, are more of it.
    return size if any(packet_bytes(file, end + shift) for shift in range(1, 2 * length)) else end


def _end_of_packs(file: BinaryIO, start: int, size: int) -> int:
    """Of an MPEG program stream (ISO/IEC 13818-1): packs, and packets that say how long they are."""
    at = _last_place(file, start, size, lambda window: window.find(b"\0\0\1\xba"))
    while (head := _read(file, at, 14))[:3] == b"\0\0\1" and len(head) >= 6:
        if head[3] == 0xBA:
            at += 12 if head[4] >> 6 == 0 else 14 + (head[13] & 7)
        else:
            at += 4 if head[3] == 0xB9 else 6 + int.from_bytes(head[4:6], "big")
    return at + 4 if head[:4] == b"\0\0\1\xb9" else at


_ENDS: dict[str, Callable[[BinaryIO, int, int], int]] = {
    "mp3": _end_of_frames("mp3"),
    "adts": _end_of_frames("adts"),
    "ac3": _end_of_frames("ac3"),
    "flac": _end_of_flac,
    "ogg": _end_of_pages,
    "mov": _end_of_boxes,
    "matroska": _end_of_elements,
    "avi": _end_of_riffs,
    "w64": _end_of_w64,
    "flv": _end_of_tags_of_flv,
    "tta": _end_of_tta,
    "wavpack": _end_of_blocks,
    "asf": _end_of_asf,
    "amr": _end_of_amr,
    "mpegts": _end_of_packets,
    "mpeg": _end_of_packs,
}


def _is_zero(file: BinaryIO, at: int, stop: int) -> bool:
    while at < stop and (block := _read(file, at, min(1 << 20, stop - at))):
        if block.count(0) < len(block):
            return False
        at += len(block)
    return True


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(max(0, at))
    return file.read(max(0, count))
