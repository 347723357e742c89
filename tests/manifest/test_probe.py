"""Headers: they foretell what decoding does, hostile files are survived, and every file is opened once."""

import base64
import itertools
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from audio_files import LOSSY, encode, write
from audio_loading import load_audio, request
from conftest import write_jsonl
from processes import children, command_line, hold_file

from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import HeaderRequest
from asrbatch.audio.header import Header, predict_decoding
from asrbatch.audio.load import read_header
from asrbatch.audio.windows import WindowConfig
from asrbatch.cli.display import progress
from asrbatch.errors import ManifestError, RowError
from asrbatch.manifest.probe import AudioProbe, _by_file
from asrbatch.manifest.probe_results import MISMATCH, SHOWN_ROWS
from asrbatch.manifest.survey import ManifestStats

RATE = 16000
WHISPER = WindowConfig(RATE, 30.0, 160)
# offset, duration, channel, longest audio; against files of 12 s with one channel, or two. Wrong in one way at most: of
# two wrong things, which is reported depends on the decoder.
PARTS = [
    (None, None, None, None), (None, 12.0, None, None), (3.0, 4.0, 0, None), (3.0, None, None, None), (11.0, 4.0,
    None, None),
    (None, 5.0, None, None), (None, 20.0, None, None), (12.0, None, None, None), (15.0, 2.0, None, None), (None, None,
    1, None),
    (None, None, 5, None), (None, None, None, 10.0), (3.0, None, None, 10.0), (None, 10.0, None, 10.0), (None, 1e-6,
    None, None),
    (11.999, None, None, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """12 s of noise under a tone; speech is not needed where nobody listens."""
    noise = np.random.default_rng(7).standard_normal(12 * RATE) * 0.05
    return (noise + 0.3 * np.sin(np.arange(12 * RATE) * 0.05)).astype(np.float32)


@pytest.fixture(scope="module")
def files(sound, tmp_path_factory) -> dict[str, str]:
    """One file of every kind, some cut off."""
    folder = tmp_path_factory.mktemp("headers")
    made = {}
    for name, (kind, codec, rate, *_) in LOSSY.items():
        bare = {"write_xing": "0", "id3v2_version": "0"} if name == "mp3 bare" else {}
        made[name] = encode(folder / f"{name}.bin", sound, kind, codec, rate, **bare)
    os.rename(made["g722"], folder / "speech.g722")  # it has no header: only its name tells
    made["g722"] = str(folder / "speech.g722")
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("AIFF", "PCM_24"),
        ("NIST", "PCM_16"),
        ("OGG", "VORBIS"),
    ):
        made[f"sf {kind}"] = write(folder, sound, kind, subtype)
    made["stereo"] = write(folder, np.stack([sound, -sound], axis=1), "WAV", "PCM_16", 44100)
    made["video"] = encode(folder / "video.mp4", sound, "mp4", "aac", 44100, video=True)
    for name in ("sf WAV", "sf NIST", "opus"):
        whole = Path(made[name]).read_bytes()
        made[f"cut {name}"] = str(folder / f"cut-{name}.bin")
        Path(made[f"cut {name}"]).write_bytes(whole[: len(whole) // 2 + 1])
    return made


def decoded(path: str, offset_s, duration_s, channel, max_s) -> tuple[str | None, float | None]:
    """What happens when a part is really decoded: error kind, seconds."""
    try:
        options = {
            "offset_s": offset_s,
            "duration_s": duration_s,
            "channel": channel,
            "max_s": max_s,
            "min_samples": 160,
        }
        return None, load_audio(request(path, name="x", **options)).duration_s
    except RowError as e:
        return e.kind, None


def foretold(path: str, offset_s, duration_s, channel, max_s) -> tuple[str | None, float | None]:
    try:
        part = Clip("x", offset_s, duration_s, channel, max_s)
        return None, predict_decoding(read_header(path, Clip("x")), part, sample_rate=RATE, min_samples=160)[0]
    except RowError as e:
        return e.kind, None


def is_near_end(header: Header, offset_s, duration_s) -> bool:
    """Whether a part begins or ends so near the end of the file that a header with slack cannot tell."""
    end_s, slack_s = (frames / header.sample_rate for frames in (header.num_readable, 2 * header.slack))
    starts_s, stops_s = offset_s or 0.0, (offset_s or 0.0) + (duration_s or 1e9)
    return abs(starts_s - end_s) < slack_s or (header.is_cut_off and abs(stops_s - end_s) < slack_s)


def test_headers_foretell_what_decoding_does(files):
    """Never a false alarm; and where the length is more than a guess, nothing is missed and the seconds are right."""
    for (name, path), part in itertools.product(files.items(), PARTS):
        header = read_header(path, Clip("x"))
        kind, seconds = foretold(path, *part)
        really, really_s = decoded(path, *part)
        if kind is not None:
            assert kind == really, (name, part)
        elif header.is_exact and not is_near_end(header, *part[:2]):
            assert really is None, (name, part, really)
            assert seconds == pytest.approx(really_s, abs=max(0.002, header.slack / header.sample_rate)), (name, part)


def test_headers_say_what_a_file_is(files):
    seen = {name: read_header(path, Clip("x")) for name, path in files.items()}
    assert {name: header.container for name, header in seen.items()} == {
        "mp4": "mov aac", "webm": "matroska opus", "mkv": "matroska aac", "opus": "ogg opus", "adts": "aac",
        "mp3": "mp3",
        "mp3 bare": "mp3", "mp3 in wav": "wav mp3", "mp3 in ts": "mpegts mp3", "g722": "adpcm_g722", "alac": "mov alac",
        "mov s32": "mov pcm_s32le", "mov f64": "mov pcm_f64le", "wav s64": "wav pcm_s64le", "avi u8": "avi pcm_u8",
        "sf WAV": "wav pcm_16", "sf FLAC": "flac pcm_16", "sf AIFF": "aiff pcm_24", "sf NIST": "nist pcm_16",
        "sf OGG": "ogg vorbis", "stereo": "wav pcm_16", "video": "mov aac", "cut sf WAV": "wav pcm_16",
        "cut sf NIST": "nist pcm_16", "cut opus": "ogg opus",
    }  # fmt: skip
    assert {name for name, header in seen.items() if header.is_cut_off} == {"cut sf WAV", "cut sf NIST", "cut opus"}
    assert {name for name, header in seen.items() if header.channels == 2} == {"stereo"}
    guessed = {name for name, header in seen.items() if not header.is_exact}
    assert guessed == {"adts", "mp3 bare", "mp3 in wav", "mp3 in ts", "g722", "wav s64", "avi u8"}
    for name, header in seen.items():
        length_s = 12 * RATE / header.sample_rate if name == "stereo" else 12.0
        assert name.startswith("cut") or header.num_frames / header.sample_rate == pytest.approx(length_s, abs=0.3), (
            name
        )
    whole, cut = seen["sf WAV"], seen["cut sf WAV"]
    assert whole.num_frames == 12 * RATE == pytest.approx(cut.num_frames, abs=1) and cut.num_readable == pytest.approx(
        6 * RATE, abs=50
    )


def test_a_decoder_process_reads_the_same_headers(files):
    decoder = Decoder(timeout_s=60)
    try:
        for path in files.values():
            assert decoder.read_header(HeaderRequest(path, Clip("x"))) == read_header(path, Clip("x"))
        for hopeless in (b"", b"not audio at all", "/nowhere.wav"):
            with pytest.raises(RowError) as here:
                read_header(hopeless, Clip("x"))
            with pytest.raises(RowError) as there:
                decoder.read_header(HeaderRequest(hopeless, Clip("x")))
            assert (there.value.kind, there.value.message) == (here.value.kind, here.value.message)
        assert decoder.read_header(HeaderRequest(Path(files["mp3"]).read_bytes(), Clip("x"))).container == "mp3"
    finally:
        decoder.close()


def probe(folder: Path, rows: list[dict], **options) -> AudioProbe:
    survey = ManifestStats(str(write_jsonl(folder / "m.jsonl", rows)))
    return AudioProbe(
        survey.manifest, survey.files, **{"num_workers": 3, "timeout_s": 20.0, "config": WHISPER, **options}
    )


def test_hostile_files_are_survived_and_every_row_is_judged(files, sound, tmp_path):
    hold_file(tmp_path / "hangs.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "garbage.wav").write_bytes(os.urandom(3000))
    (tmp_path / "riff.wav").write_bytes(b"RIFF" + struct.pack("<I", 1 << 31) + b"WAVEfmt " + os.urandom(40))
    sf.write(tmp_path / "nothing.wav", np.empty(0), RATE)
    uri = "data:audio/wav;base64," + base64.b64encode(Path(files["sf WAV"]).read_bytes()).decode()
    good = files["sf WAV"]
    rows = [
        ({"audio_filepath": good, "duration": 12.0}, None),
        ({"audio_filepath": "nowhere.wav"}, "missing"),
        ({"audio_filepath": "empty.wav/x.wav"}, "missing"),
        ({"audio_filepath": "empty.wav"}, "empty_audio"),
        ({"audio_filepath": "nothing.wav"}, "empty_audio"),
        ({"audio_filepath": "garbage.wav"}, "unreadable"),
        ({"audio_filepath": "riff.wav"}, "unreadable"),
        ({"audio_filepath": "folder.wav"}, "unreadable"),
        ({"audio_filepath": "hangs.wav"}, "decode_timeout"),
        ({"audio_filepath": files["cut sf WAV"]}, "unreadable"),
        ({"audio_filepath": files["cut sf WAV"], "duration": 2.0}, MISMATCH),
        ({"audio_filepath": files["cut sf WAV"], "offset": 0.5, "duration": 2.0}, None),
        ({"audio_filepath": good, "channel": 1}, "bad_row"),
        ({"audio_filepath": good, "offset": 12.0}, "empty_audio"),
        ({"audio_filepath": good, "offset": 10.0, "duration": 3.0}, MISMATCH),
        ({"audio_filepath": good, "duration": 11.6}, None),
        ({"audio_filepath": good, "duration": 11.4}, MISMATCH),
        ({"audio_filepath": good, "offset": 0.0, "duration": 3.0}, None),
        ({"audio_filepath": uri, "duration": 12.0}, None),
        ({"audio_filepath": "data:audio/wav;base64,!!!!"}, "unreadable"),
        ({"audio_filepath": files["mp3 bare"]}, None),
    ]
    started = time.monotonic()
    said = {}
    done = probe(
        tmp_path, [row for row, _ in rows], timeout_s=1.0, on_issue=lambda issue: said.setdefault(issue.row, issue.text)
    )
    assert time.monotonic() - started < 60
    assert said[1] == (
        "nowhere.wav: no such file; correct audio_filepath (relative paths start at the manifest's folder), or "
        "drop the row"
    )
    assert (
        said[3] == "empty.wav: the file is empty (0 bytes); write it again, or drop the row"
    )  # a fix of its own, and no other
    assert said[19].endswith("; encode the audio file again")
    told = {index: kind for kind, examples in done.results.examples.items() for index, _ in examples}
    assert [told.get(index) for index in range(len(rows))] == [kind for _, kind in rows]
    assert done.results.num_failing == sum(kind not in (None, MISMATCH) for _, kind in rows)
    for index, (_, kind) in enumerate(rows):
        assert (done.audio_s[index] > 0) == (kind in (None, MISMATCH)), index
    assert done.results.audio_s == pytest.approx(float(done.audio_s.sum()), abs=0.01)
    assert done.results.num_guessed == 1 and done.results.num_unknown == 0
    texts = {index: text for examples in done.results.examples.values() for index, text in examples}
    assert texts[1] == "nowhere.wav: no such file"
    assert texts[8] == "hangs.wav: decoding took longer than 1 s, twice"
    assert texts[12].endswith("channel 1 does not exist; it has 1, counted from 0")
    assert texts[13].endswith("offset 12 s is at or past its end at 12.000 s; correct the offset, or drop the row")
    assert texts[14].endswith("the row goes to 13.00 s, the file ends at 12.00 s")
    assert texts[16].endswith("the row states 11.40 s, the file holds 12.00 s")
    assert "cut off: its header says 12.00 s but only 6.00 s are there" in texts[9]


def test_what_a_model_cannot_hear_is_only_foretold_for_a_model(files, tmp_path):
    sf.write(tmp_path / "long.wav", np.zeros(31 * RATE), RATE, subtype="PCM_U8")
    sf.write(tmp_path / "short.wav", np.zeros(100), RATE)
    rows = [
        {"audio_filepath": "long.wav"},
        {"audio_filepath": "long.wav", "duration": 30.0},
        {"audio_filepath": "short.wav"},
    ]
    found = probe(tmp_path, rows).results
    assert found.counts == {"too_long": 1, MISMATCH: 1, "too_short": 1} and found.num_failing == 2
    assert probe(tmp_path, rows, config=None).results.counts == {MISMATCH: 1}


def interleaved(folder: Path, num_files: int, num_rows: int) -> list[dict]:
    for number in range(num_files):
        sf.write(folder / f"{number}.wav", np.zeros(RATE * (2 + number)), RATE, subtype="PCM_U8")
    return [
        {"audio_filepath": f"{i % num_files}.wav", "offset": i / num_rows, "duration": 0.5} for i in range(num_rows)
    ]


def test_a_file_of_many_rows_is_opened_once(tmp_path):
    seen = []
    done = probe(tmp_path, interleaved(tmp_path, 3, 600), observe=lambda rows, failing: seen.append((rows, failing)))
    assert (done.results.num_files, done.results.num_rows, done.results.counts) == (3, 600, {})
    assert done.results.containers == {"wav pcm_u8": 3} and done.results.sample_rates == {RATE: 3}
    assert seen[-1] == (600, 0) and seen == sorted(seen)
    assert np.all(done.audio_s == 0.5)


@pytest.mark.parametrize("of_run", [False, True])
def test_a_row_is_held_against_the_track_that_it_names(tmp_path, of_run):
    """Before, against the default one: what that lacks was told as a bad row, and its length was taken."""
    with av.open(str(tmp_path / "x.mkv"), "w") as out:
        for stream in [out.add_stream("pcm_s16le", rate=RATE, layout=layout) for layout in ("mono", "stereo")]:
            noise = np.random.default_rng(0).integers(-9999, 9999, (1, 4 * RATE), np.int16)
            frame = av.AudioFrame.from_ndarray(noise, "s16", stream.layout.name)
            frame.sample_rate, frame.pts = RATE, 0
            out.mux([*stream.encode(frame), *stream.encode(None)])
    rows = [{"audio_filepath": "x.mkv", "id": f"{track}{channel}", "track": track, "channel": channel}
            for track, channel in ((0, 0), (1, 1), (0, 1), (2, 0))]  # fmt: skip
    config = WHISPER
    if of_run:
        rows, config = [{"audio_filepath": "x.mkv", "channel": 1}], replace(WHISPER, track=1)
    done = probe(tmp_path, rows, config=config)
    assert done.results.num_files == 1
    assert [done.kind_of(at) for at in range(len(rows))] == (
        ["other_tracks"] if of_run else ["other_tracks", "other_tracks", "bad_row", "bad_row"]
    )


def test_equal_hashes_of_different_files_cost_time_alone(tmp_path):
    rows = [*interleaved(tmp_path, 3, 30), {"audio_filepath": "gone.wav"}]
    survey = ManifestStats(str(write_jsonl(tmp_path / "m.jsonl", rows)))
    options = {"num_workers": 2, "timeout_s": 20.0}
    apart = AudioProbe(survey.manifest, survey.files, **options)
    together = AudioProbe(survey.manifest, np.zeros(len(rows), np.int64), **options)
    assert together.results.counts == apart.results.counts == {"missing": 1}
    assert np.array_equal(together.audio_s, apart.audio_s)
    assert (apart.results.num_files, together.results.num_files) == (4, 31)


def test_the_first_rows_of_each_kind_are_shown(tmp_path):
    rows = [{"audio_filepath": f"{i}.wav"} for i in range(200)]
    found = probe(tmp_path, rows, num_workers=4).results
    assert found.counts == {"missing": 200}
    assert [index for index, _ in found.examples["missing"]] == list(range(SHOWN_ROWS))


def test_rows_are_taken_file_by_file_in_the_order_of_first_rows():
    files = np.array([7, -3, 7, 5, -3, 7])
    assert [group.tolist() for group in _by_file(files)] == [[0, 2, 5], [1, 4], [3]]


def test_audio_inside_parquet_is_probed_from_its_bytes(files, tmp_path):
    cells = [Path(files["mp3"]).read_bytes(), None, b"junk", Path(files["sf WAV"]).read_bytes()]
    audio = pa.array([{"bytes": cell, "path": None if cell else "gone.flac"} for cell in cells])
    pq.write_table(pa.table({"audio": audio, "duration": [12.0, 1.0, 1.0, 9.0]}), tmp_path / "train.parquet")
    survey = ManifestStats(str(tmp_path / "train.parquet"))
    found = AudioProbe(survey.manifest, survey.files, num_workers=2, timeout_s=20.0).results
    kinds = {index: kind for kind, examples in found.examples.items() for index, _ in examples}
    assert kinds == {1: "missing", 2: "unreadable", 3: MISMATCH}
    assert found.containers == {"mp3": 1, "wav pcm_16": 1}


def test_an_error_ends_the_probe_and_its_processes(tmp_path):
    """The manifest changes while one thread hangs: the probe ends at once, and nothing is left of it."""
    hold_file(tmp_path / "hangs.wav")
    survey = ManifestStats(
        str(write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "hangs.wav"}, *interleaved(tmp_path, 2, 50)])),
    )
    before, seen = set(children(os.getpid())), []

    def change_the_manifest(rows: int, failing: int) -> None:
        if rows == 50 and not seen:
            seen.extend(set(children(os.getpid())) - before)
            raise ManifestError("changed")

    started = time.monotonic()
    with pytest.raises(ManifestError, match="changed"):
        AudioProbe(survey.manifest, survey.files, num_workers=2, timeout_s=60.0, observe=change_the_manifest)
    assert time.monotonic() - started < 50
    assert seen and not any(map(is_decoder, seen))


def is_decoder(pid: int) -> bool:
    return b"asrbatch.audio.decoder_process" in command_line(pid)


def test_a_log_gets_a_line_every_half_minute(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    with progress.ProbeBar(600) as bar:
        probe(tmp_path, interleaved(tmp_path, 3, 600), observe=bar.update)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1] == "headers read: 600/600 rows, 0 with bad audio"


def test_damaged_headers_raise_no_false_alarm(files, tmp_path):
    """Bytes of real files changed at random: what a header condemns, decoding condemns as well."""
    random = np.random.default_rng(11)
    condemned = 0
    for name in ("sf WAV", "sf FLAC", "sf AIFF", "mp3", "mp4", "opus", "webm", "sf OGG"):
        whole = np.frombuffer(Path(files[name]).read_bytes(), np.uint8)
        for attempt in range(25):
            data = whole.copy()
            data[random.integers(0, 400, 3)] = random.integers(0, 256, 3)
            path = tmp_path / f"{name}-{attempt}"
            path.write_bytes(data[: random.integers(200, len(data))].tobytes() if attempt % 3 == 0 else data.tobytes())
            kind, _ = foretold(str(path), 1.0, 4.0, None, 30.0)
            if kind is not None:
                condemned += 1
                assert decoded(str(path), 1.0, 4.0, None, 30.0)[0] is not None, path
    assert condemned > 20
