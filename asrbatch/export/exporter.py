"""Exports the rows of a run, or of one chunk of it: subtitles, texts, times of words, Whisper's JSON.

Rows are read twice, first for their names, and never kept; of each, 16 bytes are remembered, which tell whether two
have one name. Changes no file of the run. Knows nothing of formats but their table."""

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
from asrbatch.export.files import OneFile, OneFileEach, explained
from asrbatch.export.formats import FORMATS, RESULT_FORMATS
from asrbatch.export.names import file_name, name_key
from asrbatch.export.results import RESULT_FILES, ResultNames
from asrbatch.export.subtitles import CueLimits
from asrbatch.export.transcript import Transcript, transcript_of
from asrbatch.formatting import show_text
from asrbatch.storage.journal import decode_row
from asrbatch.storage.paths import RunPaths, find_chunks
from asrbatch.storage.record import read_completion_mark, read_record

_READ_BYTES = 8 * 2**20
_SAY_EVERY_S = 30.0


@dataclass
class Exported:
    """What came of an export.

    Attributes:
        folder: where the files are.
        results: by format, the file to begin with: with `per_run` that of the format, otherwise its index.
        num_rows: utterances exported.
        failed: rows left out because they failed, by error kind.
        torn: the rows file ends in a part of a line, which was left out.
        written, unchanged: files by format; the latter were there already, word for word.
        left_out: by format of results, rows that it has no place for, by reason.
        without_time: by format of results, rows in it that have no `time`, by reason.
        not_english: by format of results for English alone, rows in other languages, by language.
    """

    folder: Path
    results: dict[str, Path] = field(default_factory=dict)
    num_rows: int = 0
    failed: Counter = field(default_factory=Counter)
    torn: bool = False
    written: dict[str, int] = field(default_factory=dict)
    unchanged: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, Counter] = field(default_factory=dict)
    without_time: dict[str, Counter] = field(default_factory=dict)
    not_english: dict[str, Counter] = field(default_factory=dict)

    @property
    def num_failed(self) -> int:
        return self.failed.total()

    @property
    def exit_code(self) -> int:
        return EXIT_ROWS_FAILED if self.failed else EXIT_COMPLETE


def export(
    rows_path: Path,
    formats: Sequence[str],
    *,
    folder: Path | None = None,
    per_run: bool = False,
    from_file_start: bool = False,
    overwrite: bool = False,
    rules: CueLimits | None = None,
    names: ResultNames | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Writes the rows in other formats.

    Args:
        rows_path: absolute; a rows file of a run in one piece, merged, or of one chunk. It need not be complete.
        formats: names in `export_formats.FORMATS` or `RESULT_FORMATS`.
        folder: where to; None for `X.export` beside the rows file.
        per_run: one file for all utterances of each format, instead of one for each.
        from_file_start: times count from the start of the audio file, not of the row.
        overwrite: replace files that are there and say something else.
        rules: of subtitles.
        names: what the leaderboard's file is called after.
        say: told, in one line, how far it is.

    Raises:
        UsageError: this cannot be done as asked.
        OutputError: the rows file is not ours, files are in the way, or the disk refused.
    """
    paths = RunPaths(rows_path)
    _check_there(paths)
    stem = rows_path.name.removesuffix(".jsonl")
    exported = Exported(folder if folder is not None else rows_path.with_name(f"{stem}.export"))
    with explained(exported.folder):
        exported.folder.mkdir(parents=True, exist_ok=True)
    size = _size(paths.rows)
    doubled = _doubled_names(paths.rows, size) if any(name in FORMATS for name in formats) else frozenset()
    with ExitStack() as files:
        make = OneFile if per_run else OneFileEach
        rules, names = rules or CueLimits(), names or ResultNames()
        results = {
            name: RESULT_FILES[name](paths.rows, exported.folder, names, overwrite, files)
            for name in formats
            if name in RESULT_FORMATS
        }
        utterances = {
            name: make(exported.folder, stem, FORMATS[name], rules, overwrite, files)
            for name in formats
            if name in FORMATS
        }
        said = time.monotonic()
        for where, row in _rows(paths.rows, size, exported):
            for result in results.values():
                result.add_row(row)
            if (utterance := _utterance(where, row, from_file_start, exported)) and utterances:
                named_by = utterance.id, utterance.audio_path
                name = file_name(*named_by, collides=hash(name_key(*named_by)) in doubled)
                for output in utterances.values():
                    output.add(utterance, name)
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                say(f"{exported.num_rows} utterances exported")
        outputs = {name: (results | utterances)[name] for name in formats}
        for output in outputs.values():
            output.finish()
    exported.left_out = {name: result.left_out for name, result in results.items() if result.left_out}
    exported.without_time = {name: result.without_time for name, result in results.items() if result.without_time}
    exported.not_english = {name: result.not_english for name, result in results.items() if result.not_english}
    exported.results = {name: output.path for name, output in outputs.items()}
    exported.written = {name: output.written for name, output in outputs.items()}
    exported.unchanged = {name: output.unchanged for name, output in outputs.items()}
    return exported


def how_complete(rows_path: Path, exported: Exported) -> list[str]:
    """What a person should know about the rows that were not there."""
    paths, num_rows, notes = RunPaths(rows_path), exported.num_rows + exported.num_failed, []
    if exported.torn:
        notes.append("the last line is torn: the run is writing it, or was killed; that row was left out")
    try:
        record, mark = read_record(paths), read_completion_mark(paths)
    except OutputError as e:
        return [*notes, f"whether these {num_rows} rows are all of a run cannot be told: {e}"]
    if record is None:
        notes.append(f"no run record beside it: whether these {num_rows} rows are all of a run cannot be told")
    elif mark is None or mark["rows"] != num_rows:
        notes.append(
            f"not complete: {num_rows} of {record.get('total_rows', 'an unknown number of')} rows are there so far"
        )
    if record is not None and record.get("num_chunks") and record.get("chunk_id") is not None:
        notes.append(f"chunk {record['chunk_id']} of {record['num_chunks']} alone")
    return notes


def _check_there(paths: RunPaths) -> None:
    rows = paths.rows
    if rows.is_file():
        return
    if rows.exists():
        raise UsageError(f"{rows}: is no file; give the rows file that transcribe or merge-shards wrote")
    if rows.parent.is_dir() and (chunks := find_chunks(rows)):
        num_chunks = next(iter(chunks))
        raise UsageError(
            f"{rows}: is not there, but chunks of it are; merge-shards joins them, or give one of them, such as "
            f"{next(iter(chunks[num_chunks].values())).rows.name}"
        )
    raise UsageError(f"{rows}: no such file; give the rows file that transcribe or merge-shards wrote")


def _utterance(where: str, row: dict[str, Any], from_file_start: bool, exported: Exported) -> Transcript | None:
    """What was spoken in a row; None for one that failed. Counts it in `exported`."""
    if row["status"] != "ok":
        exported.failed[row["error"]["kind"]] += 1
        return None
    try:
        utterance = transcript_of(row, from_file_start=from_file_start)
    except ValueError as e:
        raise _not_ours(where, e) from e
    exported.num_rows += 1
    return utterance


def _size(path: Path) -> int:
    with explained(path):
        return path.stat().st_size


def _rows(path: Path, size: int, exported: Exported) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the first `size` bytes: a run may write more meanwhile."""
    end = 0
    with explained(path), open(path, "rb", buffering=_READ_BYTES) as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if end > size or not line.endswith(b"\n"):
                exported.torn = start < size
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


def _doubled_names(path: Path, size: int) -> frozenset[int]:
    """Hashes of the name keys that several rows have, failed ones too: they may be transcribed later.

    Raises OutputError: two rows have one id, and so one file.
    """
    keys, ids = array("q"), array("q")
    for _, row in _rows(path, size, Exported(path.parent)):
        keys.append(hash(name_key(row["id"], _audio_path(row))))
        if row["status"] == "ok":
            ids.append(hash(row["id"]))
    _refuse_doubled_ids(path, size, _doubled(ids))
    return _doubled(keys)


def _doubled(values: array) -> frozenset[int]:
    import numpy as np

    values = np.sort(np.frombuffer(values, np.int64))
    return frozenset(values[1:][values[1:] == values[:-1]].tolist())


def _refuse_doubled_ids(path: Path, size: int, hashes: frozenset[int]) -> None:
    first: dict[str, str] = {}
    for where, row in _rows(path, size, Exported(path.parent)) if hashes else ():
        if row["status"] != "ok" or hash(row["id"]) not in hashes:
            continue
        if row["id"] in first:
            raise OutputError(
                f"{where}: id {show_text(row['id'])} is that of {first[row['id']]} as well; rows of one run have "
                f"different ids, "
                "so the file was put together by hand: export its parts to different folders"
            )
        first[row["id"]] = where


def _audio_path(row: dict[str, Any]) -> str | None:
    path = row.get("audio_filepath")
    return path if type(path) is str else None
