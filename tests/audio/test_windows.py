"""Where long audio is cut: nothing lost, nothing twice, nothing too long, and at quiet points."""

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from windowing import split

from asrbatch.audio.buffer import AudioBuffer, WindowLimits
from asrbatch.audio.windows import SPLITTERS, cut, energy, fixed, whole
from asrbatch.config import SEQUENTIAL, WINDOWS
from asrbatch.pipeline.budget import Budget

RULES = WindowLimits(limit=3000, search=500, frame=100, min_tail=100)


@st.composite
def rules(draw) -> WindowLimits:
    limit = draw(st.integers(2, 400))
    # A tail as long as a window would leave nothing for the window before it.
    min_tail = draw(st.integers(0, limit // 2))
    return WindowLimits(limit, draw(st.integers(0, 500)), draw(st.integers(1, 60)), min_tail)


@given(rules(), st.integers(1, 3000), st.sampled_from(["fixed", "energy"]), st.integers(0, 2**32 - 1))
@settings(max_examples=400, deadline=None)
def test_windows_are_a_partition_and_none_is_too_long(rules, num_samples, splitter, seed):
    samples = np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)
    windows, skips = split(samples, rules, splitter)
    assert skips == []
    assert windows[0].start == 0 and windows[-1].end == num_samples
    assert all(before.end == after.start for before, after in itertools.pairwise(windows))
    assert all(0 < w.end - w.start <= rules.limit for w in windows)
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
    assert np.array_equal(np.concatenate([piece.samples for piece in found]), samples)


def test_every_way_of_cutting_has_a_name_among_the_options():
    assert {*SPLITTERS, SEQUENTIAL} == set(WINDOWS)


def test_a_recording_that_fits_is_not_cut():
    for name in ("none", "fixed", "energy"):
        assert [(w.start, w.end) for w in split(np.ones(3000, np.float32), RULES, name)[0]] == [(0, 3000)]


def test_fixed_is_the_rule_of_nemo_gym_but_within_the_limit():
    cuts = lambda n: [w.end for w in split(np.zeros(n, np.float32), RULES, "fixed")[0]]  # noqa: E731
    assert cuts(9000) == [3000, 6000, 9000]
    assert cuts(6100) == [3000, 6000, 6100], "a tail that is long enough stands"
    assert cuts(6099) == [3000, 4550, 6099], "a shorter one shares with the window before"
    assert fixed(np.zeros(3001, np.float32), RULES).end == 1501


def test_energy_cuts_in_the_middle_of_a_pause():
    samples = np.ones(8000, np.float32)
    samples[2700:2900] = 0.0
    samples[5400:5500] = 0.1
    (first, second, *_), _ = split(samples, RULES, "energy")
    assert 2750 <= first.end <= 2850
    assert 5400 <= second.end <= 5500
    assert energy(np.ones(3100, np.float32), RULES).end > 2900, "of equally loud points the last: the fewest windows"


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
