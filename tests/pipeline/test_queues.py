"""How loud a recording was before each of its windows, whatever the order in which they come."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asrbatch.pipeline.queues import ReorderBuffer
from asrbatch.pipeline.state import InFlightWindow


def window(number: int, peak: float | None) -> InFlightWindow:
    return InFlightWindow(None, number, None, peak=peak)


@given(st.lists(st.one_of(st.none(), st.floats(-2, 2)), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_windows_come_out_in_order_each_with_the_loudest_before_it(loudness, random):
    """None stands for a window whose features could not be computed, or do not depend on it."""
    order, so_far = list(range(len(loudness))), ReorderBuffer()
    random.shuffle(order)
    out = []
    for done, number in enumerate(order, start=1):
        out += so_far.add(window(number, loudness[number]))
        known = set(order[:done])
        first_missing = next(n for n in itertools.count() if n not in known)
        assert [ready.number for ready in out] == list(range(first_missing))
    for ready in out:
        assert ready.peak == max((each for each in loudness[: ready.number + 1] if each is not None), default=None)
