"""Which rows of a manifest belong to which chunk: a pure function of the manifest, the number of chunks and the
strategy.

Every process of a run computes the same answer from the same manifest, so that nothing has to be exchanged. Knows
nothing of files, models or devices.
"""

import hashlib
import heapq
from functools import cached_property

import numpy as np

from asrbatch.config import STRATEGIES
from asrbatch.errors import UsageError

_BLOCK_ROWS = 65536

_MOST_COST_MS = 10**9  # of a row, 11 days: sums of them stay far inside int64


class Sharding:
    """The rows of a manifest dealt out to chunks; every row is in exactly one.

    Args:
        durations_s: float [rows], seconds; NaN where the manifest does not say.
        num_chunks: at least 1; more chunks than rows leave some empty.
        strategy: one of `config.STRATEGIES`.
        in_groups: audio is read in groups of neighbouring rows (Parquet).

    Attributes:
        strategy: the one in effect: `balanced` is `consecutive` where audio is read in groups, so that a chunk reads as
            little as it can of what others transcribe, otherwise `strided` where no row states its duration. Dealt out
            again under that name, the result is the same.
        num_without_duration: rows that `balanced` had to deal out in turn; 0 for the others.
        chunk_of: int32 [rows], the chunk of every row. Read-only.

    Raises:
        UsageError: an unknown strategy, or no chunks.
    """

    def __init__(
        self, durations_s: np.ndarray, num_chunks: int, strategy: str = "balanced", *, in_groups: bool = False
    ):
        if strategy not in STRATEGIES:
            raise UsageError(f"--strategy {strategy}: must be one of {', '.join(STRATEGIES)}")
        if num_chunks < 1:
            raise UsageError(f"--num-chunks {num_chunks}: must be at least 1")
        self.num_chunks = num_chunks
        # Row groups dealt out row by row would be read whole by every chunk: N times the audio.
        if strategy == "balanced" and in_groups:
            strategy = "consecutive"
        absent = int(np.isnan(durations_s).sum()) if strategy == "balanced" else 0
        self.num_without_duration = absent
        self.strategy = "strided" if strategy == "balanced" and absent == len(durations_s) else strategy
        self.chunk_of: np.ndarray = _DEAL[self.strategy](durations_s, num_chunks)
        self.chunk_of.flags.writeable = False

    def rows(self, chunk_id: int) -> np.ndarray:
        """int64, ascending: the rows of one chunk."""
        return np.flatnonzero(self.chunk_of == chunk_id)

    @cached_property
    def num_rows(self) -> np.ndarray:
        """int64 [chunks]: rows of each chunk."""
        return np.bincount(self.chunk_of, minlength=self.num_chunks)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over `chunk_of` as little-endian int32: part of a run's fingerprint, so that no change here goes
        unseen.
        """
        return hashlib.sha256(self.chunk_of.astype("<i4", copy=False).tobytes()).hexdigest()


def _balanced(durations_s: np.ndarray, num_chunks: int) -> np.ndarray:
    """Longest first, each onto the chunk that is lightest so far (Graham's LPT rule, 1969); rows of equal length in
    manifest order, chunks of equal load by number.

    The predicted cost of a row is its duration, in whole milliseconds: sums of integers are the same on every machine.
    Rows without a duration are dealt out in turn.
    """
    # Graham: the longest chunk is at most 4/3 of the best that is possible; with many short rows within 1 %.
    chunk_of = np.empty(len(durations_s), np.int32)
    unstated = np.isnan(durations_s)
    chunk_of[unstated] = np.arange(np.count_nonzero(unstated)) % num_chunks
    stated = np.flatnonzero(~unstated)
    costs_ms = np.rint(durations_s[stated].astype(np.float64) * 1000).astype(np.int64)
    order = np.argsort(-costs_ms, kind="stable")
    lightest = [(0, chunk) for chunk in range(num_chunks)]
    for start in range(0, len(order), _BLOCK_ROWS):  # Python's own numbers take ten times the memory of an array's
        places = order[start : start + _BLOCK_ROWS]
        chosen = []
        for cost_ms in costs_ms[places].tolist():
            load_ms, chunk = lightest[0]
            chosen.append(chunk)
            heapq.heapreplace(lightest, (load_ms + cost_ms, chunk))
        chunk_of[stated[places]] = chosen
    return chunk_of


def _contiguous(durations_s: np.ndarray, num_chunks: int) -> np.ndarray:
    """NeMo Skills' rule: consecutive rows; the first `rows % num_chunks` chunks get one more."""
    least, more = divmod(len(durations_s), num_chunks)
    sizes = np.full(num_chunks, least)
    sizes[:more] += 1
    return np.repeat(np.arange(num_chunks, dtype=np.int32), sizes)


def _strided(durations_s: np.ndarray, num_chunks: int) -> np.ndarray:
    """Row i goes to chunk i mod N."""
    return (np.arange(len(durations_s)) % num_chunks).astype(np.int32)


def _consecutive(durations_s: np.ndarray, num_chunks: int) -> np.ndarray:
    """Consecutive rows of equal audio: a row goes to the chunk that its middle falls into.

    Rows that do not say count as the mean. A chunk is off the mean of all chunks by less than the longest row. In whole
    milliseconds, as `_balanced`.
    """
    costs_ms = np.full(len(durations_s), 1, np.int64)
    stated = ~np.isnan(durations_s)
    if stated.any():
        # A row of 0 ms would let thousands of rows fall into one chunk.
        costs_ms[stated] = np.clip(np.rint(durations_s[stated].astype(np.float64) * 1000), 1, _MOST_COST_MS)
        costs_ms[~stated] = int(costs_ms[stated].sum()) // int(np.count_nonzero(stated))
    ends_ms = np.cumsum(costs_ms)
    total_ms = int(ends_ms[-1]) if len(ends_ms) else 0
    # Python integers, rounded up: the product may leave int64, and a float would round it.
    bounds = np.array([-(-2 * total_ms * chunk // num_chunks) for chunk in range(1, num_chunks)], np.int64)
    return np.searchsorted(bounds, 2 * ends_ms - costs_ms, side="right").astype(np.int32)


_DEAL = {"balanced": _balanced, "contiguous": _contiguous, "strided": _strided, "consecutive": _consecutive}
