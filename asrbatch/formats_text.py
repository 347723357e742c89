"""Opening manifests of text, and folders of audio: JSON Lines, lhotse cuts, CSV and TSV, folders, Kaldi folders.

Each `open_*` takes a source and returns None for what is not its own.
"""

import os
import re
from collections.abc import Callable

from .audio_names import is_audio, walk_audio
from .columns import Columns
from .errors import ManifestError
from .file_heads import known_head
from .manifest_csv import AUDIO_COLUMNS, CsvReader
from .manifest_folder import DescribedFolder, FolderReader, find_metadata, name_files
from .manifest_heads import bare_name, is_file, unpacked_head
from .manifest_joined import JoinedReader
from .manifest_jsonl import JsonlReader
from .manifest_kaldi import KaldiReader
from .manifest_lhotse import LhotseCuts, looks_like_cuts
from .manifest_scan import Reader
from .manifest_sources import Source, choose_split, common_folder
from .manifest_text import TextFile, open_text
from .remote import is_remote
from .source_options import SourceOptions

_JSONL_ENDINGS = (".jsonl", ".json", ".ndjson", ".manifest")
_MOST_OPEN = 64  # manifests held open at a time; more are opened for each row


def open_jsonl(source: Source) -> Reader | None:
    return _open_lines(source, is_jsonl, jsonl_reader)


def open_lhotse(source: Source) -> Reader | None:
    return _open_lines(source, lambda path: looks_like_cuts(unpacked_head(path)), _cuts_reader)


def open_csv(source: Source) -> Reader | None:
    return _open_lines(source, lambda path: _is_table(path, source.options), _csv_reader)


def open_tsv(source: Source) -> Reader | None:
    # Only when it is asked for: a table is recognised by its header, whatever stands between its fields.
    return None if source.format is None else _open_lines(source, lambda path: True, _tsv_reader)


def open_audio(source: Source) -> Reader | None:
    if source.is_folder:
        folder = source.path
        if (path := find_metadata(folder)) is not None:
            choose_split(folder, [], source.options.split)
            file = open_text(path)
            if path.endswith(".jsonl"):
                reader = JsonlReader(file, folder, Columns(source.options), adapt=name_files)
            else:
                reader = _csv_reader(source, file)
            return DescribedFolder(folder, reader)
        files = list(walk_audio(folder))
    else:
        files = [file for file in source.files if is_file(file) and not is_remote(file) and is_audio(file)]
        if not files or len(files) < len(source.files):  # other files among them: not ours to pass over
            return None
        folder = common_folder(files)
        files = [os.path.relpath(file, folder) for file in files]
    if not files:
        return None
    choose_split(source.path, [], source.options.split)
    if source.options.names_columns:
        raise ManifestError(f"{source.path}: a folder of audio has no columns; leave out --audio-column and the like")
    return FolderReader(source.path, folder, files)


def open_kaldi(source: Source) -> Reader | None:
    if not source.is_folder or not os.path.isfile(os.path.join(source.path, "wav.scp")):
        return None
    choose_split(source.path, [], source.options.split)
    return KaldiReader(source.path, allow_pipes=source.options.allow_pipes)


def open_texts(source: Source) -> list[TextFile]:
    """Its files, opened."""
    return [open_text(file, keep_open=len(source.files) <= _MOST_OPEN) for file in source.files]


def join(source: Source, readers: list[Reader]) -> Reader:
    return readers[0] if len(readers) == 1 else JoinedReader(source.path, readers)


def text_reader(source: Source, file: TextFile, format: str) -> Reader:
    """The rows of one text that is of that format: `jsonl`, `lhotse`, `csv` or `tsv`."""
    return {"jsonl": jsonl_reader, "lhotse": _cuts_reader, "csv": _csv_reader, "tsv": _tsv_reader}[format](source, file)


def format_of(head: bytes, options: SourceOptions) -> str | None:
    """Which of these a text that begins so is, when it has no name to tell; None for what looks like none of them."""
    if looks_like_cuts(head):
        return "lhotse"
    if _has_header(head, options):
        return "csv"
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    # Where only its first line is a bad one, that is reported with the other bad ones.
    return "jsonl" if not head.strip() or any(line.lstrip().startswith(b"{") for line in lines) else None


def _open_lines(source: Source, is_ours: Callable[[str], bool], read: Callable[[Source, TextFile], Reader]) -> Reader | None:
    """When the files are of the format that was asked for, or look like it."""
    if not source.files or not all(map(is_file, source.files)):
        return None
    if source.format is None and not is_ours(source.files[0]):
        return None
    choose_split(source.path, [], source.options.split)
    return join(source, [read(source, file) for file in open_texts(source)])


def jsonl_reader(source: Source, file: TextFile) -> Reader:
    return JsonlReader(file, _folder_of(source, file), Columns(source.options))


def _cuts_reader(source: Source, file: TextFile) -> Reader:
    folder = _folder_of(source, file)
    cuts = LhotseCuts(file.path, folder, allow_pipes=source.options.allow_pipes)
    columns = Columns(source.options)
    return JsonlReader(file, folder, columns, adapt=cuts.adapt, locate=cuts.locate, found_folder=cuts.audio_folder)


def _csv_reader(source: Source, file: TextFile, delimiter: str | None = None) -> Reader:
    if delimiter is None and bare_name(file.path).endswith((".tsv", ".tab")):
        delimiter = "\t"
    return CsvReader(file, _folder_of(source, file), source.options, delimiter)


def _tsv_reader(source: Source, file: TextFile) -> Reader:
    return _csv_reader(source, file, "\t")


def _folder_of(source: Source, file: TextFile) -> str:
    return source.options.folder or os.path.dirname(file.path)


def is_jsonl(path: str) -> bool:
    """Whether a file is, or is meant to be, JSON Lines."""
    head = unpacked_head(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    # A file that is called JSON Lines and begins otherwise has a bad first line; report it with the other bad ones.
    called_jsonl = bare_name(path).endswith(_JSONL_ENDINGS) and not known_head(head) and not start.startswith(b"[")
    return not start or start.startswith(b"{") or called_jsonl


def _is_table(path: str, options: SourceOptions) -> bool:
    head = unpacked_head(path)
    if bare_name(path).endswith((".csv", ".tsv", ".tab")):
        return known_head(head) is None
    return _has_header(head, options)


def _has_header(head: bytes, options: SourceOptions) -> bool:
    """Whether the first line names a column of audio, among others."""
    first_line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode("utf-8", "replace")
    names = re.split(r"[,\t;|]", first_line.strip())
    return len(names) > 1 and any(name.strip(' "\r') in (*AUDIO_COLUMNS, options.audio_column) for name in names)
