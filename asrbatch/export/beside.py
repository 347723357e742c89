"""Subtitles beside their media files, where players look: `talk.srt` beside `talk.mp4`, whatever the ids are.

Looks at the file system, and writes nothing.
"""

import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from asrbatch.errors import UsageError
from asrbatch.export.names import NameKeys, repeated, stem_and_ending
from asrbatch.formatting import counted, first_of, is_data_uri, printable, show_text
from asrbatch.manifest.readers.base import PIPE
from asrbatch.storage.filenames import expand_home, find_file
from asrbatch.storage.remote import is_remote, scheme_of
from asrbatch.storage.run_files import RunFacts

_SHOWN = 3
_TO = "give --to FOLDER in place of --beside"
# Why a row can have no subtitles beside its media file, and what to do.
_PROBLEMS = {
    "remote": ("audio behind a URL", _TO),
    "no_file": ("audio that is no file of its own (in an archive, a table or the row, or from a command)", _TO),
    "unknown": ("relative paths in a run of several manifests", f"{_TO}, or run each manifest by itself"),
    "gone": ("media files that are not there", f"put them back, or {_TO}"),
    "folder": ("media files in folders that may not be written", f"give permission, or {_TO}"),
    "shared": ("media files with several rows (parts or channels), where a player takes one file", _TO),
}


class BesideNames:
    """The paths of subtitles, without dot and extension, by row. All rows are added first, failed ones too, as in
    `FileNames`.

    Args:
        rows_path: the rows file; beside it stands what relative paths are relative to.

    Attributes:
        folders: of media files. Known when the rows were checked.
    """

    def __init__(self, rows_path: Path):
        facts = RunFacts(rows_path)
        self._base = facts.audio_base if facts.has_audio_base else None
        self._holds_audio = facts.holds_audio
        self._keys = NameKeys()
        self._media = array("q")
        self.folders: set[str] = set()

    def add(self, row_id: str, audio_path: str | None) -> None:
        """One row, by its id and its `audio_filepath`."""
        media = self._find(audio_path)[0]
        if media is not None:
            self._media.append(hash(media))
            folder, stem, ending = _split(media)
            self._keys.add(os.path.join(folder, stem), os.path.join(folder, stem + ending))

    def check(self, rows: Iterable[tuple[str, str | None]]) -> None:
        """Raises UsageError where one of these rows, by id and `audio_filepath`, can have no subtitles; one line for
        each reason."""
        shared = repeated(self._media)
        found: Counter[str] = Counter()
        first: defaultdict[str, list[str]] = defaultdict(list)
        for row_id, audio_path in rows:
            media, problem = self._find(audio_path)
            if media is not None:
                problem = self._problem_with(media, shared)
            if problem is not None:
                found[problem] += 1
                if len(first[problem]) < _SHOWN:
                    # A path whole, or its name is cut off; what is none may be a megabyte.
                    first[problem].append(printable(media) if media else show_text(audio_path or row_id))
        if found:
            raise UsageError(*(_line_of(*each, first[each[0]]) for each in found.items()))

    def name_of(self, row_id: str, audio_path: str | None) -> str:
        """The absolute path before the dot and the extension, of a row that was checked."""
        media = self._find(audio_path)[0]
        if media is None:
            raise ValueError(f"{row_id}: has no media file")
        folder, stem, ending = _split(media)
        name = os.path.join(folder, stem)
        return name + ending if self._keys.is_shared(name) else name

    def _find(self, audio_path: str | None) -> tuple[str | None, str | None]:
        """The media file of a row, or why it has none: a key of `_PROBLEMS`."""
        if not audio_path or "\0" in audio_path or is_data_uri(audio_path) or audio_path.startswith(PIPE):
            return None, "no_file"
        scheme = scheme_of(audio_path)
        if scheme == "file":
            path = unquote(urlsplit(audio_path).path)
        elif scheme is not None:
            return None, "remote"
        else:
            path = expand_home(audio_path)
        if not os.path.isabs(path):
            if self._base is None:
                return None, "no_file" if self._holds_audio else "unknown"
            if is_remote(self._base):
                return None, "remote"
            path = os.path.join(self._base, path)
        path = find_file(os.path.normpath(path))
        # A data set's own name for audio that lies inside it is no path, though it may look like one.
        return (None, "no_file") if self._holds_audio and not os.path.isfile(path) else (path, None)

    def _problem_with(self, media: str, shared: frozenset[int]) -> str | None:
        if hash(media) in shared:
            return "shared"
        if not os.path.isfile(media):
            return "gone"
        folder = os.path.dirname(media)
        if folder not in self.folders and not os.access(folder, os.W_OK | os.X_OK):
            return "folder"
        self.folders.add(folder)
        return None


def _line_of(problem: str, num_rows: int, first: list[str]) -> str:
    what, fix = _PROBLEMS[problem]
    return f"--beside: {what}: {counted(num_rows, 'row')} ({first_of(first, _SHOWN, num_rows)}); {fix}"


def _split(media: str) -> tuple[str, str, str]:
    folder, file = os.path.split(media)
    return folder, *stem_and_ending(file)
