"""What stands beside a rows file, at this moment: nothing is written, no lease is taken.

`RunFiles` is one output's run record and completion mark. `FoundRun` is a run with all its chunks, for those who ask
how far it is; `RunFacts` is what a rows file says of itself, for those who read its rows. A file that is damaged is
named and hides no other. Knows nothing of error rates.
"""

import glob
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrbatch.config import descriptor_of
from asrbatch.errors import OutputError, RefusedOutputError, UsageError
from asrbatch.formatting import counted
from asrbatch.storage.files import explained, kind_of, refuse_irregular
from asrbatch.storage.lease import holder_has_ended
from asrbatch.storage.metrics import metrics_of_chunks, spending_of
from asrbatch.storage.paths import RunPaths, check_output, chunk_path, find_chunks
from asrbatch.storage.record import EDITED, is_record, read_completion_mark, read_record

# A shared file system takes some milliseconds for every answer, and answers many at a time.
_READERS = 16


@dataclass(frozen=True)
class RunFiles:
    """What was read of one chunk, or of a run in one piece.

    Attributes:
        chunk_id: None for a run in one piece.
        record, mark: the run record and the completion mark; None where there is no such file.
        num_bytes: of the rows file; None where there is none.
        num_rows, is_torn: whole rows in it, and whether a part of one follows; counted only where the mark, of an
            earlier version, does not say how many bytes there should be.
        has_ended: this machine knows that the process that holds the lease is no more.
        problem: why a file could not be read; None when all could.
    """

    paths: RunPaths
    chunk_id: int | None = None
    record: dict[str, Any] | None = None
    mark: dict[str, Any] | None = None
    num_bytes: int | None = None
    num_rows: int | None = None
    is_torn: bool = False
    has_ended: bool = False
    problem: OutputError | None = None

    @property
    def is_nothing(self) -> bool:
        return self.record is None and self.mark is None and self.num_bytes is None and self.problem is None

    @property
    def is_merged(self) -> bool:
        return self.record is not None and self.record.get("merged") is True

    @property
    def changed(self) -> str | None:
        """Why these rows are not those that the mark vouches for, as far as their number or that of their bytes tells;
        None for nothing. What was changed byte for byte only reading all of them tells."""
        if self.mark is None or self.num_bytes is None:
            return None
        found, unit = (self.num_bytes, "bytes") if self.num_rows is None else (self.num_rows, "rows")
        expected = self.mark.get(unit, found)
        if not self.is_torn and expected == found:
            return None
        what = "it ends in a part of a row" if self.is_torn else f"{found} {unit} instead of {expected}"
        return (
            f"{self.paths.rows.name}: does not match {self.paths.done.name} ({what}): it was cut off or "
            "changed after the run completed; put the original back, or --overwrite to start over"
        )


def read_run_files(paths: Sequence[RunPaths], chunk_ids: Iterable[int | None]) -> list[RunFiles]:
    """The files of several outputs, many at a time."""
    with ThreadPoolExecutor(_READERS, "asrbatch-files") as pool:
        return list(pool.map(read_files_of, paths, chunk_ids))


def read_chunks_of(output: Path, num_chunks: int) -> list[RunFiles]:
    """The files of every chunk of the run `output`, by its id; those without files too."""
    paths = [RunPaths(chunk_path(output, chunk_id, num_chunks)) for chunk_id in range(num_chunks)]
    return read_run_files(paths, range(num_chunks))


def read_files_of(paths: RunPaths, chunk_id: int | None = None) -> RunFiles:
    """The files of one output."""
    files = _look(paths, chunk_id)
    # A run may complete, or begin anew, between the looks at its rows and at its mark: only what stays so is damage.
    while files.changed and (again := _look(paths, chunk_id)) != files:
        files = again
    return files


def _look(paths: RunPaths, chunk_id: int | None) -> RunFiles:
    found: dict[str, Any] = {}
    try:
        with explained(paths.rows), suppress(FileNotFoundError):
            found["num_bytes"] = paths.rows.stat().st_size
        if kind := kind_of(paths.rows):
            raise RefusedOutputError(
                f"{paths.rows}: is {kind}, not a rows file; remove it, and run the same command again"
            )
        # A run removes its mark before it changes its record, and writes the mark last. Read in either order, a run
        # that begins or completes meanwhile gives a mark beside another state's record: damage that nobody did. So the
        # record is read on both sides of a mark, until it is the same.
        found["record"] = read_record(paths)
        while (mark := read_completion_mark(paths)) and (again := read_record(paths)) != found["record"]:
            found["record"] = again
        if mark and "bytes" not in mark and "num_bytes" in found:  # of an earlier version
            found["num_rows"], found["is_torn"] = count_rows(paths.rows)
    except OutputError as e:
        return RunFiles(paths, chunk_id, **found, problem=e)
    return RunFiles(paths, chunk_id, **found, mark=mark, has_ended=mark is None and holder_has_ended(paths.lease))


def count_rows(rows: Path) -> tuple[int, bool]:
    """Whole rows in a file, and whether a part of one follows. Raises OutputError."""
    num_rows, block = 0, b"\n"
    with explained(rows), open(rows, "rb") as file:
        while more := file.read(1 << 20):
            num_rows, block = num_rows + more.count(b"\n"), more
    return num_rows, not block.endswith(b"\n")


@dataclass(frozen=True)
class FoundRun:
    """A run on disk.

    Attributes:
        parts: every chunk by its id, those without files too; or the run in one piece alone; none when only what
            `merge-shards` made of them is left.
        merged: what `merge-shards` made; None when it has not.
        in_one_piece: something that stands at the output path beside chunks and was not merged from them, or None.
    """

    parts: list[RunFiles]
    merged: RunFiles | None
    in_one_piece: RunFiles | None = None


def read_run(output: Path, num_chunks: int | None = None) -> FoundRun:
    """Reads the files of a run.

    Args:
        output: the run's own output path.
        num_chunks: which run, where chunks of several numbers lie side by side.

    Raises:
        UsageError: there is nothing there, or several runs, or the path is no run's.
        OutputError: the folder cannot be read.
    """
    check_output(output)
    num_chunks = _choose(output, find_chunks(output) if output.parent.is_dir() else {}, num_chunks)
    whole = read_files_of(RunPaths(output))
    merged = whole if whole.is_merged else None
    if num_chunks is not None:
        alone = None if whole.is_merged or whole.is_nothing else whole
        return FoundRun(read_chunks_of(output, num_chunks), merged, alone)
    if whole.is_nothing:
        raise UsageError(f"{output}: no run is there, neither in one piece nor in chunks; give the --output of a run")
    return FoundRun([] if merged else [whole], merged)


def _choose(output: Path, found: dict[int, dict[int, RunPaths]], asked: int | None) -> int | None:
    seen = " and ".join(f"{len(chunks)} of {number} chunks" for number, chunks in found.items())
    if asked is None and len(found) > 1:
        raise UsageError(f"{output}: two runs or more are there, {seen}; choose one with --num-chunks")
    if asked is not None and asked not in found:
        raise UsageError(
            f"--num-chunks {asked}: no such chunk of {output} is there; found {seen or 'no chunks at all'}"
        )
    return asked if asked is not None else next(iter(found), None)


def rows_files(path: Path) -> list[Path]:
    """The file itself; where there is none, the rows files of the chunks of the run that is called so.

    Raises:
        UsageError: there are chunks of several runs, or something else in a file's place.
    """
    if descriptor_of(str(path)) is not None:  # a pipe that the process was given
        return [path]
    chunks = find_chunks(path) if not path.exists() and path.parent.is_dir() else {}
    if len(chunks) > 1:
        raise UsageError(
            f"{path}: is not there, and beside it are chunks of runs of {' and '.join(map(str, chunks))}; merge one"
        )
    found = [paths.rows for of_run in chunks.values() for paths in of_run.values() if paths.rows.is_file()]
    # A named pipe would be waited for.
    refuse_irregular(path, "give a rows file of transcribe or merge-shards, or other JSON Lines")
    return found or [path]


class RunFacts:
    """The run records and completion marks of a rows file, or of the chunks of a run, where there are any.

    Attributes:
        record: of the rows file, or of the first chunk that has one; None where there is none.
        problem: why they cannot be used, or None.
        language: what the run was told to take rows without `lang` for.
        task: `transcribe` or `translate`; None where no record says.
        manifest_digest: of the manifest that was transcribed.
        manifest_source: where that was when the run was started.
        holds_audio: audio may lie inside the manifest, under names that are no files.
    """

    def __init__(self, path: Path):
        self._files = rows_files(path)
        self._in_chunks = self._files != [path]
        # Beside a pipe stands nothing.
        outputs = [RunPaths(each) for each in self._files if descriptor_of(str(each)) is None]
        found = read_run_files(outputs, [None] * len(outputs))
        self._records = [files.record for files in found if files.record is not None]
        begun = (files for files in found if files.record is not None)
        # By a process that may live: nobody here knows of its end.
        self._going_on = [n for n, files in enumerate(begun) if files.mark is None and not files.has_ended]
        self._marks = [files.mark for files in found if files.mark is not None]
        self._changed = [files.changed for files in found if files.changed]
        self.problem = next((str(files.problem) for files in found if files.problem), None)
        self.record = self._records[0] if self._records else None
        self._fingerprint, self._made_from = self._part("fingerprint"), self._part("manifest")
        self.language, self.task, self.manifest_digest = map(self._fingerprint.get, ("language", "task", "manifest"))
        source = self._made_from.get("source")
        self.manifest_source: str | None = source if type(source) is str else None
        self.holds_audio = self._made_from.get("holds_audio") is True

    @property
    def written_language(self) -> str | None:
        """The language a run that translates wrote its texts in; None where it wrote what was
        spoken, or does not say.
        """
        if self.task != "translate":
            return None
        asked = self._fingerprint.get("asked") or {}
        # Whisper's fingerprint has no style.
        return asked.get("target_language") or (None if "style" in asked else "en")

    @property
    def covers(self) -> tuple[Any, ...] | None:
        """What the rows are rows of: manifest by digest, and chunk; None where that is unknown."""
        if self.manifest_digest is None:
            return None
        return self.manifest_digest, self.chunk and (self.chunk[0], self.chunk[-1])

    @property
    def audio_base(self) -> str:
        """What relative audio paths are relative to, a folder or a URL: where the run looked; without a record the
        folder of the predictions."""
        for folder in (self._fingerprint.get("audio_folder"), self._made_from.get("audio_folder")):
            if type(folder) is str and folder:
                return folder
        return str(self._folder_of_source())

    @property
    def has_audio_base(self) -> bool:
        """Whether `audio_base` is that of all rows: False where manifests of several folders were one run, and where
        audio lies in no folder."""
        stated = [each.get("audio_folder") for each in (self._fingerprint, self._made_from)]
        # Records of earlier versions say nothing of it.
        return any(stated) or "audio_folder" not in self._made_from

    def _folder_of_source(self) -> Path:
        """As far as the manifest's name tells: of several sources that of the first."""
        if self.manifest_source is None:
            return self._files[0].parent
        source = Path(self.manifest_source.split(",")[0])
        is_folder = glob.has_magic(str(source)) or source.is_dir()
        while glob.has_magic(str(source)):
            source = source.parent
        return source if is_folder else source.parent

    @property
    def chunk(self) -> tuple[int, int, str, str] | None:
        """Of a rows file that is one chunk: its number, how many there are, how rows were dealt out, the digest of
        that.
        """
        if self._in_chunks or self.record is None or type(self.record.get("chunk_id")) is not int:
            return None
        found = self._fingerprint
        digest, strategy = str(found.get("chunks")), str(found.get("strategy"))
        return self.record["chunk_id"], found.get("num_chunks") or 0, strategy, digest

    def is_incomplete(self, num_rows: int) -> bool:
        """Whether the record says that there should be another number of rows; False where there is none."""
        return self.record is not None and self.problem is None and self._expected != num_rows

    def speed(self, num_rows: int) -> dict[str, float | None]:
        """RTFx and wall time of a complete run; nothing otherwise, or where the marks vouch for
        another number of rows.
        """
        num_files = (self.record or {}).get("num_chunks") if self._in_chunks else 1
        num_marked = sum(mark["rows"] for mark in self._marks)
        if self._changed or len(self._marks) != num_files or num_marked != num_rows:
            return {}
        if self._in_chunks:
            by_chunk = {record["chunk_id"]: record for record in self._records}
            metrics = metrics_of_chunks(by_chunk, sum(mark.get("audio_s", 0.0) for mark in self._marks))
        else:
            metrics = self._marks[0]
        names = ("rtfx_engine", "rtfx_end_to_end", "wall_s", "span_s", "device_hours")
        return {name: metrics[name] for name in names if name in metrics}

    def spending(self, price: float | None) -> dict[str, Any]:
        """What the sessions took and cost so far (`cost.spending`); nothing where there is no record that can be
        used.

        Args:
            price: of a device-hour; None takes what the sessions stated.
        """
        if self.problem or not self._records or not all(map(is_record, self._records)):
            return {}
        tallies = self._marks if len(self._marks) == len(self._records) else [r.get("tally", {}) for r in self._records]
        # An edited record must not keep its rows from being looked at.
        with suppress(*EDITED):
            audio_s = sum(tally.get("audio_s", 0.0) for tally in tallies)
            return spending_of(self._records, audio_s, price, going_on=self._going_on)
        return {}

    def notes(self, num_rows: int, torn: bool, fate: str) -> list[str]:
        """What a person should know about rows that are not there.

        Args:
            fate: what becomes of them, said after how many they are.
        """
        notes = []
        if torn:
            notes.append("the last line is incomplete (the run is writing it, or was killed) and was left out")
        notes += self._changed
        if self.problem:
            these = f"{'this' if num_rows == 1 else 'these'} {counted(num_rows, 'row', 'is', 'are')}"
            notes.append(f"it is unknown whether {these} all of a run: {self.problem}")
        elif self.is_incomplete(num_rows):
            expected = counted(self._expected, "row", "is", "are") if self._expected else "an unknown number of rows is"
            notes.append(f"not complete: {num_rows} of {expected} there{fate}")
        if self._in_chunks:
            notes.append(f"read from {len(self._files)} chunks, not verified: merge-shards does that")
        elif self.record is not None and self.record.get("chunk_id") is not None:
            notes.append(f"chunk {self.record['chunk_id']} of {self.record.get('num_chunks')} alone")
        return notes

    @property
    def _expected(self) -> int | None:
        """Rows that there should be; None where that is unknown."""
        if self._in_chunks:
            return self._fingerprint.get("num_rows")
        return (self.record or {}).get("total_rows")

    def _part(self, name: str) -> dict[str, Any]:
        """An object in the record; an empty one where there is none, or an edited one."""
        part = (self.record or {}).get(name)
        return part if isinstance(part, dict) else {}
