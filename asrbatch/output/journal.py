"""The rows file: appended as rows finish, recovered after any death, never a row twice.

A row is one JSON line written with one `write`. A file that does not end in a newline ends in a torn row, which is
cut off; a malformed complete line cannot come from a crash and is an error.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .files import explained, sync_folder

_READ_BYTES = 8 * 2**20


@dataclass
class Tally:
    """Counts over the rows of a file; what the completion mark and the summary are made of.

    Attributes:
        rows, failed: numbers of rows.
        audio_s: seconds of audio decoded for rows with status `ok`.
        statuses, flags, errors: rows by status, by flag, by error kind.
    """

    rows: int = 0
    audio_s: float = 0.0
    statuses: Counter = field(default_factory=Counter)
    flags: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.statuses["failed"]

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.statuses[row["status"]] += 1
        self.flags.update(row.get("flags") or ())
        if row["status"] == "ok":
            self.audio_s += row.get("audio_s") or 0.0
        elif error := row.get("error"):
            self.errors[error["kind"]] += 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "audio_s": round(self.audio_s, 3),
            "statuses": dict(self.statuses),
            "flags": dict(self.flags),
            "errors": dict(self.errors),
        }


class Journal:
    """An open rows file.

    Attributes:
        tally: over every row in the file.
        finished: bit map over manifest rows (one byte each), 1 where the file holds the row.

    Args:
        path: the rows file; made when absent, recovered when present.
        num_rows: rows of the manifest; an index outside it is another manifest's.
        keep: which of the rows already there to keep; the others are taken out of the file, atomically.

    Raises:
        OutputError: a malformed complete line, a row twice, a row of another manifest, or the disk refused.
    """

    def __init__(self, path: Path, num_rows: int, keep: Callable[[dict[str, Any]], bool] | None = None):
        self.path = path
        self.tally = Tally()
        self.finished = bytearray(num_rows)
        self._hash = hashlib.sha256()
        with explained(path):
            path.touch()
            end = self._recover()
            self._file = open(path, "r+b", buffering=0)
            self._file.truncate(end)
            self._file.seek(end)
            if keep is not None:
                self._rewrite(keep)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one finished row; it survives the death of this process from here on.

        Raises:
            OutputError: the disk refused. The file then ends before this row.
        """
        self._check(row, None)
        line = encode_row(row)
        with explained(self.path):
            start = self._file.tell()
            try:
                written = 0
                while written < len(line):  # a raw write may be short when the disk fills up
                    written += self._file.write(line[written:])
            except OSError:
                self._file.truncate(start)
                self._file.seek(start)
                raise
        self._add(row, line)

    def sync(self) -> None:
        """Makes the rows so far survive a power cut as well."""
        with explained(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()

    @property
    def sha256(self) -> str:
        """Of the file's content."""
        return self._hash.hexdigest()

    def _recover(self) -> int:
        """Reads every complete line; returns where the last one ends."""
        end = number = 0
        with open(self.path, "rb", buffering=_READ_BYTES) as file:
            for number, line in enumerate(file, 1):  # noqa: B007
                if not line.endswith(b"\n"):
                    break  # torn by a crash: that row runs again
                row = decode_row(line, f"{self.path}:{number}")
                self._check(row, number)
                self._add(row, line)
                end += len(line)
        return end

    def _check(self, row: dict[str, Any], number: int | None) -> None:
        index = row["index"]
        where = f"{self.path}:{number}" if number else str(self.path)
        if not 0 <= index < len(self.finished):
            raise OutputError(f"{where}: index {index} is not in the manifest ({len(self.finished)} rows); another run's row?")
        if self.finished[index]:
            raise OutputError(f"{where}: index {index} (id {row['id']}) is there twice; --overwrite starts anew")

    def _add(self, row: dict[str, Any], line: bytes) -> None:
        self.finished[row["index"]] = 1
        self.tally.add(row)
        self._hash.update(line)

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Replaces the file by one with the kept rows alone; a crash leaves the old one or the new one."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        self.tally, self._hash, self.finished = Tally(), hashlib.sha256(), bytearray(len(self.finished))
        self._file.seek(0)
        with open(temporary, "wb") as new:
            for line in _lines(self._file):
                row = json.loads(line)
                if keep(row):
                    new.write(line)
                    self._add(row, line)
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, self.path)
        sync_folder(self.path.parent)
        self._file.close()
        self._file = open(self.path, "r+b", buffering=0)
        self._file.seek(0, os.SEEK_END)


def _lines(file: Any):
    with open(file.fileno(), "rb", buffering=_READ_BYTES, closefd=False) as reader:
        yield from reader


def encode_row(row: dict[str, Any]) -> bytes:
    """One JSON line. UTF-8 as it is, escaped only where a carried field holds half a surrogate pair."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n").encode()


def decode_row(line: bytes, where: str) -> dict[str, Any]:
    """One complete line of a rows file.

    Raises:
        OutputError: it is not a row of ours; names the line.
    """
    try:
        row = json.loads(line)
        index, status = row["index"], row["status"]
        if type(index) is not int or status not in ("ok", "failed") or not isinstance(row["id"], str):
            raise ValueError("its id, index or status is not what asrbatch writes")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as e:
        reason = f"it has no {e}" if isinstance(e, KeyError) else e
        raise OutputError(
            f"{where}: a complete line that is no output row ({reason}); a crash cannot do that, so the file was edited "
            f"or is another program's: mend the line, or --overwrite to start anew"
        ) from e
    return row
