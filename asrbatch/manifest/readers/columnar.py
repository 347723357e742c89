"""Recognises Parquet and Arrow files and folders of `save_to_disk`, by their first bytes and names.

Imports no pyarrow: that happens when such a source is opened, in `parquet.py`, `arrow.py` and `table.py`.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from asrbatch.errors import ManifestError
from asrbatch.formatting import one_line
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import Reader
from asrbatch.manifest.readers.sniff import check_shards, head_of, is_file, shard_of
from asrbatch.manifest.source import ManifestSource, choose_split, common_folder

_HEADS = {"parquet": (b"PAR1",), "arrow": (b"ARROW1", b"\xff\xff\xff\xff")}  # of Arrow a file, and a stream


def open_saved(source: ManifestSource) -> Reader | None:
    """What `save_to_disk` of Hugging Face `datasets` wrote: one split, or a folder of several."""
    path, split = source.path, source.options.split
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        splits = _read_saved(path, "dataset_dict.json", lambda saved: list(map(str, saved["splits"])))
        label = choose_split(path, splits, split)
        folder = os.path.join(path, label)
    elif all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json")):
        folder, label = path, None
    else:
        return None
    # It lists the files in the order of their rows; names need not sort so.
    names, state = _read_saved(
        folder, "state.json", lambda saved: ([file["filename"] for file in saved["_data_files"]], saved)
    )
    if not names:  # datasets writes no file for a data set without rows
        raise ManifestError(f"{folder}: holds no rows; expected at least one utterance")
    if label is None:
        label = choose_split(path, filter(None, [state.get("_split")]), split) or "data"
    from asrbatch.manifest.readers.arrow import ArrowTable
    from asrbatch.manifest.readers.table import TableReader

    table = ArrowTable([os.path.join(folder, name) for name in names], folder)
    return TableReader(table, path, path, label, Columns(source.options))


def table_reader(source: ManifestSource, kind: str, files: list[str], label: str, folder: str) -> Reader:
    """The rows of files that are `parquet` or `arrow`; for `label` and `folder` see `TableReader`."""
    from asrbatch.manifest.readers.table import TableReader

    if kind == "parquet":
        from asrbatch.manifest.readers.parquet import ParquetTable as FileTable
    else:
        from asrbatch.manifest.readers.arrow import ArrowTable as FileTable
    return TableReader(FileTable(files), source.path, folder, label, Columns(source.options))


def open_table(source: ManifestSource, kind: str) -> Reader | None:
    """One file of that kind, a folder or a glob of such files."""
    found = _files_of_split(source, kind)
    if found is None:
        return None
    files, label = found
    return table_reader(source, kind, files, label, source.path if source.is_folder else common_folder(files))


def _files_of_split(source: ManifestSource, kind: str) -> tuple[list[str], str] | None:
    """The files of one split, in order, and what to call them; None if it is something else."""
    path, split = source.path, source.options.split

    def is_ours(file: str) -> bool:
        return is_file(file) and head_of(file).startswith(_HEADS[kind])

    if source.is_one and not source.is_folder:
        if not is_ours(path):
            return None
        shard = shard_of(path)
        choose_split(path, [shard[0]] if shard else [], split)
        # One shard of several is not the split: its rows are numbered from 0 again.
        return [path], shard[0] if shard and shard[2] == 1 else os.path.splitext(os.path.basename(path))[0]
    if source.is_folder:
        names = [name for name in os.listdir(path) if name.endswith(f".{kind}") and name[0] not in "._"]
        files = sorted(os.path.join(path, name) for name in names)
    else:
        files = list(source.files)
        # First and last are enough to decide: a glob of something else may match thousands of files.
        if not any(map(is_ours, files[:1] + files[-1:])):
            return None
    if not files:
        return None
    if others := [file for file in files if not is_ours(file)]:
        raise ManifestError(f"{path}: matches {others[0]}, which is not {kind.title()}; give files of one format")
    # Files of several splits in one folder, as the hub has them: only one of these is read.
    shards = [shard_of(file) for file in files]
    splits = sorted({shard[0] for shard in shards}) if all(shards) else []
    split = choose_split(path, splits, split)
    if splits:
        files = [file for file, shard in zip(files, shards, strict=True) if shard[0] == split]
        check_shards(f"{path}: {split}", files)
    return files, split or "data"


def _read_saved(folder: str, name: str, choose: Callable[[Any], Any]) -> Any:
    """What is wanted of a file that says what `save_to_disk` wrote."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return choose(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise ManifestError(f"{folder}: {name} cannot be read ({one_line(e)}); save the data set again") from e
