"""Counts that add up, and what follows from them: rates, intervals, p-values. Knows nothing of files."""
