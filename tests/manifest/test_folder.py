"""Folders of audio: every file that the decoders read is a row, and what is left out is said, by every command.

Tried before and after: a folder with one .wav and the same sound as .m4v .qt .f4v .3g2 (MP4), .wmv .asf, .mpg .mpeg
.vob .m2p, .MTS .m2ts .m2t, .weba, .ogv, .bwf .wave, .awb (in 3GP): 1 row, now 19, and all of them decode. A text, a
picture, a file without an ending: left out without a word, now named by plan, validate, make-manifest, transcribe. A
folder with metadata.jsonl: an .m4v that it does not name was left out without a word, now it is refused as a .wav is.
A glob with a text among its files was refused; it is noted as in a folder, but not where the text is a manifest, or
was named. Of .3gpp .3gpp2 .m4p .f4p .lrv (MP4), .ogm, .mpe .mod (MPEG), .tod .trp (TS): left out, now rows.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from audio_files import RATE, encode

from asrbatch.audio.tracks import FFMPEG_FORMATS
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.errors import EXIT_COMPLETE, ManifestError, UsageError
from asrbatch.manifest.manifest import open_manifest
from asrbatch.manifest.readers.sniff import ENDINGS
from asrbatch.runs.runner import run

pytest_plugins = "command_line"

BEEP_RUN = Path(__file__).parents[1] / "beep_run.py"
TONE = 0.5 * np.sin(np.arange(2 * RATE) * 0.1).astype(np.float32)
# Container, codec and rate of FFmpeg to the endings its files have.
ENCODED = {
    ("mp4", "aac", 48000): ("m4v", "qt", "f4v", "3g2", "3gpp", "3gpp2", "m4p", "f4p", "lrv"),
    ("asf", "libmp3lame", 44100): ("wmv", "asf"),
    ("mpeg", "mp2", 48000): ("mpg", "mpeg", "vob", "m2p", "mpe", "mod"),
    ("mpegts", "aac", 48000): ("MTS", "m2ts", "m2t", "tod", "trp"),
    ("webm", "libopus", 48000): ("weba",),
    ("ogg", "libopus", 48000): ("ogv", "ogm"),
    ("3gp", "aac", 16000): ("awb",),
}
LEFT_OUT = "3 files are left out, no audio by the ending (no_ending, notes.txt, picture.jpg)"


@pytest.fixture
def folder(tmp_path) -> Path:
    """One sound under 29 names, the text of one, and three other files."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for ending in ("wav", "wave", "bwf"):
        soundfile.write(folder / f"x.{ending}", TONE, RATE, format="WAV")
    for (container, codec, rate), endings in ENCODED.items():
        data = Path(encode(tmp_path / "made", TONE, container, codec, rate)).read_bytes()
        for ending in endings:
            (folder / f"x.{ending}").write_bytes(data)
    (folder / "x.txt").write_text("of all x")
    for name in ("notes.txt", "picture.jpg", "no_ending"):
        (folder / name).write_bytes(b"no audio")
    return folder


def test_every_file_that_a_decoder_reads_is_a_row(folder, cli):
    figures = json.loads(cli("validate", folder, "--audio", "decode", "--json").stdout)
    assert figures["manifest"]["rows"] == figures["rows_passing"] == figures["audio"]["files"] == 29
    assert figures["audio"]["measured_h"] == pytest.approx(29 * 2 / 3600, abs=29 * 0.1 / 3600)


# Pictures, subtitles and links to sound; what FFmpeg calls `.apl` is text.
NO_SOUND = {".avif", ".heic", ".heif", ".mks", ".apl"}


WRITTEN = [
    "mp4", "ipod", "3gp", "3g2", "f4v", "ismv", "psp", "mov", "mp3", "mp2", "ogg", "oga", "ogv", "opus", "spx", "adts",
    "wav", "aiff", "au", "caf", "w64", "asf", "avi", "flv", "mpegts", "mpeg", "vob", "svcd", "amr", "ac3",
    "eac3", "wv", "tta", "matroska", "webm", "flac",
]  # fmt: skip


def test_the_endings_are_those_of_what_ffmpeg_is_let_read():
    endings = set()
    for name, mode in [*((name, "r") for name in FFMPEG_FORMATS.split(",")), *((name, "w") for name in WRITTEN)]:
        if name in av.formats_available:
            with contextlib.suppress(ValueError):  # it only reads, or only writes
                endings |= {f".{ending}" for ending in av.ContainerFormat(name, mode).extensions}
    assert len(endings) > 30 and endings - ENDINGS == NO_SOUND


def test_each_command_says_what_is_left_out(folder, cli_here, tiny_en, tmp_path):
    note = f"{folder}: {LEFT_OUT}; a manifest that names such a file has it read"
    planned = json.loads(cli_here("plan", folder, "--json").stdout)
    assert planned["manifest"]["left_out"] == note and note in planned["notes"]
    validated = cli_here("validate", folder)
    made = cli_here("make-manifest", folder, "-o", "m.jsonl")
    command = [sys.executable, BEEP_RUN, "transcribe", folder, "-m", tiny_en, "-o", tmp_path / "o.jsonl"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    for done, shown in ((validated, validated.stdout), (made, made.stdout), (run, run.stderr)):
        assert done.returncode == EXIT_COMPLETE, done.stderr
        assert LEFT_OUT in " ".join(shown.split())


def test_nothing_is_said_where_nothing_is_left_out(folder):
    for name in ("notes.txt", "picture.jpg", "no_ending"):
        (folder / name).unlink()
    (folder / "._x.wav").write_bytes(b"junk of a Mac")
    manifest = open_manifest(folder)
    assert manifest.left_out is None and set(manifest.figures()) == {"source", "rows", "digest"}


def test_files_of_a_run_that_was_begun_there_are_not_expected(folder):
    """And an output that the folder would be read by from then on is refused."""
    for name in ("out.jsonl", "out.run.json", "out.log", "out.done.json", "b.chunk-00000-of-00002.run.json"):
        (folder / name).write_text("{}")
    assert LEFT_OUT in open_manifest(folder).left_out
    config = RunConfig(str(folder), EngineConfig("x"), output=str(folder / "metadata.jsonl"))
    with pytest.raises(UsageError, match=r"metadata.jsonl: would be read as the list of .*; give another name"):
        run(config)
    assert not (folder / "metadata.jsonl").exists()


def test_several_folders_say_it_each(folder, tmp_path):
    other = tmp_path / "b"
    (other / "below").mkdir(parents=True)
    soundfile.write(other / "a.wav", TONE, RATE)
    for number in range(7):
        (other / "below" / f"{number}\x1b.doc").write_bytes(b"")
    manifest = open_manifest([str(folder), str(other)])
    shown = ", ".join(rf"below/{number}\x1b.doc" for number in range(5))
    assert LEFT_OUT in manifest.left_out
    assert f"{other}: 7 files are left out, no audio by the ending ({shown}, … and 2 more)" in manifest.left_out


def test_a_folder_with_a_list_of_its_rows(folder):
    described = folder / "metadata.jsonl"
    named = [path.name for path in sorted(folder.glob("x.*")) if path.suffix != ".txt"]
    described.write_text("".join(json.dumps({"file_name": name}) + "\n" for name in [*named, "no_ending"]))
    manifest = open_manifest(folder)
    assert len(manifest) == 30
    assert "3 files are left out, no audio by the ending (notes.txt, picture.jpg, x.txt)" in manifest.left_out
    described.write_text("".join(json.dumps({"file_name": name}) + "\n" for name in named if name != "x.m4v"))
    with pytest.raises(ManifestError, match=r"does not name 1 audio files beside it \(x\.m4v\)"):
        open_manifest(folder)


def test_a_glob_notes_what_it_leaves_out_as_a_folder_does(folder):
    assert len(open_manifest(folder / "x.m*")) == 9
    assert open_manifest(folder / "x.m*").left_out is None
    manifest = open_manifest(folder / "*")
    assert len(manifest) == 29 and LEFT_OUT in manifest.left_out
    assert "1 file is left out, no audio by the ending (notes.txt)" in open_manifest(folder / "*.[tw]*").left_out
    with pytest.raises(ManifestError, match=r"notes\.txt"):  # it was named
        open_manifest(f"{folder / 'x.wav'},{folder / 'notes.txt'}")
    (folder / "rows.csv").write_text("a,b\n")
    with pytest.raises(ManifestError, match="which are no manifests"):
        open_manifest(folder / "*")
