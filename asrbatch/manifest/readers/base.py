"""What a reader of manifests is, and what readers share: rows on lines, several sources as one, hashes of keys, and
commands in place of files.

A reader tells where rows stand and what they say. It knows nothing of ids, digests, duplicates and chunks, which are
the same for all formats (`scan.py`). To add a format, copy `lhotse.py`: a class that turns what stands there into the
fields of a row, and a `TextFormat` or, where it is no text, a function `open_…` that returns a reader or, for what is
not its own, None; then a line in `formats.FORMATS`.
"""

import os
import signal
import subprocess
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from asrbatch.config import SourceOptions
from asrbatch.errors import RowError
from asrbatch.formatting import shorten, show_text
from asrbatch.manifest.readers.sniff import is_file, unpacked_head
from asrbatch.manifest.readers.text import TextFile, open_text
from asrbatch.manifest.row import InvalidRow, Row, audio_ref, invalid_of
from asrbatch.manifest.source import ManifestSource
from asrbatch.storage.filenames import expand_home
from asrbatch.timeouts import output_of
from asrbatch.types import AudioRef

_MOST_OPEN = 64  # manifests held open at a time; more are opened for each row


class Reader:
    """The rows of a manifest: all once in order, then any of them by its number, from any thread.

    A reader keeps places, not rows: some 8 to 30 bytes for each, so that ten million rows fit into memory.

    Attributes:
        source: absolute path, for messages.
        num_rows: where it is known before the rows were read.
        in_groups: audio is read in groups of neighbouring rows.
        base_folder: folder, or URL, that relative audio paths are relative to; None where there is no single one.
        audio_folder: the same, only where it was found by where the command was run; known when all rows were read.
        holds_audio: audio may lie inside the source, under names that are no files.
        is_plain: each line of its files is a row under our names.
        left_out: which files in a folder are no rows, as a message; None for none. Known when all rows were read.
    """

    source: str
    num_rows: int | None = None
    in_groups = False
    base_folder: str | None = None
    audio_folder: str | None = None
    holds_audio = False
    is_plain = False
    left_out: str | None = None

    def rows(self) -> Iterator[Row | InvalidRow]:
        """Every row once, in order. `audio` may be called at once for a row that came, the rest after the last one."""
        for index in range(self.num_rows):
            yield row_or_error(self.row, index)

    def row(self, index: int) -> Row:
        """One row again. Raises InvalidRow or ManifestError when it is no longer what it was."""
        raise NotImplementedError

    def audio(self, index: int, row: Row) -> AudioRef:
        """Where the audio of that row lives; reads none of it."""
        return audio_ref(row.path, self.base_folder)

    def where(self, index: int) -> str:
        """File and line (or row), for messages."""
        raise NotImplementedError

    def line(self, index: int) -> bytes | None:
        """The line of a row in its file of JSON Lines, the end of line included; None where it has none."""
        return None

    def share_read(self, num_rows: int) -> float | None:
        """What part of the source its first rows are; None where that is not known."""
        return num_rows / self.num_rows if self.num_rows else None


def row_or_error(parse: Callable[..., Row], *arguments: object) -> Row | InvalidRow:
    """What `Reader.rows` yields: an error takes the place of its row, so that all are found in one pass."""
    try:
        return parse(*arguments)
    except InvalidRow as invalid:
        return invalid
    except Exception as e:
        return invalid_of(e)


class LineReader(Reader):
    """Rows of one file of text, found again by the byte at which they start.

    Args:
        source: what the file is of; its options may say what relative audio paths are relative to.
        file: the text.
    """

    def __init__(self, source: ManifestSource, file: TextFile):
        self.source, self._file = file.path, file
        self.base_folder = source.options.audio_folder or os.path.dirname(file.path)
        self._starts = array("Q")  # of every row passed, and at last the end of the file

    def share_read(self, num_rows: int) -> float | None:
        size = getattr(self._file, "size", None)  # packed text has none: its length is known at its end
        return self._starts[-1] / size if size and self._starts else None

    def text_of(self, index: int) -> bytes:
        """A row's lines, with the blank ones that follow."""
        self._file.check()
        start = self._starts[index]
        return self._file.pread(self._end_of(index) - start, start)

    def _end_of(self, index: int) -> int:
        return self._starts[index + 1]


class JoinedReader(Reader):
    """Several sources as one: the rows of the first, then those of the second, and so on.

    Args:
        source: what to call all of it.
        readers: at least one, in the order of their rows.
    """

    def __init__(self, source: str, readers: list[Reader]):
        self.source, self._readers = source, readers
        self._firsts = array("Q")  # row with which each reader passed so far begins
        self.in_groups = any(reader.in_groups for reader in readers)
        self.holds_audio = any(reader.holds_audio for reader in readers)
        self.is_plain = all(reader.is_plain for reader in readers)
        folders = {reader.base_folder for reader in readers}
        self.base_folder = folders.pop() if len(folders) == 1 else None

    @property
    def audio_folder(self) -> str | None:
        return ", ".join(dict.fromkeys(filter(None, (reader.audio_folder for reader in self._readers)))) or None

    @property
    def left_out(self) -> str | None:
        return "; ".join(dict.fromkeys(filter(None, (reader.left_out for reader in self._readers)))) or None

    def rows(self) -> Iterator[Row | InvalidRow]:
        num_rows = 0
        for reader in self._readers:
            self._firsts.append(num_rows)
            for row in reader.rows():
                num_rows += 1
                yield row

    def share_read(self, num_rows: int) -> float | None:
        """Every source counts alike, however long it is."""
        if not self._firsts:
            return None
        at = len(self._firsts) - 1
        return (at + (self._readers[at].share_read(num_rows - self._firsts[at]) or 0.0)) / len(self._readers)

    def row(self, index: int) -> Row:
        reader, own = self._find(index)
        return reader.row(own)

    def audio(self, index: int, row: Row) -> AudioRef:
        reader, own = self._find(index)
        return reader.audio(own, row)

    def where(self, index: int) -> str:
        reader, own = self._find(index)
        return reader.where(own)

    def line(self, index: int) -> bytes | None:
        reader, own = self._find(index)
        return reader.line(own)

    def _find(self, index: int) -> tuple[Reader, int]:
        at = bisect_right(self._firsts, index) - 1
        return self._readers[at], index - self._firsts[at]


def join(name: str, readers: list[Reader]) -> Reader:
    return readers[0] if len(readers) == 1 else JoinedReader(name, readers)


def read_texts(source: ManifestSource, read: Callable[[ManifestSource, TextFile], Reader]) -> Reader:
    """The rows of its files, each opened and read by itself."""
    keep_open = len(source.files) <= _MOST_OPEN
    return join(source.path, [read(source, open_text(file, keep_open=keep_open)) for file in source.files])


class TextFormat(NamedTuple):
    """A format whose rows are in text: one file or several, or standard input.

    Attributes:
        is_ours: whether it is that of a text, by its path ("" where it has none), how it begins, and the options.
        read: the rows of one text.
    """

    is_ours: Callable[[str, bytes, SourceOptions], bool]
    read: Callable[[ManifestSource, TextFile], Reader]

    def recognises(self, source: ManifestSource) -> bool:
        """Whether the files are of the format that `--format` names, or look like it."""
        if not source.files or not all(map(is_file, source.files)):
            return False
        # The first one only: a file of another kind among them is then reported for its first line.
        first = source.files[0]
        return source.options.format is not None or self.is_ours(first, unpacked_head(first), source.options)

    def open(self, source: ManifestSource) -> Reader | None:
        return read_texts(source, self.read) if self.recognises(source) else None


def folder_of_first(path: str, folder: str) -> str:
    """What relative paths of Kaldi and lhotse are relative to, by the first of them: the manifest's folder, or the
    current one, where their recipes run."""
    here = os.path.exists(os.path.join(os.getcwd(), path)) and not os.path.exists(os.path.join(folder, path))
    return os.getcwd() if here else folder


def is_relative(path: str) -> bool:
    return not os.path.isabs(expand_home(path)) and "://" not in path


class HashIndex:
    """Where keys stand among others, by their 64-bit hashes: 16 bytes a key, and no key itself.

    Args:
        hashes: int64, in the order of what has these keys.

    Attributes:
        hashes: sorted.
    """

    def __init__(self, hashes: Iterable[int]):
        self._order = np.argsort(np.asarray(hashes, np.int64), kind="stable")
        self.hashes = np.asarray(hashes, np.int64)[self._order]

    @property
    def has_repeats(self) -> bool:
        return bool((self.hashes[1:] == self.hashes[:-1]).any())

    def find(self, key_hash: int) -> list[int]:
        """Positions of that hash, ascending. The caller compares keys where two may share it."""
        first, end = (int(np.searchsorted(self.hashes, key_hash, side)) for side in ("left", "right"))
        return self._order[first:end].tolist()

    def positions_not_in(self, hashes: Iterable[int]) -> list[int]:
        """Positions of keys that are not among those, ascending."""
        return np.sort(self._order[~np.isin(self.hashes, np.asarray(hashes, np.int64))]).tolist()


# Commands in place of files, as Kaldi's `wav.scp` and lhotse's recordings have them. A row carries its command as
# `pipe:COMMAND`; it runs when the row's turn has come, and only with --allow-pipes: a manifest from elsewhere is data.
PIPE = "pipe:"
TIMEOUT_S = 300.0
_SHOWN_CHARS = 200  # of what a command says on standard error


def check_pipe(where: str, command: str, allowed: bool) -> str:
    """The `audio_filepath` that stands for a command. Raises InvalidRow: commands are not allowed."""
    if not allowed:
        fix = "give --allow-pipes to run it, or write files"
        raise InvalidRow(f"{where} = {show_text(command)}", "is a command", fix)
    return PIPE + command.strip().removesuffix("|").strip()


def pipe_or_file(path: str, folder: str) -> AudioRef:
    """Where the audio of a row lives whose path may stand for a command; that is run in `folder`."""
    if not path.startswith(PIPE):
        return audio_ref(path, folder)
    return AudioRef(path, load=partial(run_pipe, path.removeprefix(PIPE), path, folder))


def run_pipe(command: str, name: str, folder: str) -> bytes:
    """What a command writes; killed, with all it started, after five minutes.

    Raises:
        RowError: unreadable: it failed, wrote nothing or took too long.
    """
    process = subprocess.Popen(
        command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,  # a group of its own, so that all of a pipeline can be killed
    )  # fmt: skip
    try:
        output = output_of(process, TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if output is None:
        raise RowError("unreadable", f"{name}: took longer than {TIMEOUT_S:g} s")
    data, stderr = output
    if process.returncode != 0:
        # What a program dies of it says last.
        words = shorten(" ".join(stderr.decode("utf-8", "replace").split()), _SHOWN_CHARS, at=len(stderr))
        raise RowError("unreadable", f"{name}: ended with exit status {process.returncode}: {words}")
    if not data:
        raise RowError("empty_audio", f"{name}: wrote nothing; correct the command, or drop the row", has_fix=True)
    return data
