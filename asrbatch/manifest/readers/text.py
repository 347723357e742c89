"""Files of text that are read forwards once, and then at any byte: plain, gzip, zstandard; here or behind a URL.

Nothing is unpacked to disk. A gzip file is entered again at the nearest of some dozen marks, for which the decoder's
state (40 KB each) is kept from the first pass; a zstandard file, which unpacks at a gigabyte a second, at its start.
The last few blocks are kept, so rows read in order cost one pass. Knows nothing about what lines say."""

import os
import stat
import threading
import weakref
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple, Protocol

from asrbatch.errors import ManifestError
from asrbatch.formatting import install_line
from asrbatch.storage.files import FileState
from asrbatch.storage.remote import RemoteFile, is_remote

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# 190 MB of audio in a `data:` URI. A file of zeros that unpacks to terabytes is one line, and must not fill the memory.
MOST_ROW_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_KEPT_BLOCKS, _MOST_MARKS = 4, 64
# 4 bytes of zstandard can stand for 128 KB; there is no other limit to what a piece becomes.
_PIECE_BYTES = 4096


class TextFile(Protocol):
    """A file's text, as if it had never been packed."""

    path: str

    def lines(self) -> Iterator[bytes]:
        """All of it in order, ends of lines included. Raises ManifestError: one has more than `MOST_ROW_BYTES`."""

    def pread(self, count: int, start: int) -> bytes:
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
    return unpacked(RemoteFile(path) if is_remote(path) else LocalFile(path, keep_open, is_text=True))


def unpacked(raw: "LocalFile | RemoteFile") -> TextFile:
    """The text of a file that is open already. Raises ManifestError: it is zstandard, which is not installed."""
    head = raw.pread(4, 0)
    text = _RemoteText(raw) if isinstance(raw, RemoteFile) else raw
    if head.startswith(GZIP):
        return _PackedFile(text, "gzip", lambda: zlib.decompressobj(wbits=31), zlib.error)
    if head != ZSTD:
        return text
    try:
        import zstandard
    except ImportError as e:
        fix = f"{install_line('zstd')}, or unpack it first"
        raise ManifestError(f"{raw.path}: is zstandard data, and zstandard is not installed: {fix}") from e

    def new_decoder() -> Any:
        # Each of its own unpacker: two of one share its state, and a row may be read while all are walked.
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()

    return _PackedFile(text, "zstandard", new_decoder, zstandard.ZstdError)


def _too_long(path: str) -> ManifestError:
    fix = "is it text, with a row on each line?"
    return ManifestError(f"{path}: holds a line of more than {MOST_ROW_BYTES} bytes; {fix}")


class ForwardBlocks:
    """Any place in what can only be read forwards, text or a table, by way of its blocks; the last few are kept.

    From any thread.

    Args:
        walk: (start, block) in order, from the block that `entry` names on to the end.
        entry: where a walk that is to find a place begins.
        most_kept: blocks that are kept.
    """

    def __init__(self, walk: Callable[[int], Iterator[tuple[int, Sized]]], entry: Callable[[int], int], most_kept: int):
        self._new_walk, self._entry, self._most_kept = walk, entry, most_kept
        self._kept: OrderedDict[int, Any] = OrderedDict()  # by start; the last used one last
        self._walk: Iterator[tuple[int, Any]] = iter(())
        self._next = -1  # where the walk's next block starts; -1 where it cannot go on
        self._lock = threading.Lock()

    def find(self, place: int) -> tuple[int, Any] | None:
        """(start, block) of the block with that place; None behind the end. Raises what a walk raises."""
        with self._lock:
            for start, block in self._kept.items():
                if start <= place < start + len(block):
                    self._kept.move_to_end(start)
                    return start, block
            # Mostly places come in order: then the walk goes on. Not backwards, nor where an entry is nearer.
            if not self._entry(place) <= self._next <= place:
                self._walk, self._next = self._new_walk(place), self._entry(place)
            end, self._next = self._next, -1  # until this has worked
            for start, block in self._walk:
                end = start + len(block)
                # Several threads read rows that are near each other, not at the same place.
                self._kept[start] = block
                if len(self._kept) > self._most_kept:
                    self._kept.popitem(last=False)
                if place < end:
                    self._next = end
                    return start, block
            self._next = end
            return None


class LocalFile:
    """A `TextFile` that is not packed.

    Args:
        fd: an open descriptor of it, to be closed here.
        is_text: all of it will be read.

    Raises:
        ManifestError: it cannot be opened.
    """

    def __init__(self, path: str, keep_open: bool = True, fd: int | None = None, *, is_text: bool = False):
        self.path, self._fd = path, fd
        # An editor that saves puts another file in its place: the open one still has the rows that were checked.
        if fd is None:
            try:
                # Before it is opened: a pipe waits for somebody to write.
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise ManifestError(f"{path}: is not a regular file")
                if keep_open:
                    self._fd = os.open(path, os.O_RDONLY)
            except OSError as e:
                raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e
        if self._fd is not None:
            weakref.finalize(self, os.close, self._fd)
        self.check = FileState(path, self._fd, whole=is_text).check

    @property
    def size(self) -> int:
        return os.stat(self.path if self._fd is None else self._fd).st_size

    def lines(self) -> Iterator[bytes]:
        is_ours = self._fd is None
        with open(self.path if is_ours else self._fd, "rb", _BLOCK_BYTES, closefd=is_ours) as file:
            file.seek(0)
            while line := file.readline(MOST_ROW_BYTES + 1):
                if len(line) > MOST_ROW_BYTES:
                    raise _too_long(self.path)
                yield line

    def pread(self, count: int, start: int) -> bytes:
        if self._fd is not None:
            return os.pread(self._fd, count, start)
        try:
            with open(self.path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), count, start)
        except OSError as e:
            raise ManifestError(f"{self.path}: cannot be read: {e.strerror}") from e


class _BlockText(ABC):
    """A `TextFile` that is read in blocks of about a megabyte, made of the bytes of another file."""

    def __init__(self, raw: Any):
        self.path, self.check, self._raw = raw.path, raw.check, raw
        self._blocks = ForwardBlocks(self._walk, self._entry, _KEPT_BLOCKS)

    @abstractmethod
    def _walk(self, place: int) -> Iterator[tuple[int, bytes]]:
        """See `ForwardBlocks`. Raises ManifestError."""

    @abstractmethod
    def _entry(self, place: int) -> int:
        """Where a walk that is to find a place begins."""

    def lines(self) -> Iterator[bytes]:
        rest = bytearray()
        for _, block in self._walk(0):
            first, *others = block.split(b"\n")
            rest += first
            # The last one goes on in the next block.
            for following in (*others, None):
                if len(rest) > MOST_ROW_BYTES:
                    raise _too_long(self.path)
                if following is not None:
                    yield bytes(rest) + b"\n"
                    rest[:] = following
        if rest:
            yield bytes(rest)

    def pread(self, count: int, start: int) -> bytes:
        pieces = []
        while count > 0 and (found := self._blocks.find(start)) is not None:
            at, block = found
            pieces.append(block[start - at : start - at + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return b"".join(pieces)


class _RemoteText(_BlockText):
    """A block is a request."""

    def _walk(self, place: int) -> Iterator[tuple[int, bytes]]:
        at = self._entry(place)
        while block := self._raw.pread(_BLOCK_BYTES, at):
            yield at, block
            at += len(block)

    def _entry(self, place: int) -> int:
        return place - place % _BLOCK_BYTES


class _Mark(NamedTuple):
    """Where unpacking can begin: byte `at` of the text is made of what follows byte `place` of the file."""

    at: int
    place: int
    decoder: Any


class _PackedFile(_BlockText):
    """Text that is packed.

    Args:
        kind: what it is packed with, for messages.
        new_decoder: makes an object like that of `zlib.decompressobj`.
        error: what such an object raises.
    """

    def __init__(self, raw: Any, kind: str, new_decoder: Callable[[], Any], error: type[Exception]):
        super().__init__(raw)
        self._kind, self._new_decoder, self._error = kind, new_decoder, error
        self._marks, self._stride = [_Mark(0, 0, None)], 4 * _BLOCK_BYTES

    def _entry(self, place: int) -> int:
        return self._mark(place).at

    def _mark(self, place: int) -> _Mark:
        return next(mark for mark in reversed(self._marks) if mark.at <= place)

    def _walk(self, place: int) -> Iterator[tuple[int, bytes]]:
        at, place, decoder = self._mark(place)
        decoder, block = decoder and decoder.copy(), bytearray()
        while rest := self._raw.pread(_PIECE_BYTES, place):
            place += len(rest)
            # Members may follow each other, as `cat a.gz b.gz` makes them.
            while rest := rest if decoder else rest.lstrip(b"\0"):  # padding, as tapes and block devices leave it
                decoder = decoder or self._new_decoder()
                try:
                    block += decoder.decompress(rest)
                except self._error as e:
                    raise self._damaged(str(e)) from e
                rest, decoder = decoder.unused_data, None if decoder.eof else decoder
            if len(block) >= _BLOCK_BYTES:
                yield at, bytes(block)
                at += len(block)
                block.clear()
                self._add_mark(at, place, decoder)
        if decoder is not None:
            raise self._damaged("it ends in the middle")
        if block:
            yield at, bytes(block)

    def _add_mark(self, at: int, place: int, decoder: Any) -> None:
        # Only decoders of zlib can be copied.
        if at < self._marks[-1].at + self._stride or not hasattr(decoder, "copy"):
            return
        self._marks.append(_Mark(at, place, decoder.copy()))
        if len(self._marks) > _MOST_MARKS:
            # Half of them go when there are too many, so that memory stays bounded for any size of file.
            self._marks, self._stride = self._marks[::2], 2 * self._stride

    def _damaged(self, problem: str) -> ManifestError:
        return ManifestError(
            f"{self.path}: the {self._kind} data is damaged or cut off ({problem}); copy the file again"
        )
