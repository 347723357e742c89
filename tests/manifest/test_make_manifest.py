"""`asrbatch make-manifest`: whatever the source, the manifest it makes has the same rows, ids and audio, and true
durations.
"""

import json

import av
import numpy as np
import pytest
import soundfile as sf
from audio_files import encode
from audio_loading import load_audio, request
from conftest import read_jsonl, write_jsonl
from source_makers import MAKERS
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.config import SourceOptions
from asrbatch.errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, UsageError
from asrbatch.manifest.make import check_sources, write_manifest
from asrbatch.manifest.manifest import open_manifest

RATE = 16000
WITHOUT_PLACE = ("nemo-tar", "webdataset", "parquet", "saved", "arrow", "hub")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Tones of four lengths, whose rows state other ones."""
    folder, made = tmp_path_factory.mktemp("audio"), []
    for n in range(4):
        file = folder / f"tone{n}.wav"
        sf.write(file, 0.1 * np.sin(np.arange(RATE + 1601 * n) * 0.1), RATE)
        made.append({"id": f"utt{n}", "text": f"é {n}", "duration": 30.0, "lang": "en", "file": file})
    return made


def make(path, *sources, workers=2, headers_only=False, **reading):
    survey = check_sources([str(s) for s in sources], SourceOptions(**reading))
    return write_manifest(survey, path, num_workers=workers, timeout_s=20.0, headers_only=headers_only)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_becomes_lines_with_the_same_ids_and_audio_or_says_why_not(tmp_path, rows, kind):
    (tmp_path / "d").mkdir()
    source = MAKERS[kind](tmp_path / "d", rows)
    path = tmp_path / "new" / "m.jsonl"
    if kind in WITHOUT_PLACE:
        with pytest.raises(
            UsageError, match=r"its audio is bytes inside the source, .*; give the source itself to transcribe"
        ):
            make(path, source)
        assert not path.exists()
        return
    done = make(path, source)
    assert (done.num_measured, done.num_corrected) == (4, 4)
    given, made = open_manifest(source), open_manifest(path)
    assert made.scan.durations_s.tolist() == pytest.approx([1 + 0.1000625 * n for n in range(4)], abs=1e-6)
    for index in range(4):
        ours, theirs = made.read(index), given.read(index)
        assert (ours.id, ours.lang, ours.fields["text"]) == (theirs.id, theirs.lang, theirs.fields["text"])
        same = [load_audio(request(row.audio.resolve())).samples for row in (ours, theirs)]
        assert np.array_equal(*same)


def test_ids_that_were_made_stay_although_durations_come_in(tmp_path, rows):
    folder = tmp_path / "f"
    folder.mkdir()
    for row in rows:
        (folder / row["file"].name).write_bytes(row["file"].read_bytes())
    lines = [{"audio_filepath": f"f/{rows[0]['file'].name}"}] * 2
    write_jsonl(tmp_path / "twice.jsonl", lines)
    make(tmp_path / "m.jsonl", folder, tmp_path / "twice.jsonl")
    alone = [open_manifest(folder), open_manifest(tmp_path / "twice.jsonl")]
    ids = [manifest.read(index).id for manifest in alone for index in range(len(manifest))]
    made = read_jsonl(tmp_path / "m.jsonl")
    assert [row["id"] for row in made] == ids and ids[-1].endswith("-2")
    assert [row["audio_filepath"] for row in made[-2:]] == ["f/tone0.wav"] * 2  # means the same from there
    assert made[0]["audio_filepath"] == "f/tone0.wav"[:0] + str(folder / "tone0.wav")


def test_lossy_files_are_measured_to_the_frame(tmp_path, speech_wav):
    """A duration taken from a header would cut the end off, or name what is not there."""
    samples = sf.read(speech_wav, dtype="float32")[0]
    files = [
        encode(tmp_path / "a.mp3", samples, "mp3", "libmp3lame", 44100),
        encode(tmp_path / "b.mp3", samples, "mp3", "libmp3lame", 16000, write_xing="0", id3v2_version="0"),
        encode(tmp_path / "c.webm", samples, "webm", "libopus", 48000),
        encode(tmp_path / "d.opus", samples, "ogg", "libopus", 48000),
        encode(tmp_path / "e.aac", samples, "adts", "aac", 44100),
    ]
    lines = [{"audio_filepath": file, "offset": offset} for file in files for offset in (0, 1.5)]
    write_jsonl(tmp_path / "m.jsonl", [*lines, {"audio_filepath": files[0], "offset": 0.5, "duration": 1.25}])
    done = make(tmp_path / "made.jsonl", tmp_path / "m.jsonl")
    assert done.num_measured == 11 and done.results.counts == {}
    made = open_manifest(tmp_path / "made.jsonl")
    for index in range(10):
        row, rate = made.read(index), av.open(lines[index]["audio_filepath"]).streams.audio[0].rate
        whole, part = (
            load_audio(request(row.audio.path, sample_rate=rate, offset_s=row.offset_s, duration_s=duration_s))
            for duration_s in (None, row.duration_s)
        )
        assert np.array_equal(part.samples, whole.samples) and part.flags == (), row
    assert made.read(10).duration_s == 1.25
    believed = make(tmp_path / "believed.jsonl", tmp_path / "m.jsonl", headers_only=True)
    assert believed.num_measured == 7  # the lengths of two files are guesses, and those are not written
    assert [("duration" in row) for row in read_jsonl(tmp_path / "believed.jsonl")] == [True] * 2 + [False] * 2 + [
        True
    ] * 4 + [False] * 2 + [True]


def test_no_row_is_left_out_and_none_is_in_another_place(tmp_path, rows):
    sf.write(tmp_path / "short.wav", np.zeros(800), RATE)
    (tmp_path / "junk.wav").write_bytes(b"junk" * 50)
    lines = [
        {"audio_filepath": str(rows[n % 4]["file"]), "note": [n, {"x": None}], "duration": None, "id": n}
        for n in range(50)
    ]
    lines[7] = {"audio_filepath": "gone.wav", "duration": 3.5, "id": 7}
    lines[9] = {"audio_filepath": "junk.wav", "id": 9}
    lines[11] = {"audio_filepath": "short.wav", "duration": 2.0, "id": 11}
    write_jsonl(tmp_path / "m.jsonl", lines)
    for workers in (1, 6):
        done = make(tmp_path / f"{workers}.jsonl", tmp_path / "m.jsonl", workers=workers)
        assert (done.results.num_failing, done.num_measured, done.num_corrected) == (2, 48, 1)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "6.jsonl").read_bytes()
    made = read_jsonl(tmp_path / "1.jsonl")
    assert [row["id"] for row in made] == [str(n) for n in range(50)]
    assert [row.get("note") for row in made] == [line.get("note") for line in lines]
    assert made[7] == {"audio_filepath": "gone.wav", "id": "7", "duration": 3.5}
    assert made[9] == {"audio_filepath": "junk.wav", "id": "9"} and made[11]["duration"] == 0.05


def test_numbers_that_json_lacks_become_null(tmp_path, rows):
    (tmp_path / "m.jsonl").write_text(
        f'{{"audio_filepath": {json.dumps(str(rows[0]["file"]))}, "snr": [NaN, Infinity, 1.5]}}\n'
    )
    make(tmp_path / "made.jsonl", tmp_path / "m.jsonl")
    assert read_jsonl(tmp_path / "made.jsonl")[0]["snr"] == [None, None, 1.5]


def test_the_command(monkeypatch, tmp_path, rows):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(rows[0]["file"].read_bytes())
    monkeypatch.chdir(tmp_path)
    done = run("audio", "-o", "new/m.jsonl")
    assert done.exit_code == EXIT_COMPLETE and "1 of them measured" in done.stdout
    (row,) = read_jsonl(tmp_path / "new/m.jsonl")
    assert row["duration"] == 1.0 and row["audio_filepath"] == str(tmp_path / "audio" / "a.wav")
    (tmp_path / "audio" / "b.wav").write_bytes(b"junk")
    wrong = run("audio", "-o", "new/m.jsonl", "--overwrite", "--json")
    told = json.loads(wrong.stdout)
    assert wrong.exit_code == EXIT_ROWS_FAILED and (told["rows"], told["rows_measured"], told["rows_failing"]) == (
        2,
        1,
        1,
    )
    for arguments, message in (
        (["audio", "-o", "new/m.jsonl"], "exists already"),
        (["audio"], "--output is missing"),
        (["-o", "x.jsonl"], "MANIFEST is missing"),
        (["audio", "-o", "x.jsonl.gz"], "is written as plain text; leave out .gz"),
        (["audio", "-o", "x.jsonl", "--on-bad-row", "fail"], "a row that cannot be run cannot be written"),
        (["audio", "-o", "audio"], "is a folder, not a file"),
        (["audio", "-o", "x.jsonl", "--decode-timeout", "0"], "--decode-timeout 0.0: must be at least 0.001"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, UsageError) and error.exit_code == EXIT_USAGE and message in str(error), arguments


def run(*arguments):
    return CliRunner().invoke(
        app, ["make-manifest", *arguments, *(["--workers", "1"] if "--json" not in arguments else [])]
    )
