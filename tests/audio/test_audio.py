"""Real files in every container we claim, made here from one real sentence; and files that are broken in many ways."""

import io
import itertools
import os
import re
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from audio_files import EXACT, LOSSY, RATE, encode, write
from audio_loading import decode, load_audio, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrbatch.audio import ffmpeg, sndfile
from asrbatch.audio.decoder import Decoder
from asrbatch.errors import RowError


@pytest.fixture(scope="module")
def speech(speech_wav) -> np.ndarray:
    """12 s without repetition: the sentence, the same backwards, and halved."""
    x, rate = sf.read(speech_wav, dtype="float32")
    assert rate == RATE and x.ndim == 1
    return np.concatenate([x, x[::-1], 0.5 * x, -0.5 * x[::-1], 0.25 * x])[: 12 * RATE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def lossy(folder, speech) -> dict[str, str]:
    """Every file of `LOSSY`, and the two Ogg files that libsndfile writes."""
    files = {}
    for name, (container, codec, rate, *_) in LOSSY.items():
        bare = {"write_xing": "0", "id3v2_version": "0"} if name == "mp3 bare" else {}
        path = folder / (name if name != "g722" else "speech.g722")
        files[name] = encode(path, speech, container, codec, rate, **bare)
    return files | {"vorbis": write(folder, speech, "OGG", "VORBIS"), "sf mp3": write(folder, speech, "MP3")}


def load(source, **options):
    return load_audio(request(source, **options))


def fails(source, **options) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        load(source, **options)
    assert "\n" not in caught.value.message and caught.value.message.startswith(options.get("name", "row 7"))
    return caught.value.kind, caught.value.message


def lag(samples: np.ndarray, reference: np.ndarray, most: int = 1600) -> int:
    """By how many samples `samples` comes late, found by correlation of their middles."""
    n = min(len(samples), len(reference))
    corr = np.fft.irfft(np.fft.rfft(samples[:n], 2 * n) * np.conj(np.fft.rfft(reference[:n], 2 * n)))
    return int(np.argmax([corr[k] for k in range(-most, most)])) - most


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(("container", "subtype"), EXACT)
def test_pcm_like_files_are_read_to_the_sample(folder, speech, container, subtype):
    path = write(folder, speech, container, subtype)
    whole = load(path)
    assert whole.samples.dtype == np.float32 and whole.samples.flags.c_contiguous and whole.samples.flags.writeable
    assert whole.sample_rate == RATE and whole.flags == () and whole.read_s > 0
    assert np.array_equal(whole.samples, sf.read(path, dtype="float32")[0])
    assert np.abs(whole.samples[: len(speech)] - speech).max() <= EXACT[container, subtype]
    part = load(path, offset_s=7.25, duration_s=1.5)
    assert np.array_equal(part.samples, whole.samples[116000:140000])
    assert np.array_equal(load(Path(path).read_bytes(), offset_s=7.25, duration_s=1.5).samples, part.samples)


@pytest.mark.parametrize("name", [*LOSSY, "vorbis", "sf mp3"])
def test_other_files_are_read_in_place(lossy, speech, name):
    *_, rate, late, exact = LOSSY.get(name, (RATE, 0, True))
    whole = load(lossy[name]).samples
    late = round(late * RATE / rate)
    assert abs(lag(whole, speech) - late) <= 8  # half a millisecond: the time stamps of WebM
    n = min(len(whole) - late, len(speech))
    assert np.corrcoef(whole[late : late + n], speech[:n])[0, 1] > 0.9
    assert abs(len(whole) - late - len(speech)) < 0.15 * RATE
    for offset_s in (0.5, 4.9, 5.1, 7.25, 11.0):  # decoded from the start, and skipped to
        part = load(lossy[name], offset_s=offset_s, duration_s=0.8).samples
        expected = whole[round(offset_s * RATE) :][: len(part)]
        assert len(part) == 0.8 * RATE
        if exact:
            assert np.corrcoef(part, expected)[0, 1] > 0.9999  # not equal: AAC replaces noise by other noise
        assert abs(lag(part, expected, 160)) <= (0 if exact else 8)


def test_the_sound_of_a_video_is_read(folder, speech):
    path = encode(folder / "video.mp4", speech, "mp4", "aac", 44100, video=True)
    assert len(av.open(path).streams) == 2
    assert lag(load(path).samples, speech) == 0
    assert lag(load(path, offset_s=8.0, duration_s=2.0).samples, speech[128000:160000]) == 0


def test_vbr_mp3_without_a_length_is_read_to_its_end(folder, speech):
    """libsndfile guesses a length there and stops at it."""
    path = folder / "vbr.mp3"
    quiet_then_loud = np.concatenate([np.zeros(20 * RATE, np.float32), speech])
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=RATE, layout="mono", options={"flags": "+qscale"})
        stream.codec_context.global_quality = 2 * 118
        frame = av.AudioFrame.from_ndarray(quiet_then_loud[None], "fltp", "mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    assert abs(load(str(path)).duration_s - 32) < 0.15


def test_joined_mp3_files_are_read_through_the_tag_between_them(lossy):
    one = Path(lossy["mp3"]).read_bytes()
    assert one[:3] == b"ID3"
    assert abs(load(one + one).duration_s - 2 * load(one).duration_s) < 0.15


def test_flac_written_to_a_pipe_is_read(folder, speech):
    """Its header gives no length; libsndfile fails at the end of it."""
    data = bytearray(Path(write(folder, speech, "FLAC", "PCM_16")).read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert sf.SoundFile(io.BytesIO(data)).frames == 2**63 - 1
    assert np.abs(load(bytes(data)).samples - speech).max() <= 2**-15


def test_wav_that_cannot_seek_is_read_in_parts(folder, speech):
    path = write(folder, speech[::2], "WAV", "GSM610", 8000)
    assert not sf.SoundFile(path).seekable()
    whole = load(path, sample_rate=8000).samples
    assert np.array_equal(load(path, sample_rate=8000, offset_s=3.1, duration_s=2.0).samples, whole[24800:40800])


def test_silence_that_was_not_sent_keeps_its_place(folder, speech):
    """A browser's recording of a muted microphone has no packets there."""
    path = encode(folder / "muted.webm", speech, "webm", "libopus", 48000, gap_at=7)
    samples = load(path).samples
    assert abs(len(samples) / RATE - 14) < 0.1
    assert np.abs(samples[round(7.1 * RATE) : round(8.9 * RATE)]).max() < 0.01
    assert abs(lag(samples[9 * RATE :], speech[7 * RATE :])) <= 8
    for offset_s in (8.5, 10.0):  # one within the gap
        part = load(path, offset_s=offset_s, duration_s=2.0).samples
        assert abs(lag(part, samples[round(offset_s * RATE) :][: len(part)])) <= 8


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le"), ("mpegts", "aac")]
)
def test_sound_that_begins_late_begins_at_0(folder, speech, container, codec):
    rate = 48000 if codec == "libopus" else RATE
    path = encode(folder / f"late.{container}", speech, container, codec, rate, late_s=3)
    assert av.open(path).start_time > 2.8e6
    samples = load(path).samples
    assert abs(len(samples) / RATE - 12) < 0.15 and abs(lag(samples, speech)) <= 1100  # priming, where it is not marked
    part = load(path, offset_s=8.0, duration_s=2.0).samples
    assert abs(lag(part, samples[8 * RATE : 10 * RATE])) <= 8


# ---------------------------------------------------------------- channels and rates


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("WAV", "FLOAT")])
def test_channels_are_picked_or_averaged(folder, speech, container, subtype):
    eight = np.stack([np.roll(speech, 1000 * i) * (i + 1) / 8 for i in range(8)], axis=1)
    path = write(folder, eight, container, subtype)
    for channel in (0, 3, 7):
        assert np.abs(load(path, channel=channel).samples - eight[:, channel]).max() < 1e-4
    assert np.abs(load(path).samples - eight.mean(axis=1)).max() < 1e-4
    part = load(path, channel=3, offset_s=2.0, duration_s=1.0, sample_rate=8000).samples
    assert np.abs(part - soxr.resample(np.ascontiguousarray(eight[32000:48000, 3]), RATE, 8000)).max() < 1e-3
    assert fails(path, channel=8) == ("bad_row", "row 7: channel 8 does not exist; it has 8, counted from 0")
    assert fails(path, channel=-1)[0] == "bad_row"


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("mov", "pcm_s16le")])
def test_channels_of_other_files(folder, speech, container, codec):
    path = encode(folder / f"stereo-{codec}", np.stack([speech, 0 * speech], axis=1), container, codec, 48000)
    left, right, both = (load(path, channel=c).samples for c in (0, 1, None))
    n = len(both)
    assert np.corrcoef(left[: len(speech)], speech[: len(left)])[0, 1] > 0.9
    assert np.abs(right).max() < 0.1 * np.abs(left).max()
    assert np.abs(both - (left[:n] + right[:n]) / 2).max() < 1e-4
    assert fails(path, channel=2)[0] == "bad_row"


@pytest.mark.parametrize(("container", "codec", "num"), [("matroska", "flac", 8), ("wv", "wavpack", 24)])
def test_many_channels_of_other_files(folder, container, codec, num):
    """PyAV 18.1 reads past the 8th plane, and crashes."""
    t = np.arange(RATE) / RATE
    tones = np.stack([0.1 * np.sin(2 * np.pi * (300 + 100 * i) * t) for i in range(num)], axis=1).astype(np.float32)
    path = encode(folder / codec, tones, container, codec, RATE)
    for channel in (0, 3, num - 1):
        assert np.abs(load(path, channel=channel).samples - tones[:, channel]).max() <= 2**-7  # WavPack has 8 bits here
    assert np.abs(load(path).samples - tones.mean(axis=1)).max() <= 2**-7


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_is_that_of_soxr(folder, speech, rate):
    original = soxr.resample(speech, RATE, rate)
    path = write(folder, original, "WAV", "FLOAT", rate)
    assert np.abs(load(path).samples - soxr.resample(original, rate, RATE)).max() < 1e-5
    assert abs(lag(load(path).samples, speech)) == 0


# ---------------------------------------------------------------- properties


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_has_the_length_it_should(folder, data):
    rate = data.draw(st.sampled_from([8000, 11025, 16000, 44100]))
    channels = data.draw(st.integers(1, 3))
    target = data.draw(st.sampled_from([8000, 16000, 24000]))
    n = data.draw(st.integers(1, 3 * rate))
    path = folder / f"{rate}-{channels}-{n}.wav"
    if not path.exists():
        sf.write(path, np.full((n, channels), 0.25), rate, subtype="PCM_16")
    offset_s = data.draw(st.none() | st.floats(0, 3.5))
    duration_s = data.draw(st.none() | st.floats(0, 3.5))
    start = round((offset_s or 0) * rate)
    count = max(0, n - start) if duration_s is None else min(round(duration_s * rate), max(0, n - start))
    length = round(count * target / rate)
    if length:
        got = load(str(path), sample_rate=target, offset_s=offset_s, duration_s=duration_s).samples
        assert len(got) == length and np.isfinite(got).all()
    else:
        kind, _ = fails(str(path), sample_rate=target, offset_s=offset_s, duration_s=duration_s)
        assert kind == ("empty_audio" if count == 0 else "too_short")
    path.unlink()


@given(st.lists(st.integers(1, 12 * RATE - 1), min_size=1, max_size=6, unique=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_consecutive_parts_make_the_whole(folder, speech, cuts):
    paths = [write(folder, speech, "WAV", "PCM_16"), write(folder, speech, "FLAC", "PCM_16")]
    edges = [0, *sorted(cuts), len(speech)]
    for path in paths:
        parts = [load(path, offset_s=a / RATE, duration_s=(b - a) / RATE).samples for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), load(path).samples)


def test_consecutive_parts_of_an_mp3_make_the_whole(lossy):
    whole = load(lossy["mp3"], sample_rate=44100).samples
    parts = [load(lossy["mp3"], sample_rate=44100, offset_s=s, duration_s=1.0).samples for s in range(12)]
    joined = np.concatenate(parts)
    assert np.abs(joined - whole[: len(joined)]).max() < 1e-6


# ---------------------------------------------------------------- rows that fail, and what they say


def test_missing_and_unopenable(tmp_path):
    assert fails(str(tmp_path / "no.wav")) == ("missing", "row 7: no such file")
    (tmp_path / "file").write_bytes(b"x")
    assert fails(str(tmp_path / "file" / "no.wav")) == ("missing", "row 7: no such file")
    assert fails(str(tmp_path)) == ("unreadable", "row 7: Is a directory")
    assert fails("a\0b") == ("unreadable", "row 7: embedded null byte")
    assert fails("/dev/zero") == ("unreadable", "row 7: not a regular file")
    assert fails("/proc/self/status")[0] == "unreadable"


def test_no_permission(tmp_path):
    path = tmp_path / "locked.wav"
    sf.write(path, np.zeros(100), RATE)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert fails(str(path)) == ("unreadable", "row 7: Permission denied")
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.au", "a.gsm", "a.vox", "a.raw", "a.m4a", "a.aac", "a.sd2"])
def test_text_is_no_audio_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n" * 20)
    kind, message = fails(str(path), name=name)
    assert kind == "unreadable"
    reasons = (
        "no decoder can read it (libsndfile: Format not recognised.; FFmpeg: Invalid data found when processing input"
    )
    assert message.startswith(f"{name}: {reasons}")


def test_empty(folder):
    assert fails(b"") == ("empty_audio", "row 7: the file is empty (0 bytes); write it again, or drop the row")
    assert fails(write(folder, np.zeros(0, np.float32))) == (
        "empty_audio",
        "row 7: its header gives 0 samples; write it again, or drop the row",
    )
    second = write(folder, np.ones(RATE, np.float32) / 2)
    fix = "correct the offset, or drop the row"
    assert fails(second, offset_s=1.0) == ("empty_audio", f"row 7: offset 1 s is at or past its end at 1.000 s; {fix}")
    assert (
        fails(second, offset_s=60.0, duration_s=2.0)[1] == f"row 7: offset 60 s is at or past its end at 1.000 s; {fix}"
    )
    fix = "correct the duration, or drop the row"
    assert fails(second, duration_s=0.0) == ("empty_audio", f"row 7: 0 s is shorter than one sample at 16000 Hz; {fix}")
    assert len(load(second, offset_s=1 - 1 / RATE).samples) == 1


@pytest.mark.parametrize("name", ["mp4", "webm", "opus", "adts", "mp3", "mp3 bare", "g722", "vorbis"])
def test_offset_past_the_end_of_other_files(lossy, name):
    for offset_s in (12.3, 40.0):
        kind, message = fails(lossy[name], offset_s=offset_s)
        assert kind == "empty_audio"
        assert abs(float(re.search(r"past its end at (12\.\d+) s", message)[1]) - 12) < 0.15


@pytest.mark.parametrize("name", [name for name in LOSSY if name != "adts"])  # FFmpeg wants some frames to recognise it
def test_offset_past_the_end_of_a_very_short_file(folder, speech, name):
    container, codec, rate, *_ = LOSSY[name]
    path = encode(folder / f"short {name}.g722", speech[:160], container, codec, rate)
    assert fails(path if name == "g722" else Path(path).read_bytes(), offset_s=30.0)[0] == "empty_audio"


def test_impossible_numbers():
    for bad in ({"offset_s": -0.1}, {"duration_s": float("nan")}, {"offset_s": float("inf")}):
        assert fails(b"x", **bad)[0] == "bad_row"


def test_non_finite_samples_are_counted(folder, speech, monkeypatch):
    x = np.stack([speech, speech], axis=1)
    x[8000, 0], x[8001, 0], x[16000, 1] = np.nan, np.inf, -np.inf
    path = write(folder, x, "WAV", "FLOAT")
    text = "or more samples are NaN, infinite or beyond 1e+15; the first at"
    assert fails(path) == ("non_finite", f"row 7: 3 {text} 0.5000 s")
    assert fails(path, channel=1) == ("non_finite", f"row 7: 1 {text} 1.0000 s")
    assert fails(path, offset_s=0.75, sample_rate=8000)[1].endswith("the first at 1.0000 s")
    assert len(load(path, channel=0, offset_s=1.0).samples) == len(x) - RATE  # its bad samples lie before
    monkeypatch.setattr(sndfile, "BLOCK_VALUES", 1000)
    assert fails(path, channel=1)[1].endswith("the first at 1.0000 s")
    huge = np.full(100, 1e16, np.float32)  # finite, but its square is not
    assert fails(write(folder, huge, "WAV", "FLOAT"))[0] == "non_finite"


def test_too_short(folder):
    path = write(folder, np.ones(300, np.float32) / 2, rate=48000)
    assert fails(path, min_samples=101) == (
        "too_short",
        "row 7: 100 samples at 16000 Hz (0.0063 s); the model needs at least 101",
    )
    assert len(load(path, min_samples=100).samples) == 100


def sparse_wav(path: Path, seconds: int) -> str:
    """A silent WAV that takes no space on disk."""
    size = seconds * RATE * 2
    header = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", size
    )
    with open(path, "wb") as f:
        f.write(header)
        f.truncate(44 + size)
    return str(path)


def test_too_long_is_known_from_the_header(tmp_path):
    path = sparse_wav(tmp_path / "day.wav", 10 * 3600)
    tracemalloc.start()
    assert fails(path, max_s=30.0) == ("too_long", "row 7: 36000.00 s; the limit is 30 s")
    assert fails(path, offset_s=3600.0, max_s=30.0)[1] == "row 7: 32400.00 s; the limit is 30 s"
    assert fails(path, duration_s=30.001, max_s=30.0)[1] == "row 7: 30.00 s; the limit is 30 s"
    for offset_s in (None, 35000.0):
        assert len(load(path, offset_s=offset_s, duration_s=30.0, max_s=30.0).samples) == 30 * RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20  # the part has 1.9 MB, the file 1.1 GB


@pytest.mark.parametrize("name", ["mp3 bare", "adts", "g722", "opus", "vorbis"])
def test_too_long_stops_decoding(lossy, monkeypatch, name):
    """These headers give no length that can be trusted."""
    data = Path(lossy[name]).read_bytes() * 40  # 8 minutes
    decoded = []
    real = ffmpeg.to_float
    monkeypatch.setattr(ffmpeg, "to_float", lambda frame: decoded.append(frame.samples) or real(frame))
    monkeypatch.setattr(ffmpeg, "BLOCK_VALUES", RATE)
    assert fails(data, name=f"x.{name}", max_s=5.0) == ("too_long", f"x.{name}: more than 5 s, which is the limit")
    assert sum(decoded) < 8 * 48000


def test_too_long_uses_trusted_lengths(lossy, monkeypatch):
    monkeypatch.setattr(ffmpeg, "to_float", None)  # would fail if a frame were used
    for name in ("mp4", "webm", "mp3"):
        kind, message = fails(lossy[name], max_s=5.0)
        assert kind == "too_long" and re.fullmatch(r"row 7: 12\.0\d s; the limit is 5 s", message)


# ---------------------------------------------------------------- flags


def test_duration_mismatch(folder, speech, lossy):
    path = write(folder, speech, "WAV", "PCM_16")
    flag = ("duration_mismatch",)
    for given_s, flags in ((12.0, ()), (12.05, ()), (12.2, flag), (11.95, ()), (11.0, flag)):
        got = load(path, duration_s=given_s)
        assert got.flags == flags and len(got.samples) == min(12.0, given_s) * RATE
    assert load(path, offset_s=0.0, duration_s=3.0).flags == ()  # the row says that it wants a part
    assert load(path, offset_s=11.0, duration_s=1.05).flags == ()
    assert load(path, offset_s=11.0, duration_s=1.5).flags == flag
    for name in ("mp4", "webm", "mp3"):
        assert load(lossy[name], duration_s=6.0).flags == flag
        assert load(lossy[name], duration_s=12.0).flags == ()
        assert load(lossy[name], duration_s=14.0).flags == flag


def test_no_speech_is_flagged_not_failed(folder):
    for level, flags in ((0.0, ("no_speech",)), (0.9e-4, ("no_speech",)), (1.1e-4, ())):
        for rate in (RATE, 48000):
            hum = np.resize(np.float32([level, -level]), rate)
            assert load(write(folder, hum, "WAV", "FLOAT", rate)).flags == flags
    # A constant, as the silence of A-law is one.
    assert load(write(folder, np.full(RATE, 8 / 32768, np.float32), "WAV", "FLOAT")).flags == ("no_speech",)


# ---------------------------------------------------------------- files that were cut off


@pytest.mark.parametrize(("container", "subtype"), EXACT)
def test_a_cut_file_is_unreadable_where_it_is_cut(folder, speech, container, subtype):
    data = Path(write(folder, speech, container, subtype)).read_bytes()
    cut = data[: int(len(data) * 0.6)]
    kind, message = fails(cut)
    assert kind == "unreadable"
    if container not in ("FLAC", "CAF"):
        promised, held = map(int, re.search(r"cut off: its header says (\d+) .* only (\d+) ", message).groups())
        assert abs(promised - len(speech)) < 1500 and abs(held - 0.6 * promised) < 1500
    assert fails(cut, offset_s=6.0)[0] == "unreadable"
    if container != "CAF":
        whole = load(data).samples
        assert np.array_equal(
            load(cut, duration_s=5.0, offset_s=1.0).samples, whole[RATE : 6 * RATE]
        )  # this part is there


@pytest.mark.parametrize("name", ["webm", "mkv", "mp4", "opus", "adts", "mp3", "sf mp3", "vorbis", "alac", "avi u8"])
def test_other_cut_files_are_unreadable(lossy, name):
    data = Path(lossy[name]).read_bytes()
    for share in (0.4, 0.6, 0.83):
        assert fails(data[: int(len(data) * share)])[0] == "unreadable"


def test_a_cut_mp4_with_its_index_in_front_is_unreadable(folder, speech):
    path = encode(folder / "front.mp4", speech, "mp4", "aac", 44100, movflags="+faststart")
    data = Path(path).read_bytes()
    cut = data[: int(len(data) * 0.6)]
    assert fails(cut) == ("unreadable", "row 7: damaged or cut off: FFmpeg marks a packet as corrupt")
    assert np.array_equal(load(cut, duration_s=6.9).samples, load(data, duration_s=6.9).samples)


def test_a_damaged_ogg_page_is_not_passed_over(lossy):
    for name in ("opus", "vorbis"):
        data = bytearray(Path(lossy[name]).read_bytes())
        data[len(data) // 2] ^= 1
        assert fails(bytes(data)) == ("unreadable", "row 7: damaged: the checksum of an Ogg page is wrong")


def test_lengths_that_a_wav_writer_left_open(folder, speech):
    data = Path(write(folder, speech[:RATE], "WAV", "PCM_16")).read_bytes()

    def with_size(size):
        return data[:4] + struct.pack("<I", size) + data[8:40] + struct.pack("<I", size) + data[44:]

    assert data[36:40] == b"data"
    for unknown in (0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF):
        assert len(load(with_size(unknown)).samples) == RATE
    assert len(load(with_size(2 * RATE + 36)).samples) == RATE  # counts the header
    assert fails(with_size(2 * RATE + 100))[0] == "unreadable"
    assert len(load(with_size(0)).samples) == RATE, "never finished"
    assert fails(data[:40] + bytes(4))[0] == "empty_audio"


# ---------------------------------------------------------------- hostile files


SCRIPTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:12,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile secret.ts\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("suffix", ["m3u8", "ffconcat", "wav", "mp3"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_playlist_cannot_read_another_file(tmp_path, lossy, monkeypatch, kind, suffix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.ts").write_bytes(Path(lossy["mp3 in ts"]).read_bytes())
    path = tmp_path / f"list.{suffix}"
    path.write_text(SCRIPTS[kind])
    assert fails(str(path))[0] == "unreadable"
    assert fails(SCRIPTS[kind].encode(), name=f"list.{suffix}")[0] == "unreadable"


def test_the_danger_of_playlists_is_real(tmp_path, lossy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.ts").write_bytes(Path(lossy["mp3 in ts"]).read_bytes())
    (tmp_path / "list.m3u8").write_text(SCRIPTS["hls"])
    for source in ("list.m3u8", io.BytesIO(SCRIPTS["concat"].encode())):
        with av.open(source) as container:
            assert next(container.decode(audio=0)).samples > 0


def test_only_listed_formats_are_opened(folder, speech):
    kind, message = fails(encode(folder / "speech.nut", speech, "nut", "aac", RATE))
    assert kind == "unreadable" and "not on whitelist" in message


def test_a_silly_rate_is_not_resampled(folder):
    data = bytearray(Path(write(folder, np.zeros(RATE, np.float32), "WAV", "PCM_16")).read_bytes())
    data[24:28] = struct.pack("<I", 1)
    assert fails(bytes(data)) == ("unreadable", "row 7: its header gives a sample rate of 1 Hz")


def test_mutated_files_give_audio_or_a_row_error(folder, speech, lossy):
    """Through the decoder process, so that a crash or a hang of a library would be seen for what it is."""
    exact = [write(folder, speech[: 2 * RATE], *key) for key in EXACT]
    files = [(Path(p).read_bytes(), "x") for p in exact] + [(Path(p).read_bytes(), f"x.{n}") for n, p in lossy.items()]
    rng = np.random.default_rng(20240607)
    decoder = Decoder(timeout_s=20)
    outcomes = []
    try:
        for data, name in files:
            for _ in range(15):
                mutant = bytearray(data)
                for _ in range(int(rng.integers(1, 5))):
                    # Half of the flips hit the first 400 bytes, where the headers are.
                    at = int(rng.integers(0, min(400, len(mutant)) if rng.random() < 0.5 else len(mutant)))
                    mutant[at] = int(rng.integers(256))
                if rng.random() < 0.3:
                    del mutant[int(rng.integers(1, len(mutant))) :]
                try:
                    got = decode(decoder, request(bytes(mutant), name=name, max_s=60.0))
                    assert np.isfinite(got.samples).all() and 1 <= len(got.samples) <= 60 * RATE + 1
                    outcomes.append("audio")
                except RowError as e:
                    outcomes.append(e.kind)
    finally:
        decoder.close()
    assert {"audio", "unreadable"} <= set(outcomes)
    assert not {"decode_timeout", "decode_crash"} & set(outcomes)
