"""Cells of an Arrow column that may hold audio: structs of `bytes` and `path`, as `datasets` writes them, bytes, or paths.

Knows nothing of files and rows.
"""

import pyarrow as pa
import pyarrow.compute as pc


def kind_of_cell(kind: pa.DataType) -> str | None:
    """`struct`, `bytes` or `path`; None for what holds no audio."""
    if pa.types.is_struct(kind):
        return "struct" if {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)} else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "bytes"
    return "path" if is_string(kind) else None


def is_string(kind: pa.DataType) -> bool:
    """Text, also where equal ones are kept once."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def hold_bytes(cells: pa.Array | pa.ChunkedArray) -> list[bool]:
    """Which structs, or bytes, hold any; touches no audio."""
    return (pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells).is_valid().to_pylist()
