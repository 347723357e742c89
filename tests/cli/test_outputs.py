"""No command overwrites what it reads, waits for what is no file, or calls a torn file whole; left-overs go.

Tried for `merge-shards`, `export`, `report`, `make-manifest`, `validate`, `submit`; those that only read (`status`,
`score`, `compare`) must not wait either. Before: an input by another name was replaced (merge through a link of its
record, export and make-manifest through links and source files, audio of a row), named pipes hung (`status`, `score`,
`compare`, `report`, `merge-shards`), links to themselves were tracebacks, `/dev/null` was replaced by a file as root.
`transcribe` is in `runs/test_accounts.py`.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from beep_run import beep_manifest, start_beeps
from conftest import write_jsonl
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_USAGE, UsageError
from asrbatch.runs.runner import run
from asrbatch.storage.paths import RunPaths, chunk_path


@pytest.fixture(scope="module")
def made(tiny_en, tmp_path_factory) -> Path:
    """A folder with a manifest (`m.jsonl`), a run of it in two chunks (`out.jsonl`), one in one piece (`one.jsonl`)."""
    folder = tmp_path_factory.mktemp("made")
    manifest = folder / "m.jsonl"
    shutil.copy(beep_manifest(folder / "in", 6), manifest)
    for output, chunks in (("out.jsonl", {"num_chunks": 2}), ("one.jsonl", {})):
        for chunk in [{"chunk_id": 0}, {"chunk_id": 1}] if chunks else [{}]:
            engine = EngineConfig(model=tiny_en)
            config = RunConfig(manifest=str(manifest), engine=engine, output=str(folder / output), **chunks, **chunk)
            run(config, start=start_beeps)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, where the commands run."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def command(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def refusal(*arguments) -> str:
    error = command(*arguments).exception
    assert isinstance(error, UsageError) and error.exit_code == EXIT_USAGE, (arguments, error)
    assert "\n" not in str(error)
    return str(error)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MERGE = ("merge-shards", "out.jsonl", "--manifest", "m.jsonl", "--overwrite")
REPORT = ("report", "one.jsonl", "--to", "page.html")
MAKE = ("make-manifest", "m.jsonl", "-o", "new.jsonl", "--overwrite", "--workers", "1")
CLEAN = ("validate", "m.jsonl", "--audio", "none", "--overwrite", "--write-clean", "new.jsonl")
LISTED = ("validate", "m.jsonl", "--audio", "none", "--overwrite", "--report", "new.jsonl")
EXPORT = ("export", "one.jsonl", "--overwrite", "--per-run", "--to", ".", "--format")
SUBMIT = ("submit", "m.jsonl", "-m", "tiny", "-o", "out.jsonl", "--num-chunks", "2", "--dry-run")
# What each would write.
WRITES = {
    "merge rows": ("out.jsonl", MERGE),
    "merge record": ("out.run.json", MERGE),
    "merge mark": ("out.done.json", MERGE),
    "merge lease": ("out.lease", MERGE),
    "report": ("page.html", REPORT),
    "make-manifest": ("new.jsonl", MAKE),
    "clean": ("new.jsonl", CLEAN),
    "problems": ("new.jsonl", LISTED),
    "export index": ("one.ctm.index.jsonl", (*EXPORT, "ctm")),
    "export ctm": ("one.ctm", (*EXPORT, "ctm")),
    "export nemo": ("one.nemo.json", (*EXPORT, "nemo")),
    "submit rows": ("out.jsonl", SUBMIT),
    "submit chunk": ("out.chunk-00001-of-00002.inflight", SUBMIT),
    "submit script": ("out.merge.sbatch", SUBMIT),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_no_file_is_refused_and_stays(here, name):
    path, arguments = WRITES[name]
    for kind, make in (
        ("a named pipe", os.mkfifo),
        ("a folder", os.mkdir),
        ("a link that leads to itself", lambda path: os.symlink(path, path)),
        ("a device", lambda path: os.symlink("/dev/null", path)),
    ):
        make(path)
        before = contents(here)
        assert f"is {kind}, not a file" in refusal(*arguments), (name, kind)
        assert contents(here) == before and os.path.lexists(path)
        os.rmdir(path) if kind == "a folder" else os.unlink(path)
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")


INPUTS = {
    "merge rows": ("m.jsonl",),
    "merge record": ("m.jsonl", "out.chunk-00000-of-00002.run.json"),
    "merge mark": ("out.chunk-00001-of-00002.done.json",),
    "report": ("one.jsonl", "one.run.json"),
    "make-manifest": ("m.jsonl",),
    "clean": ("m.jsonl",),
    "problems": ("m.jsonl",),
    "export ctm": ("one.jsonl", "one.done.json"),
    "export nemo": ("one.jsonl", "one.run.json"),
    "submit rows": ("m.jsonl",),
    "submit chunk": ("m.jsonl",),
    "submit script": ("m.jsonl",),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_link_to_an_input_is_no_output(here, name):
    path, arguments = WRITES[name]
    for target in INPUTS[name]:
        for make in (os.symlink, os.link):
            make(target, path)
            before = contents(here)
            said = refusal(*arguments)
            assert "is the input" in said and "give another name" in said, said
            assert contents(here) == before
            os.unlink(path)


@pytest.mark.parametrize("arguments", [MAKE, CLEAN, LISTED], ids=lambda each: each[-2])
def test_a_new_manifest_takes_the_place_of_nothing_that_is_read(here, arguments):
    """Sources by other names than the file's, and the audio of rows."""
    (here / "source.toml").write_text('source = "m.jsonl"\n')
    shutil.copytree("in", "kaldi", ignore=shutil.ignore_patterns("*.jsonl"))
    (here / "kaldi" / "wav.scp").write_text("u0 1.wav\n")
    audio = here / "in" / "without-ending"
    shutil.copy(here / "in" / "1.wav", audio)
    write_jsonl(here / "named.jsonl", [{"audio_filepath": str(audio)}])
    os.symlink(audio, "link")
    before = contents(here)
    for source, output in (
        ("m.jsonl,named.jsonl", "named.jsonl"),
        ("[mn]*.jsonl", "named.jsonl"),
        ("source.toml", "m.jsonl"),
        ("source.toml", "source.toml"),
        ("kaldi", "kaldi/wav.scp"),
        ("in", "in/2.wav"),
        ("named.jsonl", audio),
        ("named.jsonl", "link"),
    ):
        given = [output if each == "new.jsonl" else source if each == "m.jsonl" else each for each in arguments]
        said = refusal(*given)
        assert any(why in said for why in ("is the input", "has the ending of audio", "is one of the audio files")), (
            said
        )
        assert contents(here) == before, (source, output)


def test_a_report_spares_its_references(here):
    shutil.copy("m.jsonl", "page.html")
    assert "page.html: is the input; give another name" in refusal(*REPORT, "--references", "page.html")
    shutil.copy("m.jsonl", "refs.jsonl")
    os.unlink("page.html")
    os.symlink("refs.jsonl", "page.html")
    assert "is the input" in refusal(*REPORT, "--references", "refs.jsonl")


def test_an_export_needs_a_folder(here):
    for make in (os.mkfifo, lambda path: Path(path).touch(), lambda path: os.symlink(path, path)):
        make("to")
        assert " and no folder; give another name" in refusal("export", "one.jsonl", "--format", "srt", "--to", "to")
        os.unlink("to")


@pytest.mark.parametrize("output", ["out.jsonl", "link.jsonl"])
def test_merging_into_a_link_and_beside_hard_links(here, output):
    os.mkdir("far")
    for path in here.glob("out.chunk-*"):
        os.rename(path, f"far/{path.name.replace('out', 'all', 1)}")
    os.symlink("far/all.jsonl", output)
    assert command("merge-shards", output, "--manifest", "m.jsonl").exit_code == EXIT_COMPLETE
    assert [path.name for path in sorted(here.glob("far/all.[!c]*"))] == ["all.done.json", "all.jsonl", "all.run.json"]
    assert os.path.islink(output) and not list(here.glob("*.chunk-*"))
    told = json.loads(command("status", output, "--json").stdout)
    assert told["total"]["merged"] == "complete" and told["total"]["exit_code"] == EXIT_COMPLETE
    os.link("far/all.jsonl", "far/copy.jsonl")
    assert "has 2 names (hard links)" in refusal("merge-shards", output, "--manifest", "m.jsonl")


READS = {
    "score": ("score", "one.jsonl"),
    "compare": ("compare", "one.jsonl", "one.jsonl"),
    "report": ("report", "one.jsonl", "--to", "page.html"),
    "export": ("export", "one.jsonl", "--format", "srt"),
}


@pytest.mark.parametrize("name", READS)
def test_who_only_reads_waits_for_no_pipe(here, name):
    os.unlink("one.jsonl")
    os.mkfifo("one.jsonl")
    assert "one.jsonl: is" in refusal(*READS[name])


@pytest.mark.parametrize("file", ["rows", "record", "done", "lease"])
def test_status_and_merge_wait_for_no_pipe(here, file):
    path = getattr(RunPaths(chunk_path(here / "out.jsonl", 1, 2)), file)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    told = json.loads(command("status", "out.jsonl", "--json").stdout)
    states = [chunk["state"] for chunk in told["chunks"]]
    assert states == ["complete", "complete" if file == "lease" else "damaged"], told
    if file != "lease":
        assert f"{path}: is a named pipe" in told["chunks"][1]["note"]
        done = command("merge-shards", "out.jsonl", "--manifest", "m.jsonl")
        assert done.exit_code == EXIT_ERROR and "is a named pipe" in done.output and done.stdout.strip() == "1"
