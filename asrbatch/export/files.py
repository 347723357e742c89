"""The files of an export: one for each utterance or one for all, with an index of them. Nothing is ever half written.

A file that is there already and says something else was made by somebody else, by hand, or from other rows: it is left
as it is unless asked otherwise. Knows nothing of rows files, and of a format only how it is written."""

import filecmp
import json
import os
import secrets
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from asrbatch.errors import OutputError, UsageError
from asrbatch.export.formats import Format, PerRun
from asrbatch.export.subtitles import CueLimits
from asrbatch.export.transcript import Transcript
from asrbatch.formatting import first_of
from asrbatch.storage.files import json_bytes, replacing

_INDEX_FIELDS = ["id", "index", "file"]
_SHOWN = 3


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError into an `OutputError` that names the file and the fix."""
    try:
        yield
    except OSError as e:
        raise OutputError(
            f"{path}: {e.strerror or e}; run the same command again when that is mended: it goes on from here"
        ) from e


class Index:
    """Which file holds which utterance: one JSON line for each. Takes its place when all of its files are in theirs.

    Args:
        path: `X.FORMAT.index.jsonl`. An index that stands there is replaced.

    Raises:
        OutputError: something else stands there.
    """

    def __init__(self, path: Path, files: ExitStack):
        self.path = path
        with explained(path):
            if path.exists() and not _is_index(path):
                raise OutputError(f"{path}: is no index of an export; move it away, or choose another --to")
            self._file = files.enter_context(replacing(path))

    def add(self, spoken: Transcript, file: str) -> None:
        with explained(self.path):
            self._file.write(json_bytes({"id": spoken.id, "index": spoken.index, "file": file}) + b"\n")


class OneFileEach:
    """A file for every utterance.

    Renamed into place one by one, not fsynced: that would take days for ten million files. After a power cut some may
    be empty; the next export finds them to differ and says so.

    Attributes:
        written, unchanged: numbers of files; the latter were there already, word for word.
    """

    def __init__(self, folder: Path, name: str, form: Format, rules: CueLimits, overwrite: bool, files: ExitStack):
        self.path = folder / f"{name}.{form.extension}.index.jsonl"
        self.written = self.unchanged = 0
        self._folder, self._form, self._rules, self._overwrite = folder, form, rules, overwrite
        self._index = Index(self.path, files)
        self._in_the_way: list[str] = []
        self._num_in_the_way = 0
        self._token = secrets.token_hex(4)

    def add(self, spoken: Transcript, name: str) -> None:
        file = f"{name}.{self._form.extension}"
        path = self._folder / file
        content = (self._form.head + self._form.write(spoken, self._rules)).encode()
        with explained(path):
            there = _standing(path, content)
            if there == _SAME:
                self.unchanged += 1
            elif there == _NOTHING or (there == _ANOTHER_FILE and self._overwrite):
                self._put(path, content)
                self.written += 1
            else:
                self._in_the_way += [file] if len(self._in_the_way) < _SHOWN else []
                self._num_in_the_way += 1
                return
        self._index.add(spoken, file)

    def _put(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{self._token}")
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
                f"({first_of(self._in_the_way, _SHOWN, self._num_in_the_way)}); they were left as they are, "
                "all others are written: --overwrite replaces them, or choose another --to"
            )


class WholeFile:
    """A file that takes its place whole or not at all, and not that of another one unless asked.

    Attributes:
        file: to be written.
        written, unchanged: 1 and 0, or 0 and 1 where the file was there already, word for word.
    """

    def __init__(self, path: Path, overwrite: bool, files: ExitStack):
        self.path = path
        self.written = self.unchanged = 0
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
                    f"{self.path}: is there already and says something else; it was left as it is: --overwrite "
                    f"replaces it, or "
                    "choose another --to"
                )


class OneFile(WholeFile):
    """One file for all utterances."""

    def __init__(self, folder: Path, name: str, form: Format, rules: CueLimits, overwrite: bool, files: ExitStack):
        # A format without a place for more than one utterance writes the file of that one.
        self._layout = form.per_run or PerRun(form.extension, form.write, form.head)
        self._only_one = form.per_run is None
        self._rules = rules
        self._index = Index(folder / f"{name}.{form.extension}.index.jsonl", files)
        self._unsorted: BinaryIO | None = None  # has no name: nothing is left behind whatever happens
        self._places: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)  # by recording: start, length in it
        super().__init__(folder / f"{name}.{self._layout.extension}", overwrite, files)
        with explained(self.path):
            self.file.write(self._layout.head.encode())
            if self._layout.sort_key:
                self._unsorted = files.enter_context(tempfile.TemporaryFile(dir=folder))
        self._num_utterances = 0

    def add(self, spoken: Transcript, name: str) -> None:
        self._num_utterances += 1
        if self._only_one and self._num_utterances > 1:
            extension = self._layout.extension
            raise UsageError(
                f"--per-run --format {extension}: a file of that format holds one utterance, and there are more"
            )
        content = self._layout.write(spoken, self._rules).encode()
        with explained(self.path):
            if self._unsorted and content:
                self._places[content.split(b" ", 1)[0]].append((self._unsorted.tell(), len(content)))
                self._unsorted.write(content)
            else:
                self.file.write(content)
        self._index.add(spoken, self.path.name)

    def finish(self) -> None:
        if self._unsorted:
            with explained(self.path):
                for _, places in sorted(self._places.items()):
                    self.file.writelines(sorted(self._lines(self._unsorted, places), key=self._layout.sort_key))
        super().finish()

    @staticmethod
    def _lines(file: BinaryIO, places: list[tuple[int, int]]) -> Iterator[bytes]:
        for at, length in places:
            file.seek(at)
            yield from file.read(length).splitlines(keepends=True)


_NOTHING, _SAME, _ANOTHER_FILE, _NO_FILE = range(4)


def _standing(path: Path, content: bytes) -> int:
    """What stands at `path`: nothing, a file with this content, a file with another, or no file at all."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return _NOTHING
    if not stat.S_ISREG(there.st_mode):
        return _NO_FILE
    return _SAME if there.st_size == len(content) and path.read_bytes() == content else _ANOTHER_FILE


def _is_index(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        line = file.readline(1_000_000)
    try:
        return not line or list(json.loads(line)) == _INDEX_FIELDS
    except (ValueError, TypeError):
        return False
