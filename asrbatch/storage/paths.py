"""The names of a run's files, all derived from the output path, and finding the chunks of a run by name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from asrbatch.errors import UsageError
from asrbatch.storage.files import explained

_CHUNK = re.compile(r"\.chunk-(\d{5,})-of-(\d{5,})")
_CHUNK_FILE = re.compile(rf"(.*){_CHUNK.pattern}\.(jsonl|run\.json|done\.json)", re.DOTALL)


@dataclass(frozen=True)
class RunPaths:
    """The files beside one output.

    Args:
        rows: the output path itself, `X.jsonl`.
    """

    rows: Path

    @property
    def _stem(self) -> str:
        return self.rows.name.removesuffix(".jsonl")

    @property
    def record(self) -> Path:
        return self.rows.with_name(f"{self._stem}.run.json")

    @property
    def done(self) -> Path:
        return self.rows.with_name(f"{self._stem}.done.json")

    @property
    def spool(self) -> Path:
        """The manifest, where it came on standard input; all chunks of a run share that of the run itself."""
        return self.rows.with_name(f"{self._stem}.manifest.jsonl")

    @property
    def lease(self) -> Path:
        return self.rows.with_name(f"{self._stem}.lease")

    @property
    def in_flight(self) -> Path:
        return self.rows.with_name(f"{self._stem}.inflight")

    @property
    def problems(self) -> Path:
        """Why the manifest was refused, a JSON line for each problem; of the run itself, whichever chunk found them."""
        return self.rows.with_name(f"{self._stem}.problems")

    @property
    def log(self) -> Path:
        return self.rows.with_name(f"{self._stem}.log")


def chunk_path(output: Path, chunk_id: int, num_chunks: int) -> Path:
    """The rows file of one chunk of the run that is called `output`: `X.chunk-00003-of-00016.jsonl`."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.chunk-{chunk_id:05}-of-{num_chunks:05}.jsonl")


def check_output(path: Path) -> Path:
    """The path, if a run can be called so.

    Raises:
        UsageError: it does not end in .jsonl, or is the name of one chunk's file.
    """
    if not path.name.endswith(".jsonl"):
        raise UsageError(f"--output {path}: must end in .jsonl; the run's other files are named after it")
    if match := _CHUNK.search(path.name):
        run = path.with_name(path.name.replace(match[0], ""))
        raise UsageError(f"--output {path}: is the name of one chunk's file; give the run's own, {run.name}")
    return path


def default_output(manifest: str, model: str) -> Path:
    """What a run is called that was given no name: `<manifest stem>.<last part of the model>.jsonl`, in this folder."""
    name = re.sub(r"[*?{}\[\],:]+", "-", os.path.basename(os.path.normpath(manifest))).strip("-")
    stem = re.sub(r"\.jsonl?(\.gz|\.zst)?$", "", name) or "manifest"
    last = os.path.basename(os.path.normpath(os.path.expanduser(model)))
    return Path(f"{stem}.{re.sub(r'[^A-Za-z0-9._-]+', '-', last).strip('-.') or 'model'}.jsonl").absolute()


def find_chunks(output: Path) -> dict[int, dict[int, RunPaths]]:
    """Chunks of the run `output` that have left a file: by number of chunks, then by chunk id, both ascending.

    Raises:
        OutputError: the folder cannot be read.
    """
    stem = output.name.removesuffix(".jsonl")
    found: dict[int, dict[int, RunPaths]] = {}
    with explained(output.parent):
        names = os.listdir(output.parent)
    for name in names:
        match = _CHUNK_FILE.fullmatch(name)
        if match and match[1] == stem:
            chunk_id, num_chunks = int(match[2]), int(match[3])
            found.setdefault(num_chunks, {})[chunk_id] = RunPaths(chunk_path(output, chunk_id, num_chunks))
    return {num_chunks: dict(sorted(chunks.items())) for num_chunks, chunks in sorted(found.items())}
