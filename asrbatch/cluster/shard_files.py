"""The chunks of a run by their run records and completion marks: which are there, of which run, in what state.

Judges the small files only; whether the rows are what they should be is the business of `shard_rows.py`. Changes
nothing.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asrbatch.cluster.merge_report import SHOWN_LINES, MergeReport
from asrbatch.errors import OutputError, UsageError
from asrbatch.formatting import first_of
from asrbatch.manifest.manifest import Manifest
from asrbatch.manifest.sharding import Sharding
from asrbatch.runs.fingerprint import differences, digest
from asrbatch.storage.paths import RunPaths, chunk_path, find_chunks
from asrbatch.storage.record import RECORD_REFRESH_S, read_record
from asrbatch.storage.run_files import RunFiles, read_run_files

_ALIVE_S = 4 * RECORD_REFRESH_S  # generous, for the clocks of two machines
_OUTCOMES = {
    "engine_died": "its engine died",
    "error": "stopped by an error",
    "complete": "ended without its completion mark",
}


@dataclass(frozen=True)
class ChunkFiles(RunFiles):
    """What stands of one chunk.

    Attributes:
        damage: why these files cannot be trusted; None when they can.
    """

    damage: str | None = None

    @property
    def last_session(self) -> dict[str, Any]:
        return self.record["sessions"][-1] if self.record and self.record["sessions"] else {}

    @property
    def is_running(self) -> bool:
        """Whether it seems to be written now: a guess, since clocks of two machines may be compared."""
        session = self.last_session
        try:
            beat = datetime.fromisoformat(session["heartbeat"])
            # abs: the clock of the machine that writes may be ahead of ours.
            recently = abs((datetime.now(UTC) - beat).total_seconds()) < _ALIVE_S
            return session["outcome"] is None and recently and not self.has_ended
        # An edited record; `_damage` names what is wrong with it.
        except (KeyError, TypeError, ValueError):
            return False

    @property
    def state(self) -> str:
        """Why it is not complete, in a few words."""
        session = self.last_session
        if not session:
            return "not there"
        if self.is_running:
            return f"still running on {session.get('host')}, or killed less than {_ALIVE_S:g} s ago"
        outcome = session.get("outcome")
        return (
            f"killed, last sign of life {session.get('heartbeat')}"
            if outcome is None
            else _OUTCOMES.get(outcome, outcome)
        )


def choose_num_chunks(output: Path, wanted: int | None) -> tuple[int, list[str]]:
    """Of how many chunks the run `output` is, by the names of their files. Returns it with warnings.

    Raises:
        OutputError: there are no chunks, or chunks of several runs.
    """
    found = find_chunks(output)
    if wanted is None and len(found) == 1:
        return next(iter(found)), []
    if wanted in found:
        return wanted, [f"left alone, another run's {names}" for names in _names(found, without=wanted)]
    if found:
        asked = "" if wanted is None else f"none of {wanted}, which --num-chunks asks for; "
        several = "chunks of several runs" if len(found) > 1 else "chunks of another run"
        fix = "give --num-chunks of the run to merge, or remove the files of the others"
        raise OutputError("\n".join((f"{output}: {asked}{several} are there; {fix}", *_names(found))))
    pattern = f"{output.name.removesuffix('.jsonl')}.chunk-*-of-*.jsonl"
    if output.exists():
        record = read_record(RunPaths(output))
        if record and record.get("merged"):
            raise OutputError(f"{output}: is merged already, and its chunks ({pattern}) are not there any more")
        raise OutputError(f"{output}: is a run in one piece, without chunks ({pattern}); there is nothing to merge")
    raise OutputError(
        f"{output}: no chunks of it ({pattern}) are there; give the --output that their commands were given"
    )


def _names(found: dict[int, dict[int, RunPaths]], without: int | None = None) -> list[str]:
    """A line for every number of chunks: the rows file of each chunk that has left a file."""
    lines = []
    for num_chunks, chunks in found.items():
        if num_chunks == without:
            continue
        names = [paths.rows.name for paths in chunks.values()]
        lines.append(f"chunks of {num_chunks}: {first_of(names, SHOWN_LINES)}")
    return lines


def read_chunk_files(output: Path, num_chunks: int, report: MergeReport) -> list[ChunkFiles]:
    """The files of chunks 0 to N - 1; those of a chunk id beyond are left over.

    Raises:
        OutputError: a file cannot be read.
    """
    for chunk_id, paths in find_chunks(output).get(num_chunks, {}).items():
        if chunk_id >= num_chunks:
            report.add(
                "leftover", f"{paths.rows.name} and what belongs to it: there is no chunk {chunk_id} of {num_chunks}"
            )
    paths = [RunPaths(chunk_path(output, chunk_id, num_chunks)) for chunk_id in range(num_chunks)]
    return [
        ChunkFiles(**vars(files), damage=_damage(files, num_chunks))
        for files in read_run_files(paths, range(num_chunks))
    ]


def _damage(files: RunFiles, num_chunks: int) -> str | None:
    """What keeps these files from being one chunk's."""
    paths, record, mark = files.paths, files.record, files.mark
    if files.problem:
        if isinstance(files.problem.__cause__, OSError):  # says nothing of what the file holds
            raise files.problem
        return str(files.problem)
    if record is None:
        if mark is None and not files.num_bytes:
            return None
        return f"{paths.record.name} is not there, so nobody can say what made its rows"
    sessions = record["sessions"]
    if (
        not isinstance(record["fingerprint"], dict)
        or not isinstance(sessions, list)
        or not all(map(_is_session, sessions))
    ):
        return f"{paths.record.name} is no run record; it was edited"
    if (record.get("chunk_id"), record.get("num_chunks")) != (files.chunk_id, num_chunks):
        return f"{paths.record.name} is the record of chunk {record.get('chunk_id')} of {record.get('num_chunks')}"
    # A mark that was copied from another run, or left when a record was put back.
    if mark is not None and mark.get("fingerprint") != digest(record["fingerprint"]):
        return f"{paths.done.name} is another run's: its fingerprint is not that of {paths.record.name}"
    if mark is not None and files.num_bytes is None:
        return f"{paths.rows.name} is not there, though {paths.done.name} says that it is complete"
    return None


def _is_session(value: Any) -> bool:
    return isinstance(value, dict) and {"started", "heartbeat", "outcome"} <= value.keys()


def find_run(output: Path, chunks: list[ChunkFiles], manifest: Manifest) -> tuple[dict[str, Any], Sharding]:
    """The fingerprint of the run, and how its rows are dealt out: what most chunks made from this manifest say.

    Raises:
        OutputError: no chunk was made from this manifest, or none says how its rows were dealt out.
    """
    usable = [chunk for chunk in chunks if chunk.record and not chunk.damage]
    if not usable:
        damage = next((chunk.damage for chunk in chunks if chunk.damage), "none has begun")
        raise OutputError(
            f"{output}: no chunk has a run record that can be used: {damage}; put the records beside the rows, or run "
            "the chunks again with --overwrite"
        )
    of_manifest = [c for c in usable if c.record["fingerprint"].get("manifest") == manifest.scan.digest]
    if not of_manifest:
        theirs = usable[0].record
        made_from = theirs.get("manifest") if isinstance(theirs.get("manifest"), dict) else {}
        raise OutputError(
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
    raise OutputError(
        f"{output}: its chunks were dealt out in a way that this asrbatch does not know "
        f"(--strategy {fingerprint.get('strategy')}); merge them with the version that made them"
    )


def check_files(
    chunks: list[ChunkFiles], fingerprint: dict[str, Any], sharding: Sharding, report: MergeReport
) -> list[ChunkFiles]:
    """The chunks of this run that have rows to be read; what is wrong with the others goes to `report`."""
    readable = []
    for chunk in chunks:
        name = f"chunk {chunk.chunk_id}"
        if chunk.damage:
            report.add("damaged", f"{name}: {chunk.damage}")
            report.overwrite.add(chunk.chunk_id)
        elif chunk.record is None or (
            not chunk.num_bytes and chunk.mark is None
        ):  # without rows it is bound to no options
            add_missing(chunk, int(sharding.num_rows[chunk.chunk_id]), "", sharding, report)
        elif changed := differences(fingerprint, chunk.record["fingerprint"]):
            report.add("other_run", f"{name}, where the others are what it was before: {'; '.join(changed)}")
            report.overwrite.add(chunk.chunk_id)
        else:
            readable.append(chunk)
    return readable


def add_missing(chunk: ChunkFiles, num_missing: int, named: str, sharding: Sharding, report: MergeReport) -> None:
    """Books what a chunk without a completion mark still lacks: no row at all, perhaps, but the mark.

    Args:
        named: some of the rows.
    """
    of = f"{num_missing} of its {sharding.num_rows[chunk.chunk_id]} rows missing{named}"
    report.add("missing", f"chunk {chunk.chunk_id}: {chunk.state}; {of}", num_missing)
    (report.running if chunk.is_running else report.again).add(chunk.chunk_id)
