"""What `asrbatch plan --json` prints, part by part: plain JSON values with their units in the names.

The tables are made of the same values. README lists the fields; renaming one breaks scripts.
"""

from typing import Any

from .manifest import Manifest
from .probe import FIXES, Findings
from .survey import Balance, Duplicates, Durations, Estimate


def audio(durations: Durations) -> dict[str, Any]:
    return {
        "stated_h": round(durations.total_s / 3600, 6),
        "rows_without_duration": durations.num_absent,
        "min_s": _rounded(durations.min_s),
        "median_s": _rounded(durations.median_s),
        "p95_s": _rounded(durations.p95_s),
        "max_s": _rounded(durations.max_s),
        "rows_over_30_s": durations.num_long,
    }


def duplicates(found: Duplicates) -> dict[str, Any]:
    examples = [{"row": row, "first_row": first, "audio_filepath": name} for row, first, name in found.examples]
    return {"rows": found.num_rows, "pieces": found.num_pieces, "examples": examples}


def chunks(balance: Balance) -> dict[str, Any]:
    rows, hours = balance.num_rows, balance.audio_s / 3600
    return {
        "num_chunks": balance.num_chunks,
        "strategy_asked": balance.asked,
        "strategy": balance.strategy,
        "rows_dealt_in_turn": balance.num_in_turn,
        "rows_min": int(rows.min()),
        "rows_mean": _rounded(float(rows.mean())),
        "rows_max": int(rows.max()),
        "audio_min_h": _rounded(float(hours.min()), 6),
        "audio_mean_h": _rounded(float(hours.mean()), 6),
        "audio_max_h": _rounded(float(hours.max()), 6),
        "longest_to_mean": _rounded(balance.longest_to_mean, 6),
        "slowest_chunk": balance.slowest,
        "empty_chunks": balance.num_empty,
        "rows": rows.tolist(),
        "audio_h": [round(value, 6) for value in hours.tolist()],
    }


def time(estimate: Estimate) -> dict[str, Any]:
    return {
        "rtfx_per_device": estimate.rtfx,
        "devices_per_process": estimate.num_devices,
        "startup_s": estimate.startup_s,
        "wall_h": _rounded(estimate.wall_s / 3600, 6),
        "gpu_h": _rounded(estimate.gpu_s / 3600, 6),
        "rows_not_counted": estimate.num_not_counted,
    }


def headers(findings: Findings, manifest: Manifest) -> dict[str, Any]:
    kinds = [kind for kind in FIXES if findings.counts[kind]]
    return {
        "rows": findings.num_rows,
        "files": findings.num_files,
        "rows_failing": findings.num_failing,
        "counts": {kind: findings.counts[kind] for kind in kinds},
        "fixes": {kind: FIXES[kind] for kind in kinds},
        "examples": {
            kind: [{"row": row, "where": manifest.where(row), "text": text} for row, text in findings.examples[kind]]
            for kind in kinds
        },
        "measured_h": round(findings.audio_s / 3600, 6),
        "rows_guessed": findings.num_guessed,
        "rows_unknown": findings.num_unknown,
        "containers": dict(findings.containers.most_common()),
        "sample_rates_hz": dict(findings.sample_rates.most_common()),
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
