"""The rows file against real deaths: cut at every byte, killed at every step, out of space; nothing lost, nothing
twice.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from output_rows import big_rows, failed, row
from processes import die_at

from asrbatch.errors import OutputError
from asrbatch.storage.journal import Journal

AWKWARD = [
    "plain",
    "zwei Wörter",
    "line\u2028separator\u2029",
    "null\x00 tab\t\r\n",
    "half \ud83d pair",
    "👍🏽",
    '"\\"',
    "",
]


def write_all(path: Path, rows: list[dict], num_rows: int | None = None, **options) -> Journal:
    """Opens, writes what is not there yet, closes."""
    journal = Journal(path, num_rows or len(rows), **options)
    for each in rows:
        if not journal.finished[each["index"]]:
            journal.write(each)
    journal.close()
    return journal


def read(path: Path) -> list[dict]:
    """Strictly: every line complete, UTF-8, JSON."""
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line.decode()) for line in data.split(b"\n")[:-1]]


def by_index(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda each: each["index"])


# A cut anywhere


def test_cut_at_every_byte_of_the_last_row(tmp_path):
    rows = [row(2, "Wörter"), failed(0), row(1, "half \ud83d, line\u2028end 👍🏽")]
    whole = tmp_path / "whole.jsonl"
    sha256 = write_all(whole, rows).sha256
    data = whole.read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    path = tmp_path / "rows.jsonl"
    for cut in range(last, len(data) + 1):
        path.write_bytes(data[:cut])
        journal = Journal(path, 3)
        there = cut == len(data)
        assert list(journal.finished) == [1, there, 1]
        assert (journal.tally.rows, journal.tally.failed) == (2 + there, 1)
        assert path.read_bytes() == data[: cut if there else last]
        if not there:
            journal.write(rows[2])
        journal.close()
        assert path.read_bytes() == data
        assert journal.sha256 == sha256


texts = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(), max_size=30))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), order=st.permutations(range(6)), texts=st.lists(texts, min_size=6, max_size=6))
def test_cut_at_any_byte_of_the_file(data, order, texts):
    rows = [failed(i, "too_long") if i == 5 else row(i, texts[i], flags=["empty"] * (not texts[i])) for i in order]
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder, "whole.jsonl"), Path(folder, "rows.jsonl")
        uninterrupted = write_all(whole, rows)
        content = whole.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        complete = rows[: content[:cut].count(b"\n")]

        journal = Journal(path, 6)
        assert {i for i in range(6) if journal.finished[i]} == {each["index"] for each in complete}
        assert journal.tally.rows == len(complete)
        assert read(path) == complete
        journal.close()

        resumed = write_all(path, data.draw(st.permutations(rows)))
        assert by_index(read(path)) == by_index(rows)
        assert resumed.tally == uninterrupted.tally
        assert resumed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_file_and_an_empty_one_hold_no_rows(tmp_path):
    for path in (tmp_path / "absent.jsonl", tmp_path / "empty.jsonl"):
        if "empty" in path.name:
            path.touch()
        journal = Journal(path, 2)
        assert (path.stat().st_size, journal.tally.rows, journal.finished) == (0, 0, bytearray(2))
        assert journal.sha256 == hashlib.sha256().hexdigest()


# A complete line that is no row


def changed(**more) -> bytes:
    return json.dumps({**row(3), **more}).encode()


def without(name: str) -> bytes:
    return json.dumps({k: v for k, v in row(3).items() if k != name}).encode()


MALFORMED = {
    "not JSON": b'{"id": "u3", "index": 3, "sta',
    "text": b"Traceback (most recent call last):",
    "blank": b"",
    "spaces": b"   ",
    "a list": b"[1, 2]",
    "a number": b"3",
    "an empty object": b"{}",
    "another program's": b'{"audio_filepath": "a.wav", "text": "hi"}',
    "two rows glued": changed() + changed(index=4),
    "invalid UTF-8": changed(text="XX").replace(b"XX", b"\xff\xfe"),
    "half a pair in UTF-8": changed(text="XX").replace(b"XX", b"\xed\xa0\xbd"),
    "UTF-16": changed().decode().encode("utf-16-le").replace(b"\n", b""),
    "byte order mark": b"\xef\xbb\xbf" + changed(),
    "zeros": b"\0" * 100,
    "NaN": changed(audio_s=float("nan")),
    "nested without end": b"[" * 100_000,
    "no id": without("id"),
    "no index": without("index"),
    "no status": without("status"),
    "no flags": without("flags"),
    "id not a string": changed(id=3),
    "index a string": changed(index="3"),
    "index a bool": changed(index=True),
    "index a float": changed(index=3.0),
    "unknown status": changed(status="done"),
    "ok without seconds": changed(audio_s=None),
    "failed without a kind": changed(status="failed", error={"message": "?"}),
    "flags a string": changed(flags="empty"),
    "flags of lists": changed(flags=[["empty"]]),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("position", [0, 1, 3])
def test_malformed_line(tmp_path, name, position):
    path = tmp_path / "rows.jsonl"
    write_all(path, [row(0), row(1), row(2)], 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(position, MALFORMED[name] + b"\n")
    content = b"".join(lines) + b'{"id": "torn'
    path.write_bytes(content)
    with pytest.raises(OutputError) as error:
        Journal(path, 5)
    message = str(error.value)
    assert message.startswith(f"{path}:{position + 1}: ")
    assert "--overwrite" in message and "correct" in message and "\n" not in message
    assert path.read_bytes() == content


@pytest.mark.parametrize("position", [1, 2, 3])
def test_row_twice(tmp_path, position):
    path = tmp_path / "rows.jsonl"
    write_all(path, [row(0), row(1), row(2)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(position, lines[0])
    path.write_bytes(b"".join(lines))
    with pytest.raises(OutputError, match=rf":{position + 1}: index 0 \(id u0\) is there twice; .*--overwrite"):
        Journal(path, 3)


def test_failed_row_twice_is_found_even_while_it_is_taken_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(failed(0)) + "\n" + json.dumps(row(0)) + "\n")
    content = path.read_bytes()
    with pytest.raises(OutputError, match=r":2: index 0 \(id u0\) is there twice"):
        Journal(path, 1, keep=lambda each: each["status"] == "ok")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("index", [-1, 3, 10**12])
def test_index_outside_the_manifest(tmp_path, index):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(0)) + "\n" + json.dumps(row(index, id="far")) + "\n")
    with pytest.raises(
        OutputError, match=rf":2: index {index} \(id far\) is not in the manifest, which has 3 rows.*--overwrite"
    ):
        Journal(path, 3)


def test_write_refuses_what_could_not_be_read_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, 3)
    journal.write(row(1))
    content = path.read_bytes()
    with pytest.raises(OutputError, match=r"index 1 .* is there twice"):
        journal.write(row(1))
    with pytest.raises(OutputError, match=r"index 3 .* is not in the manifest"):
        journal.write(row(3))
    for bad in (row(0, id=7), row(0, audio_s=None), {"index": 0}, row(0, extra=float("inf"))):
        with pytest.raises(ValueError):
            journal.write(bad)
    assert path.read_bytes() == content
    assert (journal.tally.rows, list(journal.finished)) == (1, [0, 1, 0])


# What a row may hold


def test_awkward_and_huge_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row(i, text, extra={text: [text, None, 1e-9, 2**70]}) for i, text in enumerate(AWKWARD)]
    rows.append(row(len(rows), "long wörd " * 1_500_000))
    journal = write_all(path, rows)
    assert read(path) == rows
    assert "Wörter" in path.read_text(encoding="utf-8")  # readable, not escaped
    assert Journal(path, len(rows)).tally == journal.tally
    assert journal.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_tally(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        row(0, flags=["empty", "no_speech"]),
        row(1, audio_s=2),
        row(2, flags=["empty"]),
        failed(3),
        failed(4, "too_long"),
    ]
    journal = write_all(path, [*rows, failed(5)])
    expected = {
        "rows": 6,
        "audio_s": 5.0,
        "statuses": {"ok": 3, "failed": 3},
        "flags": {"empty": 2, "no_speech": 1},
        "errors": {"missing": 2, "too_long": 1},
    }
    assert journal.tally.as_dict() == expected
    assert Journal(path, 6).tally.as_dict() == expected


# Taking failed rows out


def is_ok(each: dict) -> bool:
    return each["status"] == "ok"


def test_keep(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [failed(3), row(0), failed(1), row(2), failed(4)]
    write_all(path, rows)
    with open(path, "ab") as file:
        file.write(b'{"torn')
    path.chmod(0o664)
    journal = Journal(path, 5, is_ok)
    assert read(path) == [row(0), row(2)]
    assert list(journal.finished) == [1, 0, 1, 0, 0]
    assert (journal.tally.rows, journal.tally.failed) == (2, 0)
    journal.write(row(3, "second try"))
    journal.close()
    assert read(path) == [row(0), row(2), row(3, "second try")]
    assert journal.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_keep_follows_a_link(tmp_path):
    scratch, path = tmp_path / "scratch", tmp_path / "rows.jsonl"
    scratch.mkdir()
    path.symlink_to(scratch / "rows.jsonl")
    write_all(path, [failed(0), row(1)])
    write_all(path, [row(0), row(1)], keep=is_ok)
    assert path.is_symlink()
    assert read(scratch / "rows.jsonl") == [row(1), row(0)]
    assert os.listdir(scratch) == ["rows.jsonl"]


def test_keep_killed_at_every_step(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_all(path, [failed(0), row(1), failed(2)])
    before = path.read_bytes()
    after = before.splitlines(keepends=True)[1]
    seen = set()
    for step in itertools.count():
        path.write_bytes(before)
        died = die_at(step, lambda: Journal(path, 3, is_ok))
        seen.add(path.read_bytes())
        assert path.read_bytes() in (before, after)
        journal = write_all(path, [row(0), row(1), row(2)], keep=is_ok)
        assert by_index(read(path)) == [row(0), row(1), row(2)]
        assert journal.tally.failed == 0
        assert os.listdir(tmp_path) == ["rows.jsonl"]  # what the dead one left is cleared away
        if not died:
            break
    assert step >= 4
    assert seen == {before, after}


def test_keep_killed_while_copying(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [failed(i) if i % 3 == 0 else row(i, "x" * 5000) for i in range(300)]
    write_all(path, rows)
    before = path.read_bytes()
    child = os.fork()
    if not child:
        Journal(path, 300, lambda each: is_ok(each) if each["index"] < 200 else signal.raise_signal(signal.SIGKILL))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == before
    leftover = [name for name in os.listdir(tmp_path) if name != "rows.jsonl"]
    assert len(leftover) == 1
    Journal(path, 300)
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_new_file_leaves_a_former_writer_writing_into_the_void(tmp_path):
    path = tmp_path / "rows.jsonl"
    former = Journal(path, 4)
    former.write(row(0))
    ours = Journal(path, 4, new_file=True)
    former.write(row(1, "from the dead"))
    ours.write(row(2))
    former.write(row(3, "from the dead"))
    ours.sync()
    assert read(path) == [row(0), row(2)]
    assert ours.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(OutputError, match="something else changed it"):
        former.sync()


def test_two_writers_of_one_file_overwrite_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    one, two = Journal(path, 4), Journal(path, 4)
    for index, journal in enumerate((one, two, one, two)):
        journal.write(row(index))
    assert read(path) == [row(i) for i in range(4)]
    with pytest.raises(OutputError, match="something else changed it"):
        one.sync()


def test_sync_notices_that_the_file_was_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, 1)
    journal.write(row(0))
    path.unlink()
    with pytest.raises(OutputError, match=r"rows\.jsonl: No such file"):
        journal.sync()


# A full disk

FULL_DISK = """
import json, os, resource, subprocess, sys
from pathlib import Path
from asrbatch.errors import OutputError
from asrbatch.storage.journal import Journal

kind, folder = sys.argv[1], Path(sys.argv[2])
ballast = folder / "ballast"
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    ballast.write_bytes(bytes(100_000))
    free = ballast.unlink
else:
    limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    limit(100_000)
    free = lambda: limit(resource.RLIM_INFINITY)

def row(index):
    text = f"{index} " + "x" * (7001 + index)
    own = {"id": str(index), "index": index, "status": "ok", "error": None}
    return own | {"audio_s": 1.0, "flags": [], "pred_text": text}

path = folder / "rows.jsonl"
journal = Journal(path, 30)
errors, sizes, written = [], [], 0
for _ in range(2):  # the second time without having made room
    try:
        while True:
            journal.write(row(written))
            written += 1
    except OutputError as e:
        errors.append(str(e))
        sizes.append(path.stat().st_size)
at_failure = path.read_bytes()
if kind == "limit":
    limit(50_000)
try:
    Journal(path, 30, keep=lambda row: True)  # there is room for a part of a copy
    copied = "yes"
except OutputError as e:
    copied = str(e)
names = sorted(os.listdir(folder))
unharmed = path.read_bytes() == at_failure
free()
while written < 30:
    journal.write(row(written))
    written += 1
journal.close()
print(json.dumps({
    "errors": errors, "sizes": sizes, "at_failure": at_failure.decode(), "copied": copied, "names": names,
    "unharmed": unharmed, "sha256": journal.sha256, "data": path.read_bytes().decode(),
    "rows": [row(i) for i in range(30)],
}))
"""


def may_mount() -> bool:
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_full_disk(tmp_path, kind):
    kind = (
        kind if kind == "limit" or may_mount() else "limit"
    )  # where mounting is not allowed, the limit stands in for it
    prefix = ["unshare", "-m"] if kind == "tmpfs" else []
    command = [*prefix, sys.executable, "-c", FULL_DISK, kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    path = tmp_path / "rows.jsonl"
    fix = "free some space" if kind == "tmpfs" else "raise `ulimit -f`"
    assert len(report["errors"]) == 2
    for error in report["errors"]:
        assert error.startswith(f"{path}: ")
        assert fix in error
        assert "run the same command again; rows written so far are kept" in error
    # The file ends after a complete row, though the room ended in the middle of one.
    there = [json.loads(line) for line in report["at_failure"].split("\n")[:-1]]
    assert report["at_failure"].endswith("\n")
    assert there == report["rows"][: len(there)]
    assert 5 < len(there) < 30
    assert report["sizes"] == [len(report["at_failure"])] * 2
    # A copy that found no room leaves the file as it was, and does not hold on to the room.
    assert fix in report["copied"]
    assert set(report["names"]) - {"ballast"} == {"rows.jsonl"}
    assert report["unharmed"]
    # With room again the same journal goes on.
    assert [json.loads(line) for line in report["data"].split("\n")[:-1]] == report["rows"]
    assert report["sha256"] == hashlib.sha256(report["data"].encode()).hexdigest()


# A killed writer

WRITER = """
import sys
from pathlib import Path
from asrbatch.storage.journal import Journal
sys.path.insert(0, sys.argv[2])
from output_rows import big_rows
journal = Journal(Path(sys.argv[1]), 400)
print("open", flush=True)
for row in big_rows():
    if not journal.finished[row["index"]]:
        journal.write(row)
journal.close()
"""


def test_writer_killed_again_and_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    moments = random.Random(7)
    command = [sys.executable, "-c", WRITER, str(path), str(REPO / "tests")]
    counts = []
    for _ in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"open\n"
            size = path.stat().st_size
            while path.stat().st_size == size and writer.poll() is None:
                time.sleep(0.0002)
            time.sleep(moments.uniform(0.0, 0.01))
            writer.kill()
        counts.append(path.read_bytes().count(b"\n"))
    assert counts == sorted(counts)
    assert len(set(counts)) > 2  # killed at work, and again after going on
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert by_index(read(path)) == big_rows()
