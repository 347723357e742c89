"""A folder or glob of audio as a manifest: every audio file is a row, with the text of a `.txt` beside it.

Files are known by their endings and taken in the order of their names. A folder's `metadata.jsonl` or `metadata.csv`
says what the rows are instead; it must then name every audio file there is, because a forgotten one would be lost
without a word."""

import glob
import heapq
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from asrbatch.errors import ManifestError
from asrbatch.formatting import first_of, is_data_uri, show_text
from asrbatch.manifest.readers.base import HashIndex, Reader
from asrbatch.manifest.readers.csv import CsvReader
from asrbatch.manifest.readers.jsonl import JsonlReader
from asrbatch.manifest.readers.sniff import JSONL_ENDINGS, Names, bare_name, is_audio, is_file, walk_files
from asrbatch.manifest.readers.text import open_text
from asrbatch.manifest.row import InvalidRow, Row, parse_row
from asrbatch.manifest.source import ManifestSource, common_folder
from asrbatch.storage.filenames import find_file, same_name
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.remote import is_remote
from asrbatch.types import AudioRef

_MOST_TEXT_BYTES = 1 << 20
_SHOWN_FILES = 5
_RECORD = ".run.json"  # of a run, from which the names of its other files follow
TEXT = ".txt"
_SUBTITLES = (".srt", ".vtt")
_MANIFESTS = (*JSONL_ENDINGS, ".csv", ".tsv", ".parquet", ".arrow", ".tar", ".yaml", ".yml")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")


class FolderReader(Reader):
    """Audio files, a row each.

    Args:
        source: absolute path or glob, for messages.
        folder: what paths in rows are relative to.
        files: relative paths, in any order.
        others: of files beside them that are no audio by their endings.
    """

    def __init__(self, source: str, folder: str, files: list[str], others: Iterable[str] = ()):
        self.source, self.base_folder = source, folder
        # Sorted: the order in which a file system lists them differs between machines, and ids follow it.
        self._files = Names(sorted(files))
        self.num_rows = len(self._files)
        stems = {same_name(os.path.splitext(file)[0]) for file in files}
        self.left_out = _left_out(folder, [name for name in others if not _is_beside_audio(same_name(name), stems)])

    def row(self, index: int) -> Row:
        path = self._files[index]
        if is_data_uri(path):  # it is a file all the same
            path = os.path.join(os.curdir, path)
        fields: dict[str, Any] = {"audio_filepath": path}
        if any("\udc80" <= c <= "\udcff" for c in path):
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise InvalidRow(f"audio_filepath = {show_text(shown)}", "its name is not UTF-8", "rename the file")
        if (text := self._text_beside(path)) is not None:
            fields["text"] = text
        return parse_row(fields, path)

    def audio(self, index: int, row: Row) -> AudioRef:
        return AudioRef(row.path, os.path.join(self.base_folder, row.path))

    def where(self, index: int) -> str:
        return os.path.join(self.base_folder, self._files[index])

    def _text_beside(self, path: str) -> str | None:
        name = os.path.splitext(path)[0] + TEXT
        place = find_file(os.path.join(self.base_folder, name))
        if not os.path.isfile(place):  # nor where the name is too long, and a pipe would not be read to its end
            return None
        try:
            with open(place, "rb") as file:
                # One byte more than allowed, to see that there is more.
                data = file.read(_MOST_TEXT_BYTES + 1)
        except OSError as e:
            raise InvalidRow(name, f"cannot be read: {e.strerror}", "give permission, or remove it") from e
        if len(data) > _MOST_TEXT_BYTES:
            raise InvalidRow(name, "is longer than 1 MB", "a transcript of one file was expected; move it elsewhere")
        try:
            return data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as e:
            raise InvalidRow(name, "not UTF-8", "save it as UTF-8") from e


def _is_beside_audio(name: str, stems: set[str]) -> bool:
    """Whether nobody expects it to be a row: the text of an audio file, or subtitles as `export --beside` names them.

    Args:
        stems: audio files without their endings.
    """
    stem, ending = os.path.splitext(name)
    if ending in _SUBTITLES and is_audio(stem):
        stem = os.path.splitext(stem)[0]
    return stem in stems and ending in (TEXT, *_SUBTITLES)


class _MetadataReader(JsonlReader):
    def _fields(self, line: dict[str, Any]) -> dict[str, Any]:
        """The rows of a `metadata.jsonl` call the path `file_name`."""
        if "file_name" not in line or "audio_filepath" in line:
            return line
        return {"audio_filepath" if name == "file_name" else name: value for name, value in line.items()}


class DescribedFolder(Reader):
    """A folder whose rows a metadata file says.

    Args:
        reader: of the metadata.
    """

    def __init__(self, folder: str, reader: Reader):
        self._folder, self._reader, self.source = folder, reader, reader.source
        self.base_folder, self.share_read = reader.base_folder, reader.share_read
        self.row, self.audio, self.where = reader.row, reader.audio, reader.where

    def rows(self) -> Iterator[Row | InvalidRow]:
        named, num_bad = array("q"), 0
        for row in self._reader.rows():
            if type(row) is InvalidRow:
                num_bad += 1
            elif row.path is not None:
                named.append(_key_of(row.path))
            yield row
        if num_bad:  # they may be what names the others
            return
        known = HashIndex(named)
        others = [path for path in walk_files(self._folder) if not known.find(_key_of(path))]
        self.left_out = _left_out(self._folder, [path for path in others if path not in METADATA])
        unnamed = list(filter(is_audio, others))
        if unnamed:
            shown = first_of(sorted(unnamed), _SHOWN_FILES)
            fix = "add them, move them away, or give the metadata file itself as the manifest"
            raise ManifestError(f"{self.source}: does not name {len(unnamed)} audio files beside it ({shown}); {fix}")


def _key_of(path: str) -> int:
    """A hash, equal for paths in a folder that name the same file, as `./a.wav` and `a.wav` do."""
    return hash(same_name(os.path.normpath(path)))


def find_metadata(folder: str) -> str | None:
    """The file that says what a folder of audio holds; None where there is none.

    Raises:
        ManifestError: there are two, or they stand in folders below, where they would not be read.
    """
    here = [name for name in METADATA if os.path.isfile(os.path.join(folder, name))]
    if len(here) > 1:
        raise ManifestError(f"{folder}: holds {' and '.join(here)}; keep one of them, which of the two is meant?")
    if here:
        return os.path.join(folder, here[0])
    # Metadata in folders below would say what their files are, and go unread.
    below = [file for file in walk_files(folder) if os.path.basename(file) in METADATA]
    if below and any(map(is_audio, walk_files(folder))):
        audio = os.path.join(folder, "**", "*.wav")
        fix = f"give one of those folders, or a glob of audio ('{audio}') to leave them unread"
        found = first_of(sorted(below), _SHOWN_FILES)
        raise ManifestError(f"{folder}: metadata stands in folders below it ({found}); {fix}")
    return None


def _left_out(folder: str, files: list[str]) -> str | None:
    """Which files are no rows, for whoever expects them to be; None for none. Not those of a run that was begun there,
    which nobody expects.
    """
    runs = [file.removesuffix(_RECORD) + ".jsonl" for file in files if file.endswith(_RECORD)]
    files = sorted(set(files) - {str(path) for run in runs for path in RunPaths(Path(run)).written})
    if not files:
        return None
    shown = first_of([show_text(file) for file in heapq.nsmallest(_SHOWN_FILES, files)], _SHOWN_FILES, len(files))
    left_out = "1 file is left out, no" if len(files) == 1 else f"{len(files)} files are left out, no"
    return f"{folder}: {left_out} audio by the ending ({shown}); a manifest that names such a file has it read"


def open_audio(source: ManifestSource) -> Reader | None:
    files: list[str] = []
    others: list[str] = []
    if source.is_folder:
        folder = source.path
        if (path := find_metadata(folder)) is not None:
            file = open_text(path)
            is_table = not path.endswith(".jsonl")
            reader = CsvReader(source, file) if is_table else _MetadataReader(source, file)
            return DescribedFolder(folder, reader)
        for file in walk_files(folder):
            (files if is_audio(file) else others).append(file)
    else:
        for file in source.files:
            (files if is_file(file) and not is_remote(file) and is_audio(file) else others).append(file)
        # As in a folder, but where the others were named one by one, or are manifests: not ours to pass over.
        if not files or (others and not (_is_glob(source.path) and all(map(_may_be_left_out, others)))):
            return None
        folder = common_folder(files)
        files, others = ([os.path.relpath(file, folder) for file in each] for each in (files, others))
    if not files:
        return None
    if source.options.names_columns:
        raise ManifestError(f"{source.path}: a folder of audio has no columns; leave out --audio-column and the like")
    return FolderReader(source.path, folder, files, others)


def _is_glob(path: str) -> bool:
    return "," not in path and glob.has_magic(path)


def _may_be_left_out(file: str) -> bool:
    """Whether it is a file, here, and not called as manifests are."""
    return is_file(file) and not is_remote(file) and not bare_name(file).endswith(_MANIFESTS)
