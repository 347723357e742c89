"""Manifests in tables of Arrow types: finds the audio column, and turns a table's row into a manifest's.

Cells that may hold audio are structs of `bytes` and `path`, as Hugging Face `datasets` writes them, bytes, or paths.
Audio stays where it is until an utterance's turn has come (`AudioRef.load`), and is never decoded through `datasets`,
which would copy it and needs torchcodec. Knows nothing of files: `parquet.py` and `arrow.py` are the tables.
"""

import datetime
import decimal
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from asrbatch.errors import ManifestError, RowError
from asrbatch.formatting import one_line
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import Reader, row_or_error
from asrbatch.manifest.row import IN_CELL, KNOWN_FIELDS, InvalidRow, Row, audio_ref, parse_row
from asrbatch.storage.filenames import find_file
from asrbatch.types import AudioRef


@contextmanager
def explain_arrow(path: str, format: str) -> Iterator[None]:
    """What Arrow's libraries raise about a file, as a ManifestError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:  # the last for names of columns
        problem = one_line(e, with_type=False)
        raise ManifestError(f"{path}: cannot be read as {format}: {problem}; is it complete?") from e


def kind_of_cell(kind: pa.DataType) -> str | None:
    """`struct`, `bytes` or `path`; None for what holds no audio."""
    if pa.types.is_struct(kind):
        return "struct" if {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)} else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "bytes"
    return "path" if is_string(kind) else None


def is_string(kind: pa.DataType) -> bool:
    """Text, also in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def hold_bytes(cells: pa.Array | pa.ChunkedArray) -> list[bool]:
    """Which structs, or bytes, hold any; touches no audio."""
    return (pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells).is_valid().to_pylist()


_AUDIO_COLUMNS = ("audio_filepath", "audio", "path", "file")


class Table:
    """Rows in Arrow form.

    Audio cells are structs of `bytes` and `path`, or bytes; a light batch holds at most their `path`.

    Attributes:
        schema, num_rows: of all its files.
        feature_types: column to class of its `datasets` feature, as far as known.
        in_groups: see `Reader`.
    """

    schema: pa.Schema
    num_rows: int
    feature_types: dict[str, str]
    in_groups = False

    def choose_audio(self, audio: str, in_cells: bool) -> None:
        """Name the audio column, before the first row is read; `in_cells` where it may hold bytes."""
        self._audio, self._in_cells = audio, in_cells

    def scan(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch | pa.Table, list[bool]]]:
        """Light batches of these columns, in order, with, for each row, whether its audio may be in the cell."""

    def row(self, index: int) -> tuple[pa.RecordBatch | pa.Table, bool]:
        """One row of all columns; otherwise as `scan`. From any thread."""

    def cell(self, index: int) -> dict[str, Any] | bytes | None:
        """The audio cell of one row: encoded bytes, or these and a path, either of them None. From any thread.

        Raises:
            RowError: it is damaged.
        """

    def file(self, index: int) -> str:
        """The file with that row, for messages."""


class TableReader(Reader):
    """The rows of a table.

    Rows without an id are called `label/row`. The scan passes over columns of lists, structs and bytes that no rule
    looks at, so a `check` does not see them; `row` reads them all.

    Args:
        table: where the rows are.
        source: absolute path, for messages.
        folder: what relative audio paths are relative to.
        label: the split, or what stands for it.
        columns: columns under other names.

    Raises:
        ManifestError: there is not exactly one audio column, or not one of a name that was given.
    """

    def __init__(self, table: Table, source: str, folder: str, label: str, columns: Columns):
        self.source, self.num_rows = source, table.num_rows
        self._table, self._folder, self._label = table, folder, label
        # Before the audio column is chosen, so that a misspelt option is reported as such.
        columns.check(source, table.schema.names)
        given, _ = columns.given.get("audio_filepath", (None, None))
        self._audio = find_audio_column(source, table.schema, table.feature_types, given)
        # The audio column is renamed below, where it is known whether a cell holds audio or a path.
        self._rename = columns.but_audio()
        kind = table.schema.field(self._audio).type
        self._is_bytes = kind_of_cell(kind) == "bytes"
        self.base_folder, self.holds_audio = folder, kind_of_cell(kind) != "path"
        table.choose_audio(self._audio, self.holds_audio)
        self.in_groups = table.in_groups
        # Lists, structs and bytes are left out of the pass: a column of embeddings is larger than the text of all
        # rows.
        self._scanned = [
            field.name
            for field in table.schema
            if field.name == self._audio or self._rename.ours(field.name) in KNOWN_FIELDS or not _is_heavy(field.type)
        ]
        if self._is_bytes:  # whole cells of audio
            self._scanned.remove(self._audio)

    def rows(self) -> Iterator[Row | InvalidRow]:
        index = 0
        for batch, in_cell in self._table.scan(self._scanned):
            names = batch.schema.names
            columns = [self._values(batch, name) for name in names]
            rows = zip(*columns, strict=True) if columns else [()] * batch.num_rows
            for values, may_hold in zip(rows, in_cell, strict=True):
                yield row_or_error(self._parse, index, dict(zip(names, values, strict=True)), may_hold)
                index += 1

    def row(self, index: int) -> Row:
        batch, in_cell = self._table.row(index)
        return self._parse(index, {name: self._values(batch, name)[0] for name in batch.schema.names}, in_cell)

    def audio(self, index: int, row: Row) -> AudioRef:
        if row.path is not None:
            return audio_ref(row.path, self._folder)
        return AudioRef(f"{self._label}/{index}", load=partial(self._load, index))

    def where(self, index: int) -> str:
        return f"{self._table.file(index)}:{self._label}/{index}"

    def _values(self, batch: pa.RecordBatch | pa.Table, name: str) -> list[Any]:
        column = batch.column(name)
        if name == self._audio and self._is_bytes:
            return [None] * len(column)
        if name == self._audio and pa.types.is_struct(column.type):
            return pc.struct_field(column, "path").to_pylist()
        values = column.to_pylist()
        return values if _is_plain(column.type) else [_plain(value) for value in values]

    def _parse(self, index: int, values: dict[str, Any], in_cell: bool) -> Row:
        if self._is_bytes:
            values = {self._audio: None, **values}
        path = values[self._audio]
        if self._audio == "audio_filepath":
            fields = values
        elif "audio_filepath" in values:  # the data set's own name for it stays; the audio is still the audio column's
            fields = {name: value for name, value in values.items() if name != self._audio}
        else:
            fields = {"audio_filepath" if name == self._audio else name: value for name, value in values.items()}
        fields = self._rename.rename(fields)
        row = parse_row(fields, IN_CELL if in_cell else path, f"{self._label}/{index}")
        # An output row names its audio, here by the place in the table.
        if not fields["audio_filepath"]:
            fields["audio_filepath"] = row.id
        return row

    def _load(self, index: int) -> bytes:
        """Encoded audio of one row. Raises RowError `missing` or `unreadable`, ManifestError when the files changed."""
        cell = self._table.cell(index)
        if type(cell) is bytes:
            return cell
        cell = cell or {"bytes": None, "path": None}
        if cell["bytes"] is not None:
            return cell["bytes"]
        name = f"{self._label}/{index}"
        if not cell["path"]:
            problem = "the audio cell holds neither bytes nor a path; drop the row"
            raise RowError("missing", f"{name}: {problem}", has_fix=True)
        ref = audio_ref(cell["path"], self._folder)
        if ref.load is not None:
            return ref.load()
        try:
            with open(find_file(ref.path), "rb") as file:
                return file.read()
        except FileNotFoundError as e:
            raise RowError("missing", f"{name}: {ref.path} does not exist, and the audio cell holds no bytes") from e
        except (OSError, ValueError) as e:
            raise RowError("unreadable", f"{name}: {ref.path}: {e}") from e


def find_audio_column(source: str, schema: pa.Schema, feature_types: dict[str, str], given: str | None = None) -> str:
    """The column with the audio: an Audio feature, else a struct of `bytes` and `path`, else strings or bytes of a
    known name.

    Args:
        given: the name of the column, where an option names it; it may hold any of these.

    Raises:
        ManifestError: none, one of several clips a row, or several that are equally likely.
    """
    names = schema.names
    declared = [name for name in names if feature_types.get(name) == "Audio"]
    # A struct with a feature class of its own is something else: an Image, a Video.
    structs = [
        field.name for field in schema if kind_of_cell(field.type) == "struct" and field.name not in feature_types
    ]
    others = [
        name for name in _AUDIO_COLUMNS if name in names and kind_of_cell(schema.field(name).type) in ("path", "bytes")
    ]
    # The surest sign first; two of one kind are a question for the user.
    candidates = [given] if given else declared or structs or others
    if len(candidates) > 1:
        found = ", ".join(candidates)
        fix = "choose one with --audio-column"
        raise ManifestError(f"{source}: several columns may hold the audio ({found}); {fix}")
    several = [given] if given else [] if candidates else names
    for field in map(schema.field, several):
        if _holds_several(field):
            problem = f"the column {field.name} is a list: several clips in one row are not supported"
            raise ManifestError(f"{source}: {problem}; write one row per clip")
    accepted = f"an Audio feature, a struct of bytes and path, or paths or bytes named {', '.join(_AUDIO_COLUMNS)}"
    if not candidates:
        found = ", ".join(names) or "no columns"
        fix = f"expected {accepted}, or name it with --audio-column"
        raise ManifestError(f"{source}: no audio column among {found}; {fix}")
    kind = schema.field(candidates[0]).type
    if kind_of_cell(kind) is None:
        raise ManifestError(f"{source}: the audio column {candidates[0]} is stored as {kind}; expected {accepted}")
    return candidates[0]


def _holds_several(field: pa.Field) -> bool:
    """Whether a column is a list of what may be audio: structs of `bytes` and `path`, or what has a name of audio."""
    kind = field.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    of = kind_of_cell(kind.value_type)
    return of == "struct" or (of is not None and field.name in (*_AUDIO_COLUMNS, "audios"))


def _is_plain(kind: pa.DataType) -> bool:
    """Its Python values are what JSON knows."""
    return is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_heavy(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind) or kind_of_cell(kind) == "bytes"


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: dates in ISO 8601, time spans in seconds, bytes as their digest."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)  # exactly
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.item() if hasattr(value, "item") else str(value)  # a numpy scalar; anything else, e.g. a UUID


def feature_types(schema: pa.Schema) -> dict[str, str]:
    """What `datasets` wrote about columns into the file: {column: class of its feature}; empty for other writers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature["_type"] for name, feature in features.items() if "_type" in feature}
    except (KeyError, TypeError, ValueError):  # metadata that is absent, or not what we know
        return {}
