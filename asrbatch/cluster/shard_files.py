"""The chunks of a run by their run records and completion marks: which are there, of which run, in what state.

Judges the small files only; whether the rows are what they should be is the business of `shard_rows.py`. Changes
nothing.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrbatch.cluster.merge_report import SHOWN_LINES, MergeReport
from asrbatch.errors import OutputError, RefusedOutputError, UsageError
from asrbatch.formatting import first_of
from asrbatch.manifest.sharding import Sharding
from asrbatch.runs.fingerprint import differences, digest
from asrbatch.storage.paths import RunPaths, find_chunks
from asrbatch.storage.record import RECORD_REFRESH_S, is_record
from asrbatch.storage.run_files import RunFiles, read_chunks_of, read_files_of

# Not loaded for `status`, which asks `damage_of` alone.
if TYPE_CHECKING:
    from asrbatch.manifest.manifest import Manifest

_ALIVE_S = 4 * RECORD_REFRESH_S  # generous, for the clocks of two machines
_OUTCOMES = {
    "engine_died": "its engine died",
    "error": "stopped by an error",
    "complete": "ended without its completion mark",
}


def choose_num_chunks(output: Path, wanted: int | None, log: Callable[[str], None]) -> int:
    """Of how many chunks the run `output` is, by the names of their files.

    Args:
        log: receives a line about each other run whose chunks lie there too.

    Raises:
        OutputError: there are no chunks, or chunks of several runs.
    """
    found = find_chunks(output)
    if wanted is None and len(found) == 1:
        return next(iter(found))
    if wanted in found:
        for names in _names(found, without=wanted):
            log(f"warning: files of another run were left as they are: {names}")
        return wanted
    if found:
        asked = "" if wanted is None else f"none of {wanted}, which --num-chunks asks for; "
        several = "chunks of several runs" if len(found) > 1 else "chunks of another run"
        fix = "give --num-chunks of the run to merge, or remove the files of the others"
        raise RefusedOutputError(f"{output}: {asked}{several} are there; {fix}", *_names(found))
    pattern = f"{RunPaths(output).rows.name.removesuffix('.jsonl')}.chunk-*-of-*.jsonl"
    if output.exists():
        files = read_files_of(RunPaths(output))
        if files.is_merged:
            raise RefusedOutputError(f"{output}: is merged already, and its chunks ({pattern}) are not there any more")
        why = f"is a run in one piece, without chunks ({pattern}); there is nothing to merge"
        raise files.problem or RefusedOutputError(f"{output}: {why}")
    raise RefusedOutputError(
        f"{output}: no chunks of it ({pattern}) are there; give the --output that their commands were given"
    )


def _names(found: dict[int, dict[int, RunPaths]], without: int | None = None) -> list[str]:
    """A line for every number of chunks: the rows file of each chunk that has left a file."""
    return [
        f"chunks of {num_chunks}: {first_of([paths.rows.name for paths in chunks.values()], SHOWN_LINES)}"
        for num_chunks, chunks in found.items()
        if num_chunks != without
    ]


def read_chunk_files(output: Path, num_chunks: int, report: MergeReport) -> list[RunFiles]:
    """The files of chunks 0 to N - 1; those of a chunk id beyond are left over.

    Raises:
        OutputError: a file cannot be read.
    """
    for chunk_id, paths in find_chunks(output).get(num_chunks, {}).items():
        if chunk_id >= num_chunks:
            name = f"{paths.rows.name} and what belongs to it"
            report.add("leftover", f"{name}: there is no chunk {chunk_id} of {num_chunks}")
    chunks = read_chunks_of(output, num_chunks)
    for chunk in chunks:
        # That a file cannot be read says nothing of what it holds.
        if chunk.problem and isinstance(chunk.problem.__cause__, OSError):
            raise chunk.problem
    return chunks


def damage_of(files: RunFiles, num_chunks: int | None) -> str | None:
    """What keeps these files from being those of one chunk of so many, or of a run in one piece; None for nothing."""
    paths, record, mark = files.paths, files.record, files.mark
    if files.problem:
        return str(files.problem)
    if record is None:
        if mark is None and not files.num_bytes:
            return None
        return f"{paths.rows.name}: the run record {paths.record.name} is not there, so it is unknown which run made it"
    if not is_record(record):
        return f"{paths.record.name}: is not what asrbatch writes; it was edited"
    if (record.get("chunk_id"), record.get("num_chunks")) != (files.chunk_id, num_chunks):
        whose = f"chunk {record.get('chunk_id')} of {record.get('num_chunks')}"
        return f"{paths.record.name}: is the record of {whose}; was it renamed?"
    # A mark that was copied from another run, or left when a record was put back.
    if mark is not None and mark.get("fingerprint") != digest(record["fingerprint"]):
        return f"{paths.done.name}: belongs to another run, not to {paths.record.name}; put the right one back"
    if mark is not None and files.num_bytes is None:
        return f"{paths.rows.name}: is gone, although {paths.done.name} says that it is complete; put it back"
    return None


def find_run(output: Path, chunks: list[RunFiles], manifest: "Manifest") -> tuple[dict[str, Any], Sharding]:
    """The fingerprint of the run, and how its rows are dealt out: what most chunks made from this manifest say.

    Raises:
        OutputError: no chunk was made from this manifest, or none says how its rows were dealt out.
    """
    damages = [damage_of(chunk, len(chunks)) for chunk in chunks]
    usable = [chunk for chunk, damage in zip(chunks, damages, strict=True) if chunk.record and not damage]
    if not usable:
        damage = next(filter(None, damages), "none has begun")
        raise OutputError(
            f"{output}: no chunk has a run record that can be used: {damage}; put the records beside the rows, or run "
            "the chunks again with --overwrite"
        )
    of_manifest = [c for c in usable if c.record["fingerprint"].get("manifest") == manifest.scan.digest]
    if not of_manifest:
        theirs = usable[0].record
        made_from = theirs.get("manifest") if isinstance(theirs.get("manifest"), dict) else {}
        raise RefusedOutputError(
            f"{manifest.source}: is not the manifest of this run, or was changed since: its {len(manifest)} rows have "
            f"digest {manifest.scan.digest[:12]}…, while the chunks were made from {made_from.get('source')}, "
            f"{made_from.get('rows')} rows with digest {str(theirs['fingerprint'].get('manifest'))[:12]}…; give that "
            "one"
        )
    # By vote, because one chunk that was run with other options must not make all others strangers.
    votes = Counter(digest(chunk.record["fingerprint"]) for chunk in of_manifest)
    for voted, _ in votes.most_common():  # equal votes: that of the lowest chunk id
        fingerprint = next(c.record["fingerprint"] for c in of_manifest if digest(c.record["fingerprint"]) == voted)
        try:
            sharding = Sharding(manifest.scan.durations_s, len(chunks), fingerprint.get("strategy"))
        except UsageError:  # a strategy that this version does not know
            continue
        # Proves that the rows are dealt out today as they were when the chunks ran.
        if sharding.digest == fingerprint.get("chunks"):
            return fingerprint, sharding
    raise RefusedOutputError(
        f"{output}: this asrbatch does not know how its rows were split into chunks "
        f"(--strategy {fingerprint.get('strategy')}); merge them with the version that made them"
    )


def check_files(
    chunks: list[RunFiles], fingerprint: dict[str, Any], sharding: Sharding, report: MergeReport
) -> list[RunFiles]:
    """The chunks of this run that have rows to be read; what is wrong with the others goes to `report`."""
    readable = []
    for chunk in chunks:
        name = f"chunk {chunk.chunk_id}"
        if damage := damage_of(chunk, len(chunks)):
            report.add("damaged", f"{name}: {damage}")
            report.overwrite.add(chunk.chunk_id)
        # Without rows it is bound to no options.
        elif chunk.record is None or (not chunk.num_bytes and chunk.mark is None):
            add_missing(chunk, int(sharding.num_rows[chunk.chunk_id]), "", sharding, report)
        elif changed := differences(fingerprint, chunk.record["fingerprint"]):
            report.add("other_run", f"{name} has other options than the other chunks: {'; '.join(changed)}")
            report.overwrite.add(chunk.chunk_id)
        else:
            readable.append(chunk)
    return readable


def add_missing(chunk: RunFiles, num_missing: int, named: str, sharding: Sharding, report: MergeReport) -> None:
    """Books what a chunk without a completion mark still lacks: no row at all, perhaps, but the mark.

    Args:
        named: some of the rows.
    """
    why, is_running = _why_unfinished(chunk)
    of = f"{num_missing} of its {sharding.num_rows[chunk.chunk_id]} rows missing{named}"
    report.add("missing", f"chunk {chunk.chunk_id}: {why}; {of}", num_missing)
    (report.running if is_running else report.again).add(chunk.chunk_id)


def _why_unfinished(chunk: RunFiles) -> tuple[str, bool]:
    """In a few words; and whether it seems to be written now: a guess, since clocks of two machines may be compared."""
    if not (chunk.record and chunk.record["sessions"]):
        return "not there", False
    session = chunk.record["sessions"][-1]
    outcome, heartbeat = session["outcome"], session["heartbeat"]
    if outcome is not None:
        return _OUTCOMES.get(outcome, outcome), False
    try:
        # abs: the clock of the machine that writes may be ahead of ours.
        is_recent = abs((datetime.now(UTC) - datetime.fromisoformat(heartbeat)).total_seconds()) < _ALIVE_S
    except (TypeError, ValueError):  # an edited record
        is_recent = False
    if is_recent and not chunk.has_ended:
        return f"still running on {session.get('host')}, or killed less than {_ALIVE_S:g} s ago", True
    return f"killed, last sign of life {heartbeat}", False
