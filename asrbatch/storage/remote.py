"""Files behind URLs (s3://, gs://, https://, …), read through fsspec: bounded, and tried again when a network fails.

Knows nothing about manifests or audio. Only importer of fsspec; that takes 0.1 s, so it happens with the first URL.
"""

import copy
import io
import logging
import os
import posixpath
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from asrbatch.errors import ManifestError, RowError
from asrbatch.formatting import install_line, one_line
from asrbatch.storage import http
from asrbatch.storage.filenames import expand_home
from asrbatch.storage.http import TooLargeError

# Where bytes come from; the package that fsspec needs for it, and the extra of asrbatch that brings it.
_PACKAGES = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gs"), "gcs": ("gcsfs", "gs"), "http": ("aiohttp",
    "http"),
    "https": ("aiohttp", "http"), "az": ("adlfs", None), "abfs": ("adlfs", None), "hf": ("huggingface_hub", None),
    "hdfs": ("pyarrow", None), "memory": (None, None),
}  # fmt: skip
# One file at most, and in all: what is being read lies in memory until its decoder has it.
MOST_BYTES = 2 << 30
MOST_KEPT_BYTES = 256 << 20  # of a manifest or tar on a server that does not send parts of a file
_MOST_AT_ONCE = 16
_PAUSES_S = (0.5, 1.0, 2.0)
_TRIES = len(_PAUSES_S) + 1
# Their library, by scheme, tries again by itself, six times with up to 33 s of pauses: it is asked once.
_TRIES_ITSELF = {"gs": "gcsfs", "gcs": "gcsfs"}
# Of silence, not of a whole file: a slow server that sends is waited for.
TIMEOUT_S = 60.0

# Of the 400s, those that may be another answer later: timeout, too early, too many requests.
_PASSING = (408, 425, 429)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")  # botocore's, which need not be installed

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_at_once = threading.BoundedSemaphore(_MOST_AT_ONCE)
_T = TypeVar("_T")


def scheme_of(path: str) -> str | None:
    """`s3` of `s3://bucket/key`; None for what is no URL."""
    match = _URL.match(path)
    return match[1].lower() if match else None


def is_remote(path: str) -> bool:
    """Whether this is a URL that we read through fsspec."""
    return scheme_of(path) in _PACKAGES


def join_url(folder: str, path: str) -> str:
    """A relative path as a URL; `..` is taken out, which servers do not know."""
    scheme, _, rest = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"


@lru_cache(maxsize=64)
def why_not(scheme: str) -> tuple[str, str] | None:
    """(problem, fix) when URLs of this scheme cannot be read here; None when they can."""
    if scheme not in _PACKAGES:
        known = ", ".join(f"{each}://" for each in _PACKAGES)
        return f"{scheme}:// is not supported", f"give a local path, or one of {known}"
    # Asked before any row is read, so that a missing package is one message and not one a row.
    package, extra = _PACKAGES[scheme]
    fsspec = _fsspec()
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        install = install_line(extra) if extra else f"pip install {package}"
        return f"{scheme}:// needs {package}, which is not installed", f"{install}, or give a local path"
    return None


def read_remote(url: str, name: str) -> bytes:
    """The whole file. At most 16 at a time; a failure that may pass is tried again after 0.5, 1 and 2 s, or as gcsfs
    does.

    Args:
        name: what to call it in messages.

    Raises:
        RowError: missing; unreadable for all else, a file of more than 2 GiB among it.
    """
    try:
        with _at_once:
            return _try_again(url, lambda: _read_all(url))
    except FileNotFoundError as e:
        raise RowError("missing", f"{name}: no such file") from e
    except Exception as e:  # every file system behind fsspec has errors of its own
        has_fix = _is_refused(e) or isinstance(e, TooLargeError)
        raise RowError("unreadable", f"{name}: {_told(url, e)}", has_fix) from e


class RemoteFile(io.RawIOBase):
    """A file behind a URL, read at any place, also by libraries that read a file themselves; each read is a request.

    Raises:
        ManifestError: it cannot be read, or what its scheme needs is not installed.
    """

    def __init__(self, url: str):
        self.path = url
        if reason := why_not(scheme_of(url)):
            raise ManifestError(f"{url}: {reason[0]}; {reason[1]}")
        self.size, self._at = self._look(), 0
        # All of it, of a server that knows no ranges and sends that whatever is asked for.
        self._whole: list[bytes] = []

    def again(self) -> "RemoteFile":
        """A reader of the same file with a place of its own; asks the server for nothing that is known."""
        other = copy.copy(self)
        other._at = 0
        return other

    def pread(self, count: int, start: int) -> bytes:
        if start >= self.size or count <= 0:
            return b""
        end = min(start + count, self.size)
        if self._whole:
            return self._whole[0][start:end]
        return self._explained(lambda: self._read(start, end))

    def check(self) -> None:
        """Nothing: to ask for every row would cost a round trip each; ids and hashes of rows notice a change."""

    def _read(self, start: int, end: int) -> bytes:
        system = _system(scheme_of(self.path))
        if scheme_of(self.path) not in http.SCHEMES:
            return _exactly(system.cat_file(self.path, start=start, end=end), end - start)
        answer = http.get(system, self.path, MOST_KEPT_BYTES, start, end)
        if not answer.whole:
            return _exactly(answer.data, end - start)
        # Kept, because the next read would transfer all of it again.
        self._whole.append(_exactly(answer.data, self.size))
        return self._whole[0][start:end]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self.pread(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _look(self) -> int:
        info = self._explained(lambda: _info(self.path))
        if info.get("size") is None:
            raise ManifestError(f"{self.path}: the server does not say how long it is; fetch it first")
        return int(info["size"])

    def _explained(self, read: Callable[[], _T]) -> _T:
        try:
            return _try_again(self.path, read)
        except FileNotFoundError as e:
            fix = ""
            if scheme_of(self.path) == "hf" and not self.path.startswith("hf://datasets/"):
                fix = "; a data set is hf://OWNER/NAME, and a file of one hf://datasets/OWNER/NAME/FILE"
            raise ManifestError(f"{self.path}: no such file{fix}") from e
        except TooLargeError as e:
            raise ManifestError(f"{self.path}: the server sends it only as a whole, and that is {e}") from e
        except Exception as e:
            raise ManifestError(f"{self.path}: cannot be read: {_told(self.path, e)}") from e


def list_remote(pattern: str) -> list[str]:
    """URLs that match, in the order of their names. Raises ManifestError."""
    if reason := why_not(scheme_of(pattern)):
        raise ManifestError(f"{pattern}: {reason[0]}; {reason[1]}")
    try:
        system = _system(scheme_of(pattern))
        return sorted(system.unstrip_protocol(path) for path in _try_again(pattern, lambda: system.glob(pattern)))
    except Exception as e:
        raise ManifestError(f"{pattern}: cannot be listed: {_told(pattern, e)}") from e


def _read_all(url: str) -> bytes:
    system = _system(scheme_of(url))
    if scheme_of(url) in http.SCHEMES:
        return http.get(system, url, MOST_BYTES).data
    size = system.info(url).get("size")
    if size is not None and size > MOST_BYTES:
        raise TooLargeError(size, MOST_BYTES)
    data: bytes = system.cat_file(url)
    if size is not None:
        _exactly(data, size)
    return data


def _info(url: str) -> dict[str, Any]:
    system = _system(scheme_of(url))
    return http.info(system, url) if scheme_of(url) in http.SCHEMES else system.info(url)


def _exactly(data: bytes, count: int) -> bytes:
    # A connection that breaks may look like the end of the file; half a recording would be transcribed as a whole one.
    if len(data) != count:
        raise OSError(f"the connection gave {len(data)} of {count} bytes")
    return data


def _try_again(url: str, read: Callable[[], _T]) -> _T:
    """Raises what the last try raised; what trying again does not change at once."""
    for pause_s in () if scheme_of(url) in _TRIES_ITSELF else _PAUSES_S:
        try:
            return read()
        except Exception as e:
            if _is_final(e):
                raise
        time.sleep(pause_s)
    return read()


def _is_final(error: Exception) -> bool:
    """Whether the same question would get the same answer."""
    if isinstance(error, (FileNotFoundError, TooLargeError)) or _is_refused(error):
        return True
    # Other 400s are about the question, and stay; the 500s and broken connections are about the moment.
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in _PASSING


def _is_refused(error: Exception) -> bool:
    """Whether it is a question of who asks."""
    return isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS or _status(error) in (401, 403)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of aiohttp, gcsfs or huggingface_hub tells of."""
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # how gcsfs says it
        return 403
    for holder, name in ((error, "status"), (error, "code"), (getattr(error, "response", None), "status_code")):
        if type(status := getattr(holder, name, None)) is int:
            return status
    return None


def _told(url: str, error: Exception) -> str:
    """What went wrong, and how often it was tried or what to do."""
    if isinstance(error, TooLargeError):
        return one_line(error)
    if not _is_final(error):
        library = _TRIES_ITSELF.get(scheme_of(url) or "")
        tried = f"tried {_TRIES} times" if library is None else f"asked once, because {library} tries again by itself"
        return f"{one_line(error)}; {tried}"
    if _is_refused(error):
        return f"{one_line(error)}; give this process credentials that may read it"
    return f"{one_line(error)}; not tried again, because such an answer does not change"


@lru_cache(maxsize=64)
def _system(scheme: str) -> Any:
    fsspec = _fsspec()
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        import aiohttp

        # fsspec's own limit is 5 minutes for a whole request; a server that says nothing for a minute is gone.
        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(total=None, connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        }
    elif scheme in ("s3", "s3a"):
        options["config_kwargs"] = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S}
    elif scheme in ("gs", "gcs"):
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # else a traceback for what it raises anyway, each time
    return fsspec.filesystem(scheme, use_listings_cache=False, **options)


def _fsspec() -> Any:
    # Read when gcsfs is imported. Else it asks over gRPC what kind of bucket it is, for a minute where nobody answers;
    # reading objects, which is all that we do, is the same in every kind.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    return fsspec


def absolute(path: str) -> str:
    """A URL as it is, anything else as an absolute path; `~` is the home folder."""
    return path if is_remote(path) else os.path.abspath(expand_home(path))
