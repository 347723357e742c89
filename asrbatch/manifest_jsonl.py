"""Manifests in JSON Lines: one JSON object per line, UTF-8, found again by its byte offset.

Blank lines are no rows; a byte-order mark at the start and CRLF line ends are accepted. What a row may say is the
business of `rows.py`. Keeps 8 bytes a row.
"""

import codecs
import json
import os
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

from .errors import ManifestError
from .manifest_files import FileState
from .rows import BadRow, Row, audio_ref, parse_row, show, show_text
from .types import AudioRef

_READ_BYTES = 1 << 20
_ONE_OBJECT = "write one JSON object per line"


class JsonlReader:
    """The rows of one file; see `manifest_scan.Reader`. The file stays open: replacing it by another changes nothing.

    Raises:
        ManifestError: the file cannot be opened.
    """

    def __init__(self, path: str):
        self.source = path
        self._folder = os.path.dirname(path)
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as e:
            raise ManifestError(f"{path}: cannot be opened: {e.strerror}") from e
        weakref.finalize(self, os.close, self._fd)
        self._state = FileState(path, self._fd)
        self._starts = array("Q")  # byte offset of every row passed, and at last the end of the file
        self._num_blank = 0

    def rows(self) -> Iterator[Row | BadRow]:
        with open(self._fd, "rb", _READ_BYTES, closefd=False) as lines:
            end = len(codecs.BOM_UTF8) if os.pread(self._fd, 3, 0) == codecs.BOM_UTF8 else 0
            lines.seek(end)
            for line in lines:
                start, end = end, end + len(line)
                if line.isspace():
                    self._num_blank += 1
                    continue
                self._starts.append(start)
                try:
                    yield parse_line(line)
                except BadRow as bad:
                    yield bad
            self._starts.append(end)
        self._state.check()

    def row(self, index: int) -> Row:
        self._state.check()
        start, end = self._starts[index], self._starts[index + 1]
        return parse_line(os.pread(self._fd, end - start, start))  # with the blank lines that follow: JSON ignores them

    def audio(self, index: int, row: Row) -> AudioRef:
        return audio_ref(row.path, self._folder)

    def where(self, index: int) -> str:
        line = index + 1
        if self._num_blank:  # line numbers are not kept, so count them; only messages need them
            position, last = 0, self._starts[index]
            line = 1
            while position < last:
                piece = os.pread(self._fd, min(_READ_BYTES, last - position), position)
                line += piece.count(b"\n")
                position += len(piece) or last
        return f"{self.source}:{line}"


def parse_line(line: bytes) -> Row:
    """One line of the file as a checked row. Raises BadRow."""
    try:
        text = line.decode()
    except UnicodeDecodeError as e:
        problem = f"not UTF-8: byte 0x{line[e.start]:02x} at position {e.start + 1} of the line"
        fix = "write the whole file in UTF-8 (two encodings in one file?)"
        raise BadRow(show_text(line.strip().decode("utf-8", "backslashreplace")), problem, fix) from e
    try:
        fields = _decode(text)
    except json.JSONDecodeError as e:
        if text.startswith("\ufeff"):
            fix = "remove it (files joined with cat keep theirs)"
            raise BadRow(show_text(text.strip()), "a byte-order mark inside the file", fix) from e
        column = min(e.pos, len(text.rstrip())) + 1
        raise BadRow(show_text(text.strip()), f"not JSON: {e.msg} at column {column}", _ONE_OBJECT) from e
    except RecursionError as e:
        raise BadRow(show_text(text.strip()), "nested too deeply", "write a flat object") from e
    except ValueError as e:  # e.g. a whole number of 5,000 digits
        raise BadRow(show_text(text.strip()), f"not JSON: {e}", _ONE_OBJECT) from e
    if type(fields) is not dict:
        raise BadRow(show_text(text.strip()), "not a JSON object", _ONE_OBJECT)
    return parse_row(fields, fields.get("audio_filepath"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses what json would pass over in silence: of a name that stands twice only the last value is kept."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(show(twice), "this name stands twice in one object", "keep one of them")
    return fields


_decode = json.JSONDecoder(object_pairs_hook=_object).decode
