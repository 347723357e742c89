"""`transcribe --merge`: the process that completes the last chunk merges, once, whoever races and whoever dies.

The chunks are real runs with the beep engine in the engine's place.
"""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from beep_run import beep_manifest, check_rows, start_beeps
from conftest import REPO, read_jsonl, write_jsonl
from processes import die_at

from asrbatch.cluster.last_chunk import merge_when_last
from asrbatch.cluster.status import run_status
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_ROWS_FAILED, EXIT_USAGE
from asrbatch.runs.runner import run
from asrbatch.storage.lease import Lease
from asrbatch.storage.paths import RunPaths, chunk_path
from asrbatch.storage.record import read_completion_mark, read_record

pytest_plugins = "command_line"

NUM_ROWS, NUM_CHUNKS = 9, 3


def config(model: str, manifest: Path, output: Path, chunk_id: int, **options) -> RunConfig:
    chunk = {"num_chunks": NUM_CHUNKS, "chunk_id": chunk_id}
    engine = EngineConfig(model=model)
    return RunConfig(manifest=str(manifest), engine=engine, output=str(output), workers=1, **chunk, **options)


@pytest.fixture(scope="module")
def made(tiny_en, tmp_path_factory) -> Path:
    """A folder with a run of three chunks, all complete; row 4 failed."""
    folder = tmp_path_factory.mktemp("last")
    rows = read_jsonl(beep_manifest(folder / "in", NUM_ROWS))
    rows[4]["audio_filepath"] = "nowhere.wav"
    manifest = write_jsonl(folder / "in" / "manifest.jsonl", rows)
    for chunk_id in range(NUM_CHUNKS):
        run(config(tiny_en, manifest, folder / "run" / "out.jsonl", chunk_id), start=start_beeps)
    return folder


@pytest.fixture
def complete(made, tiny_en, tmp_path):
    """Makes the options of a chunk of a copy of that run."""
    shutil.copytree(made / "run", tmp_path / "run")
    return lambda chunk_id=0, **options: config(
        tiny_en, made / "in" / "manifest.jsonl", tmp_path / "run" / "out.jsonl", chunk_id, **options
    )


def merge(options: RunConfig, **how):
    return merge_when_last(options, options.manifest, lambda line: None, pause_s=0.01, **how)


def merged_indexes(output: Path) -> list[int]:
    assert read_record(RunPaths(output))["complete"] is True and RunPaths(output).done.exists()
    return [row["index"] for row in read_jsonl(output)]


def chunks_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.parent.glob("*.chunk-*")}


def command(model: str, manifest: Path, output: Path, chunk_id: int, *options) -> list[str]:
    words = ["transcribe", manifest, "-m", model, "-o", output, "--num-chunks", NUM_CHUNKS, "--chunk-id", chunk_id]
    return [str(word) for word in (*words, "--merge", *options)]


def test_two_last_chunks_race(tiny_en, tmp_path):
    """Real processes: the first chunk waits for nobody, and of the last two one merges."""
    manifest, output = beep_manifest(tmp_path / "in", NUM_ROWS), tmp_path / "out.jsonl"

    def start(chunk_id: int) -> subprocess.Popen:
        words = [sys.executable, str(REPO / "tests/beep_run.py"), *command(tiny_en, manifest, output, chunk_id)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    said, errors = start(0).communicate()
    assert said.strip() == str(chunk_path(output, 0, NUM_CHUNKS)), errors
    assert not output.exists() and not RunPaths(output).lease.exists()
    last = [start(1), start(2)]
    said = [process.communicate() for process in last]
    assert [process.returncode for process in last] == [EXIT_COMPLETE] * 2, said
    assert [out.strip() for out, _ in said] == [str(chunk_path(output, i, NUM_CHUNKS)) for i in (1, 2)]
    assert sum(errors.count(f"merged: {output}\n") for _, errors in said) == 1, said
    assert merged_indexes(output) == list(range(NUM_ROWS))
    check_rows([output], range(NUM_ROWS))


def late(hidden: str, looks: int):
    """A view of a folder, as an NFS client's: the name of one mark is not there before so many looks."""
    look = itertools.count()
    return lambda folder: [name for name in os.listdir(folder) if name != hidden or next(look) >= looks]


def test_marks_that_are_seen_late(complete):
    """Two machines end together, and neither sees the other's mark at once."""
    marks = [chunk_path(complete().output_path, i, NUM_CHUNKS).with_suffix(".done.json").name for i in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        views = [late(marks[1], 3), late(marks[0], 5)]
        found = list(pool.map(lambda i, view: merge(complete(i), list_names=view), (1, 2), views))
    assert sorted(result is None for result in found) == [False, True], "merged once"
    assert merged_indexes(complete().output_path) == list(range(NUM_ROWS))
    # A chunk that still works is not waited for, nor one that was killed before its mark.
    output, paths = complete().output_path, RunPaths(chunk_path(complete().output_path, 2, NUM_CHUNKS))
    record = paths.record.read_text()
    for path in (output, RunPaths(output).done, paths.done):
        path.unlink()
    looks = itertools.count()
    for changed in ('"outcome": null', '"outcome": "interrupted"'):
        paths.record.write_text(record.replace('"outcome": "complete"', changed))
        assert merge(complete(), list_names=lambda folder: (next(looks), os.listdir(folder))[1]) is None
    assert next(looks) == 2 and not output.exists()


def test_losing_the_race_and_coming_late_add_nothing(complete):
    output = complete().output_path
    with closing_lease(RunPaths(output).lease):
        assert merge(complete(1)) is None and not output.exists()
    assert merge(complete(1)).exit_code == EXIT_ROWS_FAILED
    before = output.stat().st_mtime_ns, output.stat().st_ino
    assert merge(complete(2)) is None and (output.stat().st_mtime_ns, output.stat().st_ino) == before
    assert not RunPaths(output).lease.exists()


def closing_lease(path: Path):
    lease = Lease(path)
    lease.close = lease.release
    return closing(lease)


def test_a_merge_that_dies_is_done_by_the_next(complete, monkeypatch):
    """Killed before each seventh step on files; the next process of any chunk finds the run merged, or merges it."""
    # Of a lease that is half written nobody can tell whose it was.
    for name, seconds in (("refresh_s", 0.2), ("stale_after_s", 1.0)):
        monkeypatch.setitem(Lease.__init__.__kwdefaults__, name, seconds)
    output = complete().output_path
    before, outcomes = chunks_of(output), set()
    for step in itertools.count(0, 7):
        died = die_at(step, lambda: merge(complete(0)))
        outcomes.add((died, merge(complete(1)) is None))
        assert merged_indexes(output) == list(range(NUM_ROWS)), step
        if not died:
            break
        for path in (output, RunPaths(output).record, RunPaths(output).done):
            path.unlink()
    assert {(True, False), (False, True)} <= outcomes and chunks_of(output) == before


def test_a_chunk_that_was_run_again_is_merged_again(complete, made):
    """`--retry-failed` after the row's audio has come back."""
    output = complete().output_path
    assert merge(complete()).exit_code == EXIT_ROWS_FAILED
    shutil.copy(made / "in" / "1.wav", made / "in" / "nowhere.wav")
    try:
        for chunk_id in range(NUM_CHUNKS):
            run(complete(chunk_id, retry_failed=True), start=start_beeps)
    finally:
        (made / "in" / "nowhere.wav").unlink()
    assert merge(complete()).exit_code == EXIT_COMPLETE
    assert read_jsonl(output)[4]["status"] == "ok" and merge(complete(1)) is None


def test_the_command_says_what_came_of_it(complete, tiny_en, cli):
    """One that fails exits 1, names merge-shards and changes no chunk; one that works exits as without --merge."""
    output, before = complete().output_path, chunks_of(complete().output_path)
    marks = [read_completion_mark(RunPaths(chunk_path(output, i, NUM_CHUNKS))) for i in range(NUM_CHUNKS)]
    (with_failures,) = (i for i, mark in enumerate(marks) if mark["statuses"].get("failed"))
    (manifest,) = complete().manifest
    again = command(tiny_en, Path(manifest), output, with_failures)
    (note,) = run_status(output)["total"]["notes"]
    words = shlex.split(note.removeprefix("complete, not merged: "))
    assert words == ["asrbatch", "merge-shards", str(output), "--manifest", manifest, "--num-chunks", "3"]
    expected = EXIT_ROWS_FAILED, f"{chunk_path(output, with_failures, NUM_CHUNKS)}\n"
    output.write_bytes(b"{}\n")  # somebody else's
    done = cli(*again)
    assert (done.returncode, done.stdout) == (EXIT_ERROR, expected[1])
    assert f"asrbatch: {output}: exists already" in done.stderr
    assert f"--merge: not merged; the chunks are unchanged. When that is fixed, run: {shlex.join(words)}" in done.stderr
    assert chunks_of(output) == before and output.read_bytes() == b"{}\n"
    output.unlink()
    done = cli(*again)
    assert (done.returncode, done.stdout) == expected, done.stderr
    assert merged_indexes(output) == list(range(NUM_ROWS)) and chunks_of(output) == before
    assert run_status(output)["total"]["notes"] == []


def test_chunks_that_are_not_what_their_marks_say(complete):
    """The proof is that of merge-shards."""
    output = complete().output_path
    rows = chunk_path(output, 2, NUM_CHUNKS)
    rows.write_bytes(rows.read_bytes().replace(b"beep", b"boop"))
    before = chunks_of(output)
    found = merge(complete())
    assert found.exit_code == EXIT_ERROR and found.report.counts["damaged"] == 1
    assert not output.exists() and chunks_of(output) == before


def test_without_chunks_there_is_nothing_to_merge(cli_here, tmp_path):
    done = cli_here("transcribe", "m.jsonl", "-m", "unused", "-o", tmp_path / "out.jsonl", "--merge")
    assert done.returncode == EXIT_USAGE and done.stderr.startswith("asrbatch: --merge: needs chunks"), done.stderr
