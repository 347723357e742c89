"""Zeros behind the last frame, as copying by blocks leaves them, of kinds in which FFmpeg takes them for damage.

Sources: 3GPP TS 26.101 and 26.201 (AMR), ETSI TS 102 366 (AC-3, E-AC-3), ISO/IEC 13818-1 (TS), 14496-3 (ADTS), RFC 3533
(Ogg), the WavPack 4 format.
"""

import io
import struct
from collections.abc import Callable
from typing import BinaryIO

from asrbatch.audio.containers.ogg import MOST_HEAD_BYTES, page_bytes
from asrbatch.audio.containers.pcm_layout import RangeReader

_BLOCK_BYTES = 1 << 20
_AMR = (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1)  # bytes of a frame, by its type
_AMR_WB = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1)
_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48000, 44100, 32000)
_TS_PACKETS = {0: 188, 4: 192}  # bytes, by those before their mark (as cameras write it: a time)


def without_zeros(file: BinaryIO) -> BinaryIO:
    """A file up to its last frame; the file itself where it does not end in zeros, or something else is in it."""
    size, head = file.seek(0, io.SEEK_END), _read(file, 0, 3 * max(_TS_PACKETS.values()))
    if size == 0 or _read(file, size - 1, 1) != b"\0":
        return file
    for lead, num_bytes in _TS_PACKETS.items():
        if head[lead::num_bytes][:3] == b"GGG":
            at = -(-_last_but_zeros(file, size) // num_bytes) * num_bytes
            return RangeReader(file, [(0, at)]) if at < size else file
    kind = next((kind for kind in _FRAMES if head.startswith(kind)), None)
    if kind is None:
        return file
    (at, bytes_of), end = _FRAMES[kind], _last_but_zeros(file, size)
    while at < end:
        head = _read(file, at, MOST_HEAD_BYTES).ljust(MOST_HEAD_BYTES, b"\0")
        num_bytes = _tag(head) or bytes_of(head)
        if num_bytes <= 0:
            return file
        at += num_bytes
    return RangeReader(file, [(0, at)]) if at < size else file


def _last_but_zeros(file: BinaryIO, size: int) -> int:
    """The byte behind the last one that is none."""
    while size > 0:
        start = max(0, size - _BLOCK_BYTES)
        if kept := len(_read(file, start, size - start).rstrip(b"\0")):
            return start + kept
        size = start
    return 0


def _tag(head: bytes) -> int:
    """Bytes of a tag; 0 where none begins."""
    if head[:8] == b"APETAGEX":
        return 32 + struct.unpack("<I", head[12:16])[0]
    return 128 if head[:3] == b"TAG" else 0


def _ac3(head: bytes) -> int:
    if head[:2] != b"\x0bw":
        return 0
    if head[5] >> 3 > 10:  # E-AC-3
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBPS):
        return 0
    words = _AC3_KBPS[code // 2] * 96_000 // _AC3_RATES[rate]
    return 2 * (words + (code & 1 if rate == 1 else 0))


def _adts(head: bytes) -> int:
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 if head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else 0


def _wavpack(head: bytes) -> int:
    return struct.unpack("<I", head[4:8])[0] + 8 if head[:4] == b"wvpk" else 0


# By how a file begins: where its first frame is, and the bytes of a frame by its head, 0 for none.
_FRAMES: dict[bytes, tuple[int, Callable[[bytes], int]]] = {
    b"#!AMR\n": (6, lambda head: _AMR[head[0] >> 3 & 15]),
    b"#!AMR-WB\n": (9, lambda head: _AMR_WB[head[0] >> 3 & 15]),
    b"\x0bw": (0, _ac3),
    b"wvpk": (0, _wavpack),
    b"OggS": (0, lambda head: page_bytes(head) if head[:4] == b"OggS" else 0),
    **dict.fromkeys((b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9"), (0, _adts)),
}


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
