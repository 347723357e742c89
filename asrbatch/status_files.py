"""The files of a run as they stand at the moment, read for `status`: nothing is written, no lease is taken.

A record is replaced whole, so that what is read is whole too, also while tasks run on other machines; one that is
damaged is named and hides no other. Knows what the files are called, not what they mean.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import OutputError, UsageError
from .output.lease import holder_has_ended
from .output.paths import RunPaths, check_output, chunk_path, find_chunks
from .output.record import read_completion_mark, read_record

# A shared file system takes some milliseconds for every answer, and answers many at a time.
_READERS = 16


@dataclass(frozen=True)
class RunFiles:
    """What was read of one chunk, or of a run in one piece.

    Attributes:
        chunk_id: None for a run in one piece.
        record, mark: the run record and the completion mark; None where there is no such file.
        num_bytes: of the rows file; None where there is none.
        has_ended: this machine knows that the process that holds the lease is no more.
        problem: why a file could not be read; None when all could.
    """

    chunk_id: int | None
    paths: RunPaths
    record: dict[str, Any] | None = None
    mark: dict[str, Any] | None = None
    num_bytes: int | None = None
    has_ended: bool = False
    problem: str | None = None

    @property
    def is_nothing(self) -> bool:
        return self.record is None and self.mark is None and self.num_bytes is None and self.problem is None

    @property
    def is_merged(self) -> bool:
        return self.record is not None and self.record.get("merged") is True


@dataclass(frozen=True)
class FoundRun:
    """A run on disk.

    Attributes:
        parts: every chunk by its id, those without files too; or the run in one piece alone; none when only what
            `merge-shards` made of them is left.
        merged: what `merge-shards` made; None when it has not.
        in_one_piece: something that stands at the output path beside chunks and was not merged from them, or None.
    """

    parts: list[RunFiles]
    merged: RunFiles | None
    in_one_piece: RunFiles | None = None


def read_run(output: Path, num_chunks: int | None = None) -> FoundRun:
    """Reads the files of a run.

    Args:
        output: the run's own output path.
        num_chunks: which run, where chunks of several numbers lie side by side.

    Raises:
        UsageError: there is nothing there, or several runs, or the path is no run's.
        OutputError: the folder cannot be read.
    """
    check_output(output)
    num_chunks = _choose(output, find_chunks(output) if output.parent.is_dir() else {}, num_chunks)
    paths = [RunPaths(output)]
    if num_chunks is not None:
        paths += [RunPaths(chunk_path(output, chunk_id, num_chunks)) for chunk_id in range(num_chunks)]
    with ThreadPoolExecutor(_READERS, "asrbatch-status") as pool:
        whole, *parts = pool.map(_read, [None, *range(len(paths) - 1)], paths)
    if num_chunks is not None:
        alone = None if whole.is_merged or whole.is_nothing else whole
        return FoundRun(parts, whole if whole.is_merged else None, alone)
    if whole.is_nothing:
        raise UsageError(f"{output}: no run is there, neither in one piece nor in chunks; give the --output of a run")
    return FoundRun([], whole) if whole.is_merged else FoundRun([whole], None)


def _choose(output: Path, found: dict[int, dict[int, RunPaths]], asked: int | None) -> int | None:
    seen = " and ".join(f"{len(chunks)} of {number} chunks" for number, chunks in found.items())
    if asked is None and len(found) > 1:
        raise UsageError(f"{output}: two runs or more are there, {seen}; choose one with --num-chunks")
    if asked is not None and asked not in found:
        raise UsageError(f"--num-chunks {asked}: no such chunk of {output} is there; found {seen or 'no chunks at all'}")
    return asked if asked is not None else next(iter(found), None)


def _read(chunk_id: int | None, paths: RunPaths) -> RunFiles:
    try:
        record, mark = read_record(paths), read_completion_mark(paths)  # in this order: the mark is written last
    except OutputError as e:
        return RunFiles(chunk_id, paths, problem=str(e))
    try:
        num_bytes = paths.rows.stat().st_size
    except FileNotFoundError:
        num_bytes = None
    except OSError as e:
        return RunFiles(chunk_id, paths, record, mark, problem=f"{paths.rows}: {e.strerror}")
    return RunFiles(chunk_id, paths, record, mark, num_bytes, has_ended=mark is None and holder_has_ended(paths.lease))


class Watch:
    """For how long a run has given no sign of life, judged by whether its heartbeat changes on our own clock.

    Clocks of two machines may disagree. At first sight there is nothing to go by but the time in the record; as soon as
    a heartbeat has changed before our eyes, or has stood still for longer than that time says, our own clock counts.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, float, bool]] = {}  # heartbeat, since when, whether it has ever changed

    def silent_s(self, path: Path, heartbeat: str, *, now: datetime, clock_s: float) -> float:
        """Seconds without a sign of life, at least 0.

        Args:
            path: of the record.
            now, clock_s: this machine's time, and a clock of it that never jumps, in seconds.

        Raises:
            ValueError, TypeError: the heartbeat is no time.
        """
        last, since_s, has_changed = self._seen.get(path, (heartbeat, clock_s, False))
        if heartbeat != last:
            since_s, has_changed = clock_s, True
        self._seen[path] = heartbeat, since_s, has_changed
        age_s = (now - datetime.fromisoformat(heartbeat)).total_seconds()
        return max(0.0, clock_s - since_s if has_changed else max(clock_s - since_s, age_s))
