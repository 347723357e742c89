"""Brackets of JSON: where each element of an array stands, in one pass, and how deep a text is nested.

Arrays of objects are what `to_json` of data sets and lhotse write. Keeps the bytes of one element, not of the array.
Knows only brackets, commas and strings; what stands in an element is the business of whoever reads it.
"""

import codecs
import re
from collections.abc import Callable, Iterator

from asrbatch.errors import ManifestError

_BLOCK_BYTES = 1 << 18
# Up to the next bracket (and comma) that is no part of a string. Possessive: a string that is not closed ends the match
# in front of it, since its end may be in the next block.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_ELEMENT = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)


def is_array(head: bytes) -> bool:
    """Whether a text that begins so is an array of objects, or one without elements."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
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
    if pread(len(codecs.BOM_UTF8), 0) == codecs.BOM_UTF8:
        base = len(codecs.BOM_UTF8)
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
