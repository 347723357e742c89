"""Which formats of manifest there are, in which order they are tried, and which options each takes.

How each is recognised is told in `formats_*.py`, how it is read in `manifest_*.py`. Importing this module imports no
pyarrow and no datasets.

A new format: a reader (`manifest_scan.Reader`), a function in `formats_*.py` that opens it or returns None, a line in
`_FORMATS`.

Opening tables and data sets: `save_to_disk`, Parquet, Arrow, the Hugging Face hub. Each returns None for what is not
its own.

pyarrow and datasets are imported when such a source is opened, not before.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, UsageError
from asrbatch.formatting import show
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import Reader
from asrbatch.manifest.readers.csv import csv_reader, has_header, open_csv, open_tsv, tsv_reader
from asrbatch.manifest.readers.folder import open_audio
from asrbatch.manifest.readers.jsonl import jsonl_reader, open_jsonl
from asrbatch.manifest.readers.kaldi import open_kaldi
from asrbatch.manifest.readers.lhotse import cuts_reader, looks_like_cuts, open_lhotse
from asrbatch.manifest.readers.sniff import HEAD_BYTES, check_alone, check_shards, describe, head_of, is_file, shard_of
from asrbatch.manifest.readers.tar import open_nemo_tars, open_webdataset
from asrbatch.manifest.readers.text import LocalFile, TextFile, open_text, unpacked
from asrbatch.manifest.source import (
    ManifestSource,
    choose_split,
    common_folder,
    is_data_set,
    is_source_file,
    read_source_file,
    resolve,
)
from asrbatch.storage.jsonl import known_head


def text_reader(source: ManifestSource, file: TextFile, format: str) -> Reader:
    """The rows of one text that is of that format: `jsonl`, `lhotse`, `csv` or `tsv`."""
    return {"jsonl": jsonl_reader, "lhotse": cuts_reader, "csv": csv_reader, "tsv": tsv_reader}[format](source, file)


def format_of(head: bytes, options: SourceOptions) -> str | None:
    """Which of these a text that begins so is, when it has no name to tell; None for what looks like none of them."""
    if looks_like_cuts(head):
        return "lhotse"
    if has_header(head, options):
        return "csv"
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    # Where only its first line is a bad one, that is reported with the other bad ones.
    return "jsonl" if not head.strip() or any(line.lstrip().startswith(b"{") for line in lines) else None


# What else data files of the hub may be, by the name of the module in datasets.
_OTHER_KINDS: dict[str, tuple[str, Callable[[ManifestSource], Reader | None]]] = {
    "json": ("jsonl", open_jsonl),
    "csv": ("csv", open_csv),
    "webdataset": ("webdataset", open_webdataset),
}
_PARQUET = (b"PAR1",)
_ARROW = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, a stream


def open_saved(source: ManifestSource) -> Reader | None:
    path = source.path
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        split = choose_split(path, _saved_splits(path), source.options.split)
        folder, label = os.path.join(path, split), split
    elif all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json")):
        folder, label = path, None
    else:
        return None
    from asrbatch.manifest.readers.arrow import SavedTable
    from asrbatch.manifest.readers.table import TableReader

    table = SavedTable(folder)
    if label is None:
        label = choose_split(path, [table.split] if table.split else [], source.options.split) or "data"
    return TableReader(table, path, path, label, Columns(source.options))


def open_parquet(source: ManifestSource) -> Reader | None:
    found = _table_files(source, ".parquet", _PARQUET)
    if found is None:
        return None
    files, label = found
    folder = source.path if source.is_folder else common_folder(files)
    return _parquet_reader(source, files, label, folder)


def open_arrow(source: ManifestSource) -> Reader | None:
    found = _table_files(source, ".arrow", _ARROW)
    if found is None:
        return None
    files, label = found
    return _arrow_reader(source, files, label, source.path if source.is_folder else common_folder(files))


def open_hub(source: ManifestSource) -> Reader | None:
    """A data set on the hub, or a folder that is a copy of one."""
    from asrbatch.manifest.readers import hub

    if is_data_set(source.path):
        found = hub.find_on_hub(source.path, source.options)
    elif source.is_folder and hub.is_copy(source.path):
        found = hub.find_in_folder(source.path, source.options)
    else:
        return None
    files, asked = list(found.files), source.format
    options = replace(source.options, format=None, split=None, folder=found.folder)
    source = ManifestSource(found.source, found.files, options)
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
            raise ManifestError(
                f"{found.source}: holds files that datasets reads as {found.kind}, which is not supported; {fix}"
            )
    num_rows = getattr(reader, "num_rows", None)
    if found.num_rows is not None and num_rows is not None and num_rows != found.num_rows:
        problem = f"its card says that {found.split} has {found.num_rows} rows, its files hold {num_rows}"
        raise ManifestError(f"{found.source}: {problem}; fetch it again, or give the files themselves to run those")
    return reader


def _parquet_reader(source: ManifestSource, files: list[str], label: str, folder: str) -> Reader:
    from asrbatch.manifest.readers.parquet import ParquetTable
    from asrbatch.manifest.readers.table import TableReader

    return TableReader(ParquetTable(files), source.path, folder, label, Columns(source.options))


def _arrow_reader(source: ManifestSource, files: list[str], label: str, folder: str) -> Reader:
    from asrbatch.manifest.readers.arrow import ArrowTable
    from asrbatch.manifest.readers.table import TableReader

    return TableReader(ArrowTable(files), source.path, folder, label, Columns(source.options))


def _table_files(source: ManifestSource, ending: str, heads: tuple[bytes, ...]) -> tuple[list[str], str] | None:
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


ACCEPTED = (
    "a JSON Lines file (one object per line), a folder written by save_to_disk, Parquet and Arrow files, CSV and TSV "
    "with a "
    "header, a folder or glob of audio, a Kaldi folder, lhotse cuts, tars of NeMo or WebDataset, hf://NAME, "
    "a TOML file that names one of these, - for standard input"
)


class _Format(NamedTuple):
    """How a format is opened, and which of the options that not every format has it takes."""

    open: Callable[[ManifestSource], Reader | None]
    takes: tuple[str, ...] = ()


_COLUMNS = ("audio_column", "text_column", "id_column")
# Tried in this order.
_FORMATS = {
    "saved": _Format(open_saved, _COLUMNS),
    "hub": _Format(open_hub, ("dataset_config", "streaming", *_COLUMNS)),
    "parquet": _Format(open_parquet, _COLUMNS),
    "arrow": _Format(open_arrow, _COLUMNS),
    "kaldi": _Format(open_kaldi, ("allow_pipes",)),
    "nemo-tar": _Format(open_nemo_tars, ("tars", *_COLUMNS)),
    "webdataset": _Format(open_webdataset, ("text_column", "id_column")),
    "folder": _Format(open_audio, _COLUMNS),  # of its metadata
    "lhotse": _Format(open_lhotse, ("allow_pipes", "folder", *_COLUMNS)),
    "jsonl": _Format(open_jsonl, ("folder", *_COLUMNS)),
    "csv": _Format(open_csv, ("folder", *_COLUMNS)),
    "tsv": _Format(open_tsv, ("folder", *_COLUMNS)),
}
# Those that not every format takes; --split is refused by each format that has none.
_OPTIONS = {
    "dataset_config": "--config", "streaming": "--streaming", "tars": "--tars", "allow_pipes": "--allow-pipes",
    "audio_column": "--audio-column", "text_column": "--text-column", "id_column": "--id-column",
    "folder": "--audio-folder",
}  # fmt: skip
_TEXTS = ("jsonl", "lhotse", "csv", "tsv")


def open_reader(given: str, options: SourceOptions) -> Reader:
    """The rows of what is given, not checked yet.

    Raises:
        UsageError: an option that what it is does not take.
        ManifestError: it is none of the formats, not the one that was asked for, or cannot be opened.
    """
    if given == "-":
        return _read_stdin(options)
    if is_source_file(given):
        given, options = read_source_file(given, options)
    source = resolve(given, options)
    if source.format is not None:
        reader = _FORMATS[source.format].open(source) if source.files else None
        if reader is None:
            raise ManifestError(f"{source.path}: {describe(source)}; that is not --format {source.format}")
        _check_options(source, source.format)
        return reader
    for name, format in _FORMATS.items():
        if (reader := format.open(source)) is not None:
            if source.is_folder:
                check_alone(source.path, name)
            _check_options(source, name)
            return reader
    raise ManifestError(f"{source.path}: {describe(source)}; accepted are {ACCEPTED}")


def _check_options(source: ManifestSource, name: str) -> None:
    for field, option in _OPTIONS.items():
        if getattr(source.options, field) not in (None, False) and field not in _FORMATS[name].takes:
            able = [f"--format {each}" for each, format in _FORMATS.items() if field in format.takes]
            fix = f"leave it out; it is for {', '.join(able[:-1])}{' and ' if able[1:] else ''}{able[-1]}"
            raise UsageError(f"{option}: means nothing for {source.path}, which is read as --format {name}; {fix}")


def _read_stdin(options: SourceOptions) -> Reader:
    name = options.format or _format_of("standard input", _stdin_text(), options)
    if name not in _TEXTS:
        raise UsageError(f"--format {name}: standard input is text, one of {', '.join(_TEXTS)}; write it to a file")
    options = replace(options, folder=options.folder or os.getcwd())
    source = ManifestSource("standard input", ("standard input",), options)
    _check_options(source, name)
    return text_reader(source, _stdin_text(), name)


def options_for_kept(path: str, options: SourceOptions) -> SourceOptions:
    """How to read a copy of what came on standard input. Raises ManifestError as `open_reader` does for `-`."""
    return replace(options, format=options.format or _format_of(path, open_text(path), options))


def _format_of(name: str, text: TextFile, options: SourceOptions) -> str:
    head = text.read_at(0, HEAD_BYTES)
    if (found := format_of(head, options)) is not None:
        return found
    if known := known_head(head):
        raise ManifestError(f"{name}: is {known[0]}, {known[1]}")
    first_line = head.lstrip().partition(b"\n")[0].decode("utf-8", "backslashreplace")
    raise ManifestError(
        f"{name}: starts with {show(first_line)}; say what it is with --format, one of {', '.join(_TEXTS)}"
    )


def _stdin_text() -> TextFile:
    return unpacked(LocalFile("standard input", fd=os.dup(_stdin())))


@lru_cache(maxsize=1)
def _stdin() -> int:
    """Standard input in a file without a name, which ends with this process: it is read again, also by who opens it
    again.
    """
    spool = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    return os.dup(spool.fileno())
