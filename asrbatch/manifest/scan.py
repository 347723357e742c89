"""The one pass over a manifest at its opening: every row checked, the ids made and proved unique, the digest taken.

Knows rows only through a `Reader`, and nothing about file formats. Keeps some 30 bytes a row: what it learns about a
million rows fits where a few thousand of the rows would.

How ids stay exact without being kept: a row without an id gets a 64-bit hash, and whether that hash occurred before is
looked up in sorted arrays of such hashes, block by block, so that repeats can be numbered (and the digest taken) in the
same pass. Of every final id 8 bytes are kept (Python's `hash`, so they mean nothing to another process). Rows that
share those are read again and their ids compared, so that two ids are called equal only if they are: this finds ids
given twice, and a given id that happens to equal a made one.

What is wrong with rows is added up in `issues.py`.
"""

import hashlib
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan

import numpy as np

from asrbatch.errors import ManifestError
from asrbatch.formatting import show
from asrbatch.manifest.issues import IssueCounts, OnIssue
from asrbatch.manifest.readers.base import Reader
from asrbatch.manifest.row import InvalidRow, Row, canonical_row, canonical_tail, of_row
from asrbatch.types import Utterance

Check = Callable[[Utterance], str | None]
Observe = Callable[[int, int, float | None], None]

_BLOCK_ROWS = 8192
_OBSERVED_ROWS = 1024
_GIVEN_TWICE = "id: given twice"


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one pass over a manifest found.

    Attributes:
        num_rows: rows; blank lines are none.
        durations_s: float32 [num_rows], seconds; NaN where the row does not say. Read-only.
        digest: SHA-256 (hex) over the `canonical_row` of every row, in order.
        problems: how many of each kind; empty unless bad rows are to be failed rows.
        examples: (row, problem) of the first rows of each kind.
    """

    num_rows: int
    durations_s: np.ndarray
    digest: str
    problems: Counter[str]
    examples: dict[str, list[tuple[int, str]]]


class Ids:
    """The final id of every row, kept as 8 bytes a row, and a number for the few that are repeats."""

    def __init__(self) -> None:
        self.keys = array("q")  # hash(final id) per row
        self.ordinals: dict[int, int] = {}  # by row: 2 for the second row with that hash, and so on
        self.bad = array("Q")  # rows that are to fail, ascending
        self._given_twice: dict[int, tuple[int, str]] = {}

    def is_bad(self, index: int) -> bool:
        at = bisect_left(self.bad, index)
        return at < len(self.bad) and self.bad[at] == index

    def add_given_twice(self, index: int, first: int, row_id: str) -> None:
        """Row `index` gets an id of its own in place of that of row `first`."""
        # Its number makes it unique, and the same in every process that reads this manifest.
        own = f"{row_id}~row-{index}"
        self._given_twice[index] = (first, own)
        self.keys[index] = hash(own)
        if not self.is_bad(index):
            insort(self.bad, index)

    def first_with_id_of(self, index: int) -> int | None:
        """The row that has the id which row `index` was given; None where its id is its own."""
        return self._given_twice[index][0] if index in self._given_twice else None

    def final(self, index: int, row: Row) -> str:
        """The id of a row as the scan made it."""
        if index in self._given_twice:
            return self._given_twice[index][1]
        return numbered_id(row.id, self.ordinals[index]) if index in self.ordinals else row.id


def numbered_id(row_hash: str, ordinal: int) -> str:
    return f"{row_hash}-{ordinal}"


def make_utterance(reader: Reader, index: int, row_id: str, row: Row) -> Utterance:
    audio = reader.audio(index, row)
    timing = row.offset_s, row.duration_s, row.channel
    return Utterance(index, row_id, audio, *timing, row.lang, row.prompt, row.fields, row.track)


def judge(check: Check, utterance: Utterance) -> str | None:
    """What a check says of a row; what it raises over one is wrong with that row."""
    try:
        return of_row(check, utterance)
    except InvalidRow as invalid:
        return str(invalid)


def scan_rows(
    reader: Reader, check: Check | None, *, keep_bad: bool, on_issue: OnIssue | None, observe: Observe | None
) -> tuple[Scan, Ids]:
    """Read every row once.

    Args:
        reader: the manifest's format.
        check: called with every good row; returns None, or `value: problem; fix` for a row that this run cannot do.
            Ids of rows that repeat are not numbered yet when it is called.
        keep_bad: give bad rows a place and an id, in place of refusing the manifest.
        on_issue: called with every problem; rows ascend, but for ids that are given twice, which come last.
        observe: called now and then with (rows read, problems so far, share of the manifest that was read; None where
            nobody knows).

    Raises:
        ManifestError: there are no rows, or bad ones: their number by kind, and the first 20.
    """
    ids, durations_s = Ids(), array("f")
    digest = _Digest(ids)
    found = IssueCounts(reader.source, reader.where, on_issue)
    for index, row in enumerate(reader.rows()):
        # Not for every row: who observes may draw on a terminal.
        if observe is not None and index % _OBSERVED_ROWS == 0:
            observe(index, found.number, reader.share_read(index))
        problem, kind = None, "the run cannot do it"
        if type(row) is InvalidRow:
            # What stands in its place keeps id and digest, so that rows after it have the same numbers in every run.
            problem, kind, row = str(row), row.kind, row.row()
        elif check is not None:
            problem = judge(check, make_utterance(reader, index, row.id, row))
        durations_s.append(nan if row.duration_s is None else row.duration_s)
        digest.add(row)
        if problem is not None:
            found.add(index, None if row.hashed else row.id, kind, problem)
            if keep_bad:
                ids.bad.append(index)
    digest.flush()

    num_rows = len(ids.keys)
    if num_rows == 0:
        raise ManifestError(f"{reader.source}: holds no rows; expected at least one utterance")
    # Last, because a given id may equal one that is made for a later row.
    for index, first, row_id in _find_repeated_ids(reader, ids):
        found.add(index, row_id, _GIVEN_TWICE, repeated_id(reader, row_id, first))
        if keep_bad:
            ids.add_given_twice(index, first, row_id)
    if observe is not None:
        observe(num_rows, found.number, 1.0)
    if found.number and not keep_bad:
        raise ManifestError(*found.report(num_rows))

    seconds = np.frombuffer(durations_s, np.float32)
    seconds.flags.writeable = False
    return Scan(num_rows, seconds, digest.hexdigest(), found.kinds, found.examples), ids


def repeated_id(reader: Reader, row_id: str, first: int) -> str:
    fix = "ids must be unique (a row without one gets one made)"
    return f"id = {show(row_id)}: {reader.where(first)} has it already; {fix}"


class _Digest:
    """Rows waiting for their final ids; flushed by the block, because repeats are cheap to find in arrays only."""

    def __init__(self, final_ids: Ids):
        self._final_ids, self._sha, self._seen = final_ids, hashlib.sha256(), SeenHashes()
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._tails: list[str] = []
        self._hashed: list[int] = []  # positions in _ids

    def add(self, row: Row) -> None:
        if row.hashed:
            self._hashed.append(len(self._ids))
        self._ids.append(row.id)
        self._tails.append(canonical_tail(row))
        # By the block: a call of numpy costs about as much for one hash as for hundreds.
        if len(self._ids) == _BLOCK_ROWS:
            self.flush()

    def flush(self) -> None:
        ids = self._final_ids
        hashes = np.array([int(self._ids[at], 16) for at in self._hashed], np.uint64)
        before = self._seen.add(hashes)
        for which in np.flatnonzero(before):
            at, ordinal = self._hashed[which], int(before[which]) + 1
            self._ids[at] = numbered_id(self._ids[at], ordinal)
            ids.ordinals[len(ids.keys) + at] = ordinal
        ids.keys.extend(map(hash, self._ids))
        self._sha.update("".join(map(canonical_row, self._ids, self._tails)).encode("ascii"))
        self._clear()

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


class SeenHashes:
    """A bag of 64-bit numbers at 8 bytes each: sorted arrays, each more than twice as long as the next one."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Add uint64 [n]. Returns int64 [n]: how often that number came before, in this call or an earlier one."""
        # Stable: of equal hashes in one block the first row is the one without a number.
        order = np.argsort(numbers, kind="stable")
        run = numbers[order]
        before = np.arange(len(run)) - np.searchsorted(run, run)  # in this call
        for older in self._runs:
            before += np.searchsorted(older, run, side="right") - np.searchsorted(older, run)
        # Merged as in a log-structured tree: each number is copied a few times, not once for every block.
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate((self._runs.pop(), run))
            run.sort(kind="stable")
        if len(run):
            self._runs.append(run)
        in_order = np.empty_like(before)
        in_order[order] = before
        return in_order


def _find_repeated_ids(reader: Reader, ids: Ids) -> Iterator[tuple[int, int, str]]:
    """(row, the first row with the same id, that id) for every row whose id came before."""
    keys = np.frombuffer(ids.keys, np.int64)
    ordered = np.sort(keys)
    # Equal hashes of ids: real repeats, or one pair in 2**64 by chance. Both are read again below.
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    firsts: dict[str, int] = {}
    for index in map(int, np.flatnonzero(np.isin(keys, shared)) if len(shared) else ()):
        try:
            row = of_row(reader.row, index)
        except InvalidRow as bad:  # reported already; what stands in its place has an id all the same
            row = bad.row()
        row_id = ids.final(index, row)
        first = firsts.setdefault(row_id, index)
        if first != index:
            yield index, first, row_id
