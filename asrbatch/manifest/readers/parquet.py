"""Parquet files as one table: a pass over its light columns, and any row again without reading the whole.

Reads through pyarrow, straight from the files; nothing is converted or copied into a cache. Knows columns and bytes;
what a row means is the business of `table.py`. Only importer of `pyarrow.parquet`.

Parquet stores a column in row groups and is read forwards, so a batch of neighbouring rows is the least that can be
fetched. The last few batches are kept: rows read in manifest order, or nearly so, cost one pass over the audio of
the row groups they are in, and rows in other row groups are never read. Memory is that of the kept batches and of one
page of the file, which most writers end after 1 MB or 1,024 rows, whichever comes later.

Statistics of a row group tell whether its cells hold audio: all do, or none. Only of local row groups where some cells
lack both audio and a path is the audio read once, when their turn comes in the scan, to know which: a byte a row.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.readers.table import Table, explain_arrow, feature_types, hold_bytes, kind_of_cell
from asrbatch.manifest.readers.text import ForwardBlocks
from asrbatch.storage.files import FileState
from asrbatch.storage.remote import RemoteFile, is_remote

_BATCH_ROWS = 8192
_LIGHT_BATCH_BYTES = 4 << 20  # as encoded, before compression
_AUDIO_BATCH_BYTES = 64 << 20
_KEPT_BATCHES = 3
_STREAM_BYTES = 1 << 20
_REMOTE_BYTES = 4 << 20  # a request each


@dataclass(frozen=True, slots=True)
class _RowGroupSpan:
    """A row group: rows [start, start + num_rows) of the table."""

    start: int
    num_rows: int
    file: int  # which file
    number: int  # of the row group in that file


class ParquetTable(Table):
    """Row groups of one or several files.

    Args:
        paths: the files, in the order of their rows.

    Raises:
        ManifestError: a file cannot be read, or has other columns than the first one.
    """

    def __init__(self, paths: list[str]):
        self._paths = paths
        self._states = {number: FileState(path) for number, path in enumerate(paths) if not is_remote(path)}
        self._remote = {path: RemoteFile(path) for path in paths if is_remote(path)}
        self._metadata: list[pq.FileMetaData] = []
        self._schemas: list[pa.Schema] = []
        self._groups: list[_RowGroupSpan] = []
        self.num_rows = 0
        for number, path in enumerate(paths):
            with explain_arrow(path, "Parquet"), self._open(path) as raw, pq.ParquetFile(raw) as file:
                metadata, schema = file.metadata, file.schema_arrow
            if number == 0:
                self.schema = schema
            # By name, not by type or order: writers differ between shards in both, and columns are read by name.
            elif set(schema.names) != set(self.schema.names):
                others = ", ".join(sorted(set(schema.names) ^ set(self.schema.names)))
                raise ManifestError(f"{path}: other columns than {paths[0]} ({others}); give files of one data set")
            self._metadata.append(metadata)
            self._schemas.append(schema)
            for group in range(metadata.num_row_groups):
                num_rows = metadata.row_group(group).num_rows
                if num_rows:
                    self._groups.append(_RowGroupSpan(self.num_rows, num_rows, number, group))
                    self.num_rows += num_rows
        self.feature_types = feature_types(self.schema)
        self._starts = [group.start for group in self._groups]

    def choose_audio(self, audio: str, in_cells: bool) -> None:
        for path, schema in zip(self._paths, self._schemas, strict=True):
            if kind_of_cell(schema.field(audio).type) != kind_of_cell(self.schema.field(audio).type):
                problem = f"column {audio} is of another type than in {self._paths[0]}"
                raise ManifestError(f"{path}: {problem}; write it again")
        # Of a struct the two parts are columns of their own in the file, so that paths are read without the audio.
        self._bytes, self._path = f"{audio}.bytes", f"{audio}.path"
        self._light = {name: name for name in self.schema.names}
        if kind_of_cell(self.schema.field(audio).type) == "bytes":
            self._bytes, self._path = audio, None
            del self._light[audio]
        elif in_cells:
            self._light[audio] = self._path
        self._holding = [in_cells and self._hold_audio(group) for group in self._groups]
        self._held: dict[int, np.ndarray] = {}  # of a mixed row group, bool [num_rows]
        self._lock = threading.Lock()
        self._light_batches = self._batches(list(self._light.values()), _LIGHT_BATCH_BYTES)
        self._audio_batches = self._batches([audio], _AUDIO_BATCH_BYTES)
        # Audio in row groups of several rows: one cannot be read without those before it.
        self.in_groups = any(
            holding is not False and group.num_rows > 1
            for holding, group in zip(self._holding, self._groups, strict=True)
        )

    def scan(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, list[bool]]]:
        wanted = [light for name, light in self._light.items() if name in columns]
        for start, batch in self._walk(0, wanted, _LIGHT_BATCH_BYTES):
            yield batch, self._in_cells(start, batch.num_rows)
        for state in self._states.values():
            state.check()

    def row(self, index: int) -> tuple[pa.RecordBatch, bool]:
        self._check_file(index)
        return self._row(self._light_batches, index), self._in_cells(index, 1)[0]

    def cell(self, index: int) -> dict[str, Any] | bytes | None:
        damage = found = None
        try:
            found = self._row(self._audio_batches, index).column(0)[0].as_py()
        except ManifestError as e:  # a damaged page is the loss of its rows, not of the run
            damage = e
        # Behind the read: what was written before it is noticed, and what is written now is not in it.
        self._check_file(index)
        if damage:
            raise RowError("unreadable", str(damage)) from damage
        return found

    def file(self, index: int) -> str:
        return self._paths[self._groups[self._group_of(index)].file]

    def _group_of(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1

    def _batches(self, names: list[str], batch_bytes: int) -> ForwardBlocks:
        walk = partial(self._walk, names=names, batch_bytes=batch_bytes)
        return ForwardBlocks(walk, lambda index: self._starts[self._group_of(index)], _KEPT_BATCHES)

    def _walk(self, index: int, names: list[str], batch_bytes: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(first row, batch) of some columns, from the row group with row `index` on."""
        for group in self._groups[self._group_of(index) :]:
            start = group.start
            for batch in self._read(group, names, batch_bytes):
                yield start, batch
                start += batch.num_rows

    def _row(self, batches: ForwardBlocks, index: int) -> pa.RecordBatch:
        start, batch = batches.find(index)
        return batch.slice(index - start, 1)

    def _check_file(self, index: int) -> None:
        file = self._groups[self._group_of(index)].file
        if file in self._states:
            self._states[file].check()

    def _hold_audio(self, group: _RowGroupSpan) -> bool | None:
        """Whether the cells of a row group may hold audio, by the statistics: False where these prove that every cell
        is a mere path; None where some hold audio and some do not, of which some may have no path either: that is to
        be read. Not behind URLs, where it would take fetching all of the audio.
        """
        num_nulls = self._num_nulls(group, self._bytes)
        if num_nulls == group.num_rows:
            return False
        is_mixed = num_nulls and not is_remote(self._paths[group.file])
        return None if is_mixed and (self._path is None or self._num_nulls(group, self._path)) else True

    def _num_nulls(self, group: _RowGroupSpan, column_name: str) -> int | None:
        """None where the writer did not say."""
        # Not every writer states them; then any cell may hold audio.
        statistics = next((column.statistics for column in self._columns(group, [column_name])), None)
        return None if statistics is None or not statistics.has_null_count else statistics.null_count

    def _in_cells(self, index: int, num_rows: int) -> list[bool]:
        """Whether the audio of rows of one row group may be in their cells; the same at every call."""
        at = self._group_of(index)
        if self._holding[at] is not None:
            return [self._holding[at]] * num_rows
        with self._lock:
            if at not in self._held:
                self._held[at] = self._find_held(self._groups[at])
        start = index - self._starts[at]
        return self._held[at][start : start + num_rows].tolist()

    def _find_held(self, group: _RowGroupSpan) -> np.ndarray:
        """Which cells hold audio, bool [num_rows]. Those from a damaged page on may: they fail in their turn."""
        held, start = np.ones(group.num_rows, bool), 0
        with suppress(ManifestError):
            for batch in self._read(group, [self._bytes], _AUDIO_BATCH_BYTES):
                held[start : start + batch.num_rows] = hold_bytes(batch.column(0))
                start += batch.num_rows
        return held

    def _columns(self, group: _RowGroupSpan, names: list[str]) -> Iterator[pq.ColumnChunkMetaData]:
        metadata = self._metadata[group.file].row_group(group.number)
        for number in range(metadata.num_columns):
            column = metadata.column(number)
            if any(column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.") for name in names):
                yield column

    def _read(self, group: _RowGroupSpan, names: list[str], batch_bytes: int) -> Iterator[pa.RecordBatch]:
        """A row group, in batches of at most about that size."""
        # Arrow counts a batch in rows, memory is bytes: by the mean size of the rows.
        num_bytes = sum(column.total_uncompressed_size for column in self._columns(group, names))
        batch_rows = min(_BATCH_ROWS, max(1, group.num_rows * batch_bytes // max(num_bytes, 1)))
        path, num_rows = self._paths[group.file], 0
        # Not pre-buffered, and through a small buffer: memory is that of a batch, not of the row group.
        streamed = {"pre_buffer": False, "buffer_size": _REMOTE_BYTES if is_remote(path) else _STREAM_BYTES}
        with (
            explain_arrow(path, "Parquet"),
            self._open(path) as raw,
            pq.ParquetFile(raw, metadata=self._metadata[group.file], **streamed) as file,
        ):
            for batch in file.iter_batches(batch_rows, row_groups=[group.number], columns=names, use_threads=False):
                num_rows += batch.num_rows
                yield batch
        if num_rows != group.num_rows:
            problem = f"row group {group.number} holds {num_rows} rows, not {group.num_rows}"
            raise ManifestError(f"{path}: {problem}; write it again")

    def _open(self, path: str) -> Any:
        return pa.PythonFile(self._remote[path].again(), "r") if path in self._remote else pa.OSFile(path)
