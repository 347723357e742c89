"""Rows in: what a manifest is, whatever holds it; checks, ids, chunks; surveying, making, validating manifests; stdin.

Begin with `manifest.py`, then `scan.py` (one pass over all rows) and `readers/` (one file for each format); a new
format is a reader and a line in `formats.py`. May import `audio`, `storage` and the root modules."""
