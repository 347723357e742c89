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

    Raises:
        UsageError, OutputError: see `spool_stdin`.
    """
    path = spool_stdin(RunPaths(config.output_path).spool, config.overwrite)
    begun_in = None if config.overwrite else next(_folders(config.output_path), None)
    return KeptManifest(path, begun_in or os.getcwd())


def _folders(output: Path) -> Iterator[str]:
    """What sessions of this run, or of its chunks, took relative paths to be relative to."""
    chunks = (paths for of_one_number in find_chunks(output).values() for paths in of_one_number.values())
    for paths in (RunPaths(output), *chunks):
        if (folder := _fingerprint(paths).get("audio_folder")) is not None:
            yield folder


def _fingerprint(paths: RunPaths) -> dict[str, Any]:
    try:
        record = read_record(paths)
    except OutputError:  # told where that file is used
        return {}
    return record["fingerprint"] if record else {}
