"""Long texts cut into pieces: their edits add up to those of the whole, in memory that stays small."""

import random
import re
from multiprocessing import get_context
from pathlib import Path

import kaldialign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrbatch.evaluation.alignment import MOST_CELLS, alignment, compound_edits, pieces

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work may slow the machine
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "abab", "c"]), max_size=14)


def edits(reference: list[str], hypothesis: list[str]) -> int:
    return kaldialign.edit_distance(reference, hypothesis, merge_compounds=True)["total"]


@relaxed
@given(reference=WORDS, hypothesis=WORDS, most_cells=st.sampled_from([1, 9, 30]))
def test_edits_of_pieces_add_up_to_those_of_the_whole(reference, hypothesis, most_cells):
    found = pieces(reference, hypothesis, most_cells)
    assert [word for piece, _ in found for word in piece] == reference
    assert [word for _, piece in found for word in piece] == hypothesis
    assert sum(edits(*piece) for piece in found) == edits(reference, hypothesis)


def spoken(number: int) -> tuple[str, str]:
    generator = random.Random(0)
    words = [f"w{generator.randrange(500)}" for _ in range(number)]
    heard = [f"w{generator.randrange(500)}" if generator.random() < 0.1 else word for word in words]
    heard[100:102] = ["".join(heard[100:102])]
    return " ".join(words), " ".join(heard)


def most_kib() -> int:
    """The largest resident set of this process; ru_maxrss would begin with that of the process that started it."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def peak_mib(queue) -> None:
    reference, hypothesis = spoken(7000)
    before = most_kib()
    counted = compound_edits([reference], [hypothesis])[0]
    shown = alignment(reference, hypothesis, in_words=True, with_compounds=True)
    wrong = sum(max(numbers) for kind, *numbers in shown if kind != "equal")
    queue.put(((most_kib() - before) / 1024, counted.errors, wrong))


def test_an_hour_of_words_takes_no_table_of_all_its_pairs():
    assert MOST_CELLS * 20 < 100e6
    context = get_context("spawn")  # memory that others freed would hide in a fork
    queue = context.Queue()
    process = context.Process(target=peak_mib, args=(queue,))
    process.start()
    mib, counted, shown = queue.get(timeout=300)
    process.join()
    assert mib < 300 and counted == shown > 500  # a whole table is 930 MiB
