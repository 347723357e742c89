"""Every way in which the files of a chunk can be wrong, and what `merge-shards` is to say of it."""

import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asrbatch.storage.paths import RunPaths, chunk_path

NUM_CHUNKS = 3


def chunk(output: Path, chunk_id: int, num_chunks: int = NUM_CHUNKS) -> RunPaths:
    return RunPaths(chunk_path(output, chunk_id, num_chunks))


def lines_of(paths: RunPaths) -> list[bytes]:
    return paths.rows.read_bytes().splitlines(keepends=True)


def change_lines(paths: RunPaths, change) -> None:
    lines = lines_of(paths)
    change(lines)
    paths.rows.write_bytes(b"".join(lines))


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def vouch(paths: RunPaths) -> None:
    """Makes the completion mark fit the rows, as somebody who mends files by hand would."""
    data = paths.rows.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    change_json(paths.done, lambda mark: mark.update(sha256=sha256, rows=data.count(b"\n"), bytes=len(data)))


def delete(paths: RunPaths) -> None:
    for path in (paths.rows, paths.record, paths.done):
        path.unlink()


def edit(paths: RunPaths, old: bytes, new: bytes) -> None:
    """One change in the second row."""

    def change(lines: list[bytes]) -> None:
        assert old in lines[1]
        lines[1] = lines[1].replace(old, new, 1)

    change_lines(paths, change)


def edit_first(paths: RunPaths, pattern: bytes, new: bytes) -> None:
    """One change in the first row."""
    change_lines(paths, lambda lines: lines.insert(0, re.sub(pattern, new, lines.pop(0), count=1)))


def tear(paths: RunPaths) -> None:
    paths.done.unlink()
    os.truncate(paths.rows, paths.rows.stat().st_size - 10)


def kill(paths: RunPaths) -> None:
    """As a session leaves its files that was killed yesterday."""
    tear(paths)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    change_json(
        paths.record, lambda record: record["sessions"][-1].update(outcome=None, ended=None, heartbeat=yesterday)
    )


def copy(paths: RunPaths, to: RunPaths, *names: str) -> None:
    for name in names:
        shutil.copy(getattr(paths, name), getattr(to, name))


def swap_ids(paths: RunPaths) -> None:
    """Two rows, each under the other's id; nothing else is wrong."""

    def change(lines: list[bytes]) -> None:
        first, second = (json.loads(line) for line in lines[:2])
        first["id"], second["id"] = second["id"], first["id"]
        lines[:2] = [json.dumps(row).encode() + b"\n" for row in (first, second)]

    change_lines(paths, change)
    vouch(paths)


def exchange(one: RunPaths, other: RunPaths) -> None:
    """A row of each in the other's file, and the marks mended."""
    mine, theirs = lines_of(one), lines_of(other)
    mine[0], theirs[0] = theirs[0], mine[0]
    one.rows.write_bytes(b"".join(mine))
    other.rows.write_bytes(b"".join(theirs))
    vouch(one)
    vouch(other)


DAMAGE = {
    # what happens to the files of chunks [0, 1, 2]; kinds found; what is said; chunks to run again; those with
    # --overwrite
    "a chunk is missing": (
        lambda c: delete(c[1]),
        {"missing"},
        r"chunk 1: not there; \d of its \d rows missing",
        [1],
        [],
    ),
    "its rows are gone": (
        lambda c: c[1].rows.unlink(),
        {"damaged"},
        r"chunk 1: out\.chunk-00001-of-00003\.jsonl: is gone, although .*done\.json says",
        [1],
        [1],
    ),
    "all but its rows": (
        lambda c: (c[1].rows.unlink(), c[1].done.unlink()),
        {"missing"},
        r"chunk 1: .* rows missing",
        [1],
        [],
    ),
    "no mark": (
        lambda c: c[2].done.unlink(),
        {"missing"},
        r"chunk 2: ended without its completion mark; 0 of its \d rows",
        [2],
        [],
    ),
    "torn": (
        lambda c: tear(c[0]),
        {"missing"},
        r"chunk 0: .*; 1 of its \d rows missing: index \d+ \(id u\d+\)$",
        [0],
        [],
    ),
    "killed": (lambda c: kill(c[0]), {"missing"}, r"chunk 0: killed, last sign of life 20.*; 1 of its", [0], []),
    "torn but marked": (
        lambda c: os.truncate(c[0].rows, c[0].rows.stat().st_size - 10),
        {"damaged", "missing"},
        r"another SHA-256, \d rows instead of \d$",
        [0],
        [0],
    ),
    "a letter edited": (
        lambda c: edit(c[2], b"beep", b"boop"),
        {"damaged"},
        r"chunk 2: out\.chunk-00002-of-00003\.jsonl does not match its completion mark: another SHA-256$",
        [2],
        [2],
    ),
    "a line deleted": (
        lambda c: change_lines(c[2], lambda lines: lines.pop(1)),
        {"damaged", "missing"},
        r"chunk 2: 1 of its \d rows missing: index \d+ \(id u\d+\)$",
        [2],
        [2],
    ),
    "a line deleted, the mark mended": (
        lambda c: (change_lines(c[2], lambda lines: lines.pop(1)), vouch(c[2])),
        {"missing"},
        r"chunk 2: 1 of its \d rows missing: index \d+ \(id u\d+\)$",
        [2],
        [2],
    ),
    "a line doubled": (
        lambda c: change_lines(c[2], lambda lines: lines.insert(3, lines[0])),
        {"damaged", "doubled"},
        r"out\.chunk-00002-of-00003\.jsonl:4: index \d+ \(id u\d+\) is at line 1 already$",
        [2],
        [2],
    ),
    "a line doubled, the mark mended": (
        lambda c: (change_lines(c[2], lambda lines: lines.append(lines[1])), vouch(c[2])),
        {"doubled"},
        r"jsonl:\d: index \d+ \(id u\d+\) is at line 2 already$",
        [2],
        [2],
    ),
    "another id": (
        lambda c: (edit_first(c[0], rb'"id": "u\d+"', b'"id": "x"'), vouch(c[0])),
        {"foreign", "missing"},
        r"out\.chunk-00000-of-00003\.jsonl:1: index (\d+) \(id x\): row \1 has id u\1$",
        [0],
        [0],
    ),
    "two ids swapped": (
        lambda c: swap_ids(c[1]),
        {"foreign", "missing"},
        r"jsonl:2: index (\d+) \(id u\d+\): row \1 has id u\1$",
        [1],
        [1],
    ),
    "an index beyond": (
        lambda c: (edit_first(c[0], rb'"index": \d+', b'"index": 14'), vouch(c[0])),
        {"foreign", "missing"},
        r"index 14 \(id u\d+\): the manifest has 14 rows$",
        [0],
        [0],
    ),
    "an index beyond all": (
        lambda c: edit_first(c[0], rb'"index": \d+', b'"index": -1' + b"0" * 40),
        {"foreign", "missing", "damaged"},
        r"index -10+ \(id u\d+\): the manifest has 14 rows$",
        [0],
        [0],
    ),
    "rows exchanged": (
        lambda c: exchange(c[0], c[1]),
        {"foreign", "missing"},
        r"index \d+ \(id u\d+\) belongs to chunk 1$",
        [0, 1],
        [0, 1],
    ),
    "a line that is no row": (
        lambda c: change_lines(c[0], lambda lines: lines.insert(1, b"hello\n")),
        {"damaged"},
        r"chunk 0: out\.chunk-00000-of-00003\.jsonl:2: this line is not an output row",
        [0],
        [0],
    ),
    "another chunk's rows": (
        lambda c: copy(c[2], c[0], "rows"),
        {"damaged", "foreign", "doubled", "missing"},
        r"index \d+ \(id u\d+\): 2 times, in the files of chunks 0, 2$",
        [0],
        [0],
    ),
    "all files another chunk's": (
        lambda c: copy(c[2], c[0], "rows", "record", "done"),
        {"damaged"},
        r"chunk 0: out\.chunk-00000-of-00003\.run\.json: is the record of chunk 2 of 3; was it renamed\?$",
        [0],
        [0],
    ),
    "no record": (
        lambda c: c[1].record.unlink(),
        {"damaged"},
        r"chunk 1: .*run\.json is not there, so it is unknown",
        [1],
        [1],
    ),
    "a torn record": (
        lambda c: c[1].record.write_text("{"),
        {"damaged"},
        r"chunk 1: .*run\.json: not valid JSON",
        [1],
        [1],
    ),
    "an edited record": (
        lambda c: change_json(c[1].record, lambda record: record.update(sessions=[7])),
        {"damaged"},
        r"chunk 1: .*run\.json: is not what asrbatch writes; it was edited$",
        [1],
        [1],
    ),
    "a torn mark": (
        lambda c: c[1].done.write_text("{}"),
        {"damaged"},
        r"chunk 1: .*done\.json: has no rows, statuses",
        [1],
        [1],
    ),
    "another run's mark": (
        lambda c: change_json(c[1].done, lambda mark: mark.update(fingerprint="ab")),
        {"damaged"},
        r"chunk 1: .*done\.json: belongs to another run",
        [1],
        [1],
    ),
    "a chunk id beyond": (
        lambda c: shutil.copy(c[0].rows, chunk_path(c[0].rows.with_name("out.jsonl"), 7, 3)),
        {"leftover"},
        r"out\.chunk-00007-of-00003\.jsonl and what belongs to it: there is no chunk 7 of 3$",
        [],
        [],
    ),
}
