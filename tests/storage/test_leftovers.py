"""What killed commands leave behind is removed by the next one that can prove them dead, and nothing else is.

Killed at every step of: keeping standard input, a new manifest, an export, taking and letting go a lease, a record.
Before: only what stood beside rows, record and mark went, with the next run; a copy of standard input, manifests,
exports and the files of leases stayed for ever.
"""

import io
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
from new_process import in_new_process
from processes import die_at

from asrbatch.export.exporter import export
from asrbatch.manifest.stdin import spool_stdin
from asrbatch.manifest.writer import check_new_manifest, new_manifest
from asrbatch.storage.files import remove_dead, replacing, temporary_path, write_json_atomically
from asrbatch.storage.lease import Lease
from asrbatch.storage.processes import describe_self, has_ended, is_alive_here, process_tag


def keep_input(folder: Path) -> None:
    spool_stdin(folder / "out.manifest.jsonl", replace=True, stream=io.BytesIO(b'{"audio_filepath": "a.wav"}\n' * 50))


def make_manifest(folder: Path) -> None:
    check_new_manifest(folder / "new.jsonl", "--output", [], overwrite=True)
    with new_manifest(folder / "new.jsonl") as file:
        file.write(b"{}\n" * 50)


def export_rows(folder: Path) -> None:
    row = {"id": "a", "index": 0, "status": "ok", "error": None, "audio_s": 1.0, "flags": [], "pred_text": "a"}
    rows = folder.parent / "out.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    export(rows, ["txt"], folder=folder, overwrite=True)
    export(rows, ["txt"], folder=folder, per_run=True, overwrite=True)


def hold_lease(folder: Path) -> None:
    remove_dead(folder)
    Lease(folder / "out.lease", refresh_s=0.1, stale_after_s=0.2).release()


def write_record(folder: Path) -> None:
    remove_dead(folder)
    write_json_atomically(folder / "out.run.json", {"a": 1})


@pytest.mark.parametrize("work", [keep_input, make_manifest, export_rows, hold_lease, write_record])
def test_killed_at_every_step(tmp_path, work):
    """The next one removes what the dead one left, wherever that died."""
    (tmp_path / "run").mkdir()
    in_new_process(kill_at_every_step, work, tmp_path / "run")


def kill_at_every_step(work, folder: Path) -> None:
    work(folder)
    whole = sorted(os.listdir(folder))
    left = set()
    for step in itertools.count():
        died = die_at(step, lambda: work(folder))
        left |= set(os.listdir(folder)) - set(whole)
        work(folder)
        assert sorted(os.listdir(folder)) == whole, step
        if not died:
            break
    assert left, "no death left anything: this tests nothing"


def test_a_claim_of_a_takeover_that_was_cut_in_two_goes_with_the_next_holder(tmp_path):
    path = tmp_path / "out.lease"
    for name in (f".out.lease.{'a' * 32}", ".out.lease.1"):
        (tmp_path / name).touch()
    theirs = [f".other.lease.{'a' * 32}", "b" * 32, "7", ".out.lease.note"]
    for name in theirs:
        (tmp_path / name).touch()
    lease = Lease(path)
    assert sorted(os.listdir(tmp_path)) == sorted([*theirs, "out.lease"])
    lease.ensure()
    lease.release()


def test_what_a_living_process_writes_stays(tmp_path):
    with replacing(tmp_path / "new.jsonl") as file:
        remove_dead(tmp_path)
        child = os.fork()
        if not child:  # as another process does
            remove_dead(tmp_path)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        file.write(b"whole")
    assert os.listdir(tmp_path) == ["new.jsonl"] and (tmp_path / "new.jsonl").read_bytes() == b"whole"


def test_a_stopped_process_is_alive(tmp_path):
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        temporary_path(tmp_path / "x").touch()
        os.write(go, b"1")
        signal.raise_signal(signal.SIGSTOP)
        os._exit(0)
    os.read(ready, 1)
    os.waitpid(child, os.WUNTRACED)
    remove_dead(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    remove_dead(tmp_path)
    assert os.listdir(tmp_path) == []


def test_only_what_is_proved_dead_goes(tmp_path):
    view, _, _ = process_tag().split("-")
    of_another_machine = ".x.jsonl.tmp-0123456789ab-1-1-01234567"
    of_earlier_versions = ".x.jsonl.tmp-0123456789abcdef"
    somebodys = [f".x.tmp-{view}-{os.getpid()}", "x.tmp-mine", f"x.tmp-{view}-1-1-01234567", ".x.jsonl.tmp-"]
    dead = f".x.jsonl.tmp-{view}-{os.getpid()}-1-01234567"  # our number, given to us after that process had ended
    for name in (of_another_machine, of_earlier_versions, dead, *somebodys):
        (tmp_path / name).touch()
    remove_dead(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([of_another_machine, of_earlier_versions, *somebodys])
    remove_dead(tmp_path / "nowhere")


def test_who_is_alive():
    assert is_alive_here(describe_self()) is True and not has_ended(process_tag())
    assert is_alive_here({**describe_self(), "pid_start": "1"}) is False
    assert is_alive_here({**describe_self(), "host": "node7"}) is None and is_alive_here({}) is None
    assert not has_ended("") and not has_ended("0123456789ab-1-1")


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "ü" * 120 + ".txt", "x.txt"])
def test_names_as_long_as_the_system_allows(tmp_path, name):
    with replacing(tmp_path / name) as file:
        file.write(b"a")
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == [name]
