"""Names of files and of manifests, as people have them.

| given | before | after |
|---|---|---|
| `Data: x.wav`, `DATA:x.wav` in a folder, in JSON Lines, CSV, Kaldi | bad row: a data: URI must be base64 | the file |
| `data:,x.wav` in a folder | bad row | the file, as `./data:,x.wav` |
| `12:30 a.wav`, `new⏎line.wav` | the file | the file |
| NFC in JSON, CSV, Kaldi, Parquet, tars, `metadata`, `--audio-folder`; NFD on disk, and the reverse | missing | found |
| a `.txt` beside in the other form; the manifest itself; a glob | no text; does not exist; no match | found |
| `~/a.wav` in JSON, CSV, Kaldi, lhotse, Parquet, TOML, as manifest, `--audio-folder` | missing | found |
| `/dev/stdin`, `/dev/fd/N`, `<(zcat m.gz)`: pipes | is not a regular file | its rows, kept as those of `-` |
| the same: files | paths below `/dev` | paths of the current folder |
| an audio name of 255 bytes with a short ending | bad row: File name too long | its row |
| a manifest, list or output with a name near 255 bytes | exit 1, or a defect | runs, or exit 2 |
| a named pipe: manifest, audio, `.txt`, tar, Kaldi file, rows to be scored | most wait for ever | refused unopened |
| `a.wav b.wav c.wav`, globs among them | usage error, or ids by name alone | as a folder of them |
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from beep_run import beep_manifest, check_rows, start_beeps
from conftest import PYTHON, REPO, read_jsonl, write_jsonl
from source_makers import MAKERS
from typer.testing import CliRunner

from asrbatch.audio.load import _open_file, read_header
from asrbatch.cli.app import app
from asrbatch.config import RunConfig, SourceOptions, run_config
from asrbatch.errors import ManifestError, RowError, UsageError
from asrbatch.export.results import nemo_row
from asrbatch.manifest.manifest import open_manifest
from asrbatch.runs.runner import run
from asrbatch.storage import files
from asrbatch.storage.filenames import find_file
from asrbatch.storage.jsonl import JsonLines
from asrbatch.storage.paths import default_output


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(scope="module")
def tone(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("tone") / "tone.wav"
    sf.write(file, 0.1 * np.sin(np.arange(1600) * 0.1), 16000)
    return file.read_bytes()


@pytest.fixture(autouse=True)
def _not_for_ever():
    """What waits for a pipe would wait for ever."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(60)
    yield
    signal.alarm(0)
    files._unnamed_copy.cache_clear()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(path, rows)


def rows_of(source, **options):
    manifest = open_manifest(source, options=SourceOptions(**options))
    return [manifest.read(index) for index in range(len(manifest))]


def audio_of(rows) -> list[bytes]:
    """What a decoder is given."""
    found = []
    for row in rows:
        with _open_file(row.audio.resolve(), row.audio.name) as file:
            found.append(file.read())
    return found


# --- names that look like something else ------------------------------------------------------------------------------

ODD = ["12:30 a.wav", "DATA:x.wav", "Data: interview, part 1.wav", "Data: x.wav", "data:2024/a.wav", "new\nline.wav"]


def test_odd_names_in_a_folder_are_files_and_stay_so_in_a_manifest_of_it(tmp_path, tone):
    for name in (*ODD, "data:,x.wav", "data:audio/wav;base64,AAAA.wav"):
        put(tmp_path / "d" / name, tone)
    rows = rows_of(tmp_path / "d")
    assert [row.audio.path for row in rows if "./" not in row.audio.path] == [
        str(tmp_path / "d" / name) for name in ODD
    ]
    assert len(rows) == 8 and audio_of(rows) == [tone] * 8
    made = CliRunner().invoke(app, ["make-manifest", str(tmp_path / "d"), "-o", str(tmp_path / "d" / "m.jsonl")])
    assert made.exit_code == 0, made.output
    again = rows_of(tmp_path / "d" / "m.jsonl")
    assert [row.id for row in again] == [row.id for row in rows] and audio_of(again) == [tone] * 8
    assert [row["audio_filepath"] for row in read_jsonl(tmp_path / "d" / "m.jsonl")][2] == "Data: interview, part 1.wav"


@pytest.mark.parametrize("name", ODD[:5])
def test_odd_names_in_manifests(tmp_path, tone, name):
    put(tmp_path / name, tone)
    row = {"id": "u", "text": "t", "duration": 0.1, "lang": "en", "file": Path(name)}
    for kind in ("jsonl", "csv", "kaldi", "json-array"):
        (tmp_path / kind).mkdir()
        source, options = MAKERS[kind](tmp_path / kind, [row]), {"audio_folder": str(tmp_path)}
        if kind == "kaldi":
            put(tmp_path / kind / name, tone)
            options = {}
        assert audio_of(rows_of(source, **options)) == [tone]


def test_data_uris_are_what_they_were(tmp_path):
    for uri, problem in (
        ("data:audio/wav;base64,", "holds no audio"),
        ("DATA:;base64,AAAA", None),
        ("data:audio/wav,%00", "must be base64"),
        ("data:audio/wav;base64", "must be base64"),
        ("data:,x", "must be base64"),
    ):
        path = _lines(tmp_path / "m.jsonl", [{"audio_filepath": uri}])
        with contextlib.nullcontext() if problem is None else pytest.raises(ManifestError, match=problem):
            assert rows_of(path)[0].audio.path is None


# --- two forms of one letter ------------------------------------------------------------------------------------------

WORD = "Übergrößen/für é.wav"


@pytest.mark.parametrize(("written", "on_disk"), [(nfc, nfd), (nfd, nfc), (lambda text: "Ü" + nfd(text[1:]), nfd)])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "kaldi", "json-array"])
def test_a_name_in_one_form_finds_the_file_in_the_other(tmp_path, tone, kind, written, on_disk):
    put(tmp_path / on_disk(WORD), tone)
    (tmp_path / "m").mkdir()
    row = {"id": "u", "text": "t", "duration": 0.1, "lang": "en", "file": tmp_path / written(WORD)}
    rows = rows_of(MAKERS[kind](tmp_path / "m", [row]))
    assert audio_of(rows) == [tone] and rows[0].fields["audio_filepath"] == str(tmp_path / written(WORD))


def test_the_form_that_is_written_counts_before_the_other(tmp_path):
    for form in (nfc, nfd):
        put(tmp_path / form("ü.wav"), form("ü").encode())
    rows = rows_of(_lines(tmp_path / "m.jsonl", [{"audio_filepath": form("ü.wav")} for form in (nfd, nfc)]))
    assert audio_of(rows) == [nfd("ü").encode(), nfc("ü").encode()]
    missing = str(tmp_path / "ö.wav")
    assert find_file(missing) == missing


def test_other_places_where_names_meet(tmp_path, tone, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The metadata of a folder names all files of it; a text stands beside its audio.
    put(tmp_path / "listed" / nfd("ü.wav"), tone)
    _lines(tmp_path / "listed" / "metadata.jsonl", [{"file_name": nfc("ü.wav")}])
    assert audio_of(rows_of(tmp_path / "listed")) == [tone]
    put(tmp_path / "beside" / nfd("ü.wav"), tone)
    put(tmp_path / "beside" / nfc("ü.txt"), b"said")
    manifest = open_manifest(tmp_path / "beside")
    assert manifest.read(0).fields["text"] == "said" and manifest.left_out is None
    # The manifest itself, a glob, a folder.
    path = _lines(tmp_path / nfd("für") / "m.jsonl", [{"audio_filepath": nfc("ü.wav")}])
    assert rows_of(tmp_path / nfc("für") / "m.jsonl")[0].audio.path == str(path.parent / nfc("ü.wav"))
    put(tmp_path / nfd("für") / nfd("ü.wav"), tone)
    assert audio_of(rows_of(path)) == audio_of(rows_of(tmp_path / nfc("für"))) == [tone]
    assert audio_of(rows_of(tmp_path / "*" / nfc("ü*.wav"))) == [tone] * 3
    assert audio_of(rows_of(path, audio_folder=str(tmp_path / nfc("für")))) == [tone]
    monkeypatch.chdir(tmp_path)
    assert len(rows_of(nfc("für/m.jsonl"))) == 1
    # Members of a tar, and paths in a table.
    (tmp_path / "nemo").mkdir()
    rows = [
        {"id": f"{n}", "text": "t", "duration": 0.1, "lang": "en", "file": put(tmp_path / "t.wav", tone)} for n in "ab"
    ]
    tarred = MAKERS["nemo-tar"](tmp_path / "nemo", rows) / "tarred_audio_manifest.json"
    for tar in tarred.parent.glob("*.tar"):
        tar.unlink()
    subprocess.run(["tar", "-cf", tarred.parent / "audio_0.tar", "-C", tmp_path / "beside", nfd("ü.wav")], check=True)
    _lines(tarred, [{"audio_filepath": nfc("ü.wav"), "shard_id": 0}])
    assert audio_of(rows_of(tarred.parent)) == [tone]
    cells = {"audio": [{"bytes": None, "path": str(tmp_path / "beside" / nfc("ü.wav"))}]}
    pq.write_table(pa.table(cells), tmp_path / "m.parquet")
    assert audio_of(rows_of(tmp_path / "m.parquet")) == [tone]


# --- the home folder --------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "kaldi", "json-array"])
def test_a_tilde_in_a_manifest_is_the_home_folder(tmp_path, home, tone, kind):
    put(home / "clips" / "a.wav", tone)
    (tmp_path / "m").mkdir()
    row = {"id": "u", "text": "t", "duration": 0.1, "lang": "en", "file": Path("~/clips/a.wav")}
    rows = rows_of(MAKERS[kind](tmp_path / "m", [row]))
    assert audio_of(rows) == [tone] and rows[0].fields["audio_filepath"] == "~/clips/a.wav"


def test_a_tilde_elsewhere(tmp_path, home, tone, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    put(home / "clips" / "a.wav", tone)
    _lines(home / "m.jsonl", [{"audio_filepath": "a.wav"}])
    options = run_config({"manifest": "~/m.jsonl", "model": "m", "audio_folder": "~/clips"})
    assert audio_of(rows_of(options.manifest, audio_folder=options.reading.audio_folder)) == [tone]
    assert len(rows_of(Path("~/clips"))) == len(rows_of("~/clips/*.wav")) == 1
    (tmp_path / "m.toml").write_text('source = "~/m.jsonl"')
    assert rows_of(tmp_path / "m.toml")[0].audio.path == str(home / "a.wav")
    pq.write_table(pa.table({"audio": [{"bytes": None, "path": "~/clips/a.wav"}]}), tmp_path / "m.parquet")
    assert audio_of(rows_of(tmp_path / "m.parquet")) == [tone]
    pq.write_table(pa.table({"audio_filepath": ["~/clips/a.wav"]}), tmp_path / "p.parquet")
    assert audio_of(rows_of(tmp_path / "p.parquet")) == [tone]
    cuts = MAKERS["lhotse-json"](tmp_path, [
        {"id": "u", "text": "t", "duration": 0.1, "lang": "en", "file": home / "clips" / "a.wav"}
    ])  # fmt: skip
    cuts.write_text(cuts.read_text().replace(str(home), "~"))
    assert audio_of(rows_of(cuts)) == [tone]
    assert nemo_row({"id": "u", "audio_filepath": "~/clips/a.wav"}, "/d")["audio_filepath"] == f"{home}/clips/a.wav"
    # What is called so, is no user's, or lies behind a URL.
    put(tmp_path / "d" / "~nobody-is-called-so.wav", tone)
    put(tmp_path / "d" / "~" / "a.wav", b"another")
    assert sorted(audio_of(rows_of(tmp_path / "d"))) == [tone, b"another"]
    lines = [{"audio_filepath": "~nobody-is-called-so.wav"}, {"audio_filepath": "./~/a.wav"}]
    assert audio_of(rows_of(_lines(tmp_path / "d" / "m.jsonl", lines))) == [tone, b"another"]
    _lines(tmp_path / "url.jsonl", [{"audio_filepath": "~/a.wav"}])
    assert rows_of(tmp_path / "url.jsonl", audio_folder="https://host/x")[0].audio.url == "https://host/x/~/a.wav"


def test_clean_rows_keep_their_tilde(tmp_path, home, tone):
    put(home / "a.wav", tone)
    line = '{"audio_filepath":  "~/a.wav"}\n'
    (tmp_path / "m.jsonl").write_text(line)
    arguments = ["validate", str(tmp_path / "m.jsonl"), "--write-clean", str(tmp_path / "x" / "clean.jsonl")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "x" / "clean.jsonl").read_text() == line


# --- what can be read once --------------------------------------------------------------------------------------------


def piped(data: bytes) -> int:
    """The reading end of a pipe with these bytes in it."""
    end, begin = os.pipe()
    os.write(begin, data)
    os.close(begin)
    return end


@pytest.mark.parametrize("as_file", [False, True])
def test_a_descriptor_is_a_manifest_with_paths_of_the_current_folder(tmp_path, tone, monkeypatch, as_file):
    put(tmp_path / "a.wav", tone)
    path = _lines(tmp_path / "below" / "m.jsonl", [{"audio_filepath": "a.wav"}])
    monkeypatch.chdir(tmp_path)
    descriptor = os.open(path, os.O_RDONLY) if as_file else piped(path.read_bytes())
    for place in ("/dev/fd", "/proc/self/fd"):
        if as_file:
            os.lseek(descriptor, 0, os.SEEK_SET)
        elif place == "/proc/self/fd":
            os.close(descriptor)
            descriptor = piped(path.read_bytes())
        assert audio_of(rows_of(f"{place}/{descriptor}")) == [tone]
        assert audio_of(rows_of(f"{place}/{descriptor}")) == [tone]  # what was read is kept
    os.close(descriptor)
    files._unnamed_copy.cache_clear()
    with pytest.raises(UsageError, match=rf"/dev/fd/{descriptor}: Bad file descriptor; this process was given no such"):
        open_manifest(f"/dev/fd/{descriptor}")


def test_dev_stdin_is_a_dash(tmp_path, tone, monkeypatch):
    put(tmp_path / "a.wav", tone)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(b'{"audio_filepath": "a.wav"}\n')}))
    assert audio_of(rows_of("/dev/stdin")) == [tone]
    done = CliRunner().invoke(app, ["validate", "-", "/dev/stdin"])
    assert isinstance(done.exception, UsageError) and "standard input can be read once" in str(done.exception)


def test_process_substitution_and_redirection_as_commands_take_them(tmp_path, tone):
    put(tmp_path / "a.wav", tone)
    _lines(tmp_path / "x" / "m.jsonl", [{"audio_filepath": "a.wav"}])
    script = """
        gzip -k x/m.jsonl
        asrbatch validate <(zcat x/m.jsonl.gz) && asrbatch validate /dev/stdin < x/m.jsonl &&
        cat x/m.jsonl | asrbatch validate /dev/stdin && asrbatch validate <(cat x/m.jsonl) <(cat x/m.jsonl)
    """
    done = subprocess.run(
        ["bash", "-c", f'asrbatch() {{ "{PYTHON}" -m asrbatch "$@"; }}; {script}'],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("rows") >= 4, done.stderr


def test_a_run_keeps_what_came_on_a_descriptor_and_goes_on_without_it(tmp_path, tiny_en, monkeypatch):
    manifest = beep_manifest(tmp_path / "in", 4)
    monkeypatch.chdir(tmp_path / "in")
    descriptor = piped(manifest.read_bytes())
    config = {"manifest": f"/dev/fd/{descriptor}", "model": tiny_en, "output": str(tmp_path / "out.jsonl")}
    assert run(run_config(config), start=start_beeps).outcome == "complete"
    os.close(descriptor)
    check_rows([tmp_path / "out.jsonl"], range(4))
    assert (tmp_path / "out.manifest.jsonl").read_bytes() == manifest.read_bytes()
    empty = os.open(os.devnull, os.O_RDONLY)  # as a requeued job has it
    monkeypatch.chdir(tmp_path)
    again = run(run_config({**config, "manifest": f"/dev/fd/{empty}"}), start=start_beeps)
    os.close(empty)
    assert again.outcome == "already_complete"
    assert RunConfig(manifest="/dev/fd/63", engine=run_config(config).engine).output_path.name.startswith("stdin.")
    with pytest.raises(UsageError, match="/dev/fd/63: can be read only once, and not beside another manifest"):
        run_config({**config, "manifest": [str(manifest), "/dev/fd/63"]})


def test_a_source_file_names_none(tmp_path):
    for source in ("-", "/dev/stdin", "/dev/fd/5"):
        (tmp_path / "m.toml").write_text(f'source = "{source}"')
        with pytest.raises(ManifestError, match="must name what to read"):
            open_manifest(tmp_path / "m.toml")


# --- names near the system's limit ------------------------------------------------------------------------------------


def test_long_names_of_audio_and_manifests(tmp_path, tone):
    for name in ("x" * 252 + ".au", "ü" * 125 + ".wav"):
        put(tmp_path / "d" / name, tone)
    assert audio_of(rows_of(tmp_path / "d")) == [tone] * 2
    path = _lines(tmp_path / ("m" * 249 + ".jsonl"), [{"audio_filepath": "d/" + "x" * 252 + ".au"}])
    assert audio_of(rows_of(path)) == [tone]
    for model in ("m", "org/" + "n" * 200):
        made = default_output(str(path), model)
        assert len(made.name) < 200 and made.name.startswith("mmm") and made.suffix == ".jsonl"
    (row,) = rows_of(_lines(tmp_path / "m.jsonl", [{"audio_filepath": "y" * 5000}]))
    with pytest.raises(RowError, match="unreadable: .*File name too long"):
        read_header(row.audio.resolve(), clip_of(row))


def clip_of(row):
    from asrbatch.audio.clip import Clip

    return Clip(row.audio.name)


def test_an_output_of_too_long_a_name_is_refused_at_once(tmp_path, tiny_en):
    manifest = beep_manifest(tmp_path / "in", 2)
    fits, too_long = (str(tmp_path / ("o" * number + ".jsonl")) for number in (211, 212))
    options = {"manifest": str(manifest), "model": tiny_en}
    assert run(run_config({**options, "output": fits}), start=start_beeps).outcome == "complete"
    for more in ({"output": too_long}, {"output": fits, "num_chunks": 2, "chunk_id": 0}):
        with pytest.raises(UsageError, match="is too long a name for the run's other files; choose a shorter one"):
            run_config({**options, **more})
    for command in (["make-manifest", str(manifest), "-o"], ["validate", str(manifest), "--report"]):
        done = CliRunner().invoke(app, [*command, str(tmp_path / ("o" * 240 + ".jsonl"))])
        assert isinstance(done.exception, UsageError) and "is too long a name" in str(done.exception)


def test_a_list_longer_than_a_name_can_be_submitted(tmp_path, tiny_en):
    parts = [_lines(tmp_path / f"{'p' * 90}{n}.jsonl", [{"audio_filepath": f"{n}.wav"}]) for n in range(4)]
    arguments = ["submit", ",".join(map(str, parts)), "-m", tiny_en, "-o", str(tmp_path / "o.jsonl")]
    done = CliRunner().invoke(app, [*arguments, "--num-chunks", "2", "--dry-run"])
    assert done.exit_code == 0 and str(parts[3]) in done.output


# --- named pipes ------------------------------------------------------------------------------------------------------


def test_a_named_pipe_is_refused_without_being_opened(tmp_path, tone):
    for name in ("m.jsonl", "m.toml", "d/a.wav", "d/b.txt", "t.tar", "k/wav.scp", "listed/metadata.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    for name in ("m.jsonl", "m.toml", "d/a.wav", "t.tar"):
        with pytest.raises(ManifestError, match="is not a regular file"):
            open_manifest(tmp_path / name)
    with pytest.raises(ManifestError, match="is not a regular file"):
        _lines(tmp_path / "n.json", [{"audio_filepath": "x.wav"}])
        open_manifest(tmp_path / "n.json", options=SourceOptions(tars=str(tmp_path / "t.tar")))
    for folder in ("k", "listed"):
        with pytest.raises(ManifestError):
            open_manifest(tmp_path / folder)
    put(tmp_path / "d" / "b.wav", tone)
    piped_row, good = rows_of(tmp_path / "d")
    assert "text" not in good.fields
    with pytest.raises(RowError, match="unreadable: .*not a regular file"):
        read_header(piped_row.audio.resolve(), clip_of(piped_row))
    with pytest.raises(UsageError, match=r"m\.jsonl: is not a regular file; write what comes through it to a file"):
        JsonLines([tmp_path / "m.jsonl"])


# --- several arguments ------------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path, tone):
    for name in ("b.wav", "a.wav", "c, d.wav", "sub/a.wav"):
        put(tmp_path / "clips" / name, tone)
    put(tmp_path / "clips" / "a.txt", b"said")
    return tmp_path / "clips"


def test_audio_files_are_taken_as_their_folder_is(clips, monkeypatch):
    folder = open_manifest(clips)
    files = [str(clips / name) for name in ("b.wav", "a.wav", "c, d.wav", "sub/a.wav")]
    monkeypatch.chdir(clips)
    for given in (
        files, list(map(Path, files)), ["b.wav", "a.wav", "c, d.wav", "sub/a.wav"], ["*.wav", "sub/*.wav"],
        ["a.wav", *files], tuple(reversed(files)),
    ):  # fmt: skip
        manifest = open_manifest(given)
        assert manifest.scan.digest == folder.scan.digest
        assert [manifest.read(n).fields for n in range(4)] == [folder.read(n).fields for n in range(4)]
    assert manifest.read(0).fields == {"audio_filepath": "a.wav", "text": "said"}
    assert open_manifest(files, options=SourceOptions(format="folder")).scan.digest == folder.scan.digest


def test_what_is_no_audio_among_them_is_a_manifest_or_refused(clips, tmp_path):
    manifest = _lines(tmp_path / "m.jsonl", [{"audio_filepath": "x.wav"}])
    assert [row.audio.name for row in rows_of([clips / "b.wav", manifest])] == ["b.wav", "x.wav"]
    with pytest.raises(ManifestError, match=r"gone\.wav: does not exist"):
        open_manifest([clips / "b.wav", clips / "gone.wav"])
    with pytest.raises(ManifestError, match=r"a\.txt: starts with"):
        open_manifest([clips / "b.wav", clips / "a.txt"])


def test_a_run_of_several_files(tmp_path, tiny_en, monkeypatch):
    manifest = beep_manifest(tmp_path / "in", 3)
    files = sorted(str(path) for path in manifest.parent.glob("[123].wav"))
    monkeypatch.chdir(tmp_path)
    summary = run(run_config({"manifest": files, "model": tiny_en}), start=start_beeps)
    assert summary.outcome == "complete" and summary.paths.rows.name.startswith("in.")
    for path in sorted(manifest.parent.iterdir()):
        if str(path) not in files:
            path.unlink()
    options = {"model": tiny_en, "output": str(summary.paths.rows)}
    assert run(run_config({"manifest": manifest.parent, **options}), start=start_beeps).outcome == "already_complete"
    assert run(run_config({"manifest": "in/*.wav", **options}), start=start_beeps).outcome == "already_complete"


def test_commands_of_a_run_of_several_files(clips, tmp_path, tiny_en):
    files = sorted(str(path) for path in clips.glob("*.wav"))
    run_of = [*files, "-m", tiny_en, "-o", str(tmp_path / "o.jsonl"), "--num-chunks", "2"]
    planned = json.loads(CliRunner().invoke(app, ["plan", *run_of, "--json"]).output)
    assert planned["manifest"]["rows"] == 3
    submitted = CliRunner().invoke(app, ["submit", *run_of, "--dry-run"])
    assert submitted.exit_code == 0
    merge = " ".join(f"--manifest {file!r}" if " " in file else f"--manifest {file}" for file in files)
    for text in (planned["commands"]["merge"], submitted.output):
        assert merge in text
    assert planned["commands"]["chunk"].startswith(f"asrbatch transcribe {files[0]} {files[1]} '{files[2]}' ")


def test_chunks_of_several_files_are_merged(tmp_path, tiny_en):
    folder = beep_manifest(tmp_path / "in", 1).parent
    files = sorted(str(path) for path in folder.glob("*.wav"))
    output = tmp_path / "out.jsonl"
    for chunk_id in (0, 1):
        options = {"output": str(output), "num_chunks": 2, "chunk_id": chunk_id, "model": tiny_en}
        run(run_config({"manifest": files, **options}), start=start_beeps)
    arguments = ["merge-shards", str(output)]
    for file in files:
        arguments += ["--manifest", file]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert [row["audio_filepath"] for row in read_jsonl(output)] == [os.path.basename(file) for file in files]
    shutil.rmtree(folder / "none", ignore_errors=True)


# --- encodings of names -----------------------------------------------------------------------------------------------


def test_names_are_utf_8_whatever_the_locale_is(tmp_path, tone):
    put(tmp_path / "für 日.wav", tone)
    _lines(tmp_path / "ö.jsonl", [{"audio_filepath": "für 日.wav"}])
    # As in a locale of another encoding, of which a machine need have none.
    ascii_names = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(REPO)}
    environment = {**os.environ, **ascii_names}
    encoding = subprocess.run(
        [PYTHON, "-c", "import sys; print(sys.getfilesystemencoding())"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert encoding.stdout.strip() == "ascii"
    for source in ("ö.jsonl", "."):
        command = [PYTHON, "-m", "asrbatch", "validate", source, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60)
        found = json.loads(done.stdout)
        assert done.returncode == 0 and found["audio"]["files"] == 1 and done.stdout.isascii(), done.stderr
