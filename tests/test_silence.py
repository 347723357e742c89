"""Cut by voice activity: long silences are skipped, speech never is, and all of a recording is one or the other."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from silero_vad import load_silero_vad

from asrbatch.errors import UsageError
from asrbatch.silence import SilenceSplitter, check_available, choices
from asrbatch.types import Window
from asrbatch.voice import FRAME, Listener, model_digest
from asrbatch.windows import Rules, split

S = 16_000
RULES = Rules(limit=30 * S, search=5 * S, frame=S // 10, min_tail=S)
PAD, MIN_SKIP, LONG, MIN_SPEECH = int(0.4 * S), 2 * S, int(2.8 * S), 5 * FRAME


# --- cuts, where loud is speech ---------------------------------------------------------------------------------------


class Loud:
    """Takes every loud frame for speech: stands for the model where a test must know exactly what is heard."""

    def __init__(self):
        self._held = np.empty(0, np.float32)

    def __call__(self, samples, is_end):
        held = np.concatenate([self._held, samples])
        if is_end:
            held = np.pad(held, (0, -len(held) % FRAME))
        num_frames = len(held) // FRAME
        self._held = held[num_frames * FRAME :]
        return np.abs(held[: num_frames * FRAME].reshape(-1, FRAME)).max(axis=1)


def cut(samples, rules, listen):
    """Windows, and skips where those that touch are one."""
    splitter, windows, skips, start = SilenceSplitter(rules, listen), [], [], 0
    while start < len(samples):
        found = splitter(samples[start : start + rules.lookahead])
        piece = Window(start, start + found.end)
        if not found.is_skipped:
            windows.append(piece)
        elif skips and skips[-1].end == start:
            skips[-1] = Window(skips[-1].start, piece.end)
        else:
            skips.append(piece)
        start = piece.end
    return windows, skips


@st.composite
def recordings(draw):
    """Samples, and the [start, end) of loud sound in them: speech of all lengths, pauses short, long and very long."""
    frames = st.one_of(st.integers(1, 8), st.integers(9, 120), st.integers(80, 95), st.integers(120, 1500))
    lengths = draw(st.lists(frames, min_size=1, max_size=10))
    is_speech, loud, position = draw(st.booleans()), [], 0
    for length in lengths:
        if is_speech:
            loud.append((position, position + length * FRAME))
        position, is_speech = position + length * FRAME, not is_speech
    num_samples = position - draw(st.integers(0, FRAME - 1))
    samples = np.zeros(num_samples, np.float32)
    for start, end in loud:
        samples[start:end] = 0.9
    return samples, [(start, min(end, num_samples)) for start, end in loud]


def is_partition(windows, skips, num_samples):
    pieces = sorted([*windows, *skips], key=lambda piece: piece.start)
    edges = [0, *(piece.end for piece in pieces)]
    return [piece.start for piece in pieces] == edges[:-1] and edges[-1] == num_samples


LIMITS = st.one_of(st.integers(1, 2000), st.integers(2000, 40 * S))


@given(LIMITS, st.integers(0, 6 * S), st.integers(1, 4000), st.floats(0, 0.5), recordings())
@settings(max_examples=150, deadline=None)
def test_windows_and_skips_are_a_partition_and_no_window_is_too_long(limit, search, frame, tail, recording):
    """Under any bounds, sensible or not."""
    samples, _ = recording
    samples = samples[: 400 * limit]
    windows, skips = cut(samples, Rules(limit, search, frame, int(limit * tail)), Loud())
    assert is_partition(windows, skips, len(samples))
    assert all(0 < w.end - w.start <= limit for w in windows)
    assert all(type(edge) is int for piece in windows + skips for edge in (piece.start, piece.end))


def long_silences(loud, num_samples):
    """What must be skipped, found by looking at the whole recording at once."""
    stretches = []
    for start, end in loud:
        if stretches and start - stretches[-1][1] < LONG:
            stretches[-1][1:] = end, stretches[-1][2] + -(-(end - start) // FRAME)
        else:
            stretches.append([start, end, -(-(end - start) // FRAME)])
    kept = [(start, end) for start, end, num_frames in stretches if num_frames * FRAME >= MIN_SPEECH]
    edges = [0, *(edge for start, end in kept for edge in (start - PAD, end + PAD)), num_samples]
    silent = [Window(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start >= MIN_SKIP]
    return silent, kept


@given(st.integers(8 * S, 40 * S), st.integers(S // 2, 2 * S), recordings())
@settings(max_examples=300, deadline=None)
def test_every_long_silence_is_skipped_and_nothing_else(limit, min_tail, recording):
    samples, loud = recording
    windows, skips = cut(samples, Rules(limit, limit // 6, 1600, min_tail), Loud())
    expected, speech = long_silences(loud, len(samples))
    if skips and skips[-1] not in expected:
        rest = skips.pop()  # of a recording that did not fit into the last window
        assert rest.end == len(samples) and rest.end - rest.start < MIN_SKIP and rest.start >= speech[-1][1]
    assert skips == expected
    starts_in_speech = [w for w in windows if any(start < w.start < end for start, end in speech)]
    assert all(w.end - w.start >= min_tail for w in starts_in_speech), "no crumb of speech is left alone"


def test_speech_that_goes_on_is_cut_in_the_last_good_pause():
    samples = np.full(50 * S, 0.9, np.float32)
    for start_s, end_s in ((16, 17), (22, 22.6), (25, 25.6), (27, 27.2), (29.5, 30.4)):
        samples[int(start_s * S) : int(end_s * S)] = 0.0
    (first, *_), _ = cut(samples, RULES, Loud())
    assert 25.2 * S < first.end < 25.4 * S, (
        "the middle of the last half second of silence; the one after it is cut off by the limit"
    )
    samples[25 * S : int(25.6 * S)] = 0.9
    (first, *_), _ = cut(samples, RULES, Loud())
    assert 22.2 * S < first.end < 22.4 * S


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    samples = np.full(50 * S, 0.9, np.float32)
    samples[27 * S : int(27.3 * S)] = 0.6
    (first, *_), _ = cut(samples, RULES, Loud())
    assert 27 * S <= first.end <= 27.3 * S


def test_what_fits_into_a_window_is_not_cut():
    samples = np.zeros(30 * S, np.float32)
    samples[2 * S : 28 * S] = 0.9
    assert cut(samples, RULES, Loud()) == ([Window(0, len(samples))], [])
    quiet = np.zeros(2 * S - 1, np.float32)
    assert cut(quiet, RULES, Loud()) == ([Window(0, len(quiet))], []), "shorter than a long silence: who knows"
    assert cut(np.zeros(100 * S, np.float32), RULES, Loud()) == ([], [Window(0, 100 * S)])


# --- the model, on real speech ----------------------------------------------------------------------------------------


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


SILENCES_S = [300, 3.5, 40, 1, 4, 0.5, 60, 2, 5, 0.3, 20, 3.5, 120]


def joined(skips):
    """Those that touch are one."""
    ends, starts = {skip.end for skip in skips}, {skip.start for skip in skips}
    return [Window(start, end) for start, end in zip(sorted(starts - ends), sorted(ends - starts), strict=True)]


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
    assert is_partition(windows, skips, len(samples))
    skips = joined(skips)
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
    assert all(is_skipped(silence, joined(skips)) for silence in silences)


def test_windows_end_in_pauses(utterances):
    """Where sentences follow each other for minutes, no window ends in one."""
    samples, is_sounding, _ = apart(utterances, [0.3] * (len(utterances) + 1))
    windows, _ = split(samples, RULES, "silence")
    assert len(windows) > 3 and all(w.end - w.start <= RULES.limit for w in windows)
    assert not any(is_sounding[w.end // 320] for w in windows[:-1])


def test_probabilities_are_those_of_sileros_own_model_however_the_audio_arrives(utterances):
    """Its own: the TorchScript build, frame by frame; and again with a memory of 4 s, after it has heard the 2 s before."""
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
    assert (expected > 0.9).sum() > 100 and (expected < 0.1).sum() > 20 and np.abs(np.subtract(whole, recent)).max() > 0.01
    for sizes in ([len(samples)], [1, 511, 513, 7, 40000], [FRAME]):
        listen, found, start, turn = Listener(), [], 0, 0
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


# --- what it needs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["onnxruntime", "silero_vad"])
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, library):
    check_available()
    monkeypatch.setitem(sys.modules, library, None)  # as Python marks a module that cannot be imported
    with pytest.raises(UsageError, match=rf"needs {library.replace('_', '-')}.*pip install 'asrbatch\[vad\]'"):
        check_available()


def test_another_rate_is_refused():
    with pytest.raises(UsageError, match="16000 Hz, and this model hears 8000 Hz"):
        split(np.zeros(100, np.float32), Rules(1000, 100, 10, 10, sample_rate=8000), "silence")


def test_what_decides_the_cuts_is_in_the_fingerprint():
    assert choices()["vad_digest"] == model_digest() and len(model_digest()) == 64
    assert json.loads(json.dumps(choices())) == choices()


def test_nothing_is_reported_to_anybody_and_torch_stays_out(tmp_path, speech_wav):
    """ONNX Runtime's own reports begin with a database in the user's cache folder."""
    code = (
        "import sys, numpy, soundfile; from asrbatch.windows import Rules, split\n"
        f"samples, rate = soundfile.read({str(speech_wav)!r}, dtype='float32')\n"
        "windows, skips = split(samples, Rules(30 * rate, rate, rate, rate), 'silence')\n"
        "assert windows and 'onnxruntime' in sys.modules\n"
        "assert not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    # CI: where it is set, nothing is reported anyway.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
