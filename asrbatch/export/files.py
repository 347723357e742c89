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
from array import array
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asrbatch.errors import OutputError, UsageError
from asrbatch.export.formats import Format
from asrbatch.export.names import folded
from asrbatch.export.options import CueLimits
from asrbatch.export.transcript import Transcript
from asrbatch.formatting import counted, first_of
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

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was added, in order."""
        self._file.flush()
        return read_index(Path(self._file.name))


def read_index(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an index, as far as they are what one holds."""
    with open(path, "rb") as file:
        for text in file:
            with suppress(ValueError):
                line = json.loads(text)
                if type(line) is dict and type(line.get("id")) is str and type(line.get("file")) is str:
                    yield line


class FormerNames:
    """Names that an earlier export gave its files and that are none any more; 8 bytes are kept for each name that is.

    Args:
        index: of the earlier export.
        form: of its files.
        name: that of the files for all utterances, which are nobody's former name.
    """

    def __init__(self, index: Path, form: Format, name: str):
        self._index, self._ending = index, f".{form.extension}"
        self._whole = {f"{name}.{each.extension}" for each in (form, form.per_run) if each is not None}
        self._current = array("q")

    def add_current(self, file: str) -> None:
        self._current.append(hash(folded(file)))

    def of_utterances(self) -> dict[str, str]:
        """By id of the utterance, files that are still there."""
        current, found = np.unique(np.frombuffer(self._current, np.int64)), dict[str, str]()
        for line in read_index(self._index):
            utterance, file = line["id"], line["file"]
            at = np.searchsorted(current, key := hash(folded(file)))
            if (at < len(current) and current[at] == key) or file in self._whole or not file.endswith(self._ending):
                continue
            # An index that somebody edited must not have other files removed.
            if ".." not in file.split("/") and (self._index.parent / file).is_file():
                found[utterance] = file
        return found


class OneFileEach:
    """A file for every utterance.

    Attributes:
        path: of the index.
        paths: files that are replaced as a whole: the index.
        num_utterances: in these files.
        written, unchanged: numbers of files; the latter were there already, word for word.
        renamed: files that an earlier export had written under another name, and that now have their own.
        left_over: files that an earlier export had written for what is no utterance of these rows.
    """

    def __init__(self, folder: Path, name: str, form: Format, limits: CueLimits, overwrite: bool, files: ExitStack):
        self.path = folder / f"{name}.{form.extension}.index.jsonl"
        self.paths = [self.path]
        self.num_utterances = self.written = self.unchanged = self.renamed = 0
        self.left_over: list[str] = []
        self._folder, self._form, self._limits, self._overwrite = folder, form, limits, overwrite
        self._index = Index(self.path, files)
        self._former = FormerNames(self.path, form, name) if self.path.exists() else None
        self._num_in_the_way = 0
        self._first_in_the_way: list[str] = []

    def add(self, transcript: Transcript, name: str) -> None:
        """A file for one utterance.

        Args:
            name: without dot and extension: relative to the folder, or absolute.
        """
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
        if self._former is not None:
            self._former.add_current(file)

    def _replace(self, path: Path, content: bytes) -> None:
        # Not fsynced, unlike `replacing`: that would take days for ten million files. After a power cut some may be
        # empty; the next export finds that they differ, and says so.
        # In the folder itself, where the next export finds what this one leaves when it is killed.
        temporary = temporary_path(self._folder / path.name if path.is_relative_to(self._folder) else path)
        try:
            temporary.write_bytes(content)
            try:
                os.replace(temporary, path)
            except FileNotFoundError:  # asked for each of a million files, whether it has a folder would take longer
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def finish(self) -> None:
        """Raises OutputError when files were in the way, or still have former names; there is no new index then."""
        if self._num_in_the_way:
            folder = "" if os.path.isabs(self._first_in_the_way[0]) else f"{self._folder}: "
            files = counted(self._num_in_the_way, "file", "is there already and says", "are there already and say")
            first = first_of(self._first_in_the_way, _SHOWN, self._num_in_the_way)
            raise OutputError(
                f"{folder}{files} something else ({first}); they were left as they are, all others are written: "
                "--overwrite replaces them, or choose another --to"
            )
        if self._former is not None:
            with explained(self.path):
                self._take_former_names()

    def notes(self) -> list[str]:
        """What a person should know about files of an earlier export."""
        notes = []
        if self.renamed:
            notes.append(f"{counted(self.renamed, 'file', 'has', 'have')} another name now; the former was removed")
        if self.left_over:
            left, first = counted(len(self.left_over), "file"), first_of(self.left_over, _SHOWN)
            notes.append(f"{left} of an earlier export, of no row now, left as it was ({first})")
        return notes

    def _take_former_names(self) -> None:
        """Removes what an earlier export wrote under names that its utterances have no longer, unless it was edited:
        else both would stand there, and a player might take the older one."""
        edited = []
        former = self._former.of_utterances()
        for line in self._index.lines() if former else ():
            file = former.pop(line["id"], None)
            if file is None or os.path.samefile(self._folder / file, self._folder / line["file"]):
                continue
            if self._overwrite or filecmp.cmp(self._folder / file, self._folder / line["file"], shallow=False):
                os.unlink(self._folder / file)
                self.renamed += 1
            else:
                edited.append(f"{file}, now {line['file']}")
        self.left_over = list(former.values())
        if edited:
            folder = "" if os.path.isabs(edited[0]) else f"{self._folder}: "
            files = counted(len(edited), "file", "has", "have")
            raise OutputError(
                f"{folder}{files} another name than at an earlier export, and the former says something else "
                f"({first_of(edited, _SHOWN)}); remove the former, or --overwrite does"
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

    def notes(self) -> list[str]:
        """What a person should know about what it holds."""
        return []

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
