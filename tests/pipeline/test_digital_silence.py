"""Windows in which no model can hear anything are not asked about: they stand under `skips`, and say nothing.

Before: tiny.en said "you" to each of them, and rows that were nothing else had that for a text. Siblings, all of which
said "you" or made a window: every container and rate of `FILES` (A-law's silence is no zero, AC-3's no exact one); a
silent channel; a clip in a silence; windows of long recordings by every way to cut; the rest of a window that is asked
again; the first window, whose language counted for the whole recording; a silence shorter than a second.

Not taken for silence, because somebody may be heard in it: noise of one bit, as dither is; speech of one bit, of which
Whisper base still writes "Mr. John"; quieter speech (tiny.en writes words of a peak of 1e-4, and none of 3e-5); the
idle noise of G.722; a single click.
"""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from audio_files import LOSSY, RATE, encode, write
from audio_loading import load_audio, request
from beep_engine import BeepEngine
from beep_pipeline import Asks, Run

from asrbatch.audio.silence import is_digital_silence
from asrbatch.audio.windows import WindowConfig
from asrbatch.types import AudioRef, Utterance

WINDOW_S = 3.0
SILENCE = np.zeros(7 * RATE, np.float32)
BURSTS = np.tile(np.concatenate([np.sin(np.arange(1600) * 0.3) * 0.5, np.zeros(2400)]), 12).astype(np.float32)  # 3 s
FILES = [
    *[("WAV", subtype, rate) for subtype in ("PCM_16", "PCM_U8", "FLOAT", "ULAW", "ALAW") for rate in (8000, 16000)],
    *[("WAV", "ALAW", rate) for rate in (6000, 11025, 22050, 44100, 48000)],
    ("FLAC", "PCM_16", 44100), ("AIFF", "PCM_24", 48000), ("CAF", "PCM_16", 96000), ("AU", "PCM_16", 22050),
]  # fmt: skip
CODECS = [*(name for name in LOSSY if name != "g722"), "ac3", "mp2"]


def windows_of(samples: np.ndarray, length: int) -> list[np.ndarray]:
    return [samples[start : start + length] for start in range(0, len(samples), length)]


def check_silent(source: str) -> None:
    audio = load_audio(request(source))
    assert "no_speech" in audio.flags
    assert is_digital_silence(audio.samples)
    assert all(is_digital_silence(window) for window in windows_of(audio.samples, 30_000))


@pytest.mark.parametrize(("container", "subtype", "rate"), FILES)
def test_silence_of_every_file_is_known(tmp_path, container, subtype, rate):
    check_silent(write(tmp_path, SILENCE[: 5 * rate], container, subtype, rate))


@pytest.mark.parametrize("name", CODECS)
def test_silence_of_every_codec_is_known(tmp_path, name):
    container, codec, rate = LOSSY[name][:3] if name in LOSSY else (name, name, 48000)
    check_silent(encode(tmp_path / "silence", SILENCE, container, codec, rate))


def test_a_constant_is_silence_and_every_sound_is_none(tmp_path):
    random = np.random.default_rng(0)
    speech, num_samples = BURSTS[:RATE], RATE
    bits = random.integers(-1, 2, num_samples).astype(np.float32) / 32768
    click = np.zeros(num_samples, np.float32)
    click[num_samples // 2] = 1 / 32768
    sounds = {
        "dither of one bit": bits,
        "speech of one bit": np.sign(speech) / np.float32(32768),
        "quiet speech": speech * np.float32(1e-5),
        "a click": click,
        "a click on a constant": click + np.float32(0.1),
        "a word that begins in the last 20 ms": np.concatenate([np.zeros(num_samples, np.float32), speech[:320]]),
        "a loud edge": np.concatenate([np.zeros(num_samples, np.float32), speech[:100]]),
    }
    assert [name for name, samples in sounds.items() if is_digital_silence(samples)] == []
    for value in (0.0, 8 / 32768, -8 / 32768, 1 / 32768, 0.1, -1.0):
        for length in (1, 160, 480, num_samples):
            assert is_digital_silence(np.full(length, value, np.float32))
    assert is_digital_silence(random.uniform(-1e-8, 1e-8, num_samples).astype(np.float32)), "what a resampler leaves"
    idle = load_audio(request(encode(tmp_path / "idle.g722", SILENCE, "g722", "g722", 16000)))
    assert not is_digital_silence(idle.samples)


class Spy(BeepEngine):
    """Says "you" where there is no sound, as Whisper does, and remembers what it was asked."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked = []

    def submit(self, key, request, question):
        self.asked.append((key, question))
        assert not is_digital_silence(request.engine_input)
        super().submit(key, request, question)

    def read(self, samples, question):
        answer = super().read(samples, question)
        return answer if np.abs(samples).max() > 0.05 else replace(answer, text=" you", num_tokens=1)


def rows_of(tmp_path, sources: dict[str, np.ndarray], windows: str, *, engine=Spy, asks=None, **fields):
    """The rows, by name, of float32 [n] or [n, channels] each."""
    utterances = []
    for index, (name, samples) in enumerate(sources.items()):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, samples, RATE)
        utterances.append(Utterance(index, name, AudioRef(path.name, str(path)), **fields))
    window_s, filtered = 30.0 if windows == "none" else WINDOW_S, windows.removesuffix(" --vad-filter")
    rules = WindowConfig(
        RATE, window_s, 160, filtered, search_s=1.0, min_tail_s=0.2, vad_filter=windows.endswith("--vad-filter")
    )
    with Run(rules=rules, engine=engine, asks=asks or Asks()) as run:
        run.pipeline.run(utterances)
    assert run.pipeline.budget.has_capacity() and all(row["status"] == "ok" for row in run.rows)
    for row in run.rows:
        pieces = sorted(
            [(w["start"], w["kept_until"]) for w in row["windows"]] + [(s["start"], s["end"]) for s in row["skips"]]
        )
        assert [0.0, *(end for _, end in pieces)] == [*(start for start, _ in pieces), row["audio_s"]], "all of it once"
        assert "you" not in row["pred_text"]
    return {row["id"]: row for row in run.rows}, run.engine


def check_never_asked(row: dict, audio_s: float) -> None:
    assert (row["pred_text"], row["windows"], row["segments"]) == ("", [], [])
    assert row["skips"] == [{"start": 0.0, "end": audio_s}] and row["audio_s"] == audio_s
    assert row["flags"] == ["no_speech", "empty"]
    assert (row["num_tokens"], row["avg_logprob"], row["finish_reason"], row["language"]) == (0, None, "stop", None)
    assert (row["timing"]["generate"], row["timing"]["first_token"]) == (0, None) and row["timing"]["read"] > 0


@pytest.mark.parametrize("windows", ["none", "fixed", "energy", "silence", "sequential", "sequential --vad-filter"])
def test_rows_of_silence_are_never_asked(tmp_path, windows):
    lengths_s = {"short": 0.5, "window": 3.0, "tail": 3.1, "long": 10.0}
    rows, engine = rows_of(tmp_path, {name: np.zeros(round(s * RATE)) for name, s in lengths_s.items()}, windows)
    assert engine.asked == []
    for name, length_s in lengths_s.items():
        check_never_asked(rows[name], length_s)


@pytest.mark.parametrize("windows", ["fixed", "energy", "sequential"])
def test_silent_windows_of_a_recording_are_not_asked_and_all_others_are(tmp_path, windows):
    middle = np.concatenate([BURSTS, SILENCE, BURSTS])
    rows, engine = rows_of(
        tmp_path, {"middle": middle, "end": middle[: 10 * RATE], "begin": middle[3 * RATE :]}, windows
    )
    assert [len(rows[name]["pred_text"].split()) for name in ("middle", "end", "begin")] == [24, 12, 12]
    for row in rows.values():
        skipped_s = sum(skip["end"] - skip["start"] for skip in row["skips"])
        assert len(row["skips"]) == 1 and 2 * WINDOW_S - 1.5 <= skipped_s <= 7.15, "a burst ends in a pause"
        assert not {"empty", "no_speech"} & {flag for window in row["windows"] for flag in window["flags"]}
        assert not {"empty", "no_speech"} & set(row["flags"])
    assert len(engine.asked) == sum(len(row["windows"]) for row in rows.values())


def test_a_silent_channel_and_a_clip_in_a_silence_are_rows_of_silence(tmp_path):
    stereo = np.stack([SILENCE[: 3 * RATE], BURSTS], axis=1)
    rows, _ = rows_of(tmp_path, {"left": stereo}, "energy", channel=0)
    check_never_asked(rows["left"], 3.0)
    rows, _ = rows_of(tmp_path, {"right": stereo}, "energy", channel=1)
    assert rows["right"]["pred_text"].count("beep") == 12 and rows["right"]["skips"] == []
    middle = np.concatenate([BURSTS, SILENCE, BURSTS])
    rows, _ = rows_of(tmp_path, {"clip": middle}, "energy", offset_s=3.5, duration_s=4.0)
    check_never_asked(rows["clip"], 4.0)


def test_the_rest_of_a_window_is_not_asked_again_where_it_is_silence(tmp_path):
    """With timestamps a model ends its answer where people stop to speak, and says so."""

    class StopsWithSpeech(Spy):
        def read(self, samples, question):
            answer = super().read(samples, question)
            return replace(answer, resume_s=answer.segments[-1].end_s if answer.segments else None)

    said = np.concatenate([BURSTS[: RATE // 2], SILENCE[: 2 * RATE]])
    rows, engine = rows_of(tmp_path, {"rest": said}, "energy", engine=StopsWithSpeech)
    assert rows["rest"]["pred_text"] == "beep beep" and len(engine.asked) == 1
    rustling = np.concatenate([BURSTS[: RATE // 2], np.resize(np.float32([1e-4, -1e-4]), 2 * RATE)])
    with pytest.raises(AssertionError, match="you"):
        rows_of(tmp_path, {"rest": rustling}, "energy", engine=StopsWithSpeech)


def test_the_language_is_that_of_the_first_window_that_is_asked(tmp_path):
    class HearsFrench(Spy):
        def read(self, samples, question):
            return replace(super().read(samples, question), language=question.language or "fr", language_prob=0.9)

    late = np.concatenate([SILENCE[: 6 * RATE], BURSTS, BURSTS])
    rows, engine = rows_of(tmp_path, {"late": late}, "fixed", engine=HearsFrench, asks=Asks(language=None))
    assert [question.language for _, question in sorted(engine.asked)] == [None, "fr"]
    assert (rows["late"]["language"], rows["late"]["language_prob"]) == ("fr", 0.9)
