"""A file of another kind behind a file, as `cat` joins them: nothing of it is taken for sound, and the row says so.

Before, of 160 pairs 24 were flagged; 16 gave noise of full scale (MP4, AAC and MP3 behind WAV, AIFF, W64, AU or CAF,
MP3 behind AMR), 27 were unreadable (behind AAC, AMR, WavPack, AC-3, TS), and of all others the second was lost without
a word. Behind AMR, TS, WavPack and AC-3 zeros were damage, and behind W64 tags were noise.
"""

import io
import struct

import numpy as np
import pytest
import soundfile as sf
from audio_files import RATE, encode
from audio_loading import load_audio, request

from asrbatch.audio.load import read_header
from asrbatch.errors import RowError

FFMPEG = {
    "mp3": ("mp3", "libmp3lame", 44100), "m4a": ("mp4", "aac", 48000), "adts": ("adts", "aac", 16000),
    "ogg": ("ogg", "libopus", 48000), "mkv": ("matroska", "aac", 48000), "amr": ("amr", "libopencore_amrnb", 8000),
    "ts": ("mpegts", "aac", 48000), "flv": ("flv", "aac", 44100), "asf": ("asf", "libmp3lame", 44100),
    "ac3": ("ac3", "ac3", 48000), "eac3": ("eac3", "eac3", 48000), "wv": ("wv", "wavpack", 16000),
    "tta": ("tta", "tta", 16000), "mpeg": ("mpeg", "mp2", 48000), "avi": ("avi", "mp2", 48000),
    "mp2": ("mp2", "mp2", 48000), "mov": ("mov", "pcm_s16le", 16000), "m4a in fragments": ("mp4", "aac", 48000),
}  # fmt: skip
SNDFILE = ["WAV", "FLAC", "AIFF", "W64", "AU", "CAF", "RF64"]
SECOND = [
    "WAV",
    "FLAC",
    "AIFF",
    "CAF",
    "mp3",
    "mp3 bare",
    "mp3 behind a tag",
    "m4a",
    "ogg",
    "mkv",
    "adts",
    "amr",
    "ac3",
]
TAG = b"ID3\4" + bytes(4) + b"\x10\0" + bytes(2048)


@pytest.fixture(scope="module")
def files(speech_wav, tmp_path_factory) -> dict[str, bytes]:
    """1.5 s of speech in each kind."""
    speech = sf.read(speech_wav, dtype="float32")[0][: 3 * RATE // 2]
    folder, made = tmp_path_factory.mktemp("kinds"), {}
    for name, (container, codec, rate) in FFMPEG.items():
        options = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in name else {}
        with open(encode(folder / "x", speech, container, codec, rate, **options), "rb") as file:
            made[name] = file.read()
    for name in SNDFILE:
        sf.write(written := io.BytesIO(), speech, RATE, format=name)
        made[name] = written.getvalue()
    options = {"write_xing": "0", "id3v2_version": "0"}
    with open(encode(folder / "x", speech, "mp3", "libmp3lame", 44100, **options), "rb") as file:
        made["mp3 bare"] = file.read()
    return made | {"mp3 behind a tag": TAG + made["mp3 bare"]}


def load(data: bytes):
    return load_audio(request(data))


def check_alone(data: bytes, expected: np.ndarray, flags: tuple[str, ...]) -> None:
    got = load(data)
    assert got.flags == flags and read_header(data, request(b"").clip).flags == flags
    # Of MP3 the padding of the last frame is cut only where nothing follows.
    assert 0 <= len(got.samples) - len(expected) < 1000
    assert np.abs(got.samples[: len(expected) - 500] - expected[:-500]).max() < 1e-3


@pytest.mark.parametrize("first", [*FFMPEG, *SNDFILE])
def test_a_file_of_another_kind_is_flagged_and_not_heard(files, first):
    kinds = {"mp3 bare": "mp3", "mp3 behind a tag": "mp3", "mp2": "mp3", "eac3": "ac3", "RF64": "WAV", "mov": "m4a"}
    kind, expected = kinds.get(first, first.split()[0]), load(files[first]).samples
    for second in SECOND:
        if kinds.get(second, second) != kind:
            check_alone(files[first] + files[second], expected, ("trailing_audio",))


@pytest.mark.parametrize(
    "first", ["WAV", "AIFF", "FLAC", "mp3", "m4a", "ogg", "mkv", "adts", "tta", "amr", "ts", "flv"]
)
def test_behind_two_of_one_kind(files, first):
    data, second = files[first] * 2, files["ac3"]
    check_alone(data + second, load(data).samples, ("trailing_audio",))


def no_sound() -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(30_000)
    return {
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + noise,
        "png": b"\x89PNG\r\n\x1a\n" + noise,
        "zip": b"PK\3\4" + noise,
    }


@pytest.mark.parametrize("first", [*FFMPEG, *SNDFILE])
def test_a_picture_behind_is_no_sound(files, first):
    """Before, noise of full scale behind WAV, AIFF, W64, AU, CAF; behind AAC, AMR, AC-3, WavPack unreadable; behind the
    others not flagged."""
    expected = load(files[first]).samples
    for data in no_sound().values():
        check_alone(files[first] + data, expected, ("trailing_audio",))


@pytest.mark.parametrize(
    "first", ["FLAC", *(name for name in FFMPEG if name not in ("amr", "flv", "asf", "wv", "avi"))]
)
def test_what_is_of_no_known_kind_is_flagged(files, first):
    """It may be sound: samples without a header, say. Before, not flagged; behind AAC, AC-3 and TS unreadable."""
    expected, samples = load(files[first]).samples, files["WAV"][44:]
    for data in (samples, b"recorded by somebody\n" * 400, np.random.default_rng(1).bytes(9000)):
        check_alone(files[first] + data, expected, ("trailing_audio",))
    assert load(files[first] + b"\r\n").flags == ()


def test_a_ts_that_lost_some_bytes_goes_on(files):
    """Recordings of radio and television: packets stand at other places from there on, and all of them are heard."""
    data, seconds = files["ts"], load(files["ts"]).duration_s
    assert abs(load(data[:-100] + data).duration_s - 2 * seconds) < 0.3
    middle = len(data) // 2
    assert abs(load(data[:middle] + data[middle + 60 :]).duration_s - seconds) < 0.3
    assert abs(load(data[:middle] + b"x" + data[middle:]).duration_s - seconds) < 0.3


def more_of_their_own(files) -> dict[str, bytes]:
    """Files that end otherwise than most, and have nothing behind them."""
    words, mkv = bytes(range(1, 101)) * 90, files["mkv"]
    void = b"\xec\x50\x00" + bytes(4096)
    segment = mkv.index(b"\x18\x53\x80\x67")
    short = mkv[: segment + 4] + b"\x01" + (2000).to_bytes(7, "big") + mkv[segment + 12 :]
    tag = b"TAG" + bytes(125)
    return {
        "Lyrics3": files["mp3"] + b"LYRICSBEGIN" + words + b"009011LYRICS200" + tag,
        "an APE footer": files["mp3"] + words + b"APETAGEX" + struct.pack("<4I", 2000, 9032, 1, 0) + bytes(8),
        "free to the end": files["m4a"] + b"\0\0\0\0free" + words,
        "XMP that is cut off": files["m4a"] + struct.pack(">I4s", 20_000, b"uuid") + words,
        "void behind the head": mkv[:segment] + void + mkv[segment:],
        "void at the end": mkv + void,
        "a segment that was never corrected": short,
    }


def test_what_is_the_files_own_is_not_flagged(files):
    for name, data in more_of_their_own(files).items():
        kind = "mp3" if name in ("Lyrics3", "an APE footer") else "m4a" if name.startswith(("free", "XMP")) else "mkv"
        got = load(data)
        assert got.flags == () and abs(got.duration_s - load(files[kind]).duration_s) < 0.06, name


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), TAG, bytes(5000)], ids=["ID3v1", "ID3v2", "zeros"])
@pytest.mark.parametrize("first", [*FFMPEG, *SNDFILE])
def test_tags_and_zeros_are_no_sound(files, first, tail):
    check_alone(files[first] + tail, load(files[first]).samples, ())


def test_a_long_file_is_searched_by_halves(files):
    """Frames of MP3, AAC, AC-3 and FLAC state no end of the whole: it lies far before the last part here."""
    second = files["WAV"] * 40
    for first in ("mp3 bare", "adts", "ac3", "ts", "mpeg", "FLAC"):
        data = files[first] * (60 if first != "FLAC" else 1)
        got = load(data + second)
        assert got.flags == ("trailing_audio",) and abs(got.duration_s - load(data).duration_s) < 0.05, first


def test_samples_that_look_like_frames_are_heard(files):
    """Behind the number of samples that a header states stand more: whatever they are, no kind of file begins so."""
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, 40_000).astype("<i2").tobytes()
        for beginning in (b"\xff\xfb\x90\x44", b"\xff\xf1\x50\x80", b"\x0b\x77\x12\x34", b"\x47\x40\x11\x10", b"MThd"):
            data = files["WAV"] + beginning + noise
            assert load(data).flags == () and load(data).duration_s > 3.9


@pytest.mark.parametrize("first", [*FFMPEG, *SNDFILE])
def test_a_file_that_ends_within_its_header(files, first, tmp_path):
    """Before, `unpack requires a buffer of 32 bytes` of CAF and AU."""
    for length in [*range(1, 64, 3), *range(64, 512, 64)]:
        path = tmp_path / str(length)
        path.write_bytes(files[first][:length])
        for read in (load, lambda source: read_header(source, request(b"").clip)):
            try:
                read(str(path))
            except RowError as e:
                assert "\n" not in str(e) and "unpack" not in str(e)
