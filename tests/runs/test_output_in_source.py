"""A run whose output lies in the folder that it reads goes on, stays complete, and begins anew.

Tried with `transcribe d -o d/out.jsonl`, where `d` is a folder of audio, one with `.txt` beside it, with a metadata
file, of Kaldi, of tars, Parquet, Arrow, `save_to_disk`, a copy of the hub's, and lhotse's pair; with `cd d; transcribe
.`; chunks; and `submit`, `merge-shards`, `make-manifest` and `validate --report` given twice.
  before: exit 2 from the second command on ("d/out.inflight is the input"), with `--overwrite` too; now: as ever.
What is really read there stays refused: each of those tables, texts, tars and data files, through a link too.
"""

import os
import shutil
from pathlib import Path

import pytest
from beep_run import beep_manifest, start_beeps, text_of
from conftest import read_jsonl
from source_makers import MAKERS
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import EngineConfig, RunConfig, SourceOptions
from asrbatch.errors import EXIT_COMPLETE, UsageError
from asrbatch.manifest.formats import files_of
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths, check_run_outputs, default_output

NUM_ROWS = 4


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    beep_manifest(folder, NUM_ROWS)
    return folder


@pytest.fixture
def transcribe(tiny_en):
    def call(source, output, *, start=start_beeps, **options):
        engine = EngineConfig(model=tiny_en)
        config = RunConfig(manifest=str(source), engine=engine, output=output and str(output), workers=1, **options)
        return run(config, start=start)

    return call


def make_audio(folder: Path, rows: list[dict]) -> Path:
    for row in rows:
        shutil.copy(row["file"], folder / f"{row['id']}.wav")
    return folder


def make_texts(folder: Path, rows: list[dict]) -> Path:
    for row in rows:
        (folder / f"{row['id']}.txt").write_text(row["text"])
    return make_audio(folder, rows)


# What is made, and a file of it that is read.
FOLDERS = {
    "audio": (make_audio, None),
    "texts": (make_texts, "u1.txt"),
    "folder": (MAKERS["folder"], "metadata.jsonl"),
    "folder-csv": (MAKERS["folder-csv"], "metadata.csv"),
    "kaldi": (MAKERS["kaldi"], "segments"),
    "nemo-tar": (MAKERS["nemo-tar"], "audio_1.tar"),
    "webdataset": (MAKERS["webdataset"], "shard.tar"),
    "parquet": (MAKERS["parquet"], "m.parquet"),
    "arrow": (MAKERS["arrow"], "m.arrow"),
    "saved": (MAKERS["saved"], "state.json"),
    "hub": (MAKERS["hub"], "README.md"),
    "lhotse-pair": (MAKERS["lhotse-pair"], "x_supervisions_test.jsonl.gz"),
}


@pytest.fixture
def source(sounds, tmp_path):
    def make(name: str) -> Path:
        folder = tmp_path / "d"
        folder.mkdir()
        rows = [
            {"id": f"u{n}", "text": "beep", "duration": 0.25 * (n + 1), "lang": "en", "file": sounds / f"{n + 1}.wav"}
            for n in range(NUM_ROWS)
        ]
        made = Path(FOLDERS[name][0](folder, rows))
        return made if made.is_dir() else made.parent

    return make


def check(rows: Path, indexes=range(NUM_ROWS)) -> None:
    found = {row["index"]: row["pred_text"] for row in read_jsonl(rows)}
    assert found == {index: text_of(index) for index in indexes}


def never(*args, **options):
    raise AssertionError("the engine was started for nothing")


def kill(paths) -> None:
    """Leaves what a kill after some rows leaves, but for the lease, of which a newcomer would watch the beat."""
    paths.done.unlink()
    paths.rows.write_bytes(b"".join(paths.rows.read_bytes().splitlines(keepends=True)[:3]) + b'{"index"')
    for path in (paths.in_flight, paths.log):
        path.touch()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_runs_own_files_are_no_input(source, name):
    folder = source(name)
    paths = RunPaths(folder / "out.jsonl")
    for path in (*paths.written, paths.spool, folder / "out.array-0.sbatch"):
        path.write_text('{"audio_filepath": "1.wav"}\n')
    check_run_outputs(paths, files_of([str(folder)], SourceOptions()), [folder / "out.array-0.sbatch"])
    paths = RunPaths(folder / "out.chunk-00000-of-00002.jsonl")
    for path in paths.written:
        path.touch()
    check_run_outputs(paths, files_of([str(folder)], SourceOptions()))


@pytest.mark.parametrize("name", ["audio", "kaldi", "folder-csv"])
def test_a_run_in_the_folder_that_it_reads(source, transcribe, name):
    folder = source(name)
    output = folder / "out.jsonl"
    paths = transcribe(folder, output).paths
    check(output)
    kill(paths)
    assert transcribe(folder, output).outcome == "complete"
    check(output)
    assert transcribe(folder, output, start=never).outcome == "already_complete"
    kill(paths)
    assert transcribe(folder, output, overwrite=True).outcome == "complete"
    check(output)


@pytest.mark.parametrize("name", [name for name, (_, read) in FOLDERS.items() if read])
def test_what_is_read_there_stays_refused(source, transcribe, name):
    folder, read = source(name), FOLDERS[name][1]
    before = (folder / read).read_bytes()
    for make in (os.symlink, os.link):
        for ending in ("log", "jsonl"):
            make(folder / read, folder.parent / f"x.{ending}")
            with pytest.raises(UsageError, match="is the input"):
                transcribe(folder, folder.parent / "x.jsonl", start=never, overwrite=True)
            os.unlink(folder.parent / f"x.{ending}")
    assert (folder / read).read_bytes() == before


def test_a_run_in_the_current_folder_has_its_name(source, transcribe, monkeypatch):
    folder = source("audio")
    monkeypatch.chdir(folder)
    paths = transcribe(".", None).paths
    assert paths.rows.parent == folder and paths.rows.name.startswith("d.")
    kill(paths)
    assert transcribe(".", None).outcome == "complete"
    check(paths.rows)
    assert transcribe(".", None, start=never).outcome == "already_complete"
    (folder / "inner").mkdir()
    for given in (".", "./", "../d", "inner/..", f"{folder}/."):
        assert default_output(given, "m").name == "d.m.jsonl", given
    monkeypatch.chdir(folder / "inner")
    monkeypatch.setenv("HOME", str(folder))
    assert {default_output(given, "m").name for given in ("..", "../.", "~")} == {"d.m.jsonl"}
    assert default_output("/", "m").name == "manifest.m.jsonl"


def succeeds(*arguments) -> None:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == EXIT_COMPLETE, (arguments, done.output, done.exception)


def test_chunks_in_the_folder_that_they_read(source, transcribe, tiny_en):
    folder = source("audio")
    output = folder / "out.jsonl"
    for chunk_id, outcome in ((0, "complete"), (1, "complete"), (0, "already_complete")):
        assert transcribe(folder, output, num_chunks=2, chunk_id=chunk_id).outcome == outcome
    (folder / "out.array-0.sbatch").touch()
    succeeds("submit", folder, "-m", tiny_en, "-o", output, "--num-chunks", 2, "--dry-run")
    for _ in range(2):
        succeeds("merge-shards", output, "--manifest", folder)
    check(output)


@pytest.mark.parametrize("name", ["texts", "folder", "kaldi"])
def test_lists_in_the_folder_that_they_are_of(source, name):
    folder = source(name)
    for _ in range(2):
        succeeds("validate", folder, "--audio", "none", "--report", folder / "problems.jsonl", "--overwrite")
        succeeds("make-manifest", folder, "-o", folder / "new.jsonl", "--overwrite", "--workers", 1)
        assert len(read_jsonl(folder / "new.jsonl")) == NUM_ROWS
