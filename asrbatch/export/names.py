"""What the files of utterances are called: as the media file, subfolders kept, where asrbatch made the id; otherwise as
the id. Where two would be one file, each keeps the ending of its media file, and a hash where that is not enough.

Knows nothing of what is there already.
"""

import hashlib
import os
import re
import unicodedata
from array import array
from collections.abc import Iterable
from itertools import takewhile
from urllib.parse import unquote, urlsplit

import numpy as np

from asrbatch.formatting import is_data_uri
from asrbatch.manifest.readers.base import PIPE
from asrbatch.storage.filenames import expand_home
from asrbatch.storage.remote import scheme_of

# Stands before a hash, and nowhere else: a name that holds it has `_` there.
_HASHED = "~"
_UNSAFE = frozenset('/\\:*?"<>|' + _HASHED)
# With .json added these would be the names of a run's own files: its record and its completion mark.
_OF_A_RUN = re.compile(r"\.(run|done)$", re.IGNORECASE)
# Of a row that the manifest gave none (`manifest.row.hash_row`).
_MADE_ID = re.compile(r"[0-9a-f]{16}(-\d+)?")

# So that name, ending, hash, extension and what a temporary file adds stay under 143 bytes, the least that file systems
# in use allow (eCryptfs; 255 elsewhere).
MAX_NAME_BYTES = 100
_MAX_ENDING_BYTES = 10  # what is longer is no ending


class NameKeys:
    """Which names several utterances could have: 8 bytes for each name, and no name itself."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._shared: frozenset[int] | None = None

    def add(self, *names: str) -> None:
        """All names that one utterance could have."""
        self._keys.extend({_key(name) for name in names})

    def is_shared(self, name: str) -> bool:
        """Whether two utterances could have it. Not before all have been added."""
        if self._shared is None:
            self._shared = repeated(self._keys)
            self._keys = array("q")
        return _key(name) in self._shared


class FileNames:
    """The names of a run's files, by row: other rows have others, on any file system, whatever their order.

    All rows are added first. Rows that failed, too: they may be transcribed later, and then no name of another row may
    change.
    """

    def __init__(self) -> None:
        self._keys = NameKeys()
        self._others = False  # whether there are names that no folder of whole paths can be taken off
        self._folder: list[str] | None = None  # that all whole paths have in common

    def add(self, row_id: str, audio_path: str | None) -> None:
        """One row, by its id and its `audio_filepath`."""
        folders, is_whole, stem, ending = _parts(row_id, audio_path)
        if is_whole:
            pairs = zip(folders if self._folder is None else self._folder, folders, strict=False)
            self._folder = [folder for folder, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        else:
            self._others = True
        self._keys.add(_joined(folders, stem), _joined(folders, stem + ending))

    def name_of(self, row_id: str, audio_path: str | None) -> str:
        """The path before the dot and the extension, relative, with `/`.

        What file systems refuse is `_` in it, and each part ends after `MAX_NAME_BYTES`.
        """
        folders, is_whole, stem, ending = _parts(row_id, audio_path)
        names = (stem, stem + ending)
        name = next((name for name in names if not self._keys.is_shared(_joined(folders, name))), None)
        if name is None or _OF_A_RUN.search(name):
            name = f"{names[1]}{_HASHED}{_digest(row_id)}"
        # Beside names without a folder, those of whole paths stay whole: one shortened could be that of another row.
        return _joined(folders[len(self._folder or ()) :] if is_whole and not self._others else folders, name)


def repeated(values: array) -> frozenset[int]:
    """Those of some 64-bit numbers that stand there more than once."""
    ordered = np.sort(np.frombuffer(values, np.int64))
    return frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def folded(name: str) -> str:
    """The same for names that one file system or another takes for one: those that differ by capitals, or in how
    accents are written."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold()).casefold()


def stem_and_ending(file: str) -> tuple[str, str]:
    """`talk` and `.mp4` of `talk.mp4`; the second is empty where there is none."""
    stem, dot, ending = file.rpartition(".")
    return (stem, dot + ending) if stem else (file, "")


def _parts(row_id: str, audio_path: str | None) -> tuple[list[str], bool, str, str]:
    """Folders, whether they are whole (from the root of a file system or server), the file's stem and its ending."""
    if not audio_path or not _MADE_ID.fullmatch(row_id) or is_data_uri(audio_path) or audio_path.startswith(PIPE):
        return [], False, _readable(row_id), ""
    path, is_whole = _local_form(audio_path)
    *folders, file = [part for part in os.path.normpath(path).split("/") if part not in ("", ".", "..")] or [row_id]
    stem, ending = stem_and_ending(file)
    if len(ending.encode("utf-8", "replace")) > _MAX_ENDING_BYTES:
        ending = ""
    return [*map(_readable, folders)], is_whole, _readable(stem), _safe(ending).rstrip()


def _local_form(path: str) -> tuple[str, bool]:
    """A path, or a URL as one: `server/folder/file`."""
    scheme = scheme_of(path)
    if scheme is None:
        path = expand_home(path)
        return path, os.path.isabs(path)
    if scheme in ("http", "https", "file"):
        # Only in these is `?` the end of the path, and `%20` a space.
        try:
            url = urlsplit(path)
            return f"{url.netloc}/{unquote(url.path)}", True
        except ValueError:  # of a row that failed
            pass
    return path.partition("://")[2], True


def _joined(folders: Iterable[str], name: str) -> str:
    return "/".join((*folders, name))


def _key(name: str) -> int:
    return hash(folded(name))


def _readable(text: str) -> str:
    kept = _safe(text[:MAX_NAME_BYTES])
    return kept.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore").lstrip("-. ").rstrip() or "_"


def _safe(text: str) -> str:
    if text.isprintable() and _UNSAFE.isdisjoint(text):  # as nearly every text is
        return text
    return "".join(c if c.isprintable() and c not in _UNSAFE else "_" for c in text)


def _digest(row_id: str) -> str:
    return hashlib.blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
