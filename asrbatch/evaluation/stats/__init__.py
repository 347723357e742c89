"""Counts that add up, and what follows from them: rates, intervals, p-values. Knows nothing of files.

Begin with `sums.py`, then `error_rates.py`. May import `evaluation`, `pipeline` (names of fields) and the root
modules."""
