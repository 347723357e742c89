"""Dynamic time warping: which frames of a window belong to which token, for many windows at once.

The path of least cost through a matrix of tokens and frames goes from the first frame of the first token to the last of
the last, by one frame, one token, or both at a time (Sakoe and Chiba 1978). Only where each token begins is wanted. So
a whole row is settled at once: on a path that enters token i at frame k and stays until frame j, that row costs
C[j] - C[k-1], C its running sum, and the best k is found by a running minimum. That makes one step of numpy's for each
token, over all frames and windows, and as many on the way back. Knows nothing of what the costs mean.
"""

from collections.abc import Sequence

import numpy as np


def first_frames(costs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The frame at which each token begins.

    Args:
        costs: for each window a float matrix [tokens, frames], neither of them 0.

    Returns:
        For each window int64 [tokens], ascending, the first 0. Of paths that cost the same, the one that enters each
        token earliest.
    """
    if not costs:
        return []
    # Padding is below and to the right of what counts, where no path comes from.
    padded = np.zeros((max(len(c) for c in costs), len(costs), max(c.shape[1] for c in costs)))
    for n, matrix in enumerate(costs):
        padded[: matrix.shape[0], n, : matrix.shape[1]] = matrix
    entries, is_diagonal = _entries(padded)
    num_tokens = np.array([len(matrix) for matrix in costs])
    frame = np.array([matrix.shape[1] - 1 for matrix in costs])
    begins = np.zeros((len(padded), len(costs)), np.int64)
    every = np.arange(len(costs))
    for token in range(len(padded) - 1, 0, -1):
        is_there = token < num_tokens
        begins[token] = np.where(is_there, entries[token, every, frame], 0)
        before = begins[token] - is_diagonal[token, every, begins[token]]
        frame = np.where(is_there, before, frame)
    return [begins[:count, n] for n, count in enumerate(num_tokens)]


def _entries(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the best path to each cell came into its token.

    Args:
        costs: float64 [tokens, windows, frames].

    Returns:
        int32 and bool of the same shape: the frame at which the path to a cell entered the cell's token; and whether a
        path that enters a token at a frame comes from the frame before.
    """
    entries, is_diagonal = np.zeros(costs.shape, np.int32), np.zeros(costs.shape, bool)
    frames = np.arange(costs.shape[2], dtype=np.int32)
    total = np.cumsum(costs[0], axis=1)
    for token in range(1, len(costs)):
        running = np.cumsum(costs[token], axis=1)
        entering = total.copy()
        is_diagonal[token, :, 1:] = total[:, :-1] <= total[:, 1:]
        np.minimum(total[:, 1:], total[:, :-1], out=entering[:, 1:])
        entering[:, 1:] -= running[:, :-1]
        best = np.minimum.accumulate(entering, axis=1)
        # A new minimum is entered at its own frame, any other cell where the last one was.
        is_new = np.ones(best.shape, bool)
        np.less(best[:, 1:], best[:, :-1], out=is_new[:, 1:])
        np.maximum.accumulate(np.where(is_new, frames, 0), axis=1, out=entries[token])
        total = best + running
    return entries, is_diagonal
