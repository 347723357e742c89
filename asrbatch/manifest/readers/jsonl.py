"""Manifests in JSON: an object on each line (JSON Lines), or as an element of an array; UTF-8, found again by its byte
offset.

Blank lines are no rows; a byte-order mark at the start and CRLF line ends are accepted. What a row may say is the
business of `row.py`. Keeps 8 bytes a row. Readers of objects that mean something else (lhotse's cuts, NeMo's tars)
build on `JsonlReader`.
"""

import codecs
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from asrbatch.config import SourceOptions
from asrbatch.formatting import show, show_text
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import LineReader, TextFormat, row_or_error
from asrbatch.manifest.readers.sniff import HEAD_BYTES, JSONL_ENDINGS, bare_name
from asrbatch.manifest.readers.text import MOST_ROW_BYTES, TextFile
from asrbatch.manifest.row import MOST_LEVELS, InvalidRow, Row, parse_row
from asrbatch.manifest.source import ManifestSource
from asrbatch.storage.jsonl import elements, is_array, is_deeper, known_head

_ONE_OBJECT = "write one JSON object per line"
_ONE_ELEMENT = "write JSON objects, with a comma between two"


class JsonlReader(LineReader):
    """The rows of one file."""

    def __init__(self, source: ManifestSource, file: TextFile):
        super().__init__(source, file)
        self._columns = Columns(source.options)
        self._is_array = is_array(file.pread(HEAD_BYTES, 0))
        self.is_plain = not self._columns.given and not self._is_array
        self._blank_before = array("Q")  # for every blank line, how many rows stand before it
        self._ends = array("Q")  # of every element of an array; of a line it is where the next one starts

    def rows(self) -> Iterator[Row | InvalidRow]:
        for text in self.texts():
            yield row_or_error(self._parse, text)

    def texts(self) -> Iterator[bytes]:
        """The object of every row once, in order; again by `text_of`."""
        yield from self._elements() if self._is_array else self._lines()
        self._file.check()

    def _lines(self) -> Iterator[bytes]:
        end = 0
        for line in self._file.lines():
            start, end = end, end + len(line)
            # Windows editors write one; a row would otherwise begin with an invisible character.
            if start == 0 and line.startswith(codecs.BOM_UTF8):
                line, start = line[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
            if not line or line.isspace():
                self._blank_before.append(len(self._starts))
                continue
            self._starts.append(start)
            yield line
        self._starts.append(end)

    def _elements(self) -> Iterator[bytes]:
        for start, data in elements(self.source, self._file.pread, MOST_ROW_BYTES):
            self._starts.append(start)
            self._ends.append(start + len(data))
            yield data

    def row(self, index: int) -> Row:
        return self._parse(self.text_of(index))

    def line(self, index: int) -> bytes | None:
        return None if self._is_array else self.text_of(index).partition(b"\n")[0] + b"\n"

    def where(self, index: int) -> str:
        if self._is_array:  # as jq finds it; most arrays are a single line
            return f"{self.source}[{index}]"
        return f"{self.source}:{index + 1 + bisect_right(self._blank_before, index)}"

    def _end_of(self, index: int) -> int:
        return self._ends[index] if self._is_array else super()._end_of(index)

    def _fields(self, line: dict[str, Any]) -> dict[str, Any]:
        """A row's fields, where lines are not rows of ours. Raises InvalidRow."""
        return line

    def _parse(self, line: bytes) -> Row:
        if self._is_array and not line.strip():
            raise InvalidRow("[…,]", "no row stands behind a comma", "remove the comma")
        fields = parse_object(line, _ONE_ELEMENT if self._is_array else _ONE_OBJECT)
        if _is_table(fields):
            fix = 'write it with to_json(path, orient="records", lines=True)'
            raise InvalidRow(show_text(line.decode().strip()), "a whole table in one object, as pandas writes it", fix)
        fields = self._columns.rename(self._fields(fields))
        return parse_row(fields, fields.get("audio_filepath"))


def parse_object(line: bytes, one_object: str = _ONE_OBJECT) -> dict[str, Any]:
    """One line of the file, or another text, as an object.

    Args:
        one_object: what to do about text that is none.

    Raises:
        InvalidRow: it is none.
    """
    try:
        # Strict: a byte that is replaced would change a path, or a reference text.
        text = line.decode()
    except UnicodeDecodeError as e:
        problem = f"not UTF-8: byte 0x{line[e.start]:02x} at position {e.start + 1} of the line"
        fix = "write the whole file in UTF-8 (two encodings in one file?)"
        raise InvalidRow(show_text(line.strip().decode("utf-8", "backslashreplace")), problem, fix) from e
    # Not by Python's own limit, which depends on who calls. Counted first: almost no row has as many brackets.
    if line.count(b"[") + line.count(b"{") > MOST_LEVELS and is_deeper(line, MOST_LEVELS + 1):
        raise InvalidRow(show_text(text.strip()), f"nested more than {MOST_LEVELS} levels deep", "write a flat object")
    try:
        fields = _decode(text)
    except json.JSONDecodeError as e:
        if text.startswith("\ufeff"):
            fix = "remove it (files joined with cat keep theirs)"
            raise InvalidRow(show_text(text.strip()), "a byte-order mark inside the file", fix) from e
        if "\0" in text[:4]:  # every other byte of what is in ASCII
            problem = "looks like UTF-16 without a byte-order mark"
            raise InvalidRow(show_text(text.strip()), problem, "save the file as UTF-8") from e
        # Not behind the end of the line: that is where an object that is not closed is noticed.
        column = min(e.pos, len(text.rstrip())) + 1
        raise InvalidRow(show_text(text.strip()), f"not JSON: {e.msg} at column {column}", one_object) from e
    except ValueError as e:  # e.g. a whole number of 5,000 digits
        raise InvalidRow(show_text(text.strip()), f"not JSON: {e}", one_object) from e
    if type(fields) is not dict:
        raise InvalidRow(show_text(text.strip()), "not a JSON object", one_object)
    return fields


def _is_table(fields: dict[str, Any]) -> bool:
    """Whether it is what pandas' `to_json` writes unless told otherwise: by columns, or by rows, numbered from 0; or by
    its `orient` split or table.
    """
    if "data" in fields and set(fields) in ({"columns", "index", "data"}, {"schema", "data"}):
        return True
    if not fields or not all(type(value) is dict for value in fields.values()):
        return False
    return "0" in fields or all("0" in value for value in fields.values())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses what json would pass over in silence: of a name that stands twice only the last value is kept."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRow(show(twice), "this name stands twice in one object", "keep one of them")
    return fields


_decode = json.JSONDecoder(object_pairs_hook=_object).decode


def is_jsonl(path: str, head: bytes, options: SourceOptions) -> bool:
    """Whether a text is, or is meant to be, JSON Lines or an array of objects."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    # A file that is called JSON Lines and begins otherwise has a bad first line; report it with the other bad ones.
    called_jsonl = bare_name(path).endswith(JSONL_ENDINGS) and not known_head(head)
    return not start or start.startswith(b"{") or is_array(head) or called_jsonl


JSONL = TextFormat(is_jsonl, JsonlReader)
