"""The files of a merged run: rows of many files in one, in manifest order, with their record and completion mark.

Fetches rows from where they were found, and makes sure that what it writes is what was found there. Knows nothing of
what makes a run complete."""

import hashlib
import os
import resource
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.errors import OutputError
from asrbatch.runs.fingerprint import digest
from asrbatch.storage.files import explained, remove, remove_leftovers, replacing, write_json_atomically
from asrbatch.storage.journal import StatusCounts
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import write_mark

# Between two looks at the lease; some megabytes of rows.
_BLOCK_ROWS = 1024
# For what Python and its libraries open meanwhile.
_SPARE_FILES = 32


def write_merged(
    paths: RunPaths,
    record: dict[str, Any],
    tally: StatusCounts,
    metrics: dict[str, Any],
    blocks: Iterable[bytes],
    check: Callable[[], None],
) -> None:
    """Writes `X.run.json`, `X.jsonl`, and when `record["complete"]` is true `X.done.json`.

    Whenever the process dies, the record says that these files are merge-shards' own and the completion mark is either
    absent or true. The old rows stand until all new ones are on the disk.

    Args:
        blocks: the rows, many at a time; see `rows_in_order`.
        check: called now and then, and before the rows take their place; raises when another process has taken over.

    Raises:
        OutputError: the disk refused, a file cannot be read, or is no longer what was located.
    """
    # First: a mark beside rows that are being replaced would be a lie.
    remove(paths.done)
    write_json_atomically(paths.record, {**record, "complete": False})
    remove_leftovers(paths.rows, paths.record, paths.done)
    with explained(paths.rows), replacing(paths.rows) as file:
        sha256, num_bytes = hashlib.sha256(), 0
        for block in blocks:
            check()
            sha256.update(block)
            num_bytes += file.write(block)
        # Once more before the rows take their place: fetching them took long.
        check()
    write_json_atomically(paths.record, record)
    if record["complete"]:
        write_mark(paths, tally, sha256.hexdigest(), num_bytes, digest(record["fingerprint"]), metrics)


def rows_in_order(lines: np.ndarray, chunk_of: np.ndarray, files: dict[int, Path]) -> Iterator[bytes]:
    """The rows that were found, in manifest order, many at a time.

    Every chunk took its rows in manifest order and wrote them as they finished, so within each file this reads forward
    but for some steps back as long as what its engine held at once: the system's read-ahead serves all files.

    Args:
        lines: `shard_rows.LINE` [rows of the manifest]; of length 0 where there is no row.
        chunk_of: int [rows of the manifest], the chunk whose file holds it.
        files: rows files by chunk id.

    Raises:
        OutputError: a file cannot be read, or is no longer what was located.
    """
    with _opened(files) as descriptors:
        for start in range(0, len(lines), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            places = lines[["offset", "length", "checksum"]][block].tolist()
            found = []
            for chunk_id, (offset, length, checksum) in zip(chunk_of[block].tolist(), places, strict=True):
                if not length:
                    continue
                try:
                    line = os.pread(descriptors[chunk_id], length, offset)
                except OSError as e:
                    raise OutputError(
                        f"{files[chunk_id]}: {e.strerror}; run the same command again when that is fixed"
                    ) from e
                # What is written must be what was verified: a chunk's own run may have been started again since.
                if zlib.crc32(line) != checksum:
                    raise OutputError(
                        f"{files[chunk_id]}: was changed while it was being merged; run the same command again when "
                        "nothing writes it any more"
                    )
                found.append(line)
            yield b"".join(found)


@contextmanager
def _opened(files: dict[int, Path]) -> Iterator[dict[int, int]]:
    """Descriptors of all files at once, by chunk id."""
    # All at once, because neighbouring rows of the manifest stand in different files.
    _allow_open_files(len(files))
    with ExitStack() as stack:
        descriptors = {}
        for chunk_id, path in files.items():
            with explained(path):
                descriptors[chunk_id] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptors[chunk_id])
        yield descriptors


def _allow_open_files(number: int) -> None:
    needed = number + len(os.listdir("/proc/self/fd")) + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    if hard != unlimited and hard < needed:
        raise OutputError(
            f"{number} chunks are {number} open files, and no more than {hard} files may be open here; raise that with "
            f"`ulimit -Hn {needed}` (root), or in the SLURM job's limits, and run the same command again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
