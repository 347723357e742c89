"""Manifests in tables of text: CSV and TSV with a header, found again by byte offset.

A field that spans lines is read as spreadsheets write it. In TSV quotes are plain characters, as in Common Voice. What
a row may say is the business of `row.py`. Keeps 16 bytes a row."""

import codecs
import csv
import io
import re
from array import array
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from asrbatch.config import SourceOptions
from asrbatch.errors import ManifestError
from asrbatch.formatting import show_text
from asrbatch.manifest.columns import Columns
from asrbatch.manifest.readers.base import LineReader, TextFormat, row_or_error
from asrbatch.manifest.readers.sniff import bare_name
from asrbatch.manifest.readers.text import TextFile
from asrbatch.manifest.row import REFUSED_FIELDS, InvalidRow, Row, invalid_field, parse_row
from asrbatch.manifest.source import ManifestSource
from asrbatch.storage.jsonl import known_head

AUDIO_COLUMNS = ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav")
_DELIMITERS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
# An empty cell says nothing in these; in others it is an empty text.
_NOTHING_WHEN_EMPTY = frozenset(("id", "offset", "duration", "channel", "track", "lang", "prompt", *REFUSED_FIELDS))
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that were no UTF-8
# A record of several lines ends by then, or a quote is open, which would take the whole file into one record: five
# times as much memory holds it.
_MOST_RECORD_BYTES = 32 << 20
_FIX = "quote its fields, and end lines with LF or CRLF, not with CR alone"
csv.field_size_limit(1 << 30)  # the library's own limit is 128 KB, less than a second of audio in a data: URI


class CsvReader(LineReader):
    """The rows of one file.

    Args:
        delimiter: between two fields; a tab means TSV. None goes by the file's name, then by the header.

    Raises:
        ManifestError: there is no header, or not one audio column in it.
    """

    def __init__(self, source: ManifestSource, file: TextFile, delimiter: str | None = None):
        super().__init__(source, file)
        self._lines = array("Q")
        if delimiter is None and bare_name(file.path).endswith((".tsv", ".tab")):
            delimiter = "\t"
        if delimiter is None:
            text = next(file.lines(), b"").decode("utf-8", "replace")
            # By the header alone: texts in the rows hold commas of their own.
            delimiter = max(_DELIMITERS, key=text.count)
        self._dialect: dict[str, Any] = {"delimiter": delimiter, "strict": True}
        if delimiter == "\t":
            # Common Voice writes a lone quote as a character; read as an opening one it would take in the rest of the
            # file.
            self._dialect["quoting"] = csv.QUOTE_NONE
        self._header = self._read_header()
        self._columns = self._choose_columns(source.options)
        self._typed = [name for name in map(self._columns.ours, self._header) if name in _NOTHING_WHEN_EMPTY]

    def rows(self) -> Iterator[Row | InvalidRow]:
        records, end = self._records(), 0
        next(records)  # the header
        for record in records:
            end = record.end
            self._starts.append(record.start)
            self._lines.append(record.first_line)
            yield row_or_error(self._parse, record.values)
        self._starts.append(end)
        self._file.check()

    def row(self, index: int) -> Row:
        return self._parse(self._values(self.text_of(index)))

    def where(self, index: int) -> str:
        return f"{self.source}:{self._lines[index]}"

    def _read_header(self) -> list[str]:
        record = next(self._records(), None)
        if record is None:
            raise ManifestError(f"{self.source}: holds no rows; expected a header and at least one utterance")
        if isinstance(record.values, csv.Error):
            raise ManifestError(f"{self.source}: its header cannot be read: {record.values}; {_FIX}")
        # pandas writes its index as a column without a name.
        names = [name.strip() or f"column_{number}" for number, name in enumerate(record.values, 1)]
        if any(_ESCAPED.search(name) or "\0" in name for name in names):  # a zero: UTF-16 without a byte-order mark
            raise ManifestError(f"{self.source}: its header is not UTF-8; save it as UTF-8")
        return names

    def _choose_columns(self, options: SourceOptions) -> Columns:
        Columns(options).check(self.source, self._header)
        if options.audio_column is None:
            found = [name for name in AUDIO_COLUMNS if name in self._header]
            if len(found) != 1 and "audio_filepath" not in found:
                there = ", ".join(map(show_text, found or self._header))
                none = "no audio column; the first line must be a header"
                problem = "several columns may hold the audio" if found else none
                raise ManifestError(f"{self.source}: {problem} ({there}); name it with --audio-column")
            if "audio_filepath" not in found:
                options = replace(options, audio_column=found[0])
        return Columns(options)

    def _records(self) -> Iterator["_Record"]:
        """All records, the header first. The csv module does not say in which bytes one stands: lines are counted."""
        lines = self._file.lines()
        first_line = next(lines, b"")
        unread = [first_line.removeprefix(codecs.BOM_UTF8)]  # lines to be read before all others, the next one last
        end, number = len(first_line) - len(unread[0]), 1
        taken: list[bytes] = []  # the lines of a record
        while True:
            line = unread.pop() if unread else next(lines, b"")
            if (values := self._plain_values(line)) is not None:
                start, end = end, end + len(line)
                yield _Record(start, end, number, values)
                number += 1
                continue
            unread.append(line)
            taken.clear()
            try:
                values = next(csv.reader(_take_lines(lines, unread, taken), **self._dialect), None)
            except csv.Error:
                # One quote that is not closed may have taken in any number of lines: only the first of them is bad.
                unread += reversed(taken[1:])
                del taken[1:]
                values = self._values(taken[0])
            if values is None:
                return
            start, end = end, end + sum(map(len, taken))
            if values != []:
                yield _Record(start, end, number, values)
            number += len(taken)

    def _plain_values(self, line: bytes) -> list[str] | None:
        """The fields of a line that is a record as it stands; None where the csv module has to look: called for every
        line, it takes a quarter of the time of a scan.
        """
        if (b'"' in line and "quoting" not in self._dialect) or b"\0" in line:
            return None
        text = _decode(line).removesuffix("\n").removesuffix("\r")
        return text.split(self._dialect["delimiter"]) if text and "\r" not in text else None

    def _values(self, data: bytes) -> list[str] | csv.Error:
        """The fields of the one record in some lines, or what is wrong with it."""
        try:
            return next(filter(None, csv.reader(map(_decode, io.BytesIO(data)), **self._dialect)), [])
        except csv.Error as e:
            return e

    def _parse(self, values: list[str] | csv.Error) -> Row:
        if isinstance(values, csv.Error):
            fix = "a quote is not closed, or stands inside a field; double it and quote the field"
            raise InvalidRow("this line", f"not CSV: {values}", fix) from values
        if len(values) != len(self._header):
            fix = "quote fields that hold the delimiter, or add the missing ones"
            raise InvalidRow(f"has {len(values)} fields", f"the header has {len(self._header)}", fix)
        fields: dict[str, Any] = self._columns.rename(dict(zip(self._header, values, strict=True)))
        invalid: InvalidRow | None = None
        # Of texts in ASCII nothing can be wrong: most fields of most rows are.
        for name in self._typed if "".join(values).isascii() else fields:
            try:
                fields[name] = _value(name, fields[name])
            except InvalidRow as e:  # the first is reported; the fields after it are read for the output row
                invalid = invalid or e
        if invalid is not None:
            invalid.fields = {
                name: value for name, value in fields.items() if not (type(value) is str and _ESCAPED.search(value))
            }
            raise invalid
        return parse_row(fields, fields.get("audio_filepath") or None)


def _value(name: str, text: str) -> Any:
    if not text.isascii() and _ESCAPED.search(text):
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise invalid_field(name, shown, "not UTF-8", "write the whole file in UTF-8 (two encodings in one file?)")
    if name not in _NOTHING_WHEN_EMPTY:
        return text
    if not text.strip():
        return None
    if name in ("offset", "duration"):
        if not _NUMBER.fullmatch(text.strip()):
            raise invalid_field(name, text, "must be a number of seconds", "write it like 12.5, or leave it empty")
        return float(text)
    if name in ("channel", "track"):
        if not text.strip().isdecimal() or len(text) > 9:
            fix = f"leave it empty for the {'mean of all channels' if name == 'channel' else 'default track'}"
            raise invalid_field(name, text, "must be a whole number from 0", fix)
        return int(text)
    return text


class _Record(NamedTuple):
    """Bytes [start, end) of a file."""

    start: int
    end: int
    first_line: int
    values: list[str] | csv.Error


def _take_lines(lines: Iterator[bytes], unread: list[bytes], taken: list[bytes]) -> Iterator[str]:
    """The lines of one record, first those that are unread. Raises csv.Error when it is too long."""
    num_bytes = 0
    while num_bytes <= _MOST_RECORD_BYTES:
        line = unread.pop() if unread else next(lines, b"")
        if not line:
            return
        taken.append(line)
        num_bytes += len(line)
        yield _decode(line)
    raise csv.Error("unexpected end of data")


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def is_csv(path: str, head: bytes, options: SourceOptions) -> bool:
    """Whether a text is called a table, or its first line names a column of audio, among others."""
    if bare_name(path).endswith((".csv", ".tsv", ".tab")):
        return known_head(head) is None
    first_line = head.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0].decode("utf-8", "replace")
    names = re.split(r"[,\t;|]", first_line.strip())
    return len(names) > 1 and any(name.strip(' "\r') in (*AUDIO_COLUMNS, options.audio_column) for name in names)


CSV = TextFormat(is_csv, CsvReader)
# Only when it is asked for: a table is recognised by its header, whatever stands between its fields.
TSV = TextFormat(lambda path, head, options: False, partial(CsvReader, delimiter="\t"))
