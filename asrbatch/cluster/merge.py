"""Joins the chunks of a run into its result, after proving that they are all of it and nothing else.

What is proved: every chunk is there with its run record and completion mark; all have one fingerprint, that of this
manifest; every rows file is byte for byte what its completion mark vouches for; every row of the manifest is there
once, in the chunk it belongs to, under its own id. Rows are read twice and never kept: memory is some 100 bytes a row.

Never changes a chunk. Knows nothing of engines and audio.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asrbatch import __version__
from asrbatch.cluster.merge_output import rows_in_order, write_merged
from asrbatch.cluster.merge_report import SHOWN_LINES, MergeReport
from asrbatch.cluster.shard_files import add_missing, check_files, choose_num_chunks, find_run, read_chunk_files
from asrbatch.cluster.shard_rows import LINE, ChunkRows, name_row, read_chunks
from asrbatch.config import STDIN, SourceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_ROWS_FAILED, OutputError, RefusedOutputError
from asrbatch.formatting import first_of, printable
from asrbatch.manifest.formats import files_of, options_for_kept
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.manifest.source import names_data_set
from asrbatch.runs.fingerprint import differences
from asrbatch.storage.files import explained, remove, remove_dead
from asrbatch.storage.journal import StatusCounts
from asrbatch.storage.lease import Heartbeat
from asrbatch.storage.metrics import metrics_of_chunks, total, versions
from asrbatch.storage.paths import RunPaths, check_output, check_run_outputs, find_chunks, short_path
from asrbatch.storage.record import now, read_completion_mark, read_record
from asrbatch.storage.run_files import RunFiles

_NAMED_ROWS = 5


@dataclass(frozen=True, repr=False)
class MergeResult:
    """What came of a merge.

    For example `MergeResult(complete: 120 of 120 rows, 0 failed, run/out.jsonl)`, or `MergeResult(not merged: 9 missing
    rows, chunks to run again 3,7)`.

    Attributes:
        paths: the files of the merged run.
        report: what is wrong with the chunks; nothing when the run is complete.
        record: the run record that was written; None when nothing was.
        exit_code: 0 complete; 3 complete, some rows failed; 1 not complete.
    """

    paths: RunPaths
    report: MergeReport
    record: dict[str, Any] | None
    exit_code: int

    def __repr__(self) -> str:
        parts = [self.report.summary()] if not self.complete else []
        if self.record is not None:
            tally = self.record["tally"]
            parts.insert(0, f"{tally['rows']} of {self.record['total_rows']} rows")
            parts += [f"{tally['statuses'].get('failed', 0)} failed", printable(short_path(self.paths.rows))]
        how = "complete" if self.complete else "incomplete" if self.record is not None else "not merged"
        return f"MergeResult({how}: {', '.join(parts)})"

    @property
    def complete(self) -> bool:
        """Whether every row of the manifest is there, once."""
        return self.report.complete

    @property
    def output(self) -> Path:
        """The merged rows file. Raises OutputError: nothing was written, and what stands there is older."""
        if self.record is None:
            raise OutputError(f"{self.paths.rows}: not merged: {self.report.summary()}")
        return self.paths.rows

    def rows(self, *, flat: bool = False) -> Iterator[dict[str, Any]]:
        """The merged rows, in manifest order; see `Summary.rows`. Raises OutputError: nothing was written."""
        # Late: it knows the fields of a row from what makes them, which a merge does without.
        from asrbatch.runs.progress import output_rows

        return output_rows(self.output, flat=flat)


def merge(
    output: Path,
    manifest_source: str | Sequence[str],
    *,
    reading: SourceOptions | None = None,
    num_chunks: int | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
    num_processes: int | None = None,
    price_per_hour: float | None = None,
    log: Callable[[str], None] = lambda line: None,
    heartbeat: Heartbeat | None = None,
) -> MergeResult:
    """Verifies the chunks of the run `output` and writes it.

    Args:
        output: absolute; the output path that the chunks' commands were given.
        manifest_source, reading: what they transcribed, and how it was read.
        num_chunks: of how many chunks the run is; None finds out.
        allow_incomplete: write the rows there are when the only thing wrong is that some are missing.
        overwrite: replace the merged rows of another run.
        num_processes: how many read chunks at a time; None takes one for each core where there is enough to read.
        price_per_hour: of a device, for the cost; None takes what the chunks' sessions stated.
        log: receives, in one line, what is being done and what a person should know.
        heartbeat: of the lease of `output`, where the caller holds it; None takes it for the writing.

    Raises:
        UsageError, ManifestError: this cannot be done as asked.
        OutputError: there are no chunks, it is unclear which are meant, `output` is not ours to replace, or a file
            cannot be read or written.
    """
    paths = RunPaths(check_output(output))
    reading = reading or SourceOptions()
    sources = [manifest_source] if isinstance(manifest_source, str) else list(manifest_source)
    num_chunks = _find_inputs(paths, sources, reading, num_chunks, log)
    remove_dead(paths.rows.parent)
    manifest = _open_manifest(sources, paths, reading)
    report = MergeReport()
    chunks = read_chunk_files(output, num_chunks, report)
    fingerprint, sharding = find_run(output, chunks, manifest)
    # Once before hours of reading, and once more under the lease, where nobody can change it any more.
    _check_replaceable(paths, fingerprint, overwrite)
    of_run = check_files(chunks, fingerprint, sharding, report)
    log(f"reading {len(of_run)} of {num_chunks} chunks, for {len(manifest)} rows")
    lines, counts_by_chunk = _read_rows(of_run, manifest, sharding, report, num_processes)
    if not (report.complete or (allow_incomplete and report.only_missing)):
        return MergeResult(paths, report, None, EXIT_ERROR)
    tally = sum(counts_by_chunk.values(), StatusCounts())
    metrics = metrics_of_chunks({chunk.chunk_id: chunk.record for chunk in of_run}, tally.audio_s, price_per_hour)
    record = _record(manifest, fingerprint, of_run, tally, counts_by_chunk, metrics, report)
    _warn_of_different_versions(record["versions"], log)
    log(f"writing {tally.rows} rows")
    files = {chunk.chunk_id: chunk.paths.rows for chunk in of_run}
    with nullcontext(heartbeat) if heartbeat else closing(Heartbeat(paths.lease, log)) as heartbeat:
        # Only another run's files go first: those of this run stand until the new rows are on the disk.
        if _check_replaceable(paths, fingerprint, overwrite):
            remove(paths.done, paths.rows)
        write_merged(paths, record, tally, metrics, rows_in_order(lines, sharding.chunk_of, files), heartbeat.check)
    ends = EXIT_ROWS_FAILED if tally.failed else EXIT_COMPLETE
    return MergeResult(paths, report, record, ends if report.complete else EXIT_ERROR)


def _find_inputs(
    paths: RunPaths, sources: list[str], reading: SourceOptions, num_chunks: int | None, log: Callable[[str], None]
) -> int:
    """The number of chunks that are to be merged. Raises UsageError where the output is the input."""
    # First: of a link to the manifest, or to what is no file, no chunks would be found.
    check_run_outputs(paths, files_of(sources, reading))
    num_chunks = choose_num_chunks(paths.output, num_chunks, log)
    of_chunks = find_chunks(paths.output)[num_chunks].values()
    check_run_outputs(paths, (path for chunk in of_chunks for path in (chunk.rows, chunk.record, chunk.done)))
    return num_chunks


def _open_manifest(sources: list[str], paths: RunPaths, reading: SourceOptions) -> Manifest:
    """What the chunks transcribed."""
    if sources == [STDIN]:
        # The chunks read what the first of them kept of standard input; it lies beside the output.
        sources = [str(paths.spool)]
        reading = options_for_kept(sources[0], reading)
    if any(map(names_data_set, sources)):
        reading = replace(reading, streaming=True)  # the rows without their audio
    return open_manifest(sources, options=reading)


def _read_rows(
    chunks: list[RunFiles], manifest: Manifest, sharding: Sharding, report: MergeReport, num_processes: int | None
) -> tuple[np.ndarray, dict[int, StatusCounts]]:
    """Reads every row once. Returns where they are, `LINE` [rows of the manifest], and the counts of every chunk."""
    lines, counts_by_chunk, elsewhere = np.zeros(len(manifest), LINE), {}, {}
    by_id = {chunk.chunk_id: chunk for chunk in chunks}
    paths = {chunk_id: chunk.paths.rows for chunk_id, chunk in by_id.items()}
    for rows in read_chunks(paths, manifest, sharding, num_processes):
        lines[rows.lines["index"]] = rows.lines
        counts_by_chunk[rows.chunk_id] = rows.tally
        if len(rows.elsewhere):
            elsewhere[rows.chunk_id] = rows.elsewhere
        _check_rows(by_id[rows.chunk_id], rows, manifest, sharding, report)
    _find_rows_of_several_chunks(elsewhere, lines["length"] > 0, sharding, manifest, report)
    return lines, dict(sorted(counts_by_chunk.items()))


def _check_rows(chunk: RunFiles, rows: ChunkRows, manifest: Manifest, sharding: Sharding, report: MergeReport) -> None:
    """Compares what a rows file holds with what the chunk's completion mark says, and with what it should hold."""
    chunk_id, name = chunk.chunk_id, f"chunk {chunk.chunk_id}"
    # Read anew, because the file may have been right when its mark was read: --overwrite takes the mark away first.
    if chunk.mark and rows.sha256 != chunk.mark["sha256"] and read_completion_mark(chunk.paths) != chunk.mark:
        report.add("missing", f"{name}: was run again while it was being read", int(sharding.num_rows[chunk_id]))
        report.running.add(chunk_id)
        return
    report.add_rows("doubled", rows.doubled, rows.num_doubled)
    report.add_rows("foreign", rows.foreign, rows.num_foreign)
    damage = rows.malformed
    if not damage and chunk.mark and rows.sha256 != chunk.mark["sha256"]:
        damage = f"{chunk.paths.rows.name} does not match its completion mark: another SHA-256"
        if rows.num_lines != chunk.mark["rows"]:
            damage += f", {rows.num_lines} rows instead of {chunk.mark['rows']}"
    if damage:
        report.add("damaged", f"{name}: {damage}")
    if damage or rows.num_doubled or rows.num_foreign:
        report.overwrite.add(chunk_id)
    # Of the rest of the file nothing can be said, least of all that it is missing.
    if rows.malformed:  # what follows in the file was not looked at
        return
    absent = np.setdiff1d(sharding.rows(chunk_id), rows.lines["index"], assume_unique=True)
    # Without a mark rows may be missing, and the same command will do. With one they were lost.
    if chunk.mark is None:
        add_missing(chunk, len(absent), _name_rows(absent, manifest), sharding, report)
    elif len(absent):
        of = f"{len(absent)} of its {sharding.num_rows[chunk_id]} rows missing"
        report.add("missing", f"{name}: {of}{_name_rows(absent, manifest)}", len(absent))
        report.overwrite.add(chunk_id)


def _name_rows(indexes: np.ndarray, manifest: Manifest) -> str:
    """`: index 12 (id talk-12), … and 3 more`."""
    if not len(indexes):
        return ""
    named = [name_row(index, manifest.read(index).id) for index in indexes[:_NAMED_ROWS].tolist()]
    return f": {first_of(named, _NAMED_ROWS, len(indexes))}"


def _find_rows_of_several_chunks(
    elsewhere: dict[int, np.ndarray], is_there: np.ndarray, sharding: Sharding, manifest: Manifest, report: MergeReport
) -> None:
    """Rows that stand in the file of a chunk they do not belong to, and once more in any file.

    Args:
        is_there: bool [rows of the manifest], those that stand in the file of their own chunk.
    """
    if not elsewhere:
        return
    indexes, times = np.unique(np.concatenate(list(elsewhere.values())), return_counts=True)
    # A row in a stranger's file alone is foreign; in its own file as well it is doubled.
    times += is_there[indexes]
    doubled, times = indexes[times > 1], times[times > 1]
    lines = []
    for index, number in zip(doubled[:SHOWN_LINES].tolist(), times.tolist(), strict=False):
        holders = {chunk_id for chunk_id, found in elsewhere.items() if index in found}
        if is_there[index]:
            holders.add(int(sharding.chunk_of[index]))
        among = ", ".join(map(str, sorted(holders)))
        lines.append(f"{name_row(index, manifest.read(index).id)}: {number} times, in the files of chunks {among}")
    report.add_rows("doubled", lines, len(doubled))


def _record(
    manifest: Manifest,
    fingerprint: dict[str, Any],
    chunks: list[RunFiles],
    tally: StatusCounts,
    counts_by_chunk: dict[int, StatusCounts],
    metrics: dict[str, Any],
    report: MergeReport,
) -> dict[str, Any]:
    """The run record of the merged run. Its sessions are the chunks' own and stand in their records."""
    sessions = [session for chunk in chunks for session in chunk.record["sessions"]]
    return {
        "asrbatch": __version__,
        "created": now(),
        "merged": True,
        "complete": report.complete,
        "fingerprint": fingerprint,
        "manifest": manifest.record(),
        "started": min((session["started"] for session in sessions), default=None),
        "ended": max((session.get("ended") or session["heartbeat"] for session in sessions), default=None),
        # Of one content, by the fingerprint; what it is called may differ from node to node.
        "model": next((chunk.record["model"] for chunk in chunks if "model" in chunk.record), None),
        "total_rows": len(manifest),
        "num_chunks": fingerprint["num_chunks"],
        "chunk_id": None,
        "missing": len(manifest) - tally.rows,
        "chunks_to_run_again": report.run_again,
        "chunks_running": sorted(report.running),
        "tally": tally.as_dict(),
        "versions": versions(sessions),
        **metrics,
        # They stay in the chunks' records: a thousand chunks with some restarts would make this one many megabytes.
        "sessions": [],
        "chunks": [_chunk_summary(chunk, counts_by_chunk[chunk.chunk_id]) for chunk in chunks],
    }


def _chunk_summary(chunk: RunFiles, tally: StatusCounts) -> dict[str, Any]:
    sessions = chunk.record["sessions"]
    return {
        "chunk_id": chunk.chunk_id,
        "rows": tally.rows,
        "failed": tally.failed,
        "audio_s": round(tally.audio_s, 3),
        "wall_s": total(sessions, "wall_s"),
        "sha256": chunk.mark["sha256"] if chunk.mark else None,
        "sessions": len(sessions),
        "hosts": sorted({session.get("host", "?") for session in sessions}),
    }


def _warn_of_different_versions(versions: dict[str, dict[str, int]], log: Callable[[str], None]) -> None:
    mixed = [
        f"{part} {', '.join(f'{value} ({times} sessions)' for value, times in used.items())}"
        for part, used in versions.items()
        if len(used) > 1
    ]
    # Not an error: a cluster is upgraded while a run waits in its queue. But rows may differ in their last digits.
    if mixed:
        log(f"warning: rows of this run were made with different versions: {'; '.join(mixed)}")


def _check_replaceable(paths: RunPaths, fingerprint: dict[str, Any], overwrite: bool) -> bool:
    """Makes sure that what stands at the output may be replaced. Returns whether it is another run's.

    Raises:
        OutputError: it was not made by merging this run; rows that cannot be made again from chunks are never replaced.
    """
    with explained(paths.rows):
        if not paths.done.exists() and not (paths.rows.exists() and paths.rows.stat().st_size):
            return False
    record = read_record(paths)
    # A run in one piece looks the same but for its record, and its rows cost GPU-hours.
    if record is None or not record.get("merged"):
        raise RefusedOutputError(
            f"{paths.rows}: exists already, and {paths.record.name} does not say that merge-shards wrote it; move it "
            "and the files named like it away"
        )
    changed = differences(record["fingerprint"], fingerprint)
    if changed and not overwrite:
        raise RefusedOutputError(
            f"{paths.rows}: holds the merged rows of another run. What differs: {'; '.join(changed)}. Move it away, or "
            "--overwrite to replace it"
        )
    return bool(changed)
