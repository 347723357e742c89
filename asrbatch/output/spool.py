"""A manifest that comes on standard input, kept beside the output: rows are read again during a run, and by its resume.

Several processes of one run may be given the same input; the first to finish its copy makes the file, the others compare.
"""

import filecmp
import os
import secrets
import shutil
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError, UsageError
from .files import explained, sync_folder

_COPY_BYTES = 1 << 20


def spool_stdin(path: Path, replace: bool = False, stream: BinaryIO | None = None) -> Path:
    """Copies standard input to `path`, unless that is there already.

    A terminal and an empty input mean: what is there, from an earlier session.

    Args:
        replace: another manifest that is there.
        stream: read this in place of standard input.

    Returns:
        `path`.

    Raises:
        UsageError: there is nothing to read, or another manifest is there.
        OutputError: it cannot be written.
    """
    stream = stream or sys.stdin.buffer
    exists = path.exists()
    if stream.isatty() or _has_none(stream):
        if not exists:
            raise UsageError(f"-: nothing comes on standard input, and {path} of an earlier session is not there")
        return path
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")
        try:
            with open(temporary, "xb") as file:
                shutil.copyfileobj(stream, file, _COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            _put(temporary, path, replace)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


def _has_none(stream: BinaryIO) -> bool:
    """Whether it is the null device, which batch systems give."""
    try:
        state = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(state.st_mode)


def _put(temporary: Path, path: Path, replace: bool) -> None:
    """Gives the copy its name; a file with that name must say the same, or be replaced."""
    if temporary.stat().st_size == 0:
        if path.exists():
            return
        raise UsageError(f"-: nothing comes on standard input, and {path} of an earlier session is not there")
    try:
        os.link(temporary, path)  # fails when it exists, also where two do it at once
        return
    except FileExistsError:
        pass
    except OSError as e:  # a file system without links
        if not path.exists():
            os.replace(temporary, path)
            return
        if not filecmp.cmp(temporary, path, shallow=False) and not replace:
            raise OutputError(f"{path}: cannot be compared or replaced: {e.strerror}") from e
    if filecmp.cmp(temporary, path, shallow=False):
        return
    if not replace:
        fix = "give the same rows again, nothing at all, another --output, or --overwrite to start anew"
        raise UsageError(f"-: standard input is not the manifest that this run began with, {path}; {fix}")
    os.replace(temporary, path)
