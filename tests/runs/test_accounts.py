"""What a run says of its rows stays true: changed rows, two names of one output, inputs among the run's own files.

What was tried, with `transcribe` unless another command is named, and what it did before (b) and does now (n):

Rows that were changed after the run completed, each with and without `--retry-failed`: a text, a row less, one twice,
a part of a row at the end, a cut, nothing left, no file, rows and mark of another run beside this record.
  b: with `--retry-failed` a new mark for all but the doubled row (the last one without it too); n: refused, untouched.
Rows of a killed run whose ids are another manifest's: swapped, renamed, made up, in chunks, under `--retry-failed`.
  b: taken for this run's; n: refused with file and line.
Two names of one output, in one piece and in chunks: link, link of a link, link in another folder, a link whose file
is not there yet, hard link.
  b: two writers, or two records of one file; n: one run, one lease; hard links exit 2.
The manifest as any of the run's own files, by name, by link, as one of a list, in a folder, through standard input.
  b: `.inflight` and what a link led to were removed; n: exit 2, untouched.
A row's audio as the rows, log, `.inflight`, `.problems` or mark, of a manifest, Kaldi, glob, folder, by another path.
  b: the log was written into it, `--overwrite` removed it; n: exit 2, untouched.
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

from asrbatch.cluster.merge import merge
from asrbatch.cluster.slurm import SlurmOptions, split_arrays
from asrbatch.cluster.slurm_scripts import array_script
from asrbatch.cluster.status import run_status
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_USAGE, LeaseError, OutputError, UsageError
from asrbatch.runs.progress import Stop
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths, chunk_path

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
    with pytest.raises(
        OutputError, match=r"out\.jsonl: (was changed after the run completed|is gone, although).*original"
    ):
        transcribe(failed_run, start=never, retry_failed=retry_failed)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("retry_failed", [True, False])
def test_rows_and_mark_of_another_run_are_not_this_runs(failed_run, transcribe, tmp_path, retry_failed):
    shutil.copytree(failed_run.parent / "run", tmp_path / "run")
    transcribe(failed_run, tmp_path / "other" / "out.jsonl", prompt="Another")
    for name in ("out.jsonl", "out.done.json"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "run" / name)
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match=r"out\.done\.json: belongs to another run, not to out\.run\.json"):
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
    # The first two of the manifest, whichever were finished first.
    rows = [row for row in read_jsonl(paths.rows) if row["index"] < 2]
    paths.done.unlink()
    IDS[name](rows)
    write_jsonl(paths.rows, rows)
    before = paths.rows.read_bytes()
    with pytest.raises(
        OutputError, match=rf"{paths.rows}:[12]: index \d has id .*, but row \d of this manifest has another"
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


# Two names of one output


def link(name: Path, to: Path) -> Path:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(to)
    return name


LINKS = {
    "a link": lambda real: link(real.with_name("link.jsonl"), real),
    "a relative one": lambda real: link(real.with_name("link.jsonl"), Path(real.name)),
    "a link of a link": lambda real: link(real.with_name("link.jsonl"), link(real.with_name("first.jsonl"), real)),
    "in another folder": lambda real: link(real.parent.parent / "else" / "out.jsonl", real),
    "of its folder": lambda real: link(real.parent.parent / "else", real.parent) / real.name,
}


@pytest.mark.parametrize(("name", "first"), [*((name, "link") for name in LINKS), ("a link", "real")])
def test_a_link_is_the_run_that_it_leads_to(manifest, transcribe, tmp_path, name, first):
    real = tmp_path / "run" / "out.jsonl"
    real.parent.mkdir()
    linked = LINKS[name](real)
    one, other = (linked, real) if first == "link" else (real, linked)
    refused = []

    def start(*arguments, **options):
        with pytest.raises(LeaseError, match="is writing this output") as error:
            transcribe(manifest, other, start=never)
        refused.append(error)
        return start_beeps(*arguments, **options)

    assert transcribe(manifest, one, start=start).outcome == "complete" and len(refused) == 1
    assert transcribe(manifest, other, start=never).outcome == "already_complete"
    assert transcribe(manifest, linked, overwrite=True).outcome == "complete"
    assert os.path.realpath(linked) == str(real) and real.is_file() and not real.is_symlink()
    check_rows([linked], range(NUM_ROWS))
    assert transcribe(manifest, real, start=never).outcome == "already_complete"
    assert not list(tmp_path.rglob("link.run.json")) and len(list(real.parent.glob("*.run.json"))) == 1


def test_chunks_of_a_link_are_those_of_what_it_leads_to(manifest, transcribe, tmp_path):
    real = tmp_path / "run" / "out.jsonl"
    linked = link(tmp_path / "else" / "link.jsonl", real)
    refused = []

    def start(*arguments, **options):
        with pytest.raises(LeaseError, match="is writing this output") as error:
            transcribe(manifest, real, start=never, num_chunks=2, chunk_id=0)
        refused.append(error)
        return start_beeps(*arguments, **options)

    assert transcribe(manifest, linked, start=start, num_chunks=2, chunk_id=0).paths.rows == chunk_path(real, 0, 2)
    assert len(refused) == 1
    assert transcribe(manifest, real, start=never, num_chunks=2, chunk_id=0).outcome == "already_complete"
    transcribe(manifest, real, num_chunks=2, chunk_id=1)
    assert run_status(linked)["chunks"] == run_status(real)["chunks"]
    assert merge(linked, str(manifest)).exit_code == EXIT_COMPLETE
    check_rows([real], range(NUM_ROWS))
    assert not list(tmp_path.rglob("link.chunk*")) and len(list(tmp_path.rglob("*.chunk-*.run.json"))) == 2
    stem = str(real).removesuffix(".jsonl")
    options = SlurmOptions(job_name="x", log_dir=tmp_path)
    (array,), more = split_arrays([0, 1], options), {"path": tmp_path / "x.sbatch", "num_chunks": 2, "overwrite": False}
    script = array_script(array, options, ["transcribe"], output=linked, **more)
    assert re.search(rf"^chunk=.* {re.escape(stem)} ", script, re.MULTILINE)


def test_a_link_to_a_chunk_is_no_output(manifest, transcribe, tmp_path):
    chunk = transcribe(manifest, num_chunks=2, chunk_id=1).paths.rows
    linked = link(tmp_path / "all.jsonl", chunk)
    before = contents(chunk.parent)
    with pytest.raises(UsageError, match="is the name of one chunk's file; give the run's own, out.jsonl"):
        transcribe(manifest, linked, start=never, overwrite=True)
    assert contents(chunk.parent) == before


def test_a_chunk_that_lies_elsewhere_is_one_chunk(manifest, transcribe, tmp_path):
    """As somebody does whose disk is full: rows and what belongs to them moved, and a link left behind."""
    of = {"num_chunks": 2, "chunk_id": 1}
    paths = transcribe(manifest, **of).paths
    moved = tmp_path / "scratch"
    moved.mkdir()
    for path in (paths.rows, paths.record, paths.done):
        shutil.move(path, moved / path.name)
    paths.rows.symlink_to(moved / paths.rows.name)
    assert transcribe(manifest, start=never, **of).outcome == "already_complete"
    assert RunPaths(paths.output).lease.parent == moved


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"retry_failed": True}], ids=str)
def test_a_file_with_two_hard_links_is_refused(manifest, transcribe, tmp_path, options):
    rows = transcribe(manifest).paths.rows
    os.link(rows, tmp_path / "run" / "copy.jsonl")
    before = contents(tmp_path / "run")
    for output in (rows, tmp_path / "run" / "copy.jsonl"):
        with pytest.raises(UsageError, match=rf"--output {output}: .* has 2 names \(hard links\)") as error:
            transcribe(manifest, output, start=never, **options)
        assert error.value.exit_code == EXIT_USAGE
    assert contents(tmp_path / "run") == before
    (tmp_path / "run" / "copy.jsonl").unlink()
    assert transcribe(manifest, start=never).outcome == "already_complete"


# Inputs among the run's own files

OWN = ("jsonl", "run.json", "done.json", "lease", "inflight", "problems", "log")
OPTIONS = [{}, {"overwrite": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ending", OWN)
def test_the_manifest_is_none_of_the_runs_own_files(manifest, transcribe, tmp_path, ending, options):
    (tmp_path / "run").mkdir()
    own = tmp_path / "run" / f"out.{ending}"
    shutil.copy(manifest, own)
    linked = link(tmp_path / "m.jsonl", own)
    listed = f"{manifest},{own}"
    (tmp_path / "source.toml").write_text(f'source = "{own}"\n')
    before = contents(tmp_path / "run")
    for source in (own, linked, listed, f"{tmp_path}/run/out.*", tmp_path / "source.toml"):
        with pytest.raises(UsageError, match=r"--output .*out\.jsonl:.* is the input.*; give another name"):
            transcribe(source, start=never, **options)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ending", [ending for ending in OWN if ending not in ("lease", "jsonl")])
def test_none_of_the_runs_own_files_is_a_link_to_the_manifest(manifest, transcribe, tmp_path, ending, options):
    before = manifest.read_bytes()
    own = link(tmp_path / "run" / f"out.{ending}", manifest)
    with pytest.raises(UsageError, match=rf"--output .*: {own} is the input \({manifest}\); give another name"):
        transcribe(manifest, start=never, **options)
    assert manifest.read_bytes() == before and own.is_symlink()


@pytest.mark.parametrize("options", [*OPTIONS, {"num_chunks": 2, "chunk_id": 1}], ids=str)
def test_an_output_that_leads_to_the_manifest(manifest, transcribe, tmp_path, options):
    before = manifest.read_bytes()
    output = tmp_path / "run" / ("out.chunk-00001-of-00002.jsonl" if "num_chunks" in options else "out.jsonl")
    link(output, manifest)
    with pytest.raises(UsageError, match="is the input"):
        transcribe(manifest, start=never, **options)
    os.unlink(output)
    os.link(manifest, output)
    with pytest.raises(UsageError, match=r"is the input|has 2 names"):
        transcribe(manifest, start=never, **options)
    assert manifest.read_bytes() == before


def test_a_kaldi_folder_holds_inputs(transcribe, tmp_path):
    folder = tmp_path / "kaldi"
    beep_manifest(folder, 1)
    (folder / "wav.scp").write_text("u0 1.wav\n")
    link(tmp_path / "run" / "out.log", folder / "wav.scp")
    with pytest.raises(UsageError, match=r"out\.log is the input \(.*/kaldi/wav\.scp\)"):
        transcribe(folder, start=never)
    assert (folder / "wav.scp").read_text() == "u0 1.wav\n"


@pytest.mark.parametrize("ending", ["jsonl", "log", "inflight", "problems", "done.json"])
def test_no_audio_of_a_row_is_written_over(manifest, transcribe, tmp_path, ending):
    audio = tmp_path / "in" / "3.wav"
    before = audio.read_bytes()
    own = link(tmp_path / "run" / f"out.{ending}", audio)
    (tmp_path / "other").symlink_to(audio.parent)
    listed = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "other/3.wav"}])
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"u0 {audio}\n")
    for source in (manifest, listed, kaldi, tmp_path / "in" / "*.wav", f"{tmp_path}/other"):
        with pytest.raises(
            UsageError, match=r"--output .*out\.jsonl: .* is (one of the audio files|the input).*; give another"
        ):
            transcribe(source, start=never, overwrite=True)
    assert audio.read_bytes() == before and own.is_symlink() and os.listdir(tmp_path / "run") == [own.name]


def test_standard_input_from_the_output_itself(manifest, tiny_en, tmp_path):
    output = tmp_path / "out.jsonl"
    shutil.copy(manifest, output)
    command = [PYTHON, "-m", "asrbatch", "transcribe", "-", "-o", output, "--overwrite", "-m", tiny_en]
    with open(output, "rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True)
    assert done.returncode == EXIT_USAGE and "is the input (/dev/stdin)" in done.stderr, done.stderr
    assert output.read_bytes() == manifest.read_bytes()


def test_two_files_of_a_run_are_not_one(manifest, transcribe, tmp_path):
    paths = transcribe(manifest).paths
    paths.log.unlink(missing_ok=True)
    paths.log.symlink_to(paths.rows)
    before = paths.rows.read_bytes()
    with pytest.raises(UsageError, match=rf"{paths.log} is the same file as {paths.rows}; remove one of the two names"):
        transcribe(manifest, start=never)
    assert paths.rows.read_bytes() == before


def test_what_was_kept_of_standard_input_is_a_manifest(manifest, transcribe, tmp_path):
    """`X.manifest.jsonl` is what people give to `merge-shards`, and what they call manifests of their own."""
    kept = tmp_path / "run" / "out.manifest.jsonl"
    kept.parent.mkdir()
    shutil.copy(manifest, kept)
    assert transcribe(kept).outcome == "complete"
    assert kept.read_bytes() == manifest.read_bytes()


# What is no file


def make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


ODD = {
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link that leads to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a socket": make_socket,
}


@pytest.mark.parametrize("ending", OWN)
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_refused_at_once(manifest, transcribe, tmp_path, ending, kind):
    (tmp_path / "run").mkdir()
    odd = tmp_path / "run" / f"out.{ending}"
    ODD[kind](odd)
    for options in OPTIONS:
        with pytest.raises(UsageError, match=re.escape(f" is {kind}, not a file; remove it, or give another name")):
            transcribe(manifest, start=never, **options)
    assert os.path.lexists(odd) and os.listdir(tmp_path / "run") == [odd.name]


def test_chunks_look_at_what_all_of_them_share(manifest, transcribe, tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "out.problems")
    with pytest.raises(UsageError, match=r"out\.problems is a named pipe"):
        transcribe(manifest, start=never, num_chunks=2, chunk_id=1)


def test_a_link_to_nothing_is_where_the_rows_go_but_no_lease(manifest, transcribe, tmp_path):
    stop = Stop()
    stop.request()
    link(tmp_path / "run" / "out.lease", Path("nowhere"))
    with pytest.raises(UsageError, match=r"out\.lease is a link; remove it"):
        transcribe(manifest, start=never)
    (tmp_path / "run" / "out.lease").unlink()
    link(tmp_path / "run" / "out.jsonl", tmp_path / "scratch" / "far.jsonl")
    assert transcribe(manifest, stop=stop).outcome == "interrupted"
    assert transcribe(manifest).paths.rows == tmp_path / "scratch" / "far.jsonl"
    check_rows([tmp_path / "run" / "out.jsonl"], range(NUM_ROWS))
