"""Writing a small file so that it is there whole or not at all, and saying what to do when the disk refuses."""

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OutputError

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again; rows written so far are kept",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again; rows written so far are kept",
    errno.EROFS: "the file system is read-only: choose another --output",
    errno.EACCES: "no permission: choose another --output",
    errno.EPERM: "not permitted: choose another --output",
    errno.ENOENT: "the folder does not exist and could not be made: choose another --output",
    errno.ENOTDIR: "a part of the path is a file: choose another --output",
    errno.EISDIR: "it is a folder: give --output a file name ending in .jsonl",
}


@contextmanager
def explained(path: Path):
    """Turns an OSError into an `OutputError` that names the file and the fix."""
    try:
        yield
    except OSError as e:
        fix = _FIXES.get(e.errno, "run the same command again when that is mended; rows written so far are kept")
        raise OutputError(f"{path}: {e.strerror or e}; {fix}") from e


def write_json_atomically(path: Path, value: Any) -> None:
    """Temporary file, fsync, rename, fsync of the folder: after a crash the old or the new content, never a mixture.

    Raises:
        OutputError: the disk refused.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new name in `folder` survive a power cut; file systems that cannot are left alone."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no file.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        with explained(path):
            text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except OutputError as e:
        if isinstance(e.__cause__, FileNotFoundError):
            return None
        raise
    except ValueError as e:
        raise OutputError(f"{path}: not valid JSON ({e}); it was edited or damaged: --overwrite starts anew") from e
    if not isinstance(value, dict):
        raise OutputError(f"{path}: holds no JSON object; it was edited or damaged: --overwrite starts anew")
    return value
