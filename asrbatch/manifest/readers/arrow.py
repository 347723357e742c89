"""Arrow files as one table, memory-mapped: both IPC formats, as `datasets` and `pyarrow` write them.

Knows columns and bytes; what a row means is the business of `table.py`. A folder of `save_to_disk` is such files too,
read without `datasets`: importing that takes 2 s.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from asrbatch.errors import ManifestError
from asrbatch.formatting import one_line
from asrbatch.manifest.readers.table import Table, explain_arrow, feature_types, hold_bytes
from asrbatch.storage.files import FileState

_MAGIC = b"ARROW1"  # of a file; a stream has none
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowTable(Table):
    """Nothing is copied: what is not read stays on disk.

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
            # Types too: batches of one table are read by one schema.
            elif not schema.equals(self.schema):
                raise ManifestError(f"{path}: other columns, or types, than {paths[0]}; give files of one data set")
            for batch in batches:
                # An empty batch would have the start of the next one.
                if batch.num_rows:
                    self._batches.append(batch)
                    self._starts.append(self.num_rows)
                    self._file_of.append(number)
                    self.num_rows += batch.num_rows
        self.feature_types = feature_types(self.schema)

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
    with explain_arrow(path, "Arrow"):
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


class SavedTable(ArrowTable):
    """One split of what `save_to_disk` of `datasets` wrote: Arrow files that `state.json` names in order.

    Attributes:
        split: its name; None where the writer gave none.

    Raises:
        ManifestError: it is damaged, or holds no rows.
    """

    def __init__(self, folder: str):
        try:
            # It lists the files in the order of their rows; names need not sort so.
            with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
                state = json.load(file)
            names, self.split = [each["filename"] for each in state["_data_files"]], state.get("_split")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ManifestError(f"{folder}: state.json cannot be read ({one_line(e)}); save the data set again") from e
        if not names:  # datasets writes no file for a data set without rows
            raise ManifestError(f"{folder}: holds no rows; expected at least one utterance")
        super().__init__([os.path.join(folder, name) for name in names])
        self._folder = folder

    def file(self, index: int) -> str:
        return self._folder
