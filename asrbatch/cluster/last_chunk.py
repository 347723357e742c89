"""Merging by the processes of the run themselves: whoever completes the last chunk does it, once.

A process looks for the marks of all chunks after it has written its own, so of two that end together at least one sees
both. If both do, the lease of the merged output decides. Nothing is waited for but what is about to be there.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from asrbatch.cluster.merge import MergeResult, merge
from asrbatch.cluster.shard_files import damage_of
from asrbatch.config import RunConfig
from asrbatch.errors import LeaseError, LeaseRemovedError
from asrbatch.storage.files import explained
from asrbatch.storage.lease import Heartbeat
from asrbatch.storage.paths import RunPaths, chunk_path
from asrbatch.storage.record import read_completion_mark, read_record
from asrbatch.storage.run_files import read_chunks_of, read_files_of
from asrbatch.timeouts import running_s

# For so long an NFS client may show a folder as it was (acdirmax of nfs(5)).
SETTLE_S = 60.0
_PAUSE_S = 1.0


def merge_when_last(
    config: RunConfig,
    manifest_source: Sequence[str],
    log: Callable[[str], None],
    *,
    list_names: Callable[[Path], Iterable[str]] | None = None,
    pause_s: float = _PAUSE_S,
) -> MergeResult | None:
    """Merges the run if all its chunks are complete and nobody else does it or has done it; None otherwise.

    Args:
        config: of a chunk that has its completion mark.
        manifest_source: see `merge`.
        list_names: the names in a folder; None asks the file system for what is there now.
        pause_s: seconds between two looks at chunks whose marks must come any moment.

    Raises:
        AsrbatchError: see `merge`; the chunks are as they were.
    """
    output, num_chunks = config.output_path, config.num_chunks or 1
    chunks = [RunPaths(chunk_path(output, chunk_id, num_chunks)) for chunk_id in range(num_chunks)]
    if not _are_complete(chunks, list_names or _names_now, pause_s):
        return None
    paths = RunPaths(output)
    try:
        with closing(Heartbeat(paths.lease, log)) as heartbeat:
            if _is_merged(paths, num_chunks):
                return None
            log(f"all {num_chunks} chunks are complete: merging them")
            how = {"reading": config.reading, "num_chunks": num_chunks, "overwrite": config.overwrite}
            return merge(output, manifest_source, **how, log=log, heartbeat=heartbeat)
    except LeaseRemovedError:
        raise
    except LeaseError:  # somebody else merges, or has taken over while this process was stopped
        return None


def _are_complete(chunks: list[RunPaths], list_names: Callable[[Path], Iterable[str]], pause_s: float) -> bool:
    """Whether every chunk has its mark. Waits where all the others say that they have ended well, but for a mark that
    is not to be seen: it is being written, or this machine has an old view of the folder.
    """
    until = running_s() + SETTLE_S
    while True:
        names = set(list_names(chunks[0].rows.parent))
        unmarked = [index for index, paths in enumerate(chunks) if paths.done.name not in names]
        if not unmarked:
            return True
        # One that still works is enough to know; it comes first where records are read one by one.
        if running_s() > until or not all(_has_ended_well(chunks[i], i, len(chunks)) for i in unmarked):
            return False
        time.sleep(pause_s)


def _has_ended_well(paths: RunPaths, chunk_id: int, num_chunks: int) -> bool:
    files = read_files_of(paths, chunk_id)
    if files.record is None or damage_of(files, num_chunks) is not None:
        return False
    return files.mark is not None or (files.record["sessions"][-1]["outcome"] == "complete" and not files.has_ended)


def _names_now(folder: Path) -> list[str]:
    # A client of NFS answers from memory until the folder changes, also that a name is not there. A change of its own
    # has it ask the server.
    with explained(folder):
        probe = folder / f".asrbatch-{secrets.token_hex(8)}"
        probe.touch(exist_ok=False)
        probe.unlink()
        return os.listdir(folder)


def _is_merged(paths: RunPaths, num_chunks: int) -> bool:
    """Whether what stands at the output was merged from these very chunks."""
    record = read_record(paths)
    if record is None or record.get("complete") is not True or not read_completion_mark(paths):
        return False
    marks = [files.mark or {} for files in read_chunks_of(paths.rows, num_chunks)]
    merged = [each.get("sha256") for each in record.get("chunks", ())]
    return paths.rows.exists() and bool(merged) and merged == [mark.get("sha256") for mark in marks]
