"""The warping against the textbook's, cell by cell, and what holds of every path."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.models.warping import first_frames

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 14))


def textbook(cost: np.ndarray) -> tuple[float, list[int]]:
    """The least cost, and the first frame of each token on the path that has it; cell by cell."""
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i, j in np.ndindex(cost.shape):
        total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    i, j = cost.shape
    firsts = {}
    while i > 0:
        firsts[i - 1] = j - 1
        before = [(total[i - 1, j - 1], i - 1, j - 1), (total[i - 1, j], i - 1, j), (total[i, j - 1], i, j - 1)]
        _, i, j = min(before)
    return total[-1, -1], [firsts[token] for token in sorted(firsts)]


def cost_of(cost: np.ndarray, firsts: list[int]) -> float:
    """Of the best path that enters each token there."""
    total = 0.0
    for token, first in enumerate(firsts):
        following = firsts[token + 1] if token + 1 < len(firsts) else cost.shape[1] - 1
        diagonal = cost[token, first:following].sum() if following > first else np.inf
        total += min(diagonal, cost[token, first : following + 1].sum()) if token + 1 < len(firsts) else (
            cost[token, first:].sum()
        )  # fmt: skip
    return total


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_a_path_of_least_cost_for_each_window_of_a_batch(sizes, seed):
    random = np.random.default_rng(seed)
    costs = [random.normal(size=size) for size in sizes]
    for cost, firsts in zip(costs, first_frames(costs), strict=True):
        least, expected = textbook(cost)
        assert firsts.tolist() == expected
        assert np.isclose(cost_of(cost, firsts.tolist()), least)


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_ascending_inside_and_alike_in_any_batch(sizes, seed, levels):
    """Also where many paths cost the same."""
    random = np.random.default_rng(seed)
    costs = [random.integers(0, levels, size=size).astype(np.float32) for size in sizes]
    together = first_frames(costs)
    for cost, firsts in zip(costs, together, strict=True):
        assert firsts.tolist() == first_frames([cost])[0].tolist()
        assert firsts[0] == 0 and len(firsts) == len(cost)
        assert (np.diff(firsts) >= 0).all() and firsts[-1] < cost.shape[1]
        assert np.isclose(cost_of(cost, firsts.tolist()), textbook(cost)[0])


def test_a_path_that_everybody_sees():
    cost = np.ones((3, 10))
    cost[0, :4] = cost[1, 4:7] = cost[2, 7:] = -1
    assert first_frames([cost])[0].tolist() == [0, 4, 7]
    assert first_frames([]) == []
