"""Several sources as one manifest: the rows of the first, then those of the second, and so on."""

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from .manifest_scan import Reader
from .rows import BadRow, Row
from .types import AudioRef


class JoinedReader:
    """See `manifest_scan.Reader`.

    Args:
        source: what to call all of it.
        readers: at least one, in the order of their rows.
    """

    def __init__(self, source: str, readers: list[Reader]):
        self.source, self._readers = source, readers
        self._firsts = array("Q")  # row with which each reader passed so far begins

    def rows(self) -> Iterator[Row | BadRow]:
        num_rows = 0
        for reader in self._readers:
            self._firsts.append(num_rows)
            for row in reader.rows():
                num_rows += 1
                yield row

    @property
    def share_read(self) -> float | None:
        """What part of all the sources' rows has passed, every source counted alike; None before the first."""
        if not self._firsts:
            return None
        at = len(self._firsts) - 1
        return (at + (getattr(self._readers[at], "share_read", None) or 0.0)) / len(self._readers)

    def row(self, index: int) -> Row:
        reader, own = self._find(index)
        return reader.row(own)

    def audio(self, index: int, row: Row) -> AudioRef:
        reader, own = self._find(index)
        return reader.audio(own, row)

    def where(self, index: int) -> str:
        reader, own = self._find(index)
        return reader.where(own)

    @property
    def in_groups(self) -> bool:
        return any(getattr(reader, "in_groups", False) for reader in self._readers)

    @property
    def base_folder(self) -> str | None:
        """See `Manifest.record`."""
        folders = {getattr(reader, "base_folder", None) for reader in self._readers}
        return folders.pop() if len(folders) == 1 else None

    @property
    def holds_audio(self) -> bool:
        """See `Manifest.record`."""
        return any(getattr(reader, "holds_audio", False) for reader in self._readers)

    @property
    def is_plain(self) -> bool:
        return all(getattr(reader, "is_plain", False) for reader in self._readers)

    @property
    def audio_folder(self) -> str | None:
        """See `Manifest.audio_folder`; of all the sources."""
        found = (getattr(reader, "audio_folder", None) for reader in self._readers)
        return ", ".join(dict.fromkeys(filter(None, found))) or None

    def line(self, index: int) -> bytes | None:
        """The line of a row in its file of JSON Lines; None where it has none."""
        reader, own = self._find(index)
        return reader.line(own) if hasattr(reader, "line") else None

    def _find(self, index: int) -> tuple[Reader, int]:
        at = bisect_right(self._firsts, index) - 1
        return self._readers[at], index - self._firsts[at]
