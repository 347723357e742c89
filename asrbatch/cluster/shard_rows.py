"""Reads the rows files of chunks, once: is every row what and where it should be?

One sequential pass over each file, several files at a time. Of a row it keeps where it stands and a checksum, 24 bytes
in all, so that rows can be fetched in manifest order afterwards. Knows nothing of run records and completion marks, and
changes nothing.
"""

import hashlib
import os
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrbatch.cluster.merge_report import SHOWN_LINES
from asrbatch.errors import OutputError
from asrbatch.formatting import show_text
from asrbatch.manifest.manifest import Manifest
from asrbatch.parallel import MOST_PROCESSES, over_items
from asrbatch.storage.files import explained
from asrbatch.storage.journal import StatusCounts, decode_row

_READ_BYTES = 8 * 2**20
_WORTH_A_PROCESS_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ExpectedRows:
    """What the rows of a run must be.

    Attributes:
        manifest: the rows' ids.
        chunk_of: int32 [rows of the manifest], the chunk of each row.
    """

    manifest: Manifest
    chunk_of: np.ndarray


@dataclass(frozen=True)
class ChunkRows:
    """What one rows file holds.

    Attributes:
        num_lines: complete lines.
        sha256: of all bytes of the file, a torn line included.
        torn: it ends in the beginning of a line.
        malformed: what is wrong with the line at which reading stopped; None when all of it was read.
        tally: over the complete lines.
        indexes: int64 [rows], ascending: rows of this chunk that the file holds. The next three go with it.
        offsets: uint64 [rows], where the row's line begins in the file.
        lengths: uint32 [rows], bytes of the line.
        checksums: uint32 [rows], CRC-32 of the line.
        num_doubled, doubled: lines of rows that the file holds already; what to say about the first of them.
        num_foreign, foreign: the same for rows that the manifest does not have, or has in another chunk.
        elsewhere: int64, rows of the manifest that belong to other chunks.
    """

    chunk_id: int
    num_lines: int
    sha256: str
    torn: bool
    malformed: str | None
    tally: StatusCounts
    indexes: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    num_doubled: int
    doubled: list[str]
    num_foreign: int
    foreign: list[str]
    elsewhere: np.ndarray


def read_chunks(
    chunks: dict[int, Path], expected: ExpectedRows, num_processes: int | None = None
) -> Iterator[ChunkRows]:
    """Reads the rows files of chunks, in any order.

    Args:
        chunks: rows files by chunk id.
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
    return over_items(lambda i: read_chunk(i, chunks[i], expected), largest_first, num_processes, "reading chunks")


def read_chunk(chunk_id: int, path: Path, expected: ExpectedRows) -> ChunkRows:
    """Reads the rows file of one chunk.

    Raises:
        OutputError: the file cannot be read.
    """
    # Arrays, not lists of numbers: a chunk may have millions of rows.
    indexes, id_hashes, offsets = array("q"), array("q"), array("Q")
    lengths, checksums = array("I"), array("I")
    sha256, tally, torn, malformed = hashlib.sha256(), StatusCounts(), False, None
    num_rows, offset = len(expected.manifest), 0
    with explained(path), open(path, "rb", buffering=_READ_BYTES) as file:
        for line in file:
            # A torn line too: the mark vouches for all bytes of the file.
            sha256.update(line)
            if not line.endswith(b"\n"):
                torn = True
                break
            try:
                row = decode_row(line, f"{path.name}:{len(indexes) + 1}")
            except OutputError as e:
                # Where a line cannot be read, line numbers and offsets of what follows may mean nothing.
                malformed = str(e)
                break
            index = row["index"]
            indexes.append(index if 0 <= index < num_rows else -1)  # an edited one need not fit into 64 bits
            id_hashes.append(hash(row["id"]))
            offsets.append(offset)
            lengths.append(len(line))
            checksums.append(zlib.crc32(line))
            tally.add(row)
            offset += len(line)
    lines = _RowLines(path, np.asarray(indexes), np.asarray(offsets), np.asarray(lengths))
    mine, doubled, foreign, elsewhere = _sort_out(lines.indexes, np.asarray(id_hashes), chunk_id, expected)
    return ChunkRows(
        chunk_id=chunk_id,
        num_lines=len(indexes),
        sha256=sha256.hexdigest(),
        torn=torn,
        malformed=malformed,
        tally=tally,
        indexes=lines.indexes[mine],
        offsets=lines.offsets[mine],
        lengths=lines.lengths[mine],
        checksums=np.asarray(checksums)[mine],
        num_doubled=len(doubled),
        doubled=[_describe_doubled(lines, place, mine) for place in doubled[:SHOWN_LINES].tolist()],
        num_foreign=len(foreign),
        foreign=[_describe_foreign(lines, place, expected) for place in foreign[:SHOWN_LINES].tolist()],
        elsewhere=lines.indexes[elsewhere],
    )


def _sort_out(
    indexes: np.ndarray, id_hashes: np.ndarray, chunk_id: int, expected: ExpectedRows
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Line numbers, from 0: this chunk's rows in manifest order, each once; doubled ones; foreign ones; those of the
    foreign that belong to another chunk.

    An id is compared by its 64-bit `hash`, which is what the manifest keeps of it.
    """
    known = indexes >= 0
    # Compared before the chunk is: a row of another manifest may have any index.
    known[known] = np.frombuffer(expected.manifest.keys, np.int64)[indexes[known]] == id_hashes[known]
    mine = known.copy()
    mine[known] = expected.chunk_of[indexes[known]] == chunk_id
    places = np.flatnonzero(mine)
    # Stable: of doubled rows the first in the file stays first, and the later ones are the doubles.
    places = places[np.argsort(indexes[places], kind="stable")]
    again = np.zeros(len(places), bool)
    again[1:] = indexes[places[1:]] == indexes[places[:-1]]
    return places[~again], np.sort(places[again]), np.flatnonzero(~mine), np.flatnonzero(known & ~mine)


def name_row(index: int, row_id: str) -> str:
    """`index 12 (id talk-12)`, on one line whatever the id holds."""
    return f"index {index} (id {show_text(row_id)})"


@dataclass(frozen=True)
class _RowLines:
    """The lines of a rows file: arrays [complete lines]."""

    path: Path
    indexes: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def read(self, place: int) -> tuple[str, str]:
        """`out.jsonl:7: index 12 (id talk-12)`, and that id. Reads the line again: for the few that are shown."""
        with explained(self.path), open(self.path, "rb") as file:
            file.seek(int(self.offsets[place]))
            line = file.read(int(self.lengths[place]))
        where = f"{self.path.name}:{place + 1}"
        row = decode_row(line, where)
        return f"{where}: {name_row(row['index'], row['id'])}", row["id"]


def _describe_doubled(lines: _RowLines, place: int, mine: np.ndarray) -> str:
    first = mine[np.searchsorted(lines.indexes[mine], lines.indexes[place])]
    return f"{lines.read(place)[0]} stands at line {first + 1} already"


def _describe_foreign(lines: _RowLines, place: int, expected: ExpectedRows) -> str:
    what, row_id = lines.read(place)
    index = int(lines.indexes[place])
    if index < 0:
        return f"{what}: the manifest has {len(expected.manifest)} rows"
    ours = expected.manifest.read(index).id
    return (
        f"{what}: row {index} has id {show_text(ours)}"
        if ours != row_id
        else f"{what} belongs to chunk {expected.chunk_of[index]}"
    )
