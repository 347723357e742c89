"""Files of text that are read forwards once, and then at any byte: plain, gzip, zstandard; here or behind a URL.

Nothing is unpacked to disk. A gzip file is entered again at the nearest of some dozen marks, for which the decoder's
state (40 KB each) is kept from the first pass; a zstandard file, which unpacks at a gigabyte a second, at its start.
The last few blocks are kept, so rows read in order cost one pass. Knows nothing about lines or rows."""

import io
import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from asrbatch.errors import ManifestError
from asrbatch.storage.files import FileState
from asrbatch.storage.remote import RemoteFile, is_remote

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES = 1 << 20
_KEPT_BLOCKS, _MOST_MARKS = 4, 64
# 4 bytes of zstandard can stand for 128 KB; there is no other limit to what a piece becomes.
_ZSTD_PIECE_BYTES = 4096


class TextFile(Protocol):
    """A file's text, as if it had never been packed."""

    path: str

    def open(self) -> BinaryIO:
        """The text from its start, once; to be closed by the caller."""

    def read_at(self, start: int, count: int) -> bytes:
        """That many bytes from there, fewer at the end. From any thread. Raises ManifestError."""

    def check(self) -> None:
        """Raises ManifestError when the file is no longer as it was."""


def open_text(path: str, *, keep_open: bool = True) -> TextFile:
    """Opens a file, or a URL, by what its first bytes say.

    Args:
        keep_open: hold a descriptor: replacing the file by another then changes nothing.

    Raises:
        ManifestError: it cannot be opened, or zstandard is not installed.
    """
    return unpacked(RemoteFile(path) if is_remote(path) else LocalFile(path, keep_open))


def unpacked(raw: "LocalFile | RemoteFile") -> TextFile:
    """The text of a file that is open already. Raises ManifestError: it is zstandard, which is not installed."""
    head = raw.pread(4, 0)
    if head.startswith(GZIP):
        return _PackedFile(raw, _GzipBlocks(raw))
    if head == ZSTD:
        return _PackedFile(raw, _ZstdBlocks(raw))
    return _PackedFile(raw, _PlainBlocks(raw)) if isinstance(raw, RemoteFile) else raw


class LocalFile:
    """A `TextFile` that is not packed; `fd` is an open descriptor of it, to be closed here.

    Raises:
        ManifestError: it cannot be opened.
    """

    def __init__(self, path: str, keep_open: bool = True, fd: int | None = None):
        self.path, self._fd = path, fd
        if fd is not None:
            weakref.finalize(self, os.close, fd)
        # An editor that saves puts another file in its place: the open one still has the rows that were checked.
        elif keep_open:
            try:
                self._fd = os.open(path, os.O_RDONLY)
            except OSError as e:
                raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e
            weakref.finalize(self, os.close, self._fd)
        self._state = FileState(path, self._fd)

    @property
    def size(self) -> int:
        return os.stat(self.path if self._fd is None else self._fd).st_size

    def open(self) -> BinaryIO:
        if self._fd is None:
            return open(self.path, "rb", _BLOCK_BYTES)
        file = open(self._fd, "rb", _BLOCK_BYTES, closefd=False)
        file.seek(0)
        return file

    def pread(self, count: int, start: int) -> bytes:
        if self._fd is not None:
            return os.pread(self._fd, count, start)
        try:
            with open(self.path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), count, start)
        except OSError as e:
            raise ManifestError(f"{self.path}: cannot be read: {e.strerror}") from e

    def read_at(self, start: int, count: int) -> bytes:
        return self.pread(count, start)

    def check(self) -> None:
        self._state.check()


class _Mark(NamedTuple):
    """Where unpacking can begin: byte `at` of the text is made of what follows byte `place` of the file."""

    at: int
    place: int
    decoder: Any


class _Blocks:
    """The text in blocks of about a megabyte."""

    def __init__(self, raw: Any):
        self._raw = raw

    def walk(self, start: int) -> Iterator[tuple[int, bytes]]:
        """(position, block), in order, from some block at or before `start` on. Raises ManifestError."""
        raise NotImplementedError

    def nearest(self, start: int) -> int:
        """Where `walk(start)` would begin."""
        return 0


class _PackedFile:
    """A `TextFile` whose text comes in blocks."""

    def __init__(self, raw: Any, blocks: _Blocks):
        self.path, self._raw, self._blocks = raw.path, raw, blocks
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # by position; the last used one last
        self._walk: Iterator[tuple[int, bytes]] = iter(())
        self._next, self._end = -1, None  # position of the walk; None until the end is known
        self._lock = threading.Lock()

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Joined(block for _, block in self._blocks.walk(0)), _BLOCK_BYTES)

    def read_at(self, start: int, count: int) -> bytes:
        pieces = []
        with self._lock:
            while count > 0 and (found := self._find(start)) is not None:
                at, block = found
                piece = block[start - at : start - at + count]
                pieces.append(piece)
                start, count = start + len(piece), count - len(piece)
        return b"".join(pieces)

    def check(self) -> None:
        self._raw.check()

    def _find(self, start: int) -> tuple[int, bytes] | None:
        """The block with that byte; None behind the end."""
        for at, block in self._kept.items():
            if at <= start < at + len(block):
                self._kept.move_to_end(at)
                return at, block
        if self._end is not None and start >= self._end:
            return None
        # Backwards, or so far ahead that a mark is nearer than the walk is.
        if not 0 <= self._next <= start or self._blocks.nearest(start) > self._next:
            self._walk, self._next = self._blocks.walk(start), 0
        for at, block in self._walk:
            self._next = at + len(block)
            if start < self._next:
                # Several threads read rows that are near each other, not at the same place.
                while len(self._kept) >= _KEPT_BLOCKS:
                    self._kept.popitem(last=False)
                self._kept[at] = block
                return at, block
        self._end, self._next = self._next, -1
        return None


class _PlainBlocks(_Blocks):
    def walk(self, start: int) -> Iterator[tuple[int, bytes]]:
        at = self.nearest(start)
        while block := self._raw.pread(_BLOCK_BYTES, at):
            yield at, block
            at += len(block)

    def nearest(self, start: int) -> int:
        return start - start % _BLOCK_BYTES


class _GzipBlocks(_Blocks):
    def __init__(self, raw: Any):
        super().__init__(raw)
        self._marks, self._stride = [_Mark(0, 0, None)], 4 * _BLOCK_BYTES

    def nearest(self, start: int) -> int:
        return self._mark(start).at

    def _mark(self, start: int) -> _Mark:
        return next(mark for mark in reversed(self._marks) if mark.at <= start)

    def walk(self, start: int) -> Iterator[tuple[int, bytes]]:
        at, place, decoder = self._mark(start)
        decoder = decoder and decoder.copy()
        rest, is_new = b"", decoder is None
        while True:
            if not rest:
                self._add_mark(at, place, decoder)
                rest = self._raw.pread(_BLOCK_BYTES // 4, place)
                place += len(rest)
                if not rest:
                    break
            if decoder is None:
                if not is_new and not rest.strip(b"\0"):  # padding, as tapes and block devices leave it
                    rest = b""
                    continue
                # Members may follow each other, as `cat a.gz b.gz` makes them.
                decoder = zlib.decompressobj(wbits=31)
            try:
                block = decoder.decompress(rest, _BLOCK_BYTES)
            except zlib.error as e:
                raise _damaged(self._raw.path, "gzip", str(e)) from e
            rest, is_new = decoder.unconsumed_tail, False
            if decoder.eof:
                rest, decoder = decoder.unused_data, None
            if block:
                yield at, block
                at += len(block)
        if decoder is not None:
            raise _damaged(self._raw.path, "gzip", "it ends in the middle")

    def _add_mark(self, at: int, place: int, decoder: Any) -> None:
        if at < self._marks[-1].at + self._stride:
            return
        self._marks.append(_Mark(at, place, decoder and decoder.copy()))
        if len(self._marks) > _MOST_MARKS:
            # Half of them go when there are too many, so that memory stays bounded for any size of file.
            self._marks, self._stride = self._marks[::2], 2 * self._stride


class _ZstdBlocks(_Blocks):
    def __init__(self, raw: Any):
        try:
            import zstandard
        except ImportError as e:
            fix = "pip install 'asrbatch[zstd]', or unpack it first"
            raise ManifestError(f"{raw.path}: is zstandard data, and zstandard is not installed: {fix}") from e
        super().__init__(raw)
        self._zstandard = zstandard

    def walk(self, start: int) -> Iterator[tuple[int, bytes]]:
        at, place, decoder, rest = 0, 0, None, b""
        waiting, num_waiting = [], 0
        while True:
            if not rest:
                rest = self._raw.pread(_ZSTD_PIECE_BYTES, place)
                place += len(rest)
                if not rest:
                    break
            decoder = decoder or self._zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
            try:
                waiting.append(decoder.decompress(rest))
                num_waiting += len(waiting[-1])
            except self._zstandard.ZstdError as e:
                raise _damaged(self._raw.path, "zstandard", str(e)) from e
            rest, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
            if num_waiting >= _BLOCK_BYTES:
                block, waiting, num_waiting = b"".join(waiting), [], 0
                yield at, block
                at += len(block)
        if decoder is not None:
            raise _damaged(self._raw.path, "zstandard", "it ends in the middle")
        if block := b"".join(waiting):
            yield at, block


class _Joined(io.RawIOBase):
    """Blocks as a file to be read forwards."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._block = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


def _damaged(path: str, kind: str, problem: str) -> ManifestError:
    return ManifestError(f"{path}: the {kind} data is damaged or cut off ({problem}); copy the file again")
