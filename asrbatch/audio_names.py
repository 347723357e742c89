"""Which file names are those of audio, and finding such files. Knows nothing about what is in them."""

import os
from array import array
from collections.abc import Iterable, Iterator

ENDINGS = frozenset((
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".m4b", ".aac", ".webm", ".mka", ".mkv", ".mov", ".wma",
    ".amr", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".g722", ".3gp", ".avi", ".ts",
))  # fmt: skip


def is_audio(name: str) -> bool:
    """By its ending; hidden files (`._a.wav` of a Mac) are none."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in ENDINGS and not base.startswith(".")


def walk_audio(folder: str) -> Iterator[str]:
    """Audio files in a folder and all below it, links followed, each folder once; paths relative to the folder, in no order."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        path = os.path.join(folder, inner)
        state = os.stat(path)
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = os.path.join(inner, entry.name)
                if entry.is_dir():
                    waiting.append(name)
                elif is_audio(entry.name):
                    yield name


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
