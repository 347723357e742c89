"""The files of an export: one for each utterance, or one for all, and an index of them. Nothing is ever half written.

A file that is there and says something else was edited by hand, or made from other rows: it is left as it is unless
overwriting was asked for. Knows nothing of rows files, and of a format only what it writes.
"""

import filecmp
import functools
import json
import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from asrbatch.errors import OutputError, UsageError
from asrbatch.export.formats import Format
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import Transcript
from asrbatch.formatting import first_of
from asrbatch.storage import files as storage_files
from asrbatch.storage.files import json_bytes, refuse_irregular, replacing, temporary_path

_INDEX_FIELDS = ["id", "index", "file"]
_SHOWN = 3
# Files that are there already are compared and skipped, so that a second run only writes what is missing.
_FIX = "run the same command again when that is mended: it goes on from here"
explained = functools.partial(storage_files.explained, fix=_FIX)


class Index:
    """Which file holds which utterance: one JSON line for each. Takes its place when all of its files are in theirs.

    Args:
        path: `X.FORMAT.index.jsonl`. An index that stands there is replaced.

    Raises:
        OutputError: something else stands there.
    """

    def __init__(self, path: Path, files: ExitStack):
        self.path = path
        refuse_irregular(path)
        with explained(path):
            if path.exists() and not _is_index(path):
                raise OutputError(f"{path}: is no index of an export; move it away, or choose another --to")
            self._file = files.enter_context(replacing(path))

    def add(self, transcript: Transcript, file: str) -> None:
        line = dict(zip(_INDEX_FIELDS, (transcript.id, transcript.index, file), strict=True))
        with explained(self.path):
            self._file.write(json_bytes(line) + b"\n")


class OneFileEach:
    """A file for every utterance.

    Attributes:
        path: of the index.
        paths: files that are replaced as a whole: the index.
        num_utterances: in these files.
        written, unchanged: numbers of files; the latter were there already, word for word.
    """

    def __init__(self, folder: Path, name: str, form: Format, limits: CueLimits, overwrite: bool, files: ExitStack):
        self.path = folder / f"{name}.{form.extension}.index.jsonl"
        self.paths = [self.path]
        self.num_utterances = self.written = self.unchanged = 0
        self._folder, self._form, self._limits, self._overwrite = folder, form, limits, overwrite
        self._index = Index(self.path, files)
        self._num_in_the_way = 0
        self._first_in_the_way: list[str] = []

    def add(self, transcript: Transcript, name: str) -> None:
        file = f"{name}.{self._form.extension}"
        path = self._folder / file
        head = self._form.head if transcript.has_words else self._form.head + self._form.note
        content = (head + self._form.write(transcript, self._limits)).encode()
        with explained(path):
            is_there = _has_content(path, content)
            if is_there is False and not (self._overwrite and path.is_file()):
                self._num_in_the_way += 1
                self._first_in_the_way += [file] if self._num_in_the_way <= _SHOWN else []
                return
            if not is_there:
                self._replace(path, content)
        self.num_utterances += 1
        self.unchanged += bool(is_there)
        self.written += not is_there
        self._index.add(transcript, file)

    def _replace(self, path: Path, content: bytes) -> None:
        # Not fsynced, unlike `replacing`: that would take days for ten million files. After a power cut some may be
        # empty; the next export finds that they differ, and says so.
        temporary = temporary_path(path)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def finish(self) -> None:
        """Raises OutputError when files were in the way; there is no new index then."""
        if self._num_in_the_way:
            raise OutputError(
                f"{self._folder}: {self._num_in_the_way} files are there already and say something else "
                f"({first_of(self._first_in_the_way, _SHOWN, self._num_in_the_way)}); they were left as they are, "
                "all others are written: --overwrite replaces them, or choose another --to"
            )


class WholeFile:
    """A file that takes its place whole or not at all, and not that of another one unless asked.

    Attributes:
        file: to be written.
        paths: this file, and the index where there is one.
        num_utterances: in it.
        written, unchanged: 1 and 0, or 0 and 1 where the file was there already, word for word.
    """

    def __init__(self, path: Path, overwrite: bool, files: ExitStack):
        self.path = path
        self.paths = [path]
        self.num_utterances = self.written = self.unchanged = 0
        self._overwrite = overwrite
        with explained(path):
            self.file: BinaryIO = files.enter_context(replacing(path))

    def finish(self) -> None:
        """Raises OutputError when another file is in the way."""
        with explained(self.path):
            self.file.flush()
            self.unchanged = int(self.path.is_file() and filecmp.cmp(self.file.name, self.path, shallow=False))
            self.written = 1 - self.unchanged
            if self.written and self.path.exists() and not (self._overwrite and self.path.is_file()):
                raise OutputError(
                    f"{self.path}: is there already and says something else; it was left as it is: "
                    "--overwrite replaces it, or choose another --to"
                )


class OneFile(WholeFile):
    """One file for all utterances, in the layout of the format's `per_run`."""

    def __init__(self, folder: Path, name: str, form: Format, limits: CueLimits, overwrite: bool, files: ExitStack):
        # A format without a place for more than one utterance writes the file of that one.
        self._form, self._only_one = form.per_run or form, form.per_run is None
        self._limits = limits
        self._index = Index(folder / f"{name}.{form.extension}.index.jsonl", files)
        self._unsorted: BinaryIO | None = None
        self._places: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)  # by recording: start, length in it
        self._all_have_words = True
        super().__init__(folder / f"{name}.{self._form.extension}", overwrite, files)
        self.paths.append(self._index.path)
        with explained(self.path):
            self.file.write(self._form.head.encode())
            if self._form.sort_key:
                # It has no name on the disk: nothing is left behind whatever happens.
                self._unsorted = files.enter_context(tempfile.TemporaryFile(dir=folder))

    def add(self, transcript: Transcript, name: str) -> None:
        self.num_utterances += 1
        if self._only_one and self.num_utterances > 1:
            raise UsageError(
                f"--per-run --format {self._form.extension}: a file of that format holds one utterance, "
                "and there are more"
            )
        content = self._form.write(transcript, self._limits).encode()
        self._all_have_words &= transcript.has_words
        with explained(self.path):
            if self._unsorted and content:
                self._places[content.split(b" ", 1)[0]].append((self._unsorted.tell(), len(content)))
            (self._unsorted or self.file).write(content)
        self._index.add(transcript, self.path.name)

    def finish(self) -> None:
        if self._unsorted:
            with explained(self.path):
                if not self._all_have_words:
                    self.file.write(self._form.note.encode())
                # One recording at a time is in memory, not the file.
                for _, places in sorted(self._places.items()):
                    self.file.writelines(sorted(self._lines(self._unsorted, places), key=self._form.sort_key))
        super().finish()

    @staticmethod
    def _lines(file: BinaryIO, places: list[tuple[int, int]]) -> Iterator[bytes]:
        for start, length in places:
            file.seek(start)
            yield from file.read(length).splitlines(keepends=True)


def _has_content(path: Path, content: bytes) -> bool | None:
    """Whether what stands at `path` is a file with this content; None where nothing stands there."""
    # One stat for each of millions of files: a shared file system takes milliseconds for an answer.
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.S_ISREG(there.st_mode) and there.st_size == len(content) and path.read_bytes() == content


def _is_index(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        line = file.readline(1_000_000)
    try:
        return not line or list(json.loads(line)) == _INDEX_FIELDS
    except (ValueError, TypeError):
        return False
