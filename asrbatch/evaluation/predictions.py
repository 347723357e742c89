"""Predictions, row by row: our own rows files, and any JSON Lines file with predictions in it.

One pass finds where each row stands, what it is called and that no two are called the same; after that any row can be
read at any time. Of a row 16 bytes are kept. Knows nothing of error rates."""

import os
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.errors import OutputError, UsageError
from asrbatch.evaluation.row_fields import finite_seconds, heard_language, stated_language
from asrbatch.formatting import show, show_text
from asrbatch.manifest.readers.base import HashIndex
from asrbatch.manifest.row import audio_ref, hash_row
from asrbatch.manifest.scan import SeenHashes, numbered_id
from asrbatch.storage.jsonl import JsonLines
from asrbatch.storage.run_files import rows_files
from asrbatch.types import AudioRef

_MOST_NAMES = 1000
_SHOWN = 3


class Predictions:
    """The rows of one file, or of the chunks of one run. `len(predictions)` is their number.

    A row's id is its `id`; without one, the hash that `transcribe` makes of the same audio (numbered where it repeats),
    and for a row without audio its line.

    Args:
        path: absolute.
        pred_field: the field with the prediction; None for `pred_text`, or else the only one that begins so (NeMo's
            `pred_text_MODEL`).
        text_field: the field with the reference.
        audio_folder: where given, ids are made of what audio paths mean, relative ones in this folder, not of how they
            are written.

    Attributes:
        num_references: rows that have one.
        heard: of the rows that do not say their language, how many were taken for which.
        other_fields: fields that hold predictions by their names, and were not chosen; empty where the field was named.
        torn: a file ends in a part of a line, which was left out.
        num_made: rows whose id is made of their audio.
        num_by_line: rows that are called after their line, because they have neither an id nor audio.
        keys: int64 [rows], `hash(id)`: means nothing to a process that was not forked from this one.

    Raises:
        UsageError: no such file, no rows, or it is unclear which field holds the prediction.
        OutputError: a line that is no JSON object, an id that is none, or two rows with one id.
    """

    def __init__(
        self, path: Path, pred_field: str | None = None, text_field: str = "text", audio_folder: Path | None = None
    ):
        self.path = path
        self._text_field, self._audio_folder = text_field, audio_folder
        self._lines = JsonLines(rows_files(path))
        self.num_references = self.num_by_line = 0
        self.heard: Counter[str] = Counter()
        # A file with a field of its own for every row must not fill the memory.
        self._names: set[str] = set()
        ids, made_rows, made_hashes = array("q"), array("q"), array("Q")
        for index, row in enumerate(self._lines.scan()):
            if len(self._names) < _MOST_NAMES:
                self._names.update(row)
            try:
                row_id, is_made = self._id(row, index)
            except ValueError as e:
                raise OutputError(f"{self._lines.where(index)}: {e}") from e
            self.num_by_line += row.get("id") is None and not is_made
            ids.append(hash(row_id))
            self.num_references += row.get(text_field) is not None
            if (heard := heard_language(row)) and not stated_language(row):
                self.heard[heard] += 1
            if is_made:
                made_rows.append(index)
                # A made id is 16 hexadecimal digits, so 8 bytes keep it until it is known whether it repeats.
                made_hashes.append(int(row_id, 16))
        self.num_made, self.torn = len(made_rows), self._lines.torn > 0
        self.keys = np.array(ids, np.int64)
        # Which ids repeat is known only now, at the end of the file; their rows are called by other names from here on.
        self._ordinals = number_repeats(self.keys, made_rows, made_hashes)
        if not len(self):
            raise UsageError(f"{path}: holds no rows")
        self._index = HashIndex(self.keys)
        self.pred_field = self._choose_field(pred_field)
        self.other_fields = [name for name in self._candidates() if pred_field is None and name != self.pred_field]
        self._refuse_doubled()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> dict[str, Any]:
        """Row `index`, with the id it goes by as `id`.

        Raises:
            OutputError: the file changed since it was opened.
        """
        try:
            row = self._lines.read(index)
            row_id, is_made = self._id(row, index)
            row["id"] = numbered(row_id, index, self._ordinals) if is_made else row_id
        except ValueError as e:
            raise self._changed() from e
        if hash(row["id"]) != self.keys[index]:
            raise self._changed()
        return row

    def find(self, row_id: str) -> dict[str, Any] | None:
        """The row called `row_id`; None where there is none."""
        # Two ids may have one hash.
        return next((row for at in self._index.find(hash(row_id)) if (row := self.read(at))["id"] == row_id), None)

    def where(self, row_id: str) -> str:
        """File, line and id of the row called `row_id`, for messages."""
        return f"{self._lines.where(self._index.find(hash(row_id))[0])}: id {show_text(row_id)}"

    def without(self, keys: np.ndarray) -> np.ndarray:
        """int64, ascending: rows whose id is not among those with these hashes."""
        return np.flatnonzero(~np.isin(self.keys, keys))

    def by_audio(self, folder: Path) -> "Predictions":
        """The same rows, where they have no id called after the audio that they mean."""
        found = Predictions(self.path, self.pred_field, self._text_field, folder)
        # The field is given by name this time, and then nobody would be told of the others.
        found.other_fields = self.other_fields
        return found

    def notes(self) -> list[str]:
        """What a person should know about the field with predictions."""
        if not self.other_fields:
            return []
        others = show_text(", ".join(self.other_fields))
        return [f"predictions are those in {self.pred_field}; there are also {others}: --pred-field chooses"]

    def _candidates(self) -> list[str]:
        return sorted(name for name in self._names if name.startswith("pred_text"))

    def _choose_field(self, given: str | None) -> str:
        names, found = ", ".join(sorted(self._names)), self._candidates()
        if given is not None and given not in self._names:
            raise UsageError(f"--pred-field {given}: no row of {self.path} has it; there are {names}")
        if given is not None or "pred_text" in found or len(found) == 1:
            return given or ("pred_text" if "pred_text" in found else found[0])
        if found:
            raise UsageError(
                f"{self.path}: predictions of several models ({', '.join(found)}); choose one with --pred-field"
            )
        raise UsageError(
            f"{self.path}: no pred_text in any row, only {show_text(names)}; say which holds predictions with "
            "--pred-field"
        )

    def _refuse_doubled(self) -> None:
        shared = self._index.hashes[1:][self._index.hashes[1:] == self._index.hashes[:-1]]
        first: dict[str, int] = {}
        doubled: list[tuple[str, int]] = []
        for index in np.flatnonzero(np.isin(self.keys, shared)).tolist() if len(shared) else ():
            row_id = self.read(index)["id"]  # two ids may have one hash
            if first.setdefault(row_id, index) != index:
                doubled.append((row_id, index))
        if not doubled:
            return
        shown = [  # a few: `where` reads the file up to there
            f"{self._lines.where(index)}: id {show_text(row_id)} is at {self._lines.where(first[row_id])} already"
            for row_id, index in doubled[:_SHOWN]
        ]
        more = [f"… and {len(doubled) - _SHOWN} more"] if len(doubled) > _SHOWN else []
        raise OutputError(*shown, *more, "ids must be unique; remove all but one of them")

    def _id(self, row: dict[str, Any], index: int) -> tuple[str, bool]:
        """The row's id, and whether it was made here and may therefore repeat.

        Raises:
            ValueError: what stands there is none.
        """
        given = row.get("id")
        # Not `isinstance`: true is a whole number to Python, and no id.
        if type(given) in (str, int) and given != "":
            return str(given), False
        if given is not None:
            raise ValueError(
                f"id = {show(given)}: must be a non-empty string or a whole number; leave it out to have one made"
            )
        path = row.get("audio_filepath")
        if type(path) is not str:
            return f"row-{index}", False
        seconds = [finite_seconds(row.get(name)) for name in ("offset", "duration")]
        channel = row.get("channel") if type(row.get("channel")) is int else None
        of_audio = self._audio_folder and audio_id(audio_ref(path, str(self._audio_folder)), *seconds, channel)
        return of_audio or hash_row(path, *seconds, channel), True

    def _changed(self) -> OutputError:
        return OutputError(
            f"{self.path}: was changed while it was read; run the same command again when nothing writes it"
        )


def number_repeats(keys: np.ndarray, rows: array, hashes: array) -> dict[int, int]:
    """Of rows whose id was made before: the how many-th of its kind each is, in the order of the file, from 2.

    Args:
        keys: `hash(id)` of all rows; those of the rows with made ids are set.
        rows, hashes: of all rows with made ids.
    """
    before = SeenHashes().add(np.frombuffer(hashes, np.uint64))
    repeats = {rows[at]: int(before[at]) + 1 for at in np.flatnonzero(before)}
    for index, made in zip(rows, hashes, strict=True):
        keys[index] = hash(numbered(f"{made:016x}", index, repeats))
    return repeats


def numbered(row_id: str, index: int, repeats: dict[int, int]) -> str:
    """A made id as a manifest numbers it where it repeats."""
    return numbered_id(row_id, repeats[index]) if index in repeats else row_id


def audio_id(audio: AudioRef, offset_s: float | None, duration_s: float | None, channel: int | None) -> str | None:
    """An id made of the audio that a row means, however that is written; None for audio that has no place."""
    place = os.path.normpath(audio.path) if audio.path is not None else audio.url
    # No offset and an offset of 0 mean the same audio.
    return None if place is None else hash_row(place, offset_s or None, duration_s, channel)
