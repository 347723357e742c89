"""How loud a recording was before each of its windows, whatever the order in which they come."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asrbatch.pipeline.queues import ReorderBuffer


@given(st.lists(st.one_of(st.none(), st.floats(-2, 2)), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_windows_come_out_in_order_each_with_the_loudest_before_it(loudness, random):
    """None stands for a window whose features could not be computed."""
    order, so_far = list(range(len(loudness))), ReorderBuffer()
    random.shuffle(order)
    out = []
    for done, number in enumerate(order, start=1):
        is_there = loudness[number] is not None
        out += so_far.add(number, loudness[number], number if is_there else None)
        known = set(order[:done])
        first_missing = next(n for n in itertools.count() if n not in known)
        assert [n for _, n in out] == [n for n in range(first_missing) if loudness[n] is not None]
    assert all(loudest == max(each for each in loudness[: n + 1] if each is not None) for loudest, n in out)


def test_an_engine_that_says_nothing_of_loudness_is_asked_as_well():
    so_far = ReorderBuffer()
    assert so_far.add(1, None, "second") == []
    assert so_far.add(0, None, "first") == [(None, "first"), (None, "second")]
