"""Opening tables and data sets: `save_to_disk`, Parquet, Arrow, the Hugging Face hub. Each returns None for what is not its own.

pyarrow and datasets are imported when such a source is opened, not before.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace

from .columns import Columns
from .errors import ManifestError
from .formats_tar import open_webdataset
from .formats_text import open_csv, open_jsonl
from .hub_names import is_data_set
from .manifest_heads import head_of, is_file
from .manifest_scan import Reader
from .manifest_shards import check_shards, shard_of
from .manifest_sources import Source, choose_split, common_folder

# What else data files of the hub may be, by the name of the module in datasets.
_OTHER_KINDS: dict[str, tuple[str, Callable[[Source], Reader | None]]] = {
    "json": ("jsonl", open_jsonl),
    "csv": ("csv", open_csv),
    "webdataset": ("webdataset", open_webdataset),
}
_PARQUET = (b"PAR1",)
_ARROW = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, a stream


def open_saved(source: Source) -> Reader | None:
    path = source.path
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        split = choose_split(path, _saved_splits(path), source.options.split)
        folder, label = os.path.join(path, split), split
    elif all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json")):
        folder, label = path, None
    else:
        return None
    from .manifest_dataset import SavedTable, TableReader

    table = SavedTable(folder)
    if label is None:
        label = choose_split(path, [table.split] if table.split else [], source.options.split) or "data"
    return TableReader(table, path, path, label, Columns(source.options))


def open_parquet(source: Source) -> Reader | None:
    found = _table_files(source, ".parquet", _PARQUET)
    if found is None:
        return None
    files, label = found
    folder = source.path if source.is_folder else common_folder(files)
    return _parquet_reader(source, files, label, folder)


def open_arrow(source: Source) -> Reader | None:
    found = _table_files(source, ".arrow", _ARROW)
    if found is None:
        return None
    files, label = found
    return _arrow_reader(source, files, label, source.path if source.is_folder else common_folder(files))


def open_hub(source: Source) -> Reader | None:
    """A data set on the hub, or a folder that is a copy of one."""
    from . import manifest_hub

    if is_data_set(source.path):
        found = manifest_hub.find_on_hub(source.path, source.options)
    elif source.is_folder and manifest_hub.is_copy(source.path):
        found = manifest_hub.find_in_folder(source.path, source.options)
    else:
        return None
    files, asked = list(found.files), source.format
    options = replace(source.options, format=None, split=None, folder=found.folder)
    source = Source(found.source, found.files, options)
    if found.kind == "parquet":
        reader = _parquet_reader(source, files, found.split, found.folder)
    elif found.kind == "arrow":
        reader = _arrow_reader(source, files, found.split, found.folder)
    else:
        format, opened = _OTHER_KINDS.get(found.kind, (None, None))
        reader = opened and opened(replace(source, options=replace(options, format=format)))
        if reader is None and found.folder == found.source and asked is None:
            return None  # a folder here: perhaps one of audio
        if reader is None:
            fix = "the hub keeps most data sets as Parquet as well: add @refs/convert/parquet to the name"
            raise ManifestError(f"{found.source}: holds files that datasets reads as {found.kind}, which is not supported; {fix}")
    num_rows = getattr(reader, "num_rows", None)
    if found.num_rows is not None and num_rows is not None and num_rows != found.num_rows:
        problem = f"its card says that {found.split} has {found.num_rows} rows, its files hold {num_rows}"
        raise ManifestError(f"{found.source}: {problem}; fetch it again, or give the files themselves to run those")
    return reader


def _parquet_reader(source: Source, files: list[str], label: str, folder: str) -> Reader:
    from .manifest_dataset import TableReader
    from .manifest_parquet import ParquetTable

    return TableReader(ParquetTable(files), source.path, folder, label, Columns(source.options))


def _arrow_reader(source: Source, files: list[str], label: str, folder: str) -> Reader:
    from .manifest_arrow import ArrowTable
    from .manifest_dataset import TableReader

    return TableReader(ArrowTable(files), source.path, folder, label, Columns(source.options))


def _table_files(source: Source, ending: str, heads: tuple[bytes, ...]) -> tuple[list[str], str] | None:
    """The files of one split, in order, and what to call them; None if it is something else."""
    path, split = source.path, source.options.split

    def is_ours(file: str) -> bool:
        return is_file(file) and head_of(file).startswith(heads)

    if source.is_one and not source.is_folder:
        if not is_ours(path):
            return None
        shard = shard_of(path)
        choose_split(path, [shard[0]] if shard else [], split)
        # One shard of several is not the split: its rows are numbered from 0 again.
        return [path], shard[0] if shard and shard[2] == 1 else os.path.splitext(os.path.basename(path))[0]
    if source.is_folder:
        names = [name for name in os.listdir(path) if name.endswith(ending) and name[0] not in "._"]
        files = sorted(os.path.join(path, name) for name in names)
    else:
        files = list(source.files)
        if not any(map(is_ours, files[:1] + files[-1:])):
            return None
    if not files:
        return None
    for file in files:
        if not is_ours(file):
            what = "Parquet" if heads is _PARQUET else "Arrow"
            raise ManifestError(f"{path}: matches {file}, which is not {what}; give files of one format")
    shards = [shard_of(file) for file in files]
    splits = sorted({shard[0] for shard in shards}) if all(shards) else []
    split = choose_split(path, splits, split)
    if splits:
        files = [file for file, shard in zip(files, shards, strict=True) if shard[0] == split]
        check_shards(f"{path}: {split}", files)
    return files, split or "data"


def _saved_splits(path: str) -> list[str]:
    try:
        with open(os.path.join(path, "dataset_dict.json"), encoding="utf-8") as file:
            return [str(split) for split in json.load(file)["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ManifestError(f"{path}: dataset_dict.json cannot be read ({e}); save the data set again") from e
