"""Is a difference chance? Bootstrap intervals by utterance, and the p-value of swapping two systems row by row.

Bootstrap: utterances are drawn with replacement, as many as there are (Bisani and Ney, ICASSP 2004). The rate of a draw
is its errors divided by its units of reference. The same seed and outcomes give the same interval, in whatever order
they came, and whatever the group of them is called; other rows draw other numbers.

p-value: without a difference between the systems, either could have made either text of a row. So each row's
difference in errors is as likely with the other sign, and a difference over all rows is judged among those of signs
drawn at random (Fisher's randomisation of pairs; in speech recognition, Gillick and Cox, ICASSP 1989, and Bisani and
Ney, ICASSP 2004, ask the same). Rows without a difference say nothing. Knows nothing of texts and files.
"""

import math
import zlib
from collections import Counter
from collections.abc import Mapping

import numpy as np

_BLOCK_CELLS = 4_000_000  # of 8 bytes each
# One number of a multinomial takes about as long as drawing this many utterances (measured, numpy 2, 100,000 outcomes).
_DRAWS_PER_OUTCOME = 16
COVERAGE = 0.95
SIGNIFICANT_BELOW = 0.05  # a p-value
# Of fewer, what was drawn is too like what there is: such intervals hold the true rate far less often than they say.
LEAST_UTTERANCES = 10


def generator_of(seed: int, *numbers: np.ndarray) -> np.random.Generator:
    """The generator for these whole numbers, int64 of any shapes."""
    key = 0
    for each in numbers:
        # Of one width and byte order, so that the same numbers give the same draws on every machine.
        key = zlib.crc32(np.ascontiguousarray(each, "<i8").tobytes(), key)
    return np.random.default_rng([seed, key])


def resampled_rates(outcomes: Mapping[tuple[int, ...], int], resamples: int, seed: int, kinds: int = 1) -> np.ndarray:
    """Error rates of drawn sets of utterances.

    Args:
        outcomes: how many utterances had these numbers: errors (one, or several that share a reference, such as those
            of two systems), then units of reference.
        resamples: how many sets to draw.
        seed: of the random numbers.
        kinds: of errors in each outcome.

    Returns:
        float64 [kinds of errors, resamples], fractions; NaN where a draw has no reference, and for fewer than
        `LEAST_UTTERANCES`.
    """
    keys = sorted(outcomes)
    counts = np.array([outcomes[key] for key in keys], np.int64)
    if counts.sum() < LEAST_UTTERANCES:
        return np.full((kinds, resamples), math.nan)
    numbers = np.array(keys, np.float64)
    generator = generator_of(seed, np.array(keys, np.int64), counts)
    rates = np.empty((kinds, resamples))
    block = max(1, _BLOCK_CELLS // len(keys))
    for start in range(0, resamples, block):
        drawn = _draw(generator, counts, min(block, resamples - start))
        sums = (drawn @ numbers).T
        with np.errstate(divide="ignore", invalid="ignore"):
            rates[:, start : start + len(drawn)] = np.where(sums[-1] > 0, sums[:-1] / sums[-1], math.nan)
    return rates


def _draw(generator: np.random.Generator, counts: np.ndarray, size: int) -> np.ndarray:
    """Numbers [size, outcomes]: how often each outcome came when as many utterances were drawn as there are."""
    total = int(counts.sum())
    # Utterances with the same numbers are one outcome, and a draw is a multinomial: the same distribution as drawing
    # utterances one by one, but memory and time follow the outcomes. Where nearly every utterance is an outcome of its
    # own, one by one is faster.
    if total >= _DRAWS_PER_OUTCOME * len(counts):
        return generator.multinomial(total, counts / total, size=size)
    outcome_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    drawn = np.empty((size, len(counts)), np.float64)
    for row in drawn:
        utterances = generator.integers(total, size=total, dtype=np.uint32)
        row[:] = np.bincount(outcome_of[utterances], minlength=len(counts))
    return drawn


def interval(values: np.ndarray, coverage: float = COVERAGE) -> tuple[float, float] | None:
    """The percentile interval of drawn values, float64 [resamples].

    None where there are none, and where all are the same: utterances that do not differ say nothing of how others
    would."""
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return None
    tail = (1 - coverage) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def least_p_value(rows: int) -> float:
    """The least p-value that so many rows with a difference can have: that of one sign in all of them."""
    return min(1.0, 2.0 ** (1 - rows))


def permutation_test(differences: Mapping[int, int], resamples: int, seed: int) -> float:
    """The two-sided p-value of the sum of differences, no less than 1 / (resamples + 1).

    Args:
        differences: how many rows had this difference in errors.
        resamples, seed: of the signs drawn.
    """
    observed = abs(sum(difference * rows for difference, rows in differences.items()))
    by_size: Counter = Counter()
    for difference, rows in differences.items():
        by_size[abs(difference)] += rows
    sizes = sorted(by_size.items())
    generator = generator_of(seed, np.array(sizes, np.int64))
    sums = np.zeros(resamples, np.int64)
    for size, rows in sizes:
        # Of rows with one size of difference only the number that change sign matters: time follows the sizes, not the
        # rows.
        sums += size * (2 * generator.binomial(rows, 0.5, resamples) - rows)
    # What was observed is one of the ways to swap, so that p is never 0.
    return float((1 + np.count_nonzero(np.abs(sums) >= observed)) / (resamples + 1))
