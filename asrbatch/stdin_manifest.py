"""A manifest on standard input, kept for its run: the rows beside the output, the folder of its paths in the fingerprint.

Rows that came through a pipe have no folder of their own: relative paths are those of where the run began, also when it is
resumed from elsewhere.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import RunConfig
from .errors import OutputError
from .output.paths import RunPaths, find_chunks
from .output.record import read_record
from .output.spool import spool_stdin


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
    may_replace = config.overwrite or not any(paths.record.exists() for paths in _all_paths(config.output_path))
    path = spool_stdin(RunPaths(config.output_path).spool, may_replace)
    begun_in = None if config.overwrite else next(_folders(config.output_path), None)
    return KeptManifest(path, begun_in or os.getcwd())


def _folders(output: Path) -> Iterator[str]:
    """What sessions of this run, or of its chunks, took relative paths to be relative to."""
    for paths in _all_paths(output):
        if (folder := _fingerprint(paths).get("audio_folder")) is not None:
            yield folder


def _all_paths(output: Path) -> Iterator[RunPaths]:
    """Of the run, and of its chunks that have left a file."""
    yield RunPaths(output)
    if output.parent.is_dir():
        for chunks in find_chunks(output).values():
            yield from chunks.values()


def _fingerprint(paths: RunPaths) -> dict[str, Any]:
    try:
        record = read_record(paths)
    except OutputError:  # told where that file is used
        return {}
    return record["fingerprint"] if record else {}
