"""Handing scripts to SLURM: writes them, calls sbatch, and says what stands when a later step fails.

Knows nothing about what is in the scripts.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asrbatch.errors import AsrbatchError
from asrbatch.storage.files import explained, remove_dead, replacing


@dataclass(frozen=True)
class Script:
    """A batch script.

    Attributes:
        path: where it stands.
        text: its content.
        chunks: what it runs, as `--chunks` takes it; empty for the merge job.
    """

    path: Path
    text: str
    chunks: str = ""


@dataclass(frozen=True)
class Submitted:
    """The ids of jobs that SLURM has taken; `merge` is None where none was asked for."""

    arrays: tuple[str, ...]
    merge: str | None


def submit(arrays: Sequence[Script], merge: Script | None, log_dir: Path, merge_command: str) -> Submitted:
    """Writes the scripts, makes the folder of the logs, and submits: arrays first, then the merge job that waits for
    all.

    SLURM does not make that folder, and a job whose log cannot be opened vanishes without a trace.

    Args:
        merge_command: what a person runs where no merge job does; for messages.

    Raises:
        OutputError: a file or the folder could not be written.
        AsrbatchError: there is no sbatch, or it refused; the message says what was submitted before.
    """
    scripts = [*arrays, *([merge] if merge else [])]
    for folder in (log_dir, scripts[0].path.parent):
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    remove_dead(scripts[0].path.parent)
    # All of them before the first is submitted: a full disk then costs nothing on the cluster.
    for script in scripts:
        with explained(script.path), replacing(script.path) as file:
            file.write(os.fsencode(script.text))  # a path may hold bytes that are not text
    ids: list[str] = []
    for i, script in enumerate(arrays):
        try:
            ids.append(_sbatch(script.path))
        except AsrbatchError as e:
            if not ids:
                raise
            left = ",".join(s.chunks for s in arrays[i:])
            raise AsrbatchError(
                f"{e}; submitted so far: {_arrays(ids)}, without a merge job. Either scancel {' '.join(ids)}, or "
                f"submit the rest with --chunks {left} and run this when all have ended: {merge_command}"
            ) from e
    if merge is None:
        return Submitted(tuple(ids), None)
    try:
        # Without --kill-on-invalid-dep the job would wait for ever once a chunk has failed.
        merge_id = _sbatch(merge.path, f"--dependency=afterok:{':'.join(ids)}", "--kill-on-invalid-dep=yes")
    except AsrbatchError as e:
        raise AsrbatchError(
            f"{e}; {_arrays(ids)} was submitted and goes on; run this when it has ended: {merge_command}"
        ) from e
    return Submitted(tuple(ids), merge_id)


def _arrays(ids: Sequence[str]) -> str:
    return f"array {', '.join(ids)}"


def _sbatch(script: Path, *options: str) -> str:
    command = ["sbatch", "--parsable", *options, str(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise AsrbatchError(
            f"sbatch is not on this machine; {script} is written, submit it where SLURM is (--dry-run only prints the "
            f"scripts)"
        ) from e
    # sbatch may explain itself in several lines; a message of ours is one.
    if done.returncode:
        said = "; ".join(filter(None, map(str.strip, done.stderr.splitlines()))) or f"exit code {done.returncode}"
        raise AsrbatchError(f"sbatch refused {script}: {said}")
    return done.stdout.strip().partition(";")[0]  # `ID;CLUSTER` where there are several clusters
