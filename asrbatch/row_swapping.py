"""How often chance alone would make two systems differ by as much as they do: the p-value of swapping them, row by row.

Without a difference between the systems, either could have made either text of a row. So each row's difference in errors is as
likely with the other sign, and a difference over all rows is judged among those of all ways to choose the signs (Fisher's
randomisation of pairs; in speech recognition, Gillick and Cox, ICASSP 1989, and Bisani and Ney, ICASSP 2004, ask the same). Rows
without a difference say nothing. Knows nothing of texts and files.
"""

from collections.abc import Mapping

import numpy as np

from .row_seeds import generator_of

# Below this, rounding in the transform is as large as the value.
LEAST_P = 1e-12
_MOST_CELLS = 20_000_000  # different differences times their sum: half a second
_MOST_SUMS = 4_000_000  # of 16 bytes each, three times over


def p_value_of_swapping(
    differences: Mapping[int, int], resamples: int, seed: int, most_cells: int = _MOST_CELLS
) -> tuple[float, bool]:
    """The two-sided p-value of the sum of differences.

    Args:
        differences: how many rows had this difference in errors.
        resamples, seed: of signs drawn at random, where there are too many sums to know how often each comes.
        most_cells: work that is done to know it exactly.

    Returns:
        The p-value; and whether it is exact (no less than `LEAST_P`) or of draws (no less than 1 / (resamples + 1)).
    """
    observed = abs(sum(difference * rows for difference, rows in differences.items()))
    rows_by_size: dict[int, int] = {}
    for difference, rows in differences.items():
        if difference:
            rows_by_size[abs(difference)] = rows_by_size.get(abs(difference), 0) + rows
    if not observed:
        return 1.0, True
    sizes = np.array(sorted(rows_by_size), np.int64)
    rows = np.array([rows_by_size[size] for size in sizes.tolist()], np.int64)
    largest = int(sizes @ rows)
    if largest >= _MOST_SUMS or (largest + 1) * len(sizes) > most_cells:
        generator = generator_of(seed, sizes, rows)
        sums = np.zeros(resamples, np.int64)
        for size, number in zip(sizes.tolist(), rows.tolist(), strict=True):
            sums += size * (2 * generator.binomial(number, 0.5, resamples) - number)
        return float((1 + np.count_nonzero(np.abs(sums) >= observed)) / (resamples + 1)), False
    # Where the sum is at least the observed one, differences of at least half of both together have kept their sign.
    chances = _chances_of_sums(sizes, rows, largest)
    return min(1.0, max(round(2 * float(chances[(largest + observed) // 2 :].sum()), 14), LEAST_P)), True


def _chances_of_sums(sizes: np.ndarray, rows: np.ndarray, largest: int) -> np.ndarray:
    """float64 [largest + 1]: how likely each sum is of a half of all differences, drawn by tossing a coin for each.

    From their characteristic function: that of a sum is the product of its parts'. Angles are taken from whole numbers, so that
    large ones are as exact as small ones.
    """
    places = largest + 1
    at = np.arange(places // 2 + 1, dtype=np.int64)
    product = np.exp(-1j * np.pi / places * (at * largest % (2 * places)))
    for size, number in zip(sizes.tolist(), rows.tolist(), strict=True):
        product *= np.cos(np.pi / places * (at * size % (2 * places))) ** number
    return np.fft.irfft(product, places)
