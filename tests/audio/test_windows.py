"""Where long audio is cut: nothing lost, nothing twice, nothing too long, and at quiet points."""

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from windowing import split

from asrbatch.audio.buffer import AudioBuffer, WindowLimits
from asrbatch.audio.windows import SPLITTERS, WindowConfig, cut, energy, fixed, whole
from asrbatch.config import SEQUENTIAL, WINDOWS
from asrbatch.pipeline.budget import Budget

RULES = WindowLimits(limit=3000, search=500, frame=100, min_tail=100)


def noise(num_samples: int) -> np.ndarray:
    return np.resize(np.float32([1.0, -1.0]), num_samples)


@st.composite
def rules(draw) -> WindowLimits:
    limit = draw(st.integers(2, 400))
    # A tail as long as a window would leave nothing for the window before it.
    min_tail = draw(st.integers(0, limit // 2))
    most = limit + draw(st.integers(0, limit))
    return WindowLimits(limit, draw(st.integers(0, 500)), draw(st.integers(1, 60)), min_tail, most=most)


@given(rules(), st.integers(1, 3000), st.sampled_from(["fixed", "energy"]), st.integers(0, 2**32 - 1))
@settings(max_examples=400, deadline=None)
def test_windows_are_a_partition_and_none_is_too_long(rules, num_samples, splitter, seed):
    samples = np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)
    windows, skips = split(samples, rules, splitter)
    pieces = sorted([*windows, *skips], key=lambda piece: piece.start)
    assert pieces[0].start == 0 and pieces[-1].end == num_samples
    assert all(before.end == after.start for before, after in itertools.pairwise(pieces))
    assert all(len(set(samples[w.start : w.end])) > 1 for w in windows), "one sample alone is a constant"
    if skips:
        return
    lengths = [w.end - w.start for w in windows]
    assert all(0 < length <= rules.limit for length in lengths[:-1])
    most = min(rules.most, rules.limit + rules.min_tail) if splitter == "fixed" else rules.limit
    assert lengths[-1] <= max(most, rules.limit)
    assert all(type(edge) is int for w in windows for edge in (w.start, w.end))
    if len(windows) > 1:
        assert windows[-1].end - windows[-1].start >= rules.min_tail, "no tail is left alone"


@given(rules(), st.integers(1, 3000), st.sampled_from(["fixed", "energy"]), st.lists(st.integers(1, 900), min_size=1))
@settings(max_examples=200, deadline=None)
def test_windows_do_not_depend_on_how_the_audio_arrives(rules, num_samples, splitter, block_sizes):
    """Block by block, against all at once."""
    samples = np.random.default_rng(num_samples).normal(size=num_samples).astype(np.float32)

    def blocks():
        start = 0
        for size in itertools.cycle(block_sizes):
            if start >= num_samples:
                return
            yield samples[start : start + size]
            start += size

    skips = []
    found = list(cut(AudioBuffer(blocks()), rules, SPLITTERS[splitter](rules), skips))
    assert ([piece.window for piece in found], skips) == split(samples, rules, splitter)
    assert all(np.array_equal(piece.samples, samples[piece.window.start : piece.window.end]) for piece in found)


def test_every_way_of_cutting_has_a_name_among_the_options():
    assert {*SPLITTERS, SEQUENTIAL} == set(WINDOWS)


def test_a_recording_that_fits_is_not_cut():
    for name in ("none", "fixed", "energy"):
        assert [(w.start, w.end) for w in split(noise(3000), RULES, name)[0]] == [(0, 3000)]


def test_fixed_joins_a_tail_where_the_model_hears_both_and_halves_them_where_it_does_not():
    def cuts(num_samples, most):
        return [w.end for w in split(noise(num_samples), replace(RULES, most=most), "fixed")[0]]

    for most in (0, 3000, 3050, 3099, 6000):
        assert cuts(9000, most) == [3000, 6000, 9000]
        assert cuts(6100, most) == [3000, 6000, 6100], "a tail that is long enough stands"
        assert cuts(6099, most) == ([3000, 6099] if most >= 3099 else [3000, 4550, 6099])
        assert cuts(3050, most) == ([3050] if most >= 3050 else [1525, 3050])
    assert fixed(noise(3001), RULES).end == 1501


# Recordings, and --window-seconds: 13 lengths of which five were cut otherwise than by NeMo Skills (the last, 20.3 s,
# and those with a tail under a second) when the rule was to cut every such tail in halves with the window before.
LENGTHS = [(s, 30) for s in (5, 29.9, 30, 30.001, 30.4, 31, 45.5, 60, 60.3, 61.5, 90.9, 119.7)] + [(20.3, 20)]
NOT_AGREED = {"Whisper": {30.001, 30.4, 60.3, 90.9}, "a model that takes more": set()}


def joined(num_samples: int, window: int, least: int) -> list[int]:
    """Window by window, what is left last joins the one before it where it is less than `least`: `chunk_audio` of NeMo
    Skills (1 s), and the rule of NeMo Gym's pull request 1358 (0.5 s)."""
    lengths = [window] * (num_samples // window)
    rest = num_samples % window
    if rest and (rest >= least or not lengths):
        return [*lengths, rest]
    return [*lengths[:-1], lengths[-1] + rest]


def test_fixed_beside_nemo_skills_and_nemo_gym_is_as_the_docs_say():
    rate, docs = 1000, Path(__file__).parents[2] / "docs/measurements/long-recordings.md"
    found = {name: set() for name in NOT_AGREED}
    for length_s, window_s in LENGTHS:
        num_samples, cells = round(length_s * rate), []
        skills, gym = (joined(num_samples, window_s * rate, least) for least in (1000, 500))
        for name, most_s in zip(NOT_AGREED, (30.0, window_s + 1.0), strict=True):
            config = WindowConfig(rate, float(window_s), 1, "fixed", most_s=most_s)
            windows, _ = split(noise(num_samples), config.in_samples, "fixed")
            lengths = [w.end - w.start for w in windows]
            assert max(lengths) <= most_s * rate, "no model is given more than it hears"
            if lengths != skills:
                found[name].add(length_s)
            cells.append(lengths)
        shown = [" + ".join(f"{n / rate:g}" for n in each) for each in (skills, gym, *cells)]
        line = f"| {length_s:g} | {window_s} | {' | '.join(shown)} |"
        assert line in docs.read_text(encoding="utf-8"), line
    assert found == NOT_AGREED


def test_energy_cuts_in_the_middle_of_a_pause():
    samples = noise(8000)
    samples[2700:2900] = 0.0
    samples[5400:5500] = 0.1
    (first, second, *_), _ = split(samples, RULES, "energy")
    assert 2750 <= first.end <= 2850
    assert 5400 <= second.end <= 5500
    assert energy(noise(3100), RULES).end > 2900, "of equally loud points the last: the fewest windows"


def test_none_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="more samples than"):
        whole(np.zeros(3001, np.float32), RULES)


def test_the_budget_is_bounded_by_windows_and_by_seconds():
    budget = Budget(2, 10.0)
    assert budget.has_capacity() and budget.take(4.0) and budget.has_capacity()
    budget.reserve(4.0)
    assert not budget.has_capacity(), "two windows"
    budget.unreserve(4.0)
    budget.take(40.0)
    budget.release(4.0)
    assert not budget.has_capacity(), "40 seconds"
    budget.release(40.0)
    assert budget.has_capacity()


def test_a_thread_waits_for_windows_but_never_for_reservations():
    budget = Budget(1, 10.0)
    budget.reserve(5.0)
    assert budget.take(5.0), "a row that waits for its turn holds up nobody"
    waited = []
    thread = threading.Thread(target=lambda: waited.append(budget.take(5.0)))
    thread.start()
    time.sleep(0.05)
    assert waited == []
    budget.release(5.0)
    thread.join(5)
    assert waited == [True]
    thread = threading.Thread(target=lambda: waited.append(budget.take(5.0)))
    thread.start()
    budget.close()
    thread.join(5)
    assert waited == [True, False]
