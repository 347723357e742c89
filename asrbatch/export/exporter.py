"""Exports the rows of a run, or of one chunk of it, as files for other tools.

Rows are read twice, first for their names, and never kept; of each, 24 bytes are remembered, which tell whether two
have one name. Changes no file of the run. Knows nothing of formats but their tables."""

import json
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, OutputError, UsageError
from asrbatch.export.beside import BesideNames
from asrbatch.export.files import OneFile, OneFileEach, explained
from asrbatch.export.formats import FORMATS
from asrbatch.export.names import FileNames, repeated
from asrbatch.export.options import SUBTITLES, CueLimits, ResultNames
from asrbatch.export.results import RESULT_FILES, ResultFile
from asrbatch.export.transcript import Transcript, audio_path_of, transcript_of
from asrbatch.formatting import printable, show_text
from asrbatch.storage.files import kind_of, remove_dead
from asrbatch.storage.journal import decode_row
from asrbatch.storage.paths import RunPaths, check_outputs, find_chunks, short_path
from asrbatch.storage.run_files import RunFacts

_READ_BYTES = 8 * 2**20
_LOG_EVERY_S = 30.0


@dataclass(repr=False)
class ExportResult:
    """What came of an export.

    For example `ExportResult(srt, vtt: 118 utterances, 2 failed rows, run/out.export)`.

    Attributes:
        folder: where the files are.
        outputs: by format. `path` is the file to begin with: of one file for all utterances that, otherwise its index.
        num_rows: utterances exported.
        failed: rows left out because they failed, by error kind.
        torn: the rows file ends in a part of a line, which was left out.
        completeness: what a person should know about rows that were not there.
    """

    folder: Path
    outputs: dict[str, OneFile | OneFileEach | ResultFile] = field(default_factory=dict)
    num_rows: int = 0
    failed: Counter = field(default_factory=Counter)
    torn: bool = False
    completeness: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        failed = f", {self.failed.total()} failed rows" if self.failed else ""
        where = printable(short_path(self.folder))
        return f"ExportResult({', '.join(self.outputs)}: {self.num_rows} utterances{failed}, {where})"

    @property
    def notes(self) -> list[str]:
        """What a person should know: whether rows are missing, and what a format left out."""
        left_out = [f"{name}: {note}" for name, output in self.outputs.items() for note in output.notes()]
        return [*self.completeness, *left_out]

    @property
    def files(self) -> dict[str, Path]:
        """By format, the file to begin with: its index, which names all others, or the one file that there is."""
        return {name: output.path for name, output in self.outputs.items()}

    @property
    def exit_code(self) -> int:
        return EXIT_ROWS_FAILED if self.failed else EXIT_COMPLETE


def parse_formats(given: str) -> list[str]:
    """`srt,vtt` as names in `FORMATS` or `RESULT_FILES`, each once.

    Raises:
        UsageError: one that is unknown, or that rows have nothing for.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in given.split(",")))
    for name in names:
        if name == "rttm":
            raise UsageError("--format rttm: it says who speaks when, and asrbatch does not tell speakers apart")
        if name not in FORMATS | RESULT_FILES:
            raise UsageError(f"--format {name or given}: unknown; known: {', '.join((*FORMATS, *RESULT_FILES))}")
    return names


def export(
    rows_path: Path,
    formats: Sequence[str],
    *,
    folder: Path | None = None,
    beside: bool = False,
    per_run: bool = False,
    from_file_start: bool = False,
    overwrite: bool = False,
    limits: CueLimits | None = None,
    names: ResultNames | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Writes the rows in other formats.

    Args:
        rows_path: absolute; a rows file of a run in one piece, merged, or of one chunk. It need not be complete.
        formats: names in `formats.FORMATS` or `results.RESULT_FILES`.
        folder: where to; None for `X.export` beside the rows file.
        beside: subtitles stand beside their media files, where players look; times then count from the start of the
            media file. The folder holds their indexes.
        per_run: one file for all utterances of each format, instead of one for each.
        from_file_start: times count from the start of the audio file, not of the row.
        overwrite: replace files that are there and say something else.
        limits: of subtitles.
        names: what the leaderboard's file is called after.
        log: gets a line now and then about how far it is.

    Raises:
        UsageError: this cannot be done as asked.
        OutputError: the rows file is not ours, files are in the way, or the disk refused.
    """
    _check_exists(rows_path)
    if beside:
        _check_beside(formats, folder, per_run)
    limits = limits or CueLimits()
    stem = rows_path.name.removesuffix(".jsonl")
    result = ExportResult(folder if folder is not None else rows_path.with_name(f"{stem}.export"))
    size = _size(rows_path)  # a run may be writing: both passes read up to where the file ends now
    file_names = _file_names(rows_path, size, beside, per_run) if FORMATS.keys() & set(formats) else None
    _make_folder(result.folder)
    open_file, index_name = OneFile if per_run else OneFileEach, f"{stem}.beside" if beside else stem
    with ExitStack() as files:
        for name in formats:
            if name in RESULT_FILES:
                output = RESULT_FILES[name](rows_path, result.folder, names or ResultNames(), overwrite, files)
            else:
                output = open_file(result.folder, index_name, FORMATS[name], limits, overwrite, files)
            result.outputs[name] = output
        # Files for one utterance each take the place of a link; these would take that of what it leads to.
        written = (path for output in result.outputs.values() for path in output.paths)
        check_outputs(written, RunPaths(rows_path).written, f"--to {result.folder}")
        for where, row in _logged(_rows(rows_path, size, result), result, log):
            transcript = _transcript(where, row, from_file_start or beside, needs_words=limits.words)
            _write_row(row, transcript, file_names, result)
        for output in result.outputs.values():
            output.finish()
    return result


def _logged(
    rows: Iterator[tuple[str, dict[str, Any]]], result: ExportResult, log: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows; says now and then how many were exported."""
    logged = time.monotonic()
    for each in rows:
        yield each
        if time.monotonic() - logged >= _LOG_EVERY_S:
            logged = time.monotonic()
            log(f"{result.num_rows} utterances exported")


def _check_beside(formats: Sequence[str], folder: Path | None, per_run: bool) -> None:
    if folder is not None:
        raise UsageError("--beside, --to: one says where the files go, and so does the other; leave one out")
    if per_run:
        raise UsageError("--beside --per-run: one file for all is beside no media file; leave one out")
    if others := [name for name in formats if name not in SUBTITLES]:
        # A text beside audio is its reference, to us and to others: it must not become what a model said.
        raise UsageError(f"--beside --format {others[0]}: players look for {', '.join(SUBTITLES)} only; leave one out")


def _make_folder(folder: Path) -> None:
    if (kind := kind_of(folder)) != "a folder" and (kind or folder.exists()):
        raise UsageError(f"--to {folder}: is {kind or 'a file'} and no folder; give another name")
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remove_dead(folder)


def completeness_notes(rows_path: Path, result: ExportResult) -> list[str]:
    """What a person should know about the rows that were not there."""
    facts, num_rows = RunFacts(rows_path), result.num_rows + result.failed.total()
    notes = facts.notes(num_rows, result.torn, " so far")
    if facts.record is None and not facts.problem:
        notes.append(f"no run record beside it: whether these {num_rows} rows are all of a run cannot be told")
    return notes


def _check_exists(rows: Path) -> None:
    fix = "give the rows file that transcribe or merge-shards wrote"
    if rows.is_file():
        return
    if not rows.exists() and rows.parent.is_dir() and (chunks := find_chunks(rows)):
        first = next(iter(next(iter(chunks.values())).values()))
        raise UsageError(
            f"{rows}: is not there, but chunks of it are; merge-shards joins them, or give one of them, such as "
            f"{first.rows.name}"
        )
    raise UsageError(f"{rows}: {'is no' if rows.exists() else 'no such'} file; {fix}")


def _transcript(where: str, row: dict[str, Any], from_file_start: bool, *, needs_words: bool) -> Transcript | None:
    """That of a row; None of one that failed. Raises UsageError where words are needed and have no times."""
    if row["status"] != "ok":
        return None
    try:
        transcript = transcript_of(row, from_file_start=from_file_start)
    except ValueError as e:
        raise _not_ours(where, e) from e
    if needs_words and not transcript.has_words:
        raise UsageError(f"--words: {where}: its words have no times; transcribe with --word-timestamps gives them")
    return transcript


def _write_row(
    row: dict[str, Any], transcript: Transcript | None, file_names: FileNames | BesideNames | None, result: ExportResult
) -> None:
    """One row to all files, and counts it. Only results hold rows that failed."""
    if transcript is not None:
        result.num_rows += 1
    else:
        result.failed[row["error"]["kind"]] += 1
    for output in result.outputs.values():
        if isinstance(output, ResultFile):
            output.add_row(row)
        elif transcript is not None:
            named_by = transcript.id, transcript.audio_path
            output.add(transcript, file_names.name_of(*named_by) if file_names is not None else "")


def _size(path: Path) -> int:
    with explained(path):
        return path.stat().st_size


def _rows(path: Path, size: int, result: ExportResult) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the first `size` bytes: a run may write more meanwhile."""
    end = 0
    with explained(path), open(path, "rb", buffering=_READ_BYTES) as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if end > size or not line.endswith(b"\n"):
                result.torn = start < size
                return
            where = f"{path}:{number}"
            try:
                row = decode_row(line, where)
            except OutputError as e:
                raise _not_ours(where, e.__cause__) from e
            yield where, row


def _not_ours(where: str, reason: BaseException | None) -> OutputError:
    what = reason.msg if isinstance(reason, json.JSONDecodeError) else reason
    return OutputError(
        f"{where}: no output row ({what}); give the rows file that transcribe or merge-shards wrote, unedited"
    )


def _file_names(path: Path, size: int, beside: bool, per_run: bool) -> FileNames | BesideNames | None:
    """What the files of rows are called; None where they have none of their own.

    Raises:
        OutputError: two rows have one id, and so one file.
        UsageError: subtitles cannot stand beside a row's media file.
    """
    names = None if per_run else BesideNames(path) if beside else FileNames()
    ids = array("q")
    for _, row in _rows(path, size, ExportResult(path.parent)):
        if names is not None:
            names.add(row["id"], audio_path_of(row))
        if row["status"] == "ok":
            ids.append(hash(row["id"]))
    # Only hashes are kept, and two ids may have one: a pass over the file tells, and is made only where it must be.
    _refuse_doubled_ids(path, size, repeated(ids))
    if isinstance(names, BesideNames):
        rows = _rows(path, size, ExportResult(path.parent))
        names.check((row["id"], audio_path_of(row)) for _, row in rows if row["status"] == "ok")
        for folder in names.folders:
            remove_dead(Path(folder))
    return names


def _refuse_doubled_ids(path: Path, size: int, hashes: frozenset[int]) -> None:
    first: dict[str, str] = {}
    for where, row in _rows(path, size, ExportResult(path.parent)) if hashes else ():
        if row["status"] != "ok" or hash(row["id"]) not in hashes:
            continue
        if row["id"] in first:
            raise OutputError(
                f"{where}: id {show_text(row['id'])} is that of {first[row['id']]} as well; rows of one run have "
                "different ids, so the file was put together by hand: export its parts to different folders"
            )
        first[row["id"]] = where
