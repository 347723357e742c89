"""What every manifest format needs of the file system: is this file still the one that was opened?

Knows nothing about formats.
"""

import os

from .errors import ManifestError


class FileState:
    """Size and time of the last change of a file, as they were at opening.

    Args:
        path: the file, for messages, and to look it up with.
        handle: an open descriptor of it; looked at instead of the path, so that a replaced file is not noticed.

    Raises:
        ManifestError: it cannot be looked up.
    """

    def __init__(self, path: str, handle: int | None = None):
        self._path, self._target = path, path if handle is None else handle
        self._state = self._look()

    def check(self) -> None:
        """Raises ManifestError when the file is no longer as it was."""
        if self._look() != self._state:
            raise manifest_changed(self._path)

    def _look(self) -> tuple[int, int]:
        try:
            stat = os.stat(self._target)
        except OSError as e:
            raise ManifestError(f"{self._path}: cannot be read: {e.strerror}") from e
        return stat.st_size, stat.st_mtime_ns


def manifest_changed(where: str) -> ManifestError:
    fix = "leave it alone during a run, and start the command again"
    return ManifestError(f"{where}: the manifest changed since it was opened; {fix}")
