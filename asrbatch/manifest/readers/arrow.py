"""Arrow files as one table, memory-mapped: both IPC formats, as `datasets` and `pyarrow` write them.

Knows columns and bytes; what a row means is the business of `table.py`. A folder of `save_to_disk` is such files too,
read without `datasets`: importing that takes 2 s.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pyarrow as pa

from asrbatch.errors import ManifestError
from asrbatch.manifest.readers.table import Table, explain_arrow, feature_types, hold_bytes
from asrbatch.storage.files import FileState

_MAGIC = b"ARROW1"  # of a file; a stream has none
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowTable(Table):
    """Nothing is copied: what is not read stays on disk.

    Args:
        paths: the files, in the order of their rows.
        name: what to call them all in messages; None names the file of a row.

    Raises:
        ManifestError: a file cannot be read, or has other columns than the first one.
    """

    def __init__(self, paths: list[str], name: str | None = None):
        self._paths, self._name = paths, name
        self._states = [FileState(path) for path in paths]
        tables = [_map(path) for path in paths]
        self.schema = tables[0].schema
        for path, table in zip(paths, tables, strict=True):
            # Types too: all are read as one table, by one schema.
            if not table.schema.equals(self.schema):
                raise ManifestError(f"{path}: other columns, or types, than {paths[0]}; give files of one data set")
        self._table = pa.concat_tables(tables)
        self._ends = list(accumulate(table.num_rows for table in tables))
        self.num_rows, self.feature_types = self._table.num_rows, feature_types(self.schema)

    def scan(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, list[bool]]]:
        for batch in self._table.to_batches():
            yield batch.select(columns), self._hold_bytes(batch)
        for state in self._states:
            state.check()

    def row(self, index: int) -> tuple[pa.Table, bool]:
        row = self._slice(index)
        return row, self._hold_bytes(row)[0]

    def cell(self, index: int) -> dict[str, Any] | bytes | None:
        found = self._slice(index).column(self._audio)[0].as_py()
        # Again, behind the read: what is written from now on is not in it.
        self._states[bisect_right(self._ends, index)].check()
        return found

    def file(self, index: int) -> str:
        return self._name or self._paths[bisect_right(self._ends, index)]

    def _slice(self, index: int) -> pa.Table:
        self._states[bisect_right(self._ends, index)].check()
        return self._table.slice(index, 1)

    def _hold_bytes(self, batch: pa.RecordBatch | pa.Table) -> list[bool]:
        if not self._in_cells:
            return [False] * batch.num_rows
        return hold_bytes(batch.column(self._audio))


def _map(path: str) -> pa.Table:
    with explain_arrow(path, "Arrow"):
        source = pa.memory_map(path)
        if source.read(len(_MAGIC)) == _MAGIC:
            return pa.ipc.open_file(source).read_all()
        source.seek(max(0, source.size() - len(_END_OF_STREAM)))
        if source.read() != _END_OF_STREAM:  # one cut off between two batches would read as a shorter one
            raise pa.ArrowInvalid("the stream does not end")
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()
