"""The rows file: appended as rows finish, recovered after any death, never a row twice.

A row is one JSON line written with one `write`. A file that does not end in a newline ends in a torn row, which is
cut off; a malformed complete line cannot come from a killed process and is an error.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.errors import OutputError, RefusedOutputError
from asrbatch.storage.files import explained, json_bytes, remove_leftovers, replacing

_READ_BYTES = 8 * 2**20
_MEND = "correct the file, or --overwrite to start over"


@dataclass
class StatusCounts:
    """Counts over the rows of a file; what the completion mark and the summary are made of.

    Attributes:
        rows, failed: numbers of rows.
        audio_s: seconds of audio decoded for rows with status `ok`.
        statuses, flags, errors: rows by status, by flag, by error kind.

    Those of several files add up.
    """

    rows: int = 0
    audio_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.statuses["failed"]

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.statuses[row["status"]] += 1
        self.flags.update(row["flags"])
        if row["status"] == "ok":
            self.audio_s += row["audio_s"]
        else:
            self.errors[row["error"]["kind"]] += 1

    def __add__(self, other: "StatusCounts") -> "StatusCounts":
        return StatusCounts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def as_dict(self) -> dict[str, Any]:
        # A copy: counts go on while another thread writes the record that they stand in.
        return {**deepcopy(vars(self)), "audio_s": round(self.audio_s, 3)}


class Journal:
    """An open rows file.

    Attributes:
        tally: over every row in the file.
        finished: bit map over manifest rows (one byte each), 1 where the file holds the row.
        num_expected: rows that the complete file will hold.

    Args:
        path: the rows file; made when absent, recovered when present.
        num_rows: rows of the manifest; an index outside it is another manifest's.
        keep: which of the rows already there to keep; the others are taken out of the file, atomically.
        chunk: bool [num_rows], which rows this file is for; None for all of them.
        keys: int64 [num_rows], `hash(id)` of every row of the manifest; None compares no ids.
        new_file: copy the rows into a new file, which takes the old one's place. For when a former writer may still
            wake up (`Lease.judged_by_time`): what it writes then lands in a file that nobody reads.

    Raises:
        OutputError: a malformed complete line, a row twice, a row of another manifest, or the disk refused. The file
            is then as it was.
    """

    def __init__(
        self,
        path: Path,
        num_rows: int,
        keep: Callable[[dict[str, Any]], bool] | None = None,
        *,
        chunk: np.ndarray | None = None,
        keys: Sequence[int] | None = None,
        new_file: bool = False,
    ):
        self.path = path
        self.tally = StatusCounts()
        self.finished = bytearray(num_rows)
        self._chunk, self._keys = chunk, keys
        self.num_expected = num_rows if chunk is None else int(np.count_nonzero(chunk))
        self._hash = hashlib.sha256()
        self._size = 0
        with explained(path):
            # Only the holder of the lease is here, so what is left half written is nobody's.
            remove_leftovers(path)
            path.touch()
            with replacing(path) if keep or new_file else nullcontext() as copy:
                self._recover(keep, copy)
            # Appending, not at an offset of our own: where two write after all, no row is overwritten.
            self._file = open(path, "ab", buffering=0)
            # The torn row at the end, which runs again.
            self._file.truncate(self._size)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one finished row; it survives the death of this process from here on.

        Raises:
            OutputError: the disk refused. The file then ends before this row.
            ValueError: not an output row, or one that JSON cannot hold; nothing was written.
        """
        if problem := _problem(row):  # what is written must be readable at the next start
            raise ValueError(f"not an output row: {problem}")
        # A bug that writes a row twice must stop here, not in a file that no resume can read.
        self._check(row, str(self.path))
        line = json_bytes(row) + b"\n"
        with explained(self.path):
            try:
                written = 0
                while written < len(line):  # a raw write may be short when the disk fills up
                    written += self._file.write(line[written:])
            except BaseException:
                # Half a row in the middle of the file would be damage; at its end it is a torn row.
                self._file.truncate(self._size)
                raise
        self._add(row, line)

    def sync(self) -> None:
        """Makes the rows so far survive a power cut as well, and makes sure that they are still there.

        Raises:
            OutputError: the disk refused, or the file was changed or removed by somebody else.
        """
        with explained(self.path):
            os.fsync(self._file.fileno())
            # By name and by descriptor: whoever replaced the file leaves us writing into one that nobody can see.
            there = os.stat(self.path)
            ours = os.fstat(self._file.fileno())
        if there.st_size != self._size or not os.path.samestat(there, ours):
            raise OutputError(
                f"{self.path}: {there.st_size} bytes, but this run has written {self._size}, or another file took its "
                "place: something else changed it; run the same command again to have it checked"
            )

    def close(self) -> None:
        with explained(self.path), self._file:
            os.fsync(self._file.fileno())

    @property
    def num_missing(self) -> int:
        """Rows that are still to come."""
        return self.num_expected - self.tally.rows

    @property
    def sha256(self) -> str:
        """Of the file's content."""
        return self._hash.hexdigest()

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self._size

    def _recover(self, keep: Callable[[dict[str, Any]], bool] | None, copy: Any) -> None:
        """Takes in every complete line, or leaves it out; writes those taken in to `copy`, if there is one."""
        dropped = []
        # Streamed: a rows file may be larger than memory.
        with open(self.path, "rb", buffering=_READ_BYTES) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # torn by a crash: that row runs again
                where = f"{self.path}:{number}"
                row = decode_row(line, where)
                self._check(row, where)
                if keep is None or keep(row):
                    self._add(row, line)
                    if copy:
                        copy.write(line)
                else:
                    self.finished[row["index"]] = 1  # until the end of the file, so that its double is found
                    dropped.append(row["index"])
        for index in dropped:
            self.finished[index] = 0

    def _check(self, row: dict[str, Any], where: str) -> None:
        _check_belongs(row, where, self.finished, self._chunk, self._keys)

    def _add(self, row: dict[str, Any], line: bytes) -> None:
        self.finished[row["index"]] = 1
        self.tally.add(row)
        self._hash.update(line)
        self._size += len(line)


def check_rows(path: Path, num_rows: int, *, chunk: np.ndarray, keys: Sequence[int]) -> None:
    """Raises the OutputError that opening these rows as a `Journal` would; nothing is changed. They may be growing."""
    finished = bytearray(num_rows)
    with explained(path), open(path, "rb", buffering=_READ_BYTES) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            row = decode_row(line, where := f"{path}:{number}")
            _check_belongs(row, where, finished, chunk, keys)
            finished[row["index"]] = 1


def _check_belongs(
    row: dict[str, Any], where: str, finished: bytearray, chunk: np.ndarray | None, keys: Sequence[int] | None
) -> None:
    """See `Journal` for the arguments. Raises RefusedOutputError: a row of another run, or one that is there twice."""
    index = row["index"]
    if not 0 <= index < len(finished):
        raise RefusedOutputError(
            f"{where}: index {index} (id {row['id']}) is not in the manifest, which has {len(finished)} rows; "
            f"it is a row of another run: {_MEND}"
        )
    if keys is not None and hash(row["id"]) != keys[index]:
        raise RefusedOutputError(
            f"{where}: index {index} has id {row['id']}, but row {index} of this manifest has another id; it "
            f"was edited, or belongs to another run: {_MEND}"
        )
    if chunk is not None and not chunk[index]:
        raise RefusedOutputError(f"{where}: index {index} (id {row['id']}) belongs to another chunk; {_MEND}")
    if finished[index]:
        raise RefusedOutputError(f"{where}: index {index} (id {row['id']}) is there twice; {_MEND}")


def decode_row(line: bytes, where: str) -> dict[str, Any]:
    """One complete line of a rows file.

    Raises:
        OutputError: it is not a row of ours; names the line.
    """
    try:
        # Not json.loads, which takes UTF-16, byte order marks and NaN as well.
        row: dict[str, Any] = _DECODER.decode(line.decode())
        if problem := _problem(row):
            raise ValueError(problem)
    except (ValueError, RecursionError) as e:
        reason = e.msg if isinstance(e, json.JSONDecodeError) else e
        raise RefusedOutputError(
            f"{where}: this line is not an output row ({reason}); the file was edited, or another program wrote "
            f"it: {_MEND}"
        ) from e
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _problem(row: Any) -> str | None:
    """What keeps a JSON value from being an output row, as far as counting rows needs to know."""
    if type(row) is not dict:
        return "it is not an object"
    for name in ("id", "index", "status", "error", "audio_s", "flags"):
        if name not in row:
            return f"it has no {name}"
    ok, error = row["status"] == "ok", row["error"]
    # By type, not isinstance: JSON's true would be row 1.
    holds = {
        "its id is not a string": type(row["id"]) is str,
        "its index is not a whole number": type(row["index"]) is int,
        "its status is neither ok nor failed": ok or row["status"] == "failed",
        "its audio_s is not a number": not ok or type(row["audio_s"]) in (int, float),
        "it failed without an error kind": ok or (type(error) is dict and type(error.get("kind")) is str),
        "its flags are not strings": type(row["flags"]) is list and all(type(flag) is str for flag in row["flags"]),
    }
    return next((problem for problem, is_right in holds.items() if not is_right), None)
