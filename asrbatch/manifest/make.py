"""Any source as a manifest in JSON Lines, with the durations its audio was measured to have.

Leaves no row out: one whose audio cannot be read is written as it was, and fails in a run as it would have. Knows
nothing of formats, nor how audio is measured (`probe.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch.audio.clip import LENGTH_SLACK_S
from asrbatch.config import SourceOptions
from asrbatch.errors import ROW_ERROR_KINDS, UsageError
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.probe import NEVER, UNSURE, AudioProbe
from asrbatch.manifest.probe_results import MISMATCH, ProbeResults
from asrbatch.manifest.scan import Observe
from asrbatch.manifest.survey import ManifestStats
from asrbatch.manifest.validate import without_place
from asrbatch.manifest.writer import line_fields, new_manifest
from asrbatch.storage.files import json_bytes

_MISMATCH_FIX = "the duration written is that of the audio; where the file goes on after the row, that of the row"


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        manifest: the source.
        path: absolute, of the new manifest.
        results: what was found about its audio.
        num_measured: rows whose duration was measured.
        num_corrected: of those, rows that had stated another one by more than 0.1 s.
    """

    manifest: Manifest
    path: Path
    results: ProbeResults
    num_measured: int
    num_corrected: int

    def as_dict(self) -> dict[str, Any]:
        """What `make-manifest --json` prints; docs/checking.md lists the fields."""
        left_out = {"left_out": self.manifest.left_out} if self.manifest.left_out else {}
        return left_out | {
            "source": self.manifest.source,
            "path": str(self.path),
            "rows": len(self.manifest),
            "rows_measured": self.num_measured,
            "rows_corrected": self.num_corrected,
            "rows_failing": self.results.num_failing,
            "problems": [
                issue | ({"fix": _MISMATCH_FIX} if issue["kind"] == MISMATCH else {})
                for issue in self.results.issues(self.manifest)
            ],
            "audio": self.results.audio_dict(),
        }


def check_sources(sources: Sequence[str], reading: SourceOptions, *, observe: Observe | None = None) -> ManifestStats:
    """The rows of all sources, checked; they, their order and their ids are those that `transcribe` would have.

    Raises:
        ManifestError: the sources cannot be read, or hold bad rows.
        UsageError: a row's audio lies inside its source.
    """
    stats = ManifestStats(sources, reading=reading, observe=observe)
    # Only the first is reported: where one row of a source has its audio inside, mostly all have.
    if stats.without_place:
        raise UsageError(without_place(stats.manifest.where(stats.without_place[0])))
    return stats


def write_manifest(
    stats: ManifestStats,
    path: Path,
    *,
    headers_only: bool = False,
    num_workers: int,
    timeout_s: float,
    observe: Callable[[int, int], None] = lambda done, failing: None,
) -> ManifestSummary:
    """Measures all rows and writes them.

    Args:
        path: absolute; replaced when the manifest is whole.
        headers_only: believe headers, and decode nothing: lossy formats may then be off by 0.1 s, and rows whose length
            no header tells keep the duration they state, or none.
        num_workers, timeout_s, observe: as `AudioProbe`.

    Raises:
        ManifestError: the sources changed meanwhile.
        OutputError: the disk refused.
    """
    manifest = stats.manifest
    probe = AudioProbe(
        manifest, stats.files, num_workers=num_workers, timeout_s=timeout_s, decode=NEVER if headers_only else UNSURE,
        observe=observe,
    )  # fmt: skip
    # A guess by the bit rate is off by seconds; a run cuts where the manifest says, so that such a row keeps what it
    # stated.
    is_measured = ~(np.isnan(probe.audio_s) | probe.is_guess)
    num_measured = num_corrected = 0
    with new_manifest(path) as file:
        for index in range(len(manifest)):
            # A row whose audio fails keeps its duration too: it will fail in the run in the same way, and be seen
            # there.
            row, measured_s = manifest.read(index), None
            if is_measured[index] and probe.kind_of(index) not in ROW_ERROR_KINDS:
                measured_s, num_measured = float(probe.audio_s[index]), num_measured + 1
                # Manifests round to 0.1 s; that is no correction.
                num_corrected += row.duration_s is not None and abs(row.duration_s - measured_s) > LENGTH_SLACK_S
            file.write(json_bytes(line_fields(row, str(path.parent), measured_s)) + b"\n")
    return ManifestSummary(manifest, path, probe.results, num_measured, num_corrected)
