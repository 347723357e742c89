"""Writing a file so that it is there whole or not at all, and saying what to do when the disk refuses.

What every manifest format needs of the file system: is this file still the one that was opened? And a copy of what
comes through a pipe, which is read more than once.

Knows nothing about formats.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from asrbatch.errors import ManifestError, OutputError, RefusedOutputError, UsageError
from asrbatch.storage.processes import has_ended, process_tag

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again; rows written so far are kept",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again; rows written so far are kept",
    errno.EFBIG: (
        "files may not grow larger here: raise `ulimit -f` and run the same command again; rows written so far are kept"
    ),
    errno.EROFS: (
        "the file system is read-only: make it writable and run the same command again, or choose another --output"
    ),
    errno.EACCES: "no permission: give it and run the same command again, or choose another --output",
    errno.EPERM: "not permitted here: choose another --output",
    errno.ENOTSUP: "this file system cannot do that: choose another --output",
    errno.ENOENT: "the folder does not exist, or was removed or renamed: make it, or choose another --output",
    errno.ENOTDIR: "a part of the path is a file: choose another --output",
    errno.EISDIR: "it is a folder: give --output a file name ending in .jsonl",
    errno.EEXIST: "a file stands in the place of a folder: choose another --output",
    errno.ENAMETOOLONG: "choose a shorter --output",
    errno.ELOOP: "it is a link that leads to itself: remove it, or choose another --output",
}
# What no second try changes.
_FOR_GOOD = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
# What a process has not finished: `.NAME.tmp-TAG-RANDOM`, where the tag tells which process.
_TEMPORARY = re.compile(r"\..+\.tmp-(?P<tag>[^.]+)-[0-9a-f]{8}", re.DOTALL)
_MOST_NAME_BYTES = 150


@contextmanager
def explained(path: Path, fix: str | None = None) -> Iterator[None]:
    """Turns an OSError into an `OutputError` that names the file and the fix.

    Args:
        fix: None for what helps with the files of a run, which `--output` names.
    """
    try:
        yield
    except OSError as e:
        fix = fix or _FIXES.get(
            e.errno or 0, "run the same command again when that is fixed; rows written so far are kept"
        )
        kind = RefusedOutputError if e.errno in _FOR_GOOD else OutputError
        raise kind(f"{path}: {e.strerror or e}; {fix}") from e


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written in the block, which then takes the place of `path`.

    Temporary file, fsync, rename, fsync of the folder: after a crash the old or the new content is there, never a
    mixture. When the block raises, the old content stays. A link is followed, and permissions are kept.

    Raises:
        UsageError: what stands there is no file.
    """
    # As root, a device would become a file for everybody.
    refuse_irregular(path)
    path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            # Before the rename: a file system may do the two the other way round, and a power cut leaves an empty file.
            os.fsync(file.fileno())
        if path.exists():
            # What was opened up to a group by hand stays so.
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(*paths: Path) -> None:
    """Raises OutputError: the disk refused."""
    for path in paths:
        with explained(path):
            path.unlink(missing_ok=True)


def remove_leftovers(*paths: Path) -> None:
    """Removes what any process left behind that was killed inside `replacing(path)`: for who alone may write them.
    Raises OutputError."""
    for path in paths:
        with explained(path):
            path = Path(os.path.realpath(path))
            for entry in os.scandir(path.parent):
                if entry.name.startswith(_temporary_prefix(path)):
                    Path(entry.path).unlink(missing_ok=True)


def remove_dead(folder: Path) -> None:
    """Removes what commands that were killed left half written in a folder, where this machine knows that they are
    dead. Manifests are as large there as whole ones."""
    # No refusal of the disk matters here: whoever writes meets it again.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and has_ended(match["tag"]):
                os.unlink(entry.path)


def temporary_path(path: Path) -> Path:
    """A new name beside `path` for what is not finished; `remove_dead` knows whose it is."""
    # Random: in containers, process ids of two nodes are often the same.
    return path.with_name(f"{_temporary_prefix(path)}{process_tag()}-{secrets.token_hex(4)}")


def _temporary_prefix(path: Path) -> str:
    name = os.fsencode(path.name)
    if len(name) > _MOST_NAME_BYTES:  # there must be room for the rest
        name = name[: _MOST_NAME_BYTES // 2] + hashlib.sha256(name).hexdigest()[:16].encode()
    return f".{os.fsdecode(name)}.tmp-"


def kind_of(path: Path | str) -> str | None:
    """What stands at `path`, where that is no regular file: `a folder`, `a named pipe`; None for a file, for nothing,
    and for what cannot be looked at. Opens nothing: that would wait for a pipe's other end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as e:
        return "a link that leads to itself" if e.errno == errno.ELOOP else None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def refuse_irregular(path: Path | str, fix: str = "remove it, or give another name") -> None:
    """Raises UsageError where `path` is no regular file, nor free for one."""
    if kind := kind_of(path):
        raise UsageError(f"{path}: is {kind}, not a file; {fix}")


STANDARD_INPUT = "standard input"  # as messages call it


def copy_of_stream(given: str, descriptor: int) -> int:
    """A new descriptor of all that comes on one, such as a pipe; the same bytes for whoever asks again in this process.

    Args:
        given: as it was written.

    Raises:
        UsageError: no such file is open.
    """
    stream_of(given, descriptor)
    # Another file may have the number later.
    return os.dup(_unnamed_copy(given, descriptor, os.fstat(descriptor).st_ino))


@lru_cache(maxsize=64)
def _unnamed_copy(given: str, descriptor: int, inode: int) -> int:
    stream = stream_of(given, descriptor)
    # On disk, not in memory: what comes through a pipe may be larger than that.
    spool = tempfile.TemporaryFile()
    shutil.copyfileobj(stream, spool)
    spool.flush()
    return os.dup(spool.fileno())


def stream_of(given: str, descriptor: int) -> BinaryIO:
    """What comes on a descriptor, to be read once. Raises UsageError: no such file is open."""
    if descriptor == 0:
        return sys.stdin.buffer
    try:
        return open(descriptor, "rb", closefd=False)
    except OSError as e:
        raise UsageError(f"{given}: {e.strerror}; this process was given no such open file") from e


def write_json_atomically(path: Path, value: Any) -> None:
    """Replaces `path`, whole or not at all.

    Raises:
        OutputError: the disk refused.
    """
    with explained(path), replacing(path) as file:
        file.write(json_bytes(value, indent=1) + b"\n")


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 as it is; escaped only where a string holds half a surrogate pair, which UTF-8 cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent).encode()


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new name in `folder` survive a power cut; file systems that cannot are left alone."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as e:
        # Some network file systems take no fsync of a folder; they have no weaker promise to give.
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def read_json(path: Path, *required: str) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no file.

    Raises:
        OutputError: the file is damaged, or lacks one of the `required` fields.
    """
    with explained(path):
        if kind := kind_of(path):
            raise _damaged(path, f"is {kind}")
        # Found by opening, not by asking first: the file may come or go in between.
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        value = json.loads(data.decode())
    # RecursionError: brackets nested some thousands deep.
    except (ValueError, RecursionError) as e:
        raise _damaged(path, f"not valid JSON ({e})") from e
    if not isinstance(value, dict):
        raise _damaged(path, "holds no JSON object")
    if missing := [name for name in required if name not in value]:
        raise _damaged(path, f"has no {', '.join(missing)}")
    return value


def _damaged(path: Path, problem: str) -> OutputError:
    return RefusedOutputError(
        f"{path}: {problem}; it was edited or damaged: put the original back, or --overwrite to start over"
    )


_READ_BYTES = 1 << 20


class FileState:
    """A file as it was at opening: size and time of the last change, and bytes for when the time alone has changed.

    Of a large table or tar the time must be the same: it may hold terabytes of audio, and only all of its bytes would
    tell whether what is read from now on is what was checked.

    Args:
        path: the file, for messages, and to look it up with.
        handle: an open descriptor of it; looked at instead of the path, so that a replaced file is not noticed.
        whole: look at all bytes, however many: for what is read in full anyway.

    Raises:
        ManifestError: it cannot be looked up.
    """

    def __init__(self, path: str, handle: int | None = None, *, whole: bool = False):
        self._path, self._target = path, path if handle is None else handle
        self._state = self._look()
        self._digest = self._hash() if whole or self._state[0] <= _READ_BYTES else None

    def check(self) -> None:
        """Raises ManifestError when the file is no longer as it was."""
        if (state := self._look()) == self._state:
            return
        # One that was touched, or copied back, is the same file all the same.
        if state[0] != self._state[0] or self._digest is None or self._hash() != self._digest:
            raise manifest_changed(self._path)
        self._state = state

    def _hash(self) -> bytes:
        digest = hashlib.blake2b()
        try:
            with open(self._target, "rb", buffering=0, closefd=self._target == self._path) as file:
                for start in range(0, self._state[0], _READ_BYTES):
                    digest.update(os.pread(file.fileno(), _READ_BYTES, start))
        except OSError as e:
            raise ManifestError(f"{self._path}: cannot be read: {e.strerror}") from e
        return digest.digest()

    def _look(self) -> tuple[int, int]:
        try:
            state = os.stat(self._target)
        except OSError as e:
            raise ManifestError(f"{self._path}: cannot be read: {e.strerror}") from e
        return state.st_size, state.st_mtime_ns


def manifest_changed(where: str) -> ManifestError:
    fix = "leave it alone during a run, and start the command again"
    return ManifestError(f"{where}: the manifest changed since it was opened; {fix}")
