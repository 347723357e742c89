"""How rows are dealt out to chunks, and what the chunks' files are called; `test_chunks.py` runs them."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrbatch.config import STRATEGIES
from asrbatch.errors import OutputError, UsageError
from asrbatch.manifest.sharding import Sharding
from asrbatch.storage.paths import RunPaths, check_output, chunk_path, find_chunks

lengths = st.one_of(st.just(np.nan), st.just(0.0), st.floats(0, 1e9, width=32), st.sampled_from([1.0, 2.5, 30.0]))
durations = st.lists(lengths, max_size=60).map(lambda values: np.array(values, np.float32))
counts = st.integers(1, 80)


def loads_ms(durations_s: np.ndarray, chunk_of: np.ndarray, num_chunks: int) -> list[int]:
    """Whole milliseconds of each chunk, added up one by one."""
    loads = [0] * num_chunks
    for chunk, seconds in zip(chunk_of.tolist(), durations_s.tolist(), strict=True):
        loads[chunk] += 0 if seconds != seconds else round(seconds * 1000)
    return loads


# Dealing out


@settings(max_examples=400, deadline=None)
@given(durations, counts, st.sampled_from(STRATEGIES))
def test_every_row_is_in_exactly_one_chunk(durations_s, num_chunks, strategy):
    sharding = Sharding(durations_s, num_chunks, strategy)
    rows = [sharding.rows(chunk) for chunk in range(num_chunks)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(durations_s)))
    for chunk, mine in enumerate(rows):
        assert mine.tolist() == sorted(mine.tolist())
        assert len(mine) == sharding.num_rows[chunk]
    assert len(sharding.num_rows) == num_chunks
    assert sharding.chunk_of.dtype == np.int32


@settings(max_examples=100, deadline=None)
@given(durations, counts)
def test_contiguous_is_the_rule_of_nemo_skills(durations_s, num_chunks):
    """Consecutive rows; the first `rows % num_chunks` chunks get one more."""
    sharding = Sharding(durations_s, num_chunks, "contiguous")
    least, more = divmod(len(durations_s), num_chunks)
    start = 0
    for chunk in range(num_chunks):
        size = least + (chunk < more)
        assert sharding.rows(chunk).tolist() == list(range(start, start + size))
        start += size


@settings(max_examples=100, deadline=None)
@given(durations, counts)
def test_strided_deals_rows_out_in_turn(durations_s, num_chunks):
    sharding = Sharding(durations_s, num_chunks, "strided")
    assert sharding.chunk_of.tolist() == [row % num_chunks for row in range(len(durations_s))]
    assert (sharding.strategy, sharding.num_without_duration) == ("strided", 0)


@settings(max_examples=300, deadline=None)
@given(durations, counts)
def test_balanced_is_within_one_row_of_even(durations_s, num_chunks):
    """Any rule that fills the lightest chunk: the row put last onto the heaviest one found it no
    heavier than the mean.
    """
    sharding = Sharding(durations_s, num_chunks, "balanced")
    if np.isnan(durations_s).all():
        assert sharding.strategy == "strided" and sharding.num_without_duration == len(durations_s)
        assert sharding.chunk_of.tolist() == Sharding(durations_s, num_chunks, "strided").chunk_of.tolist()
        return
    assert sharding.strategy == "balanced"
    costs = [round(s * 1000) for s in durations_s.tolist() if s == s]
    heaviest = max(loads_ms(durations_s, sharding.chunk_of, num_chunks))
    assert num_chunks * heaviest <= sum(costs) + (num_chunks - 1) * max(costs)
    if len(costs) <= num_chunks:
        assert heaviest == max(costs), "none takes two rows while another is empty"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=7), st.integers(1, 3))
def test_balanced_keeps_the_bound_of_longest_first(costs_ms, num_chunks):
    """Graham, 1969: at most 4/3 - 1/(3N) times the best dealing there is, found here by trying them all."""
    durations_s = np.array(costs_ms, np.float32) / 1000
    heaviest = max(loads_ms(durations_s, Sharding(durations_s, num_chunks).chunk_of, num_chunks))
    best = min(
        max(sum(ms for ms, chunk in zip(costs_ms, dealt, strict=True) if chunk == c) for c in range(num_chunks))
        for dealt in itertools.product(range(num_chunks), repeat=len(costs_ms))
    )
    assert 3 * num_chunks * heaviest <= (4 * num_chunks - 1) * best


@settings(max_examples=200, deadline=None)
@given(durations, counts)
def test_rows_without_a_duration_are_dealt_out_in_turn(durations_s, num_chunks):
    sharding = Sharding(durations_s, num_chunks, "balanced")
    unstated = np.flatnonzero(np.isnan(durations_s))
    assert sharding.num_without_duration == len(unstated)
    assert sharding.chunk_of[unstated].tolist() == [place % num_chunks for place in range(len(unstated))]
    stated = durations_s[~np.isnan(durations_s)]
    if len(stated):  # and change nothing for the others
        alone = Sharding(stated, num_chunks, "balanced").chunk_of
        assert sharding.chunk_of[~np.isnan(durations_s)].tolist() == alone.tolist()


@settings(max_examples=300, deadline=None)
@given(durations, counts)
def test_consecutive_is_in_order_and_within_one_row_of_even(durations_s, num_chunks):
    sharding = Sharding(durations_s, num_chunks, "consecutive")
    chunks = sharding.chunk_of.tolist()
    assert chunks == sorted(chunks) and set(chunks) <= set(range(num_chunks))
    stated = [min(10**9, max(1, round(s * 1000))) for s in durations_s.tolist() if s == s] or [1]
    costs = [
        min(10**9, max(1, round(s * 1000))) if s == s else sum(stated) // len(stated) for s in durations_s.tolist()
    ]
    for chunk in range(num_chunks):
        load = sum(cost for cost, of in zip(costs, sharding.chunk_of.tolist(), strict=True) if of == chunk)
        assert abs(num_chunks * load - sum(costs)) <= num_chunks * max(costs, default=0)


@settings(max_examples=50, deadline=None)
@given(durations, counts)
def test_audio_in_groups_is_dealt_out_in_order_and_the_same_again_by_the_name_that_is_noted(durations_s, num_chunks):
    dealt = Sharding(durations_s, num_chunks, "balanced", in_groups=True)
    assert dealt.strategy == "consecutive" and dealt.num_without_duration == 0
    assert Sharding(durations_s, num_chunks, dealt.strategy).digest == dealt.digest
    for strategy in ("contiguous", "strided"):
        assert Sharding(durations_s, num_chunks, strategy, in_groups=True).strategy == strategy


def test_longest_first_onto_the_lightest():
    durations_s = np.array([1, 2, 3, 3, 2, 1], np.float32)
    assert Sharding(durations_s, 2, "balanced").chunk_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert Sharding(durations_s, 9, "balanced").num_rows.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    durations_s = np.array([5, 4, 3, 3, 3], np.float32)
    assert list(loads_ms(durations_s, Sharding(durations_s, 2, "balanced").chunk_of, 2)) == [8000, 10000]


def heavy_tailed(num_rows: int) -> np.ndarray:
    """Seconds, log-normal: median 5 s, one row in a thousand above 6 minutes, the longest of more than half an hour."""
    return np.random.default_rng(3).lognormal(1.6, 1.4, num_rows).astype(np.float32)


def test_heavy_tailed_chunks_differ_by_less_than_one_percent():
    durations_s = heavy_tailed(100_000)
    tracemalloc.start()
    started = time.perf_counter()
    sharding = Sharding(durations_s, 64, "balanced")
    took_s = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"100,000 rows into 64 chunks: {took_s:.2f} s (traced), {peak / 2**20:.1f} MiB")
    assert durations_s.max() > 1800 and np.median(durations_s) < 6
    loads = np.array(loads_ms(durations_s, sharding.chunk_of, 64))
    assert loads.max() < 1.01 * loads.mean()
    assert loads.max() <= loads.mean() + np.rint(durations_s.max().astype(np.float64) * 1000)
    # Rows in turn would not do.
    assert max(loads_ms(durations_s, Sharding(durations_s, 64, "strided").chunk_of, 64)) > 1.01 * loads.mean()


DIGESTS = """
import json, sys
import numpy as np
from asrbatch.config import STRATEGIES
from asrbatch.manifest.sharding import Sharding
durations_s = np.random.default_rng(3).lognormal(1.6, 1.4, 5000).astype(np.float32)
durations_s[::7] = np.nan
print(json.dumps([Sharding(durations_s, n, s).digest for s in STRATEGIES for n in (1, 2, 17, 6000)]))
"""


def test_every_process_deals_out_alike():
    """A run is many processes that never talk: what they compute may depend on nothing but manifest, N and strategy."""
    answers = []
    for seed in ("0", "1", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed[-1] if seed != "0" else "2"}
        done = subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=True, env=env)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1] == answers[2]
    one, two, seventeen, more_than_rows = np.array(answers[0]).reshape(4, 4).T.tolist()
    assert len({*one}) == 1 and len({*two, *seventeen}) == 8 and len({*more_than_rows}) == 3


def test_the_digest_is_that_of_the_dealing_and_will_not_change():
    """Recorded in fingerprints: a change here would refuse every run that is under way."""
    durations_s = np.array([4, np.nan, 1.5, 30, 0.25, 4, np.nan], np.float32)
    found = {strategy: Sharding(durations_s, 3, strategy) for strategy in STRATEGIES}
    assert {name: sharding.chunk_of.tolist() for name, sharding in found.items()} == {
        "balanced": [1, 0, 1, 0, 2, 2, 1],
        "contiguous": [0, 0, 0, 1, 1, 2, 2],
        "strided": [0, 1, 2, 0, 1, 2, 0],
        "consecutive": [0, 0, 0, 1, 2, 2, 2],
    }
    assert {name: sharding.digest[:8] for name, sharding in found.items()} == {
        "balanced": "f56884fc",
        "contiguous": "889b921e",
        "strided": "5c1d7ca4",
        "consecutive": "bccd59ed",
    }


def test_nobody_changes_what_was_dealt_out():
    sharding = Sharding(np.ones(4, np.float32), 2)
    with pytest.raises(ValueError, match="read-only"):
        sharding.chunk_of[0] = 1


@pytest.mark.parametrize(
    ("num_chunks", "strategy", "message"),
    [
        (0, "balanced", "--num-chunks 0: must be at least 1"),
        (-3, "strided", "--num-chunks -3: must be at least 1"),
        (2, "random", "--strategy random: must be one of balanced, contiguous, strided, con"),
    ],
)
def test_what_cannot_be_dealt_out_is_a_usage_error(num_chunks, strategy, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Sharding(np.ones(4, np.float32), num_chunks, strategy)


# Names of the chunks' files


@given(st.integers(0, 2_000_000), st.integers(1, 2_000_000))
def test_a_chunk_is_found_by_its_name(chunk_id, num_chunks):
    path = chunk_path(Path("run/out.v2.jsonl"), chunk_id, num_chunks)
    assert path.parent == Path("run") and path.name == f"out.v2.chunk-{chunk_id:05}-of-{num_chunks:05}.jsonl"
    with pytest.raises(UsageError, match=r"is the name of one chunk's file; give the run's own, out\.v2\.jsonl"):
        check_output(path)


def test_find_chunks(tmp_path):
    output = tmp_path / "a.b.jsonl"
    assert find_chunks(output) == {}
    for name in (
        "a.b.chunk-00002-of-00003.jsonl",
        "a.b.chunk-00002-of-00003.run.json",
        "a.b.chunk-00000-of-00003.done.json",
        "a.b.chunk-00001-of-00016.run.json",
        "a.b.chunk-123456-of-200000.jsonl",
    ):
        (tmp_path / name).touch()
    for other in (
        "a.b.jsonl",
        "a.b.chunk-00001-of-00003.lease",  # a process that has not begun, or has ended, leaves no chunk
        "a.b.chunk-00001-of-00003.log",
        ".a.b.chunk-00001-of-00003.jsonl.tmp-77",
        "a.chunk-00001-of-00003.jsonl",  # the chunk of another run, a.jsonl
        "x.a.b.chunk-00001-of-00003.jsonl",
        "a.b.chunk-1-of-3.jsonl",
        "a.b.chunk-00001-of-00003.jsonl.bak",
        "a.b.c.chunk-00001-of-00003.jsonl",
    ):
        (tmp_path / other).touch()
    found = find_chunks(output)
    assert {n: list(chunks) for n, chunks in found.items()} == {3: [0, 2], 16: [1], 200000: [123456]}
    assert found[3][2] == RunPaths(chunk_path(output, 2, 3))


def test_find_chunks_where_there_is_no_folder(tmp_path):
    with pytest.raises(OutputError, match="the folder does not exist"):
        find_chunks(tmp_path / "nowhere" / "out.jsonl")


@pytest.mark.parametrize("name", ["out", "out.json", "out.jsonl.gz", ".", "jsonl"])
def test_an_output_must_end_in_jsonl(name):
    with pytest.raises(UsageError, match="must end in .jsonl"):
        check_output(Path(name))


def test_an_output_may_be_called_anything_else():
    for name in ("out.jsonl", "a/b.c.jsonl", "chunk-00001-of-00003.jsonl", "out.chunk-1-of-3.jsonl"):
        assert check_output(Path(name)) == Path(name)
