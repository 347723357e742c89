"""`export --beside`: subtitles where players look, and what cannot be is refused before anything is written."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pysubs2
import pytest
from beep_run import beep_manifest
from conftest import REPO, read_jsonl
from export_rows import failed_row, files, ok_row, write_rows
from new_process import in_new_process

from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_USAGE, OutputError, UsageError
from asrbatch.export.exporter import export
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.row import hash_row

pytest_plugins = "command_line"

BESIDE = ("--format", "srt", "--beside")


def media_row(path: str | None, text: str = "Hello.", **fields) -> dict:
    """A row whose id was made."""
    times = [fields.get(name) for name in ("offset", "duration", "channel")]
    return ok_row(hash_row(path or "", *times), text, audio_filepath=path, **fields)


def test_a_run_of_a_folder_has_subtitles_beside_each_recording(cli_here, tiny_en, tmp_path):
    beep_manifest(tmp_path / "beeps", 0)
    (tmp_path / "talks/2024").mkdir(parents=True)
    media = ["talk.wav", "talk.WAV", "2024/end.of talk.wav"]
    for bursts, file in enumerate(media, 1):
        shutil.copy(tmp_path / f"beeps/{bursts}.wav", tmp_path / "talks" / file)
    command = [sys.executable, REPO / "tests/beep_run.py", "transcribe", "talks", "-m", tiny_en, "-o", "run/o.jsonl"]
    subprocess.run(list(map(str, command)), cwd=tmp_path, check=True, capture_output=True)
    done = cli_here("export", "run/o.jsonl", *BESIDE)
    index = tmp_path / "run/o.export/o.beside.srt.index.jsonl"
    assert done.returncode == EXIT_COMPLETE and done.stdout == f"{index}\n"
    written = ["talk.wav.srt", "talk.WAV.srt", "2024/end.of talk.srt"]
    assert set(files(tmp_path / "talks")) == {*media, *written}
    for bursts, file in enumerate(written, 1):
        assert pysubs2.load(str(tmp_path / "talks" / file))[0].plaintext == " ".join(["beep"] * bursts)
    assert {line["file"] for line in read_jsonl(index)} == {str(tmp_path / "talks" / file) for file in written}
    # They are no rows, and nobody is told of them.
    manifest = open_manifest(tmp_path / "talks")
    assert len(manifest) == 3 and manifest.left_out is None
    done = cli_here("export", "run/o.jsonl", *BESIDE)
    assert "srt: 3 utterances, 0 files written, 3 there already" in done.stderr


def test_ids_do_not_matter_and_times_are_those_of_the_file(tmp_path):
    (tmp_path / "talk.mp4").touch()
    rows = write_rows(tmp_path / "out.jsonl", [media_row(str(tmp_path / "talk.mp4"), id="row-1", offset=60.0)])
    export(rows, ["srt", "vtt"], beside=True)
    assert "00:01:00,000 --> " in (tmp_path / "talk.srt").read_text()
    assert "00:01:00.000 --> " in (tmp_path / "talk.vtt").read_text()


def test_subtitles_that_are_there_are_replaced_only_when_asked(cli_here, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "a.srt").write_text("made by hand")
    write_rows(tmp_path / "out.jsonl", [media_row("a.mp4"), media_row("b.mp4")])
    done = cli_here("export", "out.jsonl", *BESIDE)
    assert done.returncode == EXIT_ERROR and not done.stdout and (tmp_path / "b.srt").exists()
    assert f"1 file is there already and says something else ({tmp_path}/a.srt)" in done.stderr
    assert (tmp_path / "a.srt").read_text() == "made by hand"
    assert cli_here("export", "out.jsonl", *BESIDE, "--overwrite").returncode == EXIT_COMPLETE
    assert "Hello." in (tmp_path / "a.srt").read_text()


def test_a_player_finds_no_older_subtitles_when_a_second_file_of_that_name_is_transcribed(tmp_path):
    for name in ("talk.mp4", "talk.wav"):
        (tmp_path / name).touch()
    rows = [media_row("talk.mp4"), media_row("talk.wav")]
    export(write_rows(tmp_path / "out.jsonl", [rows[0]]), ["srt"], beside=True)
    assert (tmp_path / "talk.srt").exists()
    exported = export(write_rows(tmp_path / "out.jsonl", rows), ["srt"], beside=True)
    assert sorted(path.name for path in tmp_path.glob("*.srt")) == ["talk.mp4.srt", "talk.wav.srt"]
    assert exported.outputs["srt"].renamed == 1
    # Those in a folder are another export, and stay.
    export(tmp_path / "out.jsonl", ["srt"])
    export(tmp_path / "out.jsonl", ["srt"], beside=True)
    assert set(files(tmp_path / "out.export")) == {"talk.mp4.srt", "talk.wav.srt"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (media_row("https://host/talk.mp3"), "audio behind a URL: 1 row (https://host/talk.mp3); give --to"),
        (media_row("data:audio/wav;base64,UklGRg=="), "audio that is no file of its own (in an archive"),
        (media_row("pipe:sox a.wav -t wav -"), "audio that is no file of its own"),
        (media_row(None), "audio that is no file of its own"),
        (media_row("gone/talk.mp4"), "media files that are not there: 1 row ("),
        (
            media_row("there.mp4", offset=5.0),
            "media files with several rows (parts or channels), where a player takes one file: 2 rows (",
        ),
        (media_row("./there.mp4", channel=1), "media files with several rows (parts or channels)"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(row, message, cli_here, tmp_path):
    (tmp_path / "there.mp4").touch()
    write_rows(tmp_path / "out.jsonl", [media_row("there.mp4"), row, failed_row("x")])
    done = cli_here("export", "out.jsonl", *BESIDE)
    assert done.returncode == EXIT_USAGE and not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and f"--beside: {message}" in lines[0] and "--to FOLDER in place of --beside" in lines[0]
    assert set(files(tmp_path)) == {"there.mp4", "out.jsonl"} and not (tmp_path / "out.export").exists()


def test_each_reason_is_a_line_with_the_first_rows(tmp_path):
    rows = [media_row(f"https://host/{n}.mp3") for n in range(5)] + [media_row("gone.mp4")]
    with pytest.raises(UsageError) as refused:
        export(write_rows(tmp_path / "out.jsonl", rows), ["srt"], beside=True)
    remote, gone = str(refused.value).splitlines()
    assert (
        "audio behind a URL: 5 rows" in remote
        and "(https://host/0.mp3, https://host/1.mp3, https://host/2.mp3, … and 2 more)" in remote
    )
    assert f"({tmp_path}/gone.mp4); put them back, or give --to" in gone


def of_run(folder: Path, rows: list[dict], **manifest) -> Path:
    record = {"fingerprint": {}, "sessions": [], "total_rows": len(rows), "num_chunks": None, "manifest": manifest}
    (folder / "out.run.json").write_text(json.dumps(record))
    return write_rows(folder / "out.jsonl", rows)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"audio_folder": None, "holds_audio": True}, "audio that is no file of its own"),
        ({"audio_folder": None, "holds_audio": False}, "relative paths in a run of several manifests: 1 row"),
        ({"audio_folder": "s3://bucket/talks", "holds_audio": False}, "audio behind a URL: 1 row"),
    ],
)
def test_a_relative_path_is_taken_for_no_file_but_its_own(manifest, message, tmp_path):
    (tmp_path / "talk.mp4").touch()  # beside the rows, of all places
    rows = of_run(tmp_path, [media_row("talk.mp4")], source=f"{tmp_path}, {tmp_path}/x", **manifest)
    with pytest.raises(UsageError, match=message):
        export(rows, ["srt"], beside=True)


def test_a_folder_that_may_not_be_written_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "talks").mkdir()
    for name in ("talks/a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    write_rows(tmp_path / "out.jsonl", [media_row("b.mp4"), media_row("talks/a.mp4")])
    in_new_process(export_as_nobody, tmp_path)
    assert not list(tmp_path.rglob("*.srt"))


def export_as_nobody(folder: Path) -> None:
    for parent in (folder, *folder.parents[:-2]):
        parent.chmod(0o755)
    folder.chmod(0o777)
    (folder / "talks").chmod(0o555)
    if os.getuid() == 0:
        os.setuid(pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(UsageError) as refused:
        export(folder / "out.jsonl", ["srt"], beside=True)
    assert f"media files in folders that may not be written: 1 row ({folder}/talks/a.mp4)" in str(refused.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--to", "x"), "--beside, --to: one says where the files go"),
        (("--per-run",), "--beside --per-run: one file for all is beside no media file"),
        (("--times", "row"), "--beside --times row: a player counts from the start of the file"),
        (("--format", "vtt,txt"), "--beside --format txt: players look for srt, vtt only"),
        (("--format", "nemo"), "--beside --format nemo: players look for"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, message, cli_here, tmp_path):
    (tmp_path / "a.mp4").touch()
    write_rows(tmp_path / "out.jsonl", [media_row("a.mp4")])
    done = cli_here("export", "out.jsonl", *BESIDE, *more)
    assert done.returncode == EXIT_USAGE and message in done.stderr and set(files(tmp_path)) == {"a.mp4", "out.jsonl"}


def test_a_full_disk_or_a_name_too_long_is_one_line(tmp_path):
    name = "x" * 252
    (tmp_path / f"{name}.ts").touch()
    rows = write_rows(tmp_path / "out.jsonl", [media_row(f"{name}.ts")])
    with pytest.raises(OutputError, match="File name too long"):
        export(rows, ["srt"], beside=True)
    assert not list(tmp_path.glob(".*"))
