"""Reads the rows files of chunks, once: is every row what and where it should be?

One sequential pass over each file, several files at a time. Of a row it keeps where it stands and a checksum
(`LINE`), so that rows can be fetched in manifest order afterwards. Knows nothing of run records and completion marks,
and changes nothing.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrbatch.cluster.merge_report import SHOWN_LINES
from asrbatch.errors import OutputError
from asrbatch.formatting import show_text
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.parallel import MOST_PROCESSES, over_items
from asrbatch.storage.files import explained
from asrbatch.storage.journal import StatusCounts, decode_row

_READ_BYTES = 8 * 2**20
_WORTH_A_PROCESS_BYTES = 64 * 2**20


# Where a row's line stands in its file, and what it must be: 32 bytes a row, where Python's own numbers take hundreds.
LINE = np.dtype([
    ("index", np.int64), ("id_hash", np.int64), ("offset", np.uint64), ("length", np.uint32), ("checksum", np.uint32),
])  # fmt: skip
_pack_line = struct.Struct("=qqQII").pack


@dataclass(frozen=True)
class ChunkRows:
    """What one rows file holds.

    Attributes:
        num_lines: complete lines.
        sha256: of all bytes of the file, a torn line included.
        malformed: what is wrong with the line at which reading stopped; None when all of it was read.
        tally: over the complete lines.
        lines: `LINE` [rows of this chunk that the file holds], by ascending index.
        num_doubled, doubled: lines of rows that the file holds already; what to say about the first of them.
        num_foreign, foreign: the same for rows that the manifest does not have, or has in another chunk.
        elsewhere: int64, rows of the manifest that belong to other chunks.
    """

    chunk_id: int
    num_lines: int
    sha256: str
    malformed: str | None
    tally: StatusCounts
    lines: np.ndarray
    num_doubled: int
    doubled: list[str]
    num_foreign: int
    foreign: list[str]
    elsewhere: np.ndarray


def read_chunks(
    chunks: dict[int, Path], manifest: Manifest, sharding: Sharding, num_processes: int | None = None
) -> Iterator[ChunkRows]:
    """Reads the rows files of chunks, in any order.

    Args:
        chunks: rows files by chunk id.
        manifest, sharding: the rows that there should be, and the chunk of each.
        num_processes: how many read at a time; None takes one for each core where there is enough to read.

    Raises:
        OutputError: a file cannot be read.
    """
    sizes = {}
    for chunk_id, path in chunks.items():
        with explained(path):
            sizes[chunk_id] = os.stat(path).st_size
    if num_processes is None:
        enough = sum(sizes.values()) // _WORTH_A_PROCESS_BYTES
        num_processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)), enough)
    # The largest first: those read at a time are then about as long, and the last to be read are the shortest.
    largest_first = sorted(chunks, key=sizes.__getitem__, reverse=True)
    return over_items(
        lambda i: _read_chunk(i, chunks[i], manifest, sharding), largest_first, num_processes, "reading chunks"
    )


def _read_chunk(chunk_id: int, path: Path, manifest: Manifest, sharding: Sharding) -> ChunkRows:
    packed, sha256, tally, malformed, offset = bytearray(), hashlib.sha256(), StatusCounts(), None, 0
    with explained(path), open(path, "rb", buffering=_READ_BYTES) as file:
        for line in file:
            # A torn line too: the mark vouches for all bytes of the file.
            sha256.update(line)
            if not line.endswith(b"\n"):
                break
            try:
                row = decode_row(line, f"{path.name}:{tally.rows + 1}")
            except OutputError as e:
                # Where a line cannot be read, line numbers and offsets of what follows may mean nothing.
                malformed = str(e)
                break
            index = row["index"] if 0 <= row["index"] < len(manifest) else -1  # an edited one need not fit into 64 bits
            packed += _pack_line(index, hash(row["id"]), offset, len(line), zlib.crc32(line))
            tally.add(row)
            offset += len(line)
    lines = np.frombuffer(packed, LINE)
    mine, doubled, foreign, elsewhere = _sort_out(lines, chunk_id, manifest, sharding)
    return ChunkRows(
        chunk_id=chunk_id,
        num_lines=len(lines),
        sha256=sha256.hexdigest(),
        malformed=malformed,
        tally=tally,
        lines=lines[mine],
        num_doubled=len(doubled),
        doubled=[_describe_doubled(path, lines, place, mine) for place in doubled[:SHOWN_LINES].tolist()],
        num_foreign=len(foreign),
        foreign=[_describe_foreign(path, lines, place, manifest, sharding) for place in foreign[:SHOWN_LINES].tolist()],
        elsewhere=lines["index"][elsewhere],
    )


def _sort_out(
    lines: np.ndarray, chunk_id: int, manifest: Manifest, sharding: Sharding
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Line numbers, from 0: this chunk's rows in manifest order, each once; doubled ones; foreign ones; those of the
    foreign that belong to another chunk.

    An id is compared by its 64-bit `hash`, which is what the manifest keeps of it.
    """
    indexes = lines["index"]
    known = indexes >= 0
    # Compared before the chunk is: a row of another manifest may have any index.
    known[known] = np.frombuffer(manifest.keys, np.int64)[indexes[known]] == lines["id_hash"][known]
    mine = known.copy()
    mine[known] = sharding.chunk_of[indexes[known]] == chunk_id
    places = np.flatnonzero(mine)
    # Stable: of doubled rows the first in the file stays first, and the later ones are the doubles.
    places = places[np.argsort(indexes[places], kind="stable")]
    again = np.zeros(len(places), bool)
    again[1:] = indexes[places[1:]] == indexes[places[:-1]]
    return places[~again], np.sort(places[again]), np.flatnonzero(~mine), np.flatnonzero(known & ~mine)


def name_row(index: int, row_id: str) -> str:
    """`index 12 (id talk-12)`, on one line whatever the id holds."""
    return f"index {index} (id {show_text(row_id)})"


def _read_line(path: Path, lines: np.ndarray, place: int) -> tuple[str, str]:
    """`out.jsonl:7: index 12 (id talk-12)`, and that id. Reads the line again: for the few that are shown."""
    with explained(path), open(path, "rb") as file:
        file.seek(int(lines["offset"][place]))
        line = file.read(int(lines["length"][place]))
    where = f"{path.name}:{place + 1}"
    row = decode_row(line, where)
    return f"{where}: {name_row(row['index'], row['id'])}", row["id"]


def _describe_doubled(path: Path, lines: np.ndarray, place: int, mine: np.ndarray) -> str:
    first = mine[np.searchsorted(lines["index"][mine], lines["index"][place])]
    return f"{_read_line(path, lines, place)[0]} is at line {first + 1} already"


def _describe_foreign(path: Path, lines: np.ndarray, place: int, manifest: Manifest, sharding: Sharding) -> str:
    what, row_id = _read_line(path, lines, place)
    index = int(lines["index"][place])
    if index < 0:
        return f"{what}: the manifest has {len(manifest)} rows"
    ours = manifest.read(index).id
    if ours != row_id:
        return f"{what}: row {index} has id {show_text(ours)}"
    return f"{what} belongs to chunk {sharding.chunk_of[index]}"
