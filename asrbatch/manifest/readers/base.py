"""Several sources as one manifest: the rows of the first, then those of the second, and so on.

Commands in place of files, as Kaldi's `wav.scp` and lhotse's recordings have them: run when a row's turn has come.
"""

import os
import signal
import subprocess
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Protocol

from asrbatch.errors import RowError
from asrbatch.formatting import show_text
from asrbatch.manifest.readers.sniff import is_file
from asrbatch.manifest.readers.text import TextFile, open_text
from asrbatch.manifest.row import InvalidRow, Row
from asrbatch.manifest.source import ManifestSource, choose_split
from asrbatch.types import AudioRef


class Reader(Protocol):
    """What a manifest format provides."""

    source: str  # absolute path, for messages

    def rows(self) -> Iterator[Row | InvalidRow]:
        """Every row once, in order. `audio` may be called at once for a row that came, the rest after the last one."""

    def row(self, index: int) -> Row:
        """One row again, from any thread. Raises BadRow or ManifestError when it is no longer what it was."""

    def audio(self, index: int, row: Row) -> AudioRef:
        """Where the audio of that row lives; reads none of it."""

    def where(self, index: int) -> str:
        """File and line (or row), for messages."""


class JoinedReader:
    """See `manifest_scan.Reader`.

    Args:
        source: what to call all of it.
        readers: at least one, in the order of their rows.
    """

    def __init__(self, source: str, readers: list[Reader]):
        self.source, self._readers = source, readers
        self._firsts = array("Q")  # row with which each reader passed so far begins

    def rows(self) -> Iterator[Row | InvalidRow]:
        num_rows = 0
        for reader in self._readers:
            self._firsts.append(num_rows)
            for row in reader.rows():
                num_rows += 1
                yield row

    @property
    def share_read(self) -> float | None:
        """What part of all the sources' rows has passed, every source counted alike; None before the first."""
        if not self._firsts:
            return None
        at = len(self._firsts) - 1
        return (at + (getattr(self._readers[at], "share_read", None) or 0.0)) / len(self._readers)

    def row(self, index: int) -> Row:
        reader, own = self._find(index)
        return reader.row(own)

    def audio(self, index: int, row: Row) -> AudioRef:
        reader, own = self._find(index)
        return reader.audio(own, row)

    def where(self, index: int) -> str:
        reader, own = self._find(index)
        return reader.where(own)

    @property
    def in_groups(self) -> bool:
        return any(getattr(reader, "in_groups", False) for reader in self._readers)

    @property
    def base_folder(self) -> str | None:
        """See `Manifest.record`."""
        folders = {getattr(reader, "base_folder", None) for reader in self._readers}
        return folders.pop() if len(folders) == 1 else None

    @property
    def holds_audio(self) -> bool:
        """See `Manifest.record`."""
        return any(getattr(reader, "holds_audio", False) for reader in self._readers)

    @property
    def is_plain(self) -> bool:
        return all(getattr(reader, "is_plain", False) for reader in self._readers)

    @property
    def audio_folder(self) -> str | None:
        """See `Manifest.audio_folder`; of all the sources."""
        found = (getattr(reader, "audio_folder", None) for reader in self._readers)
        return ", ".join(dict.fromkeys(filter(None, found))) or None

    def line(self, index: int) -> bytes | None:
        """The line of a row in its file of JSON Lines; None where it has none."""
        reader, own = self._find(index)
        return reader.line(own) if hasattr(reader, "line") else None

    def _find(self, index: int) -> tuple[Reader, int]:
        at = bisect_right(self._firsts, index) - 1
        return self._readers[at], index - self._firsts[at]


_MOST_OPEN = 64  # manifests held open at a time; more are opened for each row


def open_texts(source: ManifestSource) -> list[TextFile]:
    """Its files, opened."""
    return [open_text(file, keep_open=len(source.files) <= _MOST_OPEN) for file in source.files]


def join(source: ManifestSource, readers: list[Reader]) -> Reader:
    return readers[0] if len(readers) == 1 else JoinedReader(source.path, readers)


def open_lines(
    source: ManifestSource, is_ours: Callable[[str], bool], read: Callable[[ManifestSource, TextFile], Reader]
) -> Reader | None:
    """When the files are of the format that was asked for, or look like it."""
    if not source.files or not all(map(is_file, source.files)):
        return None
    if source.format is None and not is_ours(source.files[0]):
        return None
    choose_split(source.path, [], source.options.split)
    return join(source, [read(source, file) for file in open_texts(source)])


def folder_of(source: ManifestSource, file: TextFile) -> str:
    return source.options.folder or os.path.dirname(file.path)


PIPE = "pipe:"
TIMEOUT_S = 300.0


def check_pipe(where: str, command: str, allowed: bool) -> str:
    """The `audio_filepath` that stands for a command. Raises BadRow: commands are not allowed."""
    if not allowed:
        fix = "give --allow-pipes to run it, or write files"
        raise InvalidRow(f"{where} = {show_text(command)}", "is a command, which is not run unasked", fix)
    return PIPE + command.strip().removesuffix("|").strip()


def run_pipe(command: str, name: str, folder: str) -> bytes:
    """What a command writes; killed, with all it started, after five minutes.

    Raises:
        RowError: unreadable: it failed, wrote nothing or took too long.
    """
    process = subprocess.Popen(
        command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        data, said = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as e:
        raise RowError("unreadable", f"{name}: took longer than {TIMEOUT_S:g} s") from e
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        words = " ".join(said.decode("utf-8", "replace").split())[-200:]
        raise RowError("unreadable", f"{name}: ended with exit status {process.returncode}: {words}")
    if not data:
        raise RowError("empty_audio", f"{name}: wrote nothing; correct the command, or drop the row", has_fix=True)
    return data
