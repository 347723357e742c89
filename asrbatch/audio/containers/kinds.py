"""Which kind of file begins at a byte, by its first bytes: of its magic, or of frames that lead to each other."""

import re
from collections.abc import Callable
from typing import BinaryIO

from asrbatch.audio.containers import mp3

WINDOW_BYTES = 1 << 16  # in which some frames stand, of any kind
FORMS = {b"WAVE": "wav", b"AIFF": "aiff", b"AIFC": "aiff", b"AVI ": "avi", b"AVIX": "avi"}  # in RIFF and FORM
FILES = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM")  # that such chunks are in
_MAGICS = {
    b"fLaC": "flac", b"OggS\0": "ogg", b"\x1a\x45\xdf\xa3": "matroska", b"caff\0\1": "caf", b".snd\0\0": "au",
    b"riff\x2e\x91\xcf\x11": "w64", b"FLV\1": "flv", b"TTA1": "tta", b"wvpk": "wavpack", b"#!AMR": "amr",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"\0\0\1\xba": "mpeg", b"NIST_1A": "nist", b"MAC ": "ape",
    # No sound, and behind WAV they would be noise of full scale.
    b"\xff\xd8\xff\xe0": "jpeg", b"\xff\xd8\xff\xe1": "jpeg", b"\xff\xd8\xff\xdb": "jpeg", b"\x89PNG\r\n": "png",
    b"%PDF-": "pdf", b"PK\3\4": "zip",
}  # fmt: skip
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide")  # that MP4 and MOV files begin with, behind a length
_TS_BYTES = {188: 0, 192: 4, 204: 0}  # of a packet of MPEG-TS: where its mark stands
# Where one of these may begin, at an unknown place.
_FRAMES = (rb"\xff[\xe2-\xff]", rb"\x0b\x77", rb"\x47", rb"ID3[\2-\4]")
_ANY_BOX = rb"....(?:%b)" % b"|".join(_BOXES)
_HEADS = re.compile(b"(?=%b)" % b"|".join([*map(re.escape, (*_MAGICS, *FILES)), _ANY_BOX, *_FRAMES]), re.DOTALL)
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def adts_frame(head: bytes) -> int:
    """Bytes of the frame of AAC that begins so (ISO/IEC 13818-7); 0 where none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0


def ac3_frame(head: bytes) -> int:
    """The same of AC-3 and E-AC-3 (ETSI TS 102 366)."""
    if len(head) < 7 or head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code >> 1 >= len(_AC3_KBITS):
        return 0
    kbits = _AC3_KBITS[code >> 1]
    return 2 * (2 * kbits, kbits * 320 // 147 + (code & 1), 3 * kbits)[rate]


# Kinds without a head, in frames: the bytes that one begins with, and how long it is.
FRAMES: dict[str, tuple[re.Pattern[bytes], Callable[[bytes], int]]] = {
    "mp3": (re.compile(rb"\xff[\xe2-\xff]"), mp3.frame_bytes),
    "adts": (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), adts_frame),
    "ac3": (re.compile(rb"\x0b\x77"), ac3_frame),
}


def kind_at(file: BinaryIO, at: int) -> str | None:
    """Which kind of file begins at a byte, or behind the tags that do; None for none that is known."""
    at = end_of_tags(file, at)
    head = _read(file, at, 16)
    if head[:4] in FILES:
        return FORMS.get(head[8:12])
    if head[4:8] in _BOXES:
        return "mov"
    magic = next((magic for magic in _MAGICS if head.startswith(magic)), None)
    if magic is not None or not head:
        return _MAGICS.get(magic or b"")
    if any(head[shift : shift + 1] == b"\x47" for shift in (0, 4)) and packet_bytes(file, at):
        return "mpegts"
    if head[0] not in b"\xff\x0b":
        return None
    window = _read(file, at, WINDOW_BYTES)
    return next((kind for kind in FRAMES if is_frames(window, 0, kind)), None)


def find_kind(file: BinaryIO, at: int, stop: int) -> tuple[int, str] | None:
    """The first byte in a part of a file at which a file of a known kind begins, and that kind."""
    for head in _HEADS.finditer(_read(file, at, stop - at)):
        if (kind := kind_at(file, at + head.start())) is not None:
            return at + head.start(), kind
    return None


def is_frames(window: bytes, at: int, kind: str) -> bool:
    """Whether three frames stand there, one behind the other."""
    length_of, count = FRAMES[kind][1], 0
    while count < 3 and (length := length_of(window[at : at + 7])):
        at, count = at + length, count + 1
    return count == 3


def packet_bytes(file: BinaryIO, at: int) -> int:
    """How long the packets of MPEG-TS are that begin there; 0 where none do."""
    window = _read(file, at, 5 * max(_TS_BYTES))
    lengths = [n for n, mark in _TS_BYTES.items() if window[mark::n][:5] == b"\x47" * 5]
    return lengths[0] if lengths else 0


def end_of_tags(file: BinaryIO, at: int) -> int:
    """The byte behind the tags of music players that begin at one (ID3, APE, ID3v1); that byte where none does."""
    while True:
        head = _read(file, at, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and 2 <= head[3] <= 4:
            at += 10 + mp3.seven_bits(head[6:10])
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            # Its length counts the footer, which is like the head; a footer alone is what was passed over already.
            at += 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
        elif head[:3] == b"TAG":
            at += 128
        else:
            return at


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(max(0, count))
