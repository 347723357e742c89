"""Blocks: together they are the whole, no more than a few are held, and a child lost between two of them costs nothing.

The hangs and crashes are real ones: the decoder process is stopped or killed while it decodes.
"""

import os
import signal
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from audio_files import EXACT, LOSSY, encode, write
from audio_loading import decode, load_audio, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import is_running, wait_until

from asrbatch.audio.decoder import Decoder
from asrbatch.audio.decoder_process import DecodeRequest
from asrbatch.audio.load import BLOCK_S, stream_audio
from asrbatch.errors import AsrbatchError, RowError

RATE = 16000
BLOCK = BLOCK_S * RATE
LONG_S = 60.0  # long enough that it is never reached unless something hangs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def speech(speech_wav) -> np.ndarray:
    """100 s: the sentence again and again, no two of them equally loud."""
    x = sf.read(speech_wav, dtype="float32")[0]
    count = -(-100 * RATE // len(x))
    return np.concatenate([x / (1 + i / 10) for i in range(count)])[: 100 * RATE]


@pytest.fixture(scope="module")
def files(folder, speech) -> list[str]:
    """Every format of the tests of `audio.py`, and other rates: two blocks, and a part of a third."""
    speech = speech[: 70 * RATE]
    made = [write(folder, speech, container, subtype) for container, subtype in EXACT]
    made += [write(folder, speech[: 70 * rate], "WAV", "FLOAT", rate) for rate in (8000, 11025, 44100)]
    made += [write(folder, np.stack([speech, -speech / 2], axis=1), "FLAC", "PCM_16", 48000)]
    for name, (container, codec, rate, *_) in LOSSY.items():
        made.append(encode(folder / (name if name != "g722" else "speech.g722"), speech, container, codec, rate))
    return [*made, write(folder, speech, "OGG", "VORBIS")]


@pytest.fixture(scope="module")
def part_of_mp3(folder, speech) -> bytes:
    """100 s of a file that may be as long as one likes."""
    part = encode(folder / "part.mp3", speech, "mp3", "libmp3lame", RATE, write_xing="0", id3v2_version="0")
    return Path(part).read_bytes()


@pytest.fixture(scope="module")
def long_mp3(folder, part_of_mp3) -> str:
    """An hour, which takes seconds to decode."""
    path = folder / "long.mp3"
    path.write_bytes(part_of_mp3 * 36)
    return str(path)


@pytest.fixture(scope="module")
def shorter_mp3(folder, part_of_mp3) -> str:
    """A quarter of an hour: where all of it is decoded."""
    path = folder / "shorter.mp3"
    path.write_bytes(part_of_mp3 * 9)
    return str(path)


@pytest.fixture
def start():
    """Makes decoders and closes them."""
    made = []

    def call(timeout_s: float = LONG_S) -> Decoder:
        made.append(Decoder(timeout_s=timeout_s))
        return made[-1]

    yield call
    for decoder in made:
        decoder.close()


def child_of(decoder: Decoder) -> int:
    return decoder._process.pid


def has_open(pid: int, path: str) -> bool:
    try:
        return any(os.path.realpath(f"/proc/{pid}/fd/{number}") == path for number in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


@contextmanager
def sends_to_next_child(decoder: Decoder, path: str, number: int):
    """Sends a signal to the child after the present one, once it is at the file."""
    present = child_of(decoder)

    def pid() -> int:
        process = decoder._process
        return process.pid if process and process.pid != present and has_open(process.pid, path) else 0

    thread = threading.Thread(target=lambda: os.kill(wait_until(pid), number))
    thread.start()
    yield
    thread.join()


def outcome(decode):
    """`(samples, flags)`, or `(kind, message)` of the error."""
    try:
        return decode()
    except RowError as e:
        return e.kind, e.message


def loaded(asked: DecodeRequest):
    audio = load_audio(asked)
    return audio.samples, audio.flags


def joined(stream):
    blocks = list(stream)
    assert all(block.dtype == np.float32 and block.flags.writeable for block in blocks)
    assert all(len(block) == BLOCK_S * stream.sample_rate for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= BLOCK_S * stream.sample_rate
    assert stream.num_samples == sum(map(len, blocks)) and stream.read_s > 0
    return np.concatenate(blocks), stream.flags


def same(a, b) -> bool:
    return np.array_equal(a[0], b[0]) and a[1] == b[1]


# ---------------------------------------------------------------- the blocks are the whole


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_together_are_the_whole(files, data):
    source = name = data.draw(st.sampled_from(files))
    if data.draw(st.booleans()):
        source = Path(source).read_bytes()
        source = source[: data.draw(st.sampled_from([len(source), len(source), round(0.6 * len(source))]))]
    asked = request(
        source,
        name=name,
        sample_rate=data.draw(st.sampled_from([RATE, 8000, 22050])),
        offset_s=data.draw(st.none() | st.floats(0, 77)),
        duration_s=data.draw(st.none() | st.sampled_from([30.0, 60.0, 60.0001]) | st.floats(0, 77)),
        channel=data.draw(st.sampled_from([None, 0, 1])),
        max_s=data.draw(st.sampled_from([None, None, 50.0])),
        min_samples=data.draw(st.sampled_from([1, 1, 400, 31 * RATE, 65 * RATE])),
    )

    def streamed():
        with closing(stream_audio(**vars(asked))) as stream:
            return joined(stream)

    assert same(outcome(lambda: loaded(asked)), outcome(streamed))


def test_a_long_recording_tells_with_its_first_block_how_long_it_will_be(files, start):
    def told(path: str, **clip) -> float | None:
        with closing(stream_audio(**vars(request(path, **clip)))) as stream:
            return stream.expected_s

    real = {path: len(load_audio(request(path)).samples) / RATE for path in files}
    off = {Path(path).name for path in files if told(path) != pytest.approx(real[path], abs=0.5)}
    assert off == {"adts"}, "it has neither a length nor an index, so that is a guess by its bit rate"
    assert told(files[0], offset_s=10.0, duration_s=40.0) == 40 and told(files[0], offset_s=35.0) == 35
    decoder, expected = start(), []
    for clip in ({}, {"duration_s": 20.0}):
        stream = decoder.stream(request(files[0], **clip))
        next(stream)
        expected.append(stream.expected_s)
    assert expected == [70, None], "the end of a short one comes as soon"


@given(st.integers(1, 3 * BLOCK), st.sampled_from([-1, 0, 1]), st.sampled_from([8000, 11025, RATE, 44100]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_length_is_rounded_as_ever(folder, n, near, rate):
    """Also where the end of the part falls on that of a block."""
    for num_frames in {n, max(1, n // BLOCK * BLOCK_S * rate + near)}:
        path = folder / "any.wav"
        sf.write(path, np.full(num_frames, 0.25, np.float32), rate, subtype="PCM_16")
        length = round(num_frames * RATE / rate)
        if length:
            with closing(stream_audio(**vars(request(str(path))))) as stream:
                assert len(joined(stream)[0]) == length


def test_a_decoder_streams_what_our_own_process_loads(start, files):
    decoder = start()
    for path in files[::3]:
        for options in (
            {},
            {"offset_s": 3.3, "duration_s": 61.7, "channel": 0},
            {"sample_rate": 8000, "duration_s": 45.0},
        ):
            asked = request(path, **options)
            assert same(joined(decoder.stream(asked)), loaded(asked))
    assert decode(decoder, asked).flags == loaded(asked)[1]


# ---------------------------------------------------------------- errors on the way


def test_what_the_header_tells_is_told_at_once(folder, speech, tmp_path):
    path = write(folder, speech, "WAV", "PCM_16")
    for source, options, kind in (
        (str(tmp_path / "no.wav"), {}, "missing"), (b"", {}, "empty_audio"), (b"text" * 100, {}, "unreadable"),
        (path, {"max_s": 99.0}, "too_long"), (path, {"duration_s": -1.0}, "bad_row"), (path, {"duration_s": 1e-6},
        "empty_audio"),
    ):  # fmt: skip
        with pytest.raises(RowError) as caught:
            stream_audio(**vars(request(source, **options)))
        assert caught.value.kind == kind


def test_too_short_and_empty_come_in_place_of_the_first_block(folder, speech):
    path = write(folder, speech, "WAV", "PCM_16")
    for options, kind in (({"offset_s": 100.0}, "empty_audio"), ({"min_samples": 100 * RATE + 1}, "too_short")):
        with pytest.raises(RowError) as caught:
            next(stream_audio(**vars(request(path, **options))))
        assert caught.value.kind == kind
    assert same(joined(stream_audio(**vars(request(path, min_samples=100 * RATE)))), loaded(request(path)))


@pytest.mark.parametrize("through_child", [False, True])
def test_damage_is_told_where_it_is_met(tmp_path, speech, start, through_child):
    flac = Path(write(tmp_path, speech, "FLAC", "PCM_16"))
    mp3 = Path(encode(tmp_path / "whole.mp3", speech, "mp3", "libmp3lame", RATE))
    bare_mp3 = encode(tmp_path / "bare.mp3", speech, "mp3", "libmp3lame", RATE, write_xing="0", id3v2_version="0")
    wav = write(tmp_path, speech, "WAV", "FLOAT")
    damaged = speech.copy()
    damaged[80 * RATE : 80 * RATE + 3] = np.nan
    (tmp_path / "nan").mkdir()
    nan_wav = write(tmp_path / "nan", damaged, "WAV", "FLOAT")
    for source, options, kind, whole in (
        (flac.read_bytes()[:-9000], {}, "unreadable", flac), (mp3.read_bytes()[:-9000], {}, "unreadable", mp3),
        (nan_wav, {}, "non_finite", wav), (bare_mp3, {"max_s": 90.0}, "too_long", bare_mp3),
    ):  # fmt: skip
        asked = request(source, **options)
        stream, blocks = start().stream(asked) if through_child else stream_audio(**vars(asked)), []
        with pytest.raises(RowError) as caught:
            blocks.extend(stream)
        assert caught.value.kind == kind and len(blocks) >= 2
        assert np.array_equal(np.concatenate(blocks), loaded(request(str(whole)))[0][: stream.num_samples])
        assert outcome(lambda asked=asked: loaded(asked)) == (kind, caught.value.message)
    assert "the first at 80.0000 s" in outcome(lambda: loaded(request(nan_wav)))[1]


def test_a_closed_stream_is_not_a_short_one(folder, speech, start):
    path, decoder = write(folder, speech, "WAV", "PCM_16"), start()
    for make in (lambda: stream_audio(**vars(request(path))), lambda: decoder.stream(request(path))):
        for num_read in (0, 1, 2):
            stream = make()
            for _ in range(num_read):
                next(stream)
            stream.close()
            stream.close()
            with pytest.raises(ValueError, match="row 7: this stream was closed before its end"):
                next(stream)
        stream = make()
        assert len(list(stream)) == 4
        stream.close()
        assert list(stream) == []


def test_the_file_is_closed_at_the_end_and_after_an_error(folder, speech):
    wav = write(folder, speech, "WAV", "PCM_16")
    cut = folder / "cut.wav"
    cut.write_bytes(Path(wav).read_bytes()[:-2000])
    before = len(os.listdir("/proc/self/fd"))
    for path in (wav, str(cut)):
        stream = stream_audio(**vars(request(path)))
        outcome(lambda s=stream: list(s))
        assert len(os.listdir("/proc/self/fd")) == before
    for options in ({"max_s": 1.0}, {"duration_s": 1e-6}):
        outcome(lambda o=options: stream_audio(**vars(request(wav, **o))))
        assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- memory


def peak_mib(pid: int) -> float:
    """Most memory a process has had, since it started."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("kind", ["wav", "wav 48 kHz", "flac", "mp3"])
def test_half_an_hour_is_not_held(folder, speech, start, part_of_mp3, kind):
    """As float32 at 16 kHz it has 110 MiB."""
    small, path = write(folder, speech[:BLOCK], "WAV", "PCM_16"), folder / f"half.{kind}"
    if kind == "mp3":
        path.write_bytes(part_of_mp3 * 18)
    elif kind == "wav 48 kHz":  # too fast; nobody listens
        with sf.SoundFile(path, "w", 48000, 2, "PCM_16", format="WAV") as f:
            for _ in range(18 * 3):
                f.write(np.stack([speech, speech], axis=1))
    else:
        with sf.SoundFile(path, "w", RATE, 1, "PCM_16", format=kind.upper()) as f:
            for _ in range(18):
                f.write(speech)
    decoder = start()
    decode(decoder, request(small))
    before = peak_mib(child_of(decoder))
    began = time.perf_counter()
    num_samples = sum(map(len, decoder.stream(request(str(path)))))
    print(
        f"{kind}: {peak_mib(child_of(decoder)) - before:.1f} MiB over {before:.1f}, {time.perf_counter() - began:.1f} s"
    )
    assert abs(num_samples / RATE - 1800) < 10  # pieces of MP3 are padded
    assert peak_mib(child_of(decoder)) - before < 40
    path.unlink()


def test_the_child_waits_for_a_slow_reader(folder, speech, start):
    """Longer than both clocks allow: the parent's, and 5 s more for that of the child."""
    decoder, path = start(timeout_s=1.5), write(folder, speech, "WAV", "PCM_16")
    decoder.start()
    stream = decoder.stream(request(path))
    blocks = [next(stream)]
    pid = child_of(decoder)
    time.sleep(7.5)
    assert same((np.concatenate([*blocks, *stream]), stream.flags), loaded(request(path)))
    assert child_of(decoder) == pid


# ---------------------------------------------------------------- children that are lost on the way


@pytest.fixture(scope="module")
def long_samples(long_mp3) -> np.ndarray:
    return loaded(request(long_mp3))[0]


@pytest.mark.parametrize("num_read", [1, 3, 20])
def test_a_crash_between_two_blocks_costs_nothing(shorter_mp3, start, num_read):
    expected = loaded(request(shorter_mp3))[0]
    decoder = start()
    stream = decoder.stream(request(shorter_mp3))
    blocks = [next(stream) for _ in range(num_read)]
    killed = child_of(decoder)
    os.kill(killed, signal.SIGKILL)
    blocks.extend(stream)
    assert np.array_equal(np.concatenate(blocks), expected) and stream.num_samples == len(expected)
    assert child_of(decoder) != killed
    assert decode(decoder, request(shorter_mp3, duration_s=1.0)).duration_s == 1


def test_two_crashes_are_the_rows_fault(long_mp3, start):
    decoder = start()
    stream = decoder.stream(request(long_mp3))
    next(stream)
    with sends_to_next_child(decoder, long_mp3, signal.SIGKILL), pytest.raises(RowError) as caught:
        os.kill(child_of(decoder), signal.SIGKILL)
        list(stream)
    assert caught.value.kind == "decode_crash"
    assert caught.value.message == "row 7: decoding ended its process (signal 9, Killed), twice"
    assert decode(decoder, request(long_mp3, duration_s=1.0)).duration_s == 1


def test_a_hang_on_the_way_is_killed_twice(long_mp3, long_samples, start):
    decoder = start(timeout_s=1.5)
    decoder.start()
    stream = decoder.stream(request(long_mp3))
    blocks, first = [next(stream)], child_of(decoder)
    with sends_to_next_child(decoder, long_mp3, signal.SIGSTOP), pytest.raises(RowError) as caught:
        os.kill(first, signal.SIGSTOP)
        for block in stream:
            blocks.append(block)
    assert (caught.value.kind, caught.value.message) == (
        "decode_timeout",
        "row 7: decoding took longer than 1.5 s, twice",
    )
    assert np.array_equal(np.concatenate(blocks), long_samples[: stream.num_samples])
    wait_until(lambda: not is_running(first))
    assert decode(decoder, request(long_mp3, duration_s=1.0)).duration_s == 1


def test_a_child_that_stops_in_the_middle_of_a_block_is_killed(long_mp3, long_samples, start):
    decoder = start(timeout_s=1.5)
    stream = decoder.stream(request(long_mp3))
    blocks, first = [next(stream)], child_of(decoder)
    time.sleep(1.0)  # by now it sends the second block, which is more than the socket holds
    os.kill(first, signal.SIGSTOP)
    blocks.append(next(stream))
    assert child_of(decoder) != first and not is_running(first)
    assert np.array_equal(np.concatenate(blocks), long_samples[: 2 * BLOCK])


def test_a_file_replaced_before_the_second_try_is_not_mixed_with_the_first(folder, speech, start):
    path, decoder = folder / "changes.wav", start()
    sf.write(path, speech, RATE)
    stream = decoder.stream(request(str(path)))
    next(stream)
    sf.write(folder / "other.wav", speech / 2, RATE)
    os.replace(folder / "other.wav", path)
    os.kill(child_of(decoder), signal.SIGKILL)
    with pytest.raises(RowError, match="row 7: decoded a second time, it gave other samples; convert it again"):
        list(stream)
    assert np.array_equal(joined(decoder.stream(request(str(path))))[0], loaded(request(str(path)))[0])


def test_a_stream_may_be_left_before_its_end(long_mp3, folder, speech, start):
    path, decoder = write(folder, speech, "WAV", "PCM_16"), start()
    for leave in (lambda stream: stream.close(), lambda stream: None):  # by word, or by the next request
        stream = decoder.stream(request(long_mp3))
        next(stream)
        leave(stream)
        assert same(joined(decoder.stream(request(path))), loaded(request(path)))
        with pytest.raises(ValueError, match="closed before its end"):
            next(stream)
    pid = child_of(decoder)
    decoder.stream(request(long_mp3)).close()  # nothing was asked for yet
    stream = decoder.stream(request(path))
    list(stream)
    stream.close()
    decode(decoder, request(path))
    assert child_of(decoder) == pid


def test_closing_the_decoder_ends_its_streams(long_mp3, start):
    decoder = start()
    stream = decoder.stream(request(long_mp3))
    next(stream)
    threading.Thread(target=decoder.close).start()
    with pytest.raises(AsrbatchError, match="the decoder was closed"):
        list(stream)
