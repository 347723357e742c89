"""What the first bytes of a file say it is, packed or not, here or behind a URL."""

import glob
import os

from .errors import ManifestError
from .file_heads import known_head
from .manifest_sources import Source
from .manifest_text import GZIP, ZSTD, open_text
from .remote import RemoteFile, is_remote
from .rows import show

HEAD_BYTES = 4096


def bare_name(path: str) -> str:
    """In small letters, without query and the ending of what it is packed with."""
    name = path.partition("?")[0] if is_remote(path) else path
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def describe(source: Source) -> str:
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
    if not is_file(path):
        return "is not a regular file"
    head = unpacked_head(path)
    if known := known_head(head):
        return f"is {known[0]}, {known[1]}"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return "is one JSON array, write each of its objects on a line of its own"
    first_line = start.partition(b"\n")[0].decode("utf-8", "backslashreplace")
    return f"starts with {show(first_line)}"


def is_file(path: str) -> bool:
    return is_remote(path) or os.path.isfile(path)


def head_of(path: str) -> bytes:
    if is_remote(path):
        return RemoteFile(path).pread(HEAD_BYTES, 0)
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as e:
        raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e


def unpacked_head(path: str) -> bytes:
    """The first bytes of a file's text, also where it is packed."""
    head = head_of(path)
    return open_text(path).read_at(0, HEAD_BYTES) if head.startswith((GZIP, ZSTD)) else head
