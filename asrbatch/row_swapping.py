"""How often chance alone would make two systems differ by as much as they do: the p-value of swapping them, row by row.

Without a difference between the systems, either could have made either text of a row. So each row's difference in errors is as
likely with the other sign, and a difference over all rows is judged among those of signs drawn at random (Fisher's
randomisation of pairs; in speech recognition, Gillick and Cox, ICASSP 1989, and Bisani and Ney, ICASSP 2004, ask the same). Rows
without a difference say nothing. Knows nothing of texts and files.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from .row_seeds import generator_of


def p_value_of_swapping(differences: Mapping[int, int], resamples: int, seed: int) -> float:
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
