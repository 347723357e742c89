"""Where one MP4 (or MOV, 3GP) file ends and the next begins, in files joined with `cat` (ISO/IEC 14496-12, boxes).

FFmpeg reads the first alone: its index knows of no other.
"""

import io
import struct
from typing import BinaryIO

from asrbatch.audio.joined import parts_from

_SOUND = (b"moov", b"mdat", b"moof")  # boxes without one of which a file is none


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Bytes (from, to) of each of the files that were joined; none where it is one, or no MP4. Reads heads of boxes."""
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
        has_sound = has_sound or name in _SOUND
        at += length
    return parts_from(starts, file)
