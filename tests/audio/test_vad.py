"""Voice activity in real speech: probabilities, long silences with all kinds of sound in them, and what it needs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import REPO
from silero_vad import load_silero_vad
from windowing import split

from asrbatch.audio.buffer import WindowLimits
from asrbatch.audio.silence import choices
from asrbatch.audio.vad import FRAME, SileroVad, check_available, model_digest
from asrbatch.errors import UsageError

S = 16_000
RULES = WindowLimits(limit=30 * S, search=5 * S, frame=S // 10, min_tail=S)
PAD = int(0.4 * S)


def read(path):
    samples, rate = soundfile.read(path, dtype="float32")
    return samples if rate == S else soxr.resample(samples, rate, S)


@pytest.fixture(scope="module")
def utterances(demo_rows):
    return [read(row["audio_filepath"]) for row in demo_rows]


def sounding(samples):
    """Where something is to be heard in an utterance: bool [n // 320], each 20 ms within 26 dB of the loudest."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    loudness = np.sqrt(np.mean(frames**2, axis=1))
    return loudness > 0.05 * loudness.max()


def apart(utterances, silences_s):
    """The utterances with silences around and between them.

    Returns:
        The samples; where something is to be heard, as in `sounding`; [start, end) of each silence.
    """
    samples, is_sounding, silences, position = [], [], [], 0
    for utterance, silence_s in zip([np.empty(0, np.float32), *utterances], silences_s, strict=True):
        whole = utterance[: len(utterance) // 320 * 320]
        silences.append((position + len(whole), position + len(whole) + round(silence_s * 50) * 320))
        samples += [whole, np.zeros(silences[-1][1] - silences[-1][0], np.float32)]
        is_sounding += [sounding(whole) if len(whole) else np.empty(0, bool), np.zeros(len(samples[-1]) // 320, bool)]
        position = silences[-1][1]
    return np.concatenate(samples), np.concatenate(is_sounding), silences


def background(kind, num_samples):
    """Sound that nobody speaks in, float32 with a standard deviation of 1."""
    t, random = np.arange(num_samples) / S, np.random.default_rng(0)
    if kind == "noise":
        sound = random.normal(size=num_samples)
    elif kind == "hum":
        sound = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 8))
    else:  # three notes at a time, another three every 0.375 s
        notes = np.repeat(random.integers(0, 25, (num_samples // 6000 + 1, 3)), 6000, axis=0)[:num_samples]
        sound = np.sin(2 * np.pi * 220 * t[:, None] * 2 ** (notes / 12)).sum(axis=1) * np.exp(-4 * (t % 0.375))
    return (sound / np.std(sound)).astype(np.float32)


def skips_no_speech(skips, is_sounding):
    """Nothing that is to be heard lies in a skip, but for a tenth of a second at its edges."""
    heard = np.repeat(is_sounding, 320)
    return not any(heard[skip.start + S // 10 : skip.end - S // 10].any() for skip in skips)


def is_skipped(silence, skips):
    """A silence is, but for what is kept around speech."""
    edge = PAD + 0.3 * S
    return any(skip.start <= silence[0] + edge and skip.end >= silence[1] - edge for skip in skips)


SILENCES_S = [60, 3.5, 40, 1, 4, 0.5, 30, 2, 5, 0.3, 20, 3.5, 40]


@pytest.mark.parametrize("kind", ["nothing", "noise", "hum", "music"])
def test_long_silences_are_skipped_and_speech_never(utterances, kind):
    """Noise and hum lie under the speech too, 20 dB below it; music is between, as loud as the speech, as on hold."""
    samples, is_sounding, silences = apart(utterances, SILENCES_S[: len(utterances) + 1])
    loudness = np.concatenate(utterances).std()
    if kind in ("noise", "hum"):
        samples += 0.1 * loudness * background(kind, len(samples))
    elif kind == "music":
        for start, end in silences:
            samples[start:end] = loudness * background(kind, end - start)
    windows, skips = split(samples, RULES, "silence")
    pieces = sorted([*windows, *skips], key=lambda piece: piece.start)
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])] and pieces[-1].end == len(
        samples
    )
    assert skips_no_speech(skips, is_sounding)
    long = [(start, end) for start, end in silences if end - start >= 3.5 * S]
    if kind == "music":  # some notes are taken for speech
        assert sum(skip.end - skip.start for skip in skips) > 0.9 * sum(end - start for start, end in long)
    else:
        assert all(is_skipped(silence, skips) for silence in long)


def test_quiet_recordings_are_heard(utterances):
    samples, is_sounding, silences = apart(utterances, [3.5] * (len(utterances) + 1))
    _, skips = split(samples * np.float32(0.001), RULES, "silence")
    assert skips_no_speech(skips, is_sounding)
    assert all(is_skipped(silence, skips) for silence in silences)


def test_windows_end_in_pauses(utterances):
    """Where sentences follow each other for minutes, no window ends in one."""
    samples, is_sounding, _ = apart(utterances, [0.3] * (len(utterances) + 1))
    windows, _ = split(samples, RULES, "silence")
    assert len(windows) > 1 and all(w.end - w.start <= RULES.limit for w in windows)
    assert not any(is_sounding[w.end // 320] for w in windows[:-1])


def test_probabilities_are_those_of_sileros_own_model_however_the_audio_arrives(utterances):
    """Its own: the TorchScript build, frame by frame; and again with a memory of 4 s, after it has heard the 2 s
    before.
    """
    model = load_silero_vad()
    samples = np.concatenate([utterances[0], np.zeros(S, np.float32), *utterances[1:3]])[: 15 * S + 7]
    frames = torch.from_numpy(np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME))

    def hear(start, end):
        return [model(frame, S).item() for frame in frames[start:end]]

    with torch.no_grad():
        whole, recent = hear(0, len(frames)), []
        for start in range(0, len(frames), 125):
            model.reset_states()
            before = max(0, start - 62)
            if before:  # a reset makes zeros of the 64 samples that the model sees before a frame; we know them
                model._context = frames[before - 1][None, -64:]
            recent += hear(before, start + 125)[start - before :]
    expected = np.maximum(whole, recent)
    assert (
        (expected > 0.9).sum() > 100 and (expected < 0.1).sum() > 20 and np.abs(np.subtract(whole, recent)).max() > 0.01
    )
    for sizes in ([len(samples)], [1, 511, 513, 7, 40000], [FRAME]):
        listen, found, start, turn = SileroVad(), [], 0, 0
        while start < len(samples):
            end = min(start + sizes[turn % len(sizes)], len(samples))
            found.append(listen(samples[start:end], end == len(samples)))
            start, turn = end, turn + 1
        assert np.abs(np.concatenate(found) - expected).max() < 1e-4


def test_recordings_are_heard_side_by_side(utterances):
    recordings = [np.tile(utterance, 4) for utterance in utterances[:4]]
    alone = [split(recording, RULES, "silence") for recording in recordings]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda recording: split(recording, RULES, "silence"), recordings * 3)) == alone * 3


@pytest.mark.parametrize("library", ["onnxruntime", "silero_vad"])
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, library):
    check_available()
    monkeypatch.setitem(sys.modules, library, None)  # as Python marks a module that cannot be imported
    with pytest.raises(
        UsageError, match=rf"needs {library.replace('_', '-')}.*pip install '\.\[vad\]' where asrbatch was cloned"
    ):
        check_available()


def test_another_rate_is_refused():
    with pytest.raises(UsageError, match="16000 Hz, and this model takes 8000 Hz"):
        split(np.zeros(100, np.float32), WindowLimits(1000, 100, 10, 10, sample_rate=8000), "silence")


def test_what_decides_the_cuts_is_in_the_fingerprint():
    assert choices()["vad_digest"] == model_digest() and len(model_digest()) == 64
    assert json.loads(json.dumps(choices())) == choices()


def test_nothing_is_reported_to_anybody_and_torch_stays_out(tmp_path, speech_wav):
    """ONNX Runtime's own reports begin with a database in the user's cache folder."""
    code = (
        "import sys, numpy, soundfile; from asrbatch.audio.buffer import WindowLimits\nfrom windowing import split\n"
        f"samples, rate = soundfile.read({str(speech_wav)!r}, dtype='float32')\n"
        "windows, skips = split(samples, WindowLimits(30 * rate, rate, rate, rate), 'silence')\n"
        "assert windows and 'onnxruntime' in sys.modules\n"
        "assert not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    # CI: where it is set, nothing is reported anyway.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True, cwd=REPO / "tests"
    )
    assert list(tmp_path.rglob("*")) == []
