"""A row as a line of JSON Lines that means the same wherever the new manifest lies. The opposite of the readers.

Knows nothing about where rows come from beyond what an `Utterance` says, and writes no file.

A manifest that we write, or a list about one: there whole or not at all, and never in the place of what it is made
from."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from asrbatch.config import SourceOptions
from asrbatch.errors import UsageError
from asrbatch.manifest.formats import files_of
from asrbatch.manifest.readers.sniff import is_audio
from asrbatch.manifest.row import audio_ref
from asrbatch.storage.filenames import expand_home, is_too_long
from asrbatch.storage.files import explained, remove_dead, replacing
from asrbatch.storage.paths import check_outputs
from asrbatch.storage.remote import scheme_of
from asrbatch.types import Utterance

_MOST_MORE = 22  # bytes by which the name of a file that is being written is longer, see `replacing`
# Exact to a frame up to 1 MHz, the highest rate that is read.
DURATION_DIGITS = 6


def has_place(row: Utterance) -> bool:
    """Whether a line can say where the audio of a row is: in a file, behind a URL, or in the line itself."""
    return row.audio.path is not None or row.audio.url is not None


def place_from(row: Utterance, folder: str) -> str:
    """`audio_filepath` for a manifest in `folder`: as it was written where that means the same, else an absolute path
    or URL.

    Args:
        row: one of which `has_place` is true.
        folder: absolute.
    """
    written, path = row.fields.get("audio_filepath"), row.audio.path
    # A `data:` URI or URL means the same everywhere.
    if path is None:
        return row.audio.url
    path = os.path.normpath(path)
    if type(written) is str and (
        scheme_of(written) == "file" or os.path.normpath(os.path.join(folder, expand_home(written))) == path
    ):
        # In a folder of audio a file may be called as what is no file is written.
        return written if audio_ref(written, folder).path is not None else os.path.join(os.curdir, written)
    return path


def line_fields(row: Utterance, folder: str, duration_s: float | None = None) -> dict[str, Any]:
    """A row of which `has_place` is true, with its id and a path that holds in `folder`; numbers that JSON lacks are
    null.

    Args:
        duration_s: takes the place of the stated duration; None leaves what the row states.
    """
    # The id is written, as it may have been made of the place that the row had.
    others = {name: value for name, value in row.fields.items() if name not in ("audio_filepath", "id")}
    if duration_s is not None:
        others["duration"] = round(duration_s, DURATION_DIGITS)
    return _finite({"audio_filepath": place_from(row, folder), "id": row.id, **others})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def check_new_manifest(
    path: Path, option: str, sources: Sequence[str], overwrite: bool, reading: SourceOptions | None = None
) -> None:
    """Says early what will not be written, and removes what killed commands left half written there.

    Args:
        path: absolute.
        option: by which it was given, for messages.
        sources, reading: what it is made from, as given.
        overwrite: another file may stand there.

    Raises:
        UsageError: something stands there, it is a source itself, or would be called packed or like audio.
        ManifestError: a source is a list or pattern that is wrong.
    """
    # Readers go by first bytes, but people and other tools by the name.
    if path.name.endswith((".gz", ".zst")):
        raise UsageError(f"{option} {path}: is written as plain text; leave out {path.suffix}")
    if is_too_long(path.name, _MOST_MORE):
        raise UsageError(f"{option} {path}: is too long a name; choose a shorter one")
    if is_audio(os.path.realpath(path)):
        raise UsageError(f"{option} {path}: has the ending of audio; give a file name ending in .jsonl")
    # A source that is replaced while it is read would be lost.
    check_outputs([path], files_of(sources, reading or SourceOptions()), f"{option} {path}")
    if path.exists() and not overwrite:
        raise UsageError(f"{option} {path}: exists already; give another name, or --overwrite to replace it")
    remove_dead(path.parent)


@contextmanager
def new_manifest(path: Path) -> Iterator[BinaryIO]:
    """A file to write lines to, which takes the place of `path` at the end of the block; folders are made.

    Raises:
        OutputError: the disk refused; nothing is there then, or what was there before.
    """
    with explained(path, "nothing was written; correct that and run the same command again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
