"""All sound that is in a file is heard, where the file itself says something else about it: more than its header
states, gaps, late beginnings, several tracks, recordings joined on, tags, odd scales. What was tried, of 4 s of speech:

| more than the header says | before | after |
|---|---|---|
| of half: WAV (8 kinds of samples), WAVEX, RIFX, RF64, AIFF, AU, CAF, FLAC; two `data` chunks | 0.4 to 3 s | 4 s |
| WAV over 4 GiB | its first seconds | all of it |
| joined: WAV (8 kinds of samples), AIFF (big, little), AU, FLAC (16, 24 bits, tags before) | 2 s | 4 s |
| W64, NIST of half; W64s joined | 4 s | 4 s |
| never finished: WAV, AU; CAF | empty_audio; unreadable | 4 s |
| AIFF never finished | 4 s | 4 s |
| s64, MP3, G.722 in WAV of half; FLAC in it | 2 s; unreadable | 4 s |
| behind WAV: FLAC, Ogg, another rate; joined: ADPCM, ALAC in CAF; ADTS behind Ogg | 2 s | 2 s, `trailing_audio` |
| tags, zeros, text, unknown chunks behind WAV | 4 s | 4 s |

| CAF with a chunk before its sound | before | after |
|---|---|---|
| `free`, `uuid` of 100,000 bytes | begins with the chunk, ends early | 4 s |
| `free`, `uuid` of 10 or 24,496 bytes; `info` | 4 s, the larger late | 4 s |

| gap, within 8 s | before | after |
|---|---|---|
| 2 or 59 s: WebM, MKV, Ogg, TS, FLV, MPEG, MP4, MOV, 3GP, MP4 in fragments | filled, no flag | filled, `gap_filled` |
| 61 or 90 s: Ogg, TS, FLV, MPEG | 8 s: later times early | filled, `gap_filled` |
| 61 or 90 s: WebM, MKV, MP4, MOV, 3GP, MP4 in fragments | unreadable: cut off | filled, `gap_filled` |
| 25 h in MKV without an end | 4 s | unreadable |
| an offset before, in, behind it | right; silence in MP4, MOV, 3GP from a later version on | right |
| AVI, PCM in MOV: no times are in these files | 8 s | 8 s |

| sound 7 s behind the picture | before | after |
|---|---|---|
| MKV, MP4, TS, MOV; at an offset; in the second of joined MP4, MOV, MKV | 4 s: 7 s early | 11 s, `gap_filled` |
| first time stamp at 7 s, no other track: MKV, MP4, MOV, TS, WebM, Ogg, FLV | 4 s | 4 s: the clock begins there |

| several tracks | before | after |
|---|---|---|
| silent first: MKV, MP4, MOV, TS | `no_speech` | the second, `other_tracks` |
| first of an unknown codec, MKV | unreadable | the second, `other_tracks` |
| two that speak: MKV, MP4, MOV, TS | the first | the first, `other_tracks` |
| the second is the default | the first | the second, `other_tracks` |
| `track` 1; 2 of 2; 1 of a WAV | no such field | the second; bad_row; bad_row |

| good files that were refused | before | after |
|---|---|---|
| MP3 with APE, APE and ID3v1, 1 MiB of zeros behind it | unreadable | 4 s |
| MP3 with ID3v1, ID3v2 behind it | 4 s | 4 s |
| zeros behind TS, M2TS, AMR, AMR-WB, AC-3, E-AC-3, WavPack | unreadable | 4 s |
| zeros behind ADTS, Ogg: a few; 2 MiB | 4 s; unreadable | 4 s |
| zeros behind FLV, TTA, MKV | 4 s | 4 s |
| AMR, AMR-WB with DTX | unreadable | all of it |
| joined, another rate: MP3, TS, ADTS, MKV, Vorbis | unreadable | 8 s |
| joined FLAC, at the same rate and another | 4 s | 8 s |
| joined Opus, Vorbis, WebM, MKV, TS, ADTS, MP3 | 8 s | 8 s |
| an offset in the second of joined FLV, TTA, if the first is over 64 KiB | empty_audio | right |
| three joined: MP4, index first, 3GP, MOV, FLV, TTA; AMR | 4 s; unreadable | 12 s |
| an offset up to 1 s behind the joint: TS, MPEG | right, later with `gap_filled` | right |
| Opus, FLAC in Ogg with a comment that FFmpeg complains of | unreadable | 4 s |

| scale and channels | before | after |
|---|---|---|
| whole numbers in float WAV, AIFF, CAF, W64, MOV, MKV, AVI | 32,768 times too loud | `scaled` |
| loud, small, larger than 16 bits | as they are | as they are |
| opposite channels: WAV, FLAC; Vorbis | `no_speech`; its rounding noise | one, `channels_cancel` |
| one of 2, 6, 8 channels speaks | the mean | the mean |
"""

import base64
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
from audio_files import RATE, encode
from audio_loading import load_audio, request

from asrbatch.audio.load import read_header
from asrbatch.errors import RowError


@pytest.fixture(scope="module")
def speech(speech_wav) -> np.ndarray:
    """4 s."""
    return sf.read(speech_wav, dtype="float32")[0][: 4 * RATE]


def load(source, **options):
    return load_audio(request(source, **options))


def file(x: np.ndarray, container: str, subtype: str | None = None, rate: int = RATE, **options) -> bytearray:
    written = io.BytesIO()
    sf.write(written, x, rate, format=container, subtype=subtype, **options)
    return bytearray(written.getvalue())


def with_size(data: bytearray, chunk: bytes, format: str, size: int, behind: int = 4) -> bytes:
    """With another size in the head of a chunk."""
    struct.pack_into(format, data, data.index(chunk) + behind, size)
    return bytes(data)


def joined(*files: bytes) -> bytes:
    return b"".join(map(bytes, files))


def halves(speech: np.ndarray, *kind, **options) -> bytes:
    """Two files joined with `cat`."""
    half = len(speech) // 2
    return joined(file(speech[:half], *kind, **options), file(speech[half:], *kind, **options))


def two_chunks(x: np.ndarray) -> bytes:
    data, half = file(x, "WAV"), len(x)
    start = data.index(b"data") + 8
    head = with_size(data[:start], b"data", "<I", half)
    return joined(head, data[start : start + half], struct.pack("<4sI", b"data", half), data[start + half :])


def flac_of_half(x: np.ndarray) -> bytes:
    data = file(x, "FLAC")
    facts = int.from_bytes(data[18:26], "big")  # the last 36 bits are the number of samples
    data[18:26] = (facts >> 36 << 36 | len(x) // 2).to_bytes(8, "big")
    return bytes(data)


TAG = b"ID3\4" + bytes(4) + b"\x10\0" + bytes(2048)
SAMPLES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
MORE = {
    **{f"WAV of half, {s}": lambda x, s=s: with_size(file(x, "WAV", s), b"data", "<I", 48_000) for s in SAMPLES},
    **{f"WAVs joined, {s}": lambda x, s=s: halves(x, "WAV", s) for s in SAMPLES},
    "WAVEX of half": lambda x: with_size(file(x, "WAVEX"), b"data", "<I", len(x)),
    "RIFX of half": lambda x: with_size(file(x, "WAV", endian="BIG"), b"data", ">I", len(x)),
    "RF64 of half": lambda x: with_size(file(x, "RF64"), b"ds64", "<Q", len(x), 16),
    "two data chunks": two_chunks,
    "never finished": lambda x: with_size(file(x, "WAV"), b"data", "<I", 0),
    "AIFF of half": lambda x: with_size(file(x, "AIFF"), b"SSND", ">I", len(x) + 8),
    "AIFFs joined": lambda x: halves(x, "AIFF"),
    "little-endian AIFFs joined": lambda x: halves(x, "AIFF", endian="LITTLE"),
    "AIFF never finished": lambda x: with_size(file(x, "AIFF"), b"SSND", ">I", 0),
    "AU of half": lambda x: with_size(file(x, "AU"), b".snd", ">I", len(x), 8),
    "AU never finished": lambda x: with_size(file(x, "AU"), b".snd", ">I", 0, 8),
    "AUs joined": lambda x: halves(x, "AU"),
    "W64 of half": lambda x: with_size(file(x, "W64"), b"data\xf3", "<Q", len(x) + 24, 16),
    "W64s joined": lambda x: halves(x, "W64"),
    "NIST of half": lambda x: bytes(file(x, "NIST")).replace(b"-i 64000", b"-i 32000"),
    "CAF of half": lambda x: with_size(file(x, "CAF"), b"data", ">q", len(x) + 4),
    "CAF never finished": lambda x: with_size(file(x, "CAF"), b"data", ">q", -1),
    "FLAC of half": flac_of_half,
    "FLAC of half behind a tag": lambda x: TAG + flac_of_half(x),
    "FLACs joined, tags before": lambda x: joined(
        TAG, file(x[: len(x) // 2], "FLAC"), TAG, file(x[len(x) // 2 :], "FLAC")
    ),
    "FLACs joined": lambda x: halves(x, "FLAC"),
    "FLACs joined, 24 bits": lambda x: halves(x, "FLAC", "PCM_24"),
}


@pytest.mark.parametrize("name", MORE)
def test_more_than_the_header(speech, name):
    data = MORE[name](speech)
    got = load(data)
    assert got.flags == () and abs(got.duration_s - 4) < 0.005
    # A header in the middle of a file without chunks (AU, W64) is heard: a few samples of noise.
    apart = len(got.samples) - len(speech)
    assert np.abs(got.samples[: 2 * RATE] - speech[: 2 * RATE]).max() < 0.04
    assert np.abs(got.samples[2 * RATE + apart :] - speech[2 * RATE :]).max() < 0.04
    part = load(data, offset_s=2.5, duration_s=1.0)
    assert np.array_equal(part.samples, got.samples[round(2.5 * RATE) : round(3.5 * RATE)])
    if "FLAC" in name:  # how long it is nobody knows without reading it
        assert not read_header(data, request(b"").clip).is_exact
    else:
        assert abs(read_header(data, request(b"").clip).num_readable - 4 * RATE) < 80


def test_a_size_that_wrapped_at_4_gib(speech, tmp_path):
    """The first and the last seconds are speech; what lies between takes no room on the disk."""
    data, path = file(speech, "WAV"), tmp_path / "long.wav"
    start, last = data.index(b"data") + 8, data[-2 * RATE :]
    num_bytes = (1 << 32) + len(data) - start
    path.write_bytes(with_size(data, b"data", "<I", num_bytes & 0xFFFFFFFF))
    with open(path, "r+b") as big:
        big.seek(start + num_bytes - len(last))
        big.write(last)
    end_s = num_bytes / 2 / RATE
    assert read_header(str(path), request(b"").clip).num_readable == num_bytes // 2
    assert np.array_equal(load(str(path), offset_s=end_s - 1.0).samples, speech[-RATE:])
    assert np.array_equal(load(str(path), duration_s=4.0).samples, speech)


TAILS = {
    "LIST": b"LIST\4\0\0\0abcd", "ID3v1": b"TAG" + bytes(125), "ID3": b"ID3\3" + bytes(3000), "zeros": bytes(3000),
    "a few bytes": b"\xff\xfe\x80", "APE": b"APETAGEX\xd0\7\0\0" + bytes(500),
    "unknown": b"abcd\4\0\0\0\xff\xfe\xfd\xfc",
}  # fmt: skip


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8"])
def test_what_is_no_sound_behind_a_file(speech, tail, subtype):
    odd = speech[: len(speech) - 1]  # of bytes: an odd number, and a byte to make it even
    got = load(bytes(file(odd, "WAV", subtype)) + TAILS[tail])
    assert len(got.samples) == len(odd) and got.flags == ()


@pytest.mark.parametrize("name", ["another rate", "FLAC", "Ogg", "compressed, joined", "compressed, of half"])
def test_sound_that_cannot_be_read_on_is_flagged(speech, name):
    first = speech[: 2 * RATE]
    data = {
        "another rate": lambda: joined(file(first, "WAV"), file(speech[::2], "WAV", rate=8000)),
        "FLAC": lambda: joined(file(first, "WAV"), file(speech, "FLAC")),
        "Ogg": lambda: joined(file(first, "WAV"), file(speech, "OGG")),
        "compressed, joined": lambda: halves(speech, "WAV", "IMA_ADPCM"),
        "compressed, of half": lambda: with_size(file(speech, "WAV", "MS_ADPCM"), b"data", "<I", 16_640),
    }[name]()
    got = load(data)
    assert got.flags == ("trailing_audio",) and abs(got.duration_s - 2) < 0.1


@pytest.mark.parametrize("kind", ["free", "uuid", "info"])
@pytest.mark.parametrize("size", [10, 24_496, 100_000])
def test_a_caf_file_with_a_chunk_before_its_sound(speech, kind, size):
    data = file(speech, "CAF")
    at = data.index(b"data")
    padded = joined(data[:at], struct.pack(">4sq", kind.encode(), size), bytes(size), data[at:])
    assert np.array_equal(load(padded).samples, load(bytes(data)).samples)
    assert np.array_equal(load(padded, offset_s=2.0).samples, load(bytes(data), offset_s=2.0).samples)
    with pytest.raises(RowError, match="cut off"):
        load(padded[:-2000])


GAPS = {
    "webm": ("libopus", 48000), "matroska": ("aac", 48000), "ogg": ("libopus", 48000), "mpegts": ("aac", 48000),
    "flv": ("aac", 44100), "mpeg": ("mp2", 48000), "mp4": ("aac", 48000), "mov": ("aac", 48000), "3gp": ("aac", 48000),
    "mp4 in fragments": ("aac", 48000),
}  # fmt: skip
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}


# FFmpeg's own limit is a minute, on both sides of which a container is tried.
@pytest.mark.parametrize(
    ("name", "gap_s"), [*((name, 2) for name in GAPS), ("webm", 59), *((name, 61) for name in GAPS)]
)
def test_times_stay_true_across_a_gap(tmp_path, speech, name, gap_s):
    """Offsets before the gap, in it, and behind it: MP4, MOV and 3GP gave silence from within the gap up to a
    second behind it.
    """
    container, (codec, rate), options = name.split()[0], GAPS[name], FRAGMENTS if "fragments" in name else {}
    twice = np.concatenate([speech, speech])
    path = encode(tmp_path / "muted", twice, container, codec, rate, gap_at=6, gap_s=gap_s, **options)
    got = load(path)
    assert got.flags == ("gap_filled",) and abs(got.duration_s - 8 - gap_s) < 0.15
    begin_s = gap_s + 6
    assert np.abs(got.samples[round(6.2 * RATE) : round((begin_s - 0.1) * RATE)]).max() < 0.01
    assert abs(delay(got.samples[begin_s * RATE :], speech[2 * RATE :])) < 1100
    for offset_s in (5.2, 5.9, 6.5, begin_s - 0.5, begin_s - 0.05, begin_s + 0.3, begin_s + 0.9, begin_s + 1.3):
        part = load(path, offset_s=offset_s, duration_s=begin_s + 1.9 - offset_s).samples
        expected = got.samples[round(offset_s * RATE) :][: len(part)]
        assert abs(delay(part, expected)) < 20 and np.abs(part).max() > 0.1, offset_s


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "aac"), ("mpeg", "mp2"), ("adts", "aac"), ("mp3", "libmp3lame"), ("flv", "aac"), ("tta", "tta")],
)
def test_offsets_behind_the_place_where_files_were_joined(tmp_path, speech, container, codec):
    """Before, rows of TS and MPEG up to a second behind it were flagged `gap_filled`, and those of a long FLV or TTA
    found nothing.
    """
    rate = 44100 if container == "flv" else 48000
    data = container_of(tmp_path, np.concatenate([speech, speech]), container, codec, rate)
    got = load(joined(data, data))
    for offset_s in (7.5, 8.2, 8.5, 8.8, 9.2):
        part = load(joined(data, data), offset_s=offset_s, duration_s=1.0)
        assert part.flags == () and abs(delay(part.samples, got.samples[round(offset_s * RATE) :][:RATE])) < 20, (
            offset_s
        )


def delay(samples: np.ndarray, reference: np.ndarray, most: int = 1600) -> int:
    """By how many samples `samples` comes late."""
    n = min(len(samples), len(reference))
    product = np.fft.irfft(np.fft.rfft(samples[:n], 2 * n) * np.conj(np.fft.rfft(reference[:n], 2 * n)))
    return int(np.argmax([product[k] for k in range(-most, most)])) - most


def test_a_jump_past_the_end_of_the_file_is_damage(tmp_path, speech):
    """More than a day, where the container states no end."""
    path = encode(tmp_path / "x.mkv", speech, "matroska", "pcm_s16le", RATE, gap_at=2, gap_s=90_000, live="1")
    with pytest.raises(RowError, match=r"after 2\.00 s its time stamps jump by 90000 s"):
        load(path)


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts", "mov"])
def test_a_track_that_begins_late_keeps_its_time(tmp_path, speech, container):
    path = encode(tmp_path / f"late.{container}", speech, container, "aac", 48000, video=True, late_s=7)
    on_time = encode(tmp_path / f"on-time.{container}", speech, container, "aac", 48000, video=True)
    got, expected = load(path), load(on_time)
    assert got.flags == ("gap_filled",) and expected.flags == ()
    assert abs(got.duration_s - expected.duration_s - 7) < 0.11
    assert abs(delay(got.samples[7 * RATE :], expected.samples)) < 1100
    assert abs(delay(load(path, offset_s=7.5).samples, expected.samples[RATE // 2 :])) < 1100


def tracks(path, *each: np.ndarray, default: int | None = None) -> str:
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("aac", rate=48000, layout="mono") for _ in each]
        if default is not None:
            streams[default].disposition = av.stream.Disposition.default
        for stream, x in zip(streams, each, strict=True):
            frame = av.AudioFrame.from_ndarray(np.repeat(x, 3).reshape(1, -1), "flt", "mono")
            frame.sample_rate, frame.pts = 48000, 0
            resampler = av.AudioResampler("fltp", "mono", 48000, 1024)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
    return str(path)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "ts"])
def test_one_of_several_tracks(tmp_path, speech, ending):
    silence, backwards = np.zeros(3 * RATE, np.float32), np.ascontiguousarray(speech[::-1])
    alone = load(tracks(tmp_path / f"alone.{ending}", speech))
    assert alone.flags == ()
    path = tracks(tmp_path / f"silent-first.{ending}", silence, speech)
    got = load(path)
    assert got.flags == ("other_tracks",) and abs(delay(got.samples, alone.samples)) < 10
    assert "no_speech" in load(path, track=0).flags
    path = tracks(tmp_path / f"people.{ending}", speech, backwards)
    assert abs(delay(load(path).samples, alone.samples)) < 10, "the first"
    assert abs(delay(load(path, track=1).samples, load(tracks(tmp_path / f"b.{ending}", backwards)).samples)) < 10
    with pytest.raises(RowError, match="track 2 does not exist; it has 2, counted from 0"):
        load(path, track=2)
    with pytest.raises(RowError, match="track 1 does not exist; it has 1, counted from 0"):
        load(tmp_path / f"alone.{ending}", track=1)


def test_the_default_track(tmp_path, speech):
    backwards = np.ascontiguousarray(speech[::-1])
    path = tracks(tmp_path / "x.mkv", speech, backwards, default=1)
    assert np.array_equal(load(path).samples, load(path, track=1).samples)


def test_a_wav_file_has_one_track(speech):
    with pytest.raises(RowError, match="track 1 does not exist; it has 1, counted from 0"):
        load(bytes(file(speech, "WAV")), track=1)


def ape(num_bytes: int) -> bytes:
    tag = struct.pack("<8sIIII8s", b"APETAGEX", 2000, num_bytes + 32, 1, 0xA0000000, bytes(8))
    return tag + np.random.default_rng(1).bytes(num_bytes) + tag[:20] + struct.pack("<I8s", 0x80000000, bytes(8))


@pytest.mark.parametrize(
    "tail", [ape(300_000), ape(2000) + b"TAG" + bytes(125), b"TAG" + bytes(125), bytes(1 << 20), b"ID3\4" + bytes(90)]
)
@pytest.mark.parametrize("rate", [44100, 22050])
def test_mp3_with_what_is_no_sound_behind_it(tmp_path, speech, tail, rate):
    path = encode(tmp_path / "x.mp3", speech, "mp3", "libmp3lame", rate)
    with open(path, "rb") as whole:
        data = whole.read()
    expected, got = load(data), load(data + tail)
    # The last frame's padding is cut only where its number of frames is believed.
    assert 0 <= len(got.samples) - len(expected.samples) < 1000
    assert np.abs(got.samples[: len(expected.samples) - 500] - expected.samples[:-500]).max() < 1e-3


ZEROS = {
    "ts": ("mpegts", "aac", 48000), "m2ts": ("mpegts", "aac", 48000), "amr": ("amr", "libopencore_amrnb", 8000),
    "ac3": ("ac3", "ac3", 48000), "ac3 44.1": ("ac3", "ac3", 44100), "eac3": ("eac3", "eac3", 48000),
    "wv": ("wv", "wavpack", 16000), "adts": ("adts", "aac", 16000), "ogg": ("ogg", "libopus", 48000),
    "flv": ("flv", "aac", 44100), "tta": ("tta", "tta", 16000), "mkv": ("matroska", "aac", 48000),
}  # fmt: skip


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_behind_a_file(tmp_path, speech, name):
    """As copying by blocks leaves them. Before, TS, AMR, AC-3 and WavPack were refused, and AMR took them for sound."""
    options = {"mpegts_m2ts_mode": "1"} if name == "m2ts" else {}
    data = container_of(tmp_path, speech, *ZEROS[name], **options)
    expected = load(data)
    for num_zeros in (1, 13, 200, 5000, 1 << 21):
        got = load(data + bytes(num_zeros))
        assert got.flags == () and np.array_equal(got.samples, expected.samples), num_zeros
    assert load(data + bytes(5000), offset_s=2.0).flags == ()


def test_zeros_behind_amr_wb():
    data = (Path(__file__).parents[1] / "data" / "pauses.amr-wb").read_bytes()
    assert np.array_equal(load(data + bytes(3000)).samples, load(data).samples)


PICTURES = {"short": b"\0\0\0\3\xff\xff\xff\xff", "empty": b"", "no type": b"\xff" * 40}


@pytest.mark.parametrize("codec", ["libopus", "flac"])
@pytest.mark.parametrize("picture", PICTURES)
def test_an_ogg_file_with_a_comment_that_ffmpeg_complains_of(tmp_path, speech, codec, picture):
    """Before: "damaged: Attached picture metadata block too short"."""
    path = tmp_path / "x.ogg"
    with av.open(str(path), "w", format="ogg") as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        stream.metadata["METADATA_BLOCK_PICTURE"] = base64.b64encode(PICTURES[picture]).decode() or "!"
        frame = av.AudioFrame.from_ndarray(np.repeat(speech, 3).reshape(1, -1), "flt", "mono")
        frame.sample_rate, frame.pts = 48000, 0
        size = stream.codec_context.frame_size or 1024
        for piece in av.AudioResampler(stream.codec_context.format, "mono", 48000, size).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    got = load(str(path))
    assert got.flags == () and abs(got.duration_s - 4) < 0.05
    # Nor are FFmpeg's words about this file those about the next one.
    with pytest.raises(RowError) as error:
        load(bytes(file(speech, "OGG"))[:100])
    assert "picture" not in str(error.value)


def test_an_ogg_page_that_is_damaged_costs_the_rows_that_hear_it(tmp_path, speech):
    """By its checksum. Before, by FFmpeg's log, which is read seconds ahead and says nothing of a mark that is lost."""
    data = container_of(tmp_path, np.tile(speech, 4), "ogg", "libopus", 48000)
    pages = [at for at in range(len(data)) if data.startswith(b"OggS\0", at)]
    broken = len(pages) // 2
    for place in (pages[broken], pages[broken] + 7, pages[broken + 1] - 1):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        with pytest.raises(RowError, match="damaged: the checksum of an Ogg page"):
            load(bytes(damaged))
        assert load(bytes(damaged), duration_s=2.0).flags == ()
    assert load(data + bytes(100) + b"TAG" + bytes(125)).flags == ()
    assert load(joined(data, container_of(tmp_path, speech, "adts", "aac", 16000))).flags == ("trailing_audio",)


def test_good_files_that_were_refused(tmp_path, speech):
    """Joined recordings, at one rate and at two; read from the start and at an offset in the second."""
    kinds = {
        "mp3": ("mp3", "libmp3lame", 44100), "opus": ("ogg", "libopus", 48000), "webm": ("webm", "libopus", 48000),
        "mkv": ("matroska", "flac", 16000), "ts": ("mpegts", "aac", 48000), "adts": ("adts", "aac", 16000),
        "vorbis": ("ogg", None, 16000), "flac": ("flac", "flac", 16000),
    }  # fmt: skip
    for name, (container, codec, rate) in kinds.items():
        for other in (rate, 24000 if rate == 48000 else 32000):
            if codec is None:
                parts = [bytes(file(speech, "OGG", rate=r)) for r in (16000, 16000 if other == rate else 8000)]
                length_s = 8.0 if other == rate else 12.0
            else:
                rates, length_s = (rate, other), 8.0
                parts = []
                for at, each in enumerate(rates):
                    path = encode(tmp_path / f"{name}-{other}-{at}", speech, container, codec, each)
                    with open(path, "rb") as whole:
                        parts.append(whole.read())
            got = load(joined(*parts))
            assert "gap_filled" not in got.flags and abs(got.duration_s - length_s) < 0.25, (name, other)
            if codec is not None:
                assert abs(delay(got.samples[4 * RATE :], speech, 4000)) < 3500, (name, other)
                part = load(joined(*parts), offset_s=6.0, duration_s=1.0)
                # Where the rate changes, FFmpeg gives one frame of an MP3 the rate of the other.
                most = 50 if other == rate or name != "mp3" else 450
                assert abs(delay(part.samples, got.samples[6 * RATE : 7 * RATE])) < most, (name, other)


@pytest.mark.parametrize("between", [b"", ape(300), b"TAG" + bytes(125), b"ID3\4" + bytes(200), bytes(2000)])
def test_many_joined_mp3_files(tmp_path, speech, between):
    """Before, each tag between two was 26 ms of the clock: at an offset all came early, and from the fifth on silence
    was filled in.
    """
    with open(encode(tmp_path / "x.mp3", speech, "mp3", "libmp3lame", 22050), "rb") as whole:
        data = joined(*[whole.read(), between] * 6)
    got = load(data)
    assert got.flags == () and abs(got.duration_s - 24) < 0.6
    for offset_s in (6.0, 10.0, 14.0, 22.0):
        part = load(data, offset_s=offset_s, duration_s=1.0)
        assert abs(delay(part.samples, got.samples[round(offset_s * RATE) :][:RATE])) < 10


@pytest.mark.parametrize("hole", [bytes(8000), bytes(2000), np.random.default_rng(0).bytes(2000)])
def test_a_hole_in_an_mp3_file_is_damage(tmp_path, speech, hole):
    """Before, up to a second was lost in silence where no Xing header states the length; others are "cut off"."""
    options = {"write_xing": "0", "id3v2_version": "0"}
    data = container_of(tmp_path, speech, "mp3", "libmp3lame", 44100, **options)
    middle = len(data) // 2
    with pytest.raises(RowError, match=r"damaged: after 2\.\d\d s a part of it is not MP3"):
        load(data[:middle] + hole + data[middle + len(hole) :])
    assert load(data + hole).flags == ()
    assert load(data[:middle] + hole, duration_s=1.0).duration_s == 1.0


def container_of(folder, x: np.ndarray, container: str, codec: str, rate: int, **options) -> bytes:
    with open(encode(folder / f"part.{container}", x, container, codec, rate, **options), "rb") as whole:
        return whole.read()


@pytest.mark.parametrize(
    "kinds",
    [
        ["flac 16000", "flac 32000"], ["flac 16000", "libopus 48000"], ["pcm_s16le 8000", "aac 48000"],
        ["libopus 48000", "pcm_f32le 16000", "flac 16000"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("live", ["0", "1"])
def test_joined_matroska_files_with_other_heads(tmp_path, speech, kinds, live):
    """Of `live` ones the size is left open. Before, all were refused, or the second decoded by the first's head."""
    kinds = [(codec, int(rate)) for codec, rate in map(str.split, kinds)]
    parts = [container_of(tmp_path, speech, "matroska", codec, rate, live=live) for codec, rate in kinds]
    got = load(joined(*parts))
    assert got.flags == () and abs(got.duration_s - 4 * len(parts)) < 0.1
    alone = [load(part).samples for part in parts]
    for at, expected in enumerate(alone):
        assert abs(delay(got.samples[4 * RATE * at :], expected)) < 1600, at
    last = 4 * (len(parts) - 1)
    part = load(joined(*parts), offset_s=last + 2.0, duration_s=1.0)
    assert abs(delay(part.samples, got.samples[(last + 2) * RATE : (last + 3) * RATE])) < 2
    assert not read_header(joined(*parts), request(b"").clip).is_exact
    if live == "0":
        with pytest.raises(RowError, match="cut off"):
            load(joined(*parts)[: -len(parts[-1]) // 3])


IN_WAV = ["pcm_s64le", "libmp3lame", "adpcm_g722", "flac"]  # what FFmpeg reads, not libsndfile


@pytest.mark.parametrize("codec", IN_WAV)
def test_more_than_the_header_of_a_wav_file_that_ffmpeg_reads(tmp_path, speech, codec):
    """Before: the first half alone, without a word, or, of one that was never finished, "cut off"."""
    whole = container_of(tmp_path, speech, "wav", codec, RATE)
    expected, at = load(whole).samples, whole.index(b"data") + 4
    (num_bytes,) = struct.unpack_from("<I", whole, at)
    for stated in (num_bytes // 2, 0, 0xFFFFFFFF):
        got = load(with_size(bytearray(whole), b"data", "<I", stated))
        assert np.array_equal(got.samples, expected) and got.flags == (), stated
    got = load(joined(whole, whole))
    assert got.flags == () and abs(len(got.samples) - 2 * len(expected)) < 2500
    with pytest.raises(RowError, match="damaged or cut off"):
        load(whole[: len(whole) // 2])


JOINED = {
    "MP4": ("mp4", "aac", 48000, {}), "MP4, index first": ("mp4", "aac", 48000, {"movflags": "faststart"}),
    "MP4 in fragments": ("mp4", "aac", 48000, FRAGMENTS),
    "3GP": ("3gp", "libopencore_amrnb", 8000, {}), "MOV": ("mov", "pcm_s16le", 16000, {}),
    "FLV": ("flv", "aac", 44100, {}), "TTA": ("tta", "tta", 16000, {}), "AMR": ("amr", "libopencore_amrnb", 8000, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_joined_files_of_which_ffmpeg_reads_the_first(tmp_path, speech, name):
    """Before, all but AMR lost the others without a word, and AMR took what follows a head at wrong places."""
    container, codec, rate, options = JOINED[name]
    data = container_of(tmp_path, speech, container, codec, rate, **options)
    alone, got = load(data), load(joined(data, data, data))
    assert got.flags == () and abs(len(got.samples) - 3 * len(alone.samples)) <= 3 * RATE // 50
    for at in range(3):
        n = len(got.samples) * at // 3
        assert abs(delay(got.samples[n : n + 3 * RATE], alone.samples[: 3 * RATE])) < 20
    part = load(joined(data, data, data), offset_s=9.5, duration_s=1.0)
    assert abs(delay(part.samples, got.samples[round(9.5 * RATE) :][:RATE])) < 20
    assert not read_header(joined(data, data, data), request(b"").clip).is_exact


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("mov", "aac"), ("matroska", "libopus")])
def test_sound_that_begins_late_in_a_recording_that_was_joined_on(tmp_path, speech, container, codec):
    """Before, the pictures before it counted in the first alone."""
    data = container_of(tmp_path, speech, container, codec, 48000, video=True, late_s=3)
    got = load(joined(data, data))
    assert got.flags == ("gap_filled",) and abs(got.duration_s - 14) < 0.2
    assert np.abs(got.samples[round(7.2 * RATE) : round(9.8 * RATE)]).max() < 0.01
    assert abs(delay(got.samples[round(10.01 * RATE) :], speech)) < 1600


def test_the_header_of_a_recorded_live_stream(tmp_path, speech):
    """Its clock has run for a while. Before, `plan --probe` took the clock for the length of Opus."""
    data = container_of(tmp_path, speech, "ogg", "libopus", 48000, late_s=3600)
    assert abs(read_header(data, request(b"").clip).num_frames / 48000 - 4) < 0.02
    assert abs(load(data).duration_s - 4) < 0.02


def test_a_joined_file_that_nothing_reads_is_flagged(tmp_path, speech):
    data = container_of(tmp_path, speech, "caf", "alac", 16000)
    assert load(data).flags == () and load(joined(data, data)).flags == ("trailing_audio",)


def test_the_header_of_a_joined_mp3_file_does_not_speak_of_all(tmp_path, speech):
    """Before, `validate` said that rows of the second recording lie past the end."""
    data = container_of(tmp_path, speech, "mp3", "libmp3lame", 44100)
    header = read_header(data, request(b"").clip)
    assert header.is_exact and abs(header.num_frames / 44100 - 4) < 0.01
    assert not read_header(joined(data, data), request(b"").clip).is_exact


def test_adts_that_returns_to_its_first_rate(tmp_path, speech):
    """Before, what came at another rate counted twice as long, and silence was filled in behind it."""
    first, other = (container_of(tmp_path, speech, "adts", "aac", rate) for rate in (16000, 32000))
    got = load(joined(first, other, first))
    assert got.flags == () and abs(got.duration_s - 12) < 0.3
    part = load(joined(first, other, first), offset_s=9.0, duration_s=1.0)
    assert abs(delay(part.samples, got.samples[9 * RATE : 10 * RATE], 6000)) < 10


def test_damage_and_gaps_in_a_recording_that_was_joined_on(tmp_path, speech):
    """Before, of the second recording damaged pages were left out in silence, and its gaps; and a row of the first
    failed where the second was cut off.
    """
    first = container_of(tmp_path, speech, "ogg", "libopus", 48000)
    gap = container_of(tmp_path, speech, "ogg", "libopus", 48000, gap_at=2, gap_s=5)
    got = load(joined(first, gap))
    assert got.flags == ("gap_filled",) and abs(got.duration_s - 13) < 0.15
    assert np.abs(got.samples[round(6.2 * RATE) : round(10.9 * RATE)]).max() < 0.01
    damaged = bytearray(joined(first, first))
    at = len(first) + len(first) // 2
    damaged[at : at + 8] = bytes(8)
    with pytest.raises(RowError, match="damaged"):
        load(bytes(damaged))
    cut_off = joined(first, first)[:-300]
    with pytest.raises(RowError, match="cut off"):
        load(cut_off)
    assert load(cut_off, duration_s=5.0).duration_s == 5.0


def test_the_header_of_a_film_is_read_without_looking_for_its_first_sound(tmp_path, speech):
    """The default track is silent for a while: hours, in the worst case. Where none is the default one it is heard."""
    silence, other = np.zeros(20 * RATE, np.float32), np.tile(speech, 6)
    path = tracks(tmp_path / "film.mkv", np.concatenate([silence, speech]), other, default=0)
    rest = tracks(tmp_path / "no-default.ts", np.zeros(2 * RATE, np.float32), speech)
    header, num_bytes = read_counted(path)
    assert header.num_tracks == 2 and header.flags == ("other_tracks",)
    assert num_bytes < read_counted(path, track=0)[1] * 4  # opened thrice: to see its tracks, to try one, to read it
    assert abs(read_header(rest, request(b"").clip).num_frames / 48000 - 4) < 0.2


def read_counted(path: str, **clip):
    """The header, and how many bytes were read for it."""

    def count() -> int:
        with open("/proc/self/io", encoding="ascii") as io:
            return int(io.readline().split()[1])

    before = count()
    return read_header(path, request(b"", **clip).clip), count() - before


def test_amr_wb_with_pauses(speech):
    """Frames without sound (SID, NO_DATA); written by VisualOn's encoder at 6.6 kbit/s with DTX."""
    path = Path(__file__).parents[1] / "data" / "pauses.amr-wb"
    got = load(str(path))
    assert abs(got.duration_s - 8) < 0.05 and got.flags == ()
    loudest = np.abs(got.samples).reshape(8, -1).max(axis=1)
    assert loudest[[0, 1, 6, 7]].min() > 0.2 and loudest[3:6].max() < 0.01
    assert abs(delay(load(str(path), offset_s=6.0).samples, got.samples[6 * RATE :])) < 20
    data = path.read_bytes()
    assert abs(load(data + bytes([0x7C, 0x74]) * 50).duration_s - 10) < 0.05  # NO_DATA, and frames that were lost


def test_amr_with_pauses(tmp_path, speech):
    """Frames without sound (SID, NO_DATA), which FFmpeg's own decoder does not take."""
    paused = np.concatenate([speech[: 2 * RATE], np.zeros(4 * RATE, np.float32), speech[2 * RATE :]])
    path = tmp_path / "x.amr"
    with av.open(str(path), "w", format="amr") as out:
        stream = out.add_stream("libopencore_amrnb", rate=8000, layout="mono", options={"dtx": "1"})
        frame = av.AudioFrame.from_ndarray((paused[::2] * 32767).astype("<i2").reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        for piece in av.AudioResampler("s16", "mono", 8000, 160).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    got = load(str(path))
    assert abs(got.duration_s - 8) < 0.1 and np.abs(got.samples[3 * RATE : 5 * RATE]).max() < 0.05
    assert np.abs(got.samples[6 * RATE :]).max() > 0.1


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("AIFF", "FLOAT"), ("CAF", "FLOAT")]
)
def test_floats_in_the_scale_of_int16(speech, container, subtype):
    whole = np.rint(speech * 32768).astype(np.float32)
    got = load(bytes(file(whole, container, subtype)))
    assert got.flags == ("scaled",) and np.abs(got.samples - speech).max() < 2**-15
    assert np.array_equal(load(bytes(file(whole, container, subtype)), offset_s=2.0).samples, got.samples[2 * RATE :])
    for other in (speech * 5, np.sign(speech) * 8, whole * 2 / np.abs(whole).max() * 32768):  # loud, small, too large
        assert load(bytes(file(other, container, subtype))).flags == ()


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mov", "pcm_f32le"), ("mov", "pcm_f64be"), ("matroska", "pcm_f32le"), ("avi", "pcm_f32le"), ("w64", "pcm_f64le")],
)
def test_floats_in_the_scale_of_int16_that_ffmpeg_reads(tmp_path, speech, container, codec):
    """Before, they stayed 32,768 times too loud."""
    got = load(container_of(tmp_path, np.rint(speech * 32768), container, codec, RATE))
    assert got.flags == ("scaled",) and np.abs(got.samples - speech).max() < 2**-15
    assert load(container_of(tmp_path, speech * 5, container, codec, RATE)).flags == ()


@pytest.mark.parametrize("container", ["WAV", "mov"])
def test_the_scale_of_a_file_is_found_once(tmp_path, speech, container):
    """Not for every row that is cut from it."""
    whole, path = np.rint(np.tile(speech, 20) * 32768).astype(np.float32), str(tmp_path / "x")
    if container == "WAV":
        Path(path).write_bytes(file(whole, "WAV", "FLOAT"))
    else:
        encode(Path(path), whole, "mov", "pcm_f32le", RATE)
    first, second = (read_counted(path)[1] for _ in range(2))
    assert first > 4 * len(whole) > 10 * second
    assert load(path, offset_s=70.0).flags == ("scaled",)


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_channels_that_cancel_out(speech, container, subtype):
    data = bytes(file(np.stack([speech, -speech], 1), container, subtype))
    got = load(data)
    assert got.flags == ("channels_cancel",)
    assert np.corrcoef(got.samples, load(data, channel=0).samples)[0, 1] > 0.999
    assert load(data, channel=1).flags == ()
    assert load(bytes(file(np.stack([speech, speech], 1), container, subtype))).flags == ()


@pytest.mark.parametrize("channels", [2, 6, 8])
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_one_channel_that_sounds_cancels_nothing(speech, channels, noise):
    """Before, the voice in the middle of a film was told as channels that cancel, and its level jumped."""
    x = np.random.default_rng(0).standard_normal((len(speech), channels)).astype(np.float32) * noise
    x[:, 1] += speech
    got = load(bytes(file(x, "WAV", "FLOAT")))
    assert got.flags == () and np.abs(got.samples - x.mean(axis=1)).max() < 1e-6
    x[:, 0] -= speech
    assert load(bytes(file(x, "WAV", "FLOAT"))).flags == ("channels_cancel",)
