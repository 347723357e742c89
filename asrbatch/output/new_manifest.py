"""A manifest that we write, or a list about one: there whole or not at all, and never in the place of what it is made from."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError, UsageError
from .files import replacing


def check_new_manifest(path: Path, option: str, sources: Sequence[str], overwrite: bool) -> None:
    """Says early what will not be written.

    Args:
        path: absolute.
        option: by which it was given, for messages.
        sources: what it is made from, as given.
        overwrite: another file may stand there.

    Raises:
        UsageError: something stands there, it is a source itself, or it would be called packed.
    """
    if path.name.endswith((".gz", ".zst")):
        raise UsageError(f"{option} {path}: is written as plain text; leave out {path.suffix}")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give a file name ending in .jsonl")
    if not path.exists():
        return
    if any(os.path.exists(source) and os.path.samefile(source, path) for source in sources):
        raise UsageError(f"{option} {path}: is what is read; give another name")
    if not overwrite:
        raise UsageError(f"{option} {path}: exists already; give another name, or --overwrite to replace it")


@contextmanager
def new_manifest(path: Path) -> Iterator[BinaryIO]:
    """A file to write lines to, which takes the place of `path` at the end of the block; folders are made.

    Raises:
        OutputError: the disk refused; nothing is there then, or what was there before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as e:
        raise OutputError(f"{path}: {e.strerror or e}; nothing was written; mend that and run the same command again") from e
