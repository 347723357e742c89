"""Which file names are those of audio, and finding such files. Knows nothing about what is in them."""

import os
from array import array
from collections.abc import Iterable, Iterator

from .errors import ManifestError

ENDINGS = frozenset((
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".m4b", ".aac", ".webm", ".mka", ".mkv", ".mov", ".wma",
    ".amr", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".g722", ".3gp", ".avi", ".ts",
    ".mp2", ".mpga", ".wv", ".spx", ".tta", ".ac3", ".eac3", ".voc", ".flv",
))  # fmt: skip


def is_audio(name: str) -> bool:
    """By its ending; hidden files (`._a.wav` of a Mac) are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in ENDINGS and not base.startswith(".")


def walk_audio(folder: str) -> Iterator[str]:
    """Audio files as `walk_files` finds them."""
    return filter(is_audio, walk_files(folder))


def walk_files(folder: str) -> Iterator[str]:
    """Files in a folder and all below it, without hidden ones; paths relative to the folder, in no order.

    Links are followed, but not into a folder that the link is in. A folder with two names is two folders, as to `find -L`:
    else the one that came first would decide what its files are called.

    Raises:
        ManifestError: a folder cannot be read.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        inner, above = waiting.pop()
        path = os.path.join(folder, inner)
        try:
            state = os.stat(path)
            if (state.st_dev, state.st_ino) in above:
                continue
            with os.scandir(path) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        except OSError as e:
            raise ManifestError(f"{path}: cannot be read: {e.strerror}; give permission, or a glob that leaves it out") from e
        above |= {(state.st_dev, state.st_ino)}
        for name, is_folder in found:
            if is_folder:
                waiting.append((os.path.join(inner, name), above))
            else:
                yield os.path.join(inner, name)


class Names:
    """A list of strings at their own length and 8 bytes each."""

    def __init__(self, names: Iterable[str] = ()):
        self._bytes, self._ends = bytearray(), array("Q")
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        self._bytes += os.fsencode(name)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        return os.fsdecode(bytes(self._bytes[self._ends[index - 1] if index else 0 : self._ends[index]]))
