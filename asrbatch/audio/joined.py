"""Files that were joined with `cat`: where each of them begins, told by what a file of their kind begins with."""

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20


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
