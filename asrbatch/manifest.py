"""Rows in: `open_manifest` recognises what it is given, checks all of it once, and then reads any row at any time.

Knows which formats there are and how to tell them apart; how each is read is the business of `manifest_*.py`, and what
a row may say that of `rows.py`. Opening reads nothing about audio and keeps no rows. Importing this module imports no
pyarrow and no datasets.

A new format: a reader (`manifest_scan.Reader`), a function here that opens it or returns None, a line in `_FORMATS`.
"""

import glob
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable

from .errors import ManifestError
from .file_heads import known_head
from .manifest_files import manifest_changed
from .manifest_jsonl import JsonlReader
from .manifest_scan import Check, Reader, Scan, make_utterance, scan_rows
from .rows import BadRow, show
from .types import Utterance

__all__ = ["Manifest", "Scan", "open_manifest"]

ACCEPTED = (
    "a JSON Lines file (one object per line), a folder written by save_to_disk, or Parquet (a file, a folder or a glob of files)"
)
_HEAD_BYTES = 4096
_JSONL_ENDINGS = (".jsonl", ".json", ".ndjson", ".manifest")
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(?:-[0-9a-f]+)?")  # the hub's names: train-00000-of-00004(-hash).parquet


class Manifest:
    """The rows of one source, checked. `len(manifest)` is the number of rows; made by `open_manifest`.

    Attributes:
        source: absolute path (or glob) as a string.
        scan: what the one pass at opening found.
    """

    def __init__(self, reader: Reader, check: Check | None = None):
        self._reader = reader
        self.source = reader.source
        self.scan, self._ids = scan_rows(reader, check)

    def __len__(self) -> int:
        return self.scan.num_rows

    @property
    def keys(self) -> array:
        """int64 [rows], `hash(id)`: means nothing to a process that was not forked from this one."""
        return self._ids.keys

    def where(self, index: int) -> str:
        """File and line, or row, of a row; for messages."""
        return self._reader.where(index)

    def read(self, index: int) -> Utterance:
        """Row `index` (0-based), with the id the scan gave it. From any thread; reads nothing about its audio.

        Raises:
            IndexError: no such row.
            ManifestError: the manifest changed since it was opened, or cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source}: no row {index}; there are {len(self)}, from 0")
        index = int(index)  # a numpy integer would end up in the output
        try:
            row = self._reader.row(index)
        except BadRow as e:  # it was good when it was scanned
            raise manifest_changed(self._reader.where(index)) from e
        except OSError as e:
            raise ManifestError(f"{self.source}: row {index} cannot be read: {e}") from e
        row_id = self._ids.final(index, row)
        if hash(row_id) != self._ids.keys[index]:
            raise manifest_changed(self._reader.where(index))
        return make_utterance(self._reader, index, row_id, row)


def open_manifest(source: str | os.PathLike[str], *, split: str | None = None, check: Check | None = None) -> Manifest:
    """Open a manifest and check every row of it.

    Args:
        source: a JSON Lines file; a folder written by `save_to_disk` of Hugging Face datasets; a Parquet file, or a
            folder or glob of Parquet files, which are read in the order of their names.
        split: which split of a data set. Needed if there are several.
        check: called once with every good row; returns None, or `value: problem; fix` for a row this run cannot do.
            Ids of rows that repeat are not numbered yet then, and a data set's columns of lists, structs and bytes are
            left out.

    Raises:
        ManifestError: it is none of these, cannot be read, holds no rows, or holds bad ones (all reported together).
    """
    path = os.path.abspath(os.fspath(source))
    try:
        for open_format in _FORMATS:
            if (reader := open_format(path, split)) is not None:
                return Manifest(reader, check)
        raise ManifestError(f"{path}: {_describe(path)}; accepted are {ACCEPTED}")
    except OSError as e:  # a folder without permission, a disk that fails during the scan
        raise ManifestError(f"{path}: cannot be read: {e}") from e


def _open_saved(path: str, split: str | None) -> Reader | None:
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        split = _choose_split(path, _saved_splits(path), split)
        folder, label = os.path.join(path, split), split
    elif all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json")):
        folder, label = path, None
    else:
        return None
    from .manifest_dataset import SavedTable, TableReader

    table = SavedTable(folder)
    if label is None:
        label = _choose_split(path, [table.split] if table.split else [], split) or "data"
    return TableReader(table, path, path, label)


def _saved_splits(path: str) -> list[str]:
    try:
        with open(os.path.join(path, "dataset_dict.json"), encoding="utf-8") as file:
            return [str(split) for split in json.load(file)["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ManifestError(f"{path}: dataset_dict.json cannot be read ({e}); save the data set again") from e


def _open_parquet(path: str, split: str | None) -> Reader | None:
    if os.path.isfile(path):
        if _head(path)[:4] != b"PAR1":
            return None
        files = [path]
        shard = _shard(path)
        # One shard of several is not the split: its rows are numbered from 0 again.
        label = shard[1] if shard and int(shard[2]) == 1 else os.path.splitext(os.path.basename(path))[0]
        _choose_split(path, [shard[1]] if shard else [], split)
    else:
        if os.path.isdir(path):
            names = [name for name in os.listdir(path) if name.endswith(".parquet") and name[0] not in "._"]
            files = sorted(os.path.join(path, name) for name in names)
        else:
            files = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
        if not files:
            return None
        for file in files:
            if not os.path.isfile(file) or _head(file)[:4] != b"PAR1":
                raise ManifestError(f"{path}: matches {file}, which is not Parquet; accepted are {ACCEPTED}")
        splits = sorted({shard[1] for shard in map(_shard, files) if shard}) if all(map(_shard, files)) else []
        split = _choose_split(path, splits, split)
        if splits:
            files = [file for file in files if _shard(file)[1] == split]
        label = split or "data"
    from .manifest_dataset import TableReader
    from .manifest_parquet import ParquetTable

    folder = path if os.path.isdir(path) else os.path.commonpath([os.path.dirname(file) for file in files])
    return TableReader(ParquetTable(files), path, folder, label)


def _shard(path: str) -> re.Match[str] | None:
    return _SHARD.fullmatch(os.path.splitext(os.path.basename(path))[0])


def _choose_split(path: str, splits: Iterable[str], split: str | None) -> str | None:
    """The split to read; None if the source knows of none. Raises ManifestError."""
    splits = list(splits)
    found = ", ".join(splits)
    if split is None:
        if len(splits) > 1:
            raise ManifestError(f"{path}: holds several splits ({found}); choose one with --split")
        return splits[0] if splits else None
    if not splits:
        raise ManifestError(f"{path}: has no splits, so --split {split} means nothing; leave it out")
    if split not in splits:
        raise ManifestError(f"{path}: has no split {show(split)}; there is {found}")
    return split


def _open_jsonl(path: str, split: str | None) -> Reader | None:
    if not os.path.isfile(path):
        return None
    head = _head(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    # A file that is called JSON Lines and begins otherwise has a bad first line; report it with the other bad ones.
    called_jsonl = path.lower().endswith(_JSONL_ENDINGS) and not known_head(head) and not start.startswith(b"[")
    if start and not start.startswith(b"{") and not called_jsonl:
        return None
    _choose_split(path, [], split)
    return JsonlReader(path)


# Tried in this order. Each takes (absolute path or glob, split) and returns None for what is not its own.
_FORMATS: tuple[Callable[[str, str | None], Reader | None], ...] = (_open_saved, _open_parquet, _open_jsonl)


def _describe(path: str) -> str:
    """What was found instead of a manifest."""
    if not os.path.lexists(path):
        return "no file matches" if glob.has_magic(path) else "does not exist"
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        return f"is a folder with {shown}" if names else "is an empty folder"
    if not os.path.isfile(path):
        return "is not a regular file"
    head = _head(path)
    if known := known_head(head):
        return f"is {known[0]}, {known[1]}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return "is one JSON array, write each of its objects on a line of its own"
    first_line = start.partition(b"\n")[0].decode("utf-8", "backslashreplace")
    return f"starts with {show(first_line)}"


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as e:
        raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e
