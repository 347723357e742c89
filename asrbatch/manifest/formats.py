"""Which formats of manifest there are, in which order they are tried, and which options each takes.

A new format is a reader (see `readers/base.py`) and a line in `FORMATS`. Importing this module imports no pyarrow and
no datasets, so that light commands start at once.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from asrbatch.config import SourceOptions, descriptor_of
from asrbatch.errors import ManifestError, UsageError
from asrbatch.formatting import show
from asrbatch.manifest.readers.base import Reader, TextFormat
from asrbatch.manifest.readers.columnar import open_saved, open_table
from asrbatch.manifest.readers.csv import CSV, TSV
from asrbatch.manifest.readers.folder import METADATA, TEXT, open_audio
from asrbatch.manifest.readers.hub import is_copy, open_hub
from asrbatch.manifest.readers.jsonl import JSONL
from asrbatch.manifest.readers.kaldi import KALDI_FILES, open_kaldi
from asrbatch.manifest.readers.lhotse import LHOTSE, files_in_folder, open_lhotse, open_pair
from asrbatch.manifest.readers.sniff import HEAD_BYTES, check_alone, describe, is_audio
from asrbatch.manifest.readers.tar import NEMO_MANIFEST, open_nemo_tars
from asrbatch.manifest.readers.text import TextFile, open_text
from asrbatch.manifest.readers.webdataset import open_webdataset
from asrbatch.manifest.source import ManifestSource, expand, is_source_file, read_source_file
from asrbatch.manifest.stdin import open_stream
from asrbatch.options import flag
from asrbatch.storage.filenames import find_file
from asrbatch.storage.jsonl import known_head
from asrbatch.storage.remote import absolute, is_remote

ACCEPTED = (
    "a JSON Lines file (one object per line) or a JSON array of objects, a folder written by save_to_disk, Parquet and "
    "Arrow files, CSV and TSV with a header, a folder or glob of audio, a Kaldi folder, lhotse cuts or recordings with "
    "supervisions, tars of NeMo or WebDataset, hf://NAME, a TOML file that names one of these, - for standard input"
)


class _Format(NamedTuple):
    """How a format is opened, which of the options that not every format has it takes, and what it is as one text."""

    open: Callable[[ManifestSource], Reader | None]
    takes: tuple[str, ...] = ()
    text: TextFormat | None = None


_COLUMNS = ("audio_column", "text_column", "id_column")
# Tried in this order: what says itself what it is, then what first bytes tell, then names and first lines.
FORMATS = {
    "saved": _Format(open_saved, ("split", *_COLUMNS)),
    "hub": _Format(open_hub, ("dataset_config", "split", "streaming", *_COLUMNS)),
    "parquet": _Format(partial(open_table, kind="parquet"), ("split", *_COLUMNS)),
    "arrow": _Format(partial(open_table, kind="arrow"), ("split", *_COLUMNS)),
    "kaldi": _Format(open_kaldi, ("allow_pipes",)),
    "nemo-tar": _Format(open_nemo_tars, ("tars", *_COLUMNS)),
    "webdataset": _Format(open_webdataset, ("text_column", "id_column")),
    "folder": _Format(open_audio, _COLUMNS),  # of its metadata
    "lhotse": _Format(open_lhotse, ("split", "allow_pipes", "audio_folder", *_COLUMNS), LHOTSE),
    "jsonl": _Format(JSONL.open, ("audio_folder", *_COLUMNS), JSONL),
    "csv": _Format(CSV.open, ("audio_folder", *_COLUMNS), CSV),
    "tsv": _Format(TSV.open, ("audio_folder", *_COLUMNS), TSV),
}
_TEXTS = tuple(name for name, format in FORMATS.items() if format.text)
# Options that not every format takes.
_OPTIONS = [each for each in fields(SourceOptions) if each.name not in ("format", "on_bad_row")]


# Formats of which several arguments are one source. Of all others each is a manifest of its own.
_TOGETHER = {"folder": open_audio, "lhotse": open_pair}


def open_readers(given: Sequence[str], options: SourceOptions) -> list[Reader]:
    """The rows of all that is given, not checked yet; raises as `open_reader`.

    Files of audio are taken as a folder of them is, and files of lhotse's recordings with those of supervisions.
    """
    if len(given) > 1 and not any(descriptor_of(each) is not None or is_remote(each) for each in given):
        files = [expand(each) for each in given]
        # Each once, as in a folder.
        named = tuple(dict.fromkeys(chain.from_iterable(files)))
        source = ManifestSource(", ".join(map(absolute, given)), named, options)
        for name, opener in _TOGETHER.items():
            if all(files) and options.format in (None, name) and (reader := opener(source)) is not None:
                _check_options(source, name)
                return [reader]
    return [open_reader(each, options) for each in given]


def open_reader(given: str, options: SourceOptions) -> Reader:
    """The rows of what is given, not checked yet.

    Raises:
        UsageError: an option that what it is does not take.
        ManifestError: it is none of the formats, not the one of `--format`, or cannot be opened.
    """
    if (descriptor := descriptor_of(given)) is not None:
        return _read_stream(given, descriptor, options)
    if is_source_file(given):
        given, options = read_source_file(given, options)
    source = ManifestSource(find_file(absolute(given)), tuple(expand(given)), options)
    # With --format nothing is guessed, and nothing else is tried: a wrong guess would hide what is wrong with the
    # file.
    if source.options.format is not None:
        reader = FORMATS[source.options.format].open(source) if source.files else None
        if reader is None:
            raise ManifestError(f"{source.path}: {describe(source)}; that is not --format {source.options.format}")
        _check_options(source, source.options.format)
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


def files_of(sources: Iterable[str], options: SourceOptions) -> Iterator[str]:
    """What reading the sources opens on this machine, as far as names tell: files, standard input, tars, source files
    and what they name; of a folder what is read of it itself, without audio.

    Raises:
        ManifestError, UsageError: a list, a pattern or a source file is wrong.
    """
    for given in sources:
        if (descriptor := descriptor_of(given)) is not None:
            yield f"/dev/fd/{descriptor}" if descriptor else "/dev/stdin"
            continue
        reading = options
        if is_source_file(given):
            yield given
            given, reading = read_source_file(given, options)
        places = [given, reading.tars] if reading.tars else [given]
        for path in (path for place in places if not is_remote(place) for path in expand(place)):
            yield path
            if os.path.isdir(path):
                yield from _read_in(ManifestSource(path, (path,), reading))


def listed_folder(output: Path, sources: Iterable[str]) -> str | None:
    """The folder among the sources whose list of audio a file called so would be; None for none."""
    folders = (path for given in sources if not is_remote(given) for path in expand(given) if os.path.isdir(path))
    return next((f for f in folders if output.name in METADATA and output.is_relative_to(os.path.abspath(f))), None)


# By which names or endings a folder is of a format, and which others that reads in the folder itself.
_IN_FOLDER = {
    "saved": (("dataset_dict.json", "dataset_info.json"), ("state.json", ".arrow")),
    "hub": (("README.md",), (".parquet", ".arrow", ".tar", ".csv", ".json", ".jsonl")),
    "parquet": ((".parquet",), ()),
    "arrow": ((".arrow",), ()),
    "kaldi": (("wav.scp",), KALDI_FILES),
    "nemo-tar": ((NEMO_MANIFEST,), (".tar",)),
    "webdataset": ((".tar",), ()),
    "folder": (METADATA, ()),
}


def _read_in(source: ManifestSource) -> list[str]:
    """Of a folder. All else there is nobody's input: the files of a run whose output lies in it, above all."""
    folder, asked, names = source.path, source.options.format, set()
    with suppress(OSError):  # said by who reads it
        names = set(os.listdir(folder))
    for format, (its, others) in _IN_FOLDER.items():
        if asked not in (None, format) or not _matching(names, its) or (format == "hub" and not is_copy(folder)):
            continue
        found = _matching(names, (*its, *others))
        if format == "hub":  # of any name
            runs = [name.removesuffix(".run.json") for name in names if name.endswith(".run.json")]
            found -= {run + ending for run in runs for ending in (".jsonl", ".run.json", ".done.json")}
        return [os.path.join(folder, name) for name in found]
    texts = {os.path.splitext(name)[0] + TEXT for name in names if is_audio(name)}
    if texts or asked not in (None, "lhotse"):
        return [os.path.join(folder, name) for name in texts]
    with suppress(ManifestError):
        return files_in_folder(source)
    return []


def _matching(names: set[str], patterns: tuple[str, ...]) -> set[str]:
    # A folder may hold a million names.
    endings = tuple(each for each in patterns if each.startswith("."))
    return names.intersection(patterns) | ({name for name in names if name.endswith(endings)} if endings else set())


def options_for_kept(path: str, options: SourceOptions) -> SourceOptions:
    """How to read a copy of what came on standard input. Raises ManifestError as `open_reader` does for `-`."""
    return replace(options, format=options.format or _format_of(open_text(path), options))


def _check_options(source: ManifestSource, name: str) -> None:
    for option in _OPTIONS:
        # An option that would be ignored is refused: what it was meant to change would go on unchanged.
        if getattr(source.options, option.name) not in (None, False) and option.name not in FORMATS[name].takes:
            able = [f"--format {each}" for each, format in FORMATS.items() if option.name in format.takes]
            fix = f"leave it out; it is for {', '.join(able[:-1])}{' and ' if able[1:] else ''}{able[-1]}"
            raise UsageError(
                f"{flag(option)}: means nothing for {source.path}, which is read as --format {name}; {fix}"
            )


def _read_stream(given: str, descriptor: int, options: SourceOptions) -> Reader:
    file = open_stream(given, descriptor)
    name = options.format or _format_of(file, options)
    if name not in _TEXTS:
        raise UsageError(f"--format {name}: {file.path} is text, one of {', '.join(_TEXTS)}; write it to a file")
    # Rows that came through a pipe have no folder of their own.
    options = replace(options, audio_folder=options.audio_folder or os.getcwd())
    source = ManifestSource(file.path, (file.path,), options)
    _check_options(source, name)
    return FORMATS[name].text.read(source, file)


def _format_of(text: TextFile, options: SourceOptions) -> str:
    """Which of `_TEXTS` a text is, whatever it is called."""
    head = text.pread(HEAD_BYTES, 0)
    for name in _TEXTS:
        if FORMATS[name].text.is_ours("", head, options):
            return name
    # Where only its first line is a bad one, that is reported with the other bad ones.
    if any(line.lstrip().startswith(b"{") for line in head.split(b"\n")):
        return "jsonl"
    if known := known_head(head):
        raise ManifestError(f"{text.path}: is {known[0]}, {known[1]}")
    first_line = head.lstrip().partition(b"\n")[0].decode("utf-8", "backslashreplace")
    fix = f"say what it is with --format, one of {', '.join(_TEXTS)}"
    raise ManifestError(f"{text.path}: starts with {show(first_line)}; {fix}")
