"""Which formats of manifest there are, how each is recognised, and opening what it is.

How a format is read is the business of `manifest_*.py`. Importing this module imports no pyarrow and no datasets.

A new format: a reader (`manifest_scan.Reader`), a function here that opens it or returns None, a line in `_FORMATS`.
"""

import glob
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable

from .audio_names import is_audio, walk_audio
from .columns import Columns
from .errors import ManifestError
from .manifest_csv import AUDIO_COLUMNS, CsvReader
from .manifest_folder import DescribedFolder, FolderReader, name_files
from .manifest_joined import JoinedReader
from .manifest_jsonl import JsonlReader
from .manifest_kaldi import KaldiReader
from .manifest_scan import Reader
from .manifest_sources import Source, expand, resolve
from .manifest_tar import NemoMembers, WebDatasetReader
from .manifest_text import ZSTD, LocalFile, TextFile, open_text
from .remote import is_remote
from .rows import show
from .source_options import SourceOptions

ACCEPTED = (
    "a JSON Lines file (one object per line), a folder written by save_to_disk, Parquet and Arrow files, CSV and TSV with a "
    "header, a folder or glob of audio, a Kaldi folder, lhotse cuts, tars of NeMo or WebDataset, hf://NAME, - for standard input"
)
_HEAD_BYTES = 4096
_JSONL_ENDINGS = (".jsonl", ".json", ".ndjson", ".manifest")
_MOST_OPEN = 64  # manifests held open at a time; more are opened for each row
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")  # the hub's names: train-00000-of-00004(-hash).parquet
# First bytes of what people give by mistake: what it is, and what to do.
_KNOWN_HEADS = {
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"BZh": ("bzip2 data", "unpack it first"),
    b"\xfd7zXZ": ("xz data", "unpack it first"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"RIFF": ("an audio file", "give it an ending that says so, or a manifest that names it"),
    b"fLaC": ("an audio file", "give it an ending that says so, or a manifest that names it"),
    b"OggS": ("an audio file", "give it an ending that says so, or a manifest that names it"),
    b"ID3": ("an audio file", "give it an ending that says so, or a manifest that names it"),
}


def open_reader(given: str, options: SourceOptions) -> Reader:
    """The rows of what is given, not checked yet.

    Raises:
        ManifestError: it is none of the formats, not the one that was asked for, or cannot be opened.
    """
    if given == "-":
        return JsonlReader(_stdin(), options.folder or os.getcwd(), Columns(options))
    source = resolve(given, options)
    if source.format is not None:
        reader = _FORMATS[source.format](source) if source.files else None
        if reader is None:
            raise ManifestError(f"{source.path}: {_describe(source)}; that is not --format {source.format}")
        return reader
    for open_format in _FORMATS.values():
        if (reader := open_format(source)) is not None:
            return reader
    raise ManifestError(f"{source.path}: {_describe(source)}; accepted are {ACCEPTED}")


def _stdin() -> LocalFile:
    """Standard input in a file without a name, which ends with us: rows are read again."""
    spool = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    return LocalFile("standard input", fd=os.dup(spool.fileno()))


def _open_saved(source: Source) -> Reader | None:
    path = source.path
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        split = _choose_split(path, _saved_splits(path), source.options.split)
        folder, label = os.path.join(path, split), split
    elif all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json")):
        folder, label = path, None
    else:
        return None
    from .manifest_dataset import SavedTable, TableReader

    table = SavedTable(folder)
    if label is None:
        label = _choose_split(path, [table.split] if table.split else [], source.options.split) or "data"
    return TableReader(table, path, path, label, Columns(source.options))


def _saved_splits(path: str) -> list[str]:
    try:
        with open(os.path.join(path, "dataset_dict.json"), encoding="utf-8") as file:
            return [str(split) for split in json.load(file)["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ManifestError(f"{path}: dataset_dict.json cannot be read ({e}); save the data set again") from e


def _open_parquet(source: Source) -> Reader | None:
    path = source.path
    if source.is_one and not source.is_folder:
        if not _is_file(path) or _head(path)[:4] != b"PAR1":
            return None
        files = [path]
        shard = _shard(path)
        # One shard of several is not the split: its rows are numbered from 0 again.
        label = shard[1] if shard and int(shard[3]) == 1 else os.path.splitext(os.path.basename(path))[0]
        _choose_split(path, [shard[1]] if shard else [], source.options.split)
    else:
        files, label = _parquet_files(source)
        if not files:
            return None
    from .manifest_dataset import TableReader
    from .manifest_parquet import ParquetTable

    folder = path if source.is_folder else _common_folder(files)
    return TableReader(ParquetTable(files), path, folder, label, Columns(source.options))


def _parquet_files(source: Source) -> tuple[list[str], str]:
    """The Parquet files of one split in a folder or a glob, in order, and what to call them; none if it is something else."""
    path = source.path
    if source.is_folder:
        names = [name for name in os.listdir(path) if name.endswith(".parquet") and name[0] not in "._"]
        files = sorted(os.path.join(path, name) for name in names)
    else:
        files = list(source.files)
        if not any(_is_file(file) and _head(file)[:4] == b"PAR1" for file in files[:1] + files[-1:]):
            return [], ""
    for file in files:
        if not _is_file(file) or _head(file)[:4] != b"PAR1":
            raise ManifestError(f"{path}: matches {file}, which is not Parquet; accepted are {ACCEPTED}")
    splits = sorted({shard[1] for shard in map(_shard, files) if shard}) if all(map(_shard, files)) else []
    split = _choose_split(path, splits, source.options.split)
    if splits:
        files = [file for file in files if _shard(file)[1] == split]
        _check_all_shards(path, split, files)
    return files, split or "data"


def _check_all_shards(path: str, split: str, files: list[str]) -> None:
    """A shard that is not there would be rows lost without a word."""
    totals = {int(_shard(file)[3]) for file in files}
    if len(totals) > 1:
        found = " and ".join(f"of {total}" for total in sorted(totals))
        raise ManifestError(f"{path}: {split} is there in shards {found}; keep those of one, or give a glob of them")
    total = totals.pop()
    numbers = [int(_shard(file)[2]) for file in files]
    if missing := sorted(set(range(total)) - set(numbers)):
        names = ", ".join(f"{number:05}" for number in missing[:5]) + (", …" if len(missing) > 5 else "")
        fix = "fetch them, or give one file to run it alone"
        raise ManifestError(f"{path}: {split}: {len(missing)} of {total} shards are missing ({names}); {fix}")
    if len(numbers) > total:
        raise ManifestError(f"{path}: {split}: {len(numbers)} files for {total} shards; remove those of another download")


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


def _open_jsonl(source: Source) -> Reader | None:
    files = _text_files(source, _is_jsonl)
    if files is None:
        return None
    _choose_split(source.path, [], source.options.split)
    columns = Columns(source.options)
    return _joined(source, [JsonlReader(file, _folder_of(source, file.path), columns) for file in files])


def _text_files(source: Source, is_ours: Callable[[str], bool]) -> list | None:
    """The files opened, when they are of the format that was asked for, or look like it; otherwise None."""
    if not source.files or not all(map(_is_file, source.files)):
        return None
    if source.format is None and not is_ours(source.files[0]):
        return None
    return [open_text(file, keep_open=len(source.files) <= _MOST_OPEN) for file in source.files]


def _joined(source: Source, readers: list[Reader]) -> Reader:
    return readers[0] if len(readers) == 1 else JoinedReader(source.path, readers)


def _is_jsonl(path: str) -> bool:
    head = _unpacked_head(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    # A file that is called JSON Lines and begins otherwise has a bad first line; report it with the other bad ones.
    called_jsonl = _bare_name(path).endswith(_JSONL_ENDINGS) and not _known_head(head) and not start.startswith(b"[")
    return not start or start.startswith(b"{") or called_jsonl


def _bare_name(path: str) -> str:
    """In small letters, without query and the ending of what it is packed with."""
    name = path.partition("?")[0] if is_remote(path) else path
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def _folder_of(source: Source, path: str) -> str:
    return source.options.folder or os.path.dirname(path)


def _common_folder(files: list[str]) -> str:
    return os.path.commonpath([os.path.dirname(file) for file in files])


def _open_csv(source: Source, delimiter: str | None = None) -> Reader | None:
    files = _text_files(source, _is_table)
    if files is None:
        return None
    _choose_split(source.path, [], source.options.split)
    return _joined(source, [_csv_reader(source, file, delimiter) for file in files])


def _csv_reader(source: Source, file: TextFile, delimiter: str | None = None) -> Reader:
    if delimiter is None and _bare_name(file.path).endswith((".tsv", ".tab")):
        delimiter = "\t"
    return CsvReader(file, _folder_of(source, file.path), source.options, delimiter)


def _open_tsv(source: Source) -> Reader | None:
    # Only when it is asked for: a table is recognised by its header, whatever stands between its fields.
    return None if source.format is None else _open_csv(source, "\t")


def _is_table(path: str) -> bool:
    if _bare_name(path).endswith((".csv", ".tsv", ".tab")):
        return _known_head(_unpacked_head(path)) is None
    first_line = _unpacked_head(path).removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode("utf-8", "replace")
    names = re.split(r"[,\t;|]", first_line.strip())
    return len(names) > 1 and any(name.strip(' "') in AUDIO_COLUMNS for name in names)


def _open_folder(source: Source) -> Reader | None:
    if source.is_folder:
        folder = source.path
        for name in ("metadata.jsonl", "metadata.csv", "metadata.tsv"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                _choose_split(folder, [], source.options.split)
                file = open_text(path)
                if name.endswith(".jsonl"):
                    columns = Columns(source.options)
                    return DescribedFolder(folder, JsonlReader(file, folder, columns, adapt=name_files))
                return DescribedFolder(folder, _csv_reader(source, file))
        files = list(walk_audio(folder))
    else:
        files = [file for file in source.files if _is_file(file) and not is_remote(file) and is_audio(file)]
        if not files or len(files) < len(source.files):  # other files among them: not ours to pass over
            return None
        folder = _common_folder(files)
        files = [os.path.relpath(file, folder) for file in files]
    if not files:
        return None
    _choose_split(source.path, [], source.options.split)
    if source.options.audio_column or source.options.text_column or source.options.id_column:
        raise ManifestError(f"{source.path}: a folder of audio has no columns; leave out --audio-column and the like")
    return FolderReader(source.path, folder, files)


def _open_kaldi(source: Source) -> Reader | None:
    if not source.is_folder or not os.path.isfile(os.path.join(source.path, "wav.scp")):
        return None
    _choose_split(source.path, [], source.options.split)
    return KaldiReader(source.path, allow_pipes=source.options.allow_pipes)


def _open_nemo_tars(source: Source) -> Reader | None:
    files, tars = source.files, source.options.tars
    if tars is not None:
        paths = expand(tars)
        if not paths:
            raise ManifestError(f"--tars {tars}: no file matches; give a path, a glob, a list or an _OP_0..7_CL_ pattern")
        if source.is_folder:
            files = (os.path.join(source.path, "tarred_audio_manifest.json"),)
    elif source.is_folder and os.path.isfile(os.path.join(source.path, "tarred_audio_manifest.json")):
        files = (os.path.join(source.path, "tarred_audio_manifest.json"),)
        paths = sorted((os.path.join(source.path, n) for n in os.listdir(source.path) if n.endswith(".tar")), key=_by_numbers)
        if not paths:
            raise ManifestError(f"{source.path}: has a tarred_audio_manifest.json and no tars; name them with --tars")
    else:
        return None
    members = NemoMembers(paths)
    columns = Columns(source.options)
    texts = [open_text(file, keep_open=len(files) <= _MOST_OPEN) for file in files]
    readers = [JsonlReader(text, "", columns, adapt=members.adapt, locate=members.locate) for text in texts]
    return _joined(source, readers)


def _by_numbers(name: str) -> list[int | str]:
    """audio_2.tar before audio_10.tar: shard_id counts tars in the order of their numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _open_webdataset(source: Source) -> Reader | None:
    if source.is_folder:
        files = sorted(os.path.join(source.path, name) for name in os.listdir(source.path) if name.endswith(".tar"))
    else:
        files = [file for file in source.files if _bare_name(file).endswith(".tar") or source.format]
        if len(files) < len(source.files):
            return None
    if not files:
        return None
    _choose_split(source.path, [], source.options.split)
    if source.options.audio_column or source.options.text_column or source.options.id_column:
        raise ManifestError(f"{source.path}: tars have members, not columns; leave out --audio-column and the like")
    return WebDatasetReader(source.path, files)


# Tried in this order. Each takes a source and returns None for what is not its own.
_FORMATS: dict[str, Callable[[Source], Reader | None]] = {
    "saved": _open_saved,
    "parquet": _open_parquet,
    "kaldi": _open_kaldi,
    "nemo-tar": _open_nemo_tars,
    "webdataset": _open_webdataset,
    "folder": _open_folder,
    "jsonl": _open_jsonl,
    "csv": _open_csv,
    "tsv": _open_tsv,
}


def _describe(source: Source) -> str:
    """What was found instead of a manifest."""
    path = source.path
    if not source.files:
        return "no file matches" if glob.has_magic(path) else "does not exist"
    if not source.is_one:
        shown = ", ".join(source.files[:3]) + (", …" if len(source.files) > 3 else "")
        return f"names {shown}, which are no manifests"
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        return f"is a folder with {shown}" if names else "is an empty folder"
    if not _is_file(path):
        return "is not a regular file"
    head = _unpacked_head(path)
    if known := _known_head(head):
        return f"is {known[0]}, {known[1]}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return "is one JSON array, write each of its objects on a line of its own"
    first_line = start.partition(b"\n")[0].decode("utf-8", "backslashreplace")
    return f"starts with {show(first_line)}"


def _known_head(head: bytes) -> tuple[str, str] | None:
    return next((what for magic, what in _KNOWN_HEADS.items() if head.startswith(magic)), None)


def _is_file(path: str) -> bool:
    return is_remote(path) or os.path.isfile(path)


def _head(path: str) -> bytes:
    if is_remote(path):
        return open_text(path).read_at(0, _HEAD_BYTES)
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as e:
        raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e


def _unpacked_head(path: str) -> bytes:
    """The first bytes of a file's text, also where it is packed."""
    head = _head(path)
    return open_text(path).read_at(0, _HEAD_BYTES) if head.startswith((b"\x1f\x8b", ZSTD)) else head
