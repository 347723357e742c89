"""What a run says of its rows stays true: changed rows, two names of one output, inputs among the run's own files.

What was tried, with `transcribe` unless another command is named, and what it did before (b) and does now (n):

Rows that were changed after the run completed, each with and without `--retry-failed`: a text, a row less, one twice,
a part of a row at the end, a cut, nothing left, no file, rows and mark of another run beside this record.
  b: with `--retry-failed` a new mark for all but the doubled row (the last one without it too); n: refused, untouched.
Rows of a killed run whose ids are another manifest's: swapped, renamed, made up, in chunks, under `--retry-failed`.
  b: taken for this run's; n: refused with file and line.
Two names of one output: link, link of a link, link in another folder, a link whose file is not there yet, hard link.
  b: two writers, or two records of one file; n: one run, one lease; hard links exit 2.
The manifest as any of the run's own files, by name, by link, as one of a list, in a folder, through standard input.
  b: `.inflight` and what a link led to were removed; n: exit 2, untouched.
A folder, named pipe, device, socket or link to itself in any of those places.
  b: hangs, tracebacks, exit 1; n: exit 2 at once.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from beep_run import beep_manifest, check_rows, start_beeps
from chunk_damage import vouch
from conftest import PYTHON, read_jsonl, write_jsonl

from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_USAGE, LeaseError, OutputError, UsageError
from asrbatch.runs.progress import Stop
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths

NUM_ROWS = 6


@pytest.fixture
def transcribe(tiny_en, tmp_path):
    """One run with the beep engine; `-o out.jsonl` in a folder of its own unless another is named."""

    def call(manifest, output=tmp_path / "run" / "out.jsonl", *, start=start_beeps, stop=None, **options):
        engine = EngineConfig(model=tiny_en)
        config = RunConfig(manifest=str(manifest), engine=engine, output=str(output), workers=1, **options)
        return run(config, start=start, stop=stop)

    return call


@pytest.fixture
def manifest(tmp_path) -> Path:
    return beep_manifest(tmp_path / "in", NUM_ROWS)


def never(*args, **options):
    raise AssertionError("the engine was started for nothing")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def change_lines(rows: Path, change) -> None:
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(change(lines)))


# Changed after completion

CHANGES = {
    "a text": lambda rows: rows.write_bytes(rows.read_bytes().replace(b"beep", b"peep", 1)),
    "a row less": lambda rows: change_lines(rows, lambda lines: lines[1:]),
    "a row twice": lambda rows: change_lines(rows, lambda lines: [*lines, lines[0]]),
    "rows in another order": lambda rows: change_lines(rows, lambda lines: lines[::-1]),
    "a part of a row behind": lambda rows: change_lines(rows, lambda lines: [*lines, lines[0][:20]]),
    "cut off": lambda rows: rows.write_bytes(rows.read_bytes()[:-5]),
    "nothing left": lambda rows: rows.write_bytes(b""),
    "no file": lambda rows: rows.unlink(),
}


@pytest.fixture(scope="module")
def failed_run(tiny_en, tmp_path_factory) -> Path:
    """The manifest of a complete run with a failed row; the run is `run/out.jsonl` beside it."""
    folder = tmp_path_factory.mktemp("failed")
    rows = read_jsonl(beep_manifest(folder / "in", NUM_ROWS))
    rows[2]["audio_filepath"] = "later.wav"
    manifest = write_jsonl(folder / "m.jsonl", rows)
    engine = EngineConfig(model=tiny_en)
    run(RunConfig(manifest=str(manifest), engine=engine, output=str(folder / "run" / "out.jsonl")), start=start_beeps)
    return manifest


@pytest.mark.parametrize("retry_failed", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_rows_changed_after_completion_get_no_new_mark(failed_run, transcribe, tmp_path, name, retry_failed):
    shutil.copytree(failed_run.parent / "run", tmp_path / "run")
    CHANGES[name](tmp_path / "run" / "out.jsonl")
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match=r"out\.jsonl: (was changed after the run completed|No such file).*original"):
        transcribe(failed_run, start=never, retry_failed=retry_failed)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("retry_failed", [True, False])
def test_rows_and_mark_of_another_run_are_not_this_runs(failed_run, transcribe, tmp_path, retry_failed):
    shutil.copytree(failed_run.parent / "run", tmp_path / "run")
    transcribe(failed_run, tmp_path / "other" / "out.jsonl", prompt="Another")
    for name in ("out.jsonl", "out.done.json"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "run" / name)
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match=r"out\.done\.json: is another run's, not that of out\.run\.json"):
        transcribe(failed_run, start=never, retry_failed=retry_failed)
    assert contents(tmp_path / "run") == before


def test_unchanged_rows_are_tried_again(failed_run, transcribe, tmp_path):
    shutil.copytree(failed_run.parent / "run", tmp_path / "run")
    summary = transcribe(failed_run, retry_failed=True)
    assert summary.outcome == "complete" and len(read_jsonl(summary.paths.rows)) == NUM_ROWS
    mark = json.loads(summary.paths.done.read_text())
    data = summary.paths.rows.read_bytes()
    assert (mark["sha256"], mark["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


# Ids on resume


def rename(index: int, row_id: str):
    def change(rows: list[dict]) -> None:
        next(row for row in rows if row["index"] == index)["id"] = row_id

    return change


def swap(rows: list[dict]) -> None:
    rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]


IDS = {"swapped": swap, "renamed": rename(0, "v0"), "another row's": rename(1, "u5"), "empty": rename(1, "")}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in IDS), ("swapped", {"retry_failed": True}), ("renamed", {"num_chunks": 2, "chunk_id": 0})],
    ids=str,
)
def test_ids_are_those_of_the_manifest_on_resume(manifest, transcribe, tmp_path, name, options):
    options = {**options, **({"strategy": "contiguous"} if "num_chunks" in options else {})}
    paths = transcribe(manifest, **options).paths
    rows = read_jsonl(paths.rows)[:2]
    paths.done.unlink()
    IDS[name](rows)
    write_jsonl(paths.rows, rows)
    before = paths.rows.read_bytes()
    with pytest.raises(
        OutputError, match=rf"{paths.rows}:[12]: index \d has id .*, and row \d of this manifest another"
    ):
        transcribe(manifest, start=never, **options)
    assert paths.rows.read_bytes() == before


def test_ids_of_a_complete_run_that_was_mended_by_hand(manifest, transcribe):
    paths = transcribe(manifest).paths
    rows = read_jsonl(paths.rows)
    rows[3]["id"] = "other"
    write_jsonl(paths.rows, rows)
    vouch(paths)
    with pytest.raises(OutputError, match=r"out\.jsonl:4: index \d has id other"):
        transcribe(manifest, start=never)
