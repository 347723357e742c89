"""Which formats of manifest there are, in which order they are tried, and which options each takes.

A new format is a reader (see `readers/base.py`) and a line in `FORMATS`. Importing this module imports no pyarrow and
no datasets, so that light commands start at once.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError, UsageError
from asrbatch.formatting import show
from asrbatch.manifest.readers.base import Reader
from asrbatch.manifest.readers.columnar import open_saved, open_table
from asrbatch.manifest.readers.csv import csv_reader, has_header, open_csv, open_tsv, tsv_reader
from asrbatch.manifest.readers.folder import open_audio
from asrbatch.manifest.readers.hub import open_hub
from asrbatch.manifest.readers.jsonl import jsonl_reader, open_jsonl
from asrbatch.manifest.readers.kaldi import open_kaldi
from asrbatch.manifest.readers.lhotse import cuts_reader, looks_like_cuts, open_lhotse
from asrbatch.manifest.readers.sniff import HEAD_BYTES, check_alone, describe
from asrbatch.manifest.readers.tar import open_nemo_tars
from asrbatch.manifest.readers.text import TextFile, open_text
from asrbatch.manifest.readers.webdataset import open_webdataset
from asrbatch.manifest.source import ManifestSource, is_source_file, read_source_file, resolve
from asrbatch.manifest.stdin import open_stdin
from asrbatch.storage.jsonl import known_head

ACCEPTED = (
    "a JSON Lines file (one object per line), a folder written by save_to_disk, Parquet and Arrow files, CSV and TSV "
    "with a header, a folder or glob of audio, a Kaldi folder, lhotse cuts, tars of NeMo or WebDataset, hf://NAME, "
    "a TOML file that names one of these, - for standard input"
)


class _Format(NamedTuple):
    """How a format is opened, which of the options that not every format has it takes, and, where it is one text, the
    reader of that."""

    open: Callable[[ManifestSource], Reader | None]
    takes: tuple[str, ...] = ()
    read_text: Callable[[ManifestSource, TextFile], Reader] | None = None


_COLUMNS = ("audio_column", "text_column", "id_column")
# Tried in this order: what says itself what it is, then what first bytes tell, then names and first lines.
FORMATS = {
    "saved": _Format(open_saved, _COLUMNS),
    "hub": _Format(open_hub, ("dataset_config", "streaming", *_COLUMNS)),
    "parquet": _Format(partial(open_table, kind="parquet"), _COLUMNS),
    "arrow": _Format(partial(open_table, kind="arrow"), _COLUMNS),
    "kaldi": _Format(open_kaldi, ("allow_pipes",)),
    "nemo-tar": _Format(open_nemo_tars, ("tars", *_COLUMNS)),
    "webdataset": _Format(open_webdataset, ("text_column", "id_column")),
    "folder": _Format(open_audio, _COLUMNS),  # of its metadata
    "lhotse": _Format(open_lhotse, ("allow_pipes", "audio_folder", *_COLUMNS), cuts_reader),
    "jsonl": _Format(open_jsonl, ("audio_folder", *_COLUMNS), jsonl_reader),
    "csv": _Format(open_csv, ("audio_folder", *_COLUMNS), csv_reader),
    "tsv": _Format(open_tsv, ("audio_folder", *_COLUMNS), tsv_reader),
}
_TEXTS = ("jsonl", "lhotse", "csv", "tsv")  # in the order of the messages
# Those that not every format takes; --split is refused by each format that has none.
_OPTIONS = {
    "dataset_config": "--config", "streaming": "--streaming", "tars": "--tars", "allow_pipes": "--allow-pipes",
    "audio_column": "--audio-column", "text_column": "--text-column", "id_column": "--id-column",
    "audio_folder": "--audio-folder",
}  # fmt: skip


def open_reader(given: str, options: SourceOptions) -> Reader:
    """The rows of what is given, not checked yet.

    Raises:
        UsageError: an option that what it is does not take.
        ManifestError: it is none of the formats, not the one of `--format`, or cannot be opened.
    """
    if given == "-":
        return _read_stdin(options)
    if is_source_file(given):
        given, options = read_source_file(given, options)
    source = resolve(given, options)
    # With --format nothing is guessed, and nothing else is tried: a wrong guess would hide what is wrong with the
    # file.
    if source.format is not None:
        reader = FORMATS[source.format].open(source) if source.files else None
        if reader is None:
            raise ManifestError(f"{source.path}: {describe(source)}; that is not --format {source.format}")
        _check_options(source, source.format)
        return reader
    # An opener returns None for what is not its own, and raises for its own that is damaged: the next one would only
    # say that it does not know it.
    for name, format in FORMATS.items():
        if (reader := format.open(source)) is not None:
            if source.is_folder:
                # Not with --format: then it was said which files to read.
                check_alone(source.path, name)
            _check_options(source, name)
            return reader
    raise ManifestError(f"{source.path}: {describe(source)}; accepted are {ACCEPTED}")


def options_for_kept(path: str, options: SourceOptions) -> SourceOptions:
    """How to read a copy of what came on standard input. Raises ManifestError as `open_reader` does for `-`."""
    return replace(options, format=options.format or _format_of(path, open_text(path), options))


def _check_options(source: ManifestSource, name: str) -> None:
    for field, option in _OPTIONS.items():
        # An option that would be ignored is refused: what it was meant to change would go on unchanged.
        if getattr(source.options, field) not in (None, False) and field not in FORMATS[name].takes:
            able = [f"--format {each}" for each, format in FORMATS.items() if field in format.takes]
            fix = f"leave it out; it is for {', '.join(able[:-1])}{' and ' if able[1:] else ''}{able[-1]}"
            raise UsageError(f"{option}: means nothing for {source.path}, which is read as --format {name}; {fix}")


def _read_stdin(options: SourceOptions) -> Reader:
    file = open_stdin()
    name = options.format or _format_of(file.path, file, options)
    if name not in _TEXTS:
        raise UsageError(f"--format {name}: standard input is text, one of {', '.join(_TEXTS)}; write it to a file")
    # Rows that came through a pipe have no folder of their own.
    options = replace(options, audio_folder=options.audio_folder or os.getcwd())
    source = ManifestSource(file.path, (file.path,), options)
    _check_options(source, name)
    return FORMATS[name].read_text(source, file)


def _format_of(name: str, text: TextFile, options: SourceOptions) -> str:
    """Which of `_TEXTS` a text is that has no file name."""
    head = text.pread(HEAD_BYTES, 0)
    if looks_like_cuts(head):
        return "lhotse"
    if has_header(head, options):
        return "csv"
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    # Where only its first line is a bad one, that is reported with the other bad ones.
    if not head.strip() or any(line.lstrip().startswith(b"{") for line in lines):
        return "jsonl"
    if known := known_head(head):
        raise ManifestError(f"{name}: is {known[0]}, {known[1]}")
    first_line = head.lstrip().partition(b"\n")[0].decode("utf-8", "backslashreplace")
    fix = f"say what it is with --format, one of {', '.join(_TEXTS)}"
    raise ManifestError(f"{name}: starts with {show(first_line)}; {fix}")
