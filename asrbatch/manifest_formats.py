"""Which formats of manifest there are, in which order they are tried, and which options each takes.

How each is recognised is told in `formats_*.py`, how it is read in `manifest_*.py`. Importing this module imports no pyarrow
and no datasets.

A new format: a reader (`manifest_scan.Reader`), a function in `formats_*.py` that opens it or returns None, a line in `_FORMATS`.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from .errors import ManifestError, UsageError
from .file_heads import known_head
from .folder_contents import check_alone
from .formats_table import open_arrow, open_hub, open_parquet, open_saved
from .formats_tar import open_nemo_tars, open_webdataset
from .formats_text import format_of, open_audio, open_csv, open_jsonl, open_kaldi, open_lhotse, open_tsv, text_reader
from .manifest_heads import HEAD_BYTES, describe
from .manifest_scan import Reader
from .manifest_sources import Source, resolve
from .manifest_text import LocalFile, TextFile, open_text, unpacked
from .rows import show
from .source_file import is_source_file, read_source_file
from .source_options import SourceOptions

ACCEPTED = (
    "a JSON Lines file (one object per line), a folder written by save_to_disk, Parquet and Arrow files, CSV and TSV with a "
    "header, a folder or glob of audio, a Kaldi folder, lhotse cuts, tars of NeMo or WebDataset, hf://NAME, "
    "a TOML file that names one of these, - for standard input"
)


class _Format(NamedTuple):
    """How a format is opened, and which of the options that not every format has it takes."""

    open: Callable[[Source], Reader | None]
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


def _check_options(source: Source, name: str) -> None:
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
    source = Source("standard input", ("standard input",), options)
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
    raise ManifestError(f"{name}: starts with {show(first_line)}; say what it is with --format, one of {', '.join(_TEXTS)}")


def _stdin_text() -> TextFile:
    return unpacked(LocalFile("standard input", fd=os.dup(_stdin())))


@lru_cache(maxsize=1)
def _stdin() -> int:
    """Standard input in a file without a name, which ends with this process: it is read again, also by who opens it again."""
    spool = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    return os.dup(spool.fileno())
