"""What a model said, row by row: our own rows files, and any JSON Lines file with predictions in it.

One pass finds where each row stands, what it is called and that no two are called the same; after that any row can be read
at any time. Of a row 16 bytes are kept. Knows nothing of error rates.
"""

import json
import os
import weakref
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import OutputError, UsageError
from .manifest_scan import numbered_id
from .rows import hash_row, show_text

_READ_BYTES = 8 * 2**20
_SHOWN = 3


class Predictions:
    """The rows of one file. `len(predictions)` is their number.

    A row's id is its `id`; without one, the hash that `transcribe` makes of the same audio (numbered where it repeats), and
    for a row without audio its line.

    Args:
        path: absolute.
        pred_field: the field with the prediction; None for `pred_text`, or else the only one that begins so (NeMo's
            `pred_text_MODEL`).
        text_field: the field with the reference.

    Attributes:
        num_references: rows that have one.
        torn: the file ends in a part of a line, which was left out.
        keys: int64 [rows], `hash(id)`: means nothing to a process that was not forked from this one.

    Raises:
        UsageError: no such file, no rows, or it is unclear which field holds the prediction.
        OutputError: a line that is no JSON object, or two rows with one id.
    """

    def __init__(self, path: Path, pred_field: str | None = None, text_field: str = "text"):
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as e:
            raise UsageError(f"{path}: {e.strerror}; give a rows file of transcribe or merge-shards, or other JSON Lines") from e
        weakref.finalize(self, os.close, self._fd)
        self.torn = False
        self.num_references = 0
        self._starts = array("Q")  # of every row, and at last the end of the last one
        self._ordinals: dict[int, int] = {}  # of rows whose made id was there before
        self._names: set[str] = set()
        ids, made_rows, made_hashes = array("q"), array("Q"), array("Q")
        for index, row in self._scan():
            row_id, is_made = _id(row, index)
            ids.append(hash(row_id))
            self.num_references += row.get(text_field) is not None
            if is_made:
                made_rows.append(index)
                made_hashes.append(int(row_id, 16))
        self.keys = np.array(ids, np.int64)
        self._number_repeats(np.array(made_rows, np.int64), np.array(made_hashes, np.uint64))
        if not len(self):
            raise UsageError(f"{path}: holds no rows")
        self.pred_field = self._choose_field(pred_field)
        self._refuse_doubled()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> dict[str, Any]:
        """Row `index`, with the id it goes by as `id`.

        Raises:
            OutputError: the file changed since it was opened.
        """
        start, end = self._starts[index], self._starts[index + 1]
        try:
            row = _decode(os.pread(self._fd, end - start, start))
            row["id"] = self._final_id(row, index)
        except (ValueError, TypeError) as e:
            raise self._changed() from e
        if hash(row["id"]) != self.keys[index]:
            raise self._changed()
        return row

    def find(self, row_id: str) -> dict[str, Any] | None:
        """The row called `row_id`; None where there is none."""
        order, ordered = self._order
        at = np.searchsorted(ordered, hash(row_id))
        while at < len(ordered) and ordered[at] == hash(row_id):
            row = self.read(int(order[at]))
            if row["id"] == row_id:
                return row
            at += 1
        return None

    def without(self, keys: np.ndarray) -> np.ndarray:
        """int64, ascending: rows whose id is not among those with these hashes."""
        return np.flatnonzero(~np.isin(self.keys, keys))

    def where(self, index: int) -> str:
        return f"{self.path}:{self._line_number(index)}"

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.keys, kind="stable")
        return order, self.keys[order]

    def _scan(self) -> Iterator[tuple[int, dict[str, Any]]]:
        end = 0
        with open(self._fd, "rb", _READ_BYTES, closefd=False) as lines:
            for number, line in enumerate(lines, 1):
                start, end = end, end + len(line)
                if line.isspace():
                    continue
                try:
                    row = _decode(line)
                except ValueError as e:
                    if not line.endswith(b"\n"):
                        self.torn = True
                        end = start
                        break
                    raise OutputError(f"{self.path}:{number}: {e}; mend the line, or leave it out") from e
                self._starts.append(start)
                if len(self._names) < 1000:
                    self._names.update(row)
                yield len(self._starts) - 1, row
        self._starts.append(end)

    def _number_repeats(self, rows: np.ndarray, hashes: np.ndarray) -> None:
        """Tells rows with the same made id apart as a manifest does: by a number, in the order of the file."""
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        before = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        for at in np.flatnonzero(before).tolist():
            index, ordinal = int(rows[order[at]]), int(before[at]) + 1
            self._ordinals[index] = ordinal
            self.keys[index] = hash(numbered_id(f"{int(ordered[at]):016x}", ordinal))

    def _choose_field(self, given: str | None) -> str:
        found = sorted(name for name in self._names if name.startswith("pred_text"))
        if given is not None:
            if given not in self._names:
                raise UsageError(
                    f"--pred-field {given}: no row of {self.path} has it; there are {', '.join(sorted(self._names))}"
                )
            return given
        if "pred_text" in found or len(found) == 1:
            return "pred_text" if "pred_text" in found else found[0]
        if found:
            raise UsageError(f"{self.path}: predictions of several models ({', '.join(found)}); choose one with --pred-field")
        names = show_text(", ".join(sorted(self._names)))
        raise UsageError(f"{self.path}: no pred_text in any row, only {names}; say which holds predictions with --pred-field")

    def _refuse_doubled(self) -> None:
        _, ordered = self._order
        shared = ordered[1:][ordered[1:] == ordered[:-1]]
        first: dict[str, int] = {}
        doubled = []
        for index in np.flatnonzero(np.isin(self.keys, shared)).tolist() if len(shared) else ():
            row_id = self.read(index)["id"]
            if first.setdefault(row_id, index) != index:
                doubled.append(f"{self.where(index)}: id {show_text(row_id)} stands at {self.where(first[row_id])} already")
        if doubled:
            more = f"\n… and {len(doubled) - _SHOWN} more" if len(doubled) > _SHOWN else ""
            raise OutputError("\n".join(doubled[:_SHOWN]) + more + "\nids must be unique: which one counts cannot be told")

    def _final_id(self, row: dict[str, Any], index: int) -> str:
        row_id, is_made = _id(row, index)
        return numbered_id(row_id, self._ordinals[index]) if is_made and index in self._ordinals else row_id

    def _line_number(self, index: int) -> int:
        """Counted anew, because only messages need it."""
        number, left = 1, self._starts[index]
        with open(self._fd, "rb", _READ_BYTES, closefd=False) as file:
            file.seek(0)
            while left and (block := file.read(min(_READ_BYTES, left))):
                number, left = number + block.count(b"\n"), left - len(block)
        return number

    def _changed(self) -> OutputError:
        return OutputError(f"{self.path}: was changed while it was read; run the same command again when nothing writes it")


def _decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as e:
        raise ValueError(f"not JSON ({e.msg})") from e
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if type(row) is not dict:
        raise ValueError("not a JSON object")
    return row


def _id(row: dict[str, Any], index: int) -> tuple[str, bool]:
    """The row's id, and whether it was made here and may therefore repeat."""
    given = row.get("id")
    if type(given) is str and given:
        return given, False
    if type(given) is int:
        return str(given), False
    path = row.get("audio_filepath")
    if type(path) is not str:
        return f"row-{index}", False
    numbers = (row.get(name) for name in ("offset", "duration"))
    seconds = [float(value) if type(value) in (int, float) else None for value in numbers]
    channel = row.get("channel")
    return hash_row(path, *seconds, channel if type(channel) is int else None), True
