"""How far a rate would move had other utterances been drawn: bootstrap intervals, by utterance.

Utterances are drawn with replacement, as many as there are (Bisani and Ney, ICASSP 2004). The rate of a draw is its
errors divided by its units of reference. Utterances with the same numbers are one outcome, and a draw says how often
each outcome came (a multinomial): the same distribution as drawing them one by one, but memory and time follow the
number of different outcomes, not the number of utterances. Where nearly every utterance is an outcome of its own,
drawing them one by one is faster, and is what is done. The same seed and outcomes give the same interval, in whatever
order they came, and whatever the group of them is called.

Random numbers that follow from a seed and from the numbers they are drawn for: the same rows in any order, under any
name, draw the same; other rows draw others.

How often chance alone would make two systems differ by as much as they do: the p-value of swapping them, row by row.

Without a difference between the systems, either could have made either text of a row. So each row's difference in
errors is as likely with the other sign, and a difference over all rows is judged among those of signs drawn at random
(Fisher's randomisation of pairs; in speech recognition, Gillick and Cox, ICASSP 1989, and Bisani and Ney, ICASSP 2004,
ask the same). Rows without a difference say nothing. Knows nothing of texts and files."""

import math
import zlib
from collections import Counter
from collections.abc import Mapping

import numpy as np


def generator_of(seed: int, *numbers: np.ndarray) -> np.random.Generator:
    """The generator for these whole numbers, int64 of any shapes."""
    key = 0
    for each in numbers:
        key = zlib.crc32(np.ascontiguousarray(each, "<i8").tobytes(), key)
    return np.random.default_rng([seed, key])


_BLOCK_CELLS = 4_000_000  # of 8 bytes each
# One number of a multinomial takes about as long as drawing this many utterances (measured, numpy 2, 100,000 outcomes).
_DRAWS_PER_OUTCOME = 16
COVERAGE = 0.95
# Of fewer, what was drawn is too like what there is: such intervals hold the true rate far less often than they say.
LEAST_UTTERANCES = 10


def resampled_rates(outcomes: Mapping[tuple[int, ...], int], resamples: int, seed: int, kinds: int = 1) -> np.ndarray:
    """Error rates of drawn sets of utterances.

    Args: outcomes: how many utterances had these numbers: errors (one, or several that share a reference, such as those
        of two
            systems), then units of reference.
        resamples: how many sets to draw.
        seed: of the random numbers.
        kinds: of errors in each outcome.

    Returns:
        float64 [kinds of errors, resamples], fractions; NaN where a draw has no reference, and for fewer than
        `LEAST_UTTERANCES`.
    """
    keys = sorted(outcomes)
    counts = np.array([outcomes[key] for key in keys], np.int64)
    total = int(counts.sum())
    if total < LEAST_UTTERANCES:
        return np.full((kinds, resamples), math.nan)
    numbers = np.array(keys, np.float64)
    generator = generator_of(seed, np.array(keys, np.int64), counts)
    rates = np.empty((kinds, resamples))
    block = max(1, _BLOCK_CELLS // len(keys))
    one_by_one = total < _DRAWS_PER_OUTCOME * len(keys)
    outcome_of = np.repeat(np.arange(len(keys), dtype=np.int32), counts) if one_by_one else None
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if outcome_of is None:
            drawn = generator.multinomial(total, counts / total, size=size)
        else:
            drawn = np.empty((size, len(keys)), np.float64)
            for row in drawn:
                row[:] = np.bincount(
                    outcome_of[generator.integers(total, size=total, dtype=np.uint32)], minlength=len(keys)
                )
        sums = (drawn @ numbers).T
        with np.errstate(divide="ignore", invalid="ignore"):
            rates[:, start : start + drawn.shape[0]] = np.where(sums[-1] > 0, sums[:-1] / sums[-1], math.nan)
    return rates


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
        sums += size * (2 * generator.binomial(rows, 0.5, resamples) - rows)
    return float((1 + np.count_nonzero(np.abs(sums) >= observed)) / (resamples + 1))
