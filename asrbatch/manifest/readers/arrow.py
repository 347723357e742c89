"""Arrow files as one table, memory-mapped: both IPC formats, as `datasets` and `pyarrow` write them.

Knows columns and bytes; what a row means is the business of `manifest_dataset.py`.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from asrbatch.errors import ManifestError
from asrbatch.formatting import one_line
from asrbatch.manifest.readers.parquet import feature_types
from asrbatch.manifest.readers.table import SCAN_ROWS, hold_bytes
from asrbatch.storage.files import FileState

_MAGIC = b"ARROW1"  # of a file; a stream has none
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowTable:
    """See `manifest_dataset.Table`. Nothing is copied: what is not asked for stays on disk.

    Args:
        paths: the files, in the order of their rows.

    Raises:
        ManifestError: a file cannot be read, or has other columns than the first one.
    """

    def __init__(self, paths: list[str]):
        self._paths = paths
        self._states = [FileState(path) for path in paths]
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []
        self._file_of: list[int] = []
        self.num_rows = 0
        for number, path in enumerate(paths):
            schema, batches = _map(path)
            if number == 0:
                self.schema = schema
            elif not schema.equals(self.schema):
                raise ManifestError(f"{path}: other columns, or types, than {paths[0]}; give files of one data set")
            for batch in batches:
                if batch.num_rows:
                    self._batches.append(batch)
                    self._starts.append(self.num_rows)
                    self._file_of.append(number)
                    self.num_rows += batch.num_rows
        self.feature_types = feature_types(self.schema)

    def choose_audio(self, audio: str, in_cells: bool) -> None:
        self._audio, self._in_cells = audio, in_cells

    def scan(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, list[bool]]]:
        for batch in self._batches:
            yield batch.select(columns), self._hold_bytes(batch)
        for state in self._states:
            state.check()

    def row(self, index: int) -> tuple[pa.RecordBatch, bool]:
        batch = self._slice(index)
        return batch, self._hold_bytes(batch)[0]

    def cell(self, index: int) -> dict[str, Any] | bytes | None:
        return self._slice(index).column(self._audio)[0].as_py()

    def file(self, index: int) -> str:
        return self._paths[self._file_of[bisect_right(self._starts, index) - 1]]

    def _slice(self, index: int) -> pa.RecordBatch:
        at = bisect_right(self._starts, index) - 1
        self._states[self._file_of[at]].check()
        return self._batches[at].slice(index - self._starts[at], 1)

    def _hold_bytes(self, batch: pa.RecordBatch) -> list[bool]:
        if not self._in_cells:
            return [False] * batch.num_rows
        return hold_bytes(batch.column(self._audio))


def _map(path: str) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    try:
        source = pa.memory_map(path)
        if source.read(len(_MAGIC)) == _MAGIC:
            reader = pa.ipc.open_file(source)
            return reader.schema, [reader.get_batch(number) for number in range(reader.num_record_batches)]
        source.seek(max(0, source.size() - len(_END_OF_STREAM)))
        if source.read() != _END_OF_STREAM:  # one cut off between two batches would read as a shorter one
            raise pa.ArrowInvalid("the stream does not end")
        source.seek(0)
        reader = pa.ipc.open_stream(source)
        return reader.schema, list(reader)
    except (pa.ArrowException, OSError) as e:
        problem = one_line(e, with_type=False)
        raise ManifestError(f"{path}: cannot be read as Arrow: {problem}; is it complete?") from e


class SavedTable:
    """One split of what `save_to_disk` wrote, memory-mapped; see `Table`. Raises ManifestError if it is damaged."""

    def __init__(self, folder: str):
        import datasets

        try:
            with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
                if not json.load(file)["_data_files"]:  # load_from_disk fails on these with an IndexError
                    raise ManifestError(f"{folder}: holds no rows; expected at least one utterance")
            self._rows = datasets.load_from_disk(folder, keep_in_memory=False).with_format("arrow")
        except ManifestError:
            raise
        except Exception as e:  # whatever a damaged folder makes of it (json, pyarrow, KeyError, …) is named here
            problem = one_line(e)
            raise ManifestError(f"{folder}: cannot be loaded with load_from_disk: {problem}; save it again") from e
        self.num_rows = self._rows.num_rows
        self.split = None if self._rows.split is None else str(self._rows.split)
        self.schema = self._rows.data.schema
        features = self._rows.features  # a plain struct is a dict here
        self.feature_types = {name: type(f).__name__ for name, f in features.items() if not isinstance(f, dict)}
        self._folder = folder
        self._states = [FileState(cache["filename"]) for cache in self._rows.cache_files]

    def choose_audio(self, audio: str, in_cells: bool) -> None:
        self._audio, self._in_cells = audio, in_cells
        self._cells = self._rows.select_columns([audio])

    def scan(self, columns: list[str]) -> Iterator[tuple[pa.Table, list[bool]]]:
        # With the audio, also where rows are wanted without it: which cells hold any is seen there, and nothing is read
        # of them.
        rows = self._rows.select_columns([*columns, *({self._audio} - set(columns))])
        for start in range(0, self.num_rows, SCAN_ROWS):
            batch = rows[start : min(start + SCAN_ROWS, self.num_rows)]
            yield batch, self._hold_bytes(batch)
        self._check_unchanged()

    def row(self, index: int) -> tuple[pa.Table, bool]:
        self._check_unchanged()
        batch = self._rows[index]
        return batch, self._hold_bytes(batch)[0]

    def cell(self, index: int) -> dict[str, Any] | None:
        self._check_unchanged()
        return self._cells[index].column(0)[0].as_py()

    def file(self, index: int) -> str:
        return self._folder

    def _hold_bytes(self, batch: pa.Table) -> list[bool]:
        if not self._in_cells:
            return [False] * batch.num_rows
        return hold_bytes(batch.column(self._audio))

    def _check_unchanged(self) -> None:
        for state in self._states:
            state.check()
