"""What FFmpeg does not tell of an MP3 file: how many samples it states, and where its sound ends and a tag begins."""

import io
import struct
from typing import BinaryIO

_ID3V1_BYTES, _APE_BYTES = 128, 32
_LEAST_BYTES = 2048  # fewer behind the stated ones are no recording: the header frame itself, a short tag
_MOST_FRAME_BYTES = 1441
_MARKS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS", b"Xing", b"Info", b"VBRI")
_SAMPLES = {3: 1152, 2: 576, 0: 576}  # in a frame of layer III, by version: MPEG 1, 2, 2.5
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {  # by whether it is MPEG 1, and by layer
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def is_frame(data: bytes) -> bool:
    """Whether it begins as a frame does."""
    return len(data) >= 4 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0


def frame_bytes(head: bytes) -> int:
    """Length of the frame that begins with these bytes (ISO/IEC 11172-3 and 13818-3); 0 where none does."""
    if len(head) < 4 or not is_frame(head):
        return 0
    version, layer, code, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version not in _RATES or layer == 4 or not 0 < code < 15 or rate == 3:
        return 0
    kbits = _KBITS[version == 3, layer if version == 3 else min(layer, 2)][code - 1]
    units = {1: 12, 2: 144, 3: 144 if version == 3 else 72}[layer] * kbits * 1000 // _RATES[version][rate]
    return (units + (head[2] >> 1 & 1)) * (4 if layer == 1 else 1)


def is_damage(data: bytes) -> bool:
    """Whether bytes between two frames, which hold none, are neither a tag, nor the end of one file and the head of
    another, nor as few as cutting leaves.
    """
    return len(data) > _MOST_FRAME_BYTES and not any(mark in data for mark in _MARKS)


def stated_length(file: BinaryIO) -> tuple[int | None, bool]:
    """Samples per channel by the Xing, Info or VBRI header in the first frame, behind any ID3v2 tag, None without one;
    and whether more stands behind the bytes that it speaks of: frames of a file that was joined on, tags, zeros.

    FFmpeg does not believe it where the file's size is another than that header says, as with a tag or more frames
    behind it, and divides the size by the bit rate instead. Without the encoder's delay and padding, as FFmpeg cuts it.
    """
    start = end_of_id3(file)
    frame = _read(file, start, 256).ljust(288, b"\0")
    version = frame[1] >> 3 & 3 if is_frame(frame) else 1
    at = next((at for name in (b"Xing", b"Info", b"VBRI") if (at := frame.find(name)) >= 0), -1)
    if at < 0 or version not in _SAMPLES:
        return None, False
    left = file.seek(0, io.SEEK_END) - start - _LEAST_BYTES
    if frame[at : at + 4] == b"VBRI":
        num_bytes, count = struct.unpack(">II", frame[at + 10 : at + 18])
        return count * _SAMPLES[version], left > num_bytes
    flags, count, num_bytes = struct.unpack(">III", frame[at + 4 : at + 16])
    if not flags & 1:
        return None, False
    # The LAME tag behind it: 12 bits each, how many samples the encoder put before and behind.
    lame = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    added = frame[lame + 21 : lame + 24] if frame[lame : lame + 4] in (b"LAME", b"Lavf", b"Lavc") else bytes(3)
    length = count * _SAMPLES[version] - (added[0] << 4 | added[1] >> 4) - ((added[1] & 15) << 8 | added[2])
    return length, bool(flags & 2) and left > num_bytes


def end_of_id3(file: BinaryIO) -> int:
    """The byte behind the ID3v2 tag that a file begins with, of MP3 or of another kind; 0 without one."""
    head = _read(file, 0, 10)
    return 10 + seven_bits(head[6:]) if head[:3] == b"ID3" and len(head) == 10 else 0


def seven_bits(size: bytes) -> int:
    """Of an ID3v2 tag, in four bytes of seven bits."""
    return size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]


def end_of_sound(file: BinaryIO) -> int | None:
    """The byte at which tags begin that stand behind the sound (APE, ID3v1); None without any."""
    size = end = file.seek(0, io.SEEK_END)
    if _read(file, end - _ID3V1_BYTES, 3) == b"TAG":
        end -= _ID3V1_BYTES
    footer = _read(file, end - _APE_BYTES, _APE_BYTES)
    if footer[:8] == b"APETAGEX" and len(footer) == _APE_BYTES:
        num_bytes, _, flags = struct.unpack("<III", footer[12:24])
        has_header = _APE_BYTES if flags >> 31 else 0
        end = max(0, end - num_bytes - has_header)
    return None if end == size else end


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(max(0, at))
    return file.read(count)
