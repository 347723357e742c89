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
from asrbatch.manifest.probe import FIXES, MISMATCH, NEVER, UNSURE, AudioProbe, ProbeResults
from asrbatch.manifest.scan import Observe
from asrbatch.manifest.survey import ManifestStats
from asrbatch.manifest.validate import without_place
from asrbatch.manifest.writer import has_place, line_fields, new_manifest
from asrbatch.storage.files import json_bytes
from asrbatch.types import Utterance

_MISMATCH_FIX = (
    "the duration written is that of the audio there is; where the file goes on after the row, that of the row"
)


@dataclass(frozen=True)
class ManifestSummary:
    """What was written.

    Attributes:
        manifest: the source.
        findings: what was found about its audio.
        num_measured: rows whose duration was measured.
        num_corrected: of those, rows that had stated another one by more than 0.1 s.
    """

    manifest: Manifest
    findings: ProbeResults
    num_measured: int
    num_corrected: int


def survey_sources(sources: Sequence[str], reading: SourceOptions, *, observe: Observe | None = None) -> ManifestStats:
    """The rows of all sources, checked; they, their order and their ids are those that `transcribe` would have.

    Raises:
        ManifestError: the sources cannot be read, or hold bad rows.
        UsageError: a row's audio lies inside its source.
    """
    without: list[int] = []

    def ask(row: Utterance) -> None:
        if not without and not has_place(row):
            without.append(row.index)

    survey = ManifestStats(sources, with_files=True, reading=reading, check=ask, observe=observe)
    if without:
        raise UsageError(without_place(survey.manifest.where(without[0])))
    return survey


def write_manifest(
    survey: ManifestStats,
    path: Path,
    *,
    headers_only: bool = False,
    num_workers: int,
    timeout_s: float,
    observe: Callable[[int, int], None] = lambda done, failing: None,
) -> ManifestSummary:
    """Measures all rows and writes them.

    Args: path: absolute; replaced when the manifest is whole. headers_only: believe headers, and decode nothing: lossy
        formats may then be off by 0.1 s, and rows whose length no
            header tells keep the duration they state, or none.
        num_workers, timeout_s, observe: as `AudioProbe`.

    Raises:
        ManifestError: the sources changed meanwhile.
        OutputError: the disk refused.
    """
    manifest = survey.manifest
    probe = AudioProbe(
        manifest, survey.files, num_workers=num_workers, timeout_s=timeout_s, decode=NEVER if headers_only else UNSURE,
        observe=observe,
    )  # fmt: skip
    is_measured = ~(np.isnan(probe.audio_s) | probe.is_guess)
    num_measured = num_corrected = 0
    with new_manifest(path) as file:
        for index in range(len(manifest)):
            row, measured_s = manifest.read(index), None
            if is_measured[index] and probe.kind_of(index) not in ROW_ERROR_KINDS:
                measured_s, num_measured = float(probe.audio_s[index]), num_measured + 1
                num_corrected += row.duration_s is not None and abs(row.duration_s - measured_s) > LENGTH_SLACK_S
            file.write(json_bytes(line_fields(row, str(path.parent), measured_s)) + b"\n")
    return ManifestSummary(manifest, probe.findings, num_measured, num_corrected)


def figures(made: ManifestSummary, path: Path) -> dict[str, Any]:
    """What was done, in plain JSON values."""
    found = made.findings
    kinds = [kind for kind in FIXES if found.counts[kind]]
    return {
        "source": made.manifest.source,
        "path": str(path),
        "rows": len(made.manifest),
        "rows_measured": made.num_measured,
        "rows_corrected": made.num_corrected,
        "rows_failing": found.num_failing,
        "problems": [
            {
                "kind": kind,
                "rows": found.counts[kind],
                "fix": _MISMATCH_FIX if kind == MISMATCH else FIXES[kind],
                "examples": [
                    {"row": row, "where": made.manifest.where(row), "text": text} for row, text in found.examples[kind]
                ],
            }
            for kind in kinds
        ],
        "audio": {
            "files": found.num_files,
            "measured_h": round(found.audio_s / 3600, 6),
            "rows_guessed": found.num_guessed,
            "rows_unknown": found.num_unknown,
            "containers": dict(found.containers.most_common()),
            "sample_rates_hz": dict(found.sample_rates.most_common()),
        },
    }
