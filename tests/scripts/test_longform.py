"""scripts/longform*.py: recordings hold what their manifests say, and scores put an error where it is."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
RATE = 16_000


@pytest.fixture(scope="module")
def scripts():
    """The modules by name; their folder is on the path while they are imported, as it is when they are run."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return {name: importlib.import_module(name) for name in ("longform_data", "longform_score", "longform_tables")}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture
def tones(scripts) -> list:
    """Forty utterances of 1 to 5 s, each a constant of its own, so that a sample says whose it is."""
    Speech = scripts["longform_data"].Speech
    return [Speech(f"number {i}", np.full(RATE + 1601 * i, (i + 1) / 64, np.float32)) for i in range(40)]


def samples_of(tape, utterance) -> np.ndarray:
    return np.concatenate(tape.pieces)[round(utterance["start"] * RATE) : round(utterance["end"] * RATE)]


def test_times_name_the_samples_of_each_utterance_and_the_rest_is_silence(scripts, tones):
    tape = scripts["longform_data"].in_a_row(tones, np.random.default_rng(1), (0.3, 1.5))
    said = {utterance["text"]: utterance for utterance in tape.utterances}
    assert sorted(said) == sorted(tone.text for tone in tones)
    for tone in tones:
        np.testing.assert_array_equal(samples_of(tape, said[tone.text]), tone.samples)
    gaps = np.diff([0, *(t for u in tape.utterances for t in (u["start"], u["end"])), tape.seconds])[::2]
    assert len(gaps) == len(tones) + 1
    assert gaps.min() > 0.299 and gaps.max() < 1.501
    assert np.count_nonzero(np.concatenate(tape.pieces)) == sum(len(tone.samples) for tone in tones)


def test_scenes_hold_every_background_as_loud_as_said(scripts, tones):
    data = scripts["longform_data"]
    music = [np.sin(np.arange(61 * RATE, dtype=np.float32) / 9)]
    tape = data.scenes(tones, np.random.default_rng(1), music)
    audio, before = np.concatenate(tape.pieces), 0.0
    scene: list[dict] = []
    for utterance in [*tape.utterances, None]:
        if utterance is None or (scene and utterance["background"] != scene[0]["background"]):
            lead = audio[round(before * RATE) : round(scene[0]["start"] * RATE)]
            clean = np.concatenate([tone.samples for u in scene for tone in tones if tone.text == u["text"]])
            kind, *level = scene[0]["background"].split()
            if kind == "silence":
                assert not lead.any()
            else:  # noise is adjusted over the whole scene, so a part of it may be a little off
                assert 20 * np.log10(data.rms(clean) / data.rms(lead)) == pytest.approx(float(level[0]), abs=1.5)
            assert 3 <= len(lead) / RATE <= 61.5
            before, scene = scene[-1]["end"], []
        if utterance:
            scene.append(utterance)
    assert len({utterance["text"] for utterance in tape.utterances}) == len(tape.utterances)


UTTERANCES = [
    {"start": 0.0, "end": 4.0, "text": "One Two three, four."},
    {"start": 5.0, "end": 8.0, "text": "five sixes seven"},
    {"start": 20.0, "end": 22.0, "text": "eight nine"},
]


@pytest.fixture
def words(scripts) -> list:
    score = scripts["longform_score"]
    return score.reference_words(UTTERANCES, score.normaliser("fr"))


def test_words_lie_in_their_utterances_by_letters(words):
    assert [word.text for word in words] == ["one", "two", "three", "four", "five", "sixes", "seven", "eight", "nine"]
    assert [word.utterance for word in words] == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert [word.text for word in words if word.is_first] == ["one", "five", "eight"]
    assert words[0].time_s == pytest.approx(4 * 1.5 / 15)
    assert words[3].time_s == pytest.approx(4 * 13 / 15)
    assert words[4].time_s == pytest.approx(5 + 3 * 2 / 14)


def test_errors_count_where_they_are_made(scripts, words):
    scored = scripts["longform_score"].score(
        words, ["one", "too", "three", "four", "four", "five", "seven", "eight", "nine", "no"]
    )
    assert scored.substituted.nonzero()[0].tolist() == [1]
    assert scored.deleted.nonzero()[0].tolist() == [5]
    assert {int(i): int(n) for i, n in enumerate(scored.inserted) if n} in ({3: 1, 8: 1}, {2: 1, 8: 1})
    assert scored.rates() == pytest.approx({"wer": 400 / 9, "sub": 100 / 9, "del": 100 / 9, "ins": 200 / 9})
    nothing = scripts["longform_score"].score(words, [])
    assert nothing.rates() == {"wer": 100.0, "sub": 0.0, "del": 100.0, "ins": 0.0}


def test_seams_are_where_one_window_takes_over_from_another(scripts, words):
    score = scripts["longform_score"]
    windows = [
        {"start": 0, "end": 5.1},
        {"start": 5.1, "end": 30},
        {"start": 19.0, "end": 21.5},
        {"start": 23, "end": 30},
    ]
    assert score.seams(windows) == [5.1, 19.0, 21.5, 23]
    assert [words[i].text for i in score.near(words, [8.5]).nonzero()[0]] == ["seven"]
    assert not score.near(words, []).any()


def test_a_difference_is_that_of_the_error_rates(scripts, words):
    score = scripts["longform_score"]
    right = score.score(words, [word.text for word in words])
    wrong = score.score(words, [word.text for word in words if word.text != "seven"])
    excess, low, high = score.difference([wrong, right], [right, right])
    assert excess == pytest.approx(100 / 18)
    assert low == 0 < excess < high


def test_start_errors_are_those_of_segments_that_begin_with_an_utterance(scripts):
    score = scripts["longform_score"]
    segments = [
        {"start": 0.5, "end": 3.0, "text": " One two three"},
        {"start": 3.0, "end": 8.0, "text": " four five sixes seven"},
        {"start": 19.0, "end": 22.0, "text": " eight nine."},
    ]
    assert score.start_errors(UTTERANCES, segments, score.normaliser("fr")) == [(0.0, 0.5), (20.0, -1.0)]
