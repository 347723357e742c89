"""Rows in: `open_manifest` recognises what it is given, checks all of it once, and then reads any row at any time.

Which formats there are is in `formats.py`; how each is read is the business of `readers/`, and what a row may say that
of `row.py`. Opening reads nothing about audio and keeps no rows. Importing this module imports no pyarrow and no
datasets."""

import os
from collections.abc import Sequence
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.manifest.formats import open_readers
from asrbatch.manifest.issues import OnIssue
from asrbatch.manifest.readers.base import Reader, join
from asrbatch.manifest.row import InvalidRow, of_row
from asrbatch.manifest.scan import Check, Ids, Observe, Scan, judge, make_utterance, repeated_id, scan_rows
from asrbatch.storage.files import manifest_changed
from asrbatch.storage.paths import in_current_folder
from asrbatch.types import AudioRef, Utterance


class Manifest:
    """The rows of one source, checked. `len(manifest)` is the number of rows; made by `open_manifest`.

    Attributes:
        source: absolute path (or glob) as a string.
        scan: what the one pass at opening found.
        num_bad: rows that will fail because of what they say (`is_bad(index)`); 0 where bad rows were to be refused.
        keys: int64 [rows], `hash(id)`: means nothing to a process that was not forked from this one.
        audio_folder, in_groups, where, line, left_out: see `Reader`.
        has_plain_lines: each line of its files is a row under our names.
    """

    def __init__(self, reader: Reader, check: Check | None, scan: Scan, ids: Ids):
        self._reader, self._check, self.scan, self._ids = reader, check, scan, ids
        self.source, self.num_bad, self.is_bad = reader.source, len(ids.bad), ids.is_bad
        self.keys, self.audio_folder, self.in_groups = ids.keys, reader.audio_folder, reader.in_groups
        self.has_plain_lines, self.where, self.line = reader.is_plain, reader.where, reader.line
        self.left_out = reader.left_out

    def __len__(self) -> int:
        return self.scan.num_rows

    def record(self) -> dict[str, Any]:
        """What a run record says of it, for whoever looks for the audio later.

        `audio_folder` is the folder, or URL, that relative paths are relative to, null where there is no single one;
        `holds_audio` whether audio may lie inside the source, under names that are no files.
        """
        return {
            "source": self.source,
            "rows": len(self),
            "audio_folder": self._reader.base_folder,
            "holds_audio": self._reader.holds_audio,
        }

    def figures(self) -> dict[str, Any]:
        """What `plan --json` and `validate --json` say of it."""
        figures = {"source": self.source, "rows": len(self), "digest": self.scan.digest}
        return figures | ({"left_out": self.left_out} if self.left_out else {})

    def examples(self, found: list[tuple[int, str]]) -> list[dict[str, Any]]:
        """Rows and what is wrong with them, in plain JSON values."""
        return [{"row": index, "where": self.where(index), "text": text} for index, text in found]

    def read(self, index: int) -> Utterance:
        """Row `index` (0-based), with the id the scan gave it. From any thread; reads nothing about its audio.

        Raises:
            IndexError: no such row.
            ManifestError: the manifest changed since it was opened, or cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source}: no row {index}; there are {len(self)}, from 0")
        index = int(index)  # a numpy integer would end up in the output
        is_bad, problem = self.is_bad(index), None
        try:
            row = of_row(self._reader.row, index)
        except InvalidRow as e:
            if not is_bad:  # it was good when it was scanned
                raise manifest_changed(self.where(index)) from e
            row, problem = e.row(), str(e)
        except OSError as e:
            raise ManifestError(f"{self.source}: row {index} cannot be read: {e}") from e
        # Digest and chunks were made of the ids at opening: another id now means that the file changed.
        row_id = self._ids.final(index, row)
        if hash(row_id) != self._ids.keys[index]:
            raise manifest_changed(self.where(index))
        utterance = make_utterance(self._reader, index, row_id, row) if problem is None else None
        # Why it is bad was not kept, there may be millions: it is found again.
        if is_bad and problem is None:
            first = self._ids.first_with_id_of(index)
            if first is not None:
                problem = repeated_id(self._reader, row.id, first)
            elif self._check is not None:
                problem = judge(self._check, utterance)
            if problem is None:
                raise manifest_changed(self.where(index))
        if problem is None:
            return utterance
        where = self.where(index)
        return Utterance(index, row_id, AudioRef(where), fields=row.fields, problem=f"{where}: {problem}")


def open_manifest(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    check: Check | None = None,
    options: SourceOptions | None = None,
    on_issue: OnIssue | None = None,
    observe: Observe | None = None,
) -> Manifest:
    """Open a manifest and check every row of it.

    Args:
        source: what holds the rows; see `formats.py` for all that is recognised. Several are one manifest.
        check: called once with every good row; returns None, or `value: problem; fix` for a row this run cannot do.
            Ids of rows that repeat are not numbered yet then, and a data set's columns of lists, structs and bytes are
            left out.
        options: how to read it.
        on_issue, observe: called with every problem, and with how far the reading is; see `scan_rows`.

    Raises:
        ManifestError: it is none of these, cannot be read, holds no rows, or holds bad ones (all reported together).
    """
    options = options or SourceOptions()
    sources = [*map(os.fspath, [source] if isinstance(source, str | os.PathLike) else source)]
    try:
        # All are opened before the first is read: a typo in the last is reported at once.
        with in_current_folder():
            readers = open_readers(sources, options)
        reader = join(", ".join(reader.source for reader in readers), readers)
        keep_bad = options.on_bad_row == "fail"
        return Manifest(reader, check, *scan_rows(reader, check, keep_bad=keep_bad, on_issue=on_issue, observe=observe))
    except OSError as e:  # a folder without permission, a disk that fails during the scan
        raise ManifestError(f"{', '.join(sources)}: cannot be read: {e}") from e
