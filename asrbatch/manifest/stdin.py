"""Standard input, or another descriptor (`<(zcat m.jsonl.gz)`), as a manifest: read once, from a pipe, and kept because
rows are read again.

A command keeps it in a file without a name, which ends with its process (`open_stdin`). A run, which may be resumed,
keeps it beside its output (`keep_stdin`). Several processes of a run may be given the same input: the first to finish
its copy makes the file, the others compare. Relative paths are those of where the run began, also when it is resumed
from elsewhere.
"""

import filecmp
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from asrbatch.config import RunConfig
from asrbatch.errors import UsageError
from asrbatch.manifest.readers.text import LocalFile, TextFile, unpacked
from asrbatch.storage.files import (
    STANDARD_INPUT,
    copy_of_stream,
    explained,
    refuse_irregular,
    remove_dead,
    stream_of,
    sync_folder,
    temporary_path,
)
from asrbatch.storage.paths import RunPaths, find_chunks
from asrbatch.storage.run_files import read_files_of


def open_stream(given: str, descriptor: int) -> TextFile:
    """What comes on a descriptor; the same for whoever opens it again in this process.

    Args:
        given: as it was written.

    Raises:
        UsageError: no such file is open.
    """
    name = STANDARD_INPUT if descriptor == 0 else given
    return unpacked(LocalFile(name, fd=copy_of_stream(given, descriptor)))


def spool_stdin(path: Path, replace: bool = False, stream: BinaryIO | None = None) -> Path:
    """Copies standard input to `path`, unless that is there already.

    A terminal and an empty input mean: what is there, from an earlier session.

    Args:
        replace: another manifest that is there.
        stream: read this in place of standard input.

    Returns:
        `path`.

    Raises:
        UsageError: there is nothing to read, or another manifest is there.
        OutputError: it cannot be written.
    """
    stream = stream or sys.stdin.buffer
    # A resumed run is started by hand, or again by SLURM, without its rows.
    if stream.isatty() or _is_null_device(stream):
        return _kept_before(path)
    refuse_irregular(path)
    remove_dead(path.parent)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another name for each process: several of one run may copy at the same time.
        temporary = temporary_path(path)
        try:
            with open(temporary, "xb") as file:
                shutil.copyfileobj(stream, file)
                file.flush()
                os.fsync(file.fileno())
            _put(temporary, path, replace)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


def _kept_before(path: Path) -> Path:
    """What an earlier session kept."""
    if not path.exists():
        raise UsageError(
            f"-: nothing comes on standard input (give the manifest), and {path} of an earlier session is not there"
        )
    return path


def _is_null_device(stream: BinaryIO) -> bool:
    """Batch systems give it."""
    try:
        state = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(state.st_mode)


def _put(temporary: Path, path: Path, replace: bool) -> None:
    """Gives the copy its name; a file with that name must say the same, or be replaced."""
    if temporary.stat().st_size == 0:
        _kept_before(path)
        return
    try:
        os.link(temporary, path)  # fails when it exists, also where two do it at once
        return
    except OSError:  # it exists, or a file system without links
        if not path.exists():
            os.replace(temporary, path)
            return
    if filecmp.cmp(temporary, path, shallow=False):
        return
    if not replace:
        fix = "give the same rows again, nothing at all, another --output, or --overwrite to start over"
        raise UsageError(f"-: standard input is not the manifest that this run began with, {path}; {fix}")
    os.replace(temporary, path)


@dataclass(frozen=True)
class KeptManifest:
    """What came on standard input.

    Attributes:
        path: a copy of it.
        folder: what relative audio paths are relative to.
    """

    path: Path
    folder: str


def keep_stdin(config: RunConfig) -> KeptManifest:
    """Keeps standard input beside the output, or takes what an earlier session kept.

    Rows that were refused before any run record was written bind nobody: others take their place.

    Raises:
        UsageError, OutputError: see `spool_stdin`.
    """
    # A mistyped manifest that was refused must not stand in the way of the right one.
    records = iter(()) if config.overwrite else _records(config.output_path)
    first = next(records, None)
    stream = stream_of(config.manifest[0], config.descriptor or 0)
    path = spool_stdin(RunPaths(config.output_path).spool, replace=first is None, stream=stream)
    folders = (record["fingerprint"].get("audio_folder") for record in chain(filter(None, [first]), records))
    return KeptManifest(path, next(filter(None, folders), os.getcwd()))


def _records(output: Path) -> Iterator[dict[str, Any]]:
    """Run records of this run, or of its chunks; a damaged one, which is reported where it is used, says nothing."""
    chunks = find_chunks(output).values() if output.parent.is_dir() else ()
    for paths in (RunPaths(output), *(paths for of_run in chunks for paths in of_run.values())):
        files = read_files_of(paths)
        if files.record is not None or files.problem:
            yield files.record or {"fingerprint": {}}
