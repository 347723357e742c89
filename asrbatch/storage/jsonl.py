"""JSON objects of one or several files, one a line: read once in order, and after that any of them at any time.

Keeps 12 bytes a line. Knows nothing of what the objects say.

Brackets of JSON: where each element of an array stands, as `to_json` of data sets and lhotse write them, in one pass
that keeps the bytes of one element; and how deep a text is nested.

What people give by mistake instead of text, told by its first bytes, and what to do about it.
"""

import json
import os
import re
import stat
import sys
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asrbatch.config import descriptor_of
from asrbatch.errors import ManifestError, OutputError, UsageError
from asrbatch.storage.files import STANDARD_INPUT, copy_of_stream

# Told by the first bytes and not by the name, which people change without packing or unpacking anything.
KNOWN_HEADS = {
    b"\x1f\x8b": ("gzip data", "unpack it first"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("zstandard data", "unpack it first"),
    b"BZh": ("bzip2 data", "unpack it first"),
    b"\xfd7zXZ": ("xz data", "unpack it first"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"ARROW1": ("an Arrow file", "transcribe reads it as a manifest, from a file of its own"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "transcribe reads it as a manifest, from a file of its own"),
    b"RIFF": ("an audio file", "write a manifest that names it"),
    b"fLaC": ("an audio file", "write a manifest that names it"),
    b"OggS": ("an audio file", "write a manifest that names it"),
    b"ID3": ("an audio file", "write a manifest that names it"),
}


def known_head(head: bytes) -> tuple[str, str] | None:
    """What the file is and what to do; None where its first bytes say nothing."""
    return next((what for magic, what in KNOWN_HEADS.items() if head.startswith(magic)), None)


_READ_BYTES = 8 * 2**20
_HEAD_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 18
# Up to the next bracket (and comma) that is no part of a string. Possessive: a string that is not closed ends the match
# in front of it, since its end may be in the next block.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_ELEMENT = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
# Python reads no longer number from text, because that takes time with the square of its length.
_MOST_DIGITS = sys.get_int_max_str_digits()


class JsonLines:
    """The objects of some files, numbered from 0 through all of them. Blank lines are none. `-` is standard input.

    Attributes:
        torn: how many of the files end in a part of an object, which was left out.

    Raises:
        UsageError: a file cannot be opened, is a folder, is packed, or is one JSON array.
    """

    def __init__(self, paths: Sequence[Path]):
        # As messages call them.
        self._paths = [STANDARD_INPUT if descriptor_of(str(path)) == 0 else str(path) for path in paths]
        self._fds = []
        for path in paths:
            try:
                # Open for as long as the object lives: a file that is replaced meanwhile is still read as it was.
                self._fds.append(_open(path))
                weakref.finalize(self, os.close, self._fds[-1])
                head = os.pread(self._fds[-1], _HEAD_BYTES, 0)
            except OSError as e:  # a folder can be opened, and not be read
                fix = "give a rows file of transcribe or merge-shards, or other JSON Lines"
                raise UsageError(f"{path}: {e.strerror}; {fix}") from e
            if known := known_head(head):
                raise UsageError(f"{path}: is {known[0]}, not JSON Lines; {known[1]}")
            if is_array(head):
                fix = "write each of its objects on a line of its own"
                raise UsageError(f"{path}: is one JSON array, not JSON Lines; {fix}")
        self.torn = 0
        # Of each object: where it stands in its file. Of each file: the number of its first object.
        self._starts, self._lengths = array("Q"), array("I")
        self._firsts: list[int] = []

    def scan(self) -> Iterator[dict[str, Any]]:
        """Every object, in order; once.

        Raises:
            OutputError: a line is none, and no part of one at the end of a file.
        """
        for path, fd in zip(self._paths, self._fds, strict=True):
            self._firsts.append(len(self._starts))
            end = 0
            with open(fd, "rb", _READ_BYTES, closefd=False) as lines:
                lines.seek(0)  # descriptors of one stream have one place
                for number, line in enumerate(lines, 1):
                    start, end = end, end + len(line)
                    if line.isspace():
                        continue
                    try:
                        row = _decode(line)
                    except ValueError as e:
                        if not line.endswith(b"\n") and line.removeprefix(_BOM).lstrip().startswith(b"{"):
                            self.torn += 1
                            break
                        raise OutputError(f"{path}:{number}: {e}; correct the line, or leave it out") from e
                    self._starts.append(start)
                    self._lengths.append(len(line))
                    yield row

    def read(self, index: int) -> dict[str, Any]:
        """Object `index`. Raises ValueError when it is not there any more."""
        return _decode(os.pread(self._fds[self._file(index)], self._lengths[index], self._starts[index]))

    def where(self, index: int) -> str:
        """File and line; lines are counted anew, because only messages need them."""
        file = self._file(index)
        number, left = 1, self._starts[index]
        with open(self._fds[file], "rb", _READ_BYTES, closefd=False) as lines:
            lines.seek(0)
            while left and (block := lines.read(min(_READ_BYTES, left))):
                number, left = number + block.count(b"\n"), left - len(block)
        return f"{self._paths[file]}:{number}"

    def _file(self, index: int) -> int:
        return bisect_right(self._firsts, index) - 1


def _open(path: Path) -> int:
    """A descriptor of a file, or of all that comes through a pipe that the process was given: `-`, `/dev/fd/63`.

    Raises:
        OSError: it cannot be opened.
        UsageError: it is a pipe with a name.
    """
    descriptor = descriptor_of(str(path))
    if descriptor is not None:
        return copy_of_stream(str(path), descriptor)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would wait for somebody to write
        raise UsageError(f"{path}: is not a regular file; write what comes through it to a file")
    return os.open(path, os.O_RDONLY)


def is_array(head: bytes) -> bool:
    """Whether a text that begins so is an array of objects, or one without elements."""
    start = head.removeprefix(_BOM).lstrip()
    return start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b"]")


def elements(name: str, pread: Callable[[int, int], bytes], most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(place, bytes) of every element, in order, with the white space around it. Arrays may follow each other, as `cat`
    joins them. What is no JSON between two commas is an element all the same.

    Args:
        name: of the file, for messages.
        pread: so many bytes of it, from a place on.
        most_bytes: of one element.

    Raises:
        ManifestError: an array is not closed, something else stands behind one, or an element is too long.
    """
    # `data` are the bytes from `base` on; those before `at` have been looked at, an element began at `start`.
    data, base, at, start, depth = b"", 0, 0, 0, 0
    if pread(len(_BOM), 0) == _BOM:
        base = len(_BOM)
    num_elements = 0  # of the array at hand: `[]` has none, `[{}, ]` a bad one behind its comma
    while block := pread(max(_BLOCK_BYTES, len(data) - start), base + len(data)):
        data, base, at, start = data[start:] + block, base + start, at - start, 0
        if len(data) - len(block) > most_bytes:
            fix = "is a quote or bracket not closed?"
            raise _problem(name, base, f"a row of more than {most_bytes} bytes", fix)
        while (end := _plain_until(data, at, depth > 1)) < len(data):
            mark = data[end : end + 1]
            if mark == b'"':
                break
            if depth == 0 and (mark != b"[" or data[start:end].strip()):
                raise _problem(name, base + start, "something other than an array stands here", "remove it")
            if mark in b"[{":
                depth += 1
            elif mark in b"]}":
                depth -= 1
            if depth == 0 and mark != b"]":
                raise _problem(name, base + end, "the array is closed by a }", "put a ] there")
            if (depth == 1 and mark == b",") or depth == 0:
                element = data[start:end]
                if num_elements or mark == b"," or element.strip():
                    yield base + start, element
                num_elements = num_elements + 1 if depth else 0
            at = end + 1
            if depth == 0 or (depth == 1 and mark in b"[,"):
                start = at
        at = end
    if depth:
        raise _problem(name, base + start, "the array that goes on here is not closed", "is it cut off? copy it again")
    if data[start:].strip():
        raise _problem(name, base + start, "something other than an array stands here", "remove it")


def is_deeper(text: bytes, levels: int) -> bool:
    """Whether brackets stand in each other more than so many levels deep."""
    depth = at = 0
    while (end := _plain_until(text, at, True)) < len(text) and depth <= levels:
        if (mark := text[end]) == ord('"'):
            break
        depth += 1 if mark in b"[{" else -1
        at = end + 1
    return depth > levels


def _plain_until(text: bytes, at: int, is_inside: bool) -> int:
    """Where the next bracket stands, or string that is not closed, or comma of the array itself."""
    match = (_INSIDE if is_inside else _ELEMENT).match(text, at)
    return match.end() if match else at


def _problem(name: str, place: int, problem: str, fix: str) -> ManifestError:
    return ManifestError(f"{name}: byte {place}: {problem}; {fix}")


def _decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as e:
        raise ValueError(f"not JSON ({e.msg})") from e
    except UnicodeDecodeError as e:
        raise ValueError("not UTF-8") from e
    except ValueError as e:  # what is left is Python's own limit, which keeps long numbers from taking minutes
        raise ValueError(f"a number of more than {_MOST_DIGITS} digits") from e
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if type(row) is not dict:
        raise ValueError("not a JSON object")
    return row
